//! What applies to one workload: its policies by stage, in the order in which a deciding rule is reported, indexed by port.

pub(crate) mod index;
mod splice;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use self::index::Index;
use self::splice::Sorted;
use crate::compile::rule::{CompiledEntry, CompiledRule, Effect};
use crate::matcher::{Set, Truth, View};
use crate::mesh::{PolicyId, ProviderKind, Settings};
use crate::spec::{Action, AuthorizationPolicy};

/// A policy ready to be evaluated; shared by all workloads and by later snapshots while it does not change.
#[derive(Debug)]
pub(crate) struct CompiledPolicy {
    pub(crate) spec: Arc<AuthorizationPolicy>,
    pub(crate) rules: Vec<CompiledRule>,
}

impl CompiledPolicy {
    pub(crate) fn id(&self) -> &Arc<PolicyId> {
        &self.spec.id
    }
}

/// One rule of one policy.
#[derive(Clone, Debug)]
pub(crate) struct RuleAt {
    pub(crate) policy: Arc<CompiledPolicy>,
    pub(crate) index: usize,
}

impl RuleAt {
    #[inline]
    pub(crate) fn rule(&self) -> Option<&CompiledRule> {
        self.policy.rules.get(self.index)
    }
}

/// All policies that apply to a workload.
#[derive(Debug, Default)]
pub(crate) struct Ruleset {
    /// Sorted by their keys.
    pub(crate) policies: Vec<Arc<CompiledPolicy>>,
    pub(crate) custom: Vec<Custom>,
    pub(crate) audit: Stage,
    pub(crate) deny: Stage,
    pub(crate) allow: Stage,
    pub(crate) trial_deny: Stage,
    pub(crate) trial_allow: Stage,
    /// What they say to an HTTP engine, where that is something else (`requests.rs`).
    pub(crate) http: OnceLock<Option<Arc<Self>>>,
}

/// The CUSTOM policies of one provider (S-74), or of all that cannot be asked.
#[derive(Clone, Debug)]
pub(crate) struct Custom {
    /// Empty for those that cannot be asked.
    pub(crate) provider: Arc<str>,
    pub(crate) reach: Reach,
    pub(crate) stage: Stage,
}

/// Can the provider be asked. In the order in which they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// Unknown, or one of several without the switch (S-75).
    Bad,
    Asked,
    /// Of the HTTP kind (S-74).
    Ignored,
}

/// The rules of all policies of one action.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage {
    /// How many policies: S-32 counts them, not their rules.
    pub(crate) policies: usize,
    /// In the order of S-34.
    pub(crate) rules: Vec<RuleAt>,
    index: Index,
}

/// What a stage found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found<'a> {
    /// The first rule that matches.
    pub(crate) certain: Option<&'a RuleAt>,
    /// The first rule that matches or not by bytes not yet seen.
    pub(crate) possible: Option<&'a RuleAt>,
}

impl<'a> Found<'a> {
    fn add(&mut self, rule: &'a RuleAt, truth: Truth) {
        match truth {
            Truth::True => self.certain = self.certain.or(Some(rule)),
            Truth::Unknown => self.possible = self.possible.or(Some(rule)),
            Truth::False => {}
        }
    }
}

impl Ruleset {
    pub(crate) fn new(policies: &[Arc<CompiledPolicy>], settings: &Settings) -> Self {
        Self::default().after(&[], &policies.iter().collect::<Vec<_>>(), settings)
    }

    /// This one without the policies that are `gone`, and with those that `come`.
    pub(crate) fn after(
        &self,
        gone: &[&Arc<CompiledPolicy>],
        come: &[&Arc<CompiledPolicy>],
        settings: &Settings,
    ) -> Self {
        let stage = |before: &Stage, action: Action, trial: bool| {
            let [gone, come] = [gone, come].map(|policies| of_kind(policies, action, trial));
            before.after(&gone, &come)
        };
        let policies = Sorted { items: &self.policies, policy: |policy| policy };
        let policies = policies.spliced(gone, come, |policy| vec![Arc::clone(policy)]).items;
        let same_custom = gone.iter().chain(come).all(|policy| policy.spec.action != Action::Custom);
        Self {
            custom: if same_custom { self.custom.clone() } else { custom(&policies, settings) },
            audit: stage(&self.audit, Action::Audit, false),
            deny: stage(&self.deny, Action::Deny, false),
            allow: stage(&self.allow, Action::Allow, false),
            trial_deny: stage(&self.trial_deny, Action::Deny, true),
            trial_allow: stage(&self.trial_allow, Action::Allow, true),
            policies,
            http: OnceLock::new(),
        }
    }

