//! Files whose names somebody else chose, made below one directory.
//!
//! Every name is resolved by the kernel, which follows no link and takes no step out of the directory (`RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS`), whatever was made there before. What is made is what the caller says, owner and mode included,
//! so the caller is root.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, openat2};
use rustix::io::Errno;

use crate::Error;
use crate::userns::{self, Ids};

/// What is known of a file besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Permissions, set-user-id and the like included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of its content, in seconds since 1970.
    pub changed: i64,
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a copy of content ends with.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The content could not be read.
    #[error("cannot read its content")]
    Read(#[source] io::Error),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] Error),
}

/// Buffer for content: large enough that system calls cost nothing beside unpacking.
const CHUNK: usize = 128 * 1024;

/// Mode of a directory that is made on the way to a file and never named itself, as other unpackers have it.
const ON_THE_WAY: u32 = 0o755;

/// How overlayfs marks a name that hides what lies below: a character device 0:0.
const HIDDEN: rustix::fs::Dev = 0;

/// How overlayfs marks a directory that hides all that lies below: where root of the machine mounts it, and where user 0 of
/// a user namespace does.
const OPAQUE: &CStr = c"trusted.overlay.opaque";
const OPAQUE_OF_USERS: &CStr = c"user.overlay.opaque";

/// A directory, and all that is made below it.
#[derive(Debug)]
pub struct Within {
    root: OwnedFd,
    path: PathBuf,
    /// The directory that was used last: entries of one directory mostly follow each other.
    last: Option<(PathBuf, OwnedFd)>,
    ids: Ids,
    opaque: &'static CStr,
    foreign: u64,
}

impl Within {
    /// A directory that nobody else changes. `path` is its name for messages.
    pub fn of(root: OwnedFd, path: &Path) -> Self {
        let opaque = if userns::is_initial() { OPAQUE } else { OPAQUE_OF_USERS };
        Self { root, path: path.to_owned(), last: None, ids: Ids::here(), opaque, foreign: 0 }
    }

    /// How many files were to belong to users and groups that there are not here, and belong to user 0 and group 0 instead.
    pub const fn foreign(&self) -> u64 {
        self.foreign
    }

    /// What is known of a file, with an owner that there is.
    fn owned(&mut self, facts: &Facts) -> Facts {
        let (user, group) = (self.ids.has_user(facts.uid), self.ids.has_group(facts.gid));
        self.foreign += u64::from(!user || !group);
        let own = |has: bool, id: u32| if has { id } else { 0 };
        // Rights that come with an owner are not given to another's file.
        let lost = [(user, Mode::SUID), (group, Mode::SGID)].into_iter().filter(|(has, _)| !has);
        let mode = lost.fold(facts.mode, |mode, (_, bit)| mode & !bit.as_raw_mode());
        Facts { uid: own(user, facts.uid), gid: own(group, facts.gid), mode, ..facts.clone() }
    }

