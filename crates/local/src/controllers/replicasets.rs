//! Replica sets: as many pods as wanted, new ones for those that are gone or failed.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Object, Status};
use serde_json::{Value, json};

use super::node::NODE_NAME;
use super::plan::{Plan, controls, is_over, is_ready, key, owned_by};

/// Most pods that one look makes or deletes for a replica set: the store commits them together, and nothing else waits
/// for long. The next look goes on.
const BURST_MAX: usize = 100;
/// Failed pods that are replaced. A pod that cannot work fails at once and again and again; this many are kept for
/// whoever looks for the reason, then no more are made until one of them is deleted.
const FAILED_REPLACED_MAX: usize = 5;
/// Lower goes first when a replica set shrinks.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub(super) fn reconcile(plan: &mut Plan<'_>, namespace: &str) {
    for set in plan.objects.in_namespace("apps", "replicasets", namespace) {
        let pods: Vec<&Arc<Object>> =
            plan.objects.in_namespace("", "pods", namespace).filter(|pod| controls(set, pod)).collect();
        if !set.is_deleting() {
            fill(plan, set, &pods);
        }
        report(plan, set, &pods);
    }
}

/// How many pods are wanted.
pub(super) fn replicas(object: &Object) -> i64 {
    object.at("/spec/replicas").as_i64().unwrap_or(1).max(0)
}

fn fill(plan: &mut Plan<'_>, set: &Object, pods: &[&Arc<Object>]) {
    let mut active: Vec<&Arc<Object>> =
        pods.iter().copied().filter(|pod| !is_over(pod) && !pod.is_deleting()).collect();
    let failed = pods.iter().filter(|pod| is_over(pod) && !pod.is_deleting()).count();
    let held = failed.saturating_sub(FAILED_REPLACED_MAX);
    let wanted = usize::try_from(replicas(set)).unwrap_or(0);
    let missing = wanted.saturating_sub(active.len() + held);
    if missing > 0 {
        let mut names: BTreeSet<String> = BTreeSet::new();
        let taken = |plan: &Plan<'_>, name: &str| plan.objects.find("", "pods", set.namespace(), name).is_some();
        while names.len() < missing.min(BURST_MAX) {
            let name = format!("{}-{}", set.name(), plan.suffix());
            if !taken(plan, &name) {
                names.insert(name);
            }
        }
        for name in names {
            if let Ok(pod) = pod(set, &name) {
                plan.create(pod);
                plan.event(set, "SuccessfulCreate", &format!("Created pod: {name}"));
            }
        }
    } else if active.len() > wanted {
        let surplus = active.len() - wanted;
        active.sort_by_key(|pod| worth(pod));
        for pod in active.into_iter().take(surplus.min(BURST_MAX)) {
            plan.delete(key("", "pods", pod), pod);
            plan.event(set, "SuccessfulDelete", &format!("Deleted pod: {}", pod.name()));
        }
    }
}

/// What goes first when there are too many: without address, not ready, cheap by its annotation, young.
fn worth(pod: &Object) -> impl Ord + use<> {
    let cost: i64 = pod.annotation(DELETION_COST).and_then(|text| text.parse().ok()).unwrap_or(0);
    let running = !pod.str_at("/status/podIP").is_empty();
    let born = pod.str_at("/metadata/creationTimestamp").to_owned();
    (running, is_ready(pod), cost, Reverse(born), pod.name().to_owned())
}

/// A pod of the object's template.
pub(super) fn pod(set: &Object, name: &str) -> Result<Object, Status> {
    let template = set.at("/spec/template");
    let mut pod = Object::new(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {} }))?;
    pod.set("/metadata/name", name);
    pod.set("/metadata/generateName", format!("{}-", set.name()));
    pod.set("/metadata/namespace", set.namespace().unwrap_or_default());
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")).filter(|value| !value.is_null()) {
            pod.set(&format!("/metadata/{field}"), value.clone());
        }
    }
    pod.set("/metadata/ownerReferences", owned_by(set));
    pod.set("/spec", template.get("spec").cloned().unwrap_or_else(|| json!({})));
    pod.set("/spec/nodeName", NODE_NAME);
    Ok(pod)
}

fn report(plan: &mut Plan<'_>, set: &Object, pods: &[&Arc<Object>]) {
    let active = pods.iter().filter(|pod| !is_over(pod) && !pod.is_deleting());
    let labels = set.at("/spec/template/metadata/labels");
    let has = |pod: &Object, label: &str, value: &Value| pod.label(label) == value.as_str();
    let fully =
        |pod: &Object| labels.as_object().is_none_or(|all| all.iter().all(|(label, value)| has(pod, label, value)));
    let (mut count, mut labelled, mut ready) = (0, 0, 0);
    for pod in active {
        count += 1;
        labelled += i64::from(fully(pod));
        ready += i64::from(is_ready(pod));
    }
    // Counts of zero are left out of statuses, but a merge must be able to take one back to it.
    let zero_as_null = |count: i64| if count == 0 { Value::Null } else { Value::from(count) };
    let status = json!({
        "replicas": count,
        "fullyLabeledReplicas": zero_as_null(labelled),
        "readyReplicas": zero_as_null(ready),
        "availableReplicas": zero_as_null(ready),
        "observedGeneration": set.generation(),
    });
    plan.patch_status(key("apps", "replicasets", set), set, &status);
}
