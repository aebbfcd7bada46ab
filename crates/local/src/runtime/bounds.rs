//! What pods may take of the machine: a group for the mesh, and in it one for each pod.
//!
//! In a pod's group are the processes inside it and the parent of each `exec`; the parents of containers are outside, so
//! that a pod which takes all it may have cannot keep its end from being recorded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use linux::cgroup::{self, Bounds, Made};

use super::spec::{MEMORY_DEFAULT_BYTES, PROCESSES_DEFAULT};
use crate::Error;

/// Of the machine's memory and process numbers, what all pods of a mesh may have together: a quarter of the memory and half
/// of the numbers stay for the rest of the machine, however many pods take all they may.
const MEMORY_QUARTERS: u64 = 3;
const PROCESSES_HALVES: u64 = 1;

/// Where the meshes of a machine have their run directories, by which they are told apart.
const USUAL: &str = "/run/tidegate";

/// The name of a mesh's group: that of its run directory, found again by whoever knows that.
fn name(run_dir: &Path) -> String {
    let own = run_dir.strip_prefix(USUAL).unwrap_or(run_dir);
    let plain = |byte: char| if byte.is_ascii_alphanumeric() { byte } else { '-' };
    let own: String = own.to_string_lossy().trim_matches('/').chars().map(plain).collect();
    format!("tidegate-{own}")
}

/// Makes the group of a pod.
pub(super) fn make(run_dir: &Path, uid: &str, bounds: Bounds) -> Made {
    cgroup::make((&name(run_dir), of_mesh()), (uid, bounds))
}

/// The folder by which programs reach the sockets of all pods of a mesh, where groups of version 2 are.
pub(super) fn of_sockets(run_dir: &Path) -> Result<Option<PathBuf>, Error> {
    super::inside::kernel("make the group of a mesh", cgroup::unified(&name(run_dir)))
}

/// Removes the group of a pod.
pub(super) fn remove(run_dir: &Path, uid: &str) -> Result<(), Error> {
    super::inside::kernel("remove the bounds of a pod", cgroup::remove(&name(run_dir), Some(uid)))
}

/// Removes the groups of all pods of a mesh, and ends what is still in them.
pub(super) fn remove_all(run_dir: &Path) -> Result<(), Error> {
    super::inside::kernel("remove the bounds of pods", cgroup::remove(&name(run_dir), None))
}

/// Puts this process into the group of its pod.
pub(super) fn join(groups: &[PathBuf]) -> Result<(), Error> {
    super::inside::kernel("bound a container", groups.iter().try_for_each(|folder| cgroup::join(folder)))
}

/// Removes the groups of all pods of a mesh but those with these uids, and ends what is still in them.
pub(super) fn remove_all_but(run_dir: &Path, kept: &BTreeSet<String>) -> Result<(), Error> {
    let mesh = name(run_dir);
    let all = super::inside::kernel("list the bounds of pods", cgroup::children(&mesh))?;
    let gone = all.iter().filter(|uid| !kept.contains(*uid));
    super::inside::kernel(
        "remove the bounds of pods",
        gone.into_iter().try_for_each(|uid| cgroup::remove(&mesh, Some(uid))),
    )
}

pub(super) fn of_mesh() -> Bounds {
    let system = rustix::system::sysinfo();
    let memory = u64::from(system.mem_unit).saturating_mul(system.totalram);
    // The lower one is what the machine runs out of first; a kernel without these files has the old fixed number.
    let numbers = ["kernel/pid_max", "kernel/threads-max"].map(|name| linux::sysctl::read(name).ok()?.parse().ok());
    let numbers: u64 = numbers.into_iter().flatten().min().unwrap_or(32_768);
    Bounds {
        processes: (numbers / 2 * PROCESSES_HALVES).max(PROCESSES_DEFAULT),
        memory_bytes: (memory / 4 * MEMORY_QUARTERS).max(MEMORY_DEFAULT_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::{name, of_mesh};
    use std::path::Path;

    #[test]
    fn a_mesh_has_a_group_of_its_own_name_and_leaves_a_part_of_the_machine() {
        assert_eq!(name(Path::new("/run/tidegate/0a1b2c3d")), "tidegate-0a1b2c3d");
        assert_eq!(name(Path::new("/tmp/a.b/run")), "tidegate-tmp-a-b-run");
        let bounds = of_mesh();
        let total = rustix::system::sysinfo().totalram;
        assert!(bounds.memory_bytes < total && bounds.memory_bytes > total / 2, "{bounds:?}");
    }
}
