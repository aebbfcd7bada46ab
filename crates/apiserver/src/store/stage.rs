//! What a work may do: look at everything as of now, put and remove objects. Nothing is visible to others before the commit.

use std::sync::Arc;

use api::{Change, Event, Key, Object, Objects};

/// The writer's view for the time of one work.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    objects: &'a mut Objects,
    revision: &'a mut u64,
    events: &'a mut Vec<Event>,
}

impl<'a> Stage<'a> {
    pub(super) fn begin(objects: &'a mut Objects, revision: &'a mut u64, events: &'a mut Vec<Event>) -> Self {
        Self { objects, revision, events }
    }

    /// All objects, with what was staged before.
    pub(crate) fn objects(&self) -> &Objects {
        self.objects
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// The last revision given out.
    pub(crate) fn revision(&self) -> u64 {
        *self.revision
    }

    /// Stores an object under the next revision, which it then carries.
    pub(crate) fn put(&mut self, key: &Key, mut object: Object) -> Arc<Object> {
        *self.revision += 1;
        object.set("/metadata/resourceVersion", self.revision.to_string());
        let new = Arc::new(object);
        let change = Change::Put { old: self.objects.get(key).cloned(), new: Arc::clone(&new) };
        self.record(key, change);
        new
    }

    /// Removes an object, under a revision of its own.
    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(old) = self.objects.get(key).cloned() {
            *self.revision += 1;
            self.record(key, Change::Deleted { old });
        }
    }

    fn record(&mut self, key: &Key, change: Change) {
        let event = Event { revision: *self.revision, key: key.clone(), change };
        self.objects.apply(&event);
        self.events.push(event);
    }
}