    /// The policies as written.
    pub(crate) fn specs(&self) -> impl Iterator<Item = &AuthorizationPolicy> {
        self.policies.iter().map(|policy| &*policy.spec)
    }

    /// The stages that can change a verdict.
    pub(crate) fn enforced(&self) -> impl Iterator<Item = &Stage> {
        self.custom
            .iter()
            .filter(|custom| custom.reach != Reach::Ignored)
            .map(|custom| &custom.stage)
            .chain([&self.deny, &self.allow])
    }
}

fn custom(policies: &[Arc<CompiledPolicy>], settings: &Settings) -> Vec<Custom> {
    let enforced = || policies.iter().filter(|one| one.spec.action == Action::Custom && !one.spec.trial);
    let provider = |policy: &Arc<CompiledPolicy>| policy.spec.provider.clone().unwrap_or_default();
    let providers: BTreeSet<String> = enforced().map(provider).collect();
    let too_many = providers.len() > 1 && !settings.multiple_custom_providers;
    let reach = |provider: &str| match settings.providers.get(provider) {
        _ if too_many => Reach::Bad,
        None => Reach::Bad,
        Some(ProviderKind::Grpc) => Reach::Asked,
        Some(ProviderKind::Http) => Reach::Ignored,
    };
    // Those that cannot be asked are one stage, of which the first rule by its key is reported (S-34), and refuse before any
    // other is troubled.
    let mut by_provider: BTreeMap<(Reach, String), Vec<&Arc<CompiledPolicy>>> = BTreeMap::new();
    for policy in enforced() {
        let provider = provider(policy);
        let reach = reach(&provider);
        let name = if reach == Reach::Bad { String::new() } else { provider };
        by_provider.entry((reach, name)).or_default().push(policy);
    }
    by_provider
        .into_iter()
        .map(|((reach, provider), policies)| Custom {
            provider: Arc::from(provider),
            reach,
            stage: Stage::default().after(&[], &policies),
        })
        .collect()
}

/// The order of S-34, of the policies. It is that of texts in which a bracket follows the namespace and the name: `a-b` comes before `a`.
pub(crate) fn by_key(one: &CompiledPolicy, other: &CompiledPolicy) -> Ordering {
    let (one, other) = (one.id(), other.id());
    bracketed(&one.namespace, &other.namespace).then_with(|| bracketed(&one.name, &other.name))
}

fn bracketed(one: &str, other: &str) -> Ordering {
    let length = one.len().min(other.len());
    let rest = |text: &str| text.as_bytes().get(length).copied().unwrap_or(b']');
    let (first, second) = (one.as_bytes().get(..length), other.as_bytes().get(..length));
    first.cmp(&second).then_with(|| rest(one).cmp(&rest(other))).then_with(|| one.cmp(other))
}

/// The order of S-34, of the rules of one policy: by their numbers as texts with that bracket. The tenth comes before the first.
fn in_order(rules: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..rules).collect();
    if rules > 10 {
        all.sort_by_cached_key(|index| format!("{index}]"));
    }
    all
}

fn of_kind<'p>(policies: &[&'p Arc<CompiledPolicy>], action: Action, trial: bool) -> Vec<&'p Arc<CompiledPolicy>> {
    policies.iter().filter(|policy| policy.spec.action == action && policy.spec.trial == trial).copied().collect()
}

/// The rules of a policy in their order.
fn rules_of(policy: &Arc<CompiledPolicy>) -> Vec<RuleAt> {
    let rule = |index| RuleAt { policy: Arc::clone(policy), index };
    in_order(policy.rules.len()).into_iter().map(rule).collect()
}

