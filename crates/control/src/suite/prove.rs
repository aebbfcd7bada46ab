//! Assertions: sentences about every connection, proved or refuted by the exact cut (`policy::space`). What depends on HTTP is
//! never proved: for ports that may carry it the policies are also read as the requests would have it that suit the sentence
//! worst.

mod http;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use policy::port::{Carries, class_of};
use policy::space::{self, Among, Destination, Proof, Region, Wanted};
use policy::spec::{Attribute, Entry, Match, Rule, Value, Values};
use policy::{Mesh, Snapshot, Workload, WorkloadId, carries};

use super::judge::{Judgement, Result, World};
use super::{Assertion, Client, Expect, Target, words};
use crate::diff::{connection_in_words, region_in_words};

type Answer<T> = std::result::Result<T, String>;

/// Regions told of an assertion that does not hold: the first is enough to see the fault, some more show how far it goes.
const REGIONS_TOLD_MAX: usize = 5;

/// What an assertion is asked about: a workload, or all workloads that there might be of a kind.
struct Place {
    id: WorkloadId,
    words: String,
    /// Ports that Services declare to be TCP.
    tcp_ports: BTreeSet<u16>,
}

/// What was found, over all places.
#[derive(Default)]
struct Found {
    cells: usize,
    /// Places at which some connection was looked at.
    looked_at: usize,
    refuted: Vec<String>,
    unknown: Vec<String>,
}

/// Proves or refutes.
pub(super) fn assertion(assertion: &Assertion, world: World<'_>) -> Answer<Judgement> {
    let from = from(assertion, world)?;
    let asker = world.asker;
    let settings = &asker.mesh().settings;
    let among = |ports: &[RangeInclusive<u16>]| {
        let rule = Rule { from: from.clone(), to: on(ports), when: Vec::new() };
        Among::new(&rule, world.namespace, settings)
            .map_err(|field| format!("`{field}` means nothing in the {} profile", settings.profile.word()))
    };
    let ports = asked_ports(assertion);
    let of_tcp = among(&ports)?;
    let (mesh, places) = places(assertion, world)?;
    // Workloads that there might be stand beside those that there are.
    let extended = mesh.as_ref().map(|mesh| policy::compile(mesh, 1, None));
    let snapshot = extended.as_ref().unwrap_or_else(|| asker.snapshot());
    let worst = http::worst(mesh.as_ref().unwrap_or_else(|| asker.mesh()), assertion.expect);
    let worst = worst.map(|mesh| policy::compile(&mesh, 1, None));
    let mut found = Found::default();
    let wanted = if assertion.expect == Expect::Allow { Wanted::Denied } else { Wanted::Permitted };
    for place in places.iter().filter(|_| !ports.is_empty()) {
        found.of_tcp(place, snapshot, wanted, &of_tcp);
        if let Some(worst) = &worst {
            let ports = without(&ports, &place.tcp_ports);
            if !ports.is_empty() {
                found.of_http(place, worst, wanted, &among(&ports)?);
            }
        }
    }
    Ok(found.judgement(places.len()))
}

impl Found {
    fn of_tcp(&mut self, place: &Place, snapshot: &Snapshot, wanted: Wanted, among: &Among) {
        match space::search(snapshot, &place.id, wanted, among) {
            Proof::Proved { cells } => {
                self.cells += cells;
                self.looked_at += 1;
            }
            Proof::Vacuous => {}
            Proof::Inconclusive(bound) => self.unknown.push(format!("{}: {bound}", place.words)),
            Proof::Refuted(regions) => {
                self.looked_at += 1;
                self.refuted.extend(regions.iter().map(|region| witness(place, snapshot, region)));
            }
        }
    }

    /// On ports that may carry HTTP, with whatever the requests are.
    fn of_http(&mut self, place: &Place, worst: &Snapshot, wanted: Wanted, among: &Among) {
        match space::search(worst, &place.id, wanted, among) {
            Proof::Proved { .. } | Proof::Vacuous => {}
            Proof::Inconclusive(bound) => self.unknown.push(format!("{}: {bound}", place.words)),
            Proof::Refuted(regions) => self.unknown.extend(regions.iter().map(|region| {
                let words = region_in_words(region, &place.words, &region.ports);
                format!(
                    "{words}: depends on HTTP, which the port may carry; a Service that names it `tcp-..` settles it"
                )
            })),
        }
    }

