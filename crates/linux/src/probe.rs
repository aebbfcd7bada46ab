//! Whether this kernel, and the rights of this process, suffice: each facility is tried for real, in namespaces made for
//! it, and what is missing is named with a way to get it.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use crate::Error;
use crate::bpf::{self, Loaded, Program, Reg};
use crate::cgroup::Bounds;
use crate::error::with_causes;
use crate::mount::{self, Access};
use crate::netlink::{Protocol, Socket};
use crate::netns::NetNs;
use crate::nft::{
    BaseChain, ChainKind, Element, Family, Field, Hook, Meta, NatKind, REGISTER, Rule, Set, Table, Transaction, Verdict,
};
use crate::route::{Router, VethEnd};
use crate::userns::{self, Ids};
use crate::{cgroup, diag, membarrier, nflog};

/// What became of one trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The facility.
    pub what: &'static str,
    /// What is wrong, if anything.
    pub trouble: Option<Trouble>,
    /// A mesh runs without it, and lacks something: what a mesh without root never has, or speed.
    pub is_limit: bool,
}

/// Why a facility cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What was answered.
    pub answer: String,
    /// What to do: the missing right, module or setting.
    pub fix: &'static str,
}

impl Probe {
    /// Whether the facility can be used.
    pub const fn is_ok(&self) -> bool {
        self.trouble.is_none()
    }

    fn of<E: Display + std::error::Error>(what: &'static str, fix: &'static str, outcome: Result<(), E>) -> Self {
        Self::told(what, outcome.err().map(|error| Trouble { answer: with_causes(&error), fix }))
    }

    const fn told(what: &'static str, trouble: Option<Trouble>) -> Self {
        Self { what, trouble, is_limit: false }
    }

    /// What became of the trial to make a user namespace.
    pub fn of_user_namespace(outcome: Result<(), Error>) -> Self {
        let fix = outcome.as_ref().err().map_or("", userns::why_not);
        Self::of("user namespace (a mesh without root)", fix, outcome)
    }
}

const AS_ROOT: &str = "run as root (sudo), or give the process this capability";

/// Capabilities that a mesh needs, with their numbers in linux/capability.h.
const CAPABILITIES: &[(&str, u32)] = &[
    ("capability CAP_SYS_ADMIN (namespaces, mounts)", 21),
    ("capability CAP_NET_ADMIN (links, routes, nftables)", 12),
    ("capability CAP_CHOWN (files of pods)", 0),
    ("capability CAP_DAC_OVERRIDE (files of other users)", 1),
    ("capability CAP_FOWNER (files of pods)", 3),
    ("capability CAP_KILL (processes of pods)", 5),
    ("capability CAP_SETGID (users of pods)", 6),
    ("capability CAP_SETUID (users of pods)", 7),
    ("capability CAP_SETPCAP (rights of pods)", 8),
    ("capability CAP_SYS_CHROOT (file systems of pods)", 18),
    ("capability CAP_MKNOD (devices of pods)", 27),
];

/// Tries everything. Leaves nothing behind; takes some tens of milliseconds.
pub fn all() -> Vec<Probe> {
    let mut probes = capabilities();
    probes.push(Probe::of(
        "network namespaces",
        "needs CAP_SYS_ADMIN and a kernel with CONFIG_NET_NS; see also `sysctl user.max_net_namespaces`",
        NetNs::create().map(drop),
    ));
    probes.extend(other_namespaces());
    probes.extend(file_systems());
    probes.push(groups());
    probes.extend(limits());
    probes.push(Probe::of("membarrier", "needs a kernel with CONFIG_MEMBARRIER", membarrier::global()));
    probes.extend(network());
    probes
}

fn capabilities() -> Vec<Probe> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let probe = |(what, number): &(&'static str, u32)| {
        let missing = held & (1 << number) == 0;
        let trouble = missing.then(|| Trouble { answer: "this process does not hold it".to_owned(), fix: AS_ROOT });
        Probe::told(what, trouble)
    };
    CAPABILITIES.iter().map(probe).collect()
}

