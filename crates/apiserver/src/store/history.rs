//! The events that a watch may begin with: the newest ones, bounded in number and in memory.

use std::collections::VecDeque;

use api::{Change, Event, Object, Status};
use serde_json::Value;

/// Events kept for watches that start in the past: what a busy mesh of some hundred pods makes in ten minutes. Older: 410.
pub(crate) const EVENTS_MAX: usize = 10_000;
/// What these may take, what was before and what is after counted for each: an object in memory is ten times as large as its
/// text, and a mesh is to be small. Six hundred updates of a policy, with their status, fit, and take 16 MB.
const BYTES_MAX: usize = 48 * 1024 * 1024;
/// Events that one look at the history copies while it holds the lock.
const EVENTS_AT_ONCE_MAX: usize = 256;
/// A node of the maps of `serde_json`: eleven places for a name and a value, and what leads to the others. On average, every
/// second place is taken.
const NODE_BYTES: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 16;
const NODE_ENTRIES: usize = 6;

#[derive(Debug)]
struct Past {
    event: Event,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct History {
    past: VecDeque<Past>,
    bytes: usize,
    /// All events after this revision are there.
    oldest: u64,
}

impl History {
    pub(super) fn beginning(oldest: u64) -> Self {
        Self { past: VecDeque::new(), bytes: 0, oldest }
    }

    pub(super) fn push(&mut self, event: Event) {
        let before = event.change.before().map_or(0, |old| size(old));
        let bytes = before + if let Change::Put { new, .. } = &event.change { size(new) } else { 0 };
        self.bytes += bytes;
        self.past.push_back(Past { event, bytes });
        // The last stays however large it is: whoever waits for it is not sent to look at everything again.
        while self.past.len() > 1
            && (self.past.len() > EVENTS_MAX || self.bytes > BYTES_MAX)
            && let Some(gone) = self.past.pop_front()
        {
            self.bytes -= gone.bytes;
            self.oldest = gone.event.revision;
        }
    }

    /// The next events after `revision`, oldest first, at most [`EVENTS_AT_ONCE_MAX`]; 410 if the history no longer reaches back so far.
    pub(super) fn after(&self, revision: u64) -> Result<Vec<Event>, Status> {
        if revision < self.oldest {
            return Err(Status::expired(revision, self.oldest));
        }
        let first = self.past.partition_point(|past| past.event.revision <= revision);
        Ok(self.past.range(first..).take(EVENTS_AT_ONCE_MAX).map(|past| past.event.clone()).collect())
    }
}

/// What an object takes in memory, about.
fn size(object: &Object) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(|item| size_of::<Value>() + of(item)).sum(),
            Value::Object(fields) => {
                let nodes = fields.len().div_ceil(NODE_ENTRIES) * NODE_BYTES;
                nodes + fields.iter().map(|(name, value)| name.len() + of(value)).sum::<usize>()
            }
        }
    }
    of(object.value())
}
