//! Laying, adopting and removing a node: the namespace, its link to the host, its rules and its files.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linux::netns::{NetNs, unpin};
use linux::route::{Link, Mac, Route, Router, Target, VethEnd};
use linux::sysctl;
use serde::{Deserialize, Serialize};

use super::{Host, MeshId, Net4, NodeSettings, Ranges, pods};
use crate::Error;
use crate::error::doing;

/// Raised whenever what `lay` makes changes: a node laid by another version is not adopted but made anew.
const LAYOUT: u32 = 2;
/// Name of the node's end of its link to the host.
const HOST_END: &str = "host";

/// A node that is there.
#[derive(Debug)]
pub(super) struct Laid {
    pub(super) netns: NetNs,
    pub(super) ranges: Ranges,
    /// In the node namespace.
    pub(super) host_link: u32,
}

/// What a living node was laid from, next to its pin.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    layout: u32,
    ranges: Ranges,
}

fn pin(settings: &NodeSettings) -> PathBuf {
    settings.run_dir.join("node")
}

fn facts(settings: &NodeSettings) -> PathBuf {
    settings.run_dir.join("node.json")
}

/// Where the outer end of the node's link is, if not where the caller is.
fn outside_pin(settings: &NodeSettings) -> PathBuf {
    settings.run_dir.join("outside")
}

/// What is in force of VIPs, as they are changed by deltas.
pub(super) fn vips_file(settings: &NodeSettings) -> PathBuf {
    settings.run_dir.join("vips.json")
}

/// The host's end of the link: at most 15 bytes, so `tg`, the id and one letter.
pub(super) fn host_link_name(id: MeshId) -> String {
    format!("tg{id}h")
}

/// Locally administered and told apart by the mesh; both ends of a link wear the same.
pub(super) fn mac(id: MeshId) -> Mac {
    let [a, b, c, d] = id.bytes();
    [0x02, 0x74, a, b, c, d]
}

/// The living node of this run directory, if it is whole and made by this version for these settings.
pub(super) fn adopt(settings: &NodeSettings) -> Option<Laid> {
    let text = std::fs::read_to_string(facts(settings)).ok()?;
    let Facts { layout, ranges } = serde_json::from_str(&text).ok()?;
    if layout != LAYOUT || settings.ranges.is_some_and(|wanted| wanted != ranges) {
        return None;
    }
    let netns = NetNs::open(&pin(settings)).ok()?;
    let inside = Router::open_in(&netns).ok()?.link(HOST_END).ok()??;
    let outside = outside(settings).ok()?;
    let outside = Router::open_in(&outside).ok()?.link(&host_link_name(settings.id)).ok()??;
    let joined = inside.up && outside.up && inside.peer == Some(outside.index) && outside.peer == Some(inside.index);
    joined.then_some(Laid { netns, ranges, host_link: inside.index })
}

/// Makes a node where none is. What is made before the pin dies with this process.
pub(super) fn lay(settings: &NodeSettings) -> Result<Laid, Error> {
    let outside = match settings.host {
        Host::Joined => doing("reach the host's namespace", NetNs::current())?,
        Host::Apart => doing("make a namespace in the place of the host's", NetNs::create())?,
    };
    let mut host = doing("reach the host's routes", Router::open_in(&outside))?;
    let ranges = match settings.ranges {
        Some(ranges) => ranges,
        None => free_ranges(settings, &mut host)?,
    };
    let netns = doing("make the node namespace", NetNs::create())?;
    doing("set up the node namespace", settle_inside(&netns))?;
    let mut inside = doing("reach the routes of the node namespace", Router::open_in(&netns))?;
    let host_link = doing("join the node namespace to the host", join(settings, &ranges, &mut inside, &outside))?;
    doing("install the rules of the node namespace", super::rules::install(&netns, host_link, &ranges))?;
    create_dir(&settings.run_dir)?;
    create_dir(&pods::dir(&settings.run_dir))?;
    write_facts(settings, &ranges)?;
    if settings.host == Host::Apart {
        doing("keep the namespace in the place of the host's", outside.pin(&outside_pin(settings)))?;
    }
    doing("keep the node namespace", netns.pin(&pin(settings)))?;
    Ok(Laid { netns, ranges, host_link })
}

/// Where the outer end of the link of a living node is.
fn outside(settings: &NodeSettings) -> Result<NetNs, linux::Error> {
    match settings.host {
        Host::Joined => NetNs::current(),
        Host::Apart => NetNs::open(&outside_pin(settings)),
    }
}

fn free_ranges(settings: &NodeSettings, host: &mut Router) -> Result<Ranges, Error> {
    let routed = doing("list the host's routes", host.routed_v4())?;
    let taken: Vec<Net4> = routed.into_iter().map(|(first, prefix, _)| Net4 { first, prefix }).collect();
    Ranges::choose(settings.id, &taken)
}

