//! Links of pods: made, remembered by their pins, taken away.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use linux::netns::{NetNs, unpin};
use linux::route::{Mac, Route, Router, Target, VethEnd};

use super::lay::{QUIET_SYSCTLS, absent_is_fine, settle};
use super::{PodAddresses, Ranges};
use crate::Error;
use crate::error::doing;
use crate::ipam::Pool;

/// Indexes of pod links are this plus the pod's number, in both namespaces: known without asking, and clear of the
/// links that the kernel or the host link have.
const FIRST_INDEX: u32 = 1000;
/// Name of the link inside a pod, as everywhere.
const POD_END: &str = "eth0";

/// Kernel settings of a pod's namespace.
const POD_SYSCTLS: &[(&str, &str)] = &[
    // A pod is no router, whatever the host is or new namespaces are told to take over from it.
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    // Any port without a capability, as container engines do.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    // With cookies, a SYN accepted under an old table leaves no socket to destroy.
    ("net/ipv4/tcp_syncookies", "0"),
];

/// Settings that the kernel reckons from the slots of the table of connections. The node's table is the host's: a pod gets
/// what the host would give it, and not what its own few slots come to.
const RECKONED: [&str; 2] = ["net/ipv4/tcp_max_syn_backlog", "net/ipv4/tcp_max_tw_buckets"];

/// `ping` without the capability for it, for every group that there is.
const PING_GROUPS: &str = "net/ipv4/ping_group_range";

/// Destroying an MPTCP subflow resets nothing, so there is no MPTCP; kernels without it have no such setting.
const NO_MPTCP: &str = "net/mptcp/enabled";

/// The link of one pod.
#[derive(Debug, Clone)]
pub struct PodLink {
    /// Uid of the pod.
    pub uid: String,
    /// Its network namespace.
    pub netns: NetNs,
    /// Where the namespace is pinned.
    pub path: PathBuf,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Source of a connection to itself through a VIP: tables must know it as this pod.
    pub alias_v4: Ipv4Addr,
    /// Source of a connection to itself through a VIP.
    pub alias_v6: Ipv6Addr,
    /// Index of the link's end in the node namespace.
    pub node_link: u32,
    pub(super) number: u32,
}

impl PodLink {
    /// The handle of the namespace, as the data plane takes it.
    pub fn handle(&self) -> Arc<OwnedFd> {
        Arc::clone(self.netns.handle())
    }
}

/// All links of a node.
#[derive(Debug)]
pub(super) struct Pods {
    links: BTreeMap<String, PodLink>,
    pool: Pool,
}

impl Pods {
    /// Takes over the pods whose pin and link are whole; the rest of what is found is removed.
    pub(super) fn adopt(run_dir: &Path, ranges: &Ranges, router: &mut Router) -> Result<Self, Error> {
        let there = doing("list the links of pods", router.links())?;
        let mut links = BTreeMap::new();
        for pin in pins(run_dir)? {
            let link = pin.link(ranges);
            match link.filter(|link| there.iter().any(|found| found.index == link.node_link && found.up)) {
                Some(link) => {
                    links.insert(link.uid.clone(), link);
                }
                None => {
                    doing("remove what is left of a pod's namespace", unpin(&pin.path))?;
                }
            }
        }
        for stray in there.iter().filter(|link| link.index >= FIRST_INDEX) {
            if !links.values().any(|link: &PodLink| link.node_link == stray.index) {
                doing(format!("remove the stray link `{}`", stray.name), router.delete_link(stray.index))?;
            }
        }
        let pool = Pool::new(ranges.pods_v4.usable(), links.values().map(|link| link.number));
        Ok(Self { links, pool })
    }

    pub(super) fn get(&self, uid: &str) -> Option<&PodLink> {
        self.links.get(uid)
    }

    pub(super) fn links(&self) -> Vec<PodLink> {
        self.links.values().cloned().collect()
    }

    /// Makes the link of a pod that has none.
    pub(super) fn make(
        &mut self,
        node: &Site<'_>,
        router: &mut Router,
        uid: &str,
        now: Duration,
    ) -> Result<PodLink, Error> {
        if !is_plain_name(uid) {
            return Err(Error::PodUid { uid: uid.to_owned() });
        }
        let number = self.pool.allocate(now)?;
        let made = make(node, router, uid, number);
        if let Ok(link) = &made {
            self.links.insert(uid.to_owned(), link.clone());
        } else {
            // Nobody has heard of the address yet.
            self.pool.release(number, now);
            self.pool.proven_gone(number);
        }
        made
    }

    /// Takes the link of a pod away; its number rests.
    pub(super) fn unmake(&mut self, router: &mut Router, uid: &str, now: Duration) -> Result<bool, Error> {
        let Some(link) = self.links.get(uid) else { return Ok(false) };
        doing(format!("remove the link of pod {uid}"), router.delete_link(link.node_link))?;
        doing(format!("let the namespace of pod {uid} go"), unpin(&link.path))?;
        self.pool.release(link.number, now);
        self.links.remove(uid);
        Ok(true)
    }

    pub(super) fn proven_gone(&mut self, number: u32) {
        self.pool.proven_gone(number);
    }
}

/// What a pod is linked to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) netns: &'a NetNs,
    pub(super) run_dir: &'a Path,
    pub(super) ranges: &'a Ranges,
    pub(super) mac: Mac,
}

