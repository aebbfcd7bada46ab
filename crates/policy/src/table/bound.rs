//! How large a table can get at most, by what is written: quick enough to ask at every write, where making the table is not.
//!
//! At one port class the sources fall into ranges with one verdict each, and every entry is such a range at one class or more. So no
//! table has more entries than there are ranges, class by class. A rule holds for so many ranges of sources at most as it names address
//! blocks, and addresses of the mesh where it looks at identities; each range allowed is one of a rule that allows, or what is left of one
//! beside a range denied. What is refused by default is the fallback, so nothing but these ranges is counted; what may depend on bytes to
//! come has three verdicts, and all ranges are counted, by their ends. Law: no table has more entries.

use std::collections::HashMap;
use std::sync::Arc;

use crate::mesh::{Mesh, Workload};
use crate::spec::{Action, Attribute, AuthorizationPolicy, Match, Mode, Rule, Scope, Value, Values};

/// Entries that no table of this workload exceeds, whichever of its addresses it is for.
pub fn entries_at_most(mesh: &Mesh, workload: &Workload) -> usize {
    let mut reckoning = Reckoning::default();
    reckoning.update(mesh);
    reckoning.entries_at_most(mesh, workload)
}

/// What the policies of a mesh amount to. Kept from one mesh to the next, of which only what is new is looked at.
#[derive(Debug, Default)]
pub struct Reckoning {
    /// In the order of the mesh.
    known: Vec<Arc<AuthorizationPolicy>>,
    /// By namespace and selector.
    sums: HashMap<(String, Scope), Size>,
}

impl Reckoning {
    /// Takes in the policies of a mesh in the place of those of the one before.
    pub fn update(&mut self, mesh: &Mesh) {
        let mut before = std::mem::take(&mut self.known).into_iter().peekable();
        for policy in &mesh.policies {
            let is_same = |known: &Arc<AuthorizationPolicy>| Arc::ptr_eq(known, policy);
            if before.next_if(is_same).is_none() {
                // Mostly one of several is new or gone, and the others follow each other as before.
                while let Some(gone) = before.next_if(|known| known.id <= policy.id) {
                    self.count(&gone, false);
                }
                self.count(policy, true);
            }
        }
        before.for_each(|gone| self.count(&gone, false));
        self.known.clone_from(&mesh.policies);
    }

    fn count(&mut self, policy: &AuthorizationPolicy, comes: bool) {
        let of = (policy.id.namespace.clone(), policy.scope.clone());
        let sum = self.sums.entry(of.clone()).or_default();
        sum.add(&Size::of(policy), comes);
        if sum.policies == 0 {
            self.sums.remove(&of);
        }
    }

    /// Entries that no table of this workload exceeds, whichever of its addresses it is for; `mesh` is the one last taken in.
    pub fn entries_at_most(&self, mesh: &Mesh, workload: &Workload) -> usize {
        let reaches = |namespace: &str| namespace == workload.id.namespace || namespace == mesh.settings.root_namespace;
        let mut all = Size::default();
        for ((namespace, scope), size) in &self.sums {
            if reaches(namespace) && scope.selects(&workload.labels) {
                all.add(size, true);
            }
        }
        let modes = || mesh.peer_authentications.iter().filter(|one| reaches(&one.id.namespace));
        all.ports += modes().map(|one| one.ports.len()).sum::<usize>();
        let strict = |mode: &Mode| *mode == Mode::Strict;
        let is_strict = modes().any(|one| strict(&one.mode) || one.ports.values().any(strict));
        let addresses = mesh.workloads.iter().map(|workload| workload.addresses.len()).sum();
        all.entries(addresses, is_strict)
    }
}

/// So many ranges of sources, and so many for each address that may carry an identity.
#[derive(Debug, Clone, Copy, Default)]
struct Ranges {
    fixed: usize,
    each_address: usize,
}

/// What some policies amount to.
#[derive(Debug, Default)]
struct Size {
    policies: usize,
    /// Ports that are named.
    ports: usize,
    /// Ranges of sources for which rules hold, each counted for each port that its rule names.
    at_ports: Ranges,
    /// The same of rules that may reach any port.
    at_any: Ranges,
    /// Policies whose verdict may depend on bytes.
    by_bytes: usize,
}

