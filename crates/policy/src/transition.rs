//! What becomes of an open connection when policy changes (section 15 of the semantics), as Istio does it.
//! Tidegate itself decides open connections again in both profiles (S-93); this is for comparing and for conformance reports.

use std::sync::Arc;

use crate::decide::Connection;
use crate::mesh::{Profile, WorkloadId};
use crate::mtls::Mtls;
use crate::snapshot::{Snapshot, WorkloadState};

/// What Istio does with an open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Established {
    /// Nothing.
    Kept,
    /// Cuts it at once, because it is no longer permitted (S-92).
    Closed,
    /// Lets it live for the drain time and then cuts it, permitted or not (S-91).
    Drained,
}

impl Established {
    /// The word of the conformance format.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Closed => "closed",
            Self::Drained => "drained",
        }
    }
}

/// What Istio does with a connection opened under `before` once `after` is in force.
pub fn istio(before: &Snapshot, after: &Snapshot, destination: &WorkloadId, connection: &Connection) -> Established {
    match after.settings().profile {
        Profile::Ambient if after.decide(destination, connection).is_permitted() => Established::Kept,
        Profile::Ambient => Established::Closed,
        Profile::Sidecar if is_altered(before.workload(destination), after.workload(destination)) => {
            Established::Drained
        }
        Profile::Sidecar => Established::Kept,
    }
}

/// Do other rules or modes apply to the workload than before.
fn is_altered(before: Option<&Arc<WorkloadState>>, after: Option<&Arc<WorkloadState>>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return true };
    has_other_modes(&before.mtls, &after.mtls) || !rules(before).eq(rules(after))
}

/// Does a port have another mode than before. That it is named with the mode that it had is no change.
fn has_other_modes(before: &Mtls, after: &Mtls) -> bool {
    let mut named = before.ports.keys().chain(after.ports.keys());
    before.rest != after.rest || named.any(|port| before.at(*port) != after.at(*port))
}

/// The policies of a workload but for how they select it, which is no part of its rules.
fn rules(state: &WorkloadState) -> impl Iterator<Item = impl PartialEq> {
    state.ruleset.specs().map(|spec| (&spec.id, spec.action, &spec.provider, spec.trial, &spec.rules))
}
