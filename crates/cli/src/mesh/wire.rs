//! What other commands of this binary ask the running mesh, below `/tidegate/v1/`. Only authenticated clients get here.

use std::collections::HashSet;
use std::sync::Arc;

use apiserver::Body;
use arc_swap::ArcSwap;
use bytes::Bytes;
use dataplane::Dataplane;
use http::{Method, Request, Response, StatusCode};
use policy::record::Record;
use policy::{Snapshot, WorkloadId};
use serde_json::{Value, json};
use tokio::sync::watch;

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
            "/tidegate/v1/tap" => Some(self.tap(request.uri().query())),
            "/tidegate/v1/tap/recent" => Some(self.recent(request.uri().query()).await),
            "/tidegate/v1/conns" => Some(self.connections().await),
            "/tidegate/v1/conns/close" if request.method() == Method::POST => Some(self.close(request.body()).await),
            path => Some(self.record(path.strip_prefix("/tidegate/v1/records/")?).await),
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
                format!("generation {} in force, {}", one.generation, in_words(one))
            } else {
                "not in the mesh: nothing is judged at its end".to_owned()
            };
            let state = match one.rewritten {
                0 => state,
                times => format!("{state}; written anew, for somebody else changed its tables ({times} times)"),
            };
            json!({"namespace": id.namespace, "name": id.name, "address": address, "state": state,
                   "generation": one.generation, "entries": one.entries, "open": one.open, "accepted": one.accepted, "refused": one.refused,
                   "records": one.records, "folded": one.folded, "lost": one.lost,
                   "permitted": {"records": one.permitted_records, "folded": one.permitted_folded,
                                 "lost": one.permitted_lost, "open": one.permitted_open},
                   "resets": one.resets,
                   "rewritten": one.rewritten})
        };
        let rows: Vec<Value> = counted.workloads.iter().map(row).collect();
        let answer = json!({
            "generation": snapshot.generation(),
            "revision": *self.settled.borrow(),
            "notJudged": ["UDP", "SCTP"],
            "counters": {
                "records": sum(|one| one.records), "folded": sum(|one| one.folded), "lost": sum(|one| one.lost),
                "refused": sum(|one| one.refused), "accepted": sum(|one| one.accepted),
                "permitted": {
                    "records": sum(|one| one.permitted_records), "folded": sum(|one| one.permitted_folded),
                    "lost": sum(|one| one.permitted_lost), "open": sum(|one| one.permitted_open),
                },
                "forged": counted.forged,
                "rewritten": sum(|one| one.rewritten) + counted.guard_rewritten,
            },
            "workloads": rows,
        });
        whole(StatusCode::OK, answer.to_string())
    }

    /// The open connections, the oldest first.
    async fn connections(&self) -> Response<Body> {
        match self.dataplane.connections().await {
            Ok(mut open) => {
                open.sort_by_key(|record| record.id);
                whole(StatusCode::OK, json!(open).to_string())
            }
            Err(error) => whole(StatusCode::INTERNAL_SERVER_ERROR, linux::error::with_causes(&error)),
        }
    }

    /// Closes the connections whose ids the body lists.
    async fn close(&self, body: &Bytes) -> Response<Body> {
        let ids: HashSet<u64> = match serde_json::from_slice(body) {
            Ok(ids) => ids,
            Err(error) => return whole(StatusCode::BAD_REQUEST, format!("the body is no list of ids: {error}")),
        };
        match self.dataplane.close(ids).await {
            Ok(closed) => whole(StatusCode::OK, json!({"closed": closed}).to_string()),
            Err(error) => whole(StatusCode::INTERNAL_SERVER_ERROR, linux::error::with_causes(&error)),
        }
    }

    /// One record that is kept, or of a connection that is open.
    async fn record(&self, id: &str) -> Response<Body> {
        let Some(id) = policy::record::parse_id(id) else {
            return whole(StatusCode::BAD_REQUEST, "an id has 16 hexadecimal digits".to_owned());
        };
        // Whatever the kernel has logged is a record or an open connection after this.
        let open = self.dataplane.connections().await.unwrap_or_default();
        let open = open.into_iter().find(|record| record.id == id).map(Arc::new);
        match open.or_else(|| self.records.find(id)) {
            Some(record) => Response::new(Body::whole(json_line(&record))),
            None => whole(StatusCode::NOT_FOUND, "no such record is kept".to_owned()),
        }
    }

    /// One JSON line per record until the client leaves: denials, or what the query asks for.
    fn tap(&self, query: Option<&str>) -> Response<Body> {
        let (denied, allowed) = verdicts(query);
        let mut live = self.records.listen(denied, allowed);
        let (pieces, body) = Body::pieces();
        tokio::spawn(async move {
            while let Some(record) = live.next().await {
                if pieces.send(json_line(&record)).await.is_err() {
                    return;
                }
            }
        });
        Response::new(body)
    }

    /// One JSON line per record that is kept.
    async fn recent(&self, query: Option<&str>) -> Response<Body> {
        // Whatever the kernel has logged has become a record after this, if it is one already.
        if let Err(error) = self.dataplane.connections().await {
            return whole(StatusCode::INTERNAL_SERVER_ERROR, linux::error::with_causes(&error));
        }
        let (denied, allowed) = verdicts(query);
        let records = self.records.recent(denied, allowed).await;
        Response::new(Body::whole(records.iter().flat_map(|record| json_line(record)).collect::<Vec<u8>>()))
    }
}

/// Whether a query asks for denials, and for what was let in.
fn verdicts(query: Option<&str>) -> (bool, bool) {
    match query {
        Some("verdict=all") => (true, true),
        Some("verdict=allowed") => (false, true),
        _ => (true, false),
    }
}

/// What a table does, without looking at its elements.
fn in_words(one: &dataplane::WorkloadStatus) -> String {
    match (one.open, one.entries) {
        (true, 0) => "lets everything in".to_owned(),
        (true, entries) => format!("lets in all but {entries} entries"),
        (false, 0) => "refuses everything".to_owned(),
        (false, entries) => format!("refuses all but {entries} entries"),
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
