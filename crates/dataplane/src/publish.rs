//! A snapshot is put into force, in this order, per workload: the table in one transaction; open connections listed and
//! judged again, the no longer permitted reset; a barrier until packets that met the old table are through; the same once
//! more, until a listing shows none; then the generation counts as in force.
//!
//! Workloads whose table is the same cost nothing. The others are written by a few threads, those that were quick the
//! last time first, and judged as they come, so that a workload with a huge table delays no other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use linux::error::with_causes;
use policy::mesh::WorkloadId;
use policy::snapshot::{NeedsProxyPath, Snapshot, Source};
use policy::table::{TooLarge, table, table_after};

use crate::attach::Pod;
use crate::revoke::{self, Peers};
use crate::verdicts::{Goes, Half, Verdicts, Wanted};
use crate::{Error, Shared, lock};

/// Tables written at the same time. Two keep two CPUs busy; with four, three huge ones still leave a way past them.
const WRITERS: usize = 4;

/// What became of a snapshot.
#[derive(Debug)]
pub struct Report {
    /// Its generation.
    pub generation: u64,
    /// It was handed to every attached workload. `false`: it was broken off or is older than one that is in force.
    pub complete: bool,
    /// Every attached workload.
    pub workloads: BTreeMap<WorkloadId, Enforcement>,
}

/// How far one workload is.
#[derive(Debug)]
pub struct Enforcement {
    /// The generation whose decisions are in force, open connections included.
    pub generation: u64,
    /// Elements of its table.
    pub entries: usize,
    /// Its table was written anew or changed for this snapshot.
    pub changed: bool,
    /// Connections reset because they are no longer permitted.
    pub resets: usize,
    /// Policies whose verdict needs bytes of the connection; what depends on them is refused.
    pub needs_proxy: Vec<NeedsProxyPath>,
    /// Why it does not enforce what the policies say; it refuses more, never less.
    pub trouble: Option<Arc<Trouble>>,
}

/// Why a workload does not enforce what its policies say.
#[derive(Debug)]
pub enum Trouble {
    /// The snapshot does not know the workload: it refuses everything.
    Unknown,
    /// Its table would be too large: it refuses everything.
    TooLarge(TooLarge),
    /// The kernel did not take its table: it refuses everything, if the kernel took at least that.
    NotLoaded(Error),
    /// Its table is in force; open connections could not be judged.
    NotJudged(Error),
    /// Its table is in force; packets that met the one before may have opened connections after they were judged.
    InFlight,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the workload is not in the snapshot and refuses every connection"),
            Self::TooLarge(too_large) => write!(f, "every connection is refused: {too_large}"),
            Self::NotLoaded(error) => write!(f, "every connection is refused: {}", with_causes(error)),
            Self::NotJudged(error) => write!(f, "open connections may be left over: {}", with_causes(error)),
            Self::InFlight => {
                f.write_str("connections may be left over: the kernel offers no barrier for packets in flight")
            }
        }
    }
}

/// Whose turn it is to publish, and what the first one does besides.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    closed_others: bool,
}

/// A pod's table and how far its enforcement has come.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) verdicts: Verdicts,
    /// The last snapshot handed to it, whatever came of it.
    snapshot: Option<Arc<Snapshot>>,
    /// Open connections were judged under that table.
    judged: bool,
    /// Why it refuses more than its policies say, or may have left connections open.
    trouble: Option<Arc<Trouble>>,
    /// How long its last table took; the quick ones go first.
    took: Duration,
}

impl Progress {
    pub(crate) fn at_attach(verdicts: Verdicts) -> Self {
        Self { verdicts, snapshot: None, judged: false, trouble: None, took: Duration::ZERO }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.snapshot.as_ref().filter(|_| self.judged).map_or(0, |snapshot| snapshot.generation())
    }

    /// Whether somebody else has changed the pod's tables; what is in force is unknown then until they are written anew.
    pub(crate) fn was_changed(&mut self, pod: &Pod) -> bool {
        let changed = self.verdicts.was_changed();
        if changed {
            tracing::warn!(workload = %pod.workload(), "somebody else changed its tables; they are written anew");
            pod.rewritten.fetch_add(1, Ordering::Relaxed);
            self.judged = false;
        }
        changed
    }

