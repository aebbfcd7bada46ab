//! Who the clients are: rules by identity where clients have none, and blocks of addresses that hold the cluster itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy::spec::{Action, Attribute, AuthorizationPolicy, Mode, Value};
use policy::{Mesh, Workload, WorkloadState};
use serde_json::Value as Json;

use super::{Diagnostic, Pass, View};
use crate::bundle::Bundle;
use crate::finding::{Code, Level};
use crate::translate::PEER_AUTHENTICATIONS;
use crate::written::{self, Written};

/// Rules that look at identities which clients cannot have.
pub(super) fn identities<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy) {
    let fields: Vec<Written<'_>> =
        written::fields(policy).into_iter().filter(|one| is_identity(one.field.attribute)).collect();
    if fields.is_empty() {
        return;
    }
    if disabled(pass, view, policy, &fields) {
        return;
    }
    for field in fields.iter().filter(|field| field.field.attribute == Attribute::Namespace && !field.negative) {
        outsiders(pass, view, policy, field);
    }
    if policy.action == Action::Allow {
        negatives(pass, view, policy, &fields);
    }
}

fn is_identity(attribute: Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain
    )
}

/// The workloads in the mesh that a policy selects, as they are compiled.
fn states(pass: &Pass<'_>, policy: &AuthorizationPolicy) -> Vec<std::sync::Arc<WorkloadState>> {
    let selected: Vec<&Workload> = pass.selected(policy).filter(|workload| workload.in_mesh).collect();
    selected.into_iter().filter_map(|workload| pass.snapshot.workload(&workload.id).cloned()).collect()
}

/// S-81: where mutual TLS is not terminated nobody has an identity. Whether that was told.
fn disabled<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy, fields: &[Written<'_>]) -> bool {
    if pass.ambient() {
        return false; // S-82
    }
    let states = states(pass, policy);
    let Some(state) = states.iter().find(|state| state.mode_elsewhere() == Mode::Disable) else { return false };
    let Some(field) = fields.iter().find(|field| !field.negative).or_else(|| fields.first()) else { return false };
    let effect = match (policy.action, field.negative) {
        (Action::Allow, false) => "nobody matches it",
        (_, false) => "it matches nobody",
        (_, true) => "everybody matches it",
    };
    let message = format!(
        "`{}` looks at identities, and mutual TLS is off at `{}`: no client has an identity there, so {effect}",
        field.path.rsplit('.').next().unwrap_or_default(),
        state.workload().id
    );
    let mut told = view.at(Diagnostic::new(Code::PlaintextClients.entry(), message), &field.path, "");
    if let Some(named) = state.mode_by() {
        let other = View::of(pass, PEER_AUTHENTICATIONS, &named.namespace, &named.name);
        told = other.value_at(told, "spec.mtls.mode", "mutual TLS is switched off here");
    }
    pass.found.push(told.help("set `mode: STRICT` (or PERMISSIVE while clients move), or write the rule by address"));
    true
}

/// Namespaces whose workloads are all outside the mesh.
fn outsiders<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy, field: &Written<'_>) {
    for (index, value) in field.values.iter().enumerate() {
        let namespace = value.text();
        let mut there = pass.mesh.workloads.iter().filter(|workload| workload.id.namespace == namespace).peekable();
        if there.peek().is_none() || there.any(|workload| workload.in_mesh) {
            continue;
        }
        let effect = if policy.action == Action::Allow { "lets none of them in" } else { "is for none of them" };
        let message = format!(
            "no workload of namespace {namespace} is in the mesh, so none has an identity: the {} rule {effect}",
            policy.action.word()
        );
        let told = Diagnostic::new(Code::PlaintextClients.entry(), message);
        let told = view.value_at(told, &format!("{}[{index}]", field.path), "");
        pass.found.push(told.help(format!(
            "inject them (label namespace {namespace} `istio-injection=enabled`), or write the rule by address"
        )));
    }
}

