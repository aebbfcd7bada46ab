//! One workload's rules as the verdict map of the kernel: (source address range × port range) → accept, reject or proxy.
//!
//! A rule is a product: what it asks of the source (address, identity) times what it asks of the port. The sources are swept in
//! ascending order; at each edge of an address block the rules that begin or cease to hold are counted in or out for each of their
//! port classes, and at each address of the mesh the rules that look at identities are judged for that identity alone. Rectangles stay
//! open while nothing changes. The cost grows with the edges and not with edges × rules.
//! Law: the verdict of every cell is that of `Snapshot::decide_at_syn`.

mod after;
mod bound;
mod paint;
mod product;
mod sweep;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::address::canonical;
use crate::mesh::WorkloadId;
use crate::snapshot::Snapshot;

pub use after::{differing_ports, table_after};
pub use bound::{Reckoning, entries_at_most};

/// Entries of one table. A kernel map of 10,000 entries loads in about 120 ms and each entry costs some hundred bytes of kernel memory:
/// beyond this a pod's start would be felt and a hundred pods would hold hundreds of megabytes.
pub const ENTRIES_PER_POD_MAX: usize = 16_384;

/// What the kernel does with the first SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Lets it pass.
    Accept,
    /// Resets.
    Reject,
    /// The verdict depends on bytes: hands it to a proxy; without one, resets.
    Proxy,
}

/// The verdicts for one destination address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictTable {
    /// For what no entry covers.
    pub fallback: Verdict,
    /// Disjoint; sorted by first port, then first source.
    pub entries: Vec<Entry>,
}

/// One rectangle of sources and ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Source addresses, all of the family of the destination address.
    pub sources: RangeInclusive<IpAddr>,
    /// Destination ports.
    pub ports: RangeInclusive<u16>,
    /// What happens.
    pub verdict: Verdict,
}

impl Entry {
    /// The same at other ports.
    fn at(&self, ports: RangeInclusive<u16>) -> Self {
        Self { ports, ..self.clone() }
    }
}

/// The table would be more than a pod may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// How many entries were counted before counting stopped.
    pub count: usize,
    /// Which bound was met.
    pub bound: Bound,
}

/// A bound on tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `ENTRIES_PER_POD_MAX`.
    Entries,
    /// The work of making the table: rules of many ports change at many addresses.
    Work,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, bound } = self;
        match bound {
            Bound::Entries => write!(
                f,
                "the policies of this workload need at least {count} table entries, at most {ENTRIES_PER_POD_MAX} are allowed"
            )?,
            Bound::Work => write!(
                f,
                "the policies of this workload combine too many ports with too many address blocks to be made into a table"
            )?,
        }
        f.write_str("; use fewer or larger address blocks and fewer ports")
    }
}

impl std::error::Error for TooLarge {}

impl VerdictTable {
    /// The verdict for a source and a port. Meant for tests and for single questions: it looks at every entry.
    pub fn verdict(&self, source: IpAddr, port: u16) -> Verdict {
        let source = canonical(source);
        let covers = |entry: &&Entry| entry.sources.contains(&source) && entry.ports.contains(&port);
        self.entries.iter().find(covers).map_or(self.fallback, |entry| entry.verdict)
    }

    /// The table of a workload outside the mesh: it guards nothing.
    pub fn open() -> Self {
        Self { fallback: Verdict::Accept, entries: Vec::new() }
    }

    /// The table that refuses everything.
    pub fn refusing() -> Self {
        Self { fallback: Verdict::Reject, entries: Vec::new() }
    }
}

/// The table of a workload for connections to this address of it. Connections to an unknown workload are all refused; a workload outside
/// the mesh has no policy.
pub fn table(snapshot: &Snapshot, destination: &WorkloadId, address: IpAddr) -> Result<VerdictTable, TooLarge> {
    let Some(state) = snapshot.workload(destination) else {
        return Ok(VerdictTable::refusing());
    };
    sweep::table(snapshot, state, canonical(address))
}
