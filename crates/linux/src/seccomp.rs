//! The system calls that a container may not make.
//!
//! Capabilities already refuse most of them; the filter is the second wall, and the only one against what needs no
//! capability: new user namespaces (inside one a process has every capability), `io_uring`, the key rings, BPF.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::Error;

/// Calls refused whatever their arguments.
const REFUSED: &[i64] = &[
    // Namespaces, mounts, roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // Handles that reach past the root directory.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_userfaultfd,
    // Programs and rings inside the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Key rings belong to users, not to namespaces.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Flags of `clone` that make namespaces.
const CLONE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Address families refused: the kernel's crypto interface, and sockets to the hypervisor, which know no namespace.
const FAMILIES: [i32; 2] = [libc::AF_ALG, libc::AF_VSOCK];

/// Requests that put characters into a terminal's input or reach the console's selection.
const REQUESTS: [u64; 2] = [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */];

/// On x86-64 the same table answers to numbers with this bit (the x32 interface): refuse those as well.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
/// `ptrace`, `kexec_load`, `process_vm_readv`, `process_vm_writev`, `move_pages` of the x32 interface have numbers of
/// their own.
#[cfg(target_arch = "x86_64")]
const X32_OWN: [i64; 5] = [521, 528, 539, 540, 533];

/// The compiled filters, in the order of installation.
#[derive(Debug)]
pub struct Filters(Vec<BpfProgram>);

/// The filters of a container.
pub fn container() -> Result<Filters, Error> {
    let refused = compile(refused_rules()?, libc::EPERM)?;
    // Arguments of clone3 lie in memory, where no filter sees them: "not implemented" makes libraries use clone.
    let absent = compile(both_interfaces([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?;
    Ok(Filters(vec![refused, absent]))
}

impl Filters {
    /// Puts the calling thread, and all that it starts, under the filters; also forbids new privileges.
    pub fn install(&self) -> Result<(), Error> {
        self.0.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(failed))
    }
}

fn refused_rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let plain = REFUSED.iter().map(|&number| (number, Vec::new()));
    let mut clone = Vec::new();
    for flag in CLONE_FLAGS {
        let flag = u64::from(flag.cast_unsigned());
        // On s390 alone the flags are the second argument.
        clone.push(rule(0, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    let mut socket = Vec::new();
    for family in FAMILIES {
        socket.push(rule(0, SeccompCmpOp::Eq, u64::from(family.cast_unsigned()))?);
    }
    let mut ioctl = Vec::new();
    for request in REQUESTS {
        ioctl.push(rule(1, SeccompCmpOp::Eq, request)?);
    }
    let judged = [(libc::SYS_clone, clone), (libc::SYS_socket, socket), (libc::SYS_ioctl, ioctl)];
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "x32 exists on x86-64 only"))]
    let mut rules = both_interfaces(plain.chain(judged));
    #[cfg(target_arch = "x86_64")]
    rules.extend(X32_OWN.map(|number| (number | X32, Vec::new())));
    Ok(rules)
}

fn both_interfaces(rules: impl IntoIterator<Item = (i64, Vec<SeccompRule>)>) -> BTreeMap<i64, Vec<SeccompRule>> {
    let mut all = BTreeMap::new();
    for (number, conditions) in rules {
        #[cfg(target_arch = "x86_64")]
        all.insert(number | X32, conditions.clone());
        all.insert(number, conditions);
    }
    all
}

fn rule(argument: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule, Error> {
    // The kernel takes 32 bits of each of these arguments; comparing 64 could be evaded by setting a high bit.
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value).map_err(built)?;
    SeccompRule::new(vec![condition]).map_err(built)
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, Error> {
    let target = std::env::consts::ARCH.try_into().map_err(built)?;
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, target).and_then(BpfProgram::try_from).map_err(built)
}

fn built(source: seccompiler::BackendError) -> Error {
    failed(source.into())
}

fn failed(source: seccompiler::Error) -> Error {
    Error::Seccomp { source }
}
