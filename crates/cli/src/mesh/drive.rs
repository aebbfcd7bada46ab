//! The one loop that drives a mesh: events in, everything that follows from them, in order, out.
//!
//! ```text
//! store commit → feed → Objects → controllers want writes? commit them, look again → Mesh → Snapshot
//!   → data plane enforces → status of policies → settled ← revision
//! ```
//! Whoever waits for `settled` to reach the revision of a write knows that its consequences are in force.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Result, anyhow};
use api::{Change, Event, Key, Objects, Write};
use apiserver::{Feed, Server};
use arc_swap::ArcSwap;
use control::status::{Report, Statuses};
use control::translate::Translator;
use dataplane::Dataplane;
use futures_util::future::join_all;
use local::controllers::{self, Changed, Cluster, Context};
use policy::{Mesh, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::enforced;
use super::meaning::Meaning;
use super::records::Records;
use local::dns::{Dns, Zone};
use local::kubelet::Kubelet;
use local::vip::Vips;

/// Rounds of controllers for one batch of events. A deployment needs five (replica set, pods, links, slices, status);
/// more than this means two controllers that undo each other.
const ROUNDS_MAX: usize = 64;

/// Between two looks at something that is due and stays so (a write was refused): it must not keep the loop busy.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Everything that the loop moves.
pub(super) struct Driver {
    pub(super) server: Server,
    pub(super) feed: Feed,
    pub(super) objects: Arc<RwLock<Objects>>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) kubelet: Kubelet,
    pub(super) dns: Dns,
    pub(super) vips: Vips,
    pub(super) translator: Translator,
    pub(super) dataplane: Dataplane,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) records: Records,
    pub(super) settled: watch::Sender<u64>,
    /// Everything up to here has been absorbed.
    pub(super) revision: u64,
    /// What the events absorbed since the last look ask for.
    pub(super) pending: Meaning,
    /// When events are to be looked at that may be over; never, as long as there are none.
    pub(super) forgets: Option<Instant>,
    pub(super) statuses: Statuses,
    /// The mesh that was enforced last, and what became of it.
    pub(super) said: Option<(Mesh, Report)>,
}