/// Kernel settings of the node namespace; those of `default` hold for every link made later.
const NODE_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    // A source is taken only from the link that leads to it: no pod can send as another, nor the host as a pod.
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    // A pod that talks to itself through a VIP comes back by the link it left by: no reason for a redirect.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    // Refusals are told at once, however many: they stay inside this machine.
    ("net/ipv4/icmp_ratemask", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
];

/// Slots of the table of TCP connections that each pod has for itself, 64 KiB (kernel 6.1; pods of older ones share the
/// host's). To list a pod's connections is to walk its table, and the host's grows with its memory.
const POD_CONNECTION_SLOTS: (&str, &str) = ("net/ipv4/tcp_child_ehash_entries", "8192");

/// Kernel settings of every namespace of ours: addresses are given, never taken from neighbours or routers.
pub(super) const QUIET_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/autoconf", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
];

/// Inside `netns`: writes the settings and raises `lo`.
pub(super) fn settle(netns: &NetNs, settings: &[&[(&str, &str)]]) -> Result<(), linux::Error> {
    netns.run(|| {
        for (name, value) in settings.iter().copied().flatten() {
            sysctl::write(name, value)?;
        }
        let mut router = Router::open()?;
        let lo = lo(&mut router)?;
        router.set_up(lo)
    })?
}

/// Index of `lo`: the kernel gives it 1 in every namespace.
fn lo(router: &mut Router) -> Result<u32, linux::Error> {
    Ok(router.link("lo")?.map_or(1, |lo| lo.index))
}

fn settle_inside(netns: &NetNs) -> Result<(), linux::Error> {
    settle(netns, &[QUIET_SYSCTLS, NODE_SYSCTLS])?;
    let (name, slots) = POD_CONNECTION_SLOTS;
    netns.run(|| sysctl::write_if_there(name, slots))?.map(drop)
}

/// Makes the link between host and node, with addresses and routes on both ends; returns the node end's index.
fn join(settings: &NodeSettings, ranges: &Ranges, inside: &mut Router, outside: &NetNs) -> Result<u32, linux::Error> {
    let name = host_link_name(settings.id);
    let mac = mac(settings.id);
    let host = &mut Router::open_in(outside)?;
    // Born inside, its peer in the host's namespace: so it dies with the namespace if we do.
    inside.add_veth(
        VethEnd { name: HOST_END, index: None, mac },
        VethEnd { name: &name, index: None, mac },
        outside,
    )?;
    let (Some(node_end), Some(host_end)) = (inside.link(HOST_END)?, host.link(&name)?) else {
        return Err(gone(&name));
    };
    outside.run(|| {
        ["addr_gen_mode", "accept_ra", "autoconf", "disable_ipv6"].iter().try_for_each(|setting| {
            let value = if *setting == "addr_gen_mode" { "1" } else { "0" };
            sysctl::write(&format!("net/ipv6/conf/{name}/{setting}"), value)
        })
    })??;
    let Link { index: node_end, .. } = node_end;
    let Link { index: host_end, .. } = host_end;
    inside.set_up(node_end)?;
    host.set_up(host_end)?;
    // As for pods: the links get their queues when asked for, else a while later.
    inside.link(HOST_END)?;
    host.link(&name)?;
    let lo = lo(inside)?;
    for address in node_addresses(ranges) {
        inside.add_address(lo, address, full(address))?;
    }
    for (address, gateway) in [
        (IpAddr::from(ranges.host_v4), IpAddr::from(ranges.node_v4)),
        (IpAddr::from(ranges.host_v6), IpAddr::from(ranges.node_v6)),
    ] {
        inside.add_route(Route::new(address, full(address), Target::Link(node_end)).from(gateway))?;
        host.add_address(host_end, address, full(address))?;
    }
    for route in inside_routes(ranges, lo) {
        inside.add_route(route)?;
    }
    for route in host_routes(ranges, host_end) {
        host.add_route(route)?;
    }
    Ok(node_end)
}

fn gone(name: &str) -> linux::Error {
    linux::Error::Netns {
        doing: format!("find the link `{name}` that was just made"),
        source: io::Error::from(io::ErrorKind::NotFound),
    }
}

/// Addresses of the node namespace itself; on `lo`, so they answer whatever link is asked by.
fn node_addresses(ranges: &Ranges) -> [IpAddr; 4] {
    [ranges.node_v4.into(), ranges.dns_v4.into(), ranges.node_v6.into(), ranges.dns_v6.into()]
}