fn other_namespaces() -> Vec<Probe> {
    let kinds = [
        ("mount namespaces", UnshareFlags::NEWNS, "needs CAP_SYS_ADMIN; see also `sysctl user.max_mnt_namespaces`"),
        (
            "pid namespaces",
            UnshareFlags::NEWPID,
            "needs CAP_SYS_ADMIN and CONFIG_PID_NS; `sysctl user.max_pid_namespaces`",
        ),
        (
            "uts namespaces",
            UnshareFlags::NEWUTS,
            "needs CAP_SYS_ADMIN and CONFIG_UTS_NS; `sysctl user.max_uts_namespaces`",
        ),
        (
            "ipc namespaces",
            UnshareFlags::NEWIPC,
            "needs CAP_SYS_ADMIN and CONFIG_IPC_NS; `sysctl user.max_ipc_namespaces`",
        ),
    ];
    kinds.into_iter().map(|(what, flag, fix)| Probe::of(what, fix, inside(flag, || Ok(())))).collect()
}

/// Enters a new namespace on a thread that ends there, and does something in it.
fn inside(flag: UnshareFlags, work: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
    let leave = move || {
        #[expect(unsafe_code, reason = "unshare of the descriptor table would be unsound; of a namespace it is not")]
        // SAFETY: the flag is a namespace, the descriptor table stays shared, and the thread ends right after.
        unsafe { rustix::thread::unshare_unsafe(flag) }.map_err(|errno| failed("make a namespace", errno.into()))?;
        work()
    };
    let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(leave);
    let thread = thread.map_err(|source| failed("start a thread", source))?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn failed(doing: &str, source: std::io::Error) -> Error {
    Error::Process { doing: doing.to_owned(), source }
}

/// Pods run without it, but nothing then bounds what they take of the machine.
fn groups() -> Probe {
    let what = "bounds of pods (cgroup: pids, memory, cpu)";
    let fix = "mount the cgroup hierarchies writable, with pids, memory and cpu; until then pods run unbounded";
    let name = format!("tidegate-probe-{}", std::process::id());
    let bounds = Bounds { processes: 1, memory_bytes: 1 << 20 };
    let made = cgroup::make((&name, bounds), ("pod", bounds));
    let removed = cgroup::remove(&name, None).err().map(|error| with_causes(&error));
    let lacks: Vec<String> = made.lacks.into_iter().chain(removed).collect();
    let trouble =
        (!lacks.is_empty()).then(|| Trouble { answer: format!("of a pod is not bounded {}", lacks.join("; ")), fix });
    Probe { is_limit: Ids::here().is_one_user(), ..Probe::told(what, trouble) }
}

/// What a mesh without root has not.
fn limits() -> Vec<Probe> {
    let limit = |what, answer: &str, fix| Probe {
        is_limit: true,
        ..Probe::told(what, Some(Trouble { answer: answer.to_owned(), fix }))
    };
    let mut limits = Vec::new();
    if Ids::here().is_one_user() {
        limits.push(limit(
            "users of pods",
            "there is one, user 0 of group 0, who is you outside; a pod or an image that asks for another is refused, and all \
             files of an image are that user's",
            "start the mesh as root, with sudo",
        ));
    }
    if !userns::owns_network() {
        limits.push(limit(
            "the machine's way to pods and services",
            "without root none can be laid; pods reach each other and services, the machine reaches neither",
            "`kubectl port-forward` and `kubectl exec`, or start the mesh as root, with sudo",
        ));
    }
    limits
}

/// What containers are built of, each tried in a namespace that goes with it.
fn file_systems() -> Vec<Probe> {
    vec![
        Probe::of("file system tmpfs", "needs a kernel with CONFIG_TMPFS", inside(UnshareFlags::NEWNS, memory)),
        Probe::of(
            "file system overlay",
            "`modprobe overlay`, or a kernel with CONFIG_OVERLAY_FS; without root Linux 5.11 or newer",
            inside(UnshareFlags::NEWNS, layers),
        ),
        Probe::of(
            "file system proc",
            "needs CONFIG_PROC_FS; without root also a /proc with nothing mounted over parts of it, as container engines do",
            inside(UnshareFlags::NEWPID, table_of_processes),
        ),
    ]
}

/// Where trials are mounted, in a mount namespace of their own.
const TRIALS: &str = "/tmp";

fn memory() -> Result<(), Error> {
    mount::make_private()?;
    mount::tmpfs(Path::new(TRIALS), c"size=64k", Access::ReadWrite)
}

fn layers() -> Result<(), Error> {
    memory()?;
    let [root, upper, work, layer] = ["root", "upper", "work", "layer"].map(|name| Path::new(TRIALS).join(name));
    for path in [&root, &upper, &work, &layer] {
        fs::create_dir(path).map_err(|source| Error::File { doing: "make", path: path.clone(), source })?;
    }
    let layer = crate::files::open(&layer, OFlags::RDONLY | OFlags::DIRECTORY)?;
    mount::overlay(&root, &[layer], &upper, &work)
}

/// In a new pid namespace are the children of whoever has made it.
fn table_of_processes() -> Result<(), Error> {
    let mut child = std::process::Command::new("/proc/self/exe");
    let table = || match mount::process_table_raw() {
        Ok(_table) => Err(std::io::Error::from(Errno::CANCELED)),
        Err(errno) => Err(errno.into()),
    };
    #[expect(unsafe_code, reason = "code between fork and exec")]
    // SAFETY: bare system calls, nothing that allocates or locks.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut child, table);
    }
    // It never becomes a program.
    match child.spawn() {
        Err(error) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => Ok(()),
        Err(error) => Err(failed("make a process table", error)),
        Ok(mut child) => child.wait().map(drop).map_err(|source| failed("make a process table", source)),
    }
}

