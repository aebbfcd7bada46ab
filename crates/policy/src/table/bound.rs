//! How large a table can get at most, by what is written: quick enough to ask at every write, where making the table is not.
//!
//! A table grows where a verdict changes along its source addresses. A rule changes verdicts at both ends of each of its address
//! blocks and, if it looks at identities, before and after each address of the mesh; each time for no more port classes than it
//! names. Each change paints at most one rectangle and cuts off two. Law: no table has more entries.

use crate::mesh::{Mesh, Workload};
use crate::spec::{Attribute, AuthorizationPolicy, Match, Mode, PeerAuthentication, Rule, Value, Values};

/// Entries that no table of this workload exceeds, whichever of its addresses it is for.
pub fn entries_at_most(mesh: &Mesh, workload: &Workload) -> usize {
    let reaches = |namespace: &str| namespace == workload.id.namespace || namespace == mesh.settings.root_namespace;
    let policies: Vec<&AuthorizationPolicy> = mesh
        .policies
        .iter()
        .filter(|policy| reaches(&policy.id.namespace) && policy.scope.selects(&workload.labels))
        .map(AsRef::as_ref)
        .collect();
    let modes: Vec<&PeerAuthentication> =
        mesh.peer_authentications.iter().filter(|one| reaches(&one.id.namespace)).map(AsRef::as_ref).collect();
    let rules = || policies.iter().flat_map(|policy| &policy.rules);
    let named = rules().flat_map(fields).filter(|field| field.attribute == Attribute::Port).map(values).sum::<usize>();
    // Each named port is a class, and what lies beside it may be another.
    let classes = 2 * (named + modes.iter().map(|one| one.ports.len()).sum::<usize>()) + 1;
    let sources = mesh.workloads.iter().map(|workload| workload.addresses.len()).sum::<usize>();
    let mut changes = classes;
    for rule in rules() {
        changes = changes.saturating_add(ports(rule).unwrap_or(classes).saturating_mul(columns(rule, sources)));
    }
    if modes.iter().any(|one| one.mode == Mode::Strict || one.ports.values().any(|mode| *mode == Mode::Strict)) {
        // Whoever has an identity is judged otherwise than whoever has none.
        changes = changes.saturating_add(classes.saturating_mul(2 * sources));
    }
    changes.saturating_mul(3)
}

fn fields(rule: &Rule) -> impl Iterator<Item = &Match> {
    rule.from.iter().chain(&rule.to).chain(&rule.when).flat_map(|entry| &entry.matches)
}

fn values(field: &Match) -> usize {
    [&field.wanted, &field.unwanted].into_iter().flatten().map(|values| values.iter().count()).sum()
}

/// The port classes that a rule names; none if it may reach any.
fn ports(rule: &Rule) -> Option<usize> {
    let of_operation = |matches: &[Match]| {
        let wanted = matches.iter().find(|one| one.attribute == Attribute::Port).and_then(|one| one.wanted.as_ref());
        wanted.filter(|ports| is_readable(ports)).map(|ports| ports.iter().count())
    };
    let operations = rule.to.iter().map(|entry| of_operation(&entry.matches));
    if rule.to.is_empty() { None } else { operations.sum() }
}

fn is_readable(ports: &Values) -> bool {
    ports.iter().all(|port| matches!(port, Value::Port(..)))
}

/// How often along the addresses a rule begins or ceases to hold.
fn columns(rule: &Rule, sources: usize) -> usize {
    let (mut blocks, mut by_identity) = (0, false);
    for field in fields(rule) {
        match field.attribute {
            Attribute::SourceIp | Attribute::RemoteIp => blocks += values(field),
            Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain => {
                by_identity = true;
            }
            // The same along all sources.
            Attribute::DestinationIp
            | Attribute::Port
            | Attribute::ServerName
            | Attribute::Metadata
            | Attribute::Http
            | Attribute::Request
            | Attribute::Unknown => {}
        }
    }
    1 + 2 * blocks + if by_identity { 2 * sources } else { 0 }
}
