//! What follows from objects: deployments make replica sets make pods, services get VIPs and endpoints, namespaces
//! their contents. Pure: [`reconcile`] says which writes are wanted, the loop of the mesh commits them and asks again
//! with what changed, until none is wanted.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Key, Objects, Write};

use crate::node::Ranges;

/// Which objects changed since the last look.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    everything: bool,
    keys: BTreeSet<Key>,
}

impl Changed {
    /// Nothing is known: look at all objects.
    pub const fn everything() -> Self {
        Self { everything: true, keys: BTreeSet::new() }
    }

    /// These changed, were made or are gone.
    pub fn keys(keys: impl IntoIterator<Item = Key>) -> Self {
        Self { everything: false, keys: keys.into_iter().collect() }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.keys.is_empty()
    }
}

/// What controllers need to know beyond objects.
#[derive(Debug, Clone)]
pub struct Context {
    /// The time written into objects.
    pub now: jiff::Timestamp,
    /// Source of the random parts of names: a fresh random number for every call.
    pub seed: u64,
    /// The cluster.
    pub cluster: Arc<Cluster>,
}

/// What does not change while a mesh runs.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Address ranges of the node.
    pub ranges: Ranges,
    /// Certificate of the mesh's CA, for the config map `kube-root-ca.crt`.
    pub ca_pem: String,
}

/// The writes that are wanted now.
pub fn reconcile(objects: &Objects, changed: &Changed, _context: &Context) -> Vec<Write> {
    if changed.is_empty() || objects.is_empty() {
        return Vec::new();
    }
    Vec::new()
}
