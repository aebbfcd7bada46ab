//! What lies in a data directory: what is ours, and what is somebody else's and stays as it is.
//!
//! A mistyped `--data-dir` must cost nothing: a mesh is not made in a directory that is used for something else, and
//! of a directory only what a mesh makes is given away or removed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use local::images::Store;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::log;

/// The file that says that a directory is a mesh's.
pub(crate) const MARK: &str = "tidegate-mesh";

/// Everything that a mesh makes in its data directory, besides the kubeconfigs.
const OURS: [&str; 13] = [
    RUN,
    HOLDER_LOCK,
    MARK,
    "lock",
    "store.redb",
    "pki",
    "port",
    log::NAME,
    log::ASIDE,
    "bin",
    VOLUMES,
    "logs",
    Store::DIRECTORY,
];

/// Where a mesh without root keeps, in memory, what others have below `/run`.
pub(crate) const RUN: &str = "run";

/// Locked by whoever makes the namespaces of a mesh without root.
pub(crate) const HOLDER_LOCK: &str = "namespaces";

/// Whether a mesh makes something of this name: one of `OURS`, or a kubeconfig, its namespace's name behind a dash.
pub(crate) fn is_ours(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let kubeconfig =
        name.strip_prefix("kubeconfig").is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']));
    let half_written = name.starts_with("port.part") || name.starts_with("tidegate-mesh.part");
    OURS.contains(&name) || kubeconfig || half_written
}

/// What pods are shown: root's, so that nobody puts anything else there.
const VOLUMES: &str = "volumes";

/// Whether a mesh makes it and the calling user may have it.
pub(crate) fn is_the_owners(name: &OsStr) -> bool {
    is_ours(name) && name != VOLUMES && name != Store::DIRECTORY && name != RUN
}

/// Removes what pods were shown, which lasts no longer than they do.
pub(crate) fn forget_volumes(dir: &Path) -> Result<()> {
    let Some(held) = Held::of(dir)? else { return Ok(()) };
    held.remove(OsStr::new(VOLUMES))
}

/// The same of all pods but those with these uids.
pub(crate) fn forget_volumes_but(dir: &Path, kept: &BTreeSet<String>) -> Result<()> {
    let volumes = dir.join(VOLUMES);
    let open = match linux::files::open(&volumes, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(open) => open,
        Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let held = Held::holding(volumes, open);
    let gone = |name: &&OsString| name.to_str().is_none_or(|uid| !kept.contains(uid));
    names_in(&held.path)?.iter().filter(gone).try_for_each(|name| held.remove(name))
}

/// A mesh's directory that is held open, so that nobody puts another in its place while things in it are removed.
struct Held {
    /// Its name, for messages.
    dir: PathBuf,
    /// A path that leads to what is held, whatever its name leads to.
    path: PathBuf,
    _open: OwnedFd,
}

impl Held {
    /// None if it is not there or not a mesh's.
    fn of(dir: &Path) -> Result<Option<Self>> {
        if !dir.exists() {
            return Ok(None);
        }
        let open = linux::files::open(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let held = Self::holding(dir.to_owned(), open);
        Ok(held.path.join(MARK).is_file().then_some(held))
    }

    fn holding(dir: PathBuf, open: OwnedFd) -> Self {
        let path = Path::new("/proc/self/fd").join(open.as_raw_fd().to_string());
        Self { dir, path, _open: open }
    }

    fn remove(&self, name: &OsStr) -> Result<()> {
        let path = self.path.join(name);
        let removed = match fs::symlink_metadata(&path) {
            // A link is removed and never followed, by both.
            Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing `{}`", self.dir.join(name).display()))
            }
            _ => Ok(()),
        }
    }
}

/// What is in the directory and not ours, by name.
fn foreign(dir: &Path) -> Result<Vec<OsString>> {
    let mut names = names_in(dir)?;
    names.retain(|name| !is_ours(name));
    names.sort();
    Ok(names)
}

/// Removes what is ours, and the directory if nothing else is in it; returns what else is. A directory that is not a
/// mesh's is left alone.
pub(crate) fn purge(dir: &Path) -> Result<Vec<OsString>> {
    let Some(held) = Held::of(dir)? else { return Ok(Vec::new()) };
    let mut ours = names_in(&held.path)?;
    ours.retain(|name| is_ours(name));
    // The mark last: until then a purge that failed can be done again.
    ours.sort_by_key(|name| name == MARK);
    ours.iter().try_for_each(|name| held.remove(name))?;
    let left = foreign(&held.path)?;
    if left.is_empty() {
        fs::remove_dir(dir).with_context(|| format!("removing `{}`", dir.display()))?;
    }
    Ok(left)
}

fn names_in(dir: &Path) -> Result<Vec<OsString>> {
    let listed = || -> std::io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    };
    match listed() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.with_context(|| format!("listing `{}`", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_mesh_are_told_from_others() {
        for name in ["lock", "store.redb", "pki", "kubeconfig", "kubeconfig-foo", "kubeconfig.part12", "port.part7"] {
            assert!(is_ours(OsStr::new(name)), "{name}");
        }
        for name in ["", "etc", "lock2", ".ssh", "kubeconfigs", "port2", "store.redb.bak"] {
            assert!(!is_ours(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn only_what_is_ours_is_purged_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (dir, outside) = (home.path().join("mesh"), home.path().join("outside"));
        for folder in [dir.join("pki"), dir.join("photos"), outside.clone()] {
            fs::create_dir_all(folder).unwrap();
        }
        for file in [dir.join("lock"), dir.join("pki/ca.crt"), dir.join("photos/one"), outside.join("precious")] {
            fs::write(file, "x").unwrap();
        }
        std::os::unix::fs::symlink(&outside, dir.join("logs")).unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("volumes")).unwrap();
        assert_eq!(purge(&dir).unwrap(), [""; 0], "it is not a mesh's");
        assert!(dir.join("pki/ca.crt").exists());
        fs::write(dir.join(MARK), "x").unwrap();
        forget_volumes(&dir).unwrap();
        assert!(outside.join("precious").exists());
        let other = home.path().join("other");
        std::os::unix::fs::symlink(&dir, &other).unwrap();
        assert!(purge(&other).is_err(), "a link is not followed to the directory either");
        assert_eq!(purge(&dir).unwrap(), ["photos"]);
        assert!(dir.join("photos/one").exists() && outside.join("precious").exists());
        assert_eq!(names_in(&dir).unwrap(), ["photos"]);

        fs::remove_dir_all(dir.join("photos")).unwrap();
        fs::write(dir.join(MARK), "x").unwrap();
        assert!(purge(&dir).unwrap().is_empty());
        assert!(!dir.exists());
    }
}
