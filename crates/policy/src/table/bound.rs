//! How large a table can get at most, by what is written: quick enough to ask at every write, where making the table is not.
//!
//! At one port class the sources fall into ranges with one verdict each, and every entry is such a range at one class or more. So no
//! table has more entries than there are ranges, class by class. A rule holds for so many ranges of sources at most as it names address
//! blocks, and addresses of the mesh where it looks at identities; each range allowed is one of a rule that allows, or what is left of one
//! beside a range denied. What is refused by default is the fallback, so nothing but these ranges is counted; what may depend on bytes to
//! come has three verdicts, and all ranges are counted, by their ends. Law: no table has more entries.

use crate::mesh::{Mesh, Workload};
use crate::spec::{Action, Attribute, AuthorizationPolicy, Match, Mode, PeerAuthentication, Rule, Value, Values};

/// Entries that no table of this workload exceeds, whichever of its addresses it is for.
pub fn entries_at_most(mesh: &Mesh, workload: &Workload) -> usize {
    let reaches = |namespace: &str| namespace == workload.id.namespace || namespace == mesh.settings.root_namespace;
    let mut reckoned = Reckoned {
        addresses: mesh.workloads.iter().map(|workload| workload.addresses.len()).sum::<usize>(),
        ..Reckoned::default()
    };
    for policy in &mesh.policies {
        if reaches(&policy.id.namespace) && policy.scope.selects(&workload.labels) {
            reckoned.policy(policy);
        }
    }
    for one in mesh.peer_authentications.iter().filter(|one| reaches(&one.id.namespace)) {
        reckoned.mode(one);
    }
    reckoned.entries()
}

/// What the policies of a workload amount to.
#[derive(Default)]
struct Reckoned {
    /// Addresses that may carry an identity.
    addresses: usize,
    /// Ports that are named.
    ports: usize,
    /// Ranges of sources for which rules hold, each counted for each port that its rule names.
    at_ports: usize,
    /// The same of rules that may reach any port.
    at_any: usize,
    /// Some verdict may depend on bytes.
    by_bytes: bool,
    is_strict: bool,
}

impl Reckoned {
    fn policy(&mut self, policy: &AuthorizationPolicy) {
        let is_enforced = !policy.trial && policy.action != Action::Audit;
        self.by_bytes |= policy.action == Action::Custom;
        for rule in &policy.rules {
            // Also what is not enforced cuts the ports.
            self.ports += fields(rule).filter(|field| field.attribute == Attribute::Port).map(values).sum::<usize>();
            if is_enforced {
                self.by_bytes |= fields(rule).any(|field| field.attribute == Attribute::ServerName);
                let ranges = ranges(rule, self.addresses);
                match ports(rule) {
                    Some(ports) => self.at_ports = self.at_ports.saturating_add(ports.saturating_mul(ranges)),
                    None => self.at_any = self.at_any.saturating_add(ranges),
                }
            }
        }
    }

    fn mode(&mut self, one: &PeerAuthentication) {
        self.ports += one.ports.len();
        self.is_strict |= one.mode == Mode::Strict || one.ports.values().any(|mode| *mode == Mode::Strict);
    }

    fn entries(&self) -> usize {
        // Each named port is a class, and what lies beside it may be another.
        let classes = 2 * self.ports + 1;
        let ranges = self.at_ports.saturating_add(classes.saturating_mul(self.at_any));
        if !self.by_bytes && !self.is_strict {
            return ranges;
        }
        // Where whoever has no identity is judged otherwise, each address of the mesh may be a range of its own.
        let more = if self.is_strict { classes.saturating_mul(self.addresses) } else { 0 };
        ranges.saturating_add(more).saturating_mul(2).saturating_add(classes)
    }
}

fn fields(rule: &Rule) -> impl Iterator<Item = &Match> {
    rule.from.iter().chain(&rule.to).chain(&rule.when).flat_map(|entry| &entry.matches)
}

fn values(field: &Match) -> usize {
    [&field.wanted, &field.unwanted].into_iter().flatten().map(|values| values.iter().len()).sum()
}

/// How many port classes a rule names; none if it may reach any.
fn ports(rule: &Rule) -> Option<usize> {
    let of_operation = |matches: &[Match]| {
        let wanted = matches.iter().find(|one| one.attribute == Attribute::Port).and_then(|one| one.wanted.as_ref());
        wanted.filter(|ports| is_readable(ports)).map(|ports| ports.iter().len())
    };
    let operations = rule.to.iter().map(|entry| of_operation(&entry.matches));
    if rule.to.is_empty() { None } else { operations.sum() }
}

fn is_readable(ports: &Values) -> bool {
    ports.iter().all(|port| matches!(port, Value::Port(..)))
}

/// For how many ranges of sources a rule holds: as many as all its sources together, each cut by its conditions.
fn ranges(rule: &Rule, addresses: usize) -> usize {
    let of = |matches: &[Match]| matches.iter().map(|field| ranges_of(field, addresses)).sum::<usize>();
    let sources = rule.from.iter().map(|source| of(&source.matches).max(1)).sum::<usize>();
    sources.max(1) + rule.when.iter().map(|condition| of(&condition.matches)).sum::<usize>()
}

/// How many ranges of sources one field lets through. Two fields together let through no more than both.
fn ranges_of(field: &Match, addresses: usize) -> usize {
    let each = |values: &Values| match field.attribute {
        Attribute::SourceIp | Attribute::RemoteIp => values.iter().len(),
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain => addresses,
        // The same along all sources.
        Attribute::DestinationIp
        | Attribute::Port
        | Attribute::ServerName
        | Attribute::Metadata
        | Attribute::Http
        | Attribute::Request
        | Attribute::Unknown => 0,
    };
    // Between so many ranges that are unwanted lie as many and one more.
    field.wanted.as_ref().map_or(0, each) + field.unwanted.as_ref().map_or(0, |unwanted| each(unwanted) + 1)
}
