//! Products of classes as regions: in words, as ranges, and by a witness that looks like a connection of this mesh.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::bits::Bits;
use super::glob::Language;
use super::ground::{DESTINATIONS, Ground, PEERS, PORTS, SERVER_NAMES, SOURCES, joined_addresses};
use super::tree::{Cell, joined};
use super::words::listed;
use super::{NameClass, PeerClass, Region};
use crate::address::canonical;
use crate::decide::{Answer, Connection};
use crate::identity::{Peer, SpiffeId};
use crate::snapshot::Snapshot;

/// Workloads of the mesh that are tried as witnesses: enough to find one that fits, few enough to be tried for each region.
const KNOWN_MAX: usize = 1_000;

/// Hosts of the networks for examples (RFC 5737, RFC 3849).
const SOURCE_HOST: u8 = 1;
const DESTINATION_HOST: u8 = 2;

/// Identities of workloads with their addresses, looked up when the first witness is wanted.
pub(super) struct Known<'a> {
    snapshots: Vec<&'a Snapshot>,
    found: OnceCell<BTreeMap<SpiffeId, BTreeSet<IpAddr>>>,
}

impl<'a> Known<'a> {
    pub(super) fn new(snapshots: Vec<&'a Snapshot>) -> Self {
        Self { snapshots, found: OnceCell::new() }
    }

    fn identities(&self) -> &BTreeMap<SpiffeId, BTreeSet<IpAddr>> {
        self.found.get_or_init(|| {
            let mut found: BTreeMap<SpiffeId, BTreeSet<IpAddr>> = BTreeMap::new();
            for state in self.snapshots.iter().flat_map(|snapshot| snapshot.workloads()) {
                let Some(id) = state.identity() else { continue };
                let addresses = state.workload.addresses.iter().map(|address| canonical(*address));
                found.entry(id.clone()).or_default().extend(addresses);
            }
            found
        })
    }
}

/// A workload's identity with its addresses and its class.
type Ours<'a> = (&'a SpiffeId, &'a BTreeSet<IpAddr>, usize);

/// The answers that authorizers give for a witness.
pub(super) type Answers = Vec<(String, Answer)>;

/// Products as regions, as few as can be without much ado.
pub(super) fn regions(ground: &Ground, known: &Known<'_>, cells: Vec<Cell>, answers: &Answers) -> Vec<Region> {
    let ours = known.identities().iter().take(KNOWN_MAX);
    let ours: Vec<Ours<'_>> = ours.filter_map(|(id, addresses)| Some((id, addresses, ground.attested(id)?))).collect();
    let mut regions: Vec<Region> =
        joined(cells).iter().filter_map(|cell| region(ground, &ours, cell, answers)).collect();
    regions.sort_by_cached_key(|region| (region.ports.first().map(|range| *range.start()), region.peers.words.clone()));
    regions
}

