//! The five dimensions of the cut for some terms: peers, source addresses, destination addresses, server names, ports; and what their
//! classes consist of.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::Bound;
use super::bits::Bits;
use super::glob::{Glob, Language};
use super::grid::{last_address, port_classes};
use super::identity::Identities;
use super::term::{Term, Who};
use super::tree::Dimension;
use crate::address::{canonical, from_number, number};
use crate::identity::{Peer, SpiffeId};
use crate::matcher::{Blocks, Names, Set};

/// Classes times terms: each pair is one question to a matcher, up to some hundred nanoseconds.
const QUESTIONS_MAX: usize = 10_000_000;

/// The addresses that no peer ever has (S-57).
const MAPPED: RangeInclusive<u128> = 0xffff_0000_0000..=0xffff_ffff_ffff;

pub(super) const PEERS: usize = 0;
pub(super) const SOURCES: usize = 1;
pub(super) const DESTINATIONS: usize = 2;
pub(super) const SERVER_NAMES: usize = 3;
pub(super) const PORTS: usize = 4;

/// All connections to one destination, cut.
#[derive(Debug)]
pub(super) struct Ground {
    /// In the order of the constants above.
    pub(super) dimensions: Vec<Dimension>,
    /// Class 0 of the peers is nobody; then come these; then, where it makes a difference, these again with a certificate.
    pub(super) identities: Identities,
    pub(super) sources: Vec<RangeInclusive<IpAddr>>,
    pub(super) destinations: Vec<RangeInclusive<IpAddr>>,
    /// The last class of the server names, after these, is none at all.
    pub(super) server_names: Language,
    pub(super) ports: Vec<RangeInclusive<u16>>,
}

/// What the cut is made for.
pub(super) struct Plot<'a> {
    pub(super) terms: &'a [Term<'a>],
    /// The addresses of the destination; none if they are not known.
    pub(super) destinations: BTreeSet<IpAddr>,
    /// A trust domain, a namespace and a service account for examples.
    pub(super) preferred: [&'a str; 3],
    /// Is the kernel's word less than a certificate somewhere.
    pub(super) proofs_differ: bool,
}

impl Ground {
    pub(super) fn new(plot: &Plot<'_>) -> Result<Self, Bound> {
        let terms = plot.terms;
        let mut seen = BTreeSet::new();
        let sets: Vec<&Set> =
            terms.iter().flat_map(Term::sets).filter(|set| seen.insert(std::ptr::from_ref(*set))).collect();
        let identities = {
            let about_peers: Vec<&Set> = sets.iter().copied().filter(|set| set.is_identity()).collect();
            Identities::new(&about_peers, plot.preferred)?
        };
        let sources = addresses(&sets, |set| if let Set::Source(blocks) = set { Some(blocks) } else { None });
        let destinations = if plot.destinations.is_empty() {
            addresses(&sets, |set| if let Set::Destination(blocks) = set { Some(blocks) } else { None })
        } else {
            let canonical: BTreeSet<IpAddr> = plot.destinations.iter().map(|address| canonical(*address)).collect();
            canonical.into_iter().map(|address| address..=address).collect()
        };
        let server_names = Language::new(server_name_globs(&sets), None)?;
        let mut named: BTreeSet<u16> = terms.iter().flat_map(Term::mode_ports).collect();
        named.extend(sets.iter().flat_map(|set| if let Set::Ports(ports) = set { ports.as_slice() } else { &[] }));
        let ports = port_classes(&named);
        let classes =
            identities.classes.len() + sources.len() + destinations.len() + server_names.classes.len() + ports.len();
        if classes.saturating_mul(terms.len()) > QUESTIONS_MAX {
            return Err(Bound::Cells);
        }
        let mut ground = Self { dimensions: Vec::new(), identities, sources, destinations, server_names, ports };
        ground.dimensions = ground.cut(terms, plot.proofs_differ);
        Ok(ground)
    }

