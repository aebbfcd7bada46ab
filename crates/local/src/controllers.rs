//! What follows from objects: deployments make replica sets make pods, services get VIPs and endpoints, namespaces
//! their contents and their end. Pure: [`reconcile`] says which writes are wanted; the loop of the mesh commits them,
//! takes in their events and asks again with what changed, until none is wanted.
//!
//! A look costs as much as the namespaces of what changed are large. What a controller writes never follows from what
//! it wrote before but from what it sees, so that a lost or refused write is simply wanted again.

mod deployments;
mod endpoints;
mod garbage;
mod jobs;
mod namespaces;
mod node;
mod plan;
mod replicasets;
mod serviceaccounts;
mod services;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Key, Objects, Write};

use crate::events;
use crate::node::Ranges;
pub(crate) use endpoints::{addresses as pod_addresses, slices_of};
pub use node::NODE_NAME;
use plan::Plan;
pub(crate) use plan::hash;
pub(crate) use services::vips as service_vips;

/// Which objects changed since the last look.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    everything: bool,
    keys: BTreeSet<Key>,
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
    /// Release of the kernel.
    pub kernel: String,
    /// CPUs of the machine.
    pub cpus: u64,
    /// Bytes of memory that pods may have together.
    pub memory_bytes: u64,
    /// Certificate of the mesh's CA, for the config map `kube-root-ca.crt`.
    pub ca_pem: String,
}

/// Objects that nothing follows from, and of which there are many.
const LEAVES: &[(&str, &str)] = &[("", "events"), ("coordination.k8s.io", "leases")];

/// The writes that are wanted now. Before the next call all events up to the last of these writes must be in `objects`.
pub fn reconcile(objects: &Objects, changed: &Changed, context: &Context) -> Vec<Write> {
    let mut plan = Plan::new(objects, context);
    let concerned = changed.namespaces(objects);
    if changed.everything || changed.keys.iter().any(|key| key.is("", "nodes")) {
        node::reconcile(&mut plan);
    }
    for namespace in concerned {
        if let Some(found) = objects.find("", "namespaces", None, &namespace) {
            namespaces::reconcile(&mut plan, found);
            if found.is_deleting() {
                continue;
            }
        }
        serviceaccounts::reconcile(&mut plan, &namespace);
        services::reconcile(&mut plan, &namespace);
        deployments::reconcile(&mut plan, &namespace);
        replicasets::reconcile(&mut plan, &namespace);
        jobs::reconcile(&mut plan, &namespace);
        node::schedule(&mut plan, &namespace);
        endpoints::reconcile(&mut plan, &namespace);
    }
    garbage::collect(&mut plan, changed);
    let mut writes = plan.into_writes();
    let tells = |key: &Key| key.is("", "events");
    if (changed.everything || changed.keys.iter().any(tells)) && events::are_too_many(objects) {
        writes.extend(events::surplus(objects, context.now).0);
    }
    writes
}

/// When time alone changes what is wanted next, without any object changing, and for which object: look at that one then.
pub fn due(objects: &Objects) -> Option<(jiff::Timestamp, Key)> {
    jobs::due(objects)
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

    /// The namespaces that something changed in.
    fn namespaces(&self, objects: &Objects) -> BTreeSet<String> {
        if self.everything {
            return objects.list("", "namespaces").map(|namespace| namespace.name().to_owned()).collect();
        }
        let matters = |key: &&Key| !LEAVES.iter().any(|(group, plural)| key.is(group, plural));
        let of = |key: &Key| if key.is("", "namespaces") { Some(key.name.clone()) } else { key.namespace.clone() };
        self.keys.iter().filter(matters).filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests;
