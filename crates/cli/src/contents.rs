//! What lies in a data directory: what is ours, and what is somebody else's and stays as it is.
//!
//! A mistyped `--data-dir` must cost nothing: a mesh is not made in a directory that is used for something else, and
//! of a directory only what a mesh makes is given away or removed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

/// The file that says that a directory is a mesh's.
pub(crate) const MARK: &str = "tidegate-mesh";

/// Everything that a mesh makes in its data directory, besides the kubeconfigs.
const OURS: [&str; 9] = [MARK, "lock", "store.redb", "pki", "port", "daemon.log", "bin", "volumes", "logs"];

/// Whether a mesh makes something of this name: one of `OURS`, or a kubeconfig, its namespace's name behind a dash.
pub(crate) fn is_ours(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let kubeconfig =
        name.strip_prefix("kubeconfig").is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']));
    let half_written = name.starts_with("port.part") || name.starts_with("tidegate-mesh.part");
    OURS.contains(&name) || kubeconfig || half_written
}

/// What is in the directory and not ours, by name.
fn foreign(dir: &Path) -> Result<Vec<OsString>> {
    let mut names = names_in(dir)?;
    names.retain(|name| !is_ours(name));
    names.sort();
    Ok(names)
}

/// Removes what is ours, and the directory if nothing else is in it; returns what else is.
pub(crate) fn purge(dir: &Path) -> Result<Vec<OsString>> {
    let mut ours = names_in(dir)?;
    ours.retain(|name| is_ours(name));
    // The mark last: until then a purge that failed can be done again.
    ours.sort_by_key(|name| name == MARK);
    for name in ours {
        let path = dir.join(name);
        let found = fs::symlink_metadata(&path).with_context(|| format!("`{}`", path.display()))?;
        // A link is removed and never followed, by both.
        let removed = if found.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("removing `{}`", path.display()))?;
    }
    let left = foreign(dir)?;
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
        assert_eq!(purge(&dir).unwrap(), ["photos"]);
        assert!(dir.join("photos/one").exists() && outside.join("precious").exists());
        assert_eq!(names_in(&dir).unwrap(), ["photos"]);

        fs::remove_dir_all(dir.join("photos")).unwrap();
        assert!(purge(&dir).unwrap().is_empty());
        assert!(!dir.exists());
    }
}
