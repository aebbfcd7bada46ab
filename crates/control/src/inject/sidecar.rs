//! What is added to a pod: the two containers and their volumes, as Istio shapes them.

use serde_json::{Value, json};

use super::{INIT_CONTAINER, Options, Owner, PROXY_CONTAINER, containers, name_of};

/// The uid and gid of the proxy. Nothing is exempt by them: they are kept because texts and tools expect them.
const PROXY_UID: u32 = 1337;
/// Ports of the proxy itself, never redirected: metrics of the data plane, health, merged metrics.
const OWN_PORTS: &str = "15090,15021,15020";
/// How long a projected token lives; the proxy asks for a new one long before.
const TOKEN_SECONDS: u32 = 43_200;

/// How traffic of the pod is to be redirected, from its annotations.
#[derive(Debug, Clone, Default)]
pub(super) struct Redirection {
    pub(super) mode: String,
    pub(super) include_outbound_ranges: String,
    pub(super) exclude_outbound_ranges: String,
    pub(super) include_inbound_ports: String,
    pub(super) exclude_inbound_ports: String,
    pub(super) include_outbound_ports: String,
    pub(super) exclude_outbound_ports: String,
    pub(super) exclude_interfaces: String,
    pub(super) reroute_interfaces: String,
}

/// Resources and log level of the proxy, from the pod's annotations.
#[derive(Debug, Clone, Default)]
pub(super) struct Sizing {
    pub(super) cpu: Option<String>,
    pub(super) cpu_limit: Option<String>,
    pub(super) memory: Option<String>,
    pub(super) memory_limit: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) status_port: Option<u16>,
    pub(super) proxy_config: Option<String>,
}

/// Names of the volumes, in the order in which they are added.
pub(super) const VOLUMES: [&str; 9] = [
    "workload-socket",
    "credential-socket",
    "workload-certs",
    "istio-envoy",
    "istio-data",
    "istio-podinfo",
    "istio-token",
    "istiod-ca-cert",
    "istio-ca-crl",
];

/// The container that sets up redirection.
pub(super) fn init_container(options: &Options, redirection: &Redirection) -> Value {
    let excluded = match redirection.exclude_inbound_ports.as_str() {
        "" => OWN_PORTS.to_owned(),
        more => format!("{OWN_PORTS},{more}"),
    };
    let mut args: Vec<&str> = vec![
        "istio-iptables",
        "-p",
        "15001",
        "-z",
        "15006",
        "-u",
        "1337",
        "-m",
        &redirection.mode,
        "-i",
        &redirection.include_outbound_ranges,
        "-x",
        &redirection.exclude_outbound_ranges,
        "-b",
        &redirection.include_inbound_ports,
        "-d",
        &excluded,
    ];
    for (flag, value) in [
        ("-q", &redirection.include_outbound_ports),
        ("-o", &redirection.exclude_outbound_ports),
        ("-c", &redirection.exclude_interfaces),
        ("-k", &redirection.reroute_interfaces),
    ] {
        if !value.is_empty() {
            args.extend([flag, value.as_str()]);
        }
    }
    args.push("--log_output_level=default:info");
    json!({
        "name": INIT_CONTAINER,
        "image": options.image,
        "args": args,
        "resources": resources(&Sizing::default()),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": false,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
        },
    })
}

