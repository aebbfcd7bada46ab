//! What happened to an object, and what a controller wants to happen.

use std::sync::Arc;

use serde_json::Value;

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
