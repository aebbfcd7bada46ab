//! Mesh to snapshot: each policy is compiled once, each workload gets the policies that apply to it (section 3 of the semantics).
//! What did not change is taken from the snapshot before: one changed policy among ten thousand costs its own compilation and the
//! workloads that it selects.

mod alias;
pub(crate) mod rule;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub use rule::Effect;

use crate::address::canonical;
use crate::hash::{Keyed, Map};
use crate::identity::SpiffeId;
use crate::mesh::{Labels, Mesh, Profile, Settings, Workload, WorkloadId};
use crate::mtls::{Levels, Mtls};
use crate::ruleset::{CompiledPolicy, Ruleset, by_key};
use crate::snapshot::{Snapshot, WorkloadState};
use crate::spec::{Action, AuthorizationPolicy, Scope};

/// Derives the snapshot of one generation, sharing what did not change with the one before.
pub fn compile(mesh: &Mesh, generation: u64, before: Option<&Snapshot>) -> Snapshot {
    // Other settings change what policies mean: then nothing may be shared.
    let before = before.filter(|before| *before.settings == mesh.settings);
    let settings = before.map_or_else(|| Arc::new(mesh.settings.clone()), |before| Arc::clone(&before.settings));
    let (policies, change) = compile_policies(&mesh.policies, &settings, before);
    let rulesets = Rulesets::new(&policies, change, &settings);
    let levels = Levels::new(&mesh.peer_authentications, &settings);
    let mut workloads = Map::with_capacity_and_hasher(mesh.workloads.len(), Keyed::default());
    for workload in &mesh.workloads {
        let old = before.and_then(|before| before.workloads.get(&workload.id));
        // Outside the mesh nothing is enforced, so nothing may be decided there that is not.
        let mtls = if workload.in_mesh { levels.of(workload) } else { Mtls::none() };
        let ruleset = rulesets.of(workload, old);
        let same = |old: &&Arc<WorkloadState>| {
            Arc::ptr_eq(&old.ruleset, &ruleset) && old.mtls == mtls && *old.workload == *workload
        };
        let state = if let Some(old) = old.filter(same) {
            Arc::clone(old)
        } else {
            let identity = workload.identity(&settings);
            Arc::new(WorkloadState { workload: Arc::new(workload.clone()), identity, ruleset, mtls })
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
    Snapshot { generation, settings, policies, workloads, names, attested, services }
}

/// The policies that are new since the snapshot before, and those that are no more; a policy that says something else is both.
#[derive(Default)]
struct Change {
    gone: Vec<Arc<CompiledPolicy>>,
    come: Vec<Arc<CompiledPolicy>>,
}

/// Every policy, compiled, in the order of the mesh. None is compiled again that follows the one before it as it did in the snapshot
/// before, or whose name does: where one policy of many has changed, that one alone is.
fn compile_policies(
    policies: &[Arc<AuthorizationPolicy>],
    settings: &Settings,
    before: Option<&Snapshot>,
) -> (Vec<Arc<CompiledPolicy>>, Change) {
    let mut change = Change::default();
    let mut left = before.map_or(&[][..], |before| before.policies.as_slice());
    let mut all = Vec::with_capacity(policies.len());
    for spec in policies {
        let same = |old: &Arc<CompiledPolicy>| Arc::ptr_eq(&old.spec, spec);
        // The next one, or the one after it if that is gone; in an order by name, the next that is not before this one.
        let skipped = match left.iter().take(2).position(same) {
            Some(skipped) => skipped,
            None => left.iter().take_while(|old| old.spec.id < spec.id).count(),
        };
        let (gone, rest) = left.split_at(skipped);
        change.gone.extend_from_slice(gone);
        left = rest;
        match left.split_first().filter(|(old, _)| same(old) || old.spec.id == spec.id) {
            Some((old, rest)) if same(old) || old.spec == *spec => {
                all.push(Arc::clone(old));
                left = rest;
            }
            other => {
                if let Some((old, rest)) = other {
                    change.gone.push(Arc::clone(old));
                    left = rest;
                }
                let new = Arc::new(compile_policy(spec, settings));
                change.come.push(Arc::clone(&new));
                all.push(new);
            }
        }
    }
    change.gone.extend_from_slice(left);
    (all, change)
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

/// Does a policy apply to a workload (S-24, S-26).
fn applies(policy: &CompiledPolicy, workload: &Workload, settings: &Settings) -> bool {
    let namespace = &policy.id().namespace;
    workload.in_mesh
        && (*namespace == workload.id.namespace || *namespace == settings.root_namespace)
        && is_applied(&policy.spec, settings)
        && policy.spec.scope.selects(&workload.labels)
}

/// What applies to which workload. Workloads to which the same applies share it.
struct Rulesets<'a> {
    policies: &'a [Arc<CompiledPolicy>],
    settings: &'a Settings,
    /// Since the snapshot before; without one no workload is as it was.
    change: Change,
    /// Needed only for workloads that are new or have changed.
    candidates: OnceCell<Candidates<'a>>,
    made: RefCell<Map<Vec<usize>, Arc<Ruleset>>>,
}

impl<'a> Rulesets<'a> {
    fn new(policies: &'a [Arc<CompiledPolicy>], change: Change, settings: &'a Settings) -> Self {
        Self { policies, settings, change, candidates: OnceCell::new(), made: RefCell::default() }
    }

    fn of(&self, workload: &Workload, old: Option<&Arc<WorkloadState>>) -> Arc<Ruleset> {
        let same = |old: &&Arc<WorkloadState>| {
            old.workload.in_mesh == workload.in_mesh && old.workload.labels == workload.labels
        };
        if let Some(old) = old.filter(same) {
            return self.after(workload, &old.ruleset);
        }
        let candidates = self.candidates.get_or_init(|| Candidates::new(self.policies, self.settings));
        let applied = candidates.of(workload);
        if let Some(old) = old.filter(|old| same_policies(&old.ruleset, &applied)) {
            return Arc::clone(&old.ruleset);
        }
        self.shared(applied.iter().map(address_of).collect(), || Ruleset::new(&applied, self.settings))
    }

    /// Of a workload that is as it was: what applied to it, but for what has changed.
    fn after(&self, workload: &Workload, old: &Arc<Ruleset>) -> Arc<Ruleset> {
        let relevant = |policy: &&Arc<CompiledPolicy>| applies(policy, workload, self.settings);
        let gone: Vec<&Arc<CompiledPolicy>> = self.change.gone.iter().filter(relevant).collect();
        let come: Vec<&Arc<CompiledPolicy>> = self.change.come.iter().filter(relevant).collect();
        if gone.is_empty() && come.is_empty() {
            return Arc::clone(old);
        }
        let known = [Arc::as_ptr(old) as usize, gone.len()];
        let key = known.into_iter().chain(gone.iter().chain(&come).map(|policy| address_of(policy))).collect();
        self.shared(key, || old.after(&gone, &come, self.settings))
    }

    /// The ruleset that is known by these addresses, made if it is not there yet.
    fn shared(&self, key: Vec<usize>, make: impl FnOnce() -> Ruleset) -> Arc<Ruleset> {
        Arc::clone(self.made.borrow_mut().entry(key).or_insert_with(|| Arc::new(make())))
    }
}

fn same_policies(ruleset: &Ruleset, applied: &[Arc<CompiledPolicy>]) -> bool {
    ruleset.policies.len() == applied.len()
        && ruleset.policies.iter().zip(applied).all(|(one, other)| Arc::ptr_eq(one, other))
}

fn address_of(policy: &Arc<CompiledPolicy>) -> usize {
    Arc::as_ptr(policy) as usize
}

/// Policies where a workload can find those that apply to it without looking at all others.
struct Candidates<'a> {
    by_namespace: Map<&'a str, InNamespace<'a>>,
    settings: &'a Settings,
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
        for policy in policies {
            let place = by_namespace.entry(policy.id().namespace.as_str()).or_default();
            match labels(policy).and_then(|labels| labels.iter().next()) {
                Some((key, value)) => place.by_label.entry((key, value)).or_default().push(policy),
                None => place.unselective.push(policy),
            }
        }
        Self { by_namespace, settings }
    }

    /// Sorted, so that neither the order of policies nor where they were found matters.
    fn of(&self, workload: &Workload) -> Vec<Arc<CompiledPolicy>> {
        let (own, root) = (workload.id.namespace.as_str(), self.settings.root_namespace.as_str());
        let namespaces = [Some(root), (own != root).then_some(own)];
        let mut found: Vec<Arc<CompiledPolicy>> = Vec::new();
        let mut add = |policies: &[&Arc<CompiledPolicy>]| {
            let applied = policies.iter().filter(|policy| applies(policy, workload, self.settings));
            found.extend(applied.map(|policy| Arc::clone(policy)));
        };
        for place in namespaces.into_iter().flatten().filter_map(|namespace| self.by_namespace.get(namespace)) {
            add(&place.unselective);
            for (key, value) in &workload.labels {
                place.by_label.get(&(key.as_str(), value.as_str())).into_iter().for_each(|selective| add(selective));
            }
        }
        found.sort_by(|one, other| by_key(one, other));
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