/// Whatever the mesh has addresses for and that no pod wears is delivered here, where nobody listens: the sender is
/// refused at once. (An `unreachable` route would answer by ICMP, and the kernel answers so once a second.) That goes
/// for VIPs without service or endpoint, for freed addresses and for aliases, which are only ever sources.
fn inside_routes(ranges: &Ranges, lo: u32) -> Vec<Route> {
    let (v4, v6) = (ranges.whole_v4, ranges.whole_v6);
    let mut routes = Route::nowhere().to_vec();
    routes.push(Route::new(v4.first, v4.prefix, Target::Local(lo)));
    routes.push(Route::new(v6.first, v6.prefix, Target::Local(lo)));
    routes
}

/// What the host reaches through the node: pods and VIPs.
fn host_routes(ranges: &Ranges, link: u32) -> [Route; 4] {
    let v4 = |net: Net4| {
        Route::new(net.first, net.prefix, Target::Gateway(link, ranges.node_v4.into())).from(ranges.host_v4)
    };
    let v6 = |net: super::Net6| {
        Route::new(net.first, net.prefix, Target::Gateway(link, ranges.node_v6.into())).from(ranges.host_v6)
    };
    [v4(ranges.pods_v4), v4(ranges.services_v4), v6(ranges.pods_v6), v6(ranges.services_v6)]
}

const fn full(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// For how long the directory above may be taken away in the moment before one is made in it: by each mesh that ends, once.
const TAKEN_AWAY_FOR: Duration = Duration::from_secs(5);

fn create_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let began = Instant::now();
    loop {
        match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
            // Another mesh has ended, and what it left above was empty until now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && began.elapsed() < TAKEN_AWAY_FOR => {
                std::thread::yield_now();
            }
            made => {
                return made.map_err(|source| Error::File {
                    doing: "make the directory",
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

fn write_facts(settings: &NodeSettings, ranges: &Ranges) -> Result<(), Error> {
    let path = facts(settings);
    let text = serde_json::to_vec(&Facts { layout: LAYOUT, ranges: *ranges });
    text.map_err(io::Error::from).and_then(|text| std::fs::write(&path, text)).map_err(|source| Error::File {
        doing: "write",
        path,
        source,
    })
}

/// Takes everything away, in an order that leaves nothing unnamed when it is cut short: the link first, so that no
/// traffic is left; pins last, as they are how the rest is found.
pub(super) fn remove(settings: &NodeSettings) -> Result<(), Error> {
    remove_host_link(settings)?;
    if let Ok(netns) = NetNs::open(&pin(settings)) {
        // Whoever else holds the namespace keeps an empty one.
        doing("remove the links of pods", pods::remove_links(&netns))?;
    }
    pods::remove_all(&settings.run_dir)?;
    doing("remove the pin of the node namespace", unpin(&pin(settings)))?;
    doing("remove the pin of the namespace in the place of the host's", unpin(&outside_pin(settings)))?;
    for file in [facts(settings), vips_file(settings)] {
        absent_is_fine("remove", &file, std::fs::remove_file(&file))?;
    }
    // Other parts keep files there too: whoever is last takes the directory along, and the last mesh the one above.
    remove_if_empty(&settings.run_dir)?;
    let above = settings.run_dir.parent().filter(|above| *above == Path::new(super::RUN_ROOT));
    above.map_or(Ok(()), remove_if_empty)
}

fn remove_host_link(settings: &NodeSettings) -> Result<(), Error> {
    let outside = match outside(settings) {
        // Gone, and the link with it.
        Err(_) if settings.host == Host::Apart => return Ok(()),
        found => doing("reach the host's namespace", found)?,
    };
    let name = host_link_name(settings.id);
    let mut host = doing("reach the host's routes", Router::open_in(&outside))?;
    if let Some(link) = doing("look for the host's link", host.link(&name))?
        && link.kind == "veth"
        && link.mac == mac(settings.id)
    {
        doing(format!("remove the link `{name}`"), host.delete_link(link.index))?;
    }
    Ok(())
}

fn remove_if_empty(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir(dir) {
        // Not empty, or memory that goes with the namespace it is mounted in.
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => Ok(()),
        outcome => absent_is_fine("remove the directory", dir, outcome),
    }
}

pub(super) fn absent_is_fine(doing: &'static str, path: &Path, outcome: io::Result<()>) -> Result<(), Error> {
    match outcome {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { doing, path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_directory_is_made_though_the_one_above_is_taken_away_by_meshes_that_end() {
        let home = tempfile::tempdir().unwrap();
        let (above, over) = (home.path().join("meshes"), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Only if it is empty, as a mesh that ends does.
                    drop(std::fs::remove_dir(&above));
                }
            });
            let own = above.join("own");
            let tries = (0..500)
                .map(|_| create_dir(&own).and_then(|()| absent_is_fine("remove", &own, std::fs::remove_dir(&own))));
            let failed: Vec<_> = tries.filter_map(Result::err).collect();
            over.store(true, Ordering::Relaxed);
            assert!(failed.is_empty(), "{failed:?}");
        });
    }
}