impl Size {
    fn of(policy: &AuthorizationPolicy) -> Self {
        let is_enforced = !policy.trial && policy.action != Action::Audit;
        let mut size = Self { policies: 1, by_bytes: usize::from(policy.action == Action::Custom), ..Self::default() };
        for rule in &policy.rules {
            // Also what is not enforced cuts the ports.
            size.ports += fields(rule).filter(|field| field.attribute == Attribute::Port).map(values).sum::<usize>();
            if is_enforced {
                size.by_bytes += usize::from(fields(rule).any(|field| field.attribute == Attribute::ServerName));
                match ports(rule) {
                    Some(ports) => size.at_ports.add(ranges(rule), ports, true),
                    None => size.at_any.add(ranges(rule), 1, true),
                }
            }
        }
        size
    }

    /// With others, or without them again.
    fn add(&mut self, other: &Self, comes: bool) {
        let change = |sum: &mut usize, one: usize| *sum = if comes { *sum + one } else { *sum - one };
        change(&mut self.policies, other.policies);
        change(&mut self.ports, other.ports);
        change(&mut self.by_bytes, other.by_bytes);
        self.at_ports.add(other.at_ports, 1, comes);
        self.at_any.add(other.at_any, 1, comes);
    }

    fn entries(&self, addresses: usize, is_strict: bool) -> usize {
        // Each named port is a class, and what lies beside it may be another.
        let classes = 2 * self.ports + 1;
        let ranges = self.at_ports.with(addresses).saturating_add(classes.saturating_mul(self.at_any.with(addresses)));
        if self.by_bytes == 0 && !is_strict {
            return ranges;
        }
        // Where whoever has no identity is judged otherwise, each address of the mesh may be a range of its own.
        let more = if is_strict { classes.saturating_mul(addresses) } else { 0 };
        ranges.saturating_add(more).saturating_mul(2).saturating_add(classes)
    }
}

impl Ranges {
    fn add(&mut self, other: Self, times: usize, comes: bool) {
        let change = |sum: &mut usize, one: usize| *sum = if comes { *sum + one * times } else { *sum - one * times };
        change(&mut self.fixed, other.fixed);
        change(&mut self.each_address, other.each_address);
    }

    fn with(self, addresses: usize) -> usize {
        self.fixed.saturating_add(self.each_address.saturating_mul(addresses))
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
fn ranges(rule: &Rule) -> Ranges {
    let mut all = Ranges::default();
    let mut add = |matches: &[Match], least: usize| {
        let of_field = |sum: Ranges, field: &Match| {
            let one = ranges_of(field);
            Ranges { fixed: sum.fixed + one.fixed, each_address: sum.each_address + one.each_address }
        };
        let mut one = matches.iter().fold(Ranges::default(), of_field);
        if one.each_address == 0 {
            one.fixed = one.fixed.max(least);
        }
        all.add(one, 1, true);
    };
    rule.from.iter().for_each(|source| add(&source.matches, 1));
    if rule.from.is_empty() {
        add(&[], 1);
    }
    rule.when.iter().for_each(|condition| add(&condition.matches, 0));
    all
}

/// How many ranges of sources one field lets through. Two fields together let through no more than both.
fn ranges_of(field: &Match) -> Ranges {
    let count = |values: &Option<Values>| values.as_ref().map_or(0, |values| values.iter().len());
    // Between so many ranges that are unwanted lie as many and one more.
    let between = usize::from(field.unwanted.is_some());
    match field.attribute {
        Attribute::SourceIp | Attribute::RemoteIp => {
            Ranges { fixed: count(&field.wanted) + count(&field.unwanted) + between, each_address: 0 }
        }
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain => {
            Ranges { fixed: between, each_address: usize::from(field.wanted.is_some()) + between }
        }
        // The same along all sources.
        Attribute::DestinationIp
        | Attribute::Port
        | Attribute::ServerName
        | Attribute::Metadata
        | Attribute::Http
        | Attribute::Request
        | Attribute::Unknown => Ranges::default(),
    }
}
