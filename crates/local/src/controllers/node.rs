//! The one node, and the pods that are to run on it: all.

use api::{Key, Object};
use serde_json::{Value, json};

use super::Cluster;
use super::plan::{Plan, key, with_condition};
use crate::images::architecture;

/// The namespace of the nodes' leases.
const LEASES: &str = "kube-node-lease";

/// Name of the node object.
pub const NODE_NAME: &str = "tidegate";

pub(super) fn reconcile(plan: &mut Plan<'_>) {
    let Some(node) = plan.objects.find("", "nodes", None, NODE_NAME) else {
        let mut node = Object::named("v1", "Node", None, NODE_NAME);
        node.set(
            "/metadata/labels",
            json!({ "kubernetes.io/hostname": NODE_NAME, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture() }),
        );
        plan.create(node);
        return;
    };
    lease(plan);
    let ranges = plan.cluster().ranges;
    let mut conditions = node.items_at("/status/conditions").to_vec();
    // Told once: the node is there as long as its mesh is, and no clock runs for it.
    let since = conditions.iter().find_map(|condition| condition.get("lastHeartbeatTime").cloned());
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "tidegate runs pods on this machine",
        "lastHeartbeatTime": since.unwrap_or_else(|| Value::from(plan.now())),
    });
    with_condition(&mut conditions, &ready, &plan.now());
    let Cluster { cpus, memory_bytes, .. } = plan.cluster();
    let resources = json!({
        "cpu": cpus.to_string(), "memory": format!("{}Ki", memory_bytes / 1024),
        "pods": ranges.pods_v4.usable().to_string(),
    });
    let status = json!({
        "addresses": [
            { "type": "InternalIP", "address": ranges.node_v4.to_string() },
            { "type": "InternalIP", "address": ranges.node_v6.to_string() },
            { "type": "Hostname", "address": NODE_NAME },
        ],
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions,
        "nodeInfo": {
            "architecture": architecture(), "operatingSystem": "linux", "osImage": "this machine", "kernelVersion": plan.cluster().kernel,
            "machineID": "", "systemUUID": "", "bootID": "", "kubeProxyVersion": "",
            "containerRuntimeVersion": concat!("tidegate://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "-tidegate"),
        },
    });
    plan.patch_status(Key::cluster("", "nodes", NODE_NAME), node, &status);
}

/// `kubectl describe node` asks who holds the node; whoever runs the mesh does, for as long as it runs.
fn lease(plan: &mut Plan<'_>) {
    let there = plan.objects.find("", "namespaces", None, LEASES).is_some_and(|found| !found.is_deleting());
    if there && plan.objects.find("coordination.k8s.io", "leases", Some(LEASES), NODE_NAME).is_none() {
        let mut lease = Object::named("coordination.k8s.io/v1", "Lease", Some(LEASES), NODE_NAME);
        lease.set("/spec/holderIdentity", NODE_NAME);
        plan.create(lease);
    }
}

/// Gives pods without node the one there is.
pub(super) fn schedule(plan: &mut Plan<'_>, namespace: &str) {
    for pod in plan.objects.in_namespace("", "pods", namespace) {
        if pod.str_at("/spec/nodeName").is_empty() && !pod.is_deleting() {
            let node: Value = json!({ "spec": { "nodeName": NODE_NAME } });
            plan.patch(key("", "pods", pod), node);
        }
    }
}
