//! What applies to a destination in one snapshot or in two, as terms with what they do to a verdict there.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::Bound;
use super::bits::Bits;
use super::ground::{Ground, Plot};
use super::term::{Term, terms};
use crate::mesh::{PolicyId, SameNode};
use crate::ruleset::{Reach, RuleAt, Stage};
use crate::snapshot::{Snapshot, WorkloadState};

/// Authorizers of one destination in both snapshots: their answers are kept as the bits of a word.
const AUTHORIZERS_MAX: usize = 64;

/// What a rule does where it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    /// Refuses, because its authorizer cannot be asked (S-75).
    Bad,
    /// Asks this authorizer.
    Ask(usize),
    Audit,
    TrialDeny,
    Deny,
    TrialAllow,
    Allow,
    /// Peers without mutual TLS where it is required.
    Strict,
}

/// One destination in one snapshot.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// `None` if it is not known there.
    pub(super) state: Option<&'a WorkloadState>,
}

/// A term and what it does in the first and the second place.
pub(super) struct Acting<'a> {
    pub(super) term: Term<'a>,
    pub(super) roles: [Option<Role>; 2],
    pub(super) rule: Option<&'a RuleAt>,
}

/// What a connection meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Outcome {
    Denied,
    /// Permitted if these authorizers allow it.
    Permitted(u64),
}

/// All terms of one place by what they do.
pub(super) struct Stages {
    refusing: Bits,
    asking: Vec<Bits>,
    allowing: Bits,
    default_deny: bool,
    is_known: bool,
}

impl<'a> Place<'a> {
    pub(super) fn rules(self, authorizers: &[Arc<str>]) -> Vec<(Role, &'a RuleAt)> {
        let Some(ruleset) = self.state.map(|state| &state.ruleset) else { return Vec::new() };
        let mut rules: Vec<(Role, &RuleAt)> = Vec::new();
        let mut add = |role: Role, stage: &'a Stage| rules.extend(stage.rules.iter().map(|at| (role, at)));
        for custom in &ruleset.custom {
            let position = authorizers.iter().position(|name| *name == custom.provider);
            match (custom.reach, position) {
                (Reach::Bad, _) => add(Role::Bad, &custom.stage),
                (Reach::Asked, Some(position)) => add(Role::Ask(position), &custom.stage),
                (Reach::Ignored, _) | (Reach::Asked, None) => {}
            }
        }
        add(Role::Audit, &ruleset.audit);
        add(Role::TrialDeny, &ruleset.trial_deny);
        add(Role::Deny, &ruleset.deny);
        add(Role::TrialAllow, &ruleset.trial_allow);
        add(Role::Allow, &ruleset.allow);
        rules
    }

