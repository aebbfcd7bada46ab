//! Injection: how a pod joins the mesh, in a manifest on the command line or at the creation of a pod.
//!
//! What is added is what Istio adds: labels, annotations, `istio-init`, and `istio-proxy` as a native sidecar, so that tools and
//! texts written for it keep working. Locally both containers are recognised and not run; see ARCHITECTURE.md.
//! Deliberately not here: the rewriting of HTTP probes (ours are made from inside the pod) and the merging of metrics.

pub(crate) mod edit;
mod manifest;
mod pod;
mod rules;
mod sidecar;
#[cfg(test)]
mod tests;

use api::{Object, Objects};
use serde_json::Value;

pub(crate) use manifest::{HasPods, WORKLOADS};
pub use manifest::{Injection, inject_manifest};
pub use pod::inject_pod;
pub use rules::{Wish, wish};

/// The container that sets up redirection.
pub const INIT_CONTAINER: &str = "istio-init";
/// The container of the proxy.
pub const PROXY_CONTAINER: &str = "istio-proxy";
/// The repository of our image; any tag or digest of it counts as ours.
pub const IMAGE_REPOSITORY: &str = "tidegate/proxy";
/// The annotation that says what was injected.
pub const STATUS_ANNOTATION: &str = "sidecar.istio.io/status";
/// The label, or annotation, by which a pod asks for injection or refuses it.
pub const INJECT: &str = "sidecar.istio.io/inject";
/// The label by which a namespace switches injection on or off.
pub const NAMESPACE_LABEL: &str = "istio-injection";
/// The label by which a namespace or a pod says how the ambient mesh takes it in.
const DATAPLANE_LABEL: &str = "istio.io/dataplane-mode";
/// The label by which a namespace or a pod chooses a revision.
pub const REVISION_LABEL: &str = "istio.io/rev";
/// The revision that is meant when none is named.
pub const DEFAULT_REVISION: &str = "default";

/// What an injection is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The image of the two containers.
    pub image: String,
    /// The revision written into the annotations.
    pub revision: String,
    /// The trust domain the proxy is told.
    pub trust_domain: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image: format!("{IMAGE_REPOSITORY}:{}", env!("CARGO_PKG_VERSION")),
            revision: DEFAULT_REVISION.to_owned(),
            trust_domain: "cluster.local".to_owned(),
        }
    }
}

/// Whom a pod belongs to, as far as it is known when it is injected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Name of the workload that a user wrote: the deployment, not its replica set.
    pub name: String,
    /// Its API version and its plural, such as `apps/v1` and `deployments`; empty when not known.
    pub api_version: String,
    /// See `api_version`.
    pub plural: String,
    /// Its namespace, where the manifest names one.
    pub namespace: Option<String>,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the mesh now; the notes say what of it has no effect.
    Injected(Vec<String>),
    /// It was left as it is.
    Skipped(Skip),
}

/// Why a pod was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It is in the mesh already.
    AlreadyInjected,
    /// It uses the network of the node, which has no identity of its own.
    HostNetwork,
    /// Its label or annotation says no.
    Refused,
    /// It lives in a namespace of the system.
    SystemNamespace,
    /// Nothing asks for it.
    NotAsked,
}

impl std::fmt::Display for Skip {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::AlreadyInjected => "it is injected already",
            Self::HostNetwork => "it uses the network of the node (`hostNetwork: true`)",
            Self::Refused => "`sidecar.istio.io/inject` says \"false\"",
            Self::SystemNamespace => "its namespace belongs to the system",
            Self::NotAsked => "neither its namespace nor the pod asks for injection",
        })
    }
}

/// Why a pod or a manifest cannot be injected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The manifest is not YAML or JSON.
    #[error("{0}")]
    Syntax(String),
    /// There is no pod where the kind of the object demands one.
    #[error("{object}: `{path}` is missing or not an object: write the pod there")]
    NoPod {
        /// Kind and name.
        object: String,
        /// Where the pod should be.
        path: String,
    },
    /// A container has the name of one of ours and another image.
    #[error(
        "{object}: container `{container}` (image `{image}`) has a name that injection needs: rename it, or take out what another mesh injected"
    )]
    NameTaken {
        /// Kind and name.
        object: String,
        /// The container.
        container: String,
        /// Its image.
        image: String,
    },
    /// An annotation has a value that means nothing.
    #[error("{object}: annotation `{annotation}` is `{value}`: {expected}")]
    Annotation {
        /// Kind and name.
        object: String,
        /// The annotation.
        annotation: String,
        /// What it says.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
}

/// Whether a pod (or a pod template) is in the mesh: its status annotation is well formed, names the proxy, and every container it
/// names is there, where it is said to be, with our image.
///
/// This is the only test of membership. Whoever writes all of it by hand has joined the mesh; nothing else comes with it.
pub fn is_injected(pod: &Value) -> bool {
    let Some(annotation) =
        pod.get("metadata").and_then(|metadata| metadata.get("annotations")).and_then(|all| all.get(STATUS_ANNOTATION))
    else {
        return false;
    };
    let Some(status) = annotation.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return false;
    };
    let mut proxy = false;
    for list in ["initContainers", "containers"] {
        let Some(names) = named(&status, list) else { return false };
        for name in names {
            if !containers(pod, list).any(|container| name_of(container) == name && is_ours(container)) {
                return false;
            }
            proxy |= name == PROXY_CONTAINER;
        }
    }
    proxy && foreign_container(pod).is_none()
}

/// Whether a pod of a manifest, which no cluster has injected yet, is meant to be in the mesh: unless its namespace or the pod
/// itself says no. Who asks about manifests asks about a mesh, and few manifests say what the namespace they go to will say.
pub fn is_meant(pod: &Object, objects: &Objects) -> bool {
    let namespace = pod.namespace().unwrap_or_default();
    let of_namespace = objects.find("", "namespaces", None, namespace);
    let labels = of_namespace.map_or(&Value::Null, |object| object.at("/metadata/labels"));
    let ambient = |labels: &Value| labels.get(DATAPLANE_LABEL).and_then(Value::as_str).map(|mode| mode != "none");
    let outside = pod.at("/spec/hostNetwork").as_bool() == Some(true)
        || ambient(pod.at("/metadata/labels")).or_else(|| ambient(labels)) == Some(false)
        || labels.get(NAMESPACE_LABEL).and_then(Value::as_str).is_some_and(|word| word != "enabled")
        || matches!(wish(namespace, labels, pod.value()), Wish::Leave(Skip::Refused | Skip::SystemNamespace));
    !outside
}

/// Whether a container of an injected pod is one of the two that stand for the data plane and are never run locally.
pub fn is_virtual(pod: &Value, container: &str) -> bool {
    matches!(container, INIT_CONTAINER | PROXY_CONTAINER) && is_injected(pod)
}

/// A container that carries one of our names without our image.
fn foreign_container(pod: &Value) -> Option<&Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| containers(pod, list))
        .find(|container| matches!(name_of(container), INIT_CONTAINER | PROXY_CONTAINER) && !is_ours(container))
}

fn is_ours(container: &Value) -> bool {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    image.strip_prefix(IMAGE_REPOSITORY).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
}

fn name_of(container: &Value) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    pod.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_array).into_iter().flatten()
}

/// The names in one list of the status annotation; `null` and absent are empty, anything else is malformed.
fn named<'a>(status: &'a Value, list: &str) -> Option<Vec<&'a str>> {
    match status.get(list) {
        None if status.is_object() => Some(Vec::new()),
        Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(names)) => names.iter().map(Value::as_str).collect(),
        _ => None,
    }
}
