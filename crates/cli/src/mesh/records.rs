//! Records on their way from the data plane to whoever wants to know: `tap`, the terminal of `up`, the log of a pod's
//! proxy.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use policy::mesh::WorkloadId;
use policy::record::Record;
use tokio::io::AsyncWriteExt;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Records of each verdict kept per workload for `kubectl logs -c istio-proxy`: a screen or two of what happened last.
const KEPT_PER_WORKLOAD: usize = 200;

/// Records that a slow listener may lag behind before it is told that it lost some.
const LAG_MAX: usize = 8192;

/// Records are taken in groups: after one, the next may gather for this long, since each wake-up costs more than a record.
const GROUP_FOR: Duration = Duration::from_millis(5);

/// Records taken at a time.
const GROUP_MAX: usize = 4096;

/// Questions that may wait until the records that have come are kept: each is from a person at a terminal.
const ASKING_MAX: usize = 16;

/// Bytes of a log stream that wait for a slow reader.
const PIPE_BYTES: usize = 64 * 1024;

/// Where records are kept and heard. Denials and connections that passed go apart, so that none of the latter pushes a
/// denial out.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    denied: broadcast::Sender<Arc<Record>>,
    allowed: broadcast::Sender<Arc<Record>>,
    kept: Arc<Mutex<HashMap<WorkloadId, Kept>>>,
    /// Answered when every record that had come before is kept.
    ask: mpsc::Sender<oneshot::Sender<()>>,
}

/// Those who wait until what has come is kept.
#[derive(Debug)]
pub(super) struct Asking(mpsc::Receiver<oneshot::Sender<()>>);

/// The records of a workload, each with its place in the order in which they came.
#[derive(Debug, Default)]
struct Kept {
    came: u64,
    denied: VecDeque<(u64, Arc<Record>)>,
    allowed: VecDeque<(u64, Arc<Record>)>,
}

impl Kept {
    fn push(&mut self, record: &Arc<Record>) {
        self.came += 1;
        let ring = if record.outcome.permitted { &mut self.allowed } else { &mut self.denied };
        if ring.len() == KEPT_PER_WORKLOAD {
            ring.pop_front();
        }
        ring.push_back((self.came, Arc::clone(record)));
    }

    fn in_order(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.denied.iter().chain(&self.allowed).collect();
        all.sort_by_key(|(came, _)| *came);
        all.into_iter().map(|(_, record)| Arc::clone(record)).collect()
    }
}

/// What a listener hears from now on.
#[derive(Debug)]
pub(crate) struct Heard {
    denied: Option<broadcast::Receiver<Arc<Record>>>,
    allowed: Option<broadcast::Receiver<Arc<Record>>>,
}

