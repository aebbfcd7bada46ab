//! The questions over all destinations: those to which the same applies are one question.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::compare::compare;
use super::fate::fates;
use super::labels::{Kind, kinds};
use super::region::Known;
use super::search::search;
use super::side::Place;
use super::{
    Among, Bound, Comparison, Destination, Difference, Fate, Proof, Region, Relation, RuleName, Wanted, place,
};
use crate::compile::compile;
use crate::matcher::Set;
use crate::mesh::{Mesh, Workload, WorkloadId};
use crate::mtls::Mtls;
use crate::snapshot::{Snapshot, WorkloadState};

/// Places to which the same applies have the same key.
#[derive(Default)]
struct Keys<'a> {
    modes: Vec<&'a Mtls>,
}

type Key = Option<(usize, usize, Option<Vec<IpAddr>>)>;

impl<'a> Keys<'a> {
    fn of(&mut self, state: Option<&'a WorkloadState>) -> Key {
        let state = state?;
        let mode = self.modes.iter().position(|one| **one == state.mtls).unwrap_or_else(|| {
            self.modes.push(&state.mtls);
            self.modes.len() - 1
        });
        let addresses = looks_at_destination(state).then(|| state.workload.addresses.clone());
        Some((Arc::as_ptr(&state.ruleset) as usize, mode, addresses))
    }
}

fn looks_at_destination(state: &WorkloadState) -> bool {
    let stages =
        state.ruleset.enforced().chain([&state.ruleset.audit, &state.ruleset.trial_deny, &state.ruleset.trial_allow]);
    let mut rules = stages.flat_map(|stage| &stage.rules).filter_map(|at| at.rule());
    rules.any(|rule| rule.sets().any(|set| matches!(set, Set::Destination(_))))
}

fn with_examples(mesh: &Mesh, missing: &[&Workload], kinds: &[Kind]) -> Mesh {
    let mut mesh = mesh.clone();
    mesh.workloads.extend(missing.iter().copied().cloned());
    mesh.workloads.extend(kinds.iter().map(|kind| kind.example.clone()));
    mesh
}

/// The workloads of one mesh that another does not have.
fn missing<'a>(of: &'a Mesh, from: &Mesh) -> Vec<&'a Workload> {
    let there: BTreeSet<&WorkloadId> = from.workloads.iter().map(|workload| &workload.id).collect();
    of.workloads.iter().filter(|workload| !there.contains(&workload.id)).collect()
}

pub(super) fn compare_meshes(before: &Mesh, after: &Mesh) -> Difference {
    let (kinds, unknown) = match kinds(&[before, after], false) {
        Ok(kinds) => (kinds, None),
        Err(bound) => (Vec::new(), Some(bound)),
    };
    // A workload that comes or goes is no change of policy.
    let (only_before, only_after) = (missing(before, after), missing(after, before));
    let one = compile(&with_examples(before, &only_after, &kinds), 1, None);
    let two = compile(&with_examples(after, &only_before, &kinds), 2, Some(&one));
    let known = Known::new(vec![&one, &two]);
    let ids: BTreeSet<&WorkloadId> =
        before.workloads.iter().chain(&after.workloads).map(|workload| &workload.id).collect();
    let workloads = ids.into_iter().map(|id| (id, Destination::Workload(id.clone())));
    let labelled = kinds.iter().map(|kind| {
        let (words, example) = (kind.words.clone(), Box::new(kind.example.clone()));
        (&kind.example.id, Destination::Labelled { words, example })
    });
    let (mut before_keys, mut after_keys) = (Keys::default(), Keys::default());
    let mut answered: HashMap<(Key, Key), Comparison> = HashMap::new();
    let mut destinations = Vec::new();
    for (id, destination) in workloads.chain(labelled) {
        let (one, two) = (place(&one, id), place(&two, id));
        let key = (before_keys.of(one.state), after_keys.of(two.state));
        let comparison = answered.entry(key).or_insert_with(|| compare(one, two, &known));
        if comparison.relation != Relation::Equivalent {
            destinations.push((destination, comparison.clone().sent_to([one.state, two.state])));
        }
    }
    let relation = overall(&destinations, unknown);
    let named = |workloads: Vec<&Workload>| workloads.into_iter().map(|workload| workload.id.clone()).collect();
    let (only_before, only_after) = (named(only_before), named(only_after));
    Difference { relation, destinations, only_before, only_after, before: one, after: two }
}

impl Comparison {
    fn sent_to(mut self, states: [Option<&WorkloadState>; 2]) -> Self {
        let addresses: Vec<IpAddr> =
            states.into_iter().flatten().flat_map(|state| state.workload.addresses.iter().copied()).collect();
        send(&mut self.opened, &addresses);
        send(&mut self.closed, &addresses);
        self
    }
}

/// Makes the witnesses go to one of these addresses, where it makes no difference.
fn send(regions: &mut [Region], addresses: &[IpAddr]) {
    for Region { destinations, witness, .. } in regions {
        let same_family = addresses.iter().find(|address| address.is_ipv4() == witness.source.is_ipv4());
        let own = same_family.or_else(|| addresses.first());
        if let Some(own) = own.filter(|_| destinations.is_empty() && !addresses.contains(&witness.destination)) {
            witness.destination = *own;
        }
    }
}