    /// Whether the table may say something of an address: unless it is in force as a snapshot has it in which the address
    /// is nobody's.
    pub(crate) fn may_know(&self, address: IpAddr) -> bool {
        let snapshot = self.snapshot.as_ref().filter(|_| self.judged && self.verdicts.in_force().is_some());
        snapshot.is_none_or(|snapshot| snapshot.at(address) != Source::default())
    }

    /// The table in force, if it says what the last snapshot says, and that snapshot.
    fn made(&self) -> Option<(Arc<Snapshot>, Wanted)> {
        let in_force = self.verdicts.in_force().filter(|in_force| in_force.made)?;
        Some((Arc::clone(self.snapshot.as_ref()?), in_force.clone()))
    }

    pub(crate) fn entries(&self) -> usize {
        self.verdicts.in_force().map_or(0, Wanted::elements)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.verdicts.in_force().is_some_and(Wanted::is_open)
    }
}

pub(crate) fn publish(shared: &Shared, snapshot: &Arc<Snapshot>) -> Report {
    let mut turn = lock(&shared.publishing);
    let generation = snapshot.generation();
    if shared.current.load().as_ref().is_some_and(|current| current.generation() > generation) {
        return Report { generation, complete: false, workloads: BTreeMap::new() };
    }
    // First, so that a pod attached from here on catches up by itself if the list below misses it.
    shared.current.store(Some(Arc::clone(snapshot)));
    if !turn.closed_others {
        match lock(&shared.guard).close_others(snapshot) {
            Ok(()) => turn.closed_others = true,
            Err(error) => tracing::error!(%error, "cannot close the guard for links of an earlier process"),
        }
    }
    if let Err(error) = lock(&shared.guard).withdraw(snapshot) {
        tracing::error!(%error, "cannot close the guard for addresses that are nobody's any more");
    }
    let pods: Vec<Arc<Pod>> = lock(&shared.pods).values().cloned().collect();
    let mut workloads = BTreeMap::new();
    let mut changing = Vec::new();
    for pod in &pods {
        match unchanged(pod, snapshot) {
            Some(enforcement) => drop(workloads.insert(pod.workload().clone(), enforcement)),
            None => changing.push(Arc::clone(pod)),
        }
    }
    changing.sort_by_key(|pod| lock(&pod.progress).took);
    let writers = WRITERS.min(changing.len());
    let queue = Mutex::new(changing.into_iter());
    let (written, mut ready) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..writers {
            let written = written.clone();
            let queue = &queue;
            scope.spawn(move || {
                while let Some(pod) = lock_next(queue) {
                    let one = write(pod, snapshot);
                    // The reader lives as long as this scope.
                    drop(written.send(one));
                }
            });
        }
        drop(written);
        while let Some(batch) = next_batch(&mut ready) {
            workloads.extend(judge_batch(&pods, batch, snapshot));
        }
    });
    let admitted = lock(&shared.guard).admit(snapshot);
    told(admitted);
    Report { generation, complete: true, workloads }
}

fn told(admitted: Result<(), linux::Error>) {
    if let Err(error) = admitted {
        tracing::error!(%error, "cannot open the guard for new addresses; their pods open no connection");
    }
}

/// One pod alone, when it is attached.
pub(crate) fn catch_up(shared: &Shared, pod: &Arc<Pod>, snapshot: &Arc<Snapshot>) -> Enforcement {
    let admitted = lock(&shared.guard).admit_late(snapshot);
    told(admitted);
    if let Some(enforcement) = unchanged(pod, snapshot) {
        return enforcement;
    }
    let written = write(Arc::clone(pod), snapshot);
    let pods: Vec<Arc<Pod>> = lock(&shared.pods).values().cloned().collect();
    let mut judged = judge_batch(&pods, vec![written], snapshot);
    judged.pop().map_or_else(|| enforcement(pod, &lock(&pod.progress), snapshot, false, 0), |(_, one)| one)
}

fn lock_next(queue: &Mutex<std::vec::IntoIter<Arc<Pod>>>) -> Option<Arc<Pod>> {
    lock(queue).next()
}

