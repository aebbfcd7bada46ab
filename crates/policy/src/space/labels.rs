//! The kinds of workloads that selectors can tell apart, each with an example, so that sets of policies can be judged without workloads.

use std::collections::{BTreeMap, BTreeSet};

use super::bits::Bits;
use super::{Bound, Destination};
use crate::mesh::{Labels, Mesh, Workload, WorkloadId, carries};
use crate::spec::{Attribute, Rule, Scope};

/// Kinds of workloads of all namespaces: each is compared for itself, in some tenths of a millisecond.
const KINDS_MAX: usize = 10_000;

/// A kind of workload.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) words: String,
    pub(super) example: Workload,
}

impl Kind {
    pub(super) fn into_destination(self) -> Destination {
        Destination::Labelled { words: self.words, example: Box::new(self.example) }
    }
}

/// All kinds that the selectors of these meshes tell apart; if not `even_known`, but for those of which all of them have a workload.
pub(super) fn kinds(meshes: &[&Mesh], even_known: bool) -> Result<Vec<Kind>, Bound> {
    let roots: BTreeSet<&str> = meshes.iter().map(|mesh| mesh.settings.root_namespace.as_str()).collect();
    let selectors = selectors(meshes);
    let namespaces: BTreeSet<&str> = selectors.keys().copied().chain(roots.iter().copied()).collect();
    let other = other_namespace(meshes, &namespaces);
    let none = BTreeSet::new();
    let mut found = Vec::new();
    for namespace in namespaces.into_iter().chain([other.as_str()]) {
        let here: BTreeSet<&Labels> = roots
            .iter()
            .copied()
            .chain([namespace])
            .flat_map(|one| selectors.get(one).unwrap_or(&none))
            .copied()
            .filter(|labels| !labels.is_empty())
            .collect();
        let here: Vec<&Labels> = here.into_iter().collect();
        let known = if even_known { BTreeSet::new() } else { known(meshes, namespace, &here) };
        for (selected, labels) in told_apart(&here, KINDS_MAX - found.len())? {
            if known.contains(&selected) {
                continue;
            }
            let words = words(if namespace == other { None } else { Some(namespace) }, &labels, !here.is_empty());
            let id = WorkloadId::new(namespace, words.clone());
            let example =
                Workload { id, labels, service_account: "default".to_owned(), addresses: Vec::new(), in_mesh: true };
            found.push(Kind { words, example });
        }
    }
    Ok(found)
}

/// By namespace; a namespace with policies that select all of it is there without any.
fn selectors<'a>(meshes: &[&'a Mesh]) -> BTreeMap<&'a str, BTreeSet<&'a Labels>> {
    let mut selectors: BTreeMap<&str, BTreeSet<&Labels>> = BTreeMap::new();
    for mesh in meshes {
        for policy in &mesh.policies {
            let here = selectors.entry(&policy.id.namespace).or_default();
            if let Scope::Labels(labels) = &policy.scope {
                here.insert(labels);
            }
        }
        for authentication in &mesh.peer_authentications {
            selectors.entry(&authentication.id.namespace).or_default().insert(&authentication.selector);
        }
    }
    selectors
}

fn other_namespace(meshes: &[&Mesh], named: &BTreeSet<&str>) -> String {
    let taken = |name: &str| {
        named.contains(name)
            || meshes.iter().any(|mesh| {
                mesh.namespaces.contains(name) || mesh.workloads.iter().any(|workload| workload.id.namespace == name)
            })
    };
    let mut name = "other".to_owned();
    while taken(&name) {
        name.push_str("-other");
    }
    name
}

