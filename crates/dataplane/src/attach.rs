//! A pod comes under enforcement, and leaves it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use linux::diag::Endings;
use linux::netlink::{Protocol, Socket};
use linux::nflog::Listener;
use linux::nft::Changes;
use linux::sysctl;
use policy::mesh::WorkloadId;

use crate::observe::{Generations, Sources, Tally, Watched};
use crate::publish::{self, Progress, Trouble};
use crate::verdicts::{ACCEPT_LOG_GROUP, LOG_BYTES, LOG_GROUP, Verdicts};
use crate::{Error, PodNet, Shared, WorkloadStatus, lock, revoke};

/// What the verdict relies on inside a pod. The settings are the namespace's own.
const SETTINGS: [(&str, &str); 2] = [
    // With cookies a SYN that the old table let in leaves no socket to destroy, and its last ACK passes later.
    ("net/ipv4/tcp_syncookies", "0"),
    // Accepted sockets inherit the mark of their SYN, which tells incoming connections from outgoing ones.
    ("net/ipv4/tcp_fwmark_accept", "1"),
];
/// Destroying a subflow of MPTCP returns success and resets nothing. Missing where the kernel has no MPTCP.
const MPTCP: (&str, &str) = ("net/mptcp/enabled", "0");

/// One attached pod and the kernel handles for it. Sockets keep the namespace they were opened in.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) net: PodNet,
    /// The table and how far its enforcement has come.
    pub(crate) progress: Mutex<Progress>,
    /// Lists and destroys sockets; held for one listing or one destruction at a time, and never while waiting for another.
    pub(crate) sockets: Mutex<Socket>,
    pub(crate) generations: Arc<Generations>,
    pub(crate) resets: AtomicU64,
    /// How often somebody else had changed its tables.
    pub(crate) rewritten: AtomicU64,
    tally: Arc<Tally>,
    /// Of connections that were let in.
    permitted: Arc<Tally>,
    /// Counts that stood when it was attached, by an earlier process.
    before: [u64; 4],
    watched_as: u64,
    /// Its number with the sentry; 0 until it has one.
    heard_as: AtomicU64,
}

impl Pod {
    pub(crate) fn workload(&self) -> &WorkloadId {
        &self.net.workload
    }

    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [IpAddr::V4(self.net.v4), IpAddr::V6(self.net.v6)]
    }

    pub(crate) fn counters(&self) -> Result<[u64; 4], Error> {
        let failed = |source| Error::Load { workload: Box::new(self.workload().clone()), source };
        lock(&self.progress).verdicts.counters().map_err(failed)
    }

    pub(crate) fn status(&self, counts: [u64; 4]) -> WorkloadStatus {
        let mut since = counts;
        for (count, before) in since.iter_mut().zip(self.before) {
            *count = count.saturating_sub(before);
        }
        let [accepted, refused, _logged, malformed] = since;
        let progress = lock(&self.progress);
        WorkloadStatus {
            generation: progress.generation(),
            entries: progress.entries(),
            open: progress.is_open(),
            accepted,
            refused,
            records: self.tally.records(),
            folded: self.tally.folded(),
            lost: refused.saturating_sub(self.tally.received()) + self.tally.lost_here(),
            permitted_records: self.permitted.records(),
            permitted_folded: self.permitted.folded(),
            permitted_lost: accepted.saturating_sub(self.permitted.received()) + self.permitted.lost_here(),
            permitted_open: self.permitted.open(),
            malformed,
            resets: self.resets.load(Ordering::Relaxed),
            rewritten: self.rewritten.load(Ordering::Relaxed),
        }
    }
}

struct Handles {
    listener: Listener,
    sources: Sources,
    verdicts: Verdicts,
    sockets: Socket,
    changes: Changes,
}

pub(crate) fn attach(shared: &Shared, net: &PodNet) -> Result<(), Error> {
    {
        let mut guard = lock(&shared.guard);
        if let Some(holder) = guard.holder(net) {
            let (workload, holder) = (Box::new(net.workload.clone()), Box::new(holder.clone()));
            return Err(Error::Taken { workload, holder });
        }
        guard.open(net).map_err(|source| Error::Guard { doing: "open", source })?;
    }
    let attached = enter(shared, net).and_then(|handles| admit(shared, net.clone(), handles));
    if attached.is_err() {
        // The first failure is the one to tell; a guard left open for a pod that is not started harms nobody.
        drop(lock(&shared.guard).close(net));
    }
    attached
}

