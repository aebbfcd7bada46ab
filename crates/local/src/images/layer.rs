//! One layer from its archive to a directory as overlayfs takes it.
//!
//! The archive is anybody's: names never lead out of the directory (`linux::within`), content is hashed as it is read,
//! and everything has a bound. What hides files of lower layers (`.wh.NAME`, `.wh..wh..opq`) becomes what overlayfs
//! knows for it.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use linux::error::with_causes;
use linux::within::{CopyError, Facts, Within};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::digest::{Digest, Measured};
use super::tar::{Archive, Entry, Kind};

/// Most entries of an image: a distribution with all that people build upon has some hundred thousand.
const ENTRIES_MAX: u64 = 1 << 20;

/// Most bytes that an image unpacks to: images of whole tool chains and models have up to ten GiB.
const BYTES_MAX: u64 = 16 << 30;

/// Free space that unpacking leaves on the file system: what a store, logs and other programs need to go on.
const FREE_BYTES_MIN: u64 = 512 << 20;

/// Content between two looks at the free space.
const LOOK_EVERY_BYTES: u64 = 64 << 20;

/// Names of directories below one another: the deepest trees of real images have some thirty, and removing a tree holds a
/// handle for each.
const DEEP_MAX: usize = 256;

/// The top directory of a layer that says nothing of it.
const TOP: Facts = Facts { mode: 0o755, uid: 0, gid: 0, changed: 0, attributes: Vec::new() };

/// Begins the names that hide what lies below.
const HIDES: &[u8] = b".wh.";
/// Hides all that lies below its directory.
const HIDES_ALL: &[u8] = b".wh..wh..opq";
/// Begins names that a file system of old kept its own notes in.
const NOTES: &[u8] = b".wh..wh.";

/// Extended attributes that are kept: a user's own, and rights of programs (which no container gains). Others would speak
/// to overlayfs itself or to security modules of another machine.
const KEPT: [&[u8]; 2] = [b"user.", b"security.capability"];
/// Among them, what overlayfs would take as said to it.
const NOT_KEPT: &[u8] = b"user.overlay.";

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What one image may still take.
#[derive(Debug)]
pub(super) struct Budget {
    entries: u64,
    bytes: u64,
    looked_at: u64,
    /// The file system that is written to.
    disk: OwnedFd,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) diff_id: Digest,
    pub(super) bytes: u64,
    /// Devices that were left out.
    pub(super) devices: u64,
    /// Files of users that there are not here: they are user 0's.
    pub(super) foreign: u64,
}

impl Budget {
    /// That of one image which is unpacked into the file system of this directory.
    pub(super) fn on(disk: &impl AsFd) -> io::Result<Self> {
        Ok(Self { entries: ENTRIES_MAX, bytes: BYTES_MAX, looked_at: 0, disk: disk.as_fd().try_clone_to_owned()? })
    }

    /// A small one.
    #[cfg(test)]
    pub(super) fn of(entries: u64, bytes: u64) -> Self {
        let disk = std::fs::File::open("/tmp").unwrap().into();
        Self { entries, bytes, looked_at: 0, disk }
    }

    /// Counts what is read through it.
    pub(super) fn charge<'a, R: Read>(&'a mut self, input: &'a mut R) -> Charged<'a, R> {
        Charged { input, budget: self }
    }

    fn entry(&mut self) -> Result<(), String> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| format!("it has more than {ENTRIES_MAX} files"))?;
        // Many small files fill a disk too.
        if self.entries.is_multiple_of(1 << 14) { self.look() } else { Ok(()) }
    }

    fn bytes(&mut self, count: u64) -> Result<(), String> {
        self.bytes =
            self.bytes.checked_sub(count).ok_or_else(|| format!("it unpacks to more than {} GiB", BYTES_MAX >> 30))?;
        self.looked_at = self.looked_at.saturating_add(count);
        if self.looked_at < LOOK_EVERY_BYTES {
            return Ok(());
        }
        self.looked_at = 0;
        self.look()
    }

    fn look(&self) -> Result<(), String> {
        let found =
            rustix::fs::fstatvfs(&self.disk).map_err(|error| format!("the free space cannot be told: {error}"))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free >= FREE_BYTES_MIN {
            return Ok(());
        }
        Err(format!("the disk of the data directory has less than {} MiB left; make room", FREE_BYTES_MIN >> 20))
    }
}

