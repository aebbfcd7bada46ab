//! Arguments and environment, resolved: where a mesh lives, who owns its files, how it is named.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::args::DataDirArgument;
use crate::contents;
use crate::context::quoted;
use crate::rights;

/// Folders below one another in a data directory: ours are three deep, a user's own are none of our business.
const FOLDERS_DEEP_MAX: usize = 16;

/// Where everything of one mesh is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// What must last: store, keys, kubeconfig, logs. Absolute, without links.
    pub(crate) data_dir: PathBuf,
    /// What a reboot may take: handles of namespaces, state of pods.
    pub(crate) run_dir: PathBuf,
    /// 8 hexadecimal digits from the path of the data directory: the name of the mesh on this machine.
    pub(crate) id: String,
    /// The caller has no right to change the machine's network: the mesh stands apart from it.
    pub(crate) is_apart: bool,
    /// Who called: under sudo the files belong to that user.
    pub(crate) owner: Owner,
}

/// The user that files are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The parts of the environment that say who calls and where home is.
#[derive(Debug, Default)]
pub(crate) struct Caller {
    sudo_uid: Option<u32>,
    sudo_gid: Option<u32>,
    data_home: Option<OsString>,
    home: Option<OsString>,
    passwd: String,
    /// Without root, outside of a user namespace or inside.
    is_apart: bool,
}

/// Where a mesh without root keeps what a reboot may take.
pub(crate) fn run_dir_apart(data_dir: &Path) -> PathBuf {
    data_dir.join(contents::RUN)
}

impl Caller {
    /// Reads the process's environment.
    pub(crate) fn from_environment() -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let is_root = rustix::process::geteuid().is_root();
        Self {
            sudo_uid: number("SUDO_UID").filter(|_| is_root),
            sudo_gid: number("SUDO_GID").filter(|_| is_root),
            data_home: std::env::var_os("XDG_DATA_HOME"),
            home: std::env::var_os("HOME"),
            passwd: fs::read_to_string("/etc/passwd").unwrap_or_default(),
            is_apart: !is_root || rights::is_apart(),
        }
    }

    fn owner(&self) -> Owner {
        let uid = self.sudo_uid.unwrap_or_else(|| rustix::process::getuid().as_raw());
        let gid = self.sudo_gid.unwrap_or_else(|| rustix::process::getgid().as_raw());
        Owner { uid, gid }
    }

    /// `~/.local/share/tidegate` of the calling user: with and without sudo the same directory.
    fn default_data_dir(&self) -> Result<PathBuf> {
        if let Some(uid) = self.sudo_uid {
            let home = home_in_passwd(&self.passwd, uid)
                .with_context(|| format!("user {uid} (SUDO_UID) has no home in /etc/passwd; give --data-dir DIR"))?;
            return Ok(home.join(".local/share/tidegate"));
        }
        let absolute = |name: &Option<OsString>| name.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
        absolute(&self.data_home)
            .or_else(|| absolute(&self.home).map(|home| home.join(".local/share")))
            .map(|share| share.join("tidegate"))
            .ok_or_else(|| anyhow!("neither XDG_DATA_HOME nor HOME is set; give --data-dir DIR"))
    }
}

fn home_in_passwd(passwd: &str, uid: u32) -> Option<PathBuf> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let matches = fields.get(2)?.parse::<u32>().ok()? == uid;
        matches.then(|| fields.get(5).map(PathBuf::from))?.filter(|home| home.is_absolute())
    })
}

impl Place {
    /// Where the mesh is that the arguments name, whether it exists or not.
    pub(crate) fn resolve(argument: &DataDirArgument) -> Result<Self> {
        Self::resolve_for(argument, &Caller::from_environment())
    }

    fn resolve_for(argument: &DataDirArgument, caller: &Caller) -> Result<Self> {
        let wished = match &argument.data_dir {
            Some(dir) => std::path::absolute(dir).with_context(|| format!("--data-dir `{}`", dir.display()))?,
            None => caller.default_data_dir()?,
        };
        let data_dir = without_links(&wished)?;
        // Its `bin` goes onto a PATH, and its name into messages and files that are read again.
        if data_dir.to_str().is_none_or(|name| name.contains(|c: char| c == ':' || c.is_control())) {
            return Err(anyhow!(
                "`{}`: a data directory is named in UTF-8, without `:` and control characters, for it goes onto the PATH; \
                 give another --data-dir",
                data_dir.display()
            ));
        }
        let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let id: String = digest
            .iter()
            .take(4)
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect();
        let run_dir = if caller.is_apart { run_dir_apart(&data_dir) } else { Path::new("/run/tidegate").join(&id) };
        Ok(Self { run_dir, is_apart: caller.is_apart, data_dir, id, owner: caller.owner() })
    }

    /// A command as the caller types it for this mesh, in whatever shell.
    pub(crate) fn command(&self, words: &str) -> String {
        self.command_for(words, &Caller::from_environment())
    }