    fn cut(&self, terms: &[Term<'_>], proofs_differ: bool) -> Vec<Dimension> {
        let ids: Vec<Names<'_>> = self.identities.classes.iter().map(|class| Names::One(&class.example)).collect();
        let attested = ids.iter().map(|names| Who { names: *names, verified: false });
        let verified = ids.iter().map(|names| Who { names: *names, verified: true });
        let nobody = Who { names: Names::None, verified: false };
        let peers =
            std::iter::once(nobody).chain(attested).chain(verified.take(if proofs_differ { ids.len() } else { 0 }));
        let first = |range: &RangeInclusive<IpAddr>| *range.start();
        let names = self.server_names.classes.iter().map(|class| class.example.as_str()).chain([""]);
        vec![
            dimension(terms, peers, Term::holds_for),
            dimension(terms, self.sources.iter().map(first), Term::holds_from),
            dimension(terms, self.destinations.iter().map(first), Term::holds_to),
            dimension(terms, names, Term::holds_with),
            dimension(terms, self.ports.iter().map(|range| *range.start()), Term::holds_at),
        ]
    }

    /// The peer of a class.
    pub(super) fn peer(&self, class: usize) -> Option<Peer> {
        let Some(class) = class.checked_sub(1) else { return Some(Peer::Anonymous) };
        let all = self.identities.classes.len();
        let id = |at: usize| self.identities.classes.get(at).map(|class| class.example.clone());
        match class.checked_sub(all) {
            None => id(class).map(Peer::Attested),
            Some(verified) => id(verified).map(|id| Peer::verified(id.uri())),
        }
    }

    /// The class of an identity that the kernel attests.
    pub(super) fn attested(&self, id: &SpiffeId) -> Option<usize> {
        self.identities.class_of(id).map(|class| class + 1)
    }

    /// Is the kernel's word a class of its own.
    pub(super) fn has_verified(&self) -> bool {
        let peers: usize =
            self.dimensions.get(PEERS).map_or(0, |dimension| dimension.members.iter().map(Vec::len).sum());
        peers > self.identities.classes.len() + 1
    }
}

fn dimension<'t, T: Copy>(
    terms: &[Term<'t>],
    classes: impl Iterator<Item = T>,
    holds: impl Fn(&Term<'t>, T) -> bool,
) -> Dimension {
    let vector = |class: T| {
        Bits::of(terms.len(), terms.iter().enumerate().filter(|(_, term)| holds(term, class)).map(|(at, _)| at))
    };
    Dimension::new(classes.map(vector), terms.len())
}

/// Both families, cut at every edge of these blocks.
fn addresses<'s>(sets: &[&'s Set], blocks: impl Fn(&'s Set) -> Option<&'s Blocks>) -> Vec<RangeInclusive<IpAddr>> {
    let mut classes = Vec::new();
    for like in [IpAddr::from([0; 4]), IpAddr::from([0_u8; 16])] {
        let last = number(last_address(like));
        let mut starts = BTreeSet::from([0]);
        let mut cut = |range: &RangeInclusive<u128>| {
            starts.insert(*range.start());
            starts.extend(range.end().checked_add(1).filter(|next| *next <= last));
        };
        for blocks in sets.iter().copied().filter_map(&blocks) {
            blocks.intervals(like).iter().for_each(&mut cut);
        }
        if like.is_ipv6() {
            cut(&MAPPED);
        }
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([last]);
        let real = starts.iter().zip(ends).filter(|(start, _)| like.is_ipv4() || !MAPPED.contains(start));
        classes.extend(real.map(|(first, last)| from_number(*first, like)..=from_number(last, like)));
    }
    classes
}

/// Adjacent ranges as one, also across the addresses that nobody has.
pub(super) fn joined_addresses(ranges: impl Iterator<Item = RangeInclusive<IpAddr>>) -> Vec<RangeInclusive<IpAddr>> {
    let mut joined: Vec<RangeInclusive<IpAddr>> = Vec::new();
    for range in ranges {
        let next = number(*range.start());
        let continues = joined.last().is_some_and(|before| {
            let end = number(*before.end());
            let is_hole = end.checked_add(1) == Some(*MAPPED.start()) && next == *MAPPED.end() + 1;
            before.start().is_ipv4() == range.start().is_ipv4() && (end.checked_add(1) == Some(next) || is_hole)
        });
        match joined.last_mut() {
            Some(before) if continues => *before = *before.start()..=*range.end(),
            _ => joined.push(range),
        }
    }
    joined
}

fn server_name_globs(sets: &[&Set]) -> Vec<Glob> {
    let mut globs: Vec<Glob> = Vec::new();
    for set in sets {
        if let Set::ServerName(texts) = set {
            globs.extend(texts.pieces().into_iter().map(Glob::new));
        }
    }
    globs.sort();
    globs.dedup();
    globs
}