/// What is selected of the workloads that are the same in all meshes. Not where destination addresses count: other workloads have others.
fn known(meshes: &[&Mesh], namespace: &str, selectors: &[&Labels]) -> BTreeSet<Bits> {
    let looks_at_destination = |rule: &Rule| {
        let entries = rule.from.iter().chain(&rule.to).chain(&rule.when);
        entries.flat_map(|entry| &entry.matches).any(|one| one.attribute == Attribute::DestinationIp)
    };
    let Some((first, rest)) = meshes.split_first() else { return BTreeSet::new() };
    if meshes.iter().flat_map(|mesh| &mesh.policies).flat_map(|policy| &policy.rules).any(looks_at_destination) {
        return BTreeSet::new();
    }
    let same = |workload: &&Workload| {
        workload.in_mesh
            && workload.id.namespace == namespace
            && rest.iter().all(|mesh| {
                mesh.workloads.iter().any(|one| one.in_mesh && one.id == workload.id && one.labels == workload.labels)
            })
    };
    first.workloads.iter().filter(same).map(|workload| selected(selectors, &workload.labels)).collect()
}

fn selected(selectors: &[&Labels], labels: &Labels) -> Bits {
    let selecting = selectors.iter().enumerate().filter(|(_, selector)| carries(labels, selector));
    Bits::of(selectors.len(), selecting.map(|(at, _)| at))
}

/// Each set of selectors that select a workload together and no others, with as few labels as it takes.
fn told_apart(selectors: &[&Labels], most: usize) -> Result<Vec<(Bits, Labels)>, Bound> {
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (key, value) in selectors.iter().copied().flatten() {
        values.entry(key).or_default().insert(value);
    }
    // Selectors that may yet select, key by key: those that ask for another value fall out.
    let mut open = BTreeSet::from([Bits::all(selectors.len())]);
    for (key, values) in values {
        let mut next: BTreeSet<Bits> = BTreeSet::new();
        for selecting in open {
            for value in std::iter::once(None).chain(values.iter().copied().map(Some)) {
                let wants_other =
                    |selector: &Labels| selector.get(key).is_some_and(|wanted| Some(wanted.as_str()) != value);
                let out = selectors.iter().enumerate().filter(|(_, selector)| wants_other(selector)).map(|(at, _)| at);
                let left = selecting.without(&Bits::of(selectors.len(), out));
                next.insert(left);
            }
            if next.len() > most {
                return Err(Bound::Labels);
            }
        }
        open = next;
    }
    // What a selector that fell out had asked for is not asked for any more.
    let needed = |selected: &Bits| -> Labels {
        let pairs = selected.iter().filter_map(|at| selectors.get(at)).copied().flatten();
        pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    Ok(open
        .into_iter()
        .map(|selected| {
            let labels = needed(&selected);
            (selected, labels)
        })
        .collect())
}

fn words(namespace: Option<&str>, labels: &Labels, has_selectors: bool) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let which = if labels.is_empty() && has_selectors { "any other workload" } else { "any workload" };
    let place = namespace.map_or_else(|| "any other namespace".to_owned(), |name| format!("namespace {name}"));
    if labels.is_empty() {
        format!("{which} of {place}")
    } else {
        format!("{which} of {place} with {}", super::words::listed(&labels))
    }
}

#[cfg(test)]
mod tests {
    use super::told_apart;
    use crate::mesh::Labels;

    #[test]
    fn values_of_a_key_exclude_each_other() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let selectors = [labels(&[("app", "a")]), labels(&[("app", "b")]), labels(&[("app", "a"), ("tier", "x")])];
        let selectors: Vec<&Labels> = selectors.iter().collect();
        let mut kinds: Vec<(Vec<usize>, Labels)> = told_apart(&selectors, 100)
            .unwrap()
            .into_iter()
            .map(|(selected, labels)| (selected.iter().collect(), labels))
            .collect();
        kinds.sort();
        let expected = [
            (vec![], labels(&[])),
            (vec![0], labels(&[("app", "a")])),
            (vec![0, 2], labels(&[("app", "a"), ("tier", "x")])),
            (vec![1], labels(&[("app", "b")])),
        ];
        assert_eq!(kinds, expected);
        assert!(told_apart(&selectors, 3).is_err());
    }
}
