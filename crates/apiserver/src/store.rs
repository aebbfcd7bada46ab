//! The store: objects in memory, durable on disk before any answer, one sequence of revisions, and a history to watch from.
//!
//! One thread writes. It runs the works that wait, one after the other, on its own view; commits what they staged in one
//! transaction; then shows it to readers and answers. So every work sees all works before it, and no reader sees what is not durable.
//! Not here: what a create or a delete means (`crate::write`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use api::{Change, Event, Object, Objects, Status};
use tokio::sync::{mpsc, oneshot, watch};

use crate::Error;

mod feed;
mod file;
mod history;
mod stage;

pub use feed::{Batch, Feed};
use file::File;
use history::History;
pub(crate) use stage::Stage;

/// Works that may wait for the writer; the next caller waits outside. More than the connections that we accept.
const WAITING_WORKS_MAX: usize = 1024;
/// Works that share one transaction: enough that the fsync does not count, few enough that the first need not wait for long.
const GROUP_WORKS_MAX: usize = 256;

/// What a work leaves behind.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The object as it is now, or as it was before it went.
    pub(crate) object: Arc<Object>,
    /// Whether there was no such object before.
    pub(crate) created: bool,
    /// Whether it is gone now.
    pub(crate) removed: bool,
    /// What the client should be told besides.
    pub(crate) warnings: Vec<String>,
    /// The revision that the answer depends on.
    pub(crate) revision: u64,
    /// What it took.
    pub(crate) took: Took,
}

/// Where the time of a work went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Took {
    /// From handing it to the writer until its answer, waiting for others included.
    pub(crate) store: Duration,
    /// Of that: making the transaction durable that it was part of; nothing if nothing was changed.
    pub(crate) commit: Duration,
}

/// A change to the store, run by its writer.
pub(crate) type Work = Box<dyn FnOnce(&mut Stage<'_>) -> Result<Written, Status> + Send>;

struct Job {
    work: Work,
    answer: oneshot::Sender<Result<Written, Status>>,
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) objects: Objects,
    pub(crate) revision: u64,
    history: History,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    revision: watch::Sender<u64>,
}

/// A handle of the store and the owner of its writer; the file is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Store {
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Store {
    /// Opens or makes the file and reads all objects.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let (file, objects, revision) = File::open(path)?;
        let state = State { objects: objects.clone(), revision, history: History::beginning(revision) };
        let shared = Arc::new(Shared { state: RwLock::new(state), revision: watch::Sender::new(revision) });
        let (jobs, waiting) = mpsc::channel(WAITING_WORKS_MAX);
        let writer = Writer { file, objects, revision, shared: Arc::clone(&shared) };
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|source| Error::StartWriter { source })?;
        Ok(Self { shared, jobs: Some(jobs), writer: Some(writer) })
    }

    /// Runs a work in the writer; the answer comes when its events are durable and visible.
    pub(crate) async fn submit(&self, work: Work) -> Result<Written, Status> {
        let (answer, outcome) = oneshot::channel();
        let stopped = || Status::unavailable("the store has stopped; start the server again");
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        let begun = Instant::now();
        jobs.send(Job { work, answer }).await.map_err(|_| stopped())?;
        let written = outcome.await.map_err(|_| stopped())??;
        Ok(Written { took: Took { store: begun.elapsed(), ..written.took }, ..written })
    }

    /// The same for callers outside of any runtime, or at start, when the wait is one commit.
    pub(crate) fn submit_blocking(&self, work: Work) -> Result<Written, Status> {
        let (answer, outcome) = oneshot::channel();
        let stopped = || Status::unavailable("the store has stopped; start the server again");
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.try_send(Job { work, answer }).map_err(|_| stopped())?;
        // A thread of its own, because a runtime does not let its threads wait like this.
        let waited = thread::scope(|scope| scope.spawn(|| outcome.blocking_recv()).join());
        waited.map_err(|_| stopped())?.map_err(|_| stopped())?
    }

    /// The state as of the last commit; to be held for a moment only.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.shared.state()
    }

    /// Tells of every commit; closed when the writer has stopped.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    /// All objects as events, then every event.
    pub(crate) fn feed(&self) -> Feed {
        Feed::over(Arc::clone(&self.shared))
    }

    /// Events of the history, see [`State::events_after`].
    pub(crate) fn events_after(&self, revision: u64) -> Result<Vec<Event>, Status> {
        self.state().events_after(revision)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs = None;
        // A hook may hold the last handle, and hooks run on the writer's own thread.
        if let Some(writer) = self.writer.take().filter(|writer| writer.thread().id() != thread::current().id())
            && writer.join().is_err()
        {
            tracing::error!("the store's writer ended in a panic");
        }
    }
}

