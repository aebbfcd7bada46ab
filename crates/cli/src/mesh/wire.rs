//! What other commands of this binary ask the running mesh, below `/tidegate/v1/`. Only authenticated clients get here.

use std::sync::Arc;

use apiserver::Body;
use arc_swap::ArcSwap;
use bytes::Bytes;
use dataplane::Dataplane;
use http::{Request, Response, StatusCode};
use policy::record::Record;
use policy::{Snapshot, WorkloadId};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use super::records::Records;

/// Answers requests below `/tidegate/v1/`.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    records: Records,
    snapshot: Arc<ArcSwap<Snapshot>>,
    dataplane: Dataplane,
    settled: watch::Receiver<u64>,
}

impl Wire {
    pub(super) fn new(
        records: Records,
        snapshot: Arc<ArcSwap<Snapshot>>,
        dataplane: Dataplane,
        settled: watch::Receiver<u64>,
    ) -> Self {
        Self { records, snapshot, dataplane, settled }
    }

    /// The answer, `None` for a path that is not ours.
    pub(super) async fn answer(&self, request: &Request<Bytes>) -> Option<Response<Body>> {
        match request.uri().path() {
            "/tidegate/v1/status" => Some(self.status().await),
            "/tidegate/v1/tap" => Some(self.tap()),
            _ => None,
        }
    }

    async fn status(&self) -> Response<Body> {
        let counted = match self.dataplane.status().await {
            Ok(status) => status,
            Err(error) => return whole(StatusCode::INTERNAL_SERVER_ERROR, linux::error::with_causes(&error)),
        };
        let sum = |pick: fn(&dataplane::WorkloadStatus) -> u64| counted.workloads.values().map(pick).sum::<u64>();
        let snapshot = self.snapshot.load();
        let row = |(id, one): (&WorkloadId, &dataplane::WorkloadStatus)| {
            let workload = snapshot.workload(id).map(|state| state.workload());
            let address = workload.and_then(|workload| workload.addresses.first()).map(ToString::to_string);
            let state = if workload.is_some_and(|workload| workload.in_mesh) {
                format!("generation {} in force, {} entries", one.generation, one.entries)
            } else {
                "not in the mesh: nothing is judged at its end".to_owned()
            };
            let state = match one.rewritten {
                0 => state,
                times => format!("{state}; written anew, for somebody else changed its tables ({times} times)"),
            };
            json!({"namespace": id.namespace, "name": id.name, "address": address, "state": state,
                   "generation": one.generation, "entries": one.entries, "accepted": one.accepted, "refused": one.refused,
                   "records": one.records, "folded": one.folded, "lost": one.lost, "resets": one.resets,
                   "rewritten": one.rewritten})
        };
        let rows: Vec<Value> = counted.workloads.iter().map(row).collect();
        let answer = json!({
            "generation": snapshot.generation(),
            "revision": *self.settled.borrow(),
            "notJudged": ["UDP", "SCTP"],
            "counters": {
                "records": sum(|one| one.records), "folded": sum(|one| one.folded), "lost": sum(|one| one.lost),
                "refused": sum(|one| one.refused), "forged": counted.forged,
                "rewritten": sum(|one| one.rewritten) + counted.guard_rewritten,
            },
            "workloads": rows,
        });
        whole(StatusCode::OK, answer.to_string())
    }

    /// One JSON line per record until the client leaves.
    fn tap(&self) -> Response<Body> {
        let mut live = self.records.listen();
        let (pieces, body) = Body::pieces();
        tokio::spawn(async move {
            loop {
                let piece = match live.recv().await {
                    Ok(record) => json_line(&record),
                    // The listener is slower than the flood: it goes on with what is left, `status` counts all.
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                if pieces.send(piece).await.is_err() {
                    return;
                }
            }
        });
        Response::new(body)
    }
}

fn json_line(record: &Record) -> Bytes {
    // A record is plain data; what cannot be written becomes an empty line's worth of nothing.
    let mut line = serde_json::to_vec(record).unwrap_or_default();
    if !line.is_empty() {
        line.push(b'\n');
    }
    Bytes::from(line)
}

fn whole(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = code;
    response
}
