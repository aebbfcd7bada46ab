//! Enforcement on a node. It has never heard of Kubernetes: it is told which namespaces, links and addresses belong to
//! which workload, and what a snapshot decides.
//!
//! Per workload a verdict table in its own network namespace ([`verdicts`]); one guard in the node namespace ([`guard`]);
//! verdicts become records ([`observe`]); what somebody else changes is written anew ([`sentry`]); a change of policy puts the new table into force and then resets what it no
//! longer permits ([`publish`], [`revoke`]). All of it is state of the kernel: it stays in force when this process ends.
//!
//! Not here: any proxy path. A verdict that would need bytes of the connection is a refusal.

pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod guard;
pub mod selftest;
pub mod verdicts;

mod attach;
mod observe;
mod publish;
mod revoke;
mod sentry;
mod shortcut;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use linux::netns::NetNs;
use linux::nft::Changes;
use policy::mesh::WorkloadId;
use policy::record::Record;
use policy::snapshot::Snapshot;
use tokio::sync::mpsc;

use attach::Pod;
pub use error::Error;
use guard::Guard;
use observe::Observer;
pub use publish::{Enforcement, Report, Trouble};
use selftest::Kernel;
use sentry::Sentry;
use shortcut::Shortcut;

/// A pod's network as the node made it.
#[derive(Debug, Clone)]
pub struct PodNet {
    /// Whose it is.
    pub workload: WorkloadId,
    /// Its network namespace.
    pub netns: NetNs,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Index of the node end of its veth, in the node namespace.
    pub node_link: u32,
}

/// The node namespace.
#[derive(Debug, Clone)]
pub struct NodeNet {
    /// The namespace in which the node ends of all veths are.
    pub netns: NetNs,
    /// Index of the link that joins it to the host.
    pub host_link: u32,
    /// Network of the pods' IPv4 addresses: address and prefix length.
    pub pods_v4: (Ipv4Addr, u8),
    /// Network of the pods' IPv6 addresses: address and prefix length.
    pub pods_v6: (Ipv6Addr, u8),
    /// Network of the IPv4 addresses from which pods reach themselves through a service: identities as those of pods.
    pub aliases_v4: (Ipv4Addr, u8),
    /// The same for IPv6.
    pub aliases_v6: (Ipv6Addr, u8),
}

/// Enforcement on one node. Dropping it leaves everything in force.
#[derive(Debug, Clone)]
pub struct Dataplane {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kernel: Kernel,
    guard: Mutex<Guard>,
    observer: Observer,
    sentry: Sentry,
    pods: Mutex<BTreeMap<WorkloadId, Arc<Pod>>>,
    current: ArcSwapOption<Snapshot>,
    /// Held while a snapshot is put into force: one after the other, in order.
    publishing: Mutex<publish::Turn>,
}

impl Dataplane {
    /// Tries the kernel out and lays the guard in the node namespace. Refusals are sent to `records`, and
    /// connections that were let in when they are over; what does not fit is lost, and counted.
    pub async fn start(node: NodeNet, records: mpsc::Sender<Record>) -> Result<Self, Error> {
        let kernel = blocking(selftest::run).await??;
        Self::start_on(kernel, node, records).await
    }

    /// As [`Self::start`] on a kernel of which it is known what it does.
    pub async fn start_on(kernel: Kernel, node: NodeNet, records: mpsc::Sender<Record>) -> Result<Self, Error> {
        blocking(move || {
            let failed = |source| Error::Guard { doing: "lay", source };
            let shortcut = Shortcut::load().inspect_err(|error| {
                let error = linux::error::with_causes(error);
                tracing::info!(error, "no shortcut between pods: all packets take the long way");
            });
            let guard = Guard::lay(&node, shortcut.ok()).map_err(failed)?;
            let changes = node.netns.run(Changes::listen).and_then(|listening| listening).map_err(failed)?;
            let shared = Arc::new(Shared {
                kernel,
                guard: Mutex::new(guard),
                observer: Observer::start(records)?,
                sentry: Sentry::new()?,
                pods: Mutex::default(),
                current: ArcSwapOption::empty(),
                publishing: Mutex::default(),
            });
            Sentry::start(&shared, changes)?;
            Ok(Self { shared })
        })
        .await?
    }

