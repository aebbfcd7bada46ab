//! Files in memory that the containers of a pod share, and that last as long as the pod: file systems in the mount
//! namespace of its first process. Nothing of them is ever mounted on the host, and nothing is left to be unmounted.

use std::path::{Path, PathBuf};

use linux::mount::{self, Access, Tree};
use linux::pidfd::PidFd;
use linux::process::{self, Namespaces};

use super::inside::kernel;
use super::rootfs;
use super::spec::MemoryMount;
use crate::Error;

/// Files of one such directory: enough to unpack a source tree, and a bound on the kernel's own memory for them.
const FILES_MAX: u32 = 16 * 1024;

/// Makes the root directory of the first process of a pod: these directories, each as large as it may be, and nothing else.
/// The caller has a mount namespace of its own.
pub(super) fn hold(scratch: &Path, memory: &[String]) -> Result<(), Error> {
    // The root and the directories below it.
    let root = rootfs::c_string(format!("mode=0555,size=4k,nr_inodes={}", memory.len() + 1))?;
    kernel("hold a pod", mount::tmpfs(scratch, &root, Access::ReadWrite))?;
    kernel("hold a pod", mount::change_root(scratch))?;
    for one in memory {
        let Some((bytes, name)) = one.split_once(':') else { continue };
        let path = Path::new("/").join(name);
        rootfs::directory(&path, 0o755)?;
        // Any user of the pod may write it, as an `emptyDir` is.
        let options = rootfs::c_string(format!("mode=0777,size={bytes},nr_inodes={FILES_MAX}"))?;
        kernel("hold a pod", mount::tmpfs(&path, &options, Access::ReadWrite))?;
    }
    kernel("hold a pod", mount::remount(Path::new("/"), Access::ReadOnly))
}

/// Takes hold of what a container sees of these directories, and comes back. The caller has one thread.
pub(super) fn take(pod: &PidFd, wanted: &[MemoryMount]) -> Result<Vec<(Tree, PathBuf, Access)>, Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let back = kernel("start a container", mount::namespace())?;
    kernel("start a container", process::enter(pod, Namespaces::MOUNT))?;
    let tree = |one: &MemoryMount| {
        let access = if one.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let tree = kernel("show files in memory to a container", mount::tree(&Path::new("/").join(&one.name)))?;
        Ok((tree, rootfs::inside(&one.target)?, access))
    };
    let taken = wanted.iter().map(tree).collect();
    kernel("start a container", mount::enter(&back))?;
    taken
}
