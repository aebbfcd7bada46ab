//! The feed of an in-process subscriber: first all objects, then every event in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Change, Event, Key, Object};
use tokio::sync::watch;

use super::{CLOSED, Shared, State, moved_past};

/// Events in order, complete up to a revision.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// Everything up to and including this revision has now been told.
    pub revision: u64,
}

/// Everything that happens in the store, for one subscriber.
///
/// A subscriber that is slower than the store's history is long is not told each step, but still the way from what it knows to what is:
/// so the feed needs no queue of its own, and nobody waits for a slow subscriber.
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    revisions: watch::Receiver<u64>,
    /// What the subscriber has been told; none before the first batch.
    told: Option<u64>,
    known: BTreeMap<Key, Arc<Object>>,
}

impl Feed {
    pub(super) fn over(shared: Arc<Shared>) -> Self {
        let revisions = shared.revision.subscribe();
        Self { shared, revisions, told: None, known: BTreeMap::new() }
    }

    /// Waits for the next events. The first batch holds all objects and comes at once, even if there are none; `None` when the store has stopped.
    pub async fn next(&mut self) -> Option<Batch> {
        if let Some(told) = self.told
            && *self.revisions.borrow() != CLOSED
            && !moved_past(&mut self.revisions, told).await
        {
            return None;
        }
        if *self.revisions.borrow() == CLOSED {
            return None;
        }
        let batch = {
            let state = self.shared.state();
            match self.told.map(|told| state.events_after(told)) {
                Some(Ok(events)) => {
                    let revision = events.last().map_or(state.revision, |event| event.revision);
                    Batch { events, revision }
                }
                Some(Err(_)) | None => self.difference(&state),
            }
        };
        self.told = Some(batch.revision);
        for event in &batch.events {
            match &event.change {
                Change::Put { new, .. } => self.known.insert(event.key.clone(), Arc::clone(new)),
                Change::Deleted { .. } => self.known.remove(&event.key),
            };
        }
        Some(batch)
    }

    /// The events that lead from what is known to what is, ordered by revision; removals first, for their revisions are no longer known.
    fn difference(&self, state: &State) -> Batch {
        let removed = self.known.iter().filter(|(key, _)| state.objects.get(key).is_none()).map(|(key, old)| Event {
            revision: state.revision,
            key: key.clone(),
            change: Change::Deleted { old: Arc::clone(old) },
        });
        let mut put: Vec<Event> = state
            .objects
            .all()
            .filter_map(|(key, new)| {
                let old = self.known.get(&key).cloned();
                let changed = old.as_ref().is_none_or(|old| old.uid() != new.uid() || old.revision() != new.revision());
                let revision = new.revision();
                changed.then(|| Event { revision, key, change: Change::Put { old, new: Arc::clone(new) } })
            })
            .collect();
        put.sort_by_key(|event| event.revision);
        Batch { events: removed.chain(put).collect(), revision: state.revision }
    }
}
