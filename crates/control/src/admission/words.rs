//! What is stored and not acted upon: kinds of Istio, and annotations of ours that are not built yet.

use api::Object;

use crate::finding::{Code, Remark};

/// The annotation that makes a policy the trial of an edit.
pub(super) const TRIAL_OF: &str = "tidegate.io/trial-of";

/// Annotations of a policy that nothing reads yet.
pub(crate) fn annotations(policy: &Object) -> impl Iterator<Item = Remark> {
    policy.annotations().filter(|(name, _)| *name != TRIAL_OF && name.starts_with("tidegate.io/")).map(|(name, _)| {
        let instead = match name {
            "tidegate.io/existing" => "connections that are no longer permitted are reset",
            _ => "nothing reads it",
        };
        Remark::new(
            Code::AnnotationWithoutEffect,
            &format!("metadata.annotations[{name}]"),
            format!("no effect yet: {instead}"),
        )
    })
}

/// What to tell who applies such a kind.
pub(super) fn without_effect(kind: &str) -> String {
    let effect = match kind {
        "VirtualService" => "traffic is not routed, split, retried or delayed by it",
        "DestinationRule" => "no subset, load balancing, connection pool or TLS setting of it is used",
        "Gateway" => "no port is opened by it",
        "ServiceEntry" => "no host is added by it, and pods have no way out to other networks",
        "Sidecar" => "it narrows nothing: policies alone decide who may connect",
        "WorkloadEntry" | "WorkloadGroup" => "only pods of this mesh are workloads",
        "EnvoyFilter" | "ProxyConfig" | "WasmPlugin" => "there is no Envoy to configure",
        "RequestAuthentication" => "tokens of HTTP requests are not looked at, so it refuses nothing",
        "Telemetry" => "records and logs are the same with and without it",
        _ => "nothing reads it",
    };
    format!("{kind} is stored and has no effect: {effect}")
}
