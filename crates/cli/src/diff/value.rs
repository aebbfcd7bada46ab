//! A difference as one JSON object.

use control::diff::{Change, Changed, Report};
use policy::space::Relation;
use serde_json::{Value, json};

use super::DiffArguments;
use crate::verdicts::{connection_value, decided_value};

/// The version of this form.
const API_VERSION: &str = "tidegate.io/v1alpha1";

pub(super) fn of(arguments: &DiffArguments, reports: &[Report]) -> Value {
    let reports: Vec<Value> = reports.iter().map(report).collect();
    json!({"apiVersion": API_VERSION, "kind": "PolicyDiff", "before": arguments.before, "after": arguments.after,
           "profiles": reports})
}

fn report(report: &Report) -> Value {
    let http: Vec<String> = report.http.iter().map(ToString::to_string).collect();
    let named = |ids: &[policy::WorkloadId]| -> Vec<String> { ids.iter().map(ToString::to_string).collect() };
    let destinations: Vec<Value> = report.destinations.iter().map(destination).collect();
    let (relation, bound) = relation(report.relation);
    json!({"profile": report.profile.word(), "relation": relation, "bound": bound, "differs": report.differs(),
           "httpChangedIn": http, "onlyBefore": named(&report.only_before), "onlyAfter": named(&report.only_after),
           "destinations": destinations})
}

fn destination(changed: &Changed) -> Value {
    let side = |opens: bool| -> Vec<Value> {
        changed.regions.iter().filter(|change| change.opens == opens).map(region).collect()
    };
    let (relation, bound) = relation(changed.relation);
    json!({"destination": changed.destination, "relation": relation, "bound": bound, "opened": side(true),
           "closed": side(false), "more": changed.more})
}

/// The stable word, and the bound that was met.
fn relation(relation: Relation) -> (&'static str, Option<String>) {
    match relation {
        Relation::Equivalent => ("equivalent", None),
        Relation::MoreRestrictive => ("more-restrictive", None),
        Relation::MorePermissive => ("more-permissive", None),
        Relation::Incomparable => ("incomparable", None),
        Relation::Inconclusive(bound) => ("inconclusive", Some(bound.to_string())),
    }
}

fn region(change: &Change) -> Value {
    let region = &change.region;
    let ports: Vec<[u16; 2]> = region.ports.iter().map(|range| [*range.start(), *range.end()]).collect();
    let addresses = |ranges: &[std::ops::RangeInclusive<std::net::IpAddr>]| -> Vec<[std::net::IpAddr; 2]> {
        ranges.iter().map(|range| [*range.start(), *range.end()]).collect()
    };
    json!({"sentence": change.sentence, "from": region.peers.words, "sources": addresses(&region.sources),
           "destinations": addresses(&region.destinations), "ports": ports, "serverNames": region.server_names.words,
           "allowedBy": region.allowed_by, "refusedBy": region.refused_by,
           "witness": connection_value(&region.witness),
           "before": decided_value(&change.before), "after": decided_value(&change.after)})
}
