//! Mesh to snapshot: each policy is compiled once, each workload gets the policies that apply to it (section 3 of the semantics).
//! What did not change is taken from the snapshot before: one changed policy among ten thousand costs its own compilation and the
//! workloads that it selects.

mod alias;
pub(crate) mod rule;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub use rule::Effect;

use crate::address::canonical;
use crate::hash::{Keyed, Map};
use crate::identity::SpiffeId;
use crate::mesh::{Labels, Mesh, PolicyId, Profile, Settings, Workload, WorkloadId};
use crate::mtls::{Levels, Mtls};
use crate::ruleset::{CompiledPolicy, Ruleset};
use crate::snapshot::{Snapshot, WorkloadState};
use crate::spec::{Action, AuthorizationPolicy, Scope};

/// Derives the snapshot of one generation, sharing what did not change with the one before.
pub fn compile(mesh: &Mesh, generation: u64, before: Option<&Snapshot>) -> Snapshot {
    // Other settings change what policies mean: then nothing may be shared.
    let before = before.filter(|before| *before.settings == mesh.settings);
    let settings = before.map_or_else(|| Arc::new(mesh.settings.clone()), |before| Arc::clone(&before.settings));
    let policies = compile_policies(&mesh.policies, &settings, before);
    let candidates = Candidates::new(&policies, &settings);
    let levels = Levels::new(&mesh.peer_authentications, &settings);
    let mut rulesets: Map<Vec<usize>, Arc<Ruleset>> = Map::default();
    let mut workloads = Map::with_capacity_and_hasher(mesh.workloads.len(), Keyed::default());
    for workload in &mesh.workloads {
        let old = before.and_then(|before| before.workloads.get(&workload.id));
        // Outside the mesh nothing is enforced, so nothing may be decided there that is not.
        let (applied, mtls) =
            if workload.in_mesh { (candidates.of(workload), levels.of(workload)) } else { (Vec::new(), Mtls::none()) };
        let same = |old: &&Arc<WorkloadState>| {
            *old.workload == *workload && old.mtls == mtls && same_policies(&old.ruleset, &applied)
        };
        let state = if let Some(old) = old.filter(same) {
            Arc::clone(old)
        } else {
            let key = applied.iter().map(|policy| Arc::as_ptr(policy) as usize).collect();
            let reused = old.filter(|old| same_policies(&old.ruleset, &applied)).map(|old| Arc::clone(&old.ruleset));
            let ruleset = rulesets
                .entry(key)
                .or_insert_with(|| reused.unwrap_or_else(|| Arc::new(Ruleset::new(applied, &settings))));
            let identity = workload.identity(&settings);
            Arc::new(WorkloadState {
                workload: Arc::new(workload.clone()),
                identity,
                ruleset: Arc::clone(ruleset),
                mtls,
            })
        };
        workloads.insert(workload.id.clone(), state);
    }
    let (names, attested) = sources(&mesh.workloads, &settings);
    let attested = before
        .map(|before| &before.attested)
        .filter(|old| ***old == attested)
        .map_or_else(|| Arc::new(attested), Arc::clone);
    let services = before
        .map(|before| &before.services)
        .filter(|old| ***old == mesh.services)
        .map_or_else(|| Arc::new(mesh.services.clone()), Arc::clone);
    Snapshot {
        generation,
        settings,
        policies: policies.into_iter().map(|policy| (Arc::clone(policy.id()), policy)).collect(),
        workloads,
        names,
        attested,
        services,
    }
}

fn same_policies(ruleset: &Ruleset, applied: &[Arc<CompiledPolicy>]) -> bool {
    ruleset.policies.len() == applied.len()
        && ruleset.policies.iter().zip(applied).all(|(one, other)| Arc::ptr_eq(one, other))
}

fn compile_policies(
    policies: &[Arc<AuthorizationPolicy>],
    settings: &Settings,
    before: Option<&Snapshot>,
) -> Vec<Arc<CompiledPolicy>> {
    policies
        .iter()
        .map(|spec| {
            let old = before.and_then(|before| before.policies.get(&spec.id));
            let same = |old: &&Arc<CompiledPolicy>| Arc::ptr_eq(&old.spec, spec) || old.spec == *spec;
            old.filter(same).map_or_else(|| Arc::new(compile_policy(spec, settings)), Arc::clone)
        })
        .collect()
}

