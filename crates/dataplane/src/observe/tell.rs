//! What the kernel has decided, decided again with names: the record of a connection.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use policy::decide::{Connection, Reason};
use policy::mesh::WorkloadId;
use policy::record::{End, Outcome, Record};
use policy::snapshot::Snapshot;

use super::Generations;
use super::fold::Fold;
use super::packet::Attempt;

/// Decides a refused connection again, on the snapshot whose table refused it.
pub(super) fn record(workload: &WorkloadId, snapshot: Option<&Snapshot>, id: u64, fold: &Fold) -> Record {
    let decided = snapshot.map(|snapshot| told(workload, snapshot, (fold.attempt.source, fold.attempt.destination)));
    // The kernel has refused it: without a snapshot, or against the policy because the table could not be loaded.
    let outcome = decided.filter(|outcome| !outcome.permitted).unwrap_or_else(|| Outcome {
        permitted: false,
        reason: Reason::NotReady,
        policy: None,
        rule: None,
        nearest: None,
        if_enforced: None,
        http: None,
        generation: snapshot.map_or(fold.generation, Snapshot::generation),
    });
    let (source, destination) = ends(workload, snapshot, &fold.attempt);
    Record { count: fold.count, ..Record::opened(id, unix_ms(), source, destination, outcome) }
}

/// Decides a connection again that was let in; `None` if the snapshot would not have.
pub(super) fn permitted_record(
    workload: &WorkloadId,
    snapshot: &Snapshot,
    ids: &mut Ids,
    attempt: &Attempt,
) -> Option<Record> {
    let opened = (attempt.source, attempt.destination);
    if !permits(workload, snapshot, opened) {
        return None;
    }
    let outcome = told(workload, snapshot, opened);
    let (source, destination) = ends(workload, Some(snapshot), attempt);
    Some(Record::opened(ids.take(), unix_ms(), source, destination, outcome))
}

/// Whether the table in force would let a connection in.
pub(super) fn still_permitted(
    workload: &WorkloadId,
    generations: &Generations,
    ends: (SocketAddr, SocketAddr),
) -> bool {
    generations.last().is_some_and(|snapshot| permits(workload, &snapshot, ends))
}

fn permits(workload: &WorkloadId, snapshot: &Snapshot, ends: (SocketAddr, SocketAddr)) -> bool {
    snapshot.decide_at_syn(workload, &connection(snapshot, ends)).is_permitted()
}

/// The decision with all that a record says of it, which takes longer the more rules there are.
fn told(workload: &WorkloadId, snapshot: &Snapshot, ends: (SocketAddr, SocketAddr)) -> Outcome {
    snapshot.outcome_at_syn(workload, &connection(snapshot, ends))
}

fn connection(snapshot: &Snapshot, (source, destination): (SocketAddr, SocketAddr)) -> Connection {
    Connection::new(source.ip(), snapshot.at(source.ip()).peer(), destination.ip(), destination.port())
}

fn ends(workload: &WorkloadId, snapshot: Option<&Snapshot>, attempt: &Attempt) -> (End, End) {
    let end = |address: SocketAddr| {
        let is = snapshot.map(|snapshot| snapshot.at(address.ip())).unwrap_or_default();
        End { workload: is.workload, identity: is.identity, address: address.ip(), port: address.port() }
    };
    (end(attempt.source), End { workload: Some(workload.clone()), ..end(attempt.destination) })
}

/// Numbers of records: the second this process began, then a count, so that no two processes of a mesh agree.
pub(super) struct Ids {
    last: u64,
}

impl Ids {
    pub(super) fn begin() -> Self {
        Self { last: (unix_ms() / 1000) << 32 }
    }

    pub(super) fn take(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}
