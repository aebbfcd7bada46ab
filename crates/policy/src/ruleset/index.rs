//! Which rules of a stage are worth looking at: by port, and by a coarse word on the source that lies beside the position, so that most
//! rules are passed over without touching their memory. The index only ever leaves out rules that cannot match.

use crate::address::Address;
use crate::compile::rule::{CompiledEntry, CompiledRule};
use crate::matcher::{Names, Set, View};

/// A rule bound to more ports than this is not indexed by port: the index stays within a constant factor of the rules.
const INDEXED_PORTS_MAX: usize = 64;

/// Positions of rules, ascending for each port.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    ports: Ports,
    /// The same, ascending.
    at_port: Vec<AtPort>,
    by_port: Vec<Candidate>,
    /// The rules that are not bound to a few ports.
    any_port: Vec<Candidate>,
    /// The rules that never match.
    never: Vec<u32>,
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
    /// Of rules that are elsewhere now, if they still are, and of new ones at their places.
    pub(super) fn after(&self, places: &[Option<usize>], new: &[(usize, &CompiledRule)]) -> Self {
        let place = |position: u32| u32::try_from(places.get(position as usize).copied().flatten()?).ok();
        let moved = |candidate: &Candidate| Some(Candidate { position: place(candidate.position)?, ..*candidate });
        let mut never: Vec<u32> = self.never.iter().filter_map(|position| place(*position)).collect();
        let mut any_port: Vec<Candidate> = self.any_port.iter().filter_map(moved).collect();
        let mut bound: Vec<(u16, Candidate)> = Vec::with_capacity(self.by_port.len());
        for at in &self.at_port {
            let candidates = self.by_port.get(at.start as usize..at.end as usize).unwrap_or_default();
            bound.extend(candidates.iter().filter_map(|candidate| Some((at.port, moved(candidate)?))));
        }
        for (place, rule) in new {
            let Ok(position) = u32::try_from(*place) else { continue };
            if !rule.can_match() {
                never.push(position);
                continue;
            }
            let candidate = Candidate::new(position, rule);
            match few_ports(rule) {
                Some(ports) => bound.extend(ports.into_iter().map(|port| (port, candidate))),
                None => any_port.push(candidate),
            }
        }
        // What was there is sorted, and so is mostly what is new.
        any_port.sort_by_key(|candidate| candidate.position);
        bound.sort_by_key(|(port, candidate)| (*port, candidate.position));
        let mut at_port: Vec<AtPort> = Vec::new();
        for (end, (port, _)) in (1_u32..).zip(&bound) {
            match at_port.last_mut() {
                Some(last) if last.port == *port => last.end = end,
                _ => at_port.push(AtPort { port: *port, start: end - 1, end }),
            }
        }
        let by_port = bound.into_iter().map(|(_, candidate)| candidate).collect();
        Self { ports: Ports::new(&at_port), at_port, by_port, any_port, never }
    }

    /// Can any rule match on this port.
    #[inline]
    pub(super) fn has(&self, port: u16) -> bool {
        !self.any_port.is_empty() || self.ports.at(port).is_some()
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

    /// Positions of all rules that may match at this port, whoever the source.
    pub(super) fn positions(&self, port: u16) -> impl Iterator<Item = usize> {
        self.at_port(port).iter().chain(&self.any_port).map(|candidate| candidate.position as usize)
    }

    /// Positions, ascending, of all rules that fail in one comparison at most, whose entries are all of use: those that may match at this
    /// port, or for this source, or that never match.
    pub(super) fn near(&self, view: &View<'_>) -> Vec<usize> {
        let coarse = Coarse::of(view);
        let for_source = self.by_port.iter().filter(|candidate| candidate.may_match(coarse));
        let bound = for_source.map(|candidate| candidate.position as usize).chain(self.positions(view.port));
        let mut near: Vec<usize> = bound.chain(self.never.iter().map(|position| *position as usize)).collect();
        near.sort_unstable();
        near.dedup();
        near
    }

    #[inline]
    fn at_port(&self, port: u16) -> &[Candidate] {
        let at = self.ports.at(port).unwrap_or_default();
        self.by_port.get(at.start as usize..at.end as usize).unwrap_or_default()
    }
}

/// Where the candidates of one port are; never without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct AtPort {
    port: u16,
    start: u32,
    end: u32,
}

/// The ports that some rule is bound to: a table at most half full, walked from where the port's hash points to until a free place.
#[derive(Clone, Debug, Default)]
struct Ports {
    // INVARIANT: its length is a power of two, or it is empty; a place with `end == 0` is free, and one always is.
    places: Vec<AtPort>,
}

impl Ports {
    fn new(all: &[AtPort]) -> Self {
        let places = if all.is_empty() { 0 } else { (2 * all.len()).next_power_of_two() };
        let mut ports = Self { places: vec![AtPort::default(); places] };
        for one in all {
            let mut place = ports.start(one.port);
            while ports.places.get(place).is_some_and(|taken| taken.end != 0) {
                place = ports.after(place);
            }
            if let Some(free) = ports.places.get_mut(place) {
                *free = *one;
            }
        }
        ports
    }

    #[inline]
    fn at(&self, port: u16) -> Option<AtPort> {
        let mut place = self.start(port);
        loop {
            let found = self.places.get(place).filter(|found| found.end != 0)?;
            if found.port == port {
                return Some(*found);
            }
            place = self.after(place);
        }
    }

    #[inline]
    fn start(&self, port: u16) -> usize {
        // The golden ratio of 16 bits spreads neighbours, as ports mostly are; its high bits are the well mixed ones.
        let mixed = usize::from(port.wrapping_mul(0x9e37));
        (mixed * self.places.len()) >> 16
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        (place + 1) & self.places.len().wrapping_sub(1)
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
            Address::V4(v4) => Some(v4),
            Address::V6(_) => None,
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

#[cfg(test)]
mod tests {
    use super::{AtPort, Ports};

    #[test]
    fn a_port_is_found_among_any_number_of_others() {
        for step in [1, 2, 3, 7, 256, 4_099, 65_535] {
            for count in [0, 1, 2, 3, 100, 65_536_u32] {
                let all: Vec<AtPort> = (0_u16..=u16::MAX)
                    .step_by(step)
                    .zip(0..count)
                    .map(|(port, start)| AtPort { port, start, end: start + 1 })
                    .collect();
                let ports = Ports::new(&all);
                let mut wanted = all.iter().peekable();
                for port in 0..=u16::MAX {
                    let found = wanted.next_if(|next| next.port == port).copied();
                    assert_eq!(ports.at(port), found, "port {port} of {count} by {step}");
                }
            }
        }
    }
}