/// Everything that is tried inside a network namespace; nothing if there is none.
fn network() -> Vec<Probe> {
    let (Ok(here), Ok(there)) = (NetNs::create(), NetNs::create()) else { return Vec::new() };
    let inside = here.run(|| {
        let mut probes = vec![
            Probe::of("veth links", "`modprobe veth`, or a kernel with CONFIG_VETH", veth(&there)),
            Probe::of(
                "IPv6",
                "boot without `ipv6.disable=1`; needs CONFIG_IPV6",
                fs::metadata("/proc/sys/net/ipv6/conf/all/forwarding").map(drop),
            ),
        ];
        probes.extend(nftables());
        probes.push(Probe::of(
            "nflog",
            "`modprobe nfnetlink_log nft_log nf_log_syslog`",
            nflog::Listener::open(1, 64).map(drop),
        ));
        probes.push(Probe::of("lists of sockets (sock_diag)", "`modprobe tcp_diag inet_diag`", sockets()));
        probes.push(socket_destroy());
        probes.push(programs());
        probes
    });
    inside.unwrap_or_default()
}

fn veth(other: &NetNs) -> Result<(), Error> {
    let end = |name| VethEnd { name, index: None, mac: [2, 0, 0, 0, 0, 1] };
    Router::open()?.add_veth(end("here"), end("there"), other)
}

const NFT: &str = "`modprobe nf_tables`, or a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET";

/// Each facility of nftables by itself, so that the missing one is named.
fn nftables() -> Vec<Probe> {
    let chain = |kind, hook, priority| BaseChain { kind, hook, priority, accept: true };
    let input = chain(ChainKind::Filter, Hook::Input, 0);
    let with_rule = |what, fix, base: BaseChain, rule: Rule| {
        let fill = move |t: &mut Transaction| {
            t.base_chain("c", base).rule("c", &rule);
        };
        Probe::of(what, fix, transaction(fill))
    };
    let tcp = || Rule::begin().meta(Meta::TransportProtocol, REGISTER).equals(REGISTER, &[6]);
    let to = Rule::begin().meta(Meta::NetworkFamily, REGISTER).equals(REGISTER, &[2]);
    let to = to.value(REGISTER, &[10, 0, 0, 1]).value(REGISTER + 4, &[0, 80]);
    let chance = Rule::begin().expression("numgen", |m| {
        m.be32(1, REGISTER).be32(2, 2).be32(3, 1).be32(4, 0);
    });
    vec![
        Probe::of("nftables", NFT, transaction(|_| {})),
        Probe::of(
            "nftables verdict maps of ranges (pipapo)",
            "needs Linux 5.6 or newer; `modprobe nf_tables`",
            transaction(intervals),
        ),
        with_rule("nftables reject with reset", "`modprobe nft_reject_inet`", input, tcp().reject_with_reset()),
        with_rule("nftables log", "`modprobe nft_log nfnetlink_log`", input, Rule::begin().log(1, "x", 64, 1)),
        with_rule(
            "nftables notrack",
            "`modprobe nft_ct`",
            chain(ChainKind::Filter, Hook::Prerouting, -300),
            Rule::begin().untracked(),
        ),
        with_rule("nftables random numbers", "`modprobe nft_numgen`", input, chance),
        with_rule(
            "nftables NAT and connection tracking",
            "`modprobe nft_chain_nat nft_nat nf_conntrack`",
            chain(ChainKind::Nat, Hook::Prerouting, -100),
            to.nat(NatKind::Destination, false, REGISTER, Some(REGISTER + 4)),
        ),
    ]
}

