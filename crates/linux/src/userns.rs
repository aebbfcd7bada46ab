//! User namespaces: how a user without root becomes user 0 of namespaces of its own, and which users there are in one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::MountPropagationFlags;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::Error;
use crate::pidfd::PidFd;

/// Which users and groups the calling process can name. With root's rights on the machine: all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    users: Vec<Range>,
    groups: Vec<Range>,
    sets_groups: bool,
}

/// Numbers that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

impl Range {
    const fn has(self, id: u32) -> bool {
        id >= self.first && id - self.first < self.count
    }
}

impl Ids {
    /// Those of the user namespace that the caller is in. What cannot be read is not there.
    pub fn here() -> Self {
        let read = |name: &str| fs::read_to_string(Path::new("/proc/self").join(name)).unwrap_or_default();
        Self::of(&read("uid_map"), &read("gid_map"), &read("setgroups"))
    }

    /// Those that the texts of `/proc/PID/{uid_map,gid_map,setgroups}` speak of.
    pub fn of(users: &str, groups: &str, setgroups: &str) -> Self {
        Self { users: ranges(users), groups: ranges(groups), sets_groups: setgroups.trim() == "allow" }
    }

    /// Whether a process can become this user.
    pub fn has_user(&self, id: u32) -> bool {
        self.users.iter().any(|range| range.has(id))
    }

    /// Whether a process can have this group as its own.
    pub fn has_group(&self, id: u32) -> bool {
        self.groups.iter().any(|range| range.has(id))
    }

    /// Whether a process can have this group besides its own.
    pub fn has_further_group(&self, id: u32) -> bool {
        self.sets_groups && self.has_group(id)
    }

    /// Whether a process can say which groups it has besides its own; else it keeps those that it has.
    pub const fn sets_groups(&self) -> bool {
        self.sets_groups
    }

    /// The last of the groups that follow group 0.
    pub(crate) fn last_group(&self) -> u32 {
        let first = self.groups.iter().find(|range| range.first == 0);
        first.map_or(0, |range| range.count.saturating_sub(1))
    }

    /// Whether there is one user alone, as in a namespace that a user without root has made.
    pub fn is_one_user(&self) -> bool {
        matches!(self.users.as_slice(), [Range { first: 0, count: 1 }])
    }
}

/// The value of `net.ipv4.ping_group_range` that lets every group of this user namespace send echo requests.
pub fn all_groups() -> String {
    // The kernel takes no higher number.
    format!("0 {}", Ids::here().last_group().min(u32::MAX >> 1))
}

fn ranges(map: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace();
        // Inside, outside, how many.
        let (first, count) = (numbers.next()?, numbers.nth(1)?);
        Some(Range { first: first.parse().ok()?, count: count.parse().ok()? })
    };
    map.lines().filter_map(range).collect()
}

/// The number of the namespace that the machine starts with (`PROC_USER_INIT_INO` in the kernel).
const INITIAL: u64 = 0xefff_fffd;

/// Whether the caller is in the user namespace that the machine starts with. What cannot be told is no.
pub fn is_initial() -> bool {
    fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() == INITIAL)
}

/// Whether the network namespace that the caller is in belongs to its user namespace or to one below, so that its user 0
/// may change links and rules there.
pub fn owns_network() -> bool {
    let owner = || -> io::Result<u64> {
        let network = fs::File::open("/proc/self/ns/net")?;
        #[expect(unsafe_code, reason = "rustix has no call for the owner of a namespace")]
        // SAFETY: the request takes no argument and returns a new descriptor or -1.
        let number = unsafe { libc::ioctl(network.as_raw_fd(), NS_GET_USERNS) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        #[expect(unsafe_code, reason = "a number from the kernel becomes a descriptor")]
        // SAFETY: the kernel has just made it, and nobody else knows it.
        let owner = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(rustix::fs::fstat(&owner)?.st_ino)
    };
    // The kernel refuses to show an owner that lies above the caller.
    owner().is_ok()
}

/// `_IO(0xb7, 1)` of linux/nsfs.h.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// Leaves for a user namespace of its own, in which the caller is user 0 and nobody else is anybody, and a namespace for
/// mounts in it. Mounts and unmounts of the machine go on being seen there, and none goes back. The caller has one thread.
pub fn make() -> Result<(), Error> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    #[expect(unsafe_code, reason = "unsharing descriptors would be unsound; these flags are namespaces only")]
    // SAFETY: no flag here unshares the descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
        .map_err(|errno| failed("make a user namespace", errno.into()))?;
    let write = |file: &str, text: String| {
        let written = fs::write(Path::new("/proc/self").join(file), text);
        written.map_err(|source| failed("become user 0 of a user namespace", source))
    };
    // The kernel asks for this first: who could leave groups could reach what is closed to them.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {user} 1"))?;
    write("gid_map", format!("0 {group} 1"))?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags)
        .map_err(|errno| failed("change mounts in a user namespace of its own", errno.into()))
}

