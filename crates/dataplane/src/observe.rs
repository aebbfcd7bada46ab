//! Verdicts of the kernel become records: a logged SYN is decided again, with names, on the snapshot its table came from.
//! A refusal has its record at once ([`fold`]), a connection that was let in when it is over ([`permits`]).
//!
//! One thread reads the logs of every pod. It never holds up a verdict: what it cannot take in is lost, and counted. For
//! each pod, always: refusals counted by the kernel = records + folded + lost, and acceptances = records + folded + lost
//! + open, once the logs are drained.

mod fold;
mod generations;
pub(crate) mod packet;
mod permits;
mod tell;

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc as commands;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use linux::netlink::Received;
use linux::nflog::{Listener, Logged};
use policy::mesh::WorkloadId;
use policy::record::Record;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use tokio::sync::mpsc;

use crate::Error;
use crate::verdicts::LOG_PREFIX;
use fold::{Fate, Fold, Window};
pub(crate) use generations::Generations;
use packet::Attempt;
pub(crate) use permits::Sources;
use permits::{Context, Permits};
use tell::{Ids, record};

/// Datagrams read from one pod before the next pod has its turn; one refusal each.
const TURN: usize = 256;
/// Pods that are handled per wake-up; the others stay ready.
const READY_MAX: usize = 64;
/// How long what a pod's sources tell waits for company: each wake-up costs more than what it is about.
const COLLECT_FOR: Duration = Duration::from_millis(10);
/// The event of the wake-up handle; pods count from 1, and an event of theirs is [`SOURCES`] times that and the source.
const WAKE: u64 = 0;
/// What is waited for of a pod: refusals, connections that were let in, connections that are over.
const SOURCES: u64 = 3;
/// One wake-up, and no more until it is asked for again.
const ONCE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

/// What became of a pod's refusals, or of its acceptances.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    open: AtomicU64,
    leaving: AtomicBool,
    records: AtomicU64,
    folded: AtomicU64,
    lost: AtomicU64,
    received: AtomicU64,
}

impl Tally {
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub(crate) fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    /// Received and lost since, for want of room.
    pub(crate) fn lost_here(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Of acceptances: connections whose record is written when they are over.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn set_open(&self, open: usize) {
        self.open.store(u64::try_from(open).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The workload is being removed: what ends from here on ends because of that.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Messages that came at all.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// What the observer needs of a pod.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) workload: WorkloadId,
    pub(crate) listener: Listener,
    pub(crate) generations: Arc<Generations>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) sources: Sources,
    pub(crate) permitted: Arc<Tally>,
}

enum Command {
    Watch(u64, Box<Watched>),
    /// Read what is left, close the log, then answer.
    Forget(u64, commands::SyncSender<()>),
    /// Read everything that waits, write out what is folded, then answer.
    Settle(commands::SyncSender<()>),
    /// Read everything that waits, then answer with the connections that are open.
    Open(commands::SyncSender<Vec<Record>>),
    /// Reset those with these ids, then answer with how many there were.
    Close(HashSet<u64>, commands::SyncSender<usize>),
}

/// The thread that reads the logs. It ends when this is dropped, and has closed every log when that returns: the kernel
/// gives a log to one listener at a time.
#[derive(Debug)]
pub(crate) struct Observer {
    reader: Option<JoinHandle<()>>,
    commands: Mutex<commands::Sender<Command>>,
    wake: Arc<OwnedFd>,
    names: AtomicU64,
}

impl Observer {
    pub(crate) fn start(records: mpsc::Sender<Record>) -> Result<Self, Error> {
        let failed = |source: std::io::Error| Error::Worker { what: "cannot be started", source };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
        let wake = Arc::new(wake);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        epoll::add(&epoll, &*wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)
            .map_err(|errno| failed(errno.into()))?;
        let (sender, receiver) = commands::channel();
        let mut reader =
            Reader { epoll, wake: Arc::clone(&wake), receiver, pods: HashMap::new(), records, ids: Ids::begin() };
        let reader =
            std::thread::Builder::new().name("observe".to_owned()).spawn(move || reader.run()).map_err(failed)?;
        Ok(Self { reader: Some(reader), commands: Mutex::new(sender), wake, names: AtomicU64::new(WAKE + 1) })
    }

    /// Reads this pod's log from now on; the number is for [`Self::forget`].
    pub(crate) fn watch(&self, watched: Watched) -> u64 {
        let name = self.names.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Watch(name, Box::new(watched)));
        name
    }

    /// Reads what is left of a pod's log and closes it; closed when this returns, so that the log can be opened anew.
    pub(crate) fn forget(&self, name: u64) {
        self.send_and_wait(|done| Command::Forget(name, done));
    }

    /// Returns when everything that was in the logs is a record, folded or lost.
    pub(crate) fn settle(&self) {
        self.send_and_wait(Command::Settle);
    }

    /// The connections that were let in and are open, their age as their duration.
    pub(crate) fn open(&self) -> Vec<Record> {
        self.send_and_wait(Command::Open)
    }

    /// Resets open connections, named by the ids of their records; how many of them there were.
    pub(crate) fn close(&self, ids: HashSet<u64>) -> usize {
        self.send_and_wait(|done| Command::Close(ids, done))
    }

    fn send_and_wait<R: Default>(&self, command: impl FnOnce(commands::SyncSender<R>) -> Command) -> R {
        let (done, wait) = commands::sync_channel(1);
        self.send(command(done));
        // A reader that is gone drops its end: nothing more will be read, and the numbers say so.
        wait.recv().unwrap_or_default()
    }

    fn send(&self, command: Command) {
        let sent = self.commands.lock().unwrap_or_else(PoisonError::into_inner).send(command);
        if sent.is_err() {
            tracing::error!("the reader of refusals has ended: refusals are counted by the kernel only");
        }
        self.ring();
    }

    /// A full counter (2^64 - 2 wake-ups unread) is awake as well: an error changes nothing.
    fn ring(&self) {
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).ok();
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // The reader sees the closed channel when it wakes up.
        let (closed, _) = commands::channel();
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.ring();
        // One that panicked has closed its logs as well.
        self.reader.take().map(JoinHandle::join);
    }
}