impl Driver {
    /// Drives until the store stops.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut first = Some(Changed::everything());
        loop {
            let changed = tokio::select! {
                batch = self.feed.next() => {
                    let Some(batch) = batch else { return Ok(()) };
                    let keys = self.absorb(batch);
                    first.take().unwrap_or_else(|| Changed::keys(keys))
                }
                changed = time_passes(&self.objects), if first.is_none() => changed,
                () = until(self.forgets), if first.is_none() => Changed::keys(self.forget_events().await?),
            };
            self.reconcile(changed).await?;
            while self.pending != Meaning::default() {
                self.follow().await?;
            }
            self.settled.send_replace(self.revision);
        }
    }

    /// Deletes the events that are over, and notes when the next one will be.
    async fn forget_events(&mut self) -> Result<Vec<Key>> {
        let now = jiff::Timestamp::now();
        let (writes, next) = {
            let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
            local::events::surplus(&objects, now)
        };
        let wait = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
        self.forgets = wait.map(|wait| Instant::now() + wait);
        if writes.is_empty() { Ok(Vec::new()) } else { self.commit(writes).await }
    }

    fn absorb(&mut self, batch: apiserver::Batch) -> Vec<Key> {
        {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            batch.events.iter().for_each(|event| objects.apply(event));
        }
        for event in &batch.events {
            if event.key.is("", "events") && self.forgets.is_none() {
                self.forgets = Some(Instant::now());
            }
            self.kubelet.observe(event);
            self.pending = self.pending.and(Meaning::of(event));
            if let Some(workload) = gone_pod(event) {
                self.records.forget(&workload);
            }
        }
        self.revision = batch.revision;
        batch.events.into_iter().map(|event| event.key).collect()
    }

    /// Lets controllers write until they want nothing more.
    async fn reconcile(&mut self, first: Changed) -> Result<()> {
        let mut changed = first;
        for _ in 0..ROUNDS_MAX {
            let context = Context { now: jiff::Timestamp::now(), seed: seed()?, cluster: Arc::clone(&self.cluster) };
            let writes = {
                let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
                controllers::reconcile(&objects, &changed, &context)
            };
            if writes.is_empty() {
                return Ok(());
            }
            changed = Changed::keys(self.commit(writes).await?);
        }
        warn!(rounds = ROUNDS_MAX, "controllers do not come to rest; going on with what there is");
        Ok(())
    }

    /// Commits writes together and absorbs their events.
    async fn commit(&mut self, writes: Vec<Write>) -> Result<Vec<Key>> {
        let done = join_all(writes.into_iter().map(|write| self.server.write(write))).await;
        let mut wanted = self.revision;
        for outcome in done {
            match outcome {
                Ok(object) => wanted = wanted.max(object.revision()),
                // Somebody was faster; the event that says so is in the feed and the controller looks again.
                Err(status) if matches!(status.code(), 404 | 409) => {}
                Err(status) => warn!(reason = status.message(), "a controller's write was refused"),
            }
        }
        let mut keys = Vec::new();
        while self.revision < wanted {
            let batch = self.feed.next().await.ok_or_else(|| anyhow!("the store has stopped"))?;
            keys.extend(self.absorb(batch));
        }
        Ok(keys)
    }

    /// Does what the events absorbed so far ask for. What comes in meanwhile may ask for more.
    async fn follow(&mut self) -> Result<()> {
        let looked_at = self.revision;
        let pending = std::mem::take(&mut self.pending);
        if pending.enforce || self.said.is_none() {
            self.said = Some(self.enforce().await);
        }
        let Some((mesh, report)) = &self.said else { return Ok(()) };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let writes = {
            let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
            self.statuses.reconcile(&objects, &self.translator, mesh, report, &now)
        };
        if writes.is_empty() {
            return Ok(());
        }
        // Writes of users come through the feed together with those of the status: they were not looked at yet. Whoever
        // waits for what was looked at does not wait for them, so a steady stream of writes delays nobody.
        let keys = self.commit(writes).await?;
        self.settled.send_replace(looked_at);
        self.reconcile(Changed::keys(keys)).await
    }

    /// Compiles what the objects mean and returns when the kernel enforces it; says what became of it.
    async fn enforce(&mut self) -> (Mesh, Report) {
        let (mesh, before) = {
            let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
            // Names and virtual addresses grant nothing: what could not be changed is tried again with the next event.
            if let Err(error) = self.vips.sync(&objects) {
                warn!(error = format!("{:#}", anyhow!(error)), "virtual addresses are not up to date");
            }
            self.dns.publish(Arc::new(Zone::of(&objects)));
            (self.translator.mesh(&objects), self.snapshot.load_full())
        };
        let snapshot = Arc::new(policy::compile(&mesh, before.generation() + 1, Some(&before)));
        let report = self.dataplane.publish(Arc::clone(&snapshot)).await;
        self.snapshot.store(snapshot);
        (mesh, enforced::report(&report))
    }
}

/// Returns when time alone has changed what controllers want, with what to look at; never, if nothing waits for a time.
async fn time_passes(objects: &RwLock<Objects>) -> Changed {
    let due = controllers::due(&objects.read().unwrap_or_else(PoisonError::into_inner));
    let Some((time, key)) = due else { return std::future::pending().await };
    let left = Duration::try_from(time.duration_since(jiff::Timestamp::now())).unwrap_or_default();
    tokio::time::sleep(left.max(LOOK_AGAIN)).await; // timer: what is due then
    Changed::keys([key])
}

/// The workload of a pod that is gone for good.
fn gone_pod(event: &Event) -> Option<policy::WorkloadId> {
    let is_pod = event.key.is("", "pods") && matches!(event.change, Change::Deleted { .. });
    let namespace = event.key.namespace.as_deref().filter(|_| is_pod)?;
    Some(policy::WorkloadId::new(namespace, &event.key.name))
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await, // timer: the end of an event's hour
        None => std::future::pending().await,
    }
}

fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}
