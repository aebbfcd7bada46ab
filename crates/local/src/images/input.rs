//! What is imported, as a set of named parts: a directory, or an archive that is read again and again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use linux::error::with_causes;
use linux::within::open_beneath;
use rustix::fs::{FileType, Mode, OFlags};

use super::layer::{Budget, plain};
use super::manifest::DOCUMENT_BYTES_MAX;
use super::tar::{Archive, Kind};

/// Most members of an archive: images have three parts and their layers, and one archive holds some dozens of images.
const MEMBERS_MAX: usize = 16 * 1024;

/// Links from member to member: `docker save` of old makes one step.
const LINKS_MAX: usize = 4;

/// What is imported.
#[derive(Debug)]
pub(super) enum Input {
    /// An OCI layout as a directory.
    Folder(OwnedFd),
    /// An archive, and where its members are in it.
    Archive(File, HashMap<PathBuf, Member>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    At { begin: u64, length: u64 },
    Link(PathBuf),
}

/// What can be read of a part, and how long it is.
pub(super) type Content<'a> = (Box<dyn Read + 'a>, u64);

impl Input {
    /// Opens a directory, an archive, or, as `-`, what comes on standard input. What is packed whole is unpacked in
    /// `scratch`, under no name.
    pub(super) fn open(path: &Path, scratch: &Path, budget: &mut Budget) -> Result<Self, String> {
        if path == Path::new("-") {
            let (_, content) = plain(io::stdin().lock()).map_err(|error| with_causes(&error))?;
            return Self::archive(spooled(content, scratch, budget)?);
        }
        // No pipe makes it wait, and no terminal becomes its own.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| error.to_string())?;
        let found = rustix::fs::fstat(&opened).map_err(|error| error.to_string())?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => Ok(Self::Folder(opened)),
            FileType::RegularFile => {
                let file = File::from(opened);
                let unpacked = {
                    let whole = Section::whole(&file);
                    let (is_packed, content) = plain(whole).map_err(|error| with_causes(&error))?;
                    if is_packed { Some(spooled(content, scratch, budget)?) } else { None }
                };
                Self::archive(unpacked.unwrap_or(file))
            }
            _ => Err("it is neither a directory nor a file; to import what another program writes, pipe it to: tidegate image import -".to_owned()),
        }
    }

    fn archive(file: File) -> Result<Self, String> {
        let mut archive = Archive::new(BufReader::new(Section::whole(&file)));
        let mut members = HashMap::new();
        while let Some(entry) = archive.next().map_err(|error| error.to_string())? {
            use std::os::unix::ffi::OsStrExt;
            let path = |name: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(name));
            let name = cleaned(&path(&entry.name), Path::new(""));
            let member = match entry.kind {
                Kind::File => Member::At { begin: archive.position(), length: entry.size },
                Kind::HardLink => Member::Link(cleaned(&path(&entry.link), Path::new(""))),
                Kind::SymbolicLink => {
                    Member::Link(cleaned(&path(&entry.link), name.parent().unwrap_or_else(|| Path::new(""))))
                }
                Kind::Directory | Kind::Pipe | Kind::Device => continue,
            };
            members.insert(name, member);
            if members.len() > MEMBERS_MAX {
                return Err(format!("it is an archive of more than {MEMBERS_MAX} files, so not one of images"));
            }
        }
        drop(archive);
        Ok(Self::Archive(file, members))
    }

    /// A part by its name, with its length; none if it is not there.
    pub(super) fn part(&self, name: &Path) -> Result<Option<Content<'_>>, String> {
        match self {
            Self::Folder(folder) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = match open_beneath(folder, name, flags) {
                    Ok(file) => File::from(file),
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    Err(rustix::io::Errno::LOOP) => {
                        return Err(format!("`{}` is a link, and in a layout none is followed", name.display()));
                    }
                    Err(error) => return Err(format!("`{}`: {error}", name.display())),
                };
                let found = file.metadata().map_err(|error| format!("`{}`: {error}", name.display()))?;
                if !found.is_file() {
                    return Err(format!("`{}` is no file", name.display()));
                }
                Ok(Some((Box::new(file), found.len())))
            }
            Self::Archive(file, members) => {
                let mut name = name.to_owned();
                for _ in 0..=LINKS_MAX {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::Link(to)) => name.clone_from(to),
                        Some(Member::At { begin, length }) => {
                            let section = Section { file, at: *begin, left: *length };
                            return Ok(Some((Box::new(section), *length)));
                        }
                    }
                }
                Err(format!("`{}` is a link to a link, and so on", name.display()))
            }
        }
    }

    /// A document by its name; none if it is not there.
    pub(super) fn document(&self, name: &Path) -> Result<Option<Vec<u8>>, String> {
        let Some((content, length)) = self.part(name)? else { return Ok(None) };
        if length > DOCUMENT_BYTES_MAX {
            return Err(format!("`{}` is longer than {} MiB", name.display(), DOCUMENT_BYTES_MAX >> 20));
        }
        let mut text = Vec::new();
        let read = content.take(DOCUMENT_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|error| format!("`{}`: {error}", name.display()))?;
        Ok(Some(text))
    }
}

/// A copy of a stream in a file that has no name and goes with its handle.
fn spooled(mut content: impl Read, scratch: &Path, budget: &mut Budget) -> Result<File, String> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(scratch, flags, Mode::RUSR | Mode::WUSR);
    let mut file =
        File::from(file.map_err(|error| format!("no room for it is had in `{}`: {error}", scratch.display()))?);
    let mut charged = budget.charge(&mut content);
    io::copy(&mut charged, &mut file).and_then(|_| file.flush()).map_err(|error| with_causes(&error))?;
    Ok(file)
}

/// A name within an archive, as seen from a folder in it: steps up are taken, and none leads out of the archive.
fn cleaned(name: &Path, from: &Path) -> PathBuf {
    let mut path = if name.is_absolute() { PathBuf::new() } else { from.to_owned() };
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// A part of a file.
pub(super) struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl<'a> Section<'a> {
    /// All of it, from its begin, wherever it was written last.
    pub(super) const fn whole(file: &'a File) -> Self {
        Self { file, at: 0, left: u64::MAX }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read_at(into.get_mut(..most).unwrap_or_default(), self.at)?;
        let read = u64::try_from(count).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(read);
        self.left = self.left.saturating_sub(read);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_an_archive_stay_in_it() {
        for (name, from, wanted) in [
            ("./a/b", "", "a/b"),
            ("../c/layer.tar", "a", "c/layer.tar"),
            ("../../../etc/passwd", "a", "etc/passwd"),
            ("/etc/passwd", "a", "etc/passwd"),
            ("a//b/./", "", "a/b"),
        ] {
            assert_eq!(cleaned(Path::new(name), Path::new(from)), Path::new(wanted), "{name} from {from}");
        }
    }
}
