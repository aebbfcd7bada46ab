//! Rules as products: what they ask of the source times the port classes they reach. Kept up to date along the sweep by the edges of
//! the address blocks, each edge in constant time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::compile::rule::{Check, CompiledEntry, CompiledRule};
use crate::identity::SpiffeId;
use crate::matcher::{Names, Set, Truth, View};
use crate::ruleset::index::bound_ports;
use crate::ruleset::{Reach, RuleAt, Ruleset, Stage};
use crate::spec::Attribute;

/// What a rule that holds does to a verdict.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Denies,
    MayDeny,
    Allows,
    MayAllow,
}

/// A rule as source times ports.
pub(super) struct Rule {
    pub(super) weight: Weight,
    /// Ranges of port classes, disjoint.
    pub(super) classes: Vec<RangeInclusive<usize>>,
    /// Positions of its sources in `Product::sources`; none means any source.
    from: std::ops::Range<usize>,
    /// The position of its conditions on the source.
    when: usize,
    /// How many of its sources hold for a peer without identity at the present address.
    live: usize,
    looks_at_identity: bool,
    /// Is it counted as holding for a peer without identity.
    counted: bool,
}

/// What one source (or the conditions) asks: all of it must hold.
struct Source<'a> {
    rule: usize,
    identity: Vec<&'a Check>,
    /// Do the identity checks hold for a peer without identity.
    anonymous: bool,
    /// How many address checks fail at the present address.
    failing: usize,
    is_condition: bool,
}

/// An address check at the present address.
struct Address {
    source: usize,
    /// Inside the wanted blocks, if there are any; outside the unwanted ones.
    wanted: bool,
    unwanted: bool,
}

/// Where an address block of a check begins, or ends just before.
pub(super) struct Edge {
    pub(super) at: u128,
    address: usize,
    of_wanted: bool,
    inside: bool,
}

pub(super) struct Product<'a> {
    pub(super) rules: Vec<Rule>,
    sources: Vec<Source<'a>>,
    addresses: Vec<Address>,
    /// Ascending.
    pub(super) edges: Vec<Edge>,
    /// For an identity, which sources its identity checks let hold.
    known: HashMap<SpiffeId, Vec<bool>>,
    destination: IpAddr,
}

/// The enforced rules of a ruleset for connections to this address; of each stage those that `rules` names.
pub(super) fn products<'a, R: Iterator<Item = &'a RuleAt>>(
    ruleset: &'a Ruleset,
    classes: &[RangeInclusive<u16>],
    destination: IpAddr,
    rules: impl Fn(&'a Stage) -> R,
) -> Product<'a> {
    let mut product = Product {
        rules: Vec::new(),
        sources: Vec::new(),
        addresses: Vec::new(),
        edges: Vec::new(),
        known: HashMap::new(),
        destination,
    };
    let mut add = |stage: &'a Stage, weight: Weight| {
        for rule in rules(stage).filter_map(|at| at.rule()).filter(|rule| rule.can_match()) {
            product.add(rule, weight, classes);
        }
    };
    for custom in &ruleset.custom {
        match custom.reach {
            Reach::Bad => add(&custom.stage, Weight::Denies),
            Reach::Asked => add(&custom.stage, Weight::MayDeny),
            Reach::Ignored => {}
        }
    }
    add(&ruleset.deny, Weight::Denies);
    add(&ruleset.allow, Weight::Allows);
    product.edges.sort_unstable_by_key(|edge| edge.at);
    product
}

/// What a check looks at.
#[derive(PartialEq, Eq)]
enum Axis {
    Identity,
    Address,
    Port,
    /// The same for all connections to one address.
    Constant,
    Bytes,
}