/// A table that was looked at.
struct Written {
    pod: Arc<Pod>,
    trouble: Option<Trouble>,
    /// Connections that were let in before may not be permitted any more.
    to_judge: bool,
    /// Its maps, by their number.
    maps: u32,
}

/// Waits for a written table, and takes those that are ready as well: they share a barrier.
fn next_batch(ready: &mut mpsc::Receiver<Written>) -> Option<Vec<Written>> {
    let mut batch = vec![ready.recv().ok()?];
    batch.extend(ready.try_iter());
    Some(batch)
}

/// If the table says the same and was judged: the newer snapshot replaces the older as its explanation, and that is all.
fn unchanged(pod: &Pod, snapshot: &Arc<Snapshot>) -> Option<Enforcement> {
    let mut progress = lock(&pod.progress);
    progress.was_changed(pod);
    let before = progress.snapshot.as_ref()?;
    if before.generation() <= snapshot.generation() {
        let in_force = progress.verdicts.in_force().filter(|_| progress.judged)?;
        if !snapshot.same_table(before, pod.workload()) {
            return None;
        }
        pod.generations.begin(in_force.generation, snapshot);
        progress.snapshot = Some(Arc::clone(snapshot));
    }
    Some(enforcement(pod, &progress, snapshot, false, 0))
}

/// Puts the table into force. What it could not do, it says; then the workload refuses everything.
fn write(pod: Arc<Pod>, snapshot: &Arc<Snapshot>) -> Written {
    let began = Instant::now();
    let before = lock(&pod.progress).made();
    let (wanted, mut trouble) = wanted(&pod, snapshot, before.as_ref());
    let mut progress = lock(&pod.progress);
    if progress.snapshot.as_ref().is_some_and(|before| before.generation() > snapshot.generation()) {
        drop(progress);
        return Written { pod, trouble: None, to_judge: false, maps: 0 };
    }
    progress.snapshot = Some(Arc::clone(snapshot));
    if let Some(in_force) = progress.verdicts.in_force().filter(|in_force| in_force.same(&wanted)) {
        pod.generations.begin(in_force.generation, snapshot);
        progress.verdicts.keep(wanted);
    } else {
        progress.judged = false;
        pod.generations.begin(wanted.generation, snapshot);
        if let Err(source) = progress.verdicts.load(wanted) {
            trouble = Some(Trouble::NotLoaded(Error::Load { workload: Box::new(pod.workload().clone()), source }));
        }
    }
    progress.took = began.elapsed();
    let to_judge = !progress.judged;
    if !to_judge {
        progress.trouble = trouble.take().map(Arc::new);
    }
    let maps = progress.verdicts.maps_made();
    drop(progress);
    Written { pod, trouble, to_judge, maps }
}

/// The table that the snapshot has for a pod, made from the one before where that is quicker.
fn wanted(pod: &Pod, snapshot: &Snapshot, before: Option<&(Arc<Snapshot>, Wanted)>) -> (Wanted, Option<Trouble>) {
    let generation = snapshot.generation();
    if snapshot.workload(pod.workload()).is_none() {
        return (Wanted::closed(generation), Some(Trouble::Unknown));
    }
    let workload = pod.workload();
    let half = |address: IpAddr| {
        let table = match before {
            Some((earlier, before)) => {
                let before = if address.is_ipv4() { &before.four } else { &before.six };
                table_after(snapshot, workload, address, (earlier, before.table()))
            }
            None => table(snapshot, workload, address),
        };
        table.map(Half::of)
    };
    let [v4, v6] = pod.addresses();
    match (half(v4), half(v6)) {
        (Ok(four), Ok(six)) => (Wanted { generation, four, six, made: true }, None),
        (Err(too_large), _) | (_, Err(too_large)) => (Wanted::closed(generation), Some(Trouble::TooLarge(too_large))),
    }
}

