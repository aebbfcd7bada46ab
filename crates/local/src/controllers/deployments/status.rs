//! What a deployment says about itself.

use std::sync::Arc;

use api::Object;
use serde_json::{Value, json};

use super::super::plan::{Plan, key, with_condition};
use super::rollout::Bounds;
use super::{is_paused, replicas};

pub(super) fn report(plan: &mut Plan<'_>, deployment: &Object, new: Option<&Arc<Object>>, sets: &[&Arc<Object>]) {
    let count = |set: &Object, name: &str| set.at(&format!("/status/{name}")).as_i64().unwrap_or(0);
    let total = |name: &str| sets.iter().map(|set| count(set, name)).sum::<i64>();
    let updated = new.map_or(0, |set| count(set, "replicas"));
    let (all, available) = (total("replicas"), total("availableReplicas"));
    let unavailable = sets.iter().map(|set| replicas(set)).sum::<i64>().max(replicas(deployment)) - available;
    let mut conditions = deployment.items_at("/status/conditions").to_vec();
    let now = plan.now();
    with_condition(&mut conditions, &availability(deployment, available), &now);
    let complete = all == updated && updated == replicas(deployment) && available >= updated;
    with_condition(&mut conditions, &progress(deployment, new.map(|set| set.name()), complete), &now);
    // Counts of zero are left out of statuses, but a merge must be able to take one back to it.
    let zero_as_null = |count: i64| if count <= 0 { Value::Null } else { Value::from(count) };
    let status = json!({
        "observedGeneration": deployment.generation(),
        "replicas": zero_as_null(all),
        "updatedReplicas": zero_as_null(updated),
        "readyReplicas": zero_as_null(total("readyReplicas")),
        "availableReplicas": zero_as_null(available),
        "unavailableReplicas": zero_as_null(unavailable),
        "conditions": conditions,
    });
    plan.patch_status(key("apps", "deployments", deployment), deployment, &status);
}

fn availability(deployment: &Object, available: i64) -> Value {
    if available >= Bounds::of(deployment).minimum() {
        condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        let message = "Deployment does not have minimum availability.";
        condition("Available", "False", "MinimumReplicasUnavailable", message)
    }
}

fn progress(deployment: &Object, set: Option<&str>, complete: bool) -> Value {
    match set {
        _ if is_paused(deployment) => condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused"),
        Some(set) if complete => {
            let message = format!("ReplicaSet \"{set}\" has successfully progressed.");
            condition("Progressing", "True", "NewReplicaSetAvailable", &message)
        }
        Some(set) => {
            condition("Progressing", "True", "ReplicaSetUpdated", &format!("ReplicaSet \"{set}\" is progressing."))
        }
        None => condition("Progressing", "True", "NewReplicaSetCreated", "Created new replica set"),
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message })
}
