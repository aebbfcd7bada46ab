//! The compiled state of one generation: immutable, shared by pointer, read without locks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::canonical;
use crate::hash::Map;
use crate::identity::{Peer, SpiffeId};
use crate::matcher::Set;
use crate::mesh::{PolicyId, Service, Settings, Workload, WorkloadId};
use crate::mtls::{Effective, Mtls};
use crate::ruleset::{CompiledPolicy, Reach, Ruleset, Stage};
use crate::spec::Mode;

/// Everything that decides connections, derived from one `Mesh`.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) generation: u64,
    pub(crate) settings: Arc<Settings>,
    /// In the order of the mesh.
    pub(crate) policies: Vec<Arc<CompiledPolicy>>,
    pub(crate) workloads: Map<WorkloadId, Arc<WorkloadState>>,
    pub(crate) names: Map<IpAddr, WorkloadId>,
    /// The addresses whose traffic carries an identity that the kernel attests.
    pub(crate) attested: Arc<BTreeMap<IpAddr, SpiffeId>>,
    /// They change no verdict, only what is said about one.
    pub(crate) services: Arc<Vec<Service>>,
}

/// One workload with what applies to it.
#[derive(Debug)]
pub struct WorkloadState {
    pub(crate) workload: Arc<Workload>,
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) ruleset: Arc<Ruleset>,
    pub(crate) mtls: Mtls,
}

impl WorkloadState {
    /// The workload as it was in the mesh.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Its identity, if it is in the mesh.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref()
    }

    /// The mutual TLS mode in force, but for ports with a mode of their own (S-77).
    pub fn mode_elsewhere(&self) -> Mode {
        match self.mtls.rest {
            Effective::Disable => Mode::Disable,
            Effective::Permissive => Mode::Permissive,
            Effective::Strict => Mode::Strict,
        }
    }

    /// The PeerAuthentication that has the last word on the mode, if there is one.
    pub fn mode_by(&self) -> Option<&Arc<PolicyId>> {
        self.mtls.named.as_ref()
    }

    /// How much there is to compile into its table: its rules, cheap to count, and a measure for what to compile last.
    pub fn rule_count(&self) -> usize {
        self.ruleset.enforced().map(|stage| stage.rules.len()).sum()
    }

    /// The policies that apply to it, trials included, by namespace and name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<PolicyId>> {
        self.ruleset.policies.iter().map(|policy| policy.id())
    }
}

/// Who speaks from an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The workload that has the address, in the mesh or not.
    pub workload: Option<WorkloadId>,
    /// The identity that the kernel attests for the address.
    pub identity: Option<SpiffeId>,
}

impl Source {
    /// As the peer of a connection.
    pub fn peer(&self) -> Peer {
        self.identity.clone().map_or(Peer::Anonymous, Peer::Attested)
    }
}

/// A policy with rules that need bytes of the connection, and which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeedsProxyPath {
    /// The policy.
    pub policy: Arc<PolicyId>,
    /// What it needs.
    pub needs: Needs,
}

/// What cannot be known when the first SYN arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// The server name of the TLS handshake (`connection.sni`).
    ServerName,
    /// The answer of an external authorizer (CUSTOM).
    Authorizer,
}

impl Snapshot {
    /// The generation it was compiled as.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The mesh settings it was compiled with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// One workload; `None` if the mesh does not have it.
    pub fn workload(&self, id: &WorkloadId) -> Option<&Arc<WorkloadState>> {
        self.workloads.get(id)
    }

    /// All workloads in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<WorkloadState>> {
        self.workloads.values()
    }

    /// Who speaks from this address.
    pub fn at(&self, address: IpAddr) -> Source {
        let address = canonical(address);
        Source { workload: self.names.get(&address).cloned(), identity: self.attested.get(&address).cloned() }
    }

    /// Enforced policies of a workload that need bytes which the kernel path does not see; connections that they may decide are refused there.
    pub fn needs_proxy(&self, destination: &WorkloadId) -> Vec<NeedsProxyPath> {
        let Some(state) = self.workloads.get(destination) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut add = |stage: &Stage, needs: Needs, wanted: &dyn Fn(&Set) -> bool| {
            for at in stage
                .rules
                .iter()
                .filter(|at| at.rule().is_some_and(|rule| rule.can_match() && rule.sets().any(wanted)))
            {
                found.push(NeedsProxyPath { policy: Arc::clone(at.policy.id()), needs });
            }
        };
        for stage in state.ruleset.enforced() {
            add(stage, Needs::ServerName, &|set| matches!(set, Set::ServerName(_)));
        }
        for custom in state.ruleset.custom.iter().filter(|custom| custom.reach == Reach::Asked) {
            for at in custom
                .stage
                .rules
                .iter()
                .filter(|at| at.rule().is_some_and(crate::compile::rule::CompiledRule::can_match))
            {
                found.push(NeedsProxyPath { policy: Arc::clone(at.policy.id()), needs: Needs::Authorizer });
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Is the verdict table of a workload certainly the same as in the snapshot before. Cheap: it compares pointers.
    pub fn same_table(&self, before: &Self, destination: &WorkloadId) -> bool {
        let (Some(now), Some(then)) = (self.workloads.get(destination), before.workloads.get(destination)) else {
            return false;
        };
        let same_state = Arc::ptr_eq(now, then)
            || (Arc::ptr_eq(&now.ruleset, &then.ruleset)
                && now.mtls == then.mtls
                && now.workload.addresses == then.workload.addresses);
        same_state
            && *self.settings == *before.settings
            && (Arc::ptr_eq(&self.attested, &before.attested) || !now.looks_at_identity())
    }
}

impl WorkloadState {
    /// Can two sources differ in anything but their address.
    pub(crate) fn looks_at_identity(&self) -> bool {
        self.mtls.has_strict()
            || self
                .ruleset
                .enforced()
                .flat_map(|stage| &stage.rules)
                .any(|at| at.rule().is_some_and(|rule| rule.sets().any(Set::is_identity)))
    }
}
