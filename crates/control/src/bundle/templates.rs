//! Templates stand for their pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Key, Object};
use serde_json::{Value, json};

use super::Bundle;
use crate::inject::{HasPods, WORKLOADS};

/// Makes a pod of every template that has none: it bears the name of the template's owner, and, where a pod has that name
/// already, the owner's kind behind it.
pub(super) fn expand(bundle: &mut Bundle) {
    let served = with_pods(bundle);
    for (group, kind, plural, path) in WORKLOADS.into_iter().filter(|known| !known.3.is_empty()) {
        let owners: Vec<Arc<Object>> = bundle
            .objects
            .list(group, plural)
            .filter(|owner| !is_owned(bundle, owner) && (owner.uid().is_empty() || !served.contains(owner.uid())))
            .map(Arc::clone)
            .collect();
        for owner in owners {
            one(bundle, &owner, (group, kind, plural, path));
        }
    }
}

fn one(bundle: &mut Bundle, owner: &Object, (group, kind, plural, path): HasPods) {
    let template = owner.at(path);
    if !template.is_object() {
        return;
    }
    let namespace = owner.namespace().unwrap_or_default();
    let taken = |name: &str| bundle.objects.find("", "pods", Some(namespace), name).is_some();
    let mut name = owner.name().to_owned();
    if taken(&name) {
        name = format!("{name}-{}", kind.to_ascii_lowercase());
        if taken(&name) {
            return;
        }
    }
    let Some(origin) = bundle.origin(&Key::namespaced(group, plural, namespace, owner.name())).cloned() else { return };
    let field = |name: &str| template.get(name).cloned().unwrap_or(Value::Null);
    let mut pod = Object::named("v1", "Pod", None, &name);
    pod.set("/metadata", field("metadata"));
    pod.set("/metadata/name", name.as_str());
    pod.set("/metadata/namespace", namespace);
    pod.set(
        "/metadata/ownerReferences",
        json!([{"apiVersion": owner.api_version(), "kind": kind, "name": owner.name(), "controller": true}]),
    );
    pod.set("/spec", field("spec"));
    let prefix = origin.path(&path.trim_start_matches('/').replace('/', "."));
    bundle.put(Key::namespaced("", "pods", namespace, &name), pod, super::Origin { prefix, ..origin });
}

/// Whether another object of the set made this one: then that one's template counts.
fn is_owned(bundle: &Bundle, object: &Object) -> bool {
    object.controller().is_some_and(|owner| {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let known = WORKLOADS.iter().find(|known| known.0 == group && known.1 == owner.kind);
        known.is_some_and(|known| bundle.objects.find(group, known.2, object.namespace(), owner.name).is_some())
    })
}

/// Uids of everything that has pods in the set: a dump of a cluster holds them beside their templates.
fn with_pods(bundle: &Bundle) -> BTreeSet<String> {
    let controller = |object: &Object| object.controller().map(|owner| owner.uid.to_owned());
    let mut found: BTreeSet<String> =
        bundle.objects.list("", "pods").filter_map(|pod| controller(pod)).filter(|uid| !uid.is_empty()).collect();
    for (group, plural) in [("apps", "replicasets"), ("batch", "jobs")] {
        let above: Vec<String> = bundle
            .objects
            .list(group, plural)
            .filter(|object| found.contains(object.uid()))
            .filter_map(|object| controller(object))
            .collect();
        found.extend(above);
    }
    found
}
