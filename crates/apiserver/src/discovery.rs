//! What is served: the legacy lists, one for each group and version, and the aggregated document in one piece.

use std::net::SocketAddr;

use api::Kinds;
use api::kinds::{Kind, Subresource};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use crate::{Body, reply, request};

/// Clients read an answer of any other type as the legacy form.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a path that discovery owns; none for any other.
pub(crate) fn answer(kinds: &Kinds, path: &str, headers: &HeaderMap, address: SocketAddr) -> Option<Response<Body>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let value = match parts.as_slice() {
        [top @ ("api" | "apis")] if wants_aggregated(headers) => return Some(aggregated(kinds, *top == "api")),
        ["api"] => core_versions(kinds, address),
        ["apis"] => groups(kinds),
        ["apis", group] => one_group(kinds, group)?,
        ["api", version] => resources(kinds, "", version)?,
        ["apis", group, version] => resources(kinds, group, version)?,
        _ => return None,
    };
    let mut response = reply::json(StatusCode::OK, &value);
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Some(response)
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    request::values(headers, ACCEPT).any(|wanted| {
        let has = |part: &str| wanted.split(';').any(|one| one.trim() == part);
        has("as=APIGroupDiscoveryList") && has("v=v2") && has("g=apidiscovery.k8s.io")
    })
}

fn core_versions(kinds: &Kinds, address: SocketAddr) -> Value {
    let versions = kinds.groups().into_iter().find(|(group, _)| group.is_empty()).map(|(_, versions)| versions);
    json!({
        "kind": "APIVersions", "versions": versions.unwrap_or_default(),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address.to_string()}],
    })
}

fn groups(kinds: &Kinds) -> Value {
    let groups = kinds.groups();
    let groups: Vec<Value> = groups
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_of(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn one_group(kinds: &Kinds, group: &str) -> Option<Value> {
    let groups = kinds.groups();
    let (_, versions) = groups.iter().find(|(name, _)| *name == group && !group.is_empty())?;
    let mut value = group_of(group, versions);
    let fields = value.as_object_mut()?;
    fields.insert("kind".to_owned(), Value::from("APIGroup"));
    fields.insert("apiVersion".to_owned(), Value::from("v1"));
    Some(value)
}

fn group_of(group: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": group, "versions": all, "preferredVersion": all.first()})
}

fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in kinds.in_version(group, version) {
        resources.push(resource(kind));
        let parts = kind.version(version).map(|version| version.subresources.as_slice()).unwrap_or_default();
        resources.extend(parts.iter().map(|part| part_of(kind, part)));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!resources.is_empty()).then(|| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

fn resource(kind: &Kind) -> Value {
    let mut value = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": kind.verbs,
    });
    add_names(&mut value, kind);
    value
}

fn add_names(value: &mut Value, kind: &Kind) {
    if let Some(fields) = value.as_object_mut() {
        if !kind.short_names.is_empty() {
            fields.insert("shortNames".to_owned(), json!(kind.short_names));
        }
        if !kind.categories.is_empty() {
            fields.insert("categories".to_owned(), json!(kind.categories));
        }
    }
}

fn part_of(kind: &Kind, part: &Subresource) -> Value {
    let [group, version, name] = part.body.unwrap_or_default();
    let mut value = json!({
        "name": format!("{}/{}", kind.plural, part.name), "singularName": "", "namespaced": kind.namespaced,
        "kind": if name.is_empty() { kind.kind.as_str() } else { name }, "verbs": part.verbs,
    });
    if let Some(fields) = value.as_object_mut().filter(|_| !group.is_empty()) {
        fields.insert("group".to_owned(), Value::from(group));
        fields.insert("version".to_owned(), Value::from(version));
    }
    value
}

fn aggregated(kinds: &Kinds, core: bool) -> Response<Body> {
    let groups = kinds.groups();
    let items: Vec<Value> = groups
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.iter().map(|version| aggregated_version(kinds, group, version)).collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut response = reply::json(StatusCode::OK, &list);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_version(kinds: &Kinds, group: &str, version: &str) -> Value {
    let resources: Vec<Value> = kinds
        .in_version(group, version)
        .map(|kind| {
            // Built-in kinds inherit group and version, as real servers have it.
            let (inherit, none) = (kind.builtin, "");
            let of = |name: &str| json!({"group": if inherit { none } else { group }, "version": if inherit { none } else { version }, "kind": name});
            let parts = kind.version(version).map(|version| version.subresources.as_slice()).unwrap_or_default();
            let parts: Vec<Value> = parts
                .iter()
                .map(|part| {
                    let kind = match part.body {
                        Some([group, version, name]) => json!({"group": group, "version": version, "kind": name}),
                        None => of(&kind.kind),
                    };
                    json!({"subresource": part.name, "responseKind": kind, "verbs": part.verbs})
                })
                .collect();
            let mut value = json!({
                "resource": kind.plural, "responseKind": of(&kind.kind), "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": kind.singular, "verbs": kind.verbs,
            });
            add_names(&mut value, kind);
            if let Some(fields) = value.as_object_mut().filter(|_| !parts.is_empty()) {
                fields.insert("subresources".to_owned(), Value::from(parts));
            }
            value
        })
        .collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}
