//! Which pods are injected when they are created: labels of the namespace and wishes of the pod.

use serde_json::Value;

use super::{DEFAULT_REVISION, INJECT, NAMESPACE_LABEL, REVISION_LABEL, Skip};

/// Namespaces whose pods are never injected: the cluster itself needs them to come up.
const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// What labels and annotations ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Inject, as this revision.
    Inject {
        /// `default` unless a label names another.
        revision: String,
    },
    /// Leave the pod alone.
    Leave(Skip),
}

/// What is asked for a pod that is being created in a namespace with these labels.
///
/// `istio-injection` on the namespace with any word but `enabled` switches all off; the pod's label beats its annotation of the same name; only the
/// literal words `true` and `false` count.
pub fn wish(namespace: &str, namespace_labels: &Value, pod: &Value) -> Wish {
    if is_system(namespace) {
        return Wish::Leave(Skip::SystemNamespace);
    }
    if says_no(pod) {
        return Wish::Leave(Skip::Refused);
    }
    let own = text(pod, "labels", REVISION_LABEL);
    let of_namespace = namespace_labels.get(REVISION_LABEL).and_then(Value::as_str);
    match (namespace_labels.get(NAMESPACE_LABEL).and_then(Value::as_str), of_namespace) {
        (Some("enabled"), _) => inject(DEFAULT_REVISION),
        (Some(_), _) => Wish::Leave(Skip::NotAsked),
        (None, Some(revision)) => inject(revision),
        (None, None) => match (own, says_yes(pod)) {
            (Some(revision), _) => inject(revision),
            (None, true) => inject(DEFAULT_REVISION),
            (None, false) => Wish::Leave(Skip::NotAsked),
        },
    }
}

/// Whether a namespace belongs to the system.
pub(super) fn is_system(namespace: &str) -> bool {
    SYSTEM_NAMESPACES.contains(&namespace)
}

/// Whether a pod refuses injection.
pub(super) fn says_no(pod: &Value) -> bool {
    word(pod) == Some("false")
}

fn says_yes(pod: &Value) -> bool {
    // An annotation alone asks for nothing where the namespace does not: Istio's webhooks look at labels.
    text(pod, "labels", INJECT) == Some("true")
}

fn word(pod: &Value) -> Option<&str> {
    text(pod, "labels", INJECT).or_else(|| text(pod, "annotations", INJECT))
}

fn text<'a>(pod: &'a Value, field: &str, key: &str) -> Option<&'a str> {
    pod.get("metadata")?.get(field)?.get(key)?.as_str()
}

fn inject(revision: &str) -> Wish {
    Wish::Inject { revision: revision.to_owned() }
}