    /// Makes a directory, or sets what is known of one that is there.
    pub fn make_directory(&mut self, name: &Path, facts: &Facts) -> Result<(), Error> {
        let facts = &self.owned(facts);
        let Some((parent, last)) = split(name) else {
            return set(&self.root, facts).map_err(self.failed("set up", name));
        };
        let parent = self.parent(parent).map_err(self.failed("make the directories up to", name))?;
        let replace = || -> rustix::io::Result<bool> {
            match rustix::fs::mkdirat(&parent, last, Mode::RWXU) {
                Ok(()) => return Ok(false),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let found = rustix::fs::statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                return Ok(false);
            }
            rustix::fs::unlinkat(&parent, last, AtFlags::empty())?;
            rustix::fs::mkdirat(&parent, last, Mode::RWXU)?;
            Ok(is_hidden(&found))
        };
        let make = || -> rustix::io::Result<()> {
            let was_hidden = replace()?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&parent, last, flags, Mode::empty())?;
            if was_hidden {
                // What it takes the place of below stays hidden.
                rustix::fs::fsetxattr(&folder, self.opaque, b"y", XattrFlags::empty())?;
            }
            set(&folder, facts)
        };
        let done = make().map_err(self.failed("make the directory", name));
        self.keep(name, parent);
        done
    }

    /// Makes a file with this content.
    pub fn make_file(&mut self, name: &Path, facts: &Facts, content: &mut dyn Read) -> Result<u64, CopyError> {
        let facts = &self.owned(facts);
        let (parent, last) = self.vacate(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, last, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(self.failed("make", name))?);
        let (mut chunk, mut length) = (vec![0; CHUNK], 0_u64);
        loop {
            let count = match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CopyError::Read(error)),
            };
            let written = file.write_all(chunk.get(..count).unwrap_or_default());
            written.map_err(|source| Error::File { doing: "write", path: self.path.join(name), source })?;
            length = length.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        let done = set(&file, facts).map_err(self.failed("set up", name));
        self.keep(name, parent);
        done?;
        Ok(length)
    }

    /// Makes a symbolic link; where it leads matters to nobody here.
    pub fn make_link(&mut self, name: &Path, facts: &Facts, target: &OsStr) -> Result<(), Error> {
        let facts = &self.owned(facts);
        let (parent, last) = self.vacate(name)?;
        let make = || -> rustix::io::Result<()> {
            rustix::fs::symlinkat(target, &parent, last)?;
            let (uid, gid) = (Uid::from_raw(facts.uid), Gid::from_raw(facts.gid));
            rustix::fs::chownat(&parent, last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        };
        make().map_err(self.failed("make the link", name))
    }

    /// Makes a named pipe.
    pub fn make_pipe(&mut self, name: &Path, facts: &Facts) -> Result<(), Error> {
        let facts = &self.owned(facts);
        let (parent, last) = self.vacate(name)?;
        let make = || -> rustix::io::Result<()> {
            rustix::fs::mkfifoat(&parent, last, Mode::RUSR | Mode::WUSR)?;
            let (uid, gid) = (Uid::from_raw(facts.uid), Gid::from_raw(facts.gid));
            rustix::fs::chownat(&parent, last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::chmodat(&parent, last, Mode::from_raw_mode(facts.mode), AtFlags::empty())
        };
        make().map_err(self.failed("make the pipe", name))
    }

    /// Gives a file that was made here a second name; `false` if there is none of the first name.
    pub fn make_second_name(&mut self, name: &Path, of: &Path) -> Result<bool, Error> {
        let Some((folder, file)) = split(of) else { return Ok(false) };
        let first = match self.open(folder) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(errno) => return Err(self.failed("look for", of)(errno)),
        };
        match rustix::fs::statat(&first, file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Directory && !is_hidden(&found) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(self.failed("look for", of)(errno)),
        }
        if name == of {
            return Ok(true);
        }
        let (parent, last) = self.vacate(name)?;
        let linked = rustix::fs::linkat(&first, file, &parent, last, AtFlags::empty());
        linked.map(|()| true).map_err(self.failed("give a second name", name))
    }

    /// Hides what has this name below: what overlayfs is told to leave out. What was made here stays.
    pub fn hide(&mut self, name: &Path) -> Result<(), Error> {
        let Some((parent, last)) = split(name) else { return self.hide_all_below(name) };
        let parent = self.parent(parent).map_err(self.failed("make the directories up to", name))?;
        match rustix::fs::statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                return self.hide_all_below(name);
            }
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.failed("look for", name)(errno)),
        }
        let made = rustix::fs::mknodat(&parent, last, FileType::CharacterDevice, Mode::empty(), HIDDEN);
        let done = made.map_err(self.failed("hide", name));
        self.keep(name, parent);
        done
    }

    /// Hides all that a directory has below; what was made in it here stays.
    pub fn hide_all_below(&mut self, name: &Path) -> Result<(), Error> {
        let folder = self.parent(name).map_err(self.failed("make the directories up to", name))?;
        rustix::fs::fsetxattr(&folder, self.opaque, b"y", XattrFlags::empty())
            .map_err(self.failed("hide what is below", name))
    }

    /// A directory, made with those up to it where they are not there.
    fn parent(&mut self, name: &Path) -> rustix::io::Result<OwnedFd> {
        // Forgotten by every step that is not sure to leave it as it is.
        if let Some((_, folder)) = self.last.take().filter(|(path, _)| path == name) {
            return Ok(folder);
        }
        match self.open(name) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            found => return found,
        }
        let Some((above, last)) = split(name) else { return self.open(name) };
        let above = self.parent(above)?;
        let found = rustix::fs::statat(&above, last, AtFlags::SYMLINK_NOFOLLOW);
        let was_hidden = found.is_ok_and(|found| is_hidden(&found));
        if was_hidden {
            rustix::fs::unlinkat(&above, last, AtFlags::empty())?;
        }
        match rustix::fs::mkdirat(&above, last, Mode::from_raw_mode(ON_THE_WAY)) {
            Err(Errno::EXIST) => return Err(Errno::NOTDIR),
            made => made?,
        }
        let folder = self.open(name)?;
        if was_hidden {
            // What it takes the place of below stays hidden.
            rustix::fs::fsetxattr(&folder, self.opaque, b"y", XattrFlags::empty())?;
        }
        Ok(folder)
    }

    /// Opens a directory below, to be searched and changed.
    fn open(&self, name: &Path) -> rustix::io::Result<OwnedFd> {
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        open_beneath(&self.root, name, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn keep(&mut self, name: &Path, folder: OwnedFd) {
        self.last = name.parent().map(|parent| (parent.to_owned(), folder));
    }

    /// Removes what has the name, so that something else can have it.
    fn vacate<'a>(&mut self, name: &'a Path) -> Result<(OwnedFd, &'a OsStr), Error> {
        let Some((above, last)) = split(name) else {
            return Err(self.failed("put something else in the place of", name)(Errno::ISDIR));
        };
        let parent = self.parent(above).map_err(self.failed("make the directories up to", name))?;
        let remove = || -> rustix::io::Result<()> {
            match rustix::fs::unlinkat(&parent, last, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(Errno::ISDIR) => {
                    let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(last);
                    std::fs::remove_dir_all(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
                }
                Err(errno) => Err(errno),
            }
        };
        remove().map_err(self.failed("put something else in the place of", name))?;
        Ok((parent, last))
    }

    fn failed(&self, doing: &'static str, name: &Path) -> impl FnOnce(Errno) -> Error + use<> {
        let path = self.path.join(name);
        move |errno| {
            let source = match errno {
                Errno::NOTDIR => io::Error::other("a part of its name is a file"),
                Errno::LOOP => io::Error::other("a part of its name is a symbolic link, and here none is followed"),
                errno => io::Error::from(errno),
            };
            Error::File { doing, path, source }
        }
    }
}

/// Opens what is below a directory, following no link.
pub fn open_beneath(root: impl AsFd, name: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    loop {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(root.as_fd(), name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename somewhere while the name was resolved.
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

/// The directory and the last part of a name; none for the root itself.
fn split(name: &Path) -> Option<(&Path, &OsStr)> {
    Some((name.parent()?, name.file_name()?))
}

fn is_hidden(found: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == HIDDEN
}

fn set(file: &impl AsFd, facts: &Facts) -> rustix::io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(facts.uid)), Some(Gid::from_raw(facts.gid)))?;
    // After the owner, whose change takes set-user-id away.
    rustix::fs::fchmod(file, Mode::from_raw_mode(facts.mode))?;
    for (name, value) in &facts.attributes {
        match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            // The file system keeps none.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    let changed = Timespec { tv_sec: facts.changed, tv_nsec: 0 };
    rustix::fs::futimens(file, &Timestamps { last_access: changed, last_modification: changed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

    fn within(folder: &Path) -> Within {
        let open = crate::files::open(&folder.canonicalize().unwrap(), OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        Within::of(open, folder)
    }

    fn facts(mode: u32) -> Facts {
        Facts { mode, uid: 12, gid: 34, changed: 1_000_000_000, attributes: vec![(b"user.a".to_vec(), b"b".to_vec())] }
    }

    #[test]
    fn what_is_made_has_the_owner_mode_and_time_that_were_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let mut within = within(home.path());
        within.make_directory(Path::new("d"), &facts(0o2750)).unwrap();
        assert_eq!(within.make_file(Path::new("d/f"), &facts(0o4755), &mut b"text".as_slice()).unwrap(), 4);
        assert!(within.make_second_name(Path::new("g"), Path::new("d/f")).unwrap());
        assert!(!within.make_second_name(Path::new("h"), Path::new("none/f")).unwrap());
        within.make_link(Path::new("l"), &facts(0o777), OsStr::new("/etc")).unwrap();
        within.make_pipe(Path::new("p"), &facts(0o600)).unwrap();
        let about = |name: &str| std::fs::symlink_metadata(home.path().join(name)).unwrap();
        let file = about("g");
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (12, 34, 0o4755, 2));
        assert_eq!((file.mtime(), about("d").mode() & 0o7777), (1_000_000_000, 0o2750));
        assert!(about("l").is_symlink() && about("p").file_type().is_fifo());
        // What takes the place of something takes all of it.
        within.make_file(Path::new("d"), &facts(0o600), &mut b"".as_slice()).unwrap();
        within.make_directory(Path::new("g"), &facts(0o755)).unwrap();
        assert!(about("d").is_file() && about("g").is_dir());
        within.make_file(Path::new("g/x/y/z"), &facts(0o600), &mut b"".as_slice()).unwrap();
        assert_eq!(about("g/x/y").permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn no_link_is_followed() {
        let home = tempfile::tempdir().unwrap();
        let (inside, outside) = (home.path().join("in"), home.path().join("out"));
        std::fs::create_dir_all(inside.join("own")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("victim"), "precious").unwrap();
        let mut within = within(&inside);
        let out = outside.to_str().unwrap();
        for (name, target) in [
            ("up", "../out"),
            ("absolute", out),
            ("proc", "/proc/self/cwd"),
            ("round", "round"),
            ("fine", "own"),
            ("none", "x"),
        ] {
            symlink(target, inside.join(name)).unwrap();
            for below in ["victim", "new", "deep/new"] {
                let path = Path::new(name).join(below);
                let why = within.make_file(&path, &facts(0o666), &mut b"x".as_slice()).unwrap_err().to_string();
                assert!(why.contains(name), "{why}");
                let why = crate::error::with_causes(&within.make_directory(&path, &facts(0o777)).unwrap_err());
                assert!(why.contains("symbolic link"), "{why}");
                assert!(within.make_second_name(Path::new("second"), &path).is_err());
                assert!(within.hide(&path).is_err() && within.hide_all_below(&path).is_err());
            }
        }
        assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(inside.join("own")).unwrap().count(), 0);
        assert_ne!(std::fs::metadata(&outside).unwrap().uid(), 12);
        // It gives way to something else of its name, and only it.
        within.make_directory(Path::new("absolute"), &facts(0o755)).unwrap();
        within.make_file(Path::new("up"), &facts(0o644), &mut b"x".as_slice()).unwrap();
        assert!(inside.join("absolute").is_dir() && inside.join("up").is_file() && outside.join("victim").exists());
    }

    #[test]
    fn what_hides_is_what_overlayfs_takes_for_it() {
        let home = tempfile::tempdir().unwrap();
        let mut within = within(home.path());
        within.hide(Path::new("a/gone")).unwrap();
        let about = |name: &str| std::fs::symlink_metadata(home.path().join(name)).unwrap();
        assert!(about("a/gone").file_type().is_char_device() && about("a/gone").rdev() == 0);
        let opaque = |name: &str| {
            let mut value = [0; 4];
            let path = home.path().join(name);
            rustix::fs::getxattr(&path, OPAQUE, &mut value).ok().map(|length| value[..length].to_vec())
        };
        assert_eq!(opaque("a"), None);
        // A directory in the place of what is hidden hides what that had below.
        within.make_directory(Path::new("a/gone"), &facts(0o755)).unwrap();
        assert_eq!(opaque("a/gone"), Some(b"y".to_vec()));
        // And the other way round: what was made here stays.
        within.make_file(Path::new("b/own"), &facts(0o644), &mut b"x".as_slice()).unwrap();
        within.hide(Path::new("b/own")).unwrap();
        within.hide(Path::new("b")).unwrap();
        assert!(about("b/own").is_file());
        assert_eq!(opaque("b"), Some(b"y".to_vec()));
        assert!(!within.make_second_name(Path::new("c"), Path::new("a/none")).unwrap());
    }
}
