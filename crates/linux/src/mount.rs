//! Mounts of a process that has a mount namespace of its own.
//!
//! Sources are taken as handles ([`Tree`]) while the host's tree is still there; the root is changed; only then are
//! the handles put in place. No name inside a container's tree is ever resolved while the host's can be reached.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

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
    /// Read and write, no programs.
    Plain,
}

impl Access {
    const fn flags(self) -> MountFlags {
        let plain = MountFlags::NOSUID;
        match self {
            Self::ReadOnly => plain.union(MountFlags::NODEV).union(MountFlags::RDONLY),
            Self::ReadWrite => plain.union(MountFlags::NODEV),
            Self::Plain => plain.union(MountFlags::NODEV).union(MountFlags::NOEXEC),
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
        return Err(failed("take the tree of somebody else at", source)(Errno::PERM));
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
    // Notes of overlayfs lie where user 0 of a user namespace may write them, and `Within` has put them there.
    let notes = if crate::userns::is_initial() { "" } else { ",userxattr" };
    let options =
        format!("lowerdir={},upperdir={},workdir={}{notes}", lower.join(":"), upper.display(), work.display());
    let failed = failed("lay directories over one another at", target);
    let Ok(options) = CString::new(options) else { return Err(failed(Errno::INVAL)) };
    rustix::mount::mount(c"overlay", target, c"overlay", Access::ReadWrite.flags(), options.as_c_str()).map_err(failed)
}

/// The process table of the caller's own pid namespace, not attached anywhere yet. To be taken while the machine's own can
/// be seen: in a user namespace the kernel gives it to nobody else.
pub fn process_table() -> Result<Tree, Error> {
    process_table_raw().map(Tree).map_err(failed("make a process table for", Path::new("/proc")))
}

/// The same in bare system calls.
pub(crate) fn process_table_raw() -> rustix::io::Result<OwnedFd> {
    let system = rustix::mount::fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&system)?;
    let rights =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, rights)
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
    let set = |flags: MountFlags| rustix::mount::mount_remount(target, MountFlags::BIND | flags, c"");
    match set(access.flags()) {
        // In a user namespace what the machine forbids in a mount stays forbidden.
        Err(Errno::PERM) => forbidden_at(target).and_then(|forbidden| set(access.flags() | forbidden)),
        done => done,
    }
    .map_err(failed("set the rights of the mount at", target))
}

/// What may not be done in the mount at `target` as it is.
fn forbidden_at(target: &Path) -> rustix::io::Result<MountFlags> {
    let found = rustix::fs::statvfs(target)?.f_flag;
    let forbidden = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ];
    let is_set = forbidden.into_iter().filter(|(flag, _)| found.contains(*flag));
    Ok(is_set.fold(MountFlags::empty(), |all, (_, flag)| all | flag))
}

/// Lets go of the mount at `target`, if there is one.
pub fn let_go(target: &Path) -> Result<(), Error> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not a mount, or not there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("let go of the mount at", target)(errno)),
    }
}

/// Makes `root`, a mount, the root directory and lets go of everything that was visible before.
pub fn change_root(root: &Path) -> Result<(), Error> {
    rustix::process::chdir(root).map_err(failed("enter", root))?;
    // Old onto new: the old root then lies on top of "." and one unmount removes it.
    rustix::process::pivot_root(".", ".").map_err(failed("make the root directory", root))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("let go of the root directory before", root))?;
    rustix::process::chdir("/").map_err(failed("enter", Path::new("/")))
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(Errno) -> Error + 'a {
    move |errno| Error::Mount { doing, path: path.to_owned(), source: io::Error::from(errno) }
}