    fn judgement(mut self, places: usize) -> Judgement {
        let more = |told: &mut Vec<String>| {
            let left = told.len().saturating_sub(REGIONS_TOLD_MAX);
            told.truncate(REGIONS_TOLD_MAX);
            told.extend((left > 0).then(|| format!("and {left} more")));
        };
        more(&mut self.refuted);
        more(&mut self.unknown);
        let (result, said) = if !self.refuted.is_empty() {
            (Result::Failed, self.refuted)
        } else if !self.unknown.is_empty() {
            (Result::Inconclusive, self.unknown)
        } else if self.looked_at == 0 {
            let what = "no connection is as it says: it holds of nothing at all";
            (Result::Failed, vec![what.to_owned()])
        } else {
            let what = format!("proved for every connection: cells {}, destinations {places}", self.cells);
            (Result::Passed, vec![what])
        };
        Judgement { result, said, touched: BTreeSet::new() }
    }
}

/// The region in words, and a connection of it, decided again.
fn witness(place: &Place, snapshot: &Snapshot, region: &Region) -> String {
    let outcome = snapshot.explain(&place.id, &region.witness).outcome();
    let verdict = if outcome.permitted { "allowed" } else { "denied" };
    let words = region_in_words(region, &place.words, &region.ports);
    let shown = connection_in_words(&region.witness);
    format!("{words}: {verdict}; for instance {shown}: {}", outcome.because())
}

/// The operation of a policy rule on these ports; none for every port. The port by port list is the shorter one of those that are
/// meant and those that are not: a search is told of each.
fn on(ports: &[RangeInclusive<u16>]) -> Vec<Entry> {
    let others = ports.iter().fold(vec![0..=u16::MAX], |left, range| cut(&left, range));
    let count = |ranges: &[RangeInclusive<u16>]| ranges.iter().map(|range| range.clone().count()).sum::<usize>();
    let values = |ranges: &[RangeInclusive<u16>]| {
        let each = ranges.iter().cloned().flatten();
        Values::new(each.map(|port| Value::Port(port, Arc::from(port.to_string()))).collect())
    };
    let (wanted, unwanted) =
        if count(ports) <= count(&others) { (values(ports), None) } else { (None, values(&others)) };
    if wanted.is_none() && unwanted.is_none() {
        return Vec::new();
    }
    vec![Entry { matches: vec![Match { attribute: Attribute::Port, written: Arc::from("ports"), wanted, unwanted }] }]
}

/// The clients as the sources of a policy rule: one of `from`, and none of `notFrom`.
fn from(assertion: &Assertion, world: World<'_>) -> Answer<Vec<Entry>> {
    let mut not = Vec::new();
    for client in &assertion.not_from {
        not.extend(matches(client, true, world)?);
    }
    let mut entries = Vec::new();
    for client in &assertion.from {
        for one in matches(client, false, world)? {
            entries.push(Entry { matches: std::iter::once(one).chain(not.iter().cloned()).collect() });
        }
    }
    if entries.is_empty() && !not.is_empty() {
        entries.push(Entry { matches: not });
    }
    Ok(entries)
}

/// A client as fields of a source: one of them for a client that is meant, all of them for one that is not.
fn matches(client: &Client, not: bool, world: World<'_>) -> Answer<Vec<Match>> {
    let text = |text: &str| Value::Text(Arc::from(text));
    let one = |attribute, written: &str, value, not: bool| {
        let values = Values::new(vec![value]);
        let (wanted, unwanted) = if not { (None, values) } else { (values, None) };
        vec![Match { attribute, written: Arc::from(written), wanted, unwanted }]
    };
    Ok(match client {
        Client::Namespace(name) => one(Attribute::Namespace, "namespaces", text(name), not),
        Client::ServiceAccount(namespace, name) => {
            one(Attribute::ServiceAccount, "serviceAccounts", text(&format!("{namespace}/{name}")), not)
        }
        Client::Identity(id) => one(Attribute::Principal, "principals", text(id.principal()), not),
        Client::Addresses(block, written) => {
            one(Attribute::SourceIp, "ipBlocks", Value::Block(*block, Arc::from(written.as_str())), not)
        }
        Client::Anybody => one(Attribute::Principal, "principals", text("*"), not),
        Client::Nobody => one(Attribute::Principal, "principals", text("*"), !not),
        Client::Workload(name) => {
            let mut found = Vec::new();
            for id in world.workloads(name)? {
                let state = world.asker.snapshot().workload(&id);
                let identity = state.and_then(|state| state.identity()).ok_or_else(|| {
                    format!("workload {id} is not in the mesh and has no identity: name its addresses (`ipBlock`)")
                })?;
                found.extend(one(Attribute::Principal, "principals", text(identity.principal()), not));
            }
            found
        }
    })
}

