//! The verdict table as the kernel can hold it: accept or deny, per address family, in an order that can be compared.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use linux::nft::{Element, Verdict as Jump};
use policy::table::{Verdict, VerdictTable};

/// Chain of connections that are accepted.
pub(super) const ALLOW: &str = "allow";
/// Chain of connections that are refused.
pub(super) const DENY: &str = "deny";

/// What the kernel does with a connection. There is no third: what would need a proxy is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Goes {
    Allow,
    Deny,
}

impl Goes {
    pub(super) fn chain(self) -> &'static str {
        match self {
            Self::Allow => ALLOW,
            Self::Deny => DENY,
        }
    }
}

/// A rectangle of source addresses and ports with one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cell {
    low: IpAddr,
    high: IpAddr,
    first: u16,
    last: u16,
    goes: Goes,
}

impl Cell {
    fn holds(&self, source: IpAddr, port: u16) -> bool {
        (self.low..=self.high).contains(&source) && (self.first..=self.last).contains(&port)
    }

    /// The element of the family's map; both ends are of that family by construction.
    pub(super) fn element(&self) -> Option<Element> {
        Element::addresses_and_ports(&(self.low..=self.high), &(self.first..=self.last))
            .map(|element| element.with(Jump::goto(self.goes.chain())))
    }
}

/// The table of one address of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Half {
    /// For what no cell holds.
    pub(crate) fallback: Goes,
    /// Disjoint; those that say what the fallback says are left out.
    pub(crate) cells: BTreeSet<Cell>,
}

impl Half {
    /// Refuses everything.
    pub(crate) fn closed() -> Self {
        Self { fallback: Goes::Deny, cells: BTreeSet::new() }
    }

    /// The part of a table for IPv4 or for IPv6 sources.
    pub(crate) fn of(table: &VerdictTable, ipv6: bool) -> Self {
        let fallback = goes(table.fallback);
        let cells = table
            .entries
            .iter()
            .filter(|entry| goes(entry.verdict) != fallback)
            .filter_map(|entry| {
                let (low, high) = in_family(&entry.sources, ipv6)?;
                let (first, last) = entry.ports.clone().into_inner();
                Some(Cell { low, high, first, last, goes: goes(entry.verdict) })
            })
            .collect();
        Self { fallback, cells }
    }

    /// What the kernel does with a connection from there to this port.
    pub(crate) fn goes(&self, source: IpAddr, port: u16) -> Goes {
        self.cells.iter().find(|cell| cell.holds(source, port)).map_or(self.fallback, |cell| cell.goes)
    }
}

/// A cell that needs bytes is refused: there is no path yet on which they would be seen.
fn goes(verdict: Verdict) -> Goes {
    match verdict {
        Verdict::Accept => Goes::Allow,
        Verdict::Reject | Verdict::Proxy => Goes::Deny,
    }
}

/// Cuts a range of addresses to one family. The order of addresses puts all of IPv4 before all of IPv6.
fn in_family(sources: &RangeInclusive<IpAddr>, ipv6: bool) -> Option<(IpAddr, IpAddr)> {
    let (low, high) = (*sources.start(), *sources.end());
    let bounds = if ipv6 {
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)))
    } else {
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST))
    };
    let (low, high) = (low.max(bounds.0), high.min(bounds.1));
    (low <= high).then_some((low, high))
}
