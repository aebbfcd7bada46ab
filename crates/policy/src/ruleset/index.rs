//! Which rules of a stage are worth looking at: by port, and by a coarse word on the source that lies beside the position, so that most
//! rules are passed over without touching their memory. The index only ever leaves out rules that cannot match.

use std::net::IpAddr;

use super::RuleAt;
use crate::compile::rule::{CompiledEntry, CompiledRule};
use crate::matcher::{Names, Set, View};

/// A rule bound to more ports than this is not indexed by port: the index stays within a constant factor of the rules.
const INDEXED_PORTS_MAX: usize = 64;

/// Positions of rules, ascending for each port.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The ports that some rule is bound to, ascending, each with where its candidates end.
    ports: Vec<(u16, u32)>,
    by_port: Vec<Candidate>,
    /// The rules that are not bound to a few ports.
    any_port: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    position: u32,
    /// The hull of the IPv4 source blocks that the rule wants.
    first: u32,
    last: u32,
    /// The marks of the exact principals that the rule wants; all bits if it wants none or patterns.
    marks: u64,
}

/// The source of a connection in the same terms.
#[derive(Clone, Copy)]
struct Coarse {
    /// IPv6 sources are not narrowed.
    address: Option<u32>,
    marks: u64,
}

impl Index {
    /// Of all rules of a stage, in their order.
    pub(super) fn new(rules: &[RuleAt]) -> Self {
        let mut index = Self::default();
        let mut bound: Vec<(u16, Candidate)> = Vec::new();
        for (position, at) in (0_u32..).zip(rules) {
            let Some(rule) = at.rule().filter(|rule| rule.can_match()) else { continue };
            let candidate = Candidate::new(position, rule);
            match few_ports(rule) {
                Some(ports) => bound.extend(ports.into_iter().map(|port| (port, candidate))),
                None => index.any_port.push(candidate),
            }
        }
        bound.sort_by_key(|(port, candidate)| (*port, candidate.position));
        for (end, (port, candidate)) in (1_u32..).zip(bound) {
            index.by_port.push(candidate);
            match index.ports.last_mut() {
                Some(last) if last.0 == port => last.1 = end,
                _ => index.ports.push((port, end)),
            }
        }
        index
    }

    /// Positions of all rules that may match, ascending.
    #[inline]
    pub(super) fn candidates(&self, view: &View<'_>) -> impl Iterator<Item = usize> {
        let coarse = Coarse::of(view);
        let (mut one, mut other) = (self.at_port(view.port).iter(), self.any_port.iter());
        let (mut first, mut second) = (one.next(), other.next());
        let all = std::iter::from_fn(move || match (first, second) {
            (Some(a), Some(b)) if b.position < a.position => std::mem::replace(&mut second, other.next()),
            (Some(_), _) => std::mem::replace(&mut first, one.next()),
            (None, _) => std::mem::replace(&mut second, other.next()),
        });
        all.filter(move |candidate| candidate.may_match(coarse)).map(|candidate| candidate.position as usize)
    }

    #[inline]
    fn at_port(&self, port: u16) -> &[Candidate] {
        let Ok(at) = self.ports.binary_search_by_key(&port, |(port, _)| *port) else { return &[] };
        let end = |at: usize| self.ports.get(at).map_or(0, |(_, end)| *end as usize);
        let start = at.checked_sub(1).map_or(0, end);
        self.by_port.get(start..end(at)).unwrap_or_default()
    }
}

impl Candidate {
    fn new(position: u32, rule: &CompiledRule) -> Self {
        if rule.from.is_empty() {
            return Self { position, first: 0, last: u32::MAX, marks: u64::MAX };
        }
        let mut candidate = Self { position, first: u32::MAX, last: 0, marks: 0 };
        for entry in rule.from.iter().filter(|entry| !entry.never) {
            let (first, last) = hull(entry);
            candidate.first = candidate.first.min(first);
            candidate.last = candidate.last.max(last);
            candidate.marks |= marks(entry);
        }
        candidate
    }

    #[inline]
    fn may_match(&self, coarse: Coarse) -> bool {
        let named = self.marks == u64::MAX || self.marks & coarse.marks != 0;
        named && coarse.address.is_none_or(|address| (self.first..=self.last).contains(&address))
    }
}

impl Coarse {
    #[inline]
    fn of(view: &View<'_>) -> Self {
        let address = match view.source {
            IpAddr::V4(v4) => Some(v4.into()),
            IpAddr::V6(_) => None,
        };
        let marks = match view.names {
            Names::None => 0,
            Names::One(id) => id.mark(),
            Names::Many(_) => u64::MAX,
        };
        Self { address, marks }
    }
}

fn wanted(entry: &CompiledEntry) -> impl Iterator<Item = &Set> {
    entry.checks.iter().filter_map(|check| check.wanted.as_ref())
}

/// Of several wanted lists any one will do to narrow: all of them must hold.
fn hull(entry: &CompiledEntry) -> (u32, u32) {
    wanted(entry)
        .find_map(|set| if let Set::Source(blocks) = set { Some(blocks.hull_v4()) } else { None })
        .unwrap_or((0, u32::MAX))
}

fn marks(entry: &CompiledEntry) -> u64 {
    wanted(entry).find_map(|set| if let Set::Principals(set) = set { set.marks() } else { None }).unwrap_or(u64::MAX)
}

fn few_ports(rule: &CompiledRule) -> Option<Vec<u16>> {
    bound_ports(rule).filter(|ports| ports.len() <= INDEXED_PORTS_MAX)
}

/// The ports, ascending, beyond which a rule never matches; `None` if it is not bound to named ones.
pub(crate) fn bound_ports(rule: &CompiledRule) -> Option<Vec<u16>> {
    let from_when = rule.when.iter().find_map(ports).map(<[u16]>::to_vec);
    from_when.or_else(|| {
        let mut all = Vec::new();
        for entry in &rule.to {
            all.extend_from_slice(ports(entry)?);
        }
        all.sort_unstable();
        all.dedup();
        (!rule.to.is_empty()).then_some(all)
    })
}

fn ports(entry: &CompiledEntry) -> Option<&[u16]> {
    wanted(entry).find_map(|set| if let Set::Ports(ports) = set { Some(ports.as_slice()) } else { None })
}