/// Enters the user namespace of a process of the caller's own user, and its namespace for mounts. The caller has one
/// thread, and is at the root directory afterwards.
pub fn enter(process: &PidFd) -> Result<(), Error> {
    let both = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
    rustix::thread::move_into_thread_name_spaces(process.as_fd(), both)
        .map_err(|errno| failed("enter the user namespace of the mesh", errno.into()))
}

fn failed(doing: &str, source: io::Error) -> Error {
    Error::Process { doing: doing.to_owned(), source }
}

/// Settings that forbid user namespaces: name below `/proc/sys`, the value that forbids, how to allow them.
const FORBID: [(&str, &str, &str); 3] = [
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "the setting kernel.unprivileged_userns_clone is 0; as root: sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "the setting user.max_user_namespaces is 0; as root: sysctl -w user.max_user_namespaces=15000",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "the setting kernel.apparmor_restrict_unprivileged_userns is 1; as root: sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0, or give this program an AppArmor profile with `userns,`",
    ),
];

/// Why [`make`] failed, and what to do: the setting that forbids it, or what the kernel's answer stands for.
pub fn why_not(error: &Error) -> &'static str {
    why(|name| crate::sysctl::read(name).ok(), error.errno())
}

fn why(setting: impl Fn(&str) -> Option<String>, errno: Option<i32>) -> &'static str {
    let forbids = FORBID.iter().find(|(name, forbids, _)| setting(name).as_deref() == Some(forbids));
    forbids.map_or_else(|| what_it_stands_for(errno), |(_, _, why)| why)
}

fn what_it_stands_for(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::ENOSPC | libc::EUSERS) => {
            "there are as many of them as user.max_user_namespaces allows, or they lie 32 deep; as root: sysctl -w \
             user.max_user_namespaces=15000"
        }
        Some(libc::EINVAL | libc::ENOSYS) => "this kernel has none; it needs CONFIG_USER_NS",
        _ => {
            "something on this machine forbids them: a filter of system calls (as container engines have), a security \
             module, or a changed root directory"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_all_users_and_a_namespace_of_a_users_own_has_one() {
        let here = Ids::here();
        assert!(here.has_user(0) && here.has_user(1337) && here.has_further_group(1337) && !here.is_one_user());
        assert!(is_initial() && owns_network());
        let own = Ids::of("         0      65534          1\n", "         0      65534          1\n", "deny\n");
        assert!(own.is_one_user() && own.has_user(0) && own.has_group(0));
        assert!(!own.has_user(1) && !own.has_group(65534) && !own.has_further_group(0) && !own.sets_groups());
        assert_eq!(own.last_group(), 0);
        let many = Ids::of("0 1000 1\n1 100000 65536\n", "0 1000 1\n1 100000 65536\n", "allow\n");
        assert!(many.has_user(65536) && !many.has_user(65537) && many.has_further_group(7) && !many.is_one_user());
        let none = Ids::of("", "nonsense\n", "");
        assert!(!none.has_user(0) && !none.has_group(0), "what cannot be read is not there");
        assert_eq!(all_groups(), "0 2147483647");
    }

    #[test]
    fn what_forbids_a_user_namespace_is_named_with_what_to_do() {
        let none = |_: &str| None;
        for (errno, wanted) in [
            (libc::ENOSPC, "user.max_user_namespaces"),
            (libc::EINVAL, "CONFIG_USER_NS"),
            (libc::EPERM, "a filter of system calls"),
            (libc::EACCES, "security module"),
        ] {
            assert!(why(none, Some(errno)).contains(wanted), "{errno}");
        }
        for (name, value, wanted) in [
            ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
            ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
            (
                "kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ] {
            let is = |set: &'static str| move |asked: &str| (asked == name).then(|| set.to_owned());
            assert!(why(is(value), Some(libc::EPERM)).contains(wanted), "{name}");
            assert!(!why(is("7"), Some(libc::EPERM)).contains("sysctl"), "{name}");
        }
    }
}
