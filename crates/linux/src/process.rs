//! What a small, single-threaded process does to itself before it becomes something else: enter namespaces, make new
//! ones, close what it inherited.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

use crate::Error;
use crate::pidfd::PidFd;
use crate::userns::Ids;

pub use rustix::thread::ThreadNameSpaceType as Namespaces;

/// Enters namespaces of the process; a pid namespace counts for children only. The caller has one thread.
pub fn enter(process: &PidFd, namespaces: Namespaces) -> Result<(), Error> {
    use std::os::fd::AsFd;
    rustix::thread::move_into_thread_name_spaces(process.as_fd(), namespaces)
        .map_err(failed("enter the namespaces of a pod"))
}

/// Enters a network namespace.
pub fn enter_network(namespace: &OwnedFd) -> Result<(), Error> {
    use std::os::fd::AsFd;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(failed("enter the network namespace of a pod"))
}

/// Makes namespaces of its own for System V objects, the host's name, and processes (children only).
pub fn unshare_pod() -> Result<(), Error> {
    unshare(UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWPID)
}

/// Makes a namespace of its own for mounts.
pub fn unshare_mounts() -> Result<(), Error> {
    unshare(UnshareFlags::NEWNS)
}

fn unshare(flags: UnshareFlags) -> Result<(), Error> {
    #[expect(unsafe_code, reason = "unsharing descriptors would be unsound; these flags are namespaces only")]
    // SAFETY: no flag here unshares the descriptor table.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(failed("make namespaces"))
}

/// Names the host, in the namespace the caller is in.
pub fn set_host_name(name: &str) -> Result<(), Error> {
    rustix::system::sethostname(name.as_bytes()).map_err(failed("name the host of a pod"))
}

/// Nobody without `CAP_SYS_PTRACE` may look at this process or its program, whatever it gives up from here on.
pub fn hide() -> Result<(), Error> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("hide a process"))
}

/// Marks every descriptor beyond the three standard ones to be closed when a program is run: what the starter of the
/// mesh had open must not reach a pod.
pub fn seal_descriptors() -> Result<(), Error> {
    for number in open_descriptors()? {
        match set_inherited(number, false) {
            // The one that the list itself was read through.
            Err(rustix::io::Errno::BADF) | Ok(()) => {}
            Err(errno) => return Err(failed("seal a descriptor")(errno)),
        }
    }
    Ok(())
}

