//! Mounts of a process that has a mount namespace of its own.
//!
//! Sources are taken as handles ([`Tree`]) while the host's tree is still there; the root is changed; only then are
//! the handles put in place. No name inside a container's tree is ever resolved while the host's can be reached.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::Error;

/// A copy of one mount, not attached anywhere yet.
#[derive(Debug)]
pub struct Tree(OwnedFd);

/// What may be done in a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read, and run programs; no write, no set-user-id, no devices.
    ReadOnly,
    /// Also write.
    ReadWrite,
    /// A device that is to work, no programs. The device can be written; its file cannot be changed (mode, owner), which
    /// is the host's own.
    Device,
}

impl Access {
    const fn flags(self) -> MountFlags {
        let plain = MountFlags::NOSUID;
        match self {
            Self::ReadOnly => plain.union(MountFlags::NODEV).union(MountFlags::RDONLY),
            Self::ReadWrite => plain.union(MountFlags::NODEV),
            Self::Device => plain.union(MountFlags::NOEXEC).union(MountFlags::RDONLY),
        }
    }
}

/// The mount namespace that the caller is in.
pub fn namespace() -> Result<OwnedFd, Error> {
    let own = Path::new("/proc/self/ns/mnt");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(own, flags, rustix::fs::Mode::empty()).map_err(failed("open the mount namespace at", own))
}

/// Goes back into a mount namespace, to its root directory. The caller has one thread.
pub fn enter(namespace: &OwnedFd) -> Result<(), Error> {
    use std::os::fd::AsFd;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Mount))
        .map_err(failed("enter the mount namespace of", Path::new("a process")))
}

/// Takes a copy of the mount at `source`: of that one alone, not of mounts below it.
pub fn tree(source: &Path) -> Result<Tree, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, source, flags).map(Tree).map_err(failed("take the tree at", source))
}

/// The same of something in a directory that a user may write: no link is followed, and what belongs to anybody but
/// the caller is not taken, for a user has put it there.
pub fn tree_of_own(source: &Path) -> Result<Tree, Error> {
    let found = crate::files::open(source, rustix::fs::OFlags::PATH)?;
    let stat = rustix::fs::fstat(&found).map_err(failed("look at", source))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(failed("take the tree of somebody else at", source)(rustix::io::Errno::PERM));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(&found, c"", flags).map(Tree).map_err(failed("take the tree at", source))
}

/// Takes a copy of the mount at `source` on which nothing can be changed, whoever reaches it and by whatever name: no
/// content, no mode, no owner.
pub fn frozen(source: &Path) -> Result<Tree, Error> {
    let tree = tree(source)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    #[expect(unsafe_code, reason = "rustix has no mount_setattr")]
    // SAFETY: the descriptor, the empty name and the attributes live across the call, and the size is theirs; the kernel
    // only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.0.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if done == 0 {
        return Ok(tree);
    }
    Err(Error::Mount { doing: "freeze a copy of", path: source.to_owned(), source: io::Error::last_os_error() })
}

impl Tree {
    /// A name of it for this process and those that it is about to become.
    pub fn name(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Whether it is a directory; else it is a file.
    pub fn is_directory(&self) -> Result<bool, Error> {
        let stat = rustix::fs::fstat(&self.0).map_err(failed("look at a tree taken from", Path::new("the host")))?;
        Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
    }

    /// Puts the copy at `target`, which exists.
    pub fn attach(self, target: &Path, access: Access) -> Result<(), Error> {
        rustix::mount::move_mount(&self.0, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(failed("mount onto", target))?;
        remount(target, access)
    }
}

/// Stops mounts from spreading out of this namespace, or into it.
pub fn make_private() -> Result<(), Error> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(failed("make private the mounts below", Path::new("/")))
}

/// A new file system in memory; `options` as in `size=64m,mode=755`.
pub fn tmpfs(target: &Path, options: &CStr, access: Access) -> Result<(), Error> {
    rustix::mount::mount(c"tmpfs", target, c"tmpfs", access.flags(), options).map_err(failed("mount memory at", target))
}

/// Directories over one another, the lowest first, none of which is written to; what is changed goes into `upper`. `work`
/// is an empty directory beside it.
pub fn overlay(target: &Path, layers: &[OwnedFd], upper: &Path, work: &Path) -> Result<(), Error> {
    // The lowest last, and by handles: whatever their names lead to by now.
    let lower: Vec<String> = layers.iter().rev().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    let failed = failed("lay directories over one another at", target);
    let Ok(options) = CString::new(options) else { return Err(failed(rustix::io::Errno::INVAL)) };
    rustix::mount::mount(c"overlay", target, c"overlay", Access::ReadWrite.flags(), options.as_c_str()).map_err(failed)
}

/// The process table of the caller's own pid namespace.
pub fn proc(target: &Path) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(c"proc", target, c"proc", flags, None).map_err(failed("mount the process table at", target))
}

/// Terminals of its own.
pub fn devpts(target: &Path) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount(c"devpts", target, c"devpts", flags, c"newinstance,ptmxmode=0666,mode=0620")
        .map_err(failed("mount terminals at", target))
}

/// Makes what is at `target` read-only where it is, by a mount onto itself.
pub fn freeze(target: &Path) -> Result<(), Error> {
    rustix::mount::mount_bind(target, target).map_err(failed("mount onto itself", target))?;
    remount(target, Access::ReadOnly)
}

/// Sets what may be done in the mount at `target`.
pub fn remount(target: &Path, access: Access) -> Result<(), Error> {
    rustix::mount::mount_remount(target, MountFlags::BIND | access.flags(), c"")
        .map_err(failed("set the rights of the mount at", target))
}

/// Makes `root`, a mount, the root directory and lets go of everything that was visible before.
pub fn change_root(root: &Path) -> Result<(), Error> {
    rustix::process::chdir(root).map_err(failed("enter", root))?;
    // Old onto new: the old root then lies on top of "." and one unmount removes it.
    rustix::process::pivot_root(".", ".").map_err(failed("make the root directory", root))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("let go of the root directory before", root))?;
    rustix::process::chdir("/").map_err(failed("enter", Path::new("/")))
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(rustix::io::Errno) -> Error + 'a {
    move |errno| Error::Mount { doing, path: path.to_owned(), source: io::Error::from(errno) }
}