impl Heard {
    /// The next record, denials first; `None` when the mesh has ended. A listener slower than a flood goes on with what is
    /// left: `status` counts all.
    pub(crate) async fn next(&mut self) -> Option<Arc<Record>> {
        loop {
            let received = tokio::select! {
                biased;
                received = hear(&mut self.denied) => received,
                received = hear(&mut self.allowed) => received,
            };
            match received {
                Ok(record) => return Some(record),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

async fn hear(from: &mut Option<broadcast::Receiver<Arc<Record>>>) -> Result<Arc<Record>, broadcast::error::RecvError> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}

impl Records {
    pub(super) fn new() -> (Self, Asking) {
        let (ask, asking) = mpsc::channel(ASKING_MAX);
        let (denied, allowed) = (broadcast::Sender::new(LAG_MAX), broadcast::Sender::new(LAG_MAX));
        (Self { denied, allowed, kept: Arc::default(), ask }, Asking(asking))
    }

    /// Takes records from the data plane until it ends; `tell` is called with each.
    pub(super) async fn gather(self, mut source: mpsc::Receiver<Record>, mut asking: Asking, tell: fn(&Record)) {
        let mut group = Vec::new();
        loop {
            let taken = tokio::select! {
                // Records first: whoever asks is answered when none is left that came before.
                biased;
                taken = source.recv_many(&mut group, GROUP_MAX) => taken,
                Some(answer) = asking.0.recv() => {
                    // Whoever no longer waits needs no answer.
                    let _gone = answer.send(());
                    continue;
                }
            };
            if taken == 0 {
                return;
            }
            let records: Vec<_> = group.drain(..).inspect(tell).map(Arc::new).collect();
            self.keep(&records);
            for record in records {
                // No listener is no error.
                let live = if record.outcome.permitted { &self.allowed } else { &self.denied };
                drop(live.send(record));
            }
            tokio::time::sleep(GROUP_FOR).await;
        }
    }

    fn keep(&self, records: &[Arc<Record>]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            let Some(workload) = &record.destination.workload else { continue };
            match kept.get_mut(workload) {
                Some(known) => known.push(record),
                None => kept.entry(workload.clone()).or_default().push(record),
            }
        }
    }

    /// A record that is kept.
    pub(super) fn find(&self, id: u64) -> Option<Arc<Record>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = kept.values().flat_map(|of| of.denied.iter().chain(&of.allowed));
        all.find(|(_, record)| record.id == id).map(|(_, record)| Arc::clone(record))
    }

    /// The records that are kept, of these verdicts, in the order in which their connections were opened.
    pub(super) async fn recent(&self, denied: bool, allowed: bool) -> Vec<Arc<Record>> {
        let (answer, answered) = oneshot::channel();
        if self.ask.send(answer).await.is_ok() {
            // An end of the mesh in between ends the question as well.
            drop(answered.await);
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |kept: &Kept| {
            kept.denied
                .iter()
                .filter(|_| denied)
                .chain(kept.allowed.iter().filter(|_| allowed))
                .cloned()
                .collect::<Vec<_>>()
        };
        let mut all: Vec<_> = kept.values().flat_map(of).map(|(_, record)| record).collect();
        all.sort_by_key(|record| (record.opened_unix_ms, record.id));
        all
    }

    /// Forgets a workload that is gone.
    pub(super) fn forget(&self, workload: &WorkloadId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(workload);
    }

    /// Hears records of these verdicts from now on.
    pub(crate) fn listen(&self, denied: bool, allowed: bool) -> Heard {
        Heard { denied: denied.then(|| self.denied.subscribe()), allowed: allowed.then(|| self.allowed.subscribe()) }
    }

    /// The log of a workload's proxy as text: what is kept, then, with `follow`, what comes until the reader leaves.
    pub(super) fn proxy_log(&self, workload: WorkloadId, tail: Option<u64>, follow: bool) -> tokio::io::DuplexStream {
        let (reader, mut writer) = tokio::io::duplex(PIPE_BYTES);
        // Subscribed before the look, so that nothing falls between; the look then may hold what is heard again.
        let mut live = self.listen(true, true);
        let kept: Vec<_> = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(&workload).map(Kept::in_order).unwrap_or_default()
        };
        let tail = tail.and_then(|tail| usize::try_from(tail).ok());
        let skipped = tail.map_or(0, |tail| kept.len().saturating_sub(tail));
        tokio::spawn(async move {
            for record in kept.iter().skip(skipped) {
                if writer.write_all(line(record).as_bytes()).await.is_err() {
                    return;
                }
            }
            if follow {
                // Ends with the reader or with the mesh.
                drop(write_live(&mut writer, &mut live, &workload, &kept).await);
            }
        });
        reader
    }
}

/// Writes what comes, less what is known already, until the reader leaves.
async fn write_live(
    writer: &mut tokio::io::DuplexStream,
    live: &mut Heard,
    workload: &WorkloadId,
    known: &[Arc<Record>],
) -> std::io::Result<()> {
    while let Some(record) = live.next().await {
        let ours = record.destination.workload.as_ref() == Some(workload);
        if ours && !known.iter().any(|old| Arc::ptr_eq(old, &record)) {
            writer.write_all(line(&record).as_bytes()).await?;
        }
    }
    Ok(())
}

fn line(record: &Record) -> String {
    control::lines::proxy_log(record) + "\n"
}
