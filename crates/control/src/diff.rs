//! Two meshes compared: each region of difference as a sentence, and one connection in it, decided again by the engine on both
//! sides. What differs is found by `policy::space`; nothing here decides.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use policy::record::Outcome;
use policy::space::{self, Destination, Region, Relation, addresses_in_words, ports_in_words};
use policy::spec::{Attribute, AuthorizationPolicy};
use policy::{Answer, Connection, Mesh, Peer, PolicyId, Profile, Snapshot, WorkloadId};

/// What differs between two meshes in one profile.
#[derive(Debug)]
pub struct Report {
    /// The profile of both.
    pub profile: Profile,
    /// In one word, over all TCP connections.
    pub relation: Relation,
    /// Every difference, by destination.
    pub destinations: Vec<Changed>,
    /// Workloads of the first set only; they are judged by the policies of both.
    pub only_before: Vec<WorkloadId>,
    /// Workloads of the second set only.
    pub only_after: Vec<WorkloadId>,
    /// Policies with HTTP attributes that are not the same on both sides. On TCP they are compared as they count there; what
    /// they change for HTTP requests is not known here.
    pub http: Vec<Arc<PolicyId>>,
    /// Regions whose witness the engine decides otherwise: there are none unless this program is wrong.
    pub wrong: Vec<String>,
}

/// What differs for one destination.
#[derive(Debug)]
pub struct Changed {
    /// The workload, or which workloads, in words.
    pub destination: String,
    /// In one word.
    pub relation: Relation,
    /// What is denied before and permitted after, then what is permitted before and denied after.
    pub regions: Vec<Change>,
    /// There are more regions than these.
    pub more: bool,
}

/// One region of difference.
#[derive(Debug)]
pub struct Change {
    /// Is it permitted after; then it is denied before.
    pub opens: bool,
    /// The connections.
    pub region: Region,
    /// The whole of it: `from any workload of namespace foo to foo/tcp-echo, port 9000: denied → allowed`.
    pub sentence: String,
    /// What the engine says of the witness before.
    pub before: Outcome,
    /// And after.
    pub after: Outcome,
}

impl Report {
    /// May the two behave differently, as far as is known.
    pub fn differs(&self) -> bool {
        self.relation != Relation::Equivalent || !self.http.is_empty()
    }
}

/// Compares two meshes of one profile.
pub fn report(before: &Mesh, after: &Mesh) -> Report {
    let difference = space::compare_meshes(before, after);
    let mut report = Report {
        profile: after.settings.profile,
        relation: difference.relation,
        destinations: Vec::new(),
        only_before: difference.only_before,
        only_after: difference.only_after,
        http: changed_http(before, after),
        wrong: Vec::new(),
    };
    for (destination, comparison) in difference.destinations {
        let id = match &destination {
            Destination::Workload(id) => id,
            Destination::Labelled { example, .. } => &example.id,
        };
        let opened = comparison.opened.into_iter().map(|region| (true, region));
        let closed = comparison.closed.into_iter().map(|region| (false, region));
        let mut regions = Vec::new();
        for (opens, region) in opened.chain(closed) {
            let before = decided(&difference.before, id, &region);
            let after = decided(&difference.after, id, &region);
            let sentence = sentence(&region, &destination, opens);
            if (before.permitted, after.permitted) != (!opens, opens) {
                report.wrong.push(sentence.clone());
            }
            regions.push(Change { opens, region, sentence, before, after });
        }
        report.destinations.push(Changed {
            destination: destination.to_string(),
            relation: comparison.relation,
            regions,
            more: comparison.more,
        });
    }
    report
}

/// The witness, decided by the engine that enforces.
fn decided(snapshot: &Snapshot, destination: &WorkloadId, region: &Region) -> Outcome {
    snapshot.explain(destination, &region.witness).outcome()
}

fn sentence(region: &Region, destination: &Destination, opens: bool) -> String {
    let change = if opens { "denied → allowed" } else { "allowed → denied" };
    format!("{}: {change}", region_in_words(region, &destination.to_string(), &region.ports))
}

/// `from any workload of namespace foo at 10.0.0.0/8 to foo/tcp-echo, ports 1–8999 and 9002–65535`, with these of its ports.
pub(crate) fn region_in_words(region: &Region, destination: &str, ports: &[RangeInclusive<u16>]) -> String {
    let mut words = format!("from {}", region.peers.words);
    let mut add = |before: &str, what: &str| {
        if !what.is_empty() {
            words.push_str(before);
            words.push_str(what);
        }
    };
    add(" at ", &addresses_in_words(&region.sources));
    add(" to ", destination);
    add(" at ", &addresses_in_words(&region.destinations));
    add(", ", &ports_in_words(ports));
    add(", ", &region.server_names.words);
    add(", where these authorizers allow it: ", &region.allowed_by.join(", "));
    add(", where one of these authorizers refuses it: ", &region.refused_by.join(", "));
    words
}

/// `cluster.local/ns/foo/sa/sleep at 10.0.0.1 to 10.0.0.2:9000`.
pub fn connection_in_words(connection: &Connection) -> String {
    let Connection { source, destination, port, .. } = connection;
    let to = SocketAddr::new(*destination, *port);
    let mut words = format!("{} at {source} to {to}", peer_in_words(&connection.peer));
    if let Some(name) = &connection.sni {
        words.push_str(" with server name ");
        words.push_str(name);
    }
    for (provider, answer) in &connection.answers {
        let said = if *answer == Answer::Allow { "allows it" } else { "refuses it" };
        let _infallible = write!(words, ", {provider} {said}");
    }
    words
}

/// The principal, the names of a certificate, or that there is none.
pub fn peer_in_words(peer: &Peer) -> String {
    match peer {
        Peer::Anonymous => "a client without identity".to_owned(),
        Peer::Attested(id) => id.principal().to_owned(),
        Peer::Verified(names) => names.iter().map(policy::PeerName::raw).collect::<Vec<_>>().join(", "),
    }
}

/// Policies that look at HTTP attributes and are another, or are not there, on one of the sides.
fn changed_http(before: &Mesh, after: &Mesh) -> Vec<Arc<PolicyId>> {
    if after.settings.profile == Profile::Ambient {
        return Vec::new(); // S-86: every port is TCP
    }
    let by_name = |mesh: &Mesh| -> BTreeMap<Arc<PolicyId>, Arc<AuthorizationPolicy>> {
        let with_http = mesh.policies.iter().filter(|policy| looks_at_http(policy));
        with_http.map(|policy| (Arc::clone(&policy.id), Arc::clone(policy))).collect()
    };
    let (one, other) = (by_name(before), by_name(after));
    let mut names: Vec<_> =
        one.keys().chain(other.keys()).filter(|id| one.get(*id) != other.get(*id)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn looks_at_http(policy: &AuthorizationPolicy) -> bool {
    let entries = policy.rules.iter().flat_map(|rule| [&rule.from, &rule.to, &rule.when]).flatten();
    entries.flat_map(|entry| &entry.matches).any(|one| one.attribute == Attribute::Http)
}