pub(crate) fn compile_policy(spec: &Arc<AuthorizationPolicy>, settings: &Settings) -> CompiledPolicy {
    let rules = spec
        .rules
        .iter()
        .map(|written| rule::compile_rule(written, spec.action, &spec.id.namespace, settings))
        .collect();
    CompiledPolicy { spec: Arc::clone(spec), rules }
}

/// Does a policy reach workloads at all in this profile (S-25, S-27, S-35, S-73).
fn is_applied(policy: &AuthorizationPolicy, settings: &Settings) -> bool {
    if policy.scope == Scope::Targets {
        return false;
    }
    match settings.profile {
        Profile::Sidecar => true,
        Profile::Ambient => {
            let selects_nothing = matches!(&policy.scope, Scope::Labels(labels) if labels.is_empty());
            let known_action = matches!(policy.action, Action::Allow | Action::Deny);
            !selects_nothing && known_action && (settings.ambient_dry_run || !policy.trial)
        }
    }
}

/// Policies where a workload can find those that apply to it without looking at all others.
struct Candidates<'a> {
    by_namespace: Map<&'a str, InNamespace<'a>>,
    root: &'a str,
}

#[derive(Default)]
struct InNamespace<'a> {
    unselective: Vec<&'a Arc<CompiledPolicy>>,
    /// By the first label of the selector, which a selected workload must have.
    by_label: Map<(&'a str, &'a str), Vec<&'a Arc<CompiledPolicy>>>,
}

impl<'a> Candidates<'a> {
    fn new(policies: &'a [Arc<CompiledPolicy>], settings: &'a Settings) -> Self {
        let mut by_namespace: Map<&str, InNamespace<'_>> = Map::default();
        for policy in policies.iter().filter(|policy| is_applied(&policy.spec, settings)) {
            let place = by_namespace.entry(policy.id().namespace.as_str()).or_default();
            match labels(policy).and_then(|labels| labels.iter().next()) {
                Some((key, value)) => place.by_label.entry((key, value)).or_default().push(policy),
                None => place.unselective.push(policy),
            }
        }
        Self { by_namespace, root: &settings.root_namespace }
    }

    /// S-24, S-26; sorted, so that neither the order of policies nor where they were found matters.
    fn of(&self, workload: &Workload) -> Vec<Arc<CompiledPolicy>> {
        let own = workload.id.namespace.as_str();
        let namespaces = [Some(self.root), (own != self.root).then_some(own)];
        let mut found: Vec<Arc<CompiledPolicy>> = Vec::new();
        for place in namespaces.into_iter().flatten().filter_map(|namespace| self.by_namespace.get(namespace)) {
            found.extend(place.unselective.iter().map(|policy| Arc::clone(policy)));
            for (key, value) in &workload.labels {
                let selective = place.by_label.get(&(key.as_str(), value.as_str())).into_iter().flatten();
                found.extend(
                    selective
                        .filter(|policy| policy.spec.scope.selects(&workload.labels))
                        .map(|policy| Arc::clone(policy)),
                );
            }
        }
        found.sort_by(|a, b| a.id().cmp(b.id()));
        found
    }
}

fn labels(policy: &CompiledPolicy) -> Option<&Labels> {
    match &policy.spec.scope {
        Scope::Labels(labels) => Some(labels),
        Scope::All | Scope::Targets => None,
    }
}

type Named = Map<IpAddr, WorkloadId>;
type Attested = BTreeMap<IpAddr, SpiffeId>;

/// Who has which address. An address that two workloads claim belongs to neither: no identity is better than a wrong one.
fn sources(workloads: &[Workload], settings: &Settings) -> (Named, Attested) {
    let (mut names, mut attested) = (Named::default(), Attested::new());
    let mut contested: Vec<IpAddr> = Vec::new();
    for workload in workloads {
        let identity = workload.identity(settings);
        for address in workload.addresses.iter().map(|address| canonical(*address)) {
            if names.get(&address).is_some_and(|other| *other != workload.id) {
                contested.push(address);
                continue;
            }
            names.insert(address, workload.id.clone());
            if let Some(identity) = &identity {
                attested.insert(address, identity.clone());
            }
        }
    }
    for address in contested {
        names.remove(&address);
        attested.remove(&address);
    }
    (names, attested)
}

/// The compiled policies of a snapshot by name.
pub(crate) type Policies = Map<Arc<PolicyId>, Arc<CompiledPolicy>>;