pub(super) fn search_each(
    snapshot: &Snapshot,
    destinations: &[WorkloadId],
    wanted: Wanted,
    among: &Among,
) -> Vec<Proof> {
    let known = Known::new(vec![snapshot]);
    let asks_for_address = among.rule.sets().any(|set| matches!(set, Set::Destination(_)));
    let mut keys = Keys::default();
    let mut answered: HashMap<(Key, Vec<IpAddr>), Proof> = HashMap::new();
    let mut proofs = Vec::with_capacity(destinations.len());
    for id in destinations {
        let place = place(snapshot, id);
        let addresses = place.state.map_or(&[][..], |state| state.workload.addresses.as_slice());
        let key = (keys.of(place.state), if asks_for_address { addresses.to_vec() } else { Vec::new() });
        let mut proof = answered.entry(key).or_insert_with(|| search(place, wanted, among, &known)).clone();
        if let Proof::Refuted(regions) = &mut proof {
            send(regions, addresses);
        }
        proofs.push(proof);
    }
    proofs
}

fn overall(all: &[(Destination, Comparison)], unknown: Option<Bound>) -> Relation {
    let (mut opened, mut closed, mut unknown) = (false, false, unknown);
    for (_, comparison) in all {
        match comparison.relation {
            Relation::Equivalent => {}
            Relation::MorePermissive => opened = true,
            Relation::MoreRestrictive => closed = true,
            Relation::Incomparable => (opened, closed) = (true, true),
            Relation::Inconclusive(bound) => unknown = unknown.or(Some(bound)),
        }
    }
    match (opened, closed, unknown) {
        (true, true, _) => Relation::Incomparable,
        (_, _, Some(bound)) => Relation::Inconclusive(bound),
        (true, false, None) => Relation::MorePermissive,
        (false, true, None) => Relation::MoreRestrictive,
        (false, false, None) => Relation::Equivalent,
    }
}

pub(super) fn rules_everywhere(mesh: &Mesh) -> Vec<(RuleName, Result<Fate, Bound>)> {
    let (kinds, unknown) = match kinds(&[mesh], false) {
        Ok(kinds) => (kinds, None),
        Err(bound) => (Vec::new(), Some(bound)),
    };
    let snapshot = compile(&with_examples(mesh, &[], &kinds), 1, None);
    let mut states: Vec<&WorkloadState> = snapshot.workloads().map(|state| &**state).collect();
    states.sort_by(|a, b| a.workload.id.cmp(&b.workload.id));
    let mut keys = Keys::default();
    let mut seen: BTreeSet<Key> = BTreeSet::new();
    let mut found: BTreeMap<RuleName, Result<Fate, Bound>> = BTreeMap::new();
    for state in states {
        if !seen.insert(keys.of(Some(state))) {
            continue;
        }
        match fates(Place { snapshot: &snapshot, state: Some(state) }) {
            Ok(fates) => {
                for one in fates {
                    let fate = Ok(one.fate);
                    let both = match found.remove(&one.rule) {
                        Some(before) => together(before, fate),
                        None => fate,
                    };
                    found.insert(one.rule, both);
                }
            }
            Err(bound) => {
                for policy in &state.ruleset.policies {
                    for rule in 0..policy.rules.len() {
                        let name = RuleName { policy: Arc::clone(policy.id()), rule };
                        let before = found.remove(&name).unwrap_or(Err(bound));
                        found.insert(name, together(before, Err(bound)));
                    }
                }
            }
        }
    }
    let judged = |fate: Result<Fate, Bound>| match (fate, unknown) {
        (Ok(Fate::Effective), _) => Ok(Fate::Effective),
        (_, Some(bound)) => Err(bound),
        (fate, None) => fate,
    };
    found.into_iter().map(|(name, fate)| (name, judged(fate))).collect()
}

/// Of a rule at two destinations: effective if it is at one of them, not known if it may be.
fn together(one: Result<Fate, Bound>, other: Result<Fate, Bound>) -> Result<Fate, Bound> {
    let names = |by: Vec<RuleName>, more: Vec<RuleName>| {
        by.into_iter().chain(more).collect::<BTreeSet<_>>().into_iter().collect()
    };
    match (one, other) {
        (Ok(Fate::Effective), _) | (_, Ok(Fate::Effective)) => Ok(Fate::Effective),
        (Err(bound), _) | (_, Err(bound)) => Err(bound),
        (Ok(Fate::Shadowed { by }), Ok(Fate::Shadowed { by: more } | Fate::Redundant { by: more }))
        | (Ok(Fate::Redundant { by }), Ok(Fate::Shadowed { by: more })) => Ok(Fate::Shadowed { by: names(by, more) }),
        (Ok(Fate::Redundant { by }), Ok(Fate::Redundant { by: more })) => Ok(Fate::Redundant { by: names(by, more) }),
        (Ok(Fate::Dead | Fate::Idle), Ok(fate @ (Fate::Shadowed { .. } | Fate::Redundant { .. })))
        | (Ok(fate @ (Fate::Shadowed { .. } | Fate::Redundant { .. })), Ok(Fate::Dead | Fate::Idle)) => Ok(fate),
        (Ok(Fate::Idle), Ok(Fate::Idle | Fate::Dead)) | (Ok(Fate::Dead), Ok(Fate::Idle)) => Ok(Fate::Idle),
        (Ok(Fate::Dead), Ok(Fate::Dead)) => Ok(Fate::Dead),
    }
}