struct Pod {
    workload: WorkloadId,
    listener: Listener,
    generations: Arc<Generations>,
    tally: Arc<Tally>,
    window: Window,
    permits: Permits,
    permitted: Arc<Tally>,
    /// When what waits is to be read; until then the kernel does not wake us again for a source that told so.
    collected: Option<Instant>,
}

struct Reader {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    receiver: commands::Receiver<Command>,
    pods: HashMap<u64, Pod>,
    records: mpsc::Sender<Record>,
    ids: Ids,
}

impl Reader {
    fn run(&mut self) {
        loop {
            let mut ready = [const { std::mem::MaybeUninit::uninit() }; READY_MAX];
            let events: Vec<u64> = match epoll::wait(&self.epoll, &mut ready, self.until_due().as_ref()) {
                Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
                Err(rustix::io::Errno::INTR) => Vec::new(),
                Err(errno) => {
                    return tracing::error!(%errno, "cannot wait for refusals: they are counted by the kernel only");
                }
            };
            for name in events {
                if name == WAKE {
                    if !self.obey() {
                        return;
                    }
                } else if let Some(pod) = self.pods.get_mut(&(name / SOURCES)) {
                    pod.collected.get_or_insert_with(|| Instant::now() + COLLECT_FOR);
                }
            }
            let now = Instant::now();
            for (name, pod) in &mut self.pods {
                if pod.collected.is_some_and(|at| at <= now) && pod.read(TURN, &self.records, &mut self.ids) {
                    pod.collected = None;
                    pod.hear(*name, |event, source| epoll::modify(&self.epoll, source, event, ONCE));
                }
                pod.write_folds(Some(now), &self.records, &mut self.ids);
                pod.with_permits(&self.records, &mut self.ids, |permits, context| permits.look(now, context));
            }
        }
    }