fn axis(check: &Check) -> Axis {
    match check.attribute {
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain => {
            Axis::Identity
        }
        Attribute::SourceIp | Attribute::RemoteIp => Axis::Address,
        Attribute::Port => Axis::Port,
        Attribute::DestinationIp | Attribute::Metadata | Attribute::Http | Attribute::Request | Attribute::Unknown => {
            Axis::Constant
        }
        Attribute::ServerName => Axis::Bytes,
    }
}

impl<'a> Product<'a> {
    fn add(&mut self, rule: &'a CompiledRule, weight: Weight, classes: &[RangeInclusive<u16>]) {
        let conditions: Vec<&Check> = rule.when.iter().flat_map(|entry| &entry.checks).collect();
        let view = self.view(Names::None, 0);
        if conditions.iter().any(|check| axis(check) == Axis::Constant && check.truth(&view) == Truth::False) {
            return;
        }
        let needs_bytes = conditions.iter().any(|check| axis(check) == Axis::Bytes);
        let weight = match weight {
            Weight::Denies if needs_bytes => Weight::MayDeny,
            Weight::Allows if needs_bytes => Weight::MayAllow,
            Weight::Denies | Weight::MayDeny | Weight::Allows | Weight::MayAllow => weight,
        };
        let classes = self.classes(rule, &conditions, classes);
        if classes.is_empty() {
            return;
        }
        let index = self.rules.len();
        let first = self.sources.len();
        for entry in rule.from.iter().filter(|entry| !entry.never) {
            self.source(index, entry.checks.iter(), false);
        }
        if first == self.sources.len() && !rule.from.is_empty() {
            return;
        }
        let when = self.sources.len();
        self.source(index, conditions.into_iter(), true);
        let added = self.sources.get(first..).unwrap_or_default();
        let looks_at_identity = added.iter().any(|source| !source.identity.is_empty());
        let live = added.iter().filter(|source| !source.is_condition && source.holds_anonymous()).count();
        let from = first..when;
        self.rules.push(Rule { weight, classes, from, when, live, looks_at_identity, counted: false });
        let counted = self.holds_anonymous(index);
        self.set_counted(index, counted);
    }

    fn source(&mut self, rule: usize, checks: impl Iterator<Item = &'a Check>, is_condition: bool) {
        let position = self.sources.len();
        let view = self.view(Names::None, 0);
        let mut source = Source { rule, identity: Vec::new(), anonymous: true, failing: 0, is_condition };
        for check in checks {
            match axis(check) {
                Axis::Identity => {
                    source.anonymous &= check.truth(&view) == Truth::True;
                    source.identity.push(check);
                }
                Axis::Address => source.failing += usize::from(!self.address(position, check)),
                Axis::Port | Axis::Constant | Axis::Bytes => {}
            }
        }
        self.sources.push(source);
    }

    /// Adds the edges of an address check; does it hold before the first edge.
    fn address(&mut self, source: usize, check: &Check) -> bool {
        let address = self.addresses.len();
        for (set, of_wanted) in [(&check.wanted, true), (&check.unwanted, false)] {
            if let Some(Set::Source(blocks)) = set {
                for interval in blocks.intervals(self.destination) {
                    self.edges.push(Edge { at: *interval.start(), address, of_wanted, inside: true });
                    let next = interval.end().checked_add(1);
                    self.edges.extend(next.map(|at| Edge { at, address, of_wanted, inside: false }));
                }
            }
        }
        let state = Address { source, wanted: check.wanted.is_none(), unwanted: false };
        let holds = state.holds();
        self.addresses.push(state);
        holds
    }