/// Content of a file, counted against the budget.
pub(super) struct Charged<'a, R> {
    input: &'a mut R,
    budget: &'a mut Budget,
}

impl<R: Read> Read for Charged<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(into)?;
        self.budget.bytes(u64::try_from(count).unwrap_or(u64::MAX)).map_err(io::Error::other)?;
        Ok(count)
    }
}

/// Unpacks a layer, packed or not, whose content must have the digest `diff_id`, into an empty directory.
pub(super) fn unpack(
    packed: impl Read,
    diff_id: &Digest,
    mut into: Within,
    budget: &mut Budget,
) -> Result<Unpacked, String> {
    // What a layer does not name is as unpackers have it, whatever the mask of the caller.
    into.make_directory(Path::new(""), &TOP).map_err(|error| with_causes(&error))?;
    // Twice the bytes: headers and what fills blocks, of which a million small files have as much as content.
    let broken = |error: io::Error| with_causes(&error);
    let (_, content) = plain(packed).map_err(broken)?;
    let mut content = Measured::new(content, BYTES_MAX * 2, "a layer unpacks to more than a whole image may");
    let mut archive = Archive::new(&mut content);
    let mut unpacked = Unpacked { diff_id: diff_id.clone(), bytes: 0, devices: 0, foreign: 0 };
    while let Some(entry) = archive.next().map_err(broken)? {
        budget.entry()?;
        put(&entry, &mut archive, &mut into, budget, &mut unpacked)
            .map_err(|why| format!("`{}`: {why}", String::from_utf8_lossy(&entry.name)))?;
    }
    // What comes after the end of the archive belongs to the content by its digest.
    content.drain().map_err(broken)?;
    unpacked.foreign = into.foreign();
    let (_, found) = content.total();
    if found == *diff_id { Ok(unpacked) } else { Err(mismatch("a layer", diff_id, &found)) }
}

/// How content differs from what its name says.
pub(super) fn mismatch(what: &str, wanted: &Digest, found: &Digest) -> String {
    format!("{what} has the digest {found}, and {wanted} was promised: it was damaged or changed on its way")
}

fn put<R: Read>(
    entry: &Entry,
    archive: &mut Archive<R>,
    into: &mut Within,
    budget: &mut Budget,
    unpacked: &mut Unpacked,
) -> Result<(), String> {
    let name = below(&entry.name)?;
    let last = name.file_name().map_or(&[][..], OsStrExt::as_bytes);
    let failed = |error: linux::Error| with_causes(&error);
    let parent = name.parent().unwrap_or_else(|| Path::new(""));
    if last == HIDES_ALL {
        return into.hide_all_below(parent).map_err(failed);
    }
    if last.starts_with(NOTES) {
        return Ok(());
    }
    if let Some(hidden) = last.strip_prefix(HIDES) {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err("it hides no name that a file can have".to_owned());
        }
        return into.hide(&parent.join(OsStr::from_bytes(hidden))).map_err(failed);
    }
    let facts = facts(entry);
    match entry.kind {
        Kind::Directory => into.make_directory(&name, &facts).map_err(failed),
        Kind::File => {
            let mut content = budget.charge(archive);
            let length = into.make_file(&name, &facts, &mut content).map_err(|error| match error {
                CopyError::Read(error) => error.to_string(),
                CopyError::Write(error) => with_causes(&error),
            })?;
            unpacked.bytes = unpacked.bytes.saturating_add(length);
            Ok(())
        }
        Kind::SymbolicLink => into.make_link(&name, &facts, OsStr::from_bytes(&entry.link)).map_err(failed),
        Kind::HardLink => {
            let first = below(&entry.link)?;
            let found = into.make_second_name(&name, &first).map_err(failed)?;
            let of = first.display();
            if found { Ok(()) } else { Err(format!("it is a second name of `{of}`, which is not in the same layer")) }
        }
        Kind::Pipe => into.make_pipe(&name, &facts).map_err(failed),
        Kind::Device => {
            unpacked.devices = unpacked.devices.saturating_add(1);
            Ok(())
        }
    }
}