    fn command_for(&self, words: &str, caller: &Caller) -> String {
        let needs_root = ["up", "down", "image"].iter().any(|verb| words.starts_with(verb));
        let sudo = if needs_root && self.owner.uid != 0 && !self.is_apart { "sudo " } else { "" };
        let default = caller.default_data_dir().and_then(|dir| without_links(&dir));
        if default.is_ok_and(|default| default == self.data_dir) {
            return format!("{sudo}tidegate {words}");
        }
        format!("{sudo}tidegate {words} --data-dir {}", quoted(&self.data_dir.to_string_lossy()))
    }

    /// Whether the data directory is a mesh's: only then may things in it be given away or removed.
    pub(crate) fn is_a_mesh(&self) -> bool {
        self.data_dir.join(contents::MARK).is_file()
    }

    /// Makes the data directory, for its owner alone, if it is not there. One that is there must be a mesh's or empty.
    pub(crate) fn make_data_dir(&self) -> Result<()> {
        let missing: Vec<_> = self.data_dir.ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.iter().rev() {
            let mode = if *path == self.data_dir { 0o700 } else { 0o755 };
            self.make_folder(path, mode).with_context(|| format!("making the data directory `{}`", path.display()))?;
        }
        let found = fs::metadata(&self.data_dir).with_context(|| format!("`{}`", self.data_dir.display()))?;
        if !found.is_dir() {
            return Err(anyhow!("`{}` is not a directory; give another --data-dir", self.data_dir.display()));
        }
        if found.uid() != self.owner.uid && found.uid() != rustix::process::geteuid().as_raw() {
            return Err(anyhow!(
                "`{}` belongs to user {}, not to you; give another --data-dir",
                self.data_dir.display(),
                found.uid()
            ));
        }
        if self.is_a_mesh() {
            return Ok(());
        }
        let mut entries = fs::read_dir(&self.data_dir).with_context(|| format!("`{}`", self.data_dir.display()))?;
        // Somebody else may be making it at the same time, the mark first: half written, or there by now.
        let half_written = format!("{}.part", contents::MARK);
        let is_another = |name: &OsStr| !name.as_encoded_bytes().starts_with(half_written.as_bytes());
        if entries.any(|entry| entry.is_ok_and(|entry| is_another(&entry.file_name()))) && !self.is_a_mesh() {
            return Err(anyhow!(
                "`{}` is neither empty nor the data directory of a mesh; give a directory of the mesh's own: --data-dir DIR",
                self.data_dir.display()
            ));
        }
        self.write_private(
            &self.data_dir.join(contents::MARK),
            &format!("data directory of Tidegate mesh {}\n", self.id),
        )
    }

