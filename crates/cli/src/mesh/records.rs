//! Records on their way from the data plane to whoever wants to know: `tap`, the terminal of `up`, the log of a pod's
//! proxy.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use policy::mesh::WorkloadId;
use policy::record::Record;
use tokio::io::AsyncWriteExt;
use tokio::sync::{broadcast, mpsc};

/// Records kept per workload for `kubectl logs -c istio-proxy`: a screen or two of what happened last.
const KEPT_PER_WORKLOAD: usize = 200;

/// Records that a slow listener may lag behind before it is told that it lost some.
const LAG_MAX: usize = 8192;

/// Bytes of a log stream that wait for a slow reader.
const PIPE_BYTES: usize = 64 * 1024;

/// Where records are kept and heard.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    live: broadcast::Sender<Arc<Record>>,
    kept: Arc<Mutex<HashMap<WorkloadId, VecDeque<Arc<Record>>>>>,
}

impl Records {
    pub(super) fn new() -> Self {
        Self { live: broadcast::Sender::new(LAG_MAX), kept: Arc::default() }
    }

    /// Takes records from the data plane until it ends; `tell` is called with each.
    pub(super) async fn gather(self, mut source: mpsc::Receiver<Record>, tell: fn(&Record)) {
        while let Some(record) = source.recv().await {
            tell(&record);
            let record = Arc::new(record);
            if let Some(workload) = &record.destination.workload {
                self.keep(workload, &record);
            }
            // No listener is no error.
            drop(self.live.send(record));
        }
    }

    fn keep(&self, workload: &WorkloadId, record: &Arc<Record>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = kept.entry(workload.clone()).or_default();
        if ring.len() == KEPT_PER_WORKLOAD {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(record));
    }

    /// Forgets a workload that is gone.
    pub(super) fn forget(&self, workload: &WorkloadId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(workload);
    }

    /// Hears every record from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Record>> {
        self.live.subscribe()
    }

    /// The log of a workload's proxy as text: what is kept, then, with `follow`, what comes until the reader leaves.
    pub(super) fn proxy_log(&self, workload: WorkloadId, tail: Option<u64>, follow: bool) -> tokio::io::DuplexStream {
        let (reader, mut writer) = tokio::io::duplex(PIPE_BYTES);
        // Subscribed before the look, so that nothing falls between; the look then may hold what is heard again.
        let mut live = self.listen();
        let kept: Vec<_> = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(&workload).map(|ring| ring.iter().cloned().collect()).unwrap_or_default()
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
    live: &mut broadcast::Receiver<Arc<Record>>,
    workload: &WorkloadId,
    known: &[Arc<Record>],
) -> std::io::Result<()> {
    loop {
        let record = match live.recv().await {
            Ok(record) => record,
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        let ours = record.destination.workload.as_ref() == Some(workload);
        if ours && !known.iter().any(|old| Arc::ptr_eq(old, &record)) {
            writer.write_all(line(&record).as_bytes()).await?;
        }
    }
}

fn line(record: &Record) -> String {
    control::lines::proxy_log(record) + "\n"
}
