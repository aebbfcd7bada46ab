//! The node namespace of a mesh and the links of its pods.
//!
//! ```text
//! host ── tg<id>h ══ host ── node namespace ── p<n> ══ eth0 ── pod namespace n
//! ```
//! Everything is routed, /32 and /128, no bridge. Both ends of a link wear the same hardware address and neither
//! speaks ARP or neighbour discovery, so there is nothing to resolve and nothing to forge. Pods reach the mesh's own
//! ranges; every other connect fails at once.
//!
//! Each namespace is built whole and pinned last: what is pinned below the run directory is complete, and what was
//! half made when its maker died is gone with it. The name of a pod's pin carries its number, hence its addresses, so
//! the pins are all the state there is.

mod lay;
mod pods;
mod ranges;
mod rules;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use linux::netns::NetNs;
use linux::route::Router;

pub use pods::PodLink;
pub use ranges::{Net4, Net6, PodAddresses, Ranges};
pub use rules::{Endpoint, Forwards, Targets, Transport};
pub(crate) use rules::{InForce, Site as RulesSite, anew as rules_anew, changes as rules_changes};

use crate::Error;
use crate::controllers::Cluster;
use crate::error::doing;
use pods::{Pods, Site};

/// Name of a mesh: 8 hexadecimal digits, from its data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId([u8; 4]);

impl MeshId {
    /// The four bytes.
    pub const fn bytes(self) -> [u8; 4] {
        self.0
    }
}

impl FromStr for MeshId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match u32::from_str_radix(text, 16) {
            Ok(number) if digits => Ok(Self(number.to_be_bytes())),
            _ => Err(Error::MeshId { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a node is made from.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The mesh's name.
    pub id: MeshId,
    /// Where handles are kept: `/run/tidegate/<id>`. Made if missing; its parent must be writable by root only.
    pub run_dir: PathBuf,
    /// The address ranges; none: those of the living node, else free ones.
    pub ranges: Option<Ranges>,
    /// Where the node's link to the host leads.
    pub host: Host,
}

/// Where the node's link to the host leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Host {
    /// Into the network namespace of the caller, which may change it.
    #[default]
    Joined,
    /// Into a namespace of its own, which stands there for that of the host: the caller may not change the host's, so that
    /// nothing of the host's reaches pods.
    Apart,
}

/// Where the handles of all meshes of this machine are.
const RUN_ROOT: &str = "/run/tidegate";

impl NodeSettings {
    /// The settings of a mesh with its usual run directory and ranges.
    pub fn of(id: MeshId) -> Self {
        Self { id, run_dir: Path::new(RUN_ROOT).join(id.to_string()), ranges: None, host: Host::default() }
    }
}

/// The node namespace of a running mesh.
#[derive(Debug)]
pub struct Node {
    settings: NodeSettings,
    ranges: Ranges,
    netns: NetNs,
    host_link: u32,
    state: Mutex<State>,
    started: Instant,
}

#[derive(Debug)]
struct State {
    /// Of the node namespace.
    router: Router,
    pods: Pods,
}

impl Node {
    /// Brings the node up: adopts the living one of the same run directory, or removes what is left and makes it anew.
    pub fn up(settings: &NodeSettings) -> Result<Self, Error> {
        let laid = if let Some(laid) = lay::adopt(settings) {
            laid
        } else {
            Self::remove(settings)?;
            lay::lay(settings)?
        };
        let mut router = doing("reach the routes of the node namespace", Router::open_in(&laid.netns))?;
        let pods = Pods::adopt(&settings.run_dir, &laid.ranges, &mut router)?;
        Ok(Self {
            settings: settings.clone(),
            ranges: laid.ranges,
            netns: laid.netns,
            host_link: laid.host_link,
            state: Mutex::new(State { router, pods }),
            started: Instant::now(),
        })
    }

    /// Whether `up` would adopt a living node.
    pub fn lives_on(settings: &NodeSettings) -> bool {
        lay::adopt(settings).is_some()
    }

    /// Removes everything that `up` and `pod_link` made, with or without a daemon, whole or half made; nothing else.
    ///
    /// Processes inside pods are not ended here: end them first, they would keep their namespaces alive (without link).
    pub fn remove(settings: &NodeSettings) -> Result<(), Error> {
        lay::remove(settings)
    }

    /// The node namespace.
    pub const fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Index, in the node namespace, of the link to the host.
    pub const fn host_link(&self) -> u32 {
        self.host_link
    }

    /// The address ranges.
    pub const fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Where what is in force of VIPs is noted down.
    pub(crate) fn vips_file(&self) -> PathBuf {
        lay::vips_file(&self.settings)
    }

    /// What the rules of this node are made from.
    pub(crate) const fn rules_site(&self) -> RulesSite {
        RulesSite { host_link: self.host_link, ranges: self.ranges }
    }

    /// What controllers need to know of this node.
    pub fn cluster(&self, ca_pem: &str) -> Arc<Cluster> {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
        let memory_bytes = crate::runtime::mesh_memory_bytes();
        Arc::new(Cluster { ranges: self.ranges, kernel, cpus, memory_bytes, ca_pem: ca_pem.to_owned() })
    }

    /// The namespace, addresses and link of a pod; made if it has none yet. Blocks for a few milliseconds.
    pub fn pod_link(&self, uid: &str) -> Result<PodLink, Error> {
        let mut state = self.state();
        if let Some(link) = state.pods.get(uid) {
            return Ok(link.clone());
        }
        let site = Site {
            netns: &self.netns,
            run_dir: &self.settings.run_dir,
            ranges: &self.ranges,
            mac: lay::mac(self.settings.id),
        };
        let State { router, pods } = &mut *state;
        pods.make(&site, router, uid, self.started.elapsed())
    }

    /// Takes a pod's link away and lets its addresses rest; `false` if it had none.
    pub fn pod_unlink(&self, uid: &str) -> Result<bool, Error> {
        let mut state = self.state();
        let State { router, pods } = &mut *state;
        pods.unmake(router, uid, self.started.elapsed())
    }

    /// Ends the rest of a freed pod's addresses, or spares them it if called before `pod_unlink`: no table and no socket
    /// knows them any more.
    pub fn proven_gone(&self, link: &PodLink) {
        self.state().pods.proven_gone(link.number);
    }

    /// All pods that have a link, adopted ones included.
    pub fn pod_links(&self) -> Vec<PodLink> {
        self.state().pods.links()
    }

    /// A panic while the lock was held leaves plain maps that are whole, so a poisoned lock is taken as it is.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_id_is_eight_lower_case_hexadecimal_digits() {
        assert_eq!("00c0ffee".parse::<MeshId>().unwrap().to_string(), "00c0ffee");
        for bad in ["", "c0ffee", "00C0FFEE", "+0c0ffee", "00c0ffeee", "../../.."] {
            assert!(bad.parse::<MeshId>().unwrap_err().to_string().contains("8 hexadecimal digits"), "{bad}");
        }
    }
}