/// Closes every descriptor beyond the three standard ones: for a program that lasts longer than who started it, and that has
/// opened nothing itself yet.
pub fn close_descriptors() -> Result<(), Error> {
    for number in open_descriptors()? {
        match adopt(number) {
            Ok(descriptor) => drop(descriptor),
            // The one that the list itself was read through.
            Err(error) if error.errno() == Some(rustix::io::Errno::BADF.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open_descriptors() -> Result<Vec<RawFd>, Error> {
    let listed = std::fs::read_dir("/proc/self/fd").map_err(failed_io("list open descriptors"))?;
    Ok(listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|&fd| fd > 2).collect())
}

/// Lets the next program have this descriptor.
pub fn inherit(descriptor: &impl AsRawFd) -> Result<(), Error> {
    set_inherited(descriptor.as_raw_fd(), true).map_err(failed("pass on a descriptor"))
}

/// Takes over a descriptor that the starter passed on by its number; it goes no further, and closes when dropped.
pub fn adopt(number: RawFd) -> Result<OwnedFd, Error> {
    if number < 3 {
        return Err(failed("take a descriptor from the starter")(rustix::io::Errno::BADF));
    }
    set_inherited(number, false).map_err(failed("take a descriptor from the starter"))?;
    #[expect(unsafe_code, reason = "a number from the starter becomes a descriptor")]
    // SAFETY: it is open, as the line above has shown, and nothing in this program has opened it: the starter has.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn set_inherited(number: RawFd, inherited: bool) -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "descriptors named by number")]
    // SAFETY: used for this call only, and the kernel says if the number is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(descriptor, if inherited { FdFlags::empty() } else { FdFlags::CLOEXEC })
}

/// Children that end are forgotten at once, also those that other processes leave behind (for the first process of a
/// pid namespace). Programs run from here inherit it.
pub fn forget_children() -> Result<(), Error> {
    set_child_signal(libc::SIG_IGN)
}

/// Undoes [`forget_children`], which is inherited by programs.
pub fn mind_children() -> Result<(), Error> {
    set_child_signal(libc::SIG_DFL)
}

fn set_child_signal(disposition: libc::sighandler_t) -> Result<(), Error> {
    #[expect(unsafe_code, reason = "no safe call for a signal's disposition")]
    // SAFETY: neither disposition is a function.
    let before = unsafe { libc::signal(libc::SIGCHLD, disposition) };
    if before == libc::SIG_ERR {
        return Err(failed_io("set what the end of a child does")(io::Error::last_os_error()));
    }
    Ok(())
}

/// Processes of all pods of a mesh without root together, for which there is no other bound: 500 pods have four each, and as
/// many small programs as this leave a machine usable.
const PROCESSES_OF_ONE_USER: u64 = 8192;

/// Bounds what a container's processes can hold. `ids` are those that the caller can name.
pub fn limit(ids: &Ids) -> Result<(), Error> {
    // Enough for servers with tens of thousands of connections; what containers usually get is higher and makes some
    // programs slow, because they close every possible descriptor.
    let descriptors = 65_536;
    // The kernel counts processes of a user in its namespace; user 0 of the machine it does not bind.
    let processes = ids.is_one_user().then_some((Resource::Nproc, PROCESSES_OF_ONE_USER));
    for (resource, most) in [(Resource::Nofile, descriptors), (Resource::Core, 0)].into_iter().chain(processes) {
        // What the starter itself may not exceed needs a right to raise: leave it.
        let most = rustix::process::getrlimit(resource).maximum.map_or(most, |allowed| allowed.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(failed("bound a container"))?;
    }
    Ok(())
}

/// Becomes a user with a group and nothing else; the caller has one thread. Gives up all capabilities unless it is
/// user 0. `ids` are those that the caller can name.
pub fn become_user(ids: &Ids, user: u32, group: u32, more_groups: &[u32]) -> Result<(), Error> {
    let has_all = ids.has_user(user)
        && ids.has_group(group)
        && more_groups.iter().all(|further| *further == group || ids.has_further_group(*further));
    if !has_all {
        let doing = format!("run as user {user}, group {group}, further groups {more_groups:?}");
        return Err(Error::Process { doing, source: io::Error::other(ONE_USER) });
    }
    let group = Gid::from_raw(group);
    let more: Vec<Gid> = more_groups.iter().copied().map(Gid::from_raw).collect();
    let user = Uid::from_raw(user);
    // In a user namespace that a user without root has made nobody can leave a group: those of that user stay, and of the
    // machine's files a container sees none that they open.
    if ids.sets_groups() {
        rustix::thread::set_thread_groups(&more).map_err(failed("set the groups of a container"))?;
    }
    rustix::thread::set_thread_res_gid(group, group, group).map_err(failed("set the group of a container"))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(failed("set the user of a container"))
}

/// Why there are no other users.
const ONE_USER: &str = "the mesh was started without root and has one user, who is user 0, group 0 in its pods; \
                        run as that one, or start the mesh as root";

/// Starts a session, so that signals of the starter's terminal do not reach this process.
pub fn leave_session() -> Result<(), Error> {
    rustix::process::setsid().map(drop).map_err(failed("start a session"))
}

/// The command will lead a session of its own whose terminal is its standard input.
pub fn with_terminal(command: &mut Command) -> &mut Command {
    let take = || -> io::Result<()> {
        rustix::process::setsid()?;
        Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
    };
    #[expect(unsafe_code, reason = "code between fork and exec")]
    // SAFETY: two bare system calls, nothing that allocates or locks.
    unsafe {
        command.pre_exec(take)
    }
}

/// The command will be killed when the thread that starts it ends, however it ends.
pub fn ends_with_starter(command: &mut Command) -> &mut Command {
    let starter = rustix::process::getpid();
    let take = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // A starter that had ended before sends no signal any more.
        if rustix::process::getppid() == Some(starter) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    #[expect(unsafe_code, reason = "code between fork and exec")]
    // SAFETY: two bare system calls, nothing that allocates or locks.
    unsafe {
        command.pre_exec(take)
    }
}

fn failed(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |errno| Error::Process { doing: doing.to_owned(), source: errno.into() }
}

fn failed_io(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Process { doing: doing.to_owned(), source }
}

/// All namespaces of a pod's sandbox that a container shares.
pub const SHARED: Namespaces = ThreadNameSpaceType::NETWORK
    .union(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION)
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME);