/// The name as a path below the root of the image: it may begin with `/` or `./`, and has no step up.
fn below(name: &[u8]) -> Result<PathBuf, String> {
    if name.contains(&0) {
        return Err("its name has a zero byte in it".to_owned());
    }
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err("a name with `..` would lead out of the image".to_owned());
            }
        }
    }
    if path.components().count() > DEEP_MAX {
        return Err(format!("it lies more than {DEEP_MAX} directories deep"));
    }
    Ok(path)
}

fn facts(entry: &Entry) -> Facts {
    let kept = |name: &[u8]| KEPT.iter().any(|kept| name.starts_with(kept)) && !name.starts_with(NOT_KEPT);
    // No link and no pipe can have any.
    let has = matches!(entry.kind, Kind::File | Kind::Directory);
    let attributes = entry.attributes.iter().filter(|(name, _)| has && kept(name)).cloned().collect();
    Facts { mode: entry.mode, uid: entry.uid, gid: entry.gid, changed: entry.changed, attributes }
}

/// What is inside, by how it begins: gzip, zstd, or plain; and whether it was packed.
pub(super) fn plain<'a>(packed: impl Read + 'a) -> io::Result<(bool, Box<dyn Read + 'a>)> {
    let mut packed = Headed { head: Vec::new(), rest: packed };
    packed.fill()?;
    Ok(if packed.head.starts_with(&GZIP) {
        (true, Box::new(MultiGzDecoder::new(packed)))
    } else if packed.head.starts_with(&ZSTD) || is_skipped(&packed.head) {
        (true, Box::new(Frames { input: Some(packed), frame: None }))
    } else {
        (false, Box::new(packed))
    })
}

/// Frames of zstd that carry no content: notes of whoever wrote it.
fn is_skipped(begin: &[u8]) -> bool {
    matches!(begin, [kind, 0x2a, 0x4d, 0x18] if kind & 0xf0 == 0x50)
}

/// A stream whose next bytes can be looked at.
struct Headed<R> {
    /// What was looked at and not read yet.
    head: Vec<u8>,
    rest: R,
}

impl<R: Read> Headed<R> {
    /// Has the next bytes looked at, four unless there are less.
    fn fill(&mut self) -> io::Result<()> {
        let wanted = ZSTD.len().saturating_sub(self.head.len());
        let wanted = u64::try_from(wanted).unwrap_or(0);
        (&mut self.rest).take(wanted).read_to_end(&mut self.head).map(drop)
    }
}

impl<R: Read> Read for Headed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.head.is_empty() {
            return self.rest.read(into);
        }
        let count = self.head.as_slice().read(into)?;
        self.head.drain(..count);
        Ok(count)
    }
}

type Frame<R> = StreamingDecoder<Headed<R>, FrameDecoder>;

/// The content of all frames of a zstd stream, one after the other.
struct Frames<R: Read> {
    /// Between two frames.
    input: Option<Headed<R>>,
    /// In a frame.
    frame: Option<Box<Frame<R>>>,
}

impl<R: Read> Frames<R> {
    /// Begins the next frame with content; none at the end.
    fn next(mut input: Headed<R>) -> io::Result<Option<Box<Frame<R>>>> {
        loop {
            input.fill()?;
            if input.head.is_empty() {
                return Ok(None);
            }
            if !is_skipped(&input.head) {
                let frame = StreamingDecoder::new(input);
                return frame.map(|frame| Some(Box::new(frame))).map_err(|error| io::Error::other(error.to_string()));
            }
            let mut head = [0; 8];
            input.read_exact(&mut head)?;
            let [_, _, _, _, a, b, c, d] = head;
            io::copy(&mut (&mut input).take(u32::from_le_bytes([a, b, c, d]).into()), &mut io::sink())?;
        }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(input) = self.input.take() {
                self.frame = Self::next(input)?;
            }
            let Some(mut frame) = self.frame.take() else { return Ok(0) };
            let count = frame.read(into)?;
            if count > 0 || into.is_empty() {
                self.frame = Some(frame);
                return Ok(count);
            }
            self.input = Some(frame.into_inner());
        }
    }
}

#[cfg(test)]
mod tests;