    /// Makes a folder of the calling user, or finds it made by another command in the same moment.
    pub(crate) fn make_folder(&self, path: &Path, mode: u32) -> Result<()> {
        match fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => self.give(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file that we made to the calling user.
    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        Ok(linux::files::give(path, self.owner.uid, self.owner.gid)?)
    }

    /// Gives what is ours in the data directory to the calling user, links not followed: the parts of the mesh run as
    /// root and make their files so. Volumes stay root's, so that nothing else can be put where a pod is shown them.
    pub(crate) fn give_all(&self) -> Result<()> {
        let root = linux::files::open(&self.data_dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.give_below(&root, 0)
            .with_context(|| format!("giving `{}` to user {}", self.data_dir.display(), self.owner.uid))
    }

    fn give_below(&self, folder: &OwnedFd, depth: usize) -> rustix::io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for entry in rustix::fs::Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_left = depth == 0 && !contents::is_the_owners(OsStr::from_bytes(name.to_bytes()));
            if matches!(name.to_bytes(), b"." | b"..") || is_left {
                continue;
            }
            let is_folder = entry.file_type() == FileType::Directory && depth < FOLDERS_DEEP_MAX;
            let kind = if is_folder { OFlags::RDONLY | OFlags::DIRECTORY } else { OFlags::PATH };
            match rustix::fs::openat(folder, name, kind | flags, Mode::empty()) {
                Ok(found) => {
                    linux::files::give_open(&found, self.owner.uid, self.owner.gid)?;
                    if is_folder {
                        self.give_below(&found, depth + 1)?;
                    }
                }
                // A log that was removed in the meantime belongs to nobody.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes a small file whole or not at all, mode 0600, owned by the caller.
    pub(crate) fn write_private(&self, path: &Path, text: &str) -> Result<()> {
        use std::io::Write;
        let part = path.with_extension(format!("part{}", std::process::id()));
        let mut file = linux::files::open_to_write(&part, OFlags::EXCL, Mode::RUSR | Mode::WUSR)?;
        let mut write = || -> io::Result<()> {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        if let Err(error) = write() {
            // On a full disk: every try would leave one.
            drop(fs::remove_file(&part));
            return Err(error)
                .with_context(|| format!("writing `{}`; look for free space and at the disk", path.display()));
        }
        self.give(&part)?;
        fs::rename(&part, path).with_context(|| format!("writing `{}`", path.display()))
    }
}

/// The path with the links of its existing part resolved, so that one directory has one name.
fn without_links(path: &Path) -> Result<PathBuf> {
    let existing = path.ancestors().find(|part| part.exists()).unwrap_or_else(|| Path::new("/"));
    let resolved = fs::canonicalize(existing).with_context(|| format!("`{}`", existing.display()))?;
    let rest = path.strip_prefix(existing).unwrap_or_else(|_| Path::new(""));
    Ok(if rest.as_os_str().is_empty() { resolved } else { resolved.join(rest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(dir: Option<&Path>) -> DataDirArgument {
        DataDirArgument { data_dir: dir.map(Path::to_path_buf) }
    }

    #[test]
    fn sudo_finds_the_callers_home() {
        let caller = Caller {
            sudo_uid: Some(1000),
            sudo_gid: Some(1001),
            home: Some("/root".into()),
            passwd: "root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/srv/ann:/bin/sh\n".into(),
            data_home: None,
            is_apart: false,
        };
        let place = Place::resolve_for(&argument(None), &caller).unwrap();
        assert_eq!(place.data_dir, Path::new("/srv/ann/.local/share/tidegate"));
        assert_eq!(place.owner, Owner { uid: 1000, gid: 1001 });
    }

    #[test]
    fn one_directory_has_one_id_by_whatever_way_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let straight = Place::resolve_for(&argument(Some(&dir.path().join("mesh"))), &Caller::default()).unwrap();
        let linked = Place::resolve_for(&argument(Some(&link.join("mesh"))), &Caller::default()).unwrap();
        assert_eq!(straight, linked);
        assert_eq!(straight.id.len(), 8);
    }

    #[test]
    fn a_command_is_typed_as_its_caller_needs_it() {
        let home = tempfile::tempdir().unwrap();
        let text = home.path().to_str().unwrap();
        let ann =
            Caller { sudo_uid: Some(1000), passwd: format!("ann:x:1000:1000::{text}:/bin/sh\n"), ..Caller::default() };
        let root = Caller { sudo_uid: Some(0), passwd: format!("root:x:0:0::{text}:/bin/sh\n"), ..Caller::default() };
        let odd = home.path().join("it's a mesh");
        let plain = Caller { home: Some(home.path().into()), is_apart: true, ..Caller::default() };
        for (caller, dir, words, wanted) in [
            (&root, None, "down", "tidegate down".to_owned()),
            (&ann, None, "down", "sudo tidegate down".to_owned()),
            (&plain, None, "down", "tidegate down".to_owned()),
            (&ann, None, "env -n foo", "tidegate env -n foo".to_owned()),
            (&ann, Some(odd.as_path()), "up", format!(r"sudo tidegate up --data-dir '{text}/it'\''s a mesh'")),
        ] {
            let place = Place::resolve_for(&argument(dir), caller).unwrap();
            assert_eq!(place.command_for(words, caller), wanted);
        }
    }

    #[test]
    fn without_root_what_a_reboot_may_take_lies_in_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let plain = Caller { is_apart: true, ..Caller::default() };
        let place = Place::resolve_for(&argument(Some(dir.path())), &plain).unwrap();
        assert_eq!(place.run_dir, place.data_dir.join("run"));
        let place = Place::resolve_for(&argument(Some(dir.path())), &Caller::default()).unwrap();
        assert_eq!(place.run_dir, Path::new("/run/tidegate").join(place.id));
    }

    #[test]
    fn a_directory_that_no_path_variable_can_hold_is_refused() {
        for name in ["/tmp/a:b", "/tmp/a\nb"] {
            let error = Place::resolve_for(&argument(Some(Path::new(name))), &Caller::default()).unwrap_err();
            assert!(error.to_string().contains("--data-dir"), "{error}");
        }
    }

    #[test]
    fn without_a_home_the_error_says_what_to_give() {
        let error = Place::resolve_for(&argument(None), &Caller::default()).unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }

    #[test]
    fn a_directory_of_others_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
        let place = Place::resolve_for(&argument(Some(dir.path())), &Caller::from_environment()).unwrap();
        let error = place.make_data_dir().unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
        assert!(!place.is_a_mesh());
        fs::remove_file(dir.path().join("thesis.txt")).unwrap();
        place.make_data_dir().unwrap();
        assert!(place.is_a_mesh());
        place.make_data_dir().unwrap();
    }

    #[test]
    fn a_folder_is_made_by_whoever_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::resolve_for(&argument(Some(dir.path())), &Caller::from_environment()).unwrap();
        for round in 0..200 {
            let (folder, start) = (dir.path().join(round.to_string()), std::sync::Barrier::new(4));
            let make = || {
                start.wait();
                place.make_folder(&folder, 0o755)
            };
            std::thread::scope(|scope| {
                let makers: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                for maker in makers {
                    maker.join().unwrap().unwrap();
                }
            });
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(place.make_folder(&file, 0o755).is_err());
    }

    #[test]
    fn private_files_are_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::resolve_for(&argument(Some(&dir.path().join("a/b"))), &Caller::from_environment()).unwrap();
        place.make_data_dir().unwrap();
        let file = place.data_dir.join("key");
        place.write_private(&file, "first").unwrap();
        place.write_private(&file, "second").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "second");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&place.data_dir).unwrap().mode() & 0o777, 0o700);
    }
}