/// The container of the proxy: a native sidecar, that is an init container that is restarted always.
pub(super) fn proxy_container(options: &Options, owner: &Owner, pod: &Value, mode: &str, sizing: &Sizing) -> Value {
    let status_port = sizing.status_port.unwrap_or(15021);
    let ready = json!({ "path": "/healthz/ready", "port": status_port });
    let level = sizing.log_level.as_deref().unwrap_or("default:info");
    json!({
        "name": PROXY_CONTAINER,
        "image": options.image,
        "restartPolicy": "Always",
        "args": ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local", format!("--log_output_level={level}")],
        "env": env(options, owner, pod, mode, sizing),
        "lifecycle": { "preStop": { "httpGet": { "path": "/drain", "port": 15020 } } },
        "ports": [{ "containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP" }],
        "readinessProbe": { "failureThreshold": 4, "httpGet": ready, "periodSeconds": 15, "timeoutSeconds": 3 },
        "startupProbe": { "failureThreshold": 600, "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 3 },
        "resources": resources(sizing),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
        },
        "volumeMounts": [
            { "mountPath": "/var/run/secrets/workload-spiffe-uds", "name": "workload-socket" },
            { "mountPath": "/var/run/secrets/credential-uds", "name": "credential-socket" },
            { "mountPath": "/var/run/secrets/workload-spiffe-credentials", "name": "workload-certs" },
            { "mountPath": "/var/run/secrets/istio", "name": "istiod-ca-cert" },
            { "mountPath": "/var/run/secrets/istio/crl", "name": "istio-ca-crl" },
            { "mountPath": "/var/lib/istio/data", "name": "istio-data" },
            { "mountPath": "/etc/istio/proxy", "name": "istio-envoy" },
            { "mountPath": "/var/run/secrets/tokens", "name": "istio-token" },
            { "mountPath": "/etc/istio/pod", "name": "istio-podinfo" },
        ],
    })
}

/// The volumes of the proxy, in the order of [`VOLUMES`].
pub(super) fn volumes() -> Vec<Value> {
    let field = |path: &str, name: &str| json!({ "fieldRef": { "fieldPath": path }, "path": name });
    VOLUMES
        .iter()
        .map(|name| match *name {
            "istio-envoy" => json!({ "name": name, "emptyDir": { "medium": "Memory" } }),
            "istio-podinfo" => json!({
                "name": name,
                "downwardAPI": { "items": [field("metadata.labels", "labels"), field("metadata.annotations", "annotations")] },
            }),
            "istio-token" => json!({
                "name": name,
                "projected": { "sources": [{ "serviceAccountToken": {
                    "audience": "istio-ca", "expirationSeconds": TOKEN_SECONDS, "path": "istio-token",
                } }] },
            }),
            "istiod-ca-cert" => json!({ "name": name, "configMap": { "name": "istio-ca-root-cert" } }),
            "istio-ca-crl" => json!({ "name": name, "configMap": { "name": "istio-ca-crl", "optional": true } }),
            _ => json!({ "name": name, "emptyDir": {} }),
        })
        .collect()
}

fn resources(sizing: &Sizing) -> Value {
    let or = |value: &Option<String>, otherwise: &str| value.clone().unwrap_or_else(|| otherwise.to_owned());
    json!({
        "limits": { "cpu": or(&sizing.cpu_limit, "2"), "memory": or(&sizing.memory_limit, "1Gi") },
        "requests": { "cpu": or(&sizing.cpu, "100m"), "memory": or(&sizing.memory, "128Mi") },
    })
}

fn env(options: &Options, owner: &Owner, pod: &Value, mode: &str, sizing: &Sizing) -> Vec<Value> {
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let ports: Vec<&Value> =
        containers(pod, "containers").filter_map(|one| one.get("ports")?.as_array()).flatten().collect();
    let names: Vec<&str> = containers(pod, "containers").map(name_of).collect();
    let mut env = vec![
        value("CA_ADDR", "istiod.istio-system.svc:15012"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        value("PROXY_CONFIG", sizing.proxy_config.as_deref().unwrap_or("{}")),
        value("ISTIO_META_POD_PORTS", &ports.into_iter().cloned().collect::<Value>().to_string()),
        value("ISTIO_META_APP_CONTAINERS", &names.join(",")),
        value("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        value("ISTIO_META_INTERCEPTION_MODE", mode),
    ];
    if !owner.name.is_empty() {
        env.push(value("ISTIO_META_WORKLOAD_NAME", &owner.name));
    }
    if let (Some(namespace), false) = (&owner.namespace, owner.plural.is_empty()) {
        let path =
            format!("kubernetes://apis/{}/namespaces/{namespace}/{}/{}", owner.api_version, owner.plural, owner.name);
        env.push(value("ISTIO_META_OWNER", &path));
    }
    env.push(value("ISTIO_META_MESH_ID", &options.trust_domain));
    env.push(value("TRUST_DOMAIN", &options.trust_domain));
    env
}
