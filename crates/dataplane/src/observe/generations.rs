//! Which snapshot each table of a pod came from, for as long as packets that met it may wait in a log.

use std::sync::{Arc, Mutex, PoisonError};

use policy::snapshot::Snapshot;

/// Generations of one pod whose refusals may still be in its log. Each is dropped when the log was drained after its end.
const GENERATIONS_MAX: usize = 64;

/// The snapshots that a pod's refusals may have come from, by the generation of the table.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    // INVARIANT: one entry a table; the last is the one in force.
    list: Mutex<Vec<InForce>>,
}

#[derive(Debug)]
struct InForce {
    table: u64,
    snapshot: Arc<Snapshot>,
    /// No packet can meet this table any more.
    over: bool,
}

impl Generations {
    /// Before a table is put into force, and again when a newer snapshot says the same as the table in force: its
    /// refusals are decided on this snapshot, which knows the names of today.
    pub(crate) fn begin(&self, table: u64, snapshot: &Arc<Snapshot>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|one| one.table != table);
        list.push(InForce { table, snapshot: Arc::clone(snapshot), over: false });
        let surplus = list.len().saturating_sub(GENERATIONS_MAX);
        list.drain(..surplus);
    }

    /// After a table is in force and packets in flight are through: what came before it only waits in the log.
    pub(crate) fn end_before(&self, table: u64) {
        for one in self.list.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            one.over |= one.table != table;
        }
    }

    /// The tables that no packet can meet any more. Asked before the logs are read: once they are drained nothing of these
    /// is in them.
    pub(super) fn over(&self) -> Vec<u64> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter(|one| one.over).map(|one| one.table).collect()
    }

    pub(super) fn drained(&self, over: &[u64]) {
        if !over.is_empty() {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            list.retain(|one| !(one.over && over.contains(&one.table)));
        }
    }

    pub(super) fn last(&self) -> Option<Arc<Snapshot>> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.last().map(|one| Arc::clone(&one.snapshot))
    }

    pub(super) fn of(&self, table: u64) -> Option<Arc<Snapshot>> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|one| one.table == table).map(|one| Arc::clone(&one.snapshot))
    }
}