impl Shared {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        // INVARIANT: the only writer replaces whole values and cannot panic between them, so a poisoned lock still holds a good state.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next events after `revision`, see [`History::after`].
    pub(crate) fn events_after(&self, revision: u64) -> Result<Vec<Event>, Status> {
        self.history.after(revision)
    }

    fn absorb(&mut self, events: Vec<Event>, revision: u64) {
        for event in events {
            self.objects.apply(&event);
            self.history.push(event);
        }
        self.revision = revision;
    }
}

struct Writer {
    file: File,
    /// The state including what is staged and not yet durable.
    objects: Objects,
    revision: u64,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        while let Some(first) = waiting.blocking_recv() {
            let before = self.revision;
            let mut events = Vec::new();
            let mut answers = vec![self.stage(first, &mut events)];
            while answers.len() < GROUP_WORKS_MAX
                && let Ok(job) = waiting.try_recv()
            {
                answers.push(self.stage(job, &mut events));
            }
            let committed = self.commit(events, before);
            for (answer, outcome) in answers {
                let outcome = match (&committed, outcome) {
                    (Err(failure), Ok(_)) => Err(failure.clone()),
                    (Ok(commit), Ok(written)) => {
                        Ok(Written { took: Took { commit: *commit, ..written.took }, ..written })
                    }
                    (_, outcome) => outcome,
                };
                if answer.send(outcome).is_err() {
                    tracing::debug!("a client left before its write was answered");
                }
            }
        }
    }

    fn stage(
        &mut self,
        job: Job,
        events: &mut Vec<Event>,
    ) -> (oneshot::Sender<Result<Written, Status>>, Result<Written, Status>) {
        let (first, before) = (events.len(), self.revision);
        let mut stage = Stage::begin(&mut self.objects, &mut self.revision, events);
        let outcome = catch_unwind(AssertUnwindSafe(|| (job.work)(&mut stage))).unwrap_or_else(|_| {
            Err(Status::internal("the write ended in a panic, which is a bug; nothing was changed"))
        });
        if outcome.is_err() {
            self.undo(events.split_off(first), before);
        }
        (job.answer, outcome)
    }

    /// Makes events durable and visible; says how long the former took.
    fn commit(&mut self, events: Vec<Event>, before: u64) -> Result<Duration, Status> {
        if events.is_empty() {
            return Ok(Duration::ZERO);
        }
        let begun = Instant::now();
        if let Err(error) = self.file.commit(&events, before, self.revision) {
            tracing::error!(%error, "a write was not made durable and is taken back");
            self.undo(events, before);
            return Err(Status::internal(&format!("the write could not be made durable and was taken back: {error}")));
        }
        let took = begun.elapsed();
        let revision = self.revision;
        self.shared.state.write().unwrap_or_else(PoisonError::into_inner).absorb(events, revision);
        self.shared.revision.send_replace(revision);
        Ok(took)
    }

    fn undo(&mut self, events: Vec<Event>, before: u64) {
        for Event { revision, key, change } in events.into_iter().rev() {
            let change = match change {
                Change::Put { old: None, new } => Change::Deleted { old: new },
                Change::Put { old: Some(old), .. } | Change::Deleted { old } => Change::Put { old: None, new: old },
            };
            self.objects.apply(&Event { revision, key, change });
        }
        self.revision = before;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Watches and feeds hold `shared` and would wait for ever otherwise.
        self.shared.revision.send_replace(CLOSED);
    }
}

/// The value of the revision channel that says that no revision will follow.
const CLOSED: u64 = u64::MAX;

/// Waits until the store has moved past `revision`; false if it never will.
pub(crate) async fn moved_past(revisions: &mut watch::Receiver<u64>, revision: u64) -> bool {
    match revisions.wait_for(|now| *now > revision).await {
        Ok(now) => *now != CLOSED,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
