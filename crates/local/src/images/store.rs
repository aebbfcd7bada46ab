//! The images of a mesh, below its data directory: layers by what they unpack to, images by their names.
//!
//! ```text
//! images/            root's, as everything that pods are shown
//!   layers/DIGEST/   one layer as overlayfs takes it
//!   names/DIGEST     one image under one name: a JSON document, named by the SHA-256 of the name
//!   staging/         what is being made; emptied by whoever writes next
//!   lock             held by the one who writes
//! ```
//! What is in `layers` and `names` is whole: it is made in `staging`, written out, and then renamed. Layers that no image
//! has any more are removed, except those that a container runs on: its parent holds a lock on each.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use linux::within::{Within, open_beneath};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, Measured};
use super::layer::{self, Budget, mismatch};
use super::layout::{Found, Part};
use super::manifest;
use super::reference::Reference;
use crate::Error;

const LAYERS: &str = "layers";
const NAMES: &str = "names";
const STAGING: &str = "staging";

/// The longest document of an image here: its configuration is a part of what it was read from.
const RECORD_BYTES_MAX: u64 = manifest::DOCUMENT_BYTES_MAX;

/// The images of one mesh.
#[derive(Debug, Clone)]
pub struct Store {
    data_dir: PathBuf,
}

/// An image that is here, under one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its name in full.
    pub name: String,
    /// Digest of its configuration: two names of one image have the same.
    pub id: Digest,
    /// By which digests a reference may name it.
    pub digests: Vec<Digest>,
    /// Its layers, the lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it came here, as in RFC 3339.
    pub since: String,
    /// What runs unless the pod says otherwise.
    pub defaults: Defaults,
}

/// What an image says of how it is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments.
    pub command: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Where the program starts.
    pub directory: String,
    /// `USER[:GROUP]`, by names or numbers.
    pub user: String,
    /// What asks it to end, as `SIGQUIT` or `3`.
    pub stop_signal: Option<String>,
}

/// The one who changes what is here.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    _lock: File,
}

impl Store {
    /// That of the mesh with this data directory.
    pub fn of(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    /// The name of its directory in the data directory.
    pub const DIRECTORY: &'static str = "images";

    fn path(&self, name: &str) -> PathBuf {
        self.data_dir.join(Self::DIRECTORY).join(name)
    }

    /// Where a layer is.
    pub fn layer(&self, digest: &Digest) -> PathBuf {
        self.path(LAYERS).join(digest.letters())
    }

    /// The image that a reference names.
    pub fn find(&self, reference: &Reference) -> Result<Option<Stored>, Error> {
        let Some(wanted) = reference.digest() else {
            let Some(folder) = own_folder(&self.path(NAMES))? else { return Ok(None) };
            return self.read(&folder, &file_of(&reference.to_string()));
        };
        let repository = reference.without_version();
        let is_it = |one: &Stored| {
            let named = Reference::parse(&one.name);
            named.is_ok_and(|name| name.without_version() == repository) && one.digests.contains(wanted)
        };
        Ok(self.list()?.into_iter().find(is_it))
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut found = Vec::new();
        let Some(folder) = own_folder(&self.path(NAMES))? else { return Ok(found) };
        for name in self.files(NAMES)? {
            found.extend(self.read(&folder, &name)?);
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    fn read(&self, folder: &OwnedFd, file: &str) -> Result<Option<Stored>, Error> {
        let failed = |source| Error::File { doing: "read", path: self.path(NAMES).join(file), source };
        let opened = match open_beneath(folder, Path::new(file), OFlags::RDONLY) {
            Ok(opened) => File::from(opened),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        };
        let mut text = Vec::new();
        opened.take(RECORD_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.into()))
    }

    /// Names of what is in one of its folders.
    fn files(&self, folder: &str) -> Result<Vec<String>, Error> {
        let path = self.path(folder);
        let Some(folder) = own_folder(&path)? else { return Ok(Vec::new()) };
        let failed = |errno: Errno| Error::File { doing: "list", path: path.clone(), source: errno.into() };
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Names of ours are digests; a file that is half written is none.
            found.extend(entry.file_name().to_str().ok().filter(|name| name.len() == 64).map(str::to_owned));
        }
        Ok(found)
    }

    /// A file that has no name and goes with its handle, on the disk of the images.
    pub(super) fn nameless(&self) -> Result<File, Error> {
        let below = Path::new(Self::DIRECTORY);
        let folder = linux::files::make_directories(&self.data_dir, below, Mode::RWXU, false);
        let folder = crate::error::doing("keep images", folder)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, c".", flags, Mode::RUSR | Mode::WUSR);
        let failed = |errno: Errno| Error::File { doing: "make a file in", path: self.path(""), source: errno.into() };
        file.map(File::from).map_err(failed)
    }