/// What has to be done inside the pod's namespace.
fn enter(shared: &Shared, net: &PodNet) -> Result<Handles, Error> {
    let failed = |doing: &'static str| {
        let workload = Box::new(net.workload.clone());
        move |source| Error::Attach { workload, doing, source }
    };
    let inside = || {
        for (name, value) in SETTINGS {
            sysctl::write(name, value).map_err(failed("change a setting of its namespace"))?;
        }
        sysctl::write_if_there(MPTCP.0, MPTCP.1).map_err(failed("switch MPTCP off in its namespace"))?;
        Ok(Handles {
            // Before the table, so that the first refusal already has a listener.
            listener: Listener::open(LOG_GROUP, LOG_BYTES).map_err(failed("listen to its refusals"))?,
            sources: Sources {
                accepts: Listener::open(ACCEPT_LOG_GROUP, LOG_BYTES).map_err(failed("listen to what it lets in"))?,
                endings: Endings::listen().map_err(failed("hear how its connections end"))?,
                sockets: Socket::open(Protocol::SockDiag).map_err(failed("list its sockets"))?,
            },
            verdicts: Verdicts::open(net, shared.kernel).map_err(failed("load its first table"))?,
            sockets: Socket::open(Protocol::SockDiag).map_err(failed("list its sockets"))?,
            changes: Changes::listen().map_err(failed("hear of changes of its tables"))?,
        })
    };
    net.netns.run(inside).map_err(failed("enter its network namespace"))?
}

fn admit(shared: &Shared, net: PodNet, handles: Handles) -> Result<(), Error> {
    let Handles { listener, sources, mut verdicts, sockets, changes } = handles;
    let failed = |source| Error::Load { workload: Box::new(net.workload.clone()), source };
    let before = verdicts.counters().map_err(failed)?;
    let generations = Arc::<Generations>::default();
    let (tally, permitted) = (Arc::<Tally>::default(), Arc::<Tally>::default());
    let watched = Watched {
        workload: net.workload.clone(),
        listener,
        generations: Arc::clone(&generations),
        tally: Arc::clone(&tally),
        sources,
        permitted: Arc::clone(&permitted),
    };
    let pod = Arc::new(Pod {
        progress: Mutex::new(Progress::at_attach(verdicts)),
        sockets: Mutex::new(sockets),
        generations,
        resets: AtomicU64::new(0),
        rewritten: AtomicU64::new(0),
        tally,
        permitted,
        before,
        watched_as: shared.observer.watch(watched),
        heard_as: AtomicU64::new(0),
        net,
    });
    pod.heard_as.store(shared.sentry.watch(&pod, changes)?, Ordering::Relaxed);
    lock(&shared.pods).insert(pod.workload().clone(), Arc::clone(&pod));
    // A snapshot published from here on finds the pod. One published before may have missed it.
    if let Some(current) = shared.current.load_full() {
        let enforcement = publish::catch_up(shared, &pod, &current);
        match enforcement.trouble.as_deref() {
            // A pod is in a snapshot only after its address is known: the next one will have it.
            None | Some(Trouble::Unknown) => tracing::debug!(workload = %pod.workload(), "a workload was attached"),
            Some(trouble) => {
                tracing::warn!(workload = %pod.workload(), %trouble, "a workload was attached that refuses connections");
            }
        }
    }
    Ok(())
}

pub(crate) fn detach(shared: &Shared, workload: &WorkloadId) -> Result<(), Error> {
    let Some(pod) = lock(&shared.pods).remove(workload) else {
        return Ok(());
    };
    pod.permitted.leave();
    // Resets to the other ends pass the guard, so it is closed last.
    let own = sever(&pod, &[]).map(drop);
    let failed = sever_all(shared, &pod.addresses()).and(own).err();
    shared.observer.forget(pod.watched_as);
    shared.sentry.forget(pod.heard_as.load(Ordering::Relaxed));
    lock(&shared.guard).close(&pod.net).map_err(|source| Error::Guard { doing: "close", source })?;
    failed.map_or(Ok(()), Err)
}

/// Resets what the attached pods have open with these addresses; all of it is tried, and the last failure told.
pub(crate) fn sever_all(shared: &Shared, addresses: &[IpAddr]) -> Result<(), Error> {
    let pods: Vec<Arc<Pod>> = lock(&shared.pods).values().cloned().collect();
    let mut outcome = Ok(());
    for pod in &pods {
        outcome = sever(pod, addresses).map(drop).and(outcome);
    }
    outcome
}

pub(crate) fn has_dropped(shared: &Shared, addresses: &[IpAddr]) -> Result<bool, Error> {
    let pods: Vec<Arc<Pod>> = lock(&shared.pods).values().cloned().collect();
    for pod in pods {
        let failed = |source| Error::Judge { workload: Box::new(pod.workload().clone()), source };
        let known = pod.addresses().iter().any(|own| addresses.contains(own))
            || addresses.iter().any(|address| lock(&pod.progress).may_know(*address))
            || revoke::has_connection(&pod.sockets, addresses).map_err(failed)?;
        if known {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sever(pod: &Pod, addresses: &[IpAddr]) -> Result<usize, Error> {
    let failed = |source| Error::Judge { workload: Box::new(pod.workload().clone()), source };
    revoke::sever(&pod.sockets, addresses).map_err(failed)
}