fn intervals(t: &mut Transaction) {
    let set = Set { name: "m".to_owned(), key: vec![Field::Ipv4, Field::Port], intervals: true, verdicts: true };
    let element = Element::between(&[&[10, 0, 0, 0], &[0, 1]], &[&[10, 0, 0, 9], &[0, 9]]).with(Verdict::Accept);
    t.set(&set).add(&set, &[element]);
}

/// A table of its own for each trial, in a namespace that goes with it.
fn transaction(fill: impl FnOnce(&mut Transaction)) -> Result<(), Error> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut t = Transaction::on(&Table::named(Family::Inet, "tidegate-probe"));
    t.delete_table().create_table();
    fill(&mut t);
    t.commit(&mut socket)
}

fn sockets() -> Result<(), Error> {
    diag::tcp(&mut Socket::open(Protocol::SockDiag)?, &diag::State::ALL).map(drop)
}

/// Packets go their way without it.
fn programs() -> Probe {
    let what = "programs for packets (eBPF)";
    let fix = "needs root and Linux 6.6 or newer; until then packets between pods take the longer way, which costs time alone";
    let mut nothing = Program::new();
    nothing.set(Reg::R0, bpf::PASS_ON).exit();
    // The kernel gives `lo` this number in every namespace.
    let lo = 1;
    let tried = Loaded::new(bpf::Hook::Ingress, &nothing, "tidegate_probe").and_then(|loaded| loaded.attach(lo));
    Probe { is_limit: true, ..Probe::of(what, fix, tried.map(drop)) }
}

/// Ends a real connection from outside and looks whether it ended.
fn socket_destroy() -> Probe {
    let what = "ending of connections (sock_diag destroy)";
    let fix = "needs a kernel with CONFIG_INET_DIAG_DESTROY, and CAP_NET_ADMIN";
    let trouble = |answer: String| Probe::told(what, Some(Trouble { answer, fix }));
    match destroyed() {
        Ok(true) => Probe::told(what, None),
        Ok(false) => trouble("the connection was still open".to_owned()),
        Err(error) => trouble(with_causes(&error)),
    }
}

fn destroyed() -> Result<bool, Error> {
    let made = |doing: &'static str| move |source| Error::Netns { doing: doing.to_owned(), source };
    let mut router = Router::open()?;
    if let Some(lo) = router.link("lo")? {
        router.set_up(lo.index)?;
    }
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(made("listen for a trial"))?;
    let address = listener.local_addr().map_err(made("listen for a trial"))?;
    let client = std::net::TcpStream::connect(address).map_err(made("connect for a trial"))?;
    let own = client.local_addr().map_err(made("connect for a trial"))?;
    let mut socket = Socket::open(Protocol::SockDiag)?;
    let all = diag::tcp(&mut socket, &diag::State::CONNECTED)?;
    let Some(victim) = all.iter().find(|one| one.local == own) else { return Ok(false) };
    diag::destroy(&mut socket, victim)?;
    Ok(!diag::tcp(&mut socket, &diag::State::CONNECTED)?.iter().any(|one| one.local == own && one.remote == address))
}

#[cfg(test)]
mod tests {
    use super::{all, transaction};
    use crate::nft::{BaseChain, ChainKind, Hook, Rule};

    #[test]
    fn everything_is_there_on_the_machine_that_runs_the_tests() {
        let probes = all();
        let missing: Vec<_> = probes.iter().filter(|probe| !probe.is_ok()).collect();
        assert_eq!(missing, Vec::<&super::Probe>::new());
        assert!(probes.iter().any(|probe| probe.what == "nftables NAT and connection tracking"));
    }

    #[test]
    fn what_the_kernel_refuses_is_told_with_its_answer_and_a_fix() {
        let unknown = crate::netns::NetNs::create().unwrap().run(|| {
            transaction(|t| {
                let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 0, accept: true };
                t.base_chain("c", base).rule("c", &Rule::begin().expression("no-such-thing", |_| {}));
            })
        });
        let probe = super::Probe::of("a thing", "get it", unknown.unwrap());
        let trouble = probe.trouble.unwrap();
        assert!(trouble.answer.contains("No such file or directory"), "{}", trouble.answer);
        assert_eq!(trouble.fix, "get it");
    }
}
