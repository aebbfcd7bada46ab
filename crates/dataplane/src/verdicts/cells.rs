//! The verdict table as the kernel can hold it: accept or deny, per address family, in an order that can be compared.

use std::net::IpAddr;
use std::sync::Arc;

use linux::nft::{Element, Verdict as Jump};
use policy::table::{Verdict, VerdictTable};

/// Chain of connections that are accepted.
pub(super) const ALLOW: &str = "allow";
/// Chain of connections that are refused.
pub(super) const DENY: &str = "deny";

/// What the kernel does with a connection. There is no third: what would need a proxy is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// A rectangle of source addresses and ports with one outcome. Ordered as the entries of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    first: u16,
    low: IpAddr,
    last: u16,
    high: IpAddr,
    goes: Goes,
}

impl Cell {
    fn holds(&self, source: IpAddr, port: u16) -> bool {
        (self.low..=self.high).contains(&source) && (self.first..=self.last).contains(&port)
    }

    /// One address and one port.
    pub(super) fn is_single(&self) -> bool {
        self.low == self.high && self.first == self.last
    }

    /// The element of the family's map of single cells, or of its map of ranges; both ends are of that family by construction.
    pub(super) fn element(&self) -> Option<Element> {
        let (addresses, ports) = (self.low..=self.high, self.first..=self.last);
        let element = if self.is_single() {
            Some(Element::address_and_port(self.low, self.first))
        } else {
            Element::addresses_and_ports(&addresses, &ports)
        };
        element.map(|element| element.with(Jump::goto(self.goes.chain())))
    }
}

/// The table of one address of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Half {
    table: Arc<VerdictTable>,
    /// How many cells: asked at every write, of every pod.
    count: usize,
}

impl Half {
    /// Refuses everything.
    pub(crate) fn closed() -> Self {
        Self::of(VerdictTable::refusing())
    }

    pub(crate) fn of(table: VerdictTable) -> Self {
        let mut half = Self { table: Arc::new(table), count: 0 };
        half.count = half.cells().count();
        half
    }

    /// How many cells it has.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What it was made of.
    pub(crate) fn table(&self) -> &VerdictTable {
        &self.table
    }

    /// For what no cell holds.
    pub(crate) fn fallback(&self) -> Goes {
        goes(self.table.fallback)
    }

    /// Disjoint, ascending; those that say what the fallback says are left out.
    pub(crate) fn cells(&self) -> impl Iterator<Item = Cell> {
        let fallback = self.fallback();
        self.table.entries.iter().filter(move |entry| goes(entry.verdict) != fallback).map(|entry| {
            let (low, high) = entry.sources.clone().into_inner();
            let (first, last) = entry.ports.clone().into_inner();
            Cell { first, low, last, high, goes: goes(entry.verdict) }
        })
    }

    /// Whether it does the same with every connection, in the same cells.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.fallback() == other.fallback() && self.cells().eq(other.cells())
    }

    /// The cells that are in only one of two: those of this one, and those of the other.
    pub(crate) fn difference(&self, other: &Self) -> (Vec<Cell>, Vec<Cell>) {
        let (mut out, mut into) = (Vec::new(), Vec::new());
        let (mut old, mut new) = (self.cells().peekable(), other.cells().peekable());
        while let (Some(one), Some(two)) = (old.peek(), new.peek()) {
            let order = one.cmp(two);
            let (gone, come) = (old.next_if(|_| order.is_le()), new.next_if(|_| order.is_ge()));
            if order.is_ne() {
                out.extend(gone);
                into.extend(come);
            }
        }
        out.extend(old);
        into.extend(new);
        (out, into)
    }

    /// What the kernel does with a connection from there to this port.
    pub(crate) fn goes(&self, source: IpAddr, port: u16) -> Goes {
        self.cells().find(|cell| cell.holds(source, port)).map_or_else(|| self.fallback(), |cell| cell.goes)
    }
}

/// A cell that needs bytes is refused: there is no path yet on which they would be seen.
fn goes(verdict: Verdict) -> Goes {
    match verdict {
        Verdict::Accept => Goes::Allow,
        Verdict::Reject | Verdict::Proxy => Goes::Deny,
    }
}
