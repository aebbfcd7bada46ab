//! Which events mean something to enforcement. Pure.
//!
//! Most writes of a mesh are status: how far a pod's containers are, what became of a policy. Enforcement, VIPs and names
//! look at none of it but a pod's addresses and whether it is over; readiness reaches them by endpoint slices.

use api::object::Object;
use api::{Change, Event, Key};
use control::translate::{AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS, SECURITY_GROUP};
use serde_json::Value;

/// What has to be done because of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Meaning {
    /// Tables, VIPs or names may have to change.
    pub(super) enforce: bool,
    /// What the status of a policy says may not be so.
    pub(super) tell: bool,
}

impl Meaning {
    /// Of the first look at a store.
    pub(super) const EVERYTHING: Self = Self { enforce: true, tell: true };

    pub(super) fn of(event: &Event) -> Self {
        let enforce = enforces(event);
        Self { enforce, tell: enforce || is_policy(&event.key) }
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self { enforce: self.enforce || other.enforce, tell: self.tell || other.tell }
    }
}

fn is_policy(key: &Key) -> bool {
    [AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS].iter().any(|plural| key.is(SECURITY_GROUP, plural))
}

fn enforces(event: &Event) -> bool {
    let key = &event.key;
    let is_pod = key.is("", "pods");
    let is_settings = key.is("", "configmaps")
        && key.name == control::mesh_config::NAME
        && key.namespace.as_deref() == Some(control::mesh_config::NAMESPACE);
    // Slices have no status: all of one is what VIPs and names are made of.
    let whole = is_settings || key.is("discovery.k8s.io", "endpointslices");
    if !(whole || is_pod || is_policy(key) || key.is("", "namespaces") || key.is("", "services")) {
        return false;
    }
    match &event.change {
        Change::Put { old: Some(old), new } if !whole => {
            metadata(old) != metadata(new)
                || old.at("/spec") != new.at("/spec")
                || (is_pod && of_pod_status(old) != of_pod_status(new))
        }
        Change::Put { .. } | Change::Deleted { .. } => true,
    }
}

/// All of it but what changes with every write.
fn metadata(object: &Object) -> Vec<(&str, &Value)> {
    const OF_EVERY_WRITE: [&str; 3] = ["resourceVersion", "managedFields", "generation"];
    let fields = object.at("/metadata").as_object().into_iter().flatten();
    fields.map(|(name, value)| (name.as_str(), value)).filter(|(name, _)| !OF_EVERY_WRITE.contains(name)).collect()
}

fn of_pod_status(pod: &Object) -> (bool, &Value, &Value) {
    let is_over = matches!(pod.str_at("/status/phase"), "Failed" | "Succeeded");
    (is_over, pod.at("/status/podIP"), pod.at("/status/podIPs"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn event(key: Key, old: Option<Value>, new: Option<Value>) -> Event {
        let object = |value: Value| Arc::new(Object::new(value).unwrap());
        let change = match (old, new) {
            (old, Some(new)) => Change::Put { old: old.map(object), new: object(new) },
            (Some(old), None) => Change::Deleted { old: object(old) },
            (None, None) => panic!("nothing happened"),
        };
        Event { revision: 2, key, change }
    }

    #[test]
    fn only_what_the_pure_functions_look_at_means_something() {
        let before = json!({
            "apiVersion": "v1", "kind": "Any",
            "metadata": {"name": "a", "namespace": "n", "resourceVersion": "1", "labels": {"l": "1"}},
            "spec": {"s": 1}, "data": {"d": 1},
            "status": {"phase": "Pending", "podIP": "10.0.0.1", "conditions": []},
        });
        let key = |group: &str, plural: &str, name: &str| Key::namespaced(group, plural, "istio-system", name);
        let [pod, service, policy] =
            [key("", "pods", "a"), key("", "services", "a"), key(SECURITY_GROUP, AUTHORIZATION_POLICIES, "a")];
        let slice = key("discovery.k8s.io", "endpointslices", "a");
        let (settings, map) = (key("", "configmaps", "istio"), key("", "configmaps", "other"));
        let (nothing, all) = (Meaning::default(), Meaning::EVERYTHING);
        let told = Meaning { enforce: false, tell: true };
        for (key, pointer, value, wanted) in [
            (&pod, "/status/conditions", json!([{"type": "Ready"}]), nothing),
            (&pod, "/status/phase", json!("Running"), nothing),
            (&pod, "/status/phase", json!("Failed"), all),
            (&pod, "/status/podIP", json!("10.0.0.2"), all),
            (&pod, "/metadata/resourceVersion", json!("2"), nothing),
            (&pod, "/metadata/labels/l", json!("2"), all),
            (&pod, "/metadata/annotations", json!({"a": "1"}), all),
            (&pod, "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"), all),
            (&pod, "/spec/s", json!(2), all),
            (&service, "/status/loadBalancer", json!({}), nothing),
            (&service, "/spec/s", json!(2), all),
            (&policy, "/status/conditions", json!([{"type": "Accepted"}]), told),
            (&policy, "/spec/s", json!(2), all),
            (&slice, "/endpoints", json!([]), all),
            (&settings, "/data/d", json!(2), all),
            (&map, "/data/d", json!(2), nothing),
        ] {
            let mut after = Object::new(before.clone()).unwrap();
            after.set(pointer, value);
            let changed = event(key.clone(), Some(before.clone()), Some(after.value().clone()));
            assert_eq!(Meaning::of(&changed), wanted, "{} {pointer}", key.plural);
        }
        for key in [&pod, &service, &policy, &slice, &settings] {
            assert_eq!(Meaning::of(&event(key.clone(), None, Some(before.clone()))), all, "{} comes", key.plural);
            assert_eq!(Meaning::of(&event(key.clone(), Some(before.clone()), None)), all, "{} goes", key.plural);
        }
        assert_eq!(Meaning::of(&event(key("", "events", "a"), None, Some(before))), nothing);
    }
}
