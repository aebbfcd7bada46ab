//! What happened to an object, and what a controller wants to happen.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::object::{Key, Object};

/// One change of one object, numbered by the store's single sequence of revisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Revision of the store at which the change became durable.
    pub revision: u64,
    /// Which object changed.
    pub key: Key,
    /// What happened to it.
    pub change: Change,
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Created (no `old`) or changed.
    Put {
        /// The object as it was.
        old: Option<Arc<Object>>,
        /// The object as it is.
        new: Arc<Object>,
    },
    /// Removed for good.
    Deleted {
        /// The last state of the object.
        old: Arc<Object>,
    },
}

/// What a controller wants. Optimistic where the object carries a `resourceVersion`.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Make a new object.
    Create(Object),
    /// Put this object in place of the stored one; the status is kept if the kind has a status subresource.
    Replace(Object),
    /// Merge into the status subresource.
    PatchStatus {
        /// Which object.
        key: Key,
        /// A JSON merge patch of the whole object, of which only `status` counts.
        patch: Value,
    },
    /// Merge into `metadata` and `spec`.
    PatchMeta {
        /// Which object.
        key: Key,
        /// A JSON merge patch of the whole object.
        patch: Value,
    },
    /// Remove this very object, without grace period: not another that has its name by now.
    End {
        /// Which object.
        key: Key,
        /// Its uid.
        uid: String,
    },
    /// Remove an object.
    Delete {
        /// Which object.
        key: Key,
        /// Without grace period: the object goes at once unless it has finalizers.
        now: bool,
    },
}

impl Change {
    /// The object as it is now, none if it is gone.
    pub const fn now(&self) -> Option<&Arc<Object>> {
        match self {
            Self::Put { new, .. } => Some(new),
            Self::Deleted { .. } => None,
        }
    }

    /// The object as it was, none if it is new.
    pub const fn before(&self) -> Option<&Arc<Object>> {
        match self {
            Self::Put { old, .. } => old.as_ref(),
            Self::Deleted { old } => Some(old),
        }
    }
}

/// Fields of `v1` events and what `events.k8s.io/v1` calls them.
const NEWER: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Makes a `v1` event one of `events.k8s.io/v1`, but for its `apiVersion`.
pub(crate) fn to_newer(event: &mut Object) {
    for (old, new) in NEWER {
        if let Some(value) = event.remove(&format!("/{old}")) {
            event.set(&format!("/{new}"), value);
        }
    }
    if event.at("/eventTime").is_null() {
        event.set("/eventTime", json!(null));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::Kinds;
    use crate::object::Object;

    #[test]
    fn an_event_is_shown_in_both_groups() {
        let stored = Object::new(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a", "namespace": "n"},
            "involvedObject": {"kind": "Pod"}, "message": "m", "count": 2, "lastTimestamp": "t", "source": {"component": "c"}}))
        .unwrap();
        let kinds = Kinds::builtin();
        let newer = kinds.by_resource("events.k8s.io", "events").unwrap();
        assert_eq!(newer.key(Some("n"), "a"), kinds.by_resource("", "events").unwrap().key(Some("n"), "a"));
        let shown = newer.convert(&stored, "v1");
        assert_eq!(
            shown.value(),
            &json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a", "namespace": "n"},
                "regarding": {"kind": "Pod"}, "note": "m", "deprecatedCount": 2, "deprecatedLastTimestamp": "t",
                "deprecatedSource": {"component": "c"}, "eventTime": null})
        );
    }
}