fn judge_batch(pods: &[Arc<Pod>], batch: Vec<Written>, snapshot: &Arc<Snapshot>) -> Vec<(WorkloadId, Enforcement)> {
    let by_address: ByAddress<'_> = pods.iter().flat_map(|pod| pod.addresses().map(|address| (address, pod))).collect();
    let mut early: Vec<usize> = vec![0; batch.len()];
    let mut barrier = false;
    if batch.iter().any(|written| written.to_judge) {
        // One barrier for the whole batch: all its tables were in force before. It takes longer than all else, so what is
        // open is judged meanwhile; after it, what packets in flight have opened.
        std::thread::scope(|scope| {
            let crossing = scope.spawn(linux::membarrier::global);
            for (resets, Written { pod, .. }) in early.iter_mut().zip(&batch).filter(|(_, written)| written.to_judge) {
                // What cannot be listed now is told of the second time.
                *resets = reset(&by_address, pod).map_or(0, |judged| judged.resets);
            }
            let crossed = crossing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            barrier = crossed.inspect_err(|error| tracing::error!(%error, "cannot wait for packets in flight")).is_ok();
        });
    }
    let judged = batch.into_iter().zip(early).map(|(Written { pod, trouble, to_judge, maps }, early)| {
        let enforcement = if to_judge {
            judge(&by_address, &pod, trouble, snapshot, barrier.then_some(maps), early)
        } else {
            enforcement(&pod, &lock(&pod.progress), snapshot, false, 0)
        };
        (pod.workload().clone(), enforcement)
    });
    judged.collect()
}

/// The attached pods.
type ByAddress<'p> = HashMap<IpAddr, &'p Arc<Pod>>;

/// Resets what the table in force no longer permits.
fn reset(by_address: &ByAddress<'_>, pod: &Pod) -> Result<revoke::Judged, linux::Error> {
    let in_force = lock(&pod.progress).verdicts.in_force().cloned();
    let find = |address: IpAddr| by_address.get(&address).map(|other| &other.sockets);
    let mut peers = Peers { find: &find, unmarked: HashMap::new() };
    let known = std::cell::RefCell::new(HashMap::new());
    let permitted = |source: IpAddr, port: u16| {
        *known.borrow_mut().entry((source, port)).or_insert_with(|| {
            let half = in_force.as_ref().map(|wanted| if source.is_ipv4() { &wanted.four } else { &wanted.six });
            half.is_some_and(|half| half.goes(source, port) == Goes::Allow)
        })
    };
    revoke::judge(&pod.net, &pod.sockets, &mut peers, &permitted)
}

/// Resets what is left; the generation is in force after that. `crossed`: the maps of the table after which the barrier was crossed;
/// `early`: how many were reset before it.
fn judge(
    by_address: &ByAddress<'_>,
    pod: &Pod,
    trouble: Option<Trouble>,
    snapshot: &Arc<Snapshot>,
    crossed: Option<u32>,
    early: usize,
) -> Enforcement {
    let in_force = lock(&pod.progress).verdicts.in_force().map(|wanted| wanted.generation);
    let workload = || Box::new(pod.workload().clone());
    let (resets, mut not_judged) = match reset(by_address, pod) {
        Ok(judged) if judged.left > 0 => {
            let left = Error::StillOpen { workload: workload(), left: judged.left, rounds: judged.rounds };
            (judged.resets, Some(Trouble::NotJudged(left)))
        }
        Ok(judged) => (judged.resets, None),
        Err(source) => (0, Some(Trouble::NotJudged(Error::Judge { workload: workload(), source }))),
    };
    let resets = early + resets;
    if crossed.is_none() {
        not_judged = not_judged.or(Some(Trouble::InFlight));
    }
    pod.resets.fetch_add(u64::try_from(resets).unwrap_or_default(), Ordering::Relaxed);
    let mut progress = lock(&pod.progress);
    progress.judged = not_judged.is_none();
    if let (Some(maps), Some(generation)) = (crossed, in_force) {
        pod.generations.end_before(generation);
        if let Err(error) = progress.verdicts.tidy(maps) {
            tracing::warn!(workload = %pod.workload(), error = with_causes(&error), "maps of an earlier table are left over");
        }
    }
    progress.trouble = trouble.or(not_judged).map(Arc::new);
    enforcement(pod, &progress, snapshot, true, resets)
}

fn enforcement(pod: &Pod, progress: &Progress, snapshot: &Snapshot, changed: bool, resets: usize) -> Enforcement {
    Enforcement {
        generation: progress.generation(),
        entries: progress.entries(),
        changed,
        resets,
        needs_proxy: snapshot.needs_proxy(pod.workload()),
        trouble: progress.trouble.clone(),
    }
}
