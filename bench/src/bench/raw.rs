//! The same layout without a mesh: client, node and server namespaces, made by the product's own code for links and routes and
//! given the same kernel settings, with no table of any kind. Everything goes with the processes that hold it.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use linux::netns::NetNs;
use linux::route::{Mac, Route, Router, Target, VethEnd};
use linux::sysctl;

const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The client's address.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The server's.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const MAC: Mac = [2, 0x74, 0, 0, 0, 1];
/// Indexes of links, clear of those that every namespace has.
const FIRST_INDEX: u32 = 1000;
/// Of the verdict, not of the layout: what the product sets to know its own sockets.
const NOT_MIRRORED: [&str; 1] = ["tcp_fwmark_accept"];

/// The three namespaces.
#[derive(Debug)]
pub(crate) struct Raw {
    client: NetNs,
    _node: NetNs,
    server: NetNs,
}

impl Raw {
    /// Makes them; settings are those of a pod and of the node of a mesh that runs.
    pub(crate) fn make(pod: &Path, node: &Path) -> Result<Self> {
        let like = |of: &Path, netns: NetNs| -> Result<NetNs> {
            mirror(&NetNs::open(of)?, &netns).with_context(|| format!("settings of `{}`", of.display()))?;
            up_lo(&netns)?;
            Ok(netns)
        };
        let node = like(node, NetNs::create()?)?;
        let (client, server) = (like(pod, node.create_child()?)?, like(pod, node.create_child()?)?);
        let mut inside = Router::open_in(&node)?;
        let lo = inside.link("lo")?.context("no lo")?.index;
        inside.add_address(lo, IpAddr::V4(NODE), 32)?;
        for (number, netns, address) in [(0, &client, CLIENT), (1, &server, SERVER)] {
            wire(&mut inside, netns, FIRST_INDEX + number, address)?;
        }
        Ok(Self { client, _node: node, server })
    }

    /// Where the client's namespace can be entered, while this process lives.
    pub(crate) fn client_path(&self) -> PathBuf {
        path(&self.client)
    }

    /// Where the server's can be.
    pub(crate) fn server_path(&self) -> PathBuf {
        path(&self.server)
    }
}

fn path(netns: &NetNs) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), netns.handle().as_raw_fd()))
}

fn up_lo(netns: &NetNs) -> Result<()> {
    let mut router = Router::open_in(netns)?;
    let lo = router.link("lo")?.context("no lo")?.index;
    Ok(router.set_up(lo)?)
}

/// Joins a namespace to the node as a pod is: a route of its own on either side, no neighbours to be resolved.
fn wire(node: &mut Router, netns: &NetNs, index: u32, address: Ipv4Addr) -> Result<()> {
    let name = format!("p{}", index - FIRST_INDEX);
    let index_of = Some(index);
    let end = VethEnd { name: &name, index: index_of, mac: MAC };
    node.add_veth(end, VethEnd { name: "eth0", index: index_of, mac: MAC }, netns)?;
    let mut inside = Router::open_in(netns)?;
    inside.add_address(index, IpAddr::V4(address), 32)?;
    inside.set_up(index)?;
    inside.add_route(Route::new(Ipv4Addr::new(10, 77, 0, 0), 24, Target::Gateway(index, NODE.into())).from(address))?;
    node.set_up(index)?;
    // As for pods: a link that was just raised gets its queue when it is asked for, else a while later.
    inside.link("eth0")?;
    node.link(&name)?;
    Ok(node.add_route(Route::new(address, 32, Target::Link(index)).from(NODE))?)
}

/// Gives one namespace the network settings of another, where they differ; what belongs to single links is taken from the defaults.
fn mirror(from: &NetNs, to: &NetNs) -> Result<()> {
    let wanted = from.run(settings)?;
    to.run(move || {
        let mut refused = Vec::new();
        for (name, value) in wanted {
            if sysctl::read(&name).is_ok_and(|now| now.trim() == value)
                || NOT_MIRRORED.iter().any(|not| name.ends_with(not))
            {
                continue;
            }
            if sysctl::write(&name, &value).is_err() {
                refused.push(name);
            }
        }
        if refused.is_empty() { Ok(()) } else { anyhow::bail!("cannot be given: {}", refused.join(", ")) }
    })?
}

/// The settings of the calling thread's namespace, with their values.
fn settings() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["net/core", "net/ipv4", "net/ipv6", "net/mptcp"].iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        // Missing where the kernel has no such thing.
        let Ok(entries) = std::fs::read_dir(Path::new("/proc/sys").join(&folder)) else { continue };
        for entry in entries.flatten() {
            let name = folder.join(entry.file_name());
            let of_a_link = folder.ends_with("conf") || folder.ends_with("neigh");
            let general = ["all", "default", "lo"].iter().any(|one| name.ends_with(one));
            if entry.path().is_dir() {
                if general || !of_a_link {
                    folders.push(name);
                }
            } else if let Ok(value) = sysctl::read(&name.to_string_lossy()) {
                found.push((name.to_string_lossy().into_owned(), value.trim().to_owned()));
            }
        }
    }
    // `all` and `default` before what follows from them.
    found.sort_by_key(|(name, _)| !name.contains("/all/"));
    found
}