    /// Begins to change what is here, after whoever does so already.
    pub fn write(&self) -> Result<Writer, Error> {
        for name in [LAYERS, NAMES, STAGING] {
            let below = Path::new(Self::DIRECTORY).join(name);
            let made = linux::files::make_directories(&self.data_dir, &below, Mode::RWXU, false);
            crate::error::doing("keep images", made)?;
        }
        let path = self.path("lock");
        let lock = linux::files::open_to_write(&path, OFlags::empty(), Mode::RUSR | Mode::WUSR);
        let lock = crate::error::doing("keep images", lock)?;
        let locked = rustix::fs::flock(&lock, FlockOperation::LockExclusive);
        locked.map_err(|errno| Error::File { doing: "lock", path, source: errno.into() })?;
        let writer = Writer { store: self.clone(), _lock: lock };
        writer.clear()?;
        Ok(writer)
    }
}

impl Writer {
    /// A directory for what is being made. Nobody else's, and emptied by the next who writes.
    pub fn staging(&self) -> PathBuf {
        self.store.path(STAGING)
    }

    /// What an image that is made here may take.
    pub(super) fn budget(&self) -> Result<Budget, Error> {
        let path = self.staging();
        let failed = |source| Error::File { doing: "look at", path: path.clone(), source };
        let open = own_folder(&path)?.ok_or_else(|| failed(Errno::NOENT.into()))?;
        Budget::on(&open).map_err(failed)
    }

    /// Adds an image: unpacks the layers that are not here, and then names it. `open` gives the packed layers.
    pub(super) fn add<'a>(
        &self,
        found: &Found,
        budget: &mut Budget,
        open: impl Fn(&Part) -> Result<Box<dyn Read + 'a>, String>,
    ) -> Result<Added, Error> {
        let shown = found.names.first().map_or_else(|| "an image without a name".to_owned(), ToString::to_string);
        let refused = |why: String| Error::Image { what: shown.clone(), why };
        let config = manifest::config(&found.config, found.layers.len()).map_err(refused)?;
        let mut added = Added { images: Vec::new(), fresh: 0, devices: 0, foreign: 0 };
        let mut fresh = Vec::new();
        for (part, diff_id) in found.layers.iter().zip(&config.rootfs.diff_ids) {
            if layer_folder(&self.store.layer(diff_id))?.is_some() || fresh.iter().any(|(other, _)| *other == diff_id) {
                continue;
            }
            let path = self.staging().join(diff_id.letters());
            let unpacked = self.unpack(part, diff_id, &path, budget, &open);
            let unpacked = unpacked.map_err(|why| Error::Image { what: shown.clone(), why })?;
            added.devices += unpacked.devices;
            added.foreign += unpacked.foreign;
            let size = unpacked.bytes.to_string();
            write_whole(&self.staging(), &path.with_extension("bytes"), size.as_bytes())?;
            fresh.push((diff_id, path));
        }
        added.fresh = fresh.len();
        self.write_out()?;
        for (diff_id, path) in fresh {
            let to = self.store.layer(diff_id);
            rename(&path.with_extension("bytes"), &to.with_extension("bytes"))?;
            rename(&path, &to)?;
        }
        let layers = config.rootfs.diff_ids.clone();
        let stored = Stored {
            name: String::new(),
            id: Digest::of(&found.config),
            digests: found.digests.clone(),
            bytes: layers.iter().collect::<BTreeSet<_>>().into_iter().map(|layer| self.size(layer)).sum(),
            layers,
            since: api::time::seconds(jiff::Timestamp::now()),
            defaults: defaults(config.defaults.unwrap_or_default()),
        };
        for name in &found.names {
            let named = Stored { name: name.to_string(), ..stored.clone() };
            let text = serde_json::to_vec(&named).map_err(|error| refused(error.to_string()))?;
            write_whole(&self.staging(), &self.store.path(NAMES).join(file_of(&named.name)), &text)?;
            added.images.push(named);
        }
        self.write_out()?;
        Ok(added)
    }

    fn unpack<'a>(
        &self,
        part: &Part,
        diff_id: &Digest,
        path: &Path,
        budget: &mut Budget,
        open: impl Fn(&Part) -> Result<Box<dyn Read + 'a>, String>,
    ) -> Result<layer::Unpacked, String> {
        let failed = |error: &dyn std::error::Error| linux::error::with_causes(error);
        let name = Path::new(Store::DIRECTORY).join(STAGING).join(diff_id.letters());
        let mode = Mode::from_raw_mode(0o755);
        let folder = linux::files::make_directories(&self.store.data_dir, &name, mode, false);
        let folder = folder.map_err(|error| failed(&error))?;
        let most = part.promised.as_ref().map_or(u64::MAX, |(_, size)| *size);
        let mut packed = Measured::new(open(part)?, most, "a layer is longer than its manifest says");
        let unpacked = layer::unpack(&mut packed, diff_id, Within::of(folder, path), budget)?;
        let (length, digest) = packed.total();
        match &part.promised {
            Some((promised, _)) if *promised != digest => Err(mismatch("a layer", promised, &digest)),
            Some((_, size)) if *size != length => {
                Err(format!("a layer has {length} bytes and its manifest says {size}"))
            }
            _ => Ok(unpacked),
        }
    }

    /// Bytes of the files of a layer.
    fn size(&self, layer: &Digest) -> u64 {
        let path = self.store.layer(layer).with_extension("bytes");
        // What is not known is not told: the layer is whole without it.
        std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Takes a name away; `false` if there is no image of that name.
    pub fn forget(&self, reference: &Reference) -> Result<bool, Error> {
        let Some(found) = self.store.find(reference)? else { return Ok(false) };
        let path = self.store.path(NAMES).join(file_of(&found.name));
        std::fs::remove_file(&path).map_err(|source| Error::File { doing: "remove", path, source })?;
        Ok(true)
    }

    /// Removes the layers that no image has, except those that a container runs on; how many.
    pub fn sweep(&self) -> Result<usize, Error> {
        let used: BTreeSet<Digest> = self.store.list()?.into_iter().flat_map(|image| image.layers).collect();
        let mut removed = 0;
        for name in self.store.files(LAYERS)? {
            let Some(digest) = Digest::parse(&format!("sha256:{name}")).filter(|digest| !used.contains(digest)) else {
                continue;
            };
            let path = self.store.layer(&digest);
            let Some(folder) = layer_folder(&path)? else { continue };
            if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            rename(&path, &self.staging().join(&name))?;
            drop(std::fs::remove_file(path.with_extension("bytes")));
            removed += 1;
        }
        self.clear()?;
        Ok(removed)
    }

    /// Empties the staging directory.
    fn clear(&self) -> Result<(), Error> {
        let path = self.staging();
        let failed = |source| Error::File { doing: "empty", path: path.clone(), source };
        for entry in std::fs::read_dir(&path).map_err(failed)?.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed =
                if is_folder { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
            removed.map_err(failed)?;
        }
        Ok(())
    }

    /// Returns when all that was made is on the disk: a name must not outlive what it names.
    fn write_out(&self) -> Result<(), Error> {
        let path = self.staging();
        let failed = |source| Error::File { doing: "write out", path: path.clone(), source };
        let open = own_folder(&path)?.ok_or_else(|| failed(Errno::NOENT.into()))?;
        rustix::fs::syncfs(&open).map_err(|errno| failed(errno.into()))
    }
}