impl Stage {
    /// This one without the policies that are `gone`, and with those that `come`.
    fn after(&self, gone: &[&Arc<CompiledPolicy>], come: &[&Arc<CompiledPolicy>]) -> Self {
        if gone.is_empty() && come.is_empty() {
            return self.clone();
        }
        let rules = Sorted { items: &self.rules, policy: |rule| &rule.policy }.spliced(gone, come, rules_of);
        let new = rules.new.iter().filter_map(|place| Some((*place, rules.items.get(*place)?.rule()?)));
        let index = self.index.after(&rules.places, &new.collect::<Vec<_>>());
        Self { policies: self.policies + come.len() - gone.len(), rules: rules.items, index }
    }

    /// The rules that match, by way of the index; ends at the first certain one.
    #[inline]
    pub(crate) fn find(&self, view: &View<'_>) -> Found<'_> {
        // Most stages of most workloads are empty, and most ports that are not a workload's own are in no rule.
        if self.rules.is_empty() || !self.index.has(view.port) {
            return Found::default();
        }
        self.find_at(view)
    }

    fn find_at(&self, view: &View<'_>) -> Found<'_> {
        let mut found = Found::default();
        for at in self.index.candidates(view).filter_map(|position| self.rules.get(position)) {
            found.add(at, at.rule().map_or(Truth::False, |rule| rule.truth(view)));
            if found.certain.is_some() {
                break;
            }
        }
        found
    }

    /// The rules that can match at this port, and some that cannot, in no particular order.
    pub(crate) fn at_port(&self, port: u16) -> impl Iterator<Item = &RuleAt> {
        self.index.positions(port).filter_map(|position| self.rules.get(position))
    }

    /// The rules that may fail in one comparison alone, in their order.
    pub(crate) fn near(&self, view: &View<'_>) -> impl Iterator<Item = &RuleAt> {
        self.index.near(view).into_iter().filter_map(|position| self.rules.get(position))
    }

    /// The same by looking at every rule, each told to `tell`.
    pub(crate) fn find_all<'a>(&'a self, view: &View<'_>, mut tell: impl FnMut(&'a RuleAt, Truth)) -> Found<'a> {
        let mut found = Found::default();
        for at in &self.rules {
            let truth = at.rule().map_or(Truth::False, |rule| rule.truth(view));
            tell(at, truth);
            found.add(at, truth);
        }
        found
    }
}

impl CompiledRule {
    /// Void and dead rules never match.
    pub(crate) fn can_match(&self) -> bool {
        match self.effect {
            Effect::Effective | Effect::Widened(_) => true,
            Effect::Void(_) | Effect::Dead(_) => false,
        }
    }

    /// Every set that the rule compares with.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &Set> {
        let entries = self.from.iter().chain(&self.to).chain(&self.when);
        entries.flat_map(|entry| &entry.checks).flat_map(|check| [&check.wanted, &check.unwanted]).flatten()
    }

    /// S-36.
    #[inline]
    pub(crate) fn truth(&self, view: &View<'_>) -> Truth {
        if !self.can_match() {
            return Truth::False;
        }
        let mut truth = Truth::True;
        for entries in [&self.to, &self.from] {
            truth = truth.and(any(entries, view));
            if truth == Truth::False {
                return truth;
            }
        }
        self.when.iter().map(|entry| entry.truth(view)).fold(truth, Truth::and)
    }
}

#[inline]
fn any(entries: &[CompiledEntry], view: &View<'_>) -> Truth {
    if entries.is_empty() {
        return Truth::True;
    }
    let mut truth = Truth::False;
    for entry in entries {
        truth = truth.or(entry.truth(view));
        if truth == Truth::True {
            break;
        }
    }
    truth
}

impl CompiledEntry {
    pub(crate) fn truth(&self, view: &View<'_>) -> Truth {
        if self.never {
            return Truth::False;
        }
        let mut truth = Truth::True;
        for check in &self.checks {
            truth = truth.and(check.truth(view));
            if truth == Truth::False {
                break;
            }
        }
        truth
    }
}