    /// The port classes that a rule reaches.
    fn classes(
        &self,
        rule: &CompiledRule,
        conditions: &[&Check],
        classes: &[RangeInclusive<u16>],
    ) -> Vec<RangeInclusive<usize>> {
        let holds_at = |check: &Check, port: u16| {
            axis(check) != Axis::Port || check.truth(&self.view(Names::None, port)) == Truth::True
        };
        let operation_holds =
            |entry: &CompiledEntry, port: u16| !entry.never && entry.checks.iter().all(|check| holds_at(check, port));
        let class_of = |port: u16| classes.partition_point(|class| *class.end() < port);
        let candidates: Vec<usize> = match bound_ports(rule) {
            Some(ports) => ports.into_iter().map(class_of).collect(),
            None => (0..classes.len()).collect(),
        };
        let mut ranges: Vec<RangeInclusive<usize>> = Vec::new();
        for class in candidates {
            let Some(port) = classes.get(class).map(|ports| *ports.start()) else { continue };
            let holds = conditions.iter().all(|check| holds_at(check, port))
                && (rule.to.is_empty() || rule.to.iter().any(|entry| operation_holds(entry, port)));
            if !holds {
                continue;
            }
            match ranges.last_mut() {
                Some(range) if *range.end() + 1 == class => *range = *range.start()..=class,
                _ => ranges.push(class..=class),
            }
        }
        ranges
    }

    fn view<'v>(&self, names: Names<'v>, port: u16) -> View<'v> {
        // Addresses are looked at by the sweep, not through this view.
        View { source: self.destination.into(), destination: self.destination.into(), port, names, server_name: None }
    }

    /// Crosses an edge; the rule that it may have changed.
    pub(super) fn cross(&mut self, edge: &Edge) -> Option<usize> {
        let address = self.addresses.get_mut(edge.address)?;
        let before = address.holds();
        if edge.of_wanted {
            address.wanted = edge.inside;
        } else {
            address.unwanted = edge.inside;
        }
        let after = address.holds();
        if before == after {
            return None;
        }
        let source = self.sources.get_mut(address.source)?;
        let held = source.holds_anonymous();
        source.failing = if after { source.failing.saturating_sub(1) } else { source.failing + 1 };
        let rule = self.rules.get_mut(source.rule)?;
        if !source.is_condition && held != source.holds_anonymous() {
            rule.live = if held { rule.live.saturating_sub(1) } else { rule.live + 1 };
        }
        Some(source.rule)
    }

    /// Does the rule hold for a peer without identity at the present address.
    pub(super) fn holds_anonymous(&self, rule: usize) -> bool {
        let Some(rule) = self.rules.get(rule) else {
            return false;
        };
        (rule.from.is_empty() || rule.live > 0) && self.sources.get(rule.when).is_some_and(Source::holds_anonymous)
    }

    /// Notes whether the rule is counted; is that a change.
    pub(super) fn set_counted(&mut self, rule: usize, counted: bool) -> bool {
        self.rules.get_mut(rule).is_some_and(|rule| std::mem::replace(&mut rule.counted, counted) != counted)
    }

    /// The rules that hold for this identity and not for a peer without one, or the other way round, at the present address.
    pub(super) fn differing(&mut self, identity: &SpiffeId) -> Vec<(usize, bool)> {
        let view = self.view(Names::One(identity), 0);
        let sources = &self.sources;
        let known = self.known.entry(identity.clone()).or_insert_with(|| {
            let holds = |source: &Source<'_>| source.identity.iter().all(|check| check.truth(&view) == Truth::True);
            sources.iter().map(holds).collect()
        });
        let holds =
            |at: usize| known.get(at) == Some(&true) && sources.get(at).is_some_and(|source| source.failing == 0);
        let looking = self.rules.iter().enumerate().filter(|(_, rule)| rule.looks_at_identity);
        looking
            .map(|(index, rule)| {
                (index, (rule.from.is_empty() || rule.from.clone().any(holds)) && holds(rule.when), rule.counted)
            })
            .filter(|(_, now, counted)| now != counted)
            .map(|(index, now, _)| (index, now))
            .collect()
    }
}

impl Source<'_> {
    fn holds_anonymous(&self) -> bool {
        self.anonymous && self.failing == 0
    }
}

impl Address {
    fn holds(&self) -> bool {
        self.wanted && !self.unwanted
    }
}