    /// Until the next second of a pod with folded refusals is over, or sockets are to be listed.
    fn until_due(&self) -> Option<Timespec> {
        let due =
            self.pods.values().flat_map(|pod| [pod.window.due(), pod.permits.due(), pod.collected]).flatten().min()?;
        // One more millisecond than left, so that it is over when this returns.
        let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    /// `false`: the owner is gone.
    fn obey(&mut self) -> bool {
        let mut count = [0; 8];
        // Only what was rung for is taken; a ring after this wakes again.
        rustix::io::read(&*self.wake, &mut count).ok();
        loop {
            match self.receiver.try_recv() {
                Ok(Command::Watch(name, watched)) => self.watch(name, *watched),
                Ok(Command::Forget(name, done)) => {
                    if let Some(mut pod) = self.pods.remove(&name) {
                        pod.settle(&self.records, &mut self.ids);
                        pod.with_permits(&self.records, &mut self.ids, Permits::end_all);
                    }
                    // The pod is dropped, and its logs closed with it. Nobody may wait any more: nothing to tell.
                    done.send(()).ok();
                }
                Ok(Command::Settle(done)) => {
                    for pod in self.pods.values_mut() {
                        pod.settle(&self.records, &mut self.ids);
                    }
                    // Nobody waits any more: nothing to tell.
                    done.send(()).ok();
                }
                Ok(Command::Open(done)) => {
                    let Self { pods, records, ids, .. } = self;
                    let open = pods.values_mut().flat_map(|pod| pod.open(records, ids)).collect();
                    done.send(open).ok();
                }
                Ok(Command::Close(wanted, done)) => {
                    let closed = self.pods.values_mut().map(|pod| pod.permits.close(&wanted, &pod.workload)).sum();
                    done.send(closed).ok();
                }
                Err(commands::TryRecvError::Empty) => return true,
                Err(commands::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn watch(&mut self, name: u64, watched: Watched) {
        let Watched { workload, listener, generations, tally, sources, permitted } = watched;
        let (window, permits) = (Window::begin(Instant::now()), Permits::begin(sources));
        let pod = Pod { workload, listener, generations, tally, window, permits, permitted, collected: None };
        pod.hear(name, |event, source| epoll::add(&self.epoll, source, event, ONCE));
        self.pods.insert(name, pod);
    }
}

impl Pod {
    /// Has the kernel wake us at the next word of each source, of which some may be waited for already.
    fn hear(&self, name: u64, wait: impl Fn(epoll::EventData, BorrowedFd<'_>) -> rustix::io::Result<()>) {
        let [accepts, endings] = self.permits.sources();
        for (event, source) in (name * SOURCES..).zip([self.listener.as_fd(), accepts, endings]) {
            if let Err(errno) = wait(epoll::EventData::new_u64(event), source) {
                let workload = &self.workload;
                tracing::error!(%errno, %workload, "cannot wait for verdicts of a workload: they are told late, or counted by the kernel only");
            }
        }
    }

    /// Reads up to `turn` datagrams of refusals, then what waits of connections that were let in. `false`: there may be more.
    fn read(&mut self, turn: usize, records: &mpsc::Sender<Record>, ids: &mut Ids) -> bool {
        let over = self.generations.over();
        let refusals = self.read_refusals(turn, records, ids);
        let permits = self.with_permits(records, ids, Permits::read);
        if refusals && permits {
            self.generations.drained(&over);
        }
        refusals && permits
    }

    fn with_permits<R>(
        &mut self,
        records: &mpsc::Sender<Record>,
        ids: &mut Ids,
        work: impl FnOnce(&mut Permits, &mut Context<'_>) -> R,
    ) -> R {
        let Self { workload, generations, permitted, permits, .. } = self;
        work(permits, &mut Context { workload, generations, tally: permitted, records, ids })
    }

    /// `false`: there may be more in the log.
    fn read_refusals(&mut self, turn: usize, records: &mpsc::Sender<Record>, ids: &mut Ids) -> bool {
        let Self { workload, listener, generations, tally, window, .. } = self;
        for _ in 0..turn {
            let received = listener.read(|logged| {
                tally.received.fetch_add(1, Ordering::Relaxed);
                let Some((attempt, generation)) = read_logged(&logged) else {
                    tally.lost.fetch_add(1, Ordering::Relaxed);
                    return;
                };
                match window.sort(attempt, generation) {
                    Fate::Own => {
                        write(workload, generations, tally, records, ids, Fold { attempt, generation, count: 1 });
                    }
                    Fate::Folded => drop(tally.folded.fetch_add(1, Ordering::Relaxed)),
                    Fate::Lost => drop(tally.lost.fetch_add(1, Ordering::Relaxed)),
                }
            });
            match received {
                Ok(Received::Messages) => {}
                // What was lost is the difference between the kernel's count and ours.
                Ok(Received::Overrun) => {
                    tracing::warn!(%workload, "more refusals than could be read: some have no record");
                }
                Ok(Received::Nothing) => return true,
                Err(error) => {
                    tracing::error!(%error, %workload, "cannot read refusals");
                    return false;
                }
            }
        }
        false
    }

    fn settle(&mut self, records: &mpsc::Sender<Record>, ids: &mut Ids) {
        // No turns: what waits is bounded by the queue of the socket.
        self.read(usize::MAX, records, ids);
        self.write_folds(None, records, ids);
    }

    fn open(&mut self, records: &mpsc::Sender<Record>, ids: &mut Ids) -> Vec<Record> {
        self.settle(records, ids);
        self.permits.opened(&self.workload)
    }

    fn write_folds(&mut self, now: Option<Instant>, records: &mpsc::Sender<Record>, ids: &mut Ids) {
        let Self { workload, generations, tally, window, .. } = self;
        for fold in window.turn(now) {
            // They were counted as folded when they came.
            tally.folded.fetch_sub(fold.count, Ordering::Relaxed);
            write(workload, generations, tally, records, ids, fold);
        }
    }
}

fn read_logged(logged: &Logged<'_>) -> Option<(Attempt, u64)> {
    let generation = logged.prefix.strip_prefix(LOG_PREFIX)?.parse().ok()?;
    Some((packet::attempt(logged.packet)?, generation))
}

fn write(
    workload: &WorkloadId,
    generations: &Generations,
    tally: &Tally,
    records: &mpsc::Sender<Record>,
    ids: &mut Ids,
    fold: Fold,
) {
    let record = record(workload, generations.of(fold.generation).as_deref(), ids.take(), &fold);
    if records.try_send(record).is_ok() {
        tally.records.fetch_add(1, Ordering::Relaxed);
        tally.folded.fetch_add(fold.count - 1, Ordering::Relaxed);
    } else {
        tally.lost.fetch_add(fold.count, Ordering::Relaxed);
    }
}