/// The destinations, and the mesh with those of them that are not in it; none if all are.
fn places(assertion: &Assertion, world: World<'_>) -> Answer<(Option<Mesh>, Vec<Place>)> {
    let mesh = world.asker.mesh();
    let everywhere = [Target::Labelled { namespace: None, labels: policy::Labels::new() }];
    let targets = if assertion.to.is_empty() { &everywhere } else { assertion.to.as_slice() };
    let mut named: BTreeSet<WorkloadId> = BTreeSet::new();
    let mut imagined: Vec<(String, Workload)> = Vec::new();
    for target in targets {
        match target {
            Target::Workload(name) => named.extend(world.workloads(name)?),
            Target::Labelled { namespace, labels } => {
                let fits = |one: &&Workload| {
                    namespace.as_ref().is_none_or(|namespace| one.id.namespace == *namespace)
                        && carries(&one.labels, labels)
                };
                named.extend(mesh.workloads.iter().filter(fits).map(|one| one.id.clone()));
                imagined.extend(imagine(mesh, namespace.as_deref(), labels)?);
            }
        }
    }
    let mut places = Vec::new();
    for id in named {
        let Some(workload) = mesh.workloads.iter().find(|one| one.id == id) else { continue };
        places.push(Place { words: id.to_string(), tcp_ports: tcp_ports(mesh, workload), id });
    }
    if imagined.is_empty() {
        return Ok((None, places));
    }
    let mut extended = mesh.clone();
    for (words, workload) in imagined {
        // No Service is known to be in front of it: each port may carry HTTP.
        places.push(Place { words, id: workload.id.clone(), tcp_ports: BTreeSet::new() });
        extended.workloads.push(workload);
    }
    Ok((Some(extended), places))
}

/// Every kind of workload that there might be with these labels in this namespace, as far as selectors can tell them apart. The
/// examples of the kinds have the fewest labels that make the kind, so each workload that fits has all labels of one of them.
fn imagine(mesh: &Mesh, namespace: Option<&str>, labels: &policy::Labels) -> Answer<Vec<(String, Workload)>> {
    let named: BTreeSet<&str> = (mesh.policies.iter().map(|policy| policy.id.namespace.as_str()))
        .chain(mesh.peer_authentications.iter().map(|policy| policy.id.namespace.as_str()))
        .chain([mesh.settings.root_namespace.as_str()])
        .collect();
    let mut found = Vec::new();
    for kind in space::kinds(mesh).map_err(|bound| bound.to_string())? {
        let Destination::Labelled { example, .. } = kind else { continue };
        let mut workload = *example;
        if let Some(namespace) = namespace {
            let same = workload.id.namespace == namespace;
            // A namespace without policies is as every other one without.
            if !same && (named.contains(namespace) || named.contains(workload.id.namespace.as_str())) {
                continue;
            }
            namespace.clone_into(&mut workload.id.namespace);
        }
        if labels.iter().any(|(key, value)| workload.labels.get(key).is_some_and(|other| other != value)) {
            continue;
        }
        workload.labels.extend(labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        // In no object can a name have a space: no workload of the mesh is meant.
        workload.id.name = words::imagined(&workload.labels);
        let words = format!("{} of namespace {}", workload.id.name, workload.id.namespace);
        let words = if namespace.is_none() && !named.contains(workload.id.namespace.as_str()) {
            format!("{} of any other namespace", workload.id.name)
        } else {
            words
        };
        if !found.iter().any(|(_, other): &(String, Workload)| other.id == workload.id) {
            found.push((words, workload));
        }
    }
    Ok(found)
}

/// The ports that Services declare to be TCP; all others may carry HTTP (S-84, S-85).
fn tcp_ports(mesh: &Mesh, workload: &Workload) -> BTreeSet<u16> {
    let targets: BTreeSet<u16> =
        mesh.services.iter().flat_map(|service| &service.ports).map(|port| port.target).collect();
    targets.into_iter().filter(|port| class_of(mesh, workload, *port).carries == Carries::Tcp).collect()
}

/// The ports that an assertion is about.
fn asked_ports(assertion: &Assertion) -> Vec<RangeInclusive<u16>> {
    let ports = if assertion.ports.is_empty() { vec![0..=u16::MAX] } else { merged(&assertion.ports) };
    assertion.not_ports.iter().fold(ports, |ports, not| cut(&ports, not))
}

/// Ranges in order, without overlaps.
fn merged(ranges: &[RangeInclusive<u16>]) -> Vec<RangeInclusive<u16>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn without(ranges: &[RangeInclusive<u16>], ports: &BTreeSet<u16>) -> Vec<RangeInclusive<u16>> {
    ports.iter().fold(ranges.to_vec(), |ranges, port| cut(&ranges, &(*port..=*port)))
}

fn cut(ranges: &[RangeInclusive<u16>], not: &RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
    let mut left = Vec::new();
    for range in ranges {
        let below = not.start().checked_sub(1).map(|end| *range.start()..=end.min(*range.end()));
        let above = not.end().checked_add(1).map(|start| start.max(*range.start())..=*range.end());
        left.extend([below, above].into_iter().flatten().filter(|range| !range.is_empty()));
    }
    left
}
