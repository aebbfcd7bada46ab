//! What of a mesh can be found on the machine from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::mesh::{Mesh, processes_of};

/// Everything of one mesh that a look at the machine can find.
pub fn traces(mesh: &Mesh) -> BTreeSet<String> {
    let id = mesh.id();
    let mut found = BTreeSet::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        if line.contains(&format!("/run/tidegate/{id}")) || line.contains(&mesh.data_dir().display().to_string()) {
            found.insert(format!("mount {line}"));
        }
    }
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains(&id) {
            found.insert(format!("link {name}"));
        }
    }
    let run = Path::new("/run/tidegate").join(&id);
    if run.exists() {
        found.insert(format!("directory {}", run.display()));
    }
    for (pid, words) in processes_of(&mesh.data_dir()) {
        found.insert(format!("process {pid} {words}"));
    }
    for folder in cgroups(Path::new("/sys/fs/cgroup"), &id) {
        found.insert(format!("cgroup {}", folder.display()));
    }
    found
}

fn cgroups(folder: &Path, id: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink());
    folders
        .flat_map(|path| {
            let ours = path.file_name().is_some_and(|name| name.to_string_lossy().contains(id));
            let mut below = cgroups(&path, id);
            below.extend(ours.then_some(path));
            below
        })
        .collect()
}