    /// The terms of these rules, and those for the modes of the ports.
    pub(super) fn acting(self, rules: &[(Role, &'a RuleAt)], position: usize) -> Vec<Acting<'a>> {
        let Some(state) = self.state else { return Vec::new() };
        let here = |role: Role| if position == 0 { [Some(role), None] } else { [None, Some(role)] };
        let mut acting: Vec<Acting<'a>> = Vec::new();
        for (role, at) in rules {
            let terms = at.rule().into_iter().flat_map(|rule| terms(rule, Some(&state.mtls)));
            acting.extend(terms.map(|term| Acting { term, roles: here(*role), rule: Some(*at) }));
        }
        if state.mtls.has_strict() {
            let attested_is_mtls = self.snapshot.settings.same_node == SameNode::Attested;
            let term = Term::Strict { mtls: &state.mtls, attested_is_mtls };
            acting.push(Acting { term, roles: here(Role::Strict), rule: None });
        }
        acting
    }

    fn proofs_differ(self) -> bool {
        self.snapshot.settings.same_node == SameNode::Mtls && self.state.is_some_and(|state| state.mtls.has_strict())
    }
}

/// The authorizers that are asked in any of these places.
pub(super) fn authorizers(places: &[Place<'_>]) -> Result<Vec<Arc<str>>, Bound> {
    let custom = places.iter().filter_map(|place| place.state).flat_map(|state| &state.ruleset.custom);
    let asked: BTreeSet<&Arc<str>> =
        custom.filter(|custom| custom.reach == Reach::Asked).map(|custom| &custom.provider).collect();
    if asked.len() > AUTHORIZERS_MAX {
        return Err(Bound::Authorizers);
    }
    Ok(asked.into_iter().map(Arc::clone).collect())
}

/// The cut for these terms at these places.
pub(super) fn ground(places: &[Place<'_>], terms: &[Term<'_>]) -> Result<Ground, Bound> {
    let known: Vec<&[IpAddr]> =
        places.iter().filter_map(|place| place.state).map(|state| state.workload.addresses.as_slice()).collect();
    let destinations =
        if known.iter().any(|known| known.is_empty()) { BTreeSet::new() } else { known.concat().into_iter().collect() };
    let domain = places.last().map(|place| place.snapshot.settings.trust_domain.as_str());
    let preferred = [domain.unwrap_or_default(), "default", "default"];
    let proofs_differ = places.iter().any(|place| place.proofs_differ());
    Ground::new(&Plot { terms, destinations, preferred, proofs_differ })
}

impl Stages {
    pub(super) fn new(place: Place<'_>, acting: &[Acting<'_>], position: usize, authorizers: usize) -> Self {
        let with = |wanted: &dyn Fn(Role) -> bool| {
            let role = |acting: &Acting<'_>| acting.roles.get(position).copied().flatten();
            let terms = acting.iter().enumerate().filter(|(_, acting)| role(acting).is_some_and(wanted));
            Bits::of(acting.len(), terms.map(|(at, _)| at))
        };
        Self {
            refusing: with(&|role| matches!(role, Role::Bad | Role::Deny | Role::Strict)),
            asking: (0..authorizers).map(|asked| with(&|role| role == Role::Ask(asked))).collect(),
            allowing: with(&|role| role == Role::Allow),
            default_deny: place.state.is_some_and(|state| state.ruleset.allow.policies > 0),
            is_known: place.state.is_some(),
        }
    }

    /// The same among more terms, which do nothing here.
    pub(super) fn widened(self, terms: usize) -> Self {
        let wide = |bits: &Bits| Bits::of(terms, bits.iter());
        Self {
            refusing: wide(&self.refusing),
            asking: self.asking.iter().map(wide).collect(),
            allowing: wide(&self.allowing),
            ..self
        }
    }

    /// What comes out of these terms, of which those among `certain` hold and the others may; `None` if it depends on them.
    pub(super) fn outcome(&self, live: &Bits, certain: &Bits) -> Option<Outcome> {
        let may = |terms: &Bits| live.meets(terms);
        let does = |terms: &Bits| live.meets_within(terms, certain);
        if !self.is_known || does(&self.refusing) || (self.default_deny && !may(&self.allowing)) {
            return Some(Outcome::Denied);
        }
        if may(&self.refusing) || (self.default_deny && !does(&self.allowing)) {
            return None;
        }
        let mut asked = 0;
        for (at, terms) in self.asking.iter().enumerate() {
            match (may(terms), does(terms)) {
                (true, true) => asked |= 1 << at,
                (true, false) => return None,
                (false, _) => {}
            }
        }
        Some(Outcome::Permitted(asked))
    }

    /// Do both say the same of the same terms.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.is_known == other.is_known && self.default_deny == other.default_deny
    }
}

/// The terms of two places; a policy that is the same in both has its terms once.
pub(super) fn of_both<'a>(before: Place<'a>, after: Place<'a>, authorizers: &[Arc<str>]) -> Vec<Acting<'a>> {
    let enforced = |place: Place<'a>| {
        let mut rules = place.rules(authorizers);
        rules.retain(|(role, _)| !matches!(role, Role::Audit | Role::TrialDeny | Role::TrialAllow));
        rules
    };
    let mut acting = before.acting(&enforced(before), 0);
    let mut second = after.acting(&enforced(after), 1);
    let same_ground = match (before.state, after.state) {
        (Some(one), Some(two)) => one.mtls == two.mtls && *before.snapshot.settings == *after.snapshot.settings,
        _ => false,
    };
    if same_ground {
        let mut places: HashMap<(&PolicyId, usize), Vec<usize>> = HashMap::new();
        for (at, one) in acting.iter().enumerate() {
            if let Some(rule) = one.rule {
                places.entry((&**rule.policy.id(), rule.index)).or_default().push(at);
            }
        }
        // INVARIANT: equal specs under equal settings and modes have the same terms in the same order.
        let mut next: HashMap<(&PolicyId, usize), usize> = HashMap::new();
        let mut unchanged: HashMap<*const crate::ruleset::CompiledPolicy, bool> = HashMap::new();
        second.retain(|two| {
            let twin = match two.rule {
                None => acting.iter().position(|one| one.rule.is_none()),
                Some(rule) => {
                    let key = (&**rule.policy.id(), rule.index);
                    let nth = next.entry(key).or_insert(0);
                    *nth += 1;
                    places.get(&key).and_then(|places| places.get(*nth - 1)).copied().filter(|at| {
                        *unchanged.entry(Arc::as_ptr(&rule.policy)).or_insert_with(|| {
                            acting.get(*at).and_then(|one| one.rule).is_some_and(|old| {
                                Arc::ptr_eq(&old.policy, &rule.policy) || old.policy.spec == rule.policy.spec
                            })
                        })
                    })
                }
            };
            let Some(one) = twin.and_then(|at| acting.get_mut(at)) else { return true };
            one.roles = [one.roles[0], two.roles[1]];
            false
        });
    }
    acting.append(&mut second);
    acting
}
