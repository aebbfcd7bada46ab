//! What has been told of each pod, so that the same again is counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::Object;
use serde_json::json;

use crate::controllers::hash;
use crate::events::Happening;

/// Different things that are remembered of one pod. What is told beyond it (a probe whose words change each time) is as
/// good as new; to begin anew costs a count.
const TOLD_MAX: usize = 256;

/// The last event of each thing that was told of a pod, by the pod's uid and a hash of what was told.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<String, HashMap<u64, Arc<Object>>>>);

impl Told {
    /// The event that told the same.
    pub(super) fn last(&self, pod: &Object, what: Happening<'_>) -> Option<Arc<Object>> {
        self.all().get(pod.uid())?.get(&mark(what)).cloned()
    }

    /// Remembers an event.
    pub(super) fn note(&self, pod: &Object, what: Happening<'_>, event: Arc<Object>) {
        let mut all = self.all();
        let of_pod = all.entry(pod.uid().to_owned()).or_default();
        if of_pod.len() >= TOLD_MAX {
            of_pod.clear();
        }
        of_pod.insert(mark(what), event);
    }

    /// The pod is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, HashMap<u64, Arc<Object>>>> {
        // A panic while it was held leaves whole maps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mark(what: Happening<'_>) -> u64 {
    hash(&json!([what.kind, what.reason, what.message]))
}
