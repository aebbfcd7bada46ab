//! Files below a directory that an ordinary user may write while root works there: links that were laid there are not
//! followed, anywhere in a path, and a file that has a second name is neither written nor given away.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, openat2};
use rustix::io::Errno;

use crate::Error;

/// Opens what is at an absolute path none of whose parts is a link.
pub fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    open_with(path, flags, Mode::empty()).map_err(failed("open", path))
}

fn open_with(path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    open_in(CWD, path, flags, mode)
}

fn open_in(folder: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(folder, path, flags | OFlags::CLOEXEC, mode, links) {
            // A rename somewhere in the path while it was walked.
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Opens a plain file to be read.
pub fn open_to_read(path: &Path) -> Result<File, Error> {
    // Without waiting: a pipe laid there would hold the reader for ever.
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    plain(file).map_err(failed("read", path))
}

/// Opens a plain file to be written and read, making it for `mode` if it is not there.
pub fn open_to_write(path: &Path, flags: OFlags, mode: Mode) -> Result<File, Error> {
    // Emptied only when it is known to be no other file.
    let (is_emptied, flags) = (flags.contains(OFlags::TRUNC), flags.difference(OFlags::TRUNC));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | flags;
    let opened = open_with(path, flags, mode).and_then(plain).map_err(failed("write", path))?;
    if is_emptied {
        rustix::fs::ftruncate(&opened, 0).map_err(failed("empty", path))?;
    }
    Ok(opened)
}

/// A plain file with one name: another name may be that of a file which whoever laid it here could not write.
fn plain(file: OwnedFd) -> rustix::io::Result<File> {
    let found = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_nlink > 1 {
        return Err(Errno::MLINK);
    }
    Ok(File::from(file))
}

/// Opens a plain file below `base` to be appended to; it and the directories up to it, made if they are not there, belong
/// to the owner of `base`.
pub fn append_for_owner(base: &Path, below: &Path) -> Result<File, Error> {
    let path = base.join(below);
    make_directories(base, below.parent().unwrap_or_else(|| Path::new("")), Mode::RWXU, true)?;
    let file = open_to_write(&path, OFlags::APPEND, Mode::RUSR | Mode::WUSR)?;
    let owner = rustix::fs::stat(base).map_err(failed("look at", base))?;
    give_open(&file, owner.st_uid, owner.st_gid).map_err(failed("give away", &path))?;
    Ok(file)
}

/// Makes the directories of `below` in `base`, those that are not there, for `mode` and the owner of `base` or, if
/// `is_given` says no, for the caller, who must own those that are there; returns the last.
pub fn make_directories(base: &Path, below: &Path, mode: Mode, is_given: bool) -> Result<OwnedFd, Error> {
    let whole = base.join(below);
    let make = || -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut folder = open_with(base, flags, Mode::empty())?;
        let owner = rustix::fs::fstat(&folder)?;
        for part in below.components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL) };
            let is_new = match rustix::fs::mkdirat(&folder, name, mode) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error),
            };
            let next = open_in(folder.as_fd(), Path::new(name), flags, Mode::empty())?;
            if is_new && is_given {
                give_open(&next, owner.st_uid, owner.st_gid)?;
            } else if !is_given && rustix::fs::fstat(&next)?.st_uid != rustix::process::geteuid().as_raw() {
                return Err(Errno::PERM);
            }
            folder = next;
        }
        Ok(folder)
    };
    make().map_err(failed("make", &whole))
}

/// Gives what is at `path`, itself if it is a link, to a user. What has a second name stays whose it is.
pub fn give(path: &Path, uid: u32, gid: u32) -> Result<(), Error> {
    let given = open_with(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).and_then(|it| give_open(it, uid, gid));
    given.map_err(failed("give away", path))
}

/// The same of something that is open.
pub fn give_open(it: impl AsFd, uid: u32, gid: u32) -> rustix::io::Result<()> {
    let found = rustix::fs::fstat(&it)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory && found.st_nlink > 1 {
        return Ok(());
    }
    rustix::fs::chownat(&it, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    move |errno| {
        let why = match errno {
            Errno::LOOP => "a part of it is a link, and in this directory none is followed",
            Errno::MLINK => "it is not a plain file with one name",
            _ => "",
        };
        let source = if why.is_empty() { io::Error::from(errno) } else { io::Error::other(why) };
        Error::File { doing, path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn what_was_planted_is_neither_written_nor_read_nor_given_away() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let victim = home.join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let (dir, mode) = (home.join("mesh"), Mode::from_raw_mode(0o700));
        make_directories(&home, Path::new("mesh/logs"), mode, true).unwrap();
        symlink(&victim, dir.join("link")).unwrap();
        symlink(&home, dir.join("folder")).unwrap();
        std::fs::hard_link(&victim, dir.join("second")).unwrap();
        rustix::fs::mkfifoat(CWD, dir.join("pipe"), mode).unwrap();
        for name in ["link", "folder/victim", "second", "pipe", "logs"] {
            let path = dir.join(name);
            assert!(open_to_write(&path, OFlags::TRUNC, mode).is_err(), "{name} was opened to be written");
            assert!(open_to_read(&path).is_err(), "{name} was opened to be read");
        }
        let error = make_directories(&dir, Path::new("folder/new"), mode, true).unwrap_err();
        assert!(crate::error::with_causes(&error).contains("none is followed"), "{error}");
        assert!(make_directories(&dir, Path::new("../new"), mode, true).is_err());
        assert!(make_directories(&dir.join("folder"), Path::new("new"), mode, true).is_err());
        for name in ["link", "second"] {
            give(&dir.join(name), 12345, 12345).unwrap();
        }
        assert!(give(&dir.join("folder/victim"), 12345, 12345).is_err());
        assert_eq!(std::fs::symlink_metadata(dir.join("link")).unwrap().uid(), 12345, "the link itself is given");
        let found = std::fs::metadata(&victim).unwrap();
        assert_eq!((found.uid(), std::fs::read_to_string(&victim).unwrap().as_str()), (0, "precious"));
        let error = open_to_write(&dir.join("link"), OFlags::empty(), mode).unwrap_err();
        assert!(crate::error::with_causes(&error).contains("link"), "{error}");
    }

    #[test]
    fn directories_belong_to_the_owner_of_their_base_or_to_root() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        give(&home, 12345, 54321).unwrap();
        let mode = Mode::from_raw_mode(0o700);
        make_directories(&home, Path::new("logs/a"), mode, true).unwrap();
        make_directories(&home, Path::new("volumes/a"), mode, false).unwrap();
        for (name, owner) in [("logs", 12345), ("logs/a", 12345), ("volumes", 0), ("volumes/a", 0)] {
            assert_eq!(std::fs::metadata(home.join(name)).unwrap().uid(), owner, "{name}");
        }
    }
}
