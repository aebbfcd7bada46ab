//! The kinds that the stored definitions make, worked out again only when a definition changed.

use std::sync::{Arc, Mutex, PoisonError};

use api::kinds::{CRD_GROUP, CRD_PLURAL};
use api::{Kinds, Object, Objects};

/// The last answer and the definitions that it was made of.
#[derive(Debug)]
pub(crate) struct KindCache(Mutex<(Vec<Arc<Object>>, Arc<Kinds>)>);

impl KindCache {
    pub(crate) fn start() -> Self {
        Self(Mutex::new((Vec::new(), Arc::new(Kinds::builtin()))))
    }

    /// The kinds served with these objects.
    pub(crate) fn of(&self, objects: &Objects) -> Arc<Kinds> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The cache holds the definitions, so that equal addresses mean the same definition.
        let mut before = last.0.iter();
        let same =
            objects.list(CRD_GROUP, CRD_PLURAL).all(|now| before.next().is_some_and(|then| Arc::ptr_eq(then, now)));
        if !same || before.next().is_some() {
            let definitions = objects.list(CRD_GROUP, CRD_PLURAL).cloned().collect();
            *last = (definitions, Arc::new(Kinds::of(objects)));
        }
        Arc::clone(&last.1)
    }
}