    /// Opens the guard for a pod and puts its table into force: the one that an earlier process left, else one that
    /// refuses everything, and then at once that of the current snapshot. To be called before the pod's first process.
    pub async fn attach(&self, pod: PodNet) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || attach::attach(&shared, &pod)).await?
    }

    /// Resets the connections of a pod and of others with it, and closes the guard. To be called after its last process.
    /// One that is not attached is no error.
    pub async fn detach(&self, workload: &WorkloadId) -> Result<(), Error> {
        let (shared, workload) = (Arc::clone(&self.shared), workload.clone());
        blocking(move || attach::detach(&shared, &workload)).await?
    }

    /// Resets every connection that an attached pod has with one of these addresses: those of a pod of an earlier process
    /// that is gone and was not attached here.
    pub async fn sever(&self, addresses: Vec<IpAddr>) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || attach::sever_all(&shared, &addresses)).await?
    }

    /// Puts a snapshot into force everywhere and judges open connections again; both are done when it returns, but for
    /// the workloads that the report says otherwise of. Snapshots are to be handed over in ascending generations; all pods
    /// that live on from an earlier process are to be attached before the first.
    pub async fn publish(&self, snapshot: Arc<Snapshot>) -> Report {
        let shared = Arc::clone(&self.shared);
        let generation = snapshot.generation();
        let published = blocking(move || publish::publish(&shared, &snapshot)).await;
        published.unwrap_or_else(|error| {
            tracing::error!(%error, generation, "publishing a snapshot was broken off");
            Report { generation, complete: false, workloads: BTreeMap::new() }
        })
    }

    /// Whether these addresses are known here no more: no pod has one, every table is in force as a snapshot has it that
    /// gives them to nobody, and no pod has a connection with one. Then they may be given out again at once.
    pub async fn has_dropped(&self, addresses: Vec<IpAddr>) -> Result<bool, Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || attach::has_dropped(&shared, &addresses)).await?
    }

    /// The connections that were let in and are open now, their age as their duration. Those from before this process are
    /// not among them: nobody saw their first packet.
    pub async fn connections(&self) -> Result<Vec<Record>, Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.observer.open()).await
    }

    /// Resets open connections, named by the ids of their records; how many of them there were.
    pub async fn close(&self, ids: HashSet<u64>) -> Result<usize, Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.observer.close(ids)).await
    }

    /// What is in force and what was counted, once everything that the kernel has logged so far is accounted for.
    pub async fn status(&self) -> Result<Status, Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || status(&shared)).await?
    }
}

/// What is in force on the node, and what was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What this kernel does.
    pub kernel: Kernel,
    /// Packets dropped because their source was not the sender's.
    pub forged: u64,
    /// How often the guard was laid anew because somebody else had changed it.
    pub guard_rewritten: u64,
    /// Every attached workload.
    pub workloads: BTreeMap<WorkloadId, WorkloadStatus>,
}

/// The counts of one workload since it was attached. `refused = records + folded + lost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkloadStatus {
    /// The generation whose decisions are in force; 0 before the first.
    pub generation: u64,
    /// Elements of its verdict table.
    pub entries: usize,
    /// Whether it lets in what no element is about.
    pub open: bool,
    /// First packets let in.
    pub accepted: u64,
    /// First packets refused.
    pub refused: u64,
    /// Refusals with a record of their own, or the first of a folded record.
    pub records: u64,
    /// Refusals counted on a record of others: repetitions, and equal ones above the bound of a second.
    pub folded: u64,
    /// Refusals that no record tells of.
    pub lost: u64,
    /// Connections that were let in, are over, and have a record. `accepted` is the sum of the four.
    pub permitted_records: u64,
    /// Repetitions of first packets that were let in.
    pub permitted_folded: u64,
    /// First packets that were let in of which no record tells.
    pub permitted_lost: u64,
    /// Connections that were let in and are not over, as far as is known.
    pub permitted_open: u64,
    /// Packets dropped because their headers could not be followed.
    pub malformed: u64,
    /// Connections reset because they were no longer permitted.
    pub resets: u64,
    /// How often its table was written anew because somebody else had changed the tables of its namespace.
    pub rewritten: u64,
}

fn status(shared: &Shared) -> Result<Status, Error> {
    let pods: Vec<Arc<Pod>> = lock(&shared.pods).values().cloned().collect();
    let mut counted = Vec::with_capacity(pods.len());
    sentry::look_at_guard(shared);
    for pod in &pods {
        // What is said below is so now, not when the last change was heard of.
        sentry::look(shared, pod);
        counted.push(pod.counters()?);
    }
    // A packet is counted a moment before it is logged: after the barrier all that were counted are in the logs.
    linux::membarrier::global().map_err(|source| Error::Kernel { doing: "wait for packets in flight", source })?;
    shared.observer.settle();
    let workloads =
        pods.iter().zip(counted).map(|(pod, counts)| (pod.workload().clone(), pod.status(counts))).collect();
    let forged = lock(&shared.guard).forged().map_err(|source| Error::Guard { doing: "read", source })?;
    Ok(Status { kernel: shared.kernel, forged, guard_rewritten: shared.sentry.guard_rewritten(), workloads })
}

/// Runs what waits for the kernel off the asynchronous threads.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Worker { what: "has ended", source: std::io::Error::other(error) })
}

/// A thread that panicked while it held the lock left at worst an unfinished change, which the next load writes anew.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