fn region(ground: &Ground, ours: &[Ours<'_>], cell: &Cell, answers: &Answers) -> Option<Region> {
    let classes = |at: usize| Some(ground.dimensions.get(at)?.classes(cell.get(at)?));
    let ranges = |all: &[RangeInclusive<IpAddr>], at: usize| {
        Some(joined_addresses(classes(at)?.iter().filter_map(|class| all.get(*class)).cloned()))
    };
    let is_whole = |at: usize| Some(*cell.get(at)? == ground.dimensions.get(at)?.all());
    let peers = classes(PEERS)?;
    let sources = ranges(&ground.sources, SOURCES)?;
    let destinations = ranges(&ground.destinations, DESTINATIONS)?;
    let ports = joined_ports(classes(PORTS)?.iter().filter_map(|class| ground.ports.get(*class).cloned()));
    let server_names = server_names(ground, &classes(SERVER_NAMES)?);
    let (representative, source) = witness_source(ground, ours, &peers, &sources)?;
    let destination = witness_destination(&destinations, source)?;
    let port = ports.iter().map(|range| (*range.start()).max(1).min(*range.end())).find(|port| *port > 0).unwrap_or(0);
    let witness = Connection {
        source,
        peer: representative.clone(),
        destination,
        port,
        sni: server_names.representative.clone(),
        answers: answers.clone(),
    };
    let answering =
        |wanted: Answer| answers.iter().filter(|(_, answer)| *answer == wanted).map(|(name, _)| name.clone()).collect();
    let words = if is_whole(PEERS)? { "everyone".to_owned() } else { peers_in_words(ground, &peers) };
    Some(Region {
        peers: PeerClass { words, representative },
        sources,
        destinations: if is_whole(DESTINATIONS)? { Vec::new() } else { destinations },
        ports,
        server_names,
        allowed_by: answering(Answer::Allow),
        refused_by: answering(Answer::Deny),
        witness,
    })
}

fn joined_ports(ranges: impl Iterator<Item = RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    let mut joined: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(before) if before.end().checked_add(1) == Some(*range.start()) => {
                *before = *before.start()..=*range.end();
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// A workload of the mesh at its own address, if there is one; otherwise nobody; otherwise anyone.
fn witness_source(
    ground: &Ground,
    ours: &[Ours<'_>],
    peers: &[usize],
    sources: &[RangeInclusive<IpAddr>],
) -> Option<(Peer, IpAddr)> {
    let within = |address: &IpAddr| sources.iter().any(|range| range.contains(address));
    let mut without_address = None;
    for &(id, addresses, _) in ours.iter().filter(|(_, _, class)| peers.binary_search(class).is_ok()) {
        match addresses.iter().copied().find(within) {
            Some(address) => return Some((Peer::Attested(id.clone()), address)),
            None if without_address.is_none() => without_address = Some(id),
            None => {}
        }
    }
    let peer = match (without_address, peers.first()) {
        (Some(id), _) => Peer::Attested(id.clone()),
        (None, Some(first)) => ground.peer(*first)?,
        (None, None) => return None,
    };
    Some((peer, example_address(sources, SOURCE_HOST, None)?))
}

fn witness_destination(destinations: &[RangeInclusive<IpAddr>], source: IpAddr) -> Option<IpAddr> {
    let same_family: Vec<RangeInclusive<IpAddr>> =
        destinations.iter().filter(|range| range.start().is_ipv4() == source.is_ipv4()).cloned().collect();
    let usable = if same_family.is_empty() { destinations } else { &same_family };
    example_address(usable, DESTINATION_HOST, Some(source))
}

/// An address that is plainly an example, or the first one.
fn example_address(ranges: &[RangeInclusive<IpAddr>], host: u8, like: Option<IpAddr>) -> Option<IpAddr> {
    let v4 = IpAddr::from([192, 0, 2, host]);
    let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)]);
    let both = if like.is_some_and(|like| like.is_ipv6()) { [v6, v4] } else { [v4, v6] };
    let nice = both.into_iter().find(|address| ranges.iter().any(|range| range.contains(address)));
    nice.or_else(|| ranges.first().map(|range| *range.start()))
}

fn peers_in_words(ground: &Ground, peers: &[usize]) -> String {
    let all = ground.identities.classes.len();
    let split = |peers: &mut dyn Iterator<Item = usize>| {
        let mut parts = (false, Vec::new(), Vec::new());
        for class in peers {
            match (class.checked_sub(1), class.checked_sub(1 + all)) {
                (None, _) => parts.0 = true,
                (Some(class), None) => parts.1.push(class),
                (Some(_), Some(class)) => parts.2.push(class),
            }
        }
        parts
    };
    let (nobody, attested, verified) = split(&mut peers.iter().copied());
    let whole = |words: &mut Vec<String>, classes: &[usize], suffix: &str| {
        words.extend(identities_in_words(ground, classes).into_iter().map(|one| format!("{one}{suffix}")));
    };
    let mut words = Vec::new();
    if nobody {
        words.push("clients without identity".to_owned());
    }
    if !ground.has_verified() || attested == verified {
        let but: Vec<usize> = (0..all).filter(|class| !attested.contains(class)).collect();
        let (these, others) = (identities_in_words(ground, &attested), identities_in_words(ground, &but));
        if nobody && !but.is_empty() && others.len() <= these.len() {
            return format!("everyone but {}", listed(&others));
        }
        if !nobody && !but.is_empty() && others.len() < these.len() {
            return format!("any identity but {}", listed(&others));
        }
        words.extend(these);
    } else {
        whole(&mut words, &attested, " by the kernel's word");
        whole(&mut words, &verified, " by certificate");
    }
    listed(&words)
}

/// The identities of these classes, product by product.
fn identities_in_words(ground: &Ground, classes: &[usize]) -> Vec<String> {
    let found = classes.iter().filter_map(|class| ground.identities.classes.get(*class));
    let boxes = joined(found.flat_map(|class| class.boxes.iter().cloned()).collect());
    let [domains, namespaces, accounts] = &ground.identities.names;
    let mut words: Vec<String> = boxes
        .iter()
        .filter_map(|cell| {
            let [domain, namespace, account] = cell.as_slice() else { return None };
            Some(product_in_words(names(domains, domain), names(namespaces, namespace), names(accounts, account)))
        })
        .collect();
    words.sort();
    words
}

fn product_in_words(domain: Option<Named>, namespace: Option<Named>, account: Option<Named>) -> String {
    match (domain, namespace, account) {
        (None, None, None) => "any identity".to_owned(),
        (Some(Named::Only(domain)), Some(Named::Only(namespace)), Some(Named::Only(account))) => {
            format!("identity {domain}/ns/{namespace}/sa/{account}")
        }
        (domain, Some(Named::Only(namespace)), Some(Named::Only(account))) => {
            format!("service account {namespace}/{account}{}", of("trust domain", domain.as_ref()))
        }
        (domain, namespace, account) => {
            let account = account.map(|account| format!(" with {}", account.after("service account")));
            format!(
                "any workload{}{}{}",
                of("namespace", namespace.as_ref()),
                account.unwrap_or_default(),
                of("trust domain", domain.as_ref())
            )
        }
    }
}

fn of(noun: &str, named: Option<&Named>) -> String {
    named.map(|named| format!(" of {}", named.after(noun))).unwrap_or_default()
}

/// Some names of a language.
enum Named {
    Only(String),
    These(Vec<String>),
    AllBut(Vec<String>),
    /// What a pattern matches, but for these.
    Like(String, Vec<String>),
    Unlike(String),
    /// Nothing simple: examples.
    Among(Vec<String>),
}

impl Named {
    fn after(&self, noun: &str) -> String {
        match self {
            Self::Only(name) => format!("{noun} {name}"),
            Self::These(names) => format!("{noun}s {}", listed(names)),
            Self::AllBut(names) => format!("any {noun} but {}", listed(names)),
            Self::Like(pattern, but) if but.is_empty() => format!("{noun}s `{pattern}`"),
            Self::Like(pattern, but) => format!("{noun}s `{pattern}` but {}", listed(but)),
            Self::Unlike(pattern) => format!("any {noun} but `{pattern}`"),
            Self::Among(names) => format!("{noun}s such as {}", listed(names)),
        }
    }
}

/// `None` if it is all of them.
fn names(language: &Language, classes: &Bits) -> Option<Named> {
    let all = Bits::all(language.classes.len());
    let others = all.without(classes);
    if others.is_none() {
        return None;
    }
    let examples = |classes: &Bits| {
        let mut examples: Vec<String> =
            classes.iter().filter_map(|at| language.classes.get(at)).map(|class| class.example.clone()).collect();
        examples.sort();
        examples
    };
    let is_listed = |classes: &Bits| classes.iter().all(|class| language.is_single(class));
    if is_listed(classes) {
        let mut these = examples(classes);
        return Some(if these.len() == 1 { Named::Only(these.remove(0)) } else { Named::These(these) });
    }
    if is_listed(&others) {
        return Some(Named::AllBut(examples(&others)));
    }
    for (at, glob) in language.globs.iter().enumerate() {
        let matching = language.classes.iter().enumerate().filter(|(_, class)| class.accepts.has(at)).map(|(at, _)| at);
        let matching = Bits::of(language.classes.len(), matching);
        let but = matching.without(classes);
        if classes.without(&matching).is_none() && is_listed(&but) {
            return Some(Named::Like(glob.text(), examples(&but)));
        }
        if matching == others {
            return Some(Named::Unlike(glob.text()));
        }
    }
    Some(Named::Among(examples(classes)))
}

fn server_names(ground: &Ground, classes: &[usize]) -> NameClass {
    let count = ground.server_names.classes.len();
    let some = Bits::of(count, classes.iter().copied().filter(|class| *class < count));
    let without = classes.contains(&count);
    let representative = if without { None } else { ground.server_names.example(&some).map(str::to_owned) };
    let words = match (names(&ground.server_names, &some), without) {
        (None, true) => String::new(),
        (None, false) => "with any server name".to_owned(),
        (Some(_), true) if some.is_none() => "without server name".to_owned(),
        (Some(named), true) => format!("without server name or with {}", named.after("server name")),
        (Some(named), false) => format!("with {}", named.after("server name")),
    };
    NameClass { words, representative }
}
