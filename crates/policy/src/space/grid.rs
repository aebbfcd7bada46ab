//! The cut that verdict tables are made of: sources by ports, for one destination address. Ports are cut at every port that a rule or a
//! mode names, sources at every edge of an address block and at every address that carries an identity.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::address::{canonical, from_number, number};
use crate::compile::rule::CompiledRule;
use crate::matcher::Set;
use crate::mesh::WorkloadId;
use crate::snapshot::{Snapshot, WorkloadState};

/// The cells of one destination address: each source class with each port class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Disjoint, ascending, together all addresses of the family.
    pub sources: Vec<RangeInclusive<IpAddr>>,
    /// Disjoint, ascending, together all ports.
    pub ports: Vec<RangeInclusive<u16>>,
}

impl Snapshot {
    /// The cut for connections to a workload from sources of the family of `like`; `None` if the workload is not known.
    pub fn cut(&self, destination: &WorkloadId, like: IpAddr) -> Option<Cut> {
        let state = self.workload(destination)?;
        Some(Cut { sources: self.sources(state, canonical(like)), ports: ports(state) })
    }

    fn sources(&self, state: &WorkloadState, like: IpAddr) -> Vec<RangeInclusive<IpAddr>> {
        let last = number(last_address(like));
        let mut starts = BTreeSet::from([0]);
        let mut cut = |range: RangeInclusive<u128>| {
            starts.insert(*range.start());
            starts.extend(range.end().checked_add(1).filter(|next| *next <= last));
        };
        for set in rules(state).flat_map(CompiledRule::sets) {
            if let Set::Source(blocks) = set {
                blocks.intervals(like).into_iter().for_each(&mut cut);
            }
        }
        for address in self.attested.keys().filter(|address| address.is_ipv4() == like.is_ipv4()) {
            cut(number(*address)..=number(*address));
        }
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([last]);
        starts.iter().zip(ends).map(|(first, last)| from_number(*first, like)..=from_number(last, like)).collect()
    }
}

/// The port classes of a workload.
pub(crate) fn ports(state: &WorkloadState) -> Vec<RangeInclusive<u16>> {
    let mut named: BTreeSet<u16> = state.mtls.ports.keys().copied().collect();
    for set in rules(state).flat_map(CompiledRule::sets) {
        if let Set::Ports(ports) = set {
            named.extend(ports);
        }
    }
    port_classes(&named)
}

/// Each named port, and what lies between them.
pub(super) fn port_classes(named: &BTreeSet<u16>) -> Vec<RangeInclusive<u16>> {
    let mut classes = Vec::with_capacity(named.len() * 2 + 1);
    let mut next = Some(0_u16);
    for port in named.iter().copied() {
        if let Some(before) = port.checked_sub(1).filter(|before| next.is_some_and(|next| next <= *before)) {
            classes.push(next.unwrap_or_default()..=before);
        }
        classes.push(port..=port);
        next = port.checked_add(1);
    }
    classes.extend(next.map(|next| next..=u16::MAX));
    classes
}

/// The last address of the family.
pub(crate) fn last_address(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => from_number(u128::from(u32::MAX), like),
        IpAddr::V6(_) => from_number(u128::MAX, like),
    }
}

/// The rules that can change a verdict.
fn rules(state: &WorkloadState) -> impl Iterator<Item = &CompiledRule> {
    state.ruleset.enforced().flat_map(|stage| &stage.rules).filter_map(|at| at.rule()).filter(|rule| rule.can_match())
}