/// S-56: a client without identity fulfils every negative condition.
fn negatives<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy, fields: &[Written<'_>]) {
    let states = states(pass, policy);
    if !states.is_empty() && states.iter().all(|state| state.mode_elsewhere() == Mode::Strict) {
        return;
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        let of_rule: Vec<&Written<'_>> = fields.iter().filter(|field| field.rule == index).collect();
        // A source with a positive identity, or a condition with one, keeps plaintext out.
        let Some(negative) = of_rule.iter().find(|field| field.negative) else { continue };
        let closed = |field: &&&Written<'_>| !field.negative && (is_condition(field) || same_entry(field, negative));
        let by_address =
            rule.from.iter().flat_map(|entry| &entry.matches).any(|found| found.attribute == Attribute::SourceIp);
        if of_rule.iter().any(|field| closed(&field)) || by_address {
            continue;
        }
        let name = negative.path.rsplit('.').next().unwrap_or_default();
        let message = format!("`{name}` lets in every client without identity: plaintext clients are in none of these");
        let told = view.at(Diagnostic::new(Code::PlaintextClients.entry(), message), &negative.path, "");
        // Whether plaintext is accepted is for a PeerAuthentication to say, which may stand elsewhere.
        let level = if pass.mesh.peer_authentications.is_empty() && !pass.whole { Level::Note } else { Level::Warning };
        pass.found.push(told.level(level).help(
            "add `principals: [\"*\"]` to the same source, which means `has an identity`, or set `mode: STRICT`",
        ));
    }
}

fn is_condition(field: &Written<'_>) -> bool {
    field.path.contains(".when[")
}

fn same_entry(one: &Written<'_>, other: &Written<'_>) -> bool {
    one.path.rsplit_once('.').map(|(entry, _)| entry) == other.path.rsplit_once('.').map(|(entry, _)| entry)
}

/// Blocks of an ALLOW rule that hold more than the networks they are for.
pub(super) fn blocks<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy) {
    if policy.action != Action::Allow {
        return;
    }
    let fields = written::fields(policy);
    let sources =
        fields.iter().filter(|field| matches!(field.field.attribute, Attribute::SourceIp | Attribute::RemoteIp));
    for field in sources.filter(|field| !field.negative) {
        for (index, value) in field.values.iter().enumerate() {
            let Value::Block(block, text) = value else { continue };
            let path = format!("{}[{index}]", field.path);
            let covered = pass.cluster.iter().find(|(address, _)| block.contains(*address));
            let told = if text.ends_with("/0") {
                let message = format!("`{text}` is every address of its family, the pods of the cluster included");
                Diagnostic::new(Code::BlockCoversCluster.entry(), message).level(Level::Note)
            } else if let Some((address, whose)) = covered.filter(|(address, _)| *text.as_ref() != address.to_string())
            {
                let message = format!("`{text}` holds {address}, the address of {whose}: the cluster itself is let in");
                let told = Diagnostic::new(Code::BlockCoversCluster.entry(), message);
                told.note("what enters through a node's port may bear the address of the node, whoever sent it")
            } else {
                continue;
            };
            pass.found.push(view.value_at(told, &path, ""));
        }
    }
}

/// Addresses of nodes and pods that the set knows.
pub(super) fn cluster(bundle: &Bundle, mesh: &Mesh) -> Vec<(IpAddr, String)> {
    let mut all = Vec::new();
    let documents = bundle.texts().iter().flat_map(|read| &read.documents).map(|document| &document.value);
    let objects = documents.flat_map(|value| {
        let items = value.get("items").and_then(Json::as_array).into_iter().flatten();
        std::iter::once(value).chain(items)
    });
    for node in objects.filter(|object| object.get("kind").and_then(Json::as_str) == Some("Node")) {
        let name = node.pointer("/metadata/name").and_then(Json::as_str).unwrap_or_default();
        let addresses = node.pointer("/status/addresses").and_then(Json::as_array).into_iter().flatten();
        let found = addresses.filter_map(|address| address.get("address")?.as_str()?.parse::<IpAddr>().ok());
        all.extend(found.map(|address| (address, format!("node `{name}`"))));
        let ranges =
            node.pointer("/spec/podCIDRs").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
        let range = node.pointer("/spec/podCIDR").and_then(Json::as_str);
        let first: BTreeSet<IpAddr> =
            ranges.chain(range).filter_map(|range| range.split('/').next()?.parse().ok()).collect();
        all.extend(first.into_iter().map(|address| (address, format!("the pods of node `{name}`"))));
    }
    for workload in &mesh.workloads {
        all.extend(workload.addresses.iter().map(|address| (*address, format!("pod `{}`", workload.id))));
    }
    all
}