/// Where pods are pinned.
pub(super) fn dir(run_dir: &Path) -> PathBuf {
    run_dir.join("pods")
}

/// A pin found: `<number>-<uid>`.
#[derive(Debug)]
struct Pin {
    path: PathBuf,
    number: Option<u32>,
    uid: String,
}

impl Pin {
    fn link(&self, ranges: &Ranges) -> Option<PodLink> {
        let number = self.number?;
        let netns = NetNs::open(&self.path).ok()?;
        Some(link(netns, self.path.clone(), &self.uid, number, ranges.pod(number)?))
    }
}

fn pins(run_dir: &Path) -> Result<Vec<Pin>, Error> {
    let dir = dir(run_dir);
    let fail = |source| Error::File { doing: "list the directory", path: dir.clone(), source };
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut pins = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (number, uid) = name.split_once('-').unwrap_or(("", &name));
        pins.push(Pin { number: number.parse().ok(), uid: uid.to_owned(), path });
    }
    Ok(pins)
}

/// Uids become file names.
fn is_plain_name(uid: &str) -> bool {
    !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn link(netns: NetNs, path: PathBuf, uid: &str, number: u32, addresses: PodAddresses) -> PodLink {
    let PodAddresses { v4, v6, alias_v4, alias_v6 } = addresses;
    let node_link = FIRST_INDEX.saturating_add(number);
    PodLink { uid: uid.to_owned(), netns, path, v4, v6, alias_v4, alias_v6, node_link, number }
}

fn make(node: &Site<'_>, router: &mut Router, uid: &str, number: u32) -> Result<PodLink, Error> {
    let Some(addresses) = node.ranges.pod(number) else {
        return Err(Error::NoFreeAddress { size: node.ranges.pods_v4.usable(), used: 0, resting: 0, free_in: None });
    };
    let path = dir(node.run_dir).join(format!("{number}-{uid}"));
    let netns = doing(format!("make the namespace of pod {uid}"), node.netns.create_child())?;
    let link = link(netns, path, uid, number, addresses);
    let done = doing(format!("link pod {uid}"), wire(node, router, &link))
        .and_then(|()| doing(format!("keep the namespace of pod {uid}"), link.netns.pin(&link.path)));
    match done {
        Ok(()) => Ok(link),
        Err(error) => {
            // The namespace goes with its handle, but only after a while: take the link away at once.
            let _gone = doing("remove a half-made link", router.delete_link(link.node_link))?;
            Err(error)
        }
    }
}

/// Makes the pair and gives both ends what they need; the node's end comes up last.
fn wire(node: &Site<'_>, router: &mut Router, link: &PodLink) -> Result<(), linux::Error> {
    let of_node = node.netns.run(|| RECKONED.map(linux::sysctl::read))?;
    settle(&link.netns, &[QUIET_SYSCTLS, POD_SYSCTLS])?;
    link.netns.run(|| {
        for (name, value) in RECKONED.into_iter().zip(of_node) {
            linux::sysctl::write(name, &value?)?;
        }
        linux::sysctl::write(PING_GROUPS, &linux::userns::all_groups())?;
        linux::sysctl::write_if_there(NO_MPTCP, "0")
    })??;
    let index = Some(link.node_link);
    let name = format!("p{}", link.number);
    let node_end = VethEnd { name: &name, index, mac: node.mac };
    router.add_veth(node_end, VethEnd { name: POD_END, index, mac: node.mac }, &link.netns)?;
    let mut pod = Router::open_in(&link.netns)?;
    pod.add_address(link.node_link, link.v4.into(), 32)?;
    pod.add_address(link.node_link, link.v6.into(), 128)?;
    pod.set_up(link.node_link)?;
    let ranges = node.ranges;
    let gateway = |address: IpAddr| Target::Gateway(link.node_link, address);
    let (whole_v4, whole_v6) = (ranges.whole_v4, ranges.whole_v6);
    pod.add_route(Route::new(whole_v4.first, whole_v4.prefix, gateway(ranges.node_v4.into())).from(link.v4))?;
    pod.add_route(Route::new(whole_v6.first, whole_v6.prefix, gateway(ranges.node_v6.into())).from(link.v6))?;
    for route in Route::nowhere() {
        pod.add_route(route)?;
    }
    router.set_up(link.node_link)?;
    // Asking for a link that was just raised makes the kernel give it its queue now; on its own it may take a second to,
    // and drops what is sent until then.
    pod.link(POD_END)?;
    router.link(&name)?;
    router.add_route(Route::new(link.v4, 32, Target::Link(link.node_link)).from(ranges.node_v4))?;
    router.add_route(Route::new(link.v6, 128, Target::Link(link.node_link)).from(ranges.node_v6))
}

/// Lets all pods of a run directory go; their links die with the node's end, which is the caller's.
pub(super) fn remove_all(run_dir: &Path) -> Result<(), Error> {
    for pin in pins(run_dir)? {
        doing(format!("remove the pin `{}`", pin.path.display()), unpin(&pin.path))?;
    }
    let dir = dir(run_dir);
    absent_is_fine("remove the directory", &dir, std::fs::remove_dir(&dir))
}

/// Takes the links of all pods away.
pub(super) fn remove_links(node: &NetNs) -> Result<(), linux::Error> {
    let mut router = Router::open_in(node)?;
    for link in router.links()?.iter().filter(|link| link.index >= FIRST_INDEX) {
        router.delete_link(link.index)?;
    }
    Ok(())
}
