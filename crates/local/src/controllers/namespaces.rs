//! Namespaces: what each has from the start, and how one ends: contents first, then itself.

use api::{Key, Object};
use serde_json::json;

use super::plan::{Plan, with_condition};

/// The config map by which pods check the API server's certificate.
const ROOT_CA: &str = "kube-root-ca.crt";

pub(super) fn reconcile(plan: &mut Plan<'_>, namespace: &Object) {
    if namespace.is_deleting() {
        end(plan, namespace);
    } else {
        root_ca(plan, namespace.name());
    }
}

fn root_ca(plan: &mut Plan<'_>, namespace: &str) {
    let content = json!({ "ca.crt": plan.cluster().ca_pem });
    match plan.objects.find("", "configmaps", Some(namespace), ROOT_CA) {
        Some(map) if *map.at("/data") == content => {}
        Some(map) => {
            let mut map = map.as_ref().clone();
            map.set("/data", content);
            plan.replace(map);
        }
        None => {
            let mut map = Object::named("v1", "ConfigMap", Some(namespace), ROOT_CA);
            map.set("/data", content);
            plan.create(map);
        }
    }
}

/// Deletes what is inside; when nothing is, gives up the finalizer that holds the namespace.
fn end(plan: &mut Plan<'_>, namespace: &Object) {
    let name = namespace.name();
    let key = Key::cluster("", "namespaces", name);
    let inside: Vec<_> = plan.objects.all().filter(|(key, _)| key.namespace.as_deref() == Some(name)).collect();
    if inside.is_empty() {
        if !namespace.items_at("/spec/finalizers").is_empty() {
            plan.patch(key, json!({ "spec": { "finalizers": [] } }));
        }
        return;
    }
    let held = inside.iter().filter(|(_, object)| object.finalizers().next().is_some()).count();
    let ending = inside.iter().filter(|(_, object)| object.is_deleting()).count();
    for (key, object) in &inside {
        plan.delete(key.clone(), object);
    }
    // Only what the first round left is worth telling: the rest is gone by the next look.
    if ending > 0 {
        let mut conditions = namespace.items_at("/status/conditions").to_vec();
        let now = plan.now();
        let mut condition = |kind: &str, count: usize, some: &str, none: &str, message: String| {
            let (status, reason) = if count > 0 { ("True", some) } else { ("False", none) };
            let wanted = json!({ "type": kind, "status": status, "reason": reason, "message": message });
            with_condition(&mut conditions, &wanted, &now);
        };
        let left = format!("{ending} objects are still being deleted");
        condition("NamespaceContentRemaining", ending, "SomeResourcesRemain", "ContentRemoved", left);
        let waiting = format!("{held} objects wait for their finalizers");
        condition("NamespaceFinalizersRemaining", held, "SomeFinalizersRemain", "ContentHasNoFinalizers", waiting);
        plan.patch_status(key, namespace, &json!({ "conditions": conditions }));
    }
}