/// What came with an image.
#[derive(Debug, Clone)]
pub struct Added {
    /// The image, once for each of its names.
    pub images: Vec<Stored>,
    /// How many layers were not here before.
    pub fresh: usize,
    /// Devices that were left out of these.
    pub devices: u64,
    /// Files of these that belong to users who are not there without root, and are user 0's.
    pub foreign: u64,
}

/// Keeps a layer from being removed for as long as the handle is held, which is the layer's directory.
pub(crate) fn hold(layer: &Path) -> Result<OwnedFd, Error> {
    let gone = || Error::Image {
        what: layer.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        why: "this layer was removed; import or pull its image again".to_owned(),
    };
    let folder = layer_folder(layer)?.ok_or_else(gone)?;
    let locked = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockShared);
    let identity = |folder: &OwnedFd| rustix::fs::fstat(folder).map(|found| (found.st_dev, found.st_ino)).ok();
    // Between the two it may have been removed, or be on its way out.
    let still = layer_folder(layer)?.is_some_and(|now| identity(&now) == identity(&folder));
    if locked.is_ok() && still { Ok(folder) } else { Err(gone()) }
}

/// Opens a layer, whose owner is the image's business, in a folder that nobody but the caller can change; none if it is
/// not there.
fn layer_folder(path: &Path) -> Result<Option<OwnedFd>, Error> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let Some(above) = own_folder(above)? else { return Ok(None) };
    match open_beneath(&above, Path::new(name), OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::File { doing: "open", path: path.to_owned(), source: errno.into() }),
    }
}

/// Opens a directory that nobody but the caller has made, following no link; none if it is not there.
fn own_folder(path: &Path) -> Result<Option<OwnedFd>, Error> {
    if std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let opened = linux::files::open(path, OFlags::RDONLY | OFlags::DIRECTORY);
    let folder = crate::error::doing("look at images", opened)?;
    let failed = |source| Error::File { doing: "look at", path: path.to_owned(), source };
    let owner = rustix::fs::fstat(&folder).map_err(|errno| failed(errno.into()))?.st_uid;
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(Some(folder));
    }
    Err(failed(std::io::Error::other(format!("it belongs to user {owner}, so somebody else has put it there"))))
}

/// The file of a name.
fn file_of(name: &str) -> String {
    Digest::of(name.as_bytes()).letters().to_owned()
}

fn defaults(of: manifest::Defaults) -> Defaults {
    Defaults {
        entrypoint: of.entrypoint.unwrap_or_default(),
        command: of.cmd.unwrap_or_default(),
        environment: of.env.unwrap_or_default(),
        directory: of.working_dir.unwrap_or_default(),
        user: of.user.unwrap_or_default(),
        stop_signal: of.stop_signal.filter(|signal| !signal.is_empty()),
    }
}

fn write_whole(staging: &Path, path: &Path, text: &[u8]) -> Result<(), Error> {
    let part = staging.join("part");
    let failed = |source| Error::File { doing: "write", path: part.clone(), source };
    let mut file = File::create(&part).map_err(failed)?;
    file.write_all(text).map_err(failed)?;
    rename(&part, path)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(|source| Error::File { doing: "make", path: to.to_owned(), source })
}
