//! A table made from the one before it. Policies mostly change one at a time and mostly name ports: then the two tables differ at
//! these ports alone, and only the rules that reach them are looked at. What that costs does not grow with the other rules but for one
//! walk along the entries.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::sweep;
use super::{ENTRIES_PER_POD_MAX, Entry, TooLarge, VerdictTable, table};
use crate::address::canonical;
use crate::mesh::WorkloadId;
use crate::ruleset::index::bound_ports;
use crate::ruleset::{CompiledPolicy, Ruleset, by_key};
use crate::snapshot::Snapshot;
use crate::spec::Action;

/// With more ports to look at the whole table is made anew: each of them is a sweep along the addresses of the mesh.
const PORTS_MAX: usize = 32;

/// As [`table`], for the same workload and address, where `before` is the table under an earlier snapshot, `earlier`. The verdicts are
/// those of [`table`]; entries and fallback may be others. Law: so it is after any number of changes.
pub fn table_after(
    snapshot: &Snapshot,
    destination: &WorkloadId,
    address: IpAddr,
    (earlier, before): (&Snapshot, &VerdictTable),
) -> Result<VerdictTable, TooLarge> {
    if let Some(now) = snapshot.workload(destination)
        && let Some(ports) = differing_ports(earlier, snapshot, destination)
        && let Some(table) =
            with_ports(before, &ports, |port| sweep::column(snapshot, now, canonical(address), port, before.fallback))
    {
        return Ok(table);
    }
    table(snapshot, destination, address)
}

/// The ports at which two tables of one workload can differ; none if it may be any, or too many to look at one by one. Law: at all
/// others they say the same.
pub fn differing_ports(earlier: &Snapshot, snapshot: &Snapshot, destination: &WorkloadId) -> Option<BTreeSet<u16>> {
    let (then, now) = (earlier.workload(destination)?, snapshot.workload(destination)?);
    let is_like = *earlier.settings == *snapshot.settings
        && then.mtls == now.mtls
        && (then.ruleset.allow.policies > 0) == (now.ruleset.allow.policies > 0)
        && (Arc::ptr_eq(&earlier.attested, &snapshot.attested)
            || !(then.looks_at_identity() || now.looks_at_identity()));
    if !is_like {
        return None;
    }
    let mut ports = BTreeSet::new();
    for policy in differing(&then.ruleset, &now.ruleset) {
        match policy.spec.action {
            Action::Custom => return None,
            Action::Audit => continue,
            Action::Allow | Action::Deny if policy.spec.trial => continue,
            Action::Allow | Action::Deny => {}
        }
        for rule in policy.rules.iter().filter(|rule| rule.can_match()) {
            ports.extend(bound_ports(rule)?);
            if ports.len() > PORTS_MAX {
                return None;
            }
        }
    }
    Some(ports)
}

/// The policies that are in one of two rulesets only, in either form.
fn differing<'a>(then: &'a Ruleset, now: &'a Ruleset) -> Vec<&'a CompiledPolicy> {
    let mut found: Vec<&CompiledPolicy> = Vec::new();
    let (mut old, mut new) = (then.policies.iter().peekable(), now.policies.iter().peekable());
    // Both are sorted by their keys.
    while let (Some(one), Some(other)) = (old.peek(), new.peek()) {
        if Arc::ptr_eq(one, other) {
            old.next();
            new.next();
            continue;
        }
        let order = by_key(one, other);
        let pair = [old.next_if(|_| order.is_le()), new.next_if(|_| order.is_ge())];
        found.extend(pair.into_iter().flatten().map(AsRef::as_ref));
    }
    found.extend(old.chain(new).map(AsRef::as_ref));
    found
}

/// The table with the verdicts of these ports from elsewhere; none if it has to be made otherwise.
fn with_ports(
    before: &VerdictTable,
    ports: &BTreeSet<u16>,
    column: impl Fn(u16) -> Result<Vec<Entry>, TooLarge>,
) -> Option<VerdictTable> {
    let mut entries = Vec::with_capacity(before.entries.len());
    // What begins or ends beside one of the ports may be joined to what is there.
    let mut loose = Vec::new();
    for entry in &before.entries {
        let (first, last) = entry.ports.clone().into_inner();
        if ports.range(first.saturating_sub(1)..=last.saturating_add(1)).next().is_none() {
            entries.push(entry.clone());
            continue;
        }
        let mut next = Some(first);
        for port in ports.range(first..=last) {
            loose.extend(next.filter(|next| next < port).map(|next| entry.at(next..=port - 1)));
            next = port.checked_add(1);
        }
        loose.extend(next.filter(|next| *next <= last).map(|next| entry.at(next..=last)));
    }
    for port in ports {
        loose.extend(column(*port).ok()?);
    }
    entries.extend(joined(loose));
    if entries.len() > ENTRIES_PER_POD_MAX {
        // Another fallback may need fewer.
        return None;
    }
    // Nearly sorted: what is loose is few.
    entries.sort_by_key(|entry| (*entry.ports.start(), *entry.sources.start()));
    Some(VerdictTable { fallback: before.fallback, entries })
}

/// Entries that differ in their ports only, one after the other, as one.
fn joined(mut entries: Vec<Entry>) -> Vec<Entry> {
    let key = |entry: &Entry| (*entry.sources.start(), *entry.sources.end(), entry.verdict, *entry.ports.start());
    entries.sort_unstable_by_key(key);
    let mut joined: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        match joined.last_mut() {
            Some(last)
                if last.sources == entry.sources
                    && last.verdict == entry.verdict
                    && last.ports.end().checked_add(1) == Some(*entry.ports.start()) =>
            {
                last.ports = *last.ports.start()..=*entry.ports.end();
            }
            _ => joined.push(entry),
        }
    }
    joined
}
