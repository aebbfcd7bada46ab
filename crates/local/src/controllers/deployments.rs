//! Deployments: one replica set for each template they had, and the way from one to the next.
//!
//! The replica set of a template is the one whose name ends in the template's hash, so going back to a former template
//! takes up its replica set again. Not here: `minReadySeconds` and `progressDeadlineSeconds`, which need time to pass
//! without any object changing (a ready pod counts as available at once; a rollout that hangs is never called failed).

mod rollout;
mod status;

use std::sync::Arc;

use api::{Object, Status};
use serde_json::{Value, json};

use super::plan::{Plan, controls, hash, key, letters, owned_by};
use super::replicasets::replicas;
use rollout::Bounds;

/// The label that tells the pods of one template from those of another.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The annotation that numbers templates in the order they came.
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// What `kubectl apply` last sent: says nothing about a replica set.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Letters of a template's hash in names: 27^10 keeps names apart and lets them fit.
const HASH_LETTERS: usize = 10;
/// Former templates that are kept to go back to, unless the deployment says.
const HISTORY_LIMIT: i64 = 10;

pub(super) fn reconcile(plan: &mut Plan<'_>, namespace: &str) {
    for deployment in plan.objects.in_namespace("apps", "deployments", namespace) {
        let sets: Vec<&Arc<Object>> = plan
            .objects
            .in_namespace("apps", "replicasets", namespace)
            .filter(|set| controls(deployment, set))
            .collect();
        if !deployment.is_deleting() {
            advance(plan, deployment, &sets);
        }
        let hash = template_hash(deployment);
        status::report(plan, deployment, current(&sets, &hash), &sets);
    }
}

fn template_hash(deployment: &Object) -> String {
    letters(hash(deployment.at("/spec/template")), HASH_LETTERS)
}

/// The replica set of the deployment's present template.
fn current<'a>(sets: &[&'a Arc<Object>], hash: &str) -> Option<&'a Arc<Object>> {
    sets.iter().copied().find(|set| set.label(TEMPLATE_HASH) == Some(hash))
}

fn revision(object: &Object) -> i64 {
    object.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn is_paused(deployment: &Object) -> bool {
    deployment.at("/spec/paused").as_bool().unwrap_or(false)
}

fn advance(plan: &mut Plan<'_>, deployment: &Object, sets: &[&Arc<Object>]) {
    let hash = template_hash(deployment);
    let bounds = Bounds::of(deployment);
    let new = current(sets, &hash);
    if is_paused(deployment) {
        // Nothing rolls, but the number of pods still follows: that of the latest template there is.
        if let Some(latest) = sets.iter().copied().max_by_key(|set| (replicas(set) > 0, revision(set))) {
            let others: i64 = sets.iter().filter(|set| set.uid() != latest.uid()).map(|set| replicas(set)).sum();
            scale(plan, deployment, latest, bounds.desired.saturating_sub(others).max(0));
        }
        return;
    }
    let old: Vec<&Arc<Object>> = sets.iter().copied().filter(|set| set.label(TEMPLATE_HASH) != Some(&hash)).collect();
    let latest = old.iter().map(|set| revision(set)).max().unwrap_or(0);
    let own = new.map_or(0, |set| revision(set));
    let number = if own > latest { own } else { latest.saturating_add(1) };
    number_template(plan, deployment, new, number);
    match new {
        None => {
            let first = rollout::first_replicas(plan.objects, &bounds, &old);
            if let Ok(set) = replica_set(deployment, &hash, number, first, &bounds) {
                let message = format!("Scaled up replica set {} from 0 to {first}", set.name());
                plan.create(set);
                plan.event(deployment, "ScalingReplicaSet", &message);
            }
        }
        Some(new) => {
            note(plan, deployment, new);
            for (set, wanted) in rollout::steps(plan.objects, &bounds, new, &old) {
                scale(plan, deployment, set, wanted);
            }
        }
    }
    forget(plan, deployment, &old);
}

/// Writes the number of the present template to the deployment and to its replica set.
fn number_template(plan: &mut Plan<'_>, deployment: &Object, new: Option<&Arc<Object>>, number: i64) {
    let patch = json!({ "metadata": { "annotations": { REVISION: number.to_string() } } });
    if let Some(new) = new.filter(|new| revision(new) != number) {
        plan.patch(key("apps", "replicasets", new), patch.clone());
    }
    if revision(deployment) != number {
        plan.patch(key("apps", "deployments", deployment), patch);
    }
}

/// What is noted at the deployment (why it was changed, among others) is noted at its present replica set too.
fn note(plan: &mut Plan<'_>, deployment: &Object, new: &Object) {
    let own = [LAST_APPLIED, REVISION, DESIRED, MAXIMUM];
    let differs = |(name, value): &(&str, &str)| !own.contains(name) && new.annotation(name) != Some(value);
    let noted: Value = deployment.annotations().filter(differs).collect();
    if noted.as_object().is_some_and(|noted| !noted.is_empty()) {
        plan.patch(key("apps", "replicasets", new), json!({ "metadata": { "annotations": noted } }));
    }
}

fn scale(plan: &mut Plan<'_>, deployment: &Object, set: &Object, wanted: i64) {
    let now = replicas(set);
    let bounds = Bounds::of(deployment);
    let (desired, maximum) = (bounds.desired.to_string(), bounds.maximum().to_string());
    let noted = set.annotation(DESIRED) == Some(&desired) && set.annotation(MAXIMUM) == Some(&maximum);
    if now == wanted && (noted || wanted == 0) {
        return;
    }
    let patch = json!({
        "metadata": { "annotations": { DESIRED: desired, MAXIMUM: maximum } }, "spec": { "replicas": wanted },
    });
    plan.patch(key("apps", "replicasets", set), patch);
    if now != wanted {
        let way = if now < wanted { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {} from {now} to {wanted}", set.name());
        plan.event(deployment, "ScalingReplicaSet", &message);
    }
}

fn replica_set(deployment: &Object, hash: &str, number: i64, replicas: i64, bounds: &Bounds) -> Result<Object, Status> {
    let mut set = Object::new(json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {} }))?;
    let label = format!("/labels/{TEMPLATE_HASH}");
    set.set("/metadata/name", format!("{}-{hash}", deployment.name()));
    set.set("/metadata/namespace", deployment.namespace().unwrap_or_default());
    if let Some(labels) = deployment.at("/spec/template/metadata/labels").as_object() {
        set.set("/metadata/labels", labels.clone());
    }
    set.set(&format!("/metadata{label}"), hash);
    let mut annotations: Value = deployment.annotations().filter(|(name, _)| *name != LAST_APPLIED).collect();
    api::patch::merge(
        &mut annotations,
        &json!({
            REVISION: number.to_string(), DESIRED: bounds.desired.to_string(), MAXIMUM: bounds.maximum().to_string(),
        }),
    );
    set.set("/metadata/annotations", annotations);
    set.set("/metadata/ownerReferences", owned_by(deployment));
    set.set("/spec/replicas", replicas);
    set.set("/spec/selector", deployment.at("/spec/selector").clone());
    set.set(&format!("/spec/selector/matchLabels/{TEMPLATE_HASH}"), hash);
    set.set("/spec/template", deployment.at("/spec/template").clone());
    set.set(&format!("/spec/template/metadata{label}"), hash);
    Ok(set)
}

/// Deletes the oldest replica sets without pods beyond the history that is wanted.
fn forget(plan: &mut Plan<'_>, deployment: &Object, old: &[&Arc<Object>]) {
    let limit = deployment.at("/spec/revisionHistoryLimit").as_i64().unwrap_or(HISTORY_LIMIT);
    let idle = |set: &Object| replicas(set) == 0 && set.at("/status/replicas").as_i64().unwrap_or(0) == 0;
    let mut idle: Vec<&Arc<Object>> = old.iter().copied().filter(|set| idle(set)).collect();
    idle.sort_by_key(|set| revision(set));
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for set in idle.into_iter().take(surplus) {
        plan.delete(key("apps", "replicasets", set), set);
    }
}
