//! Which addresses a service leads to: endpoint slices for each family, and the older `Endpoints`.
//!
//! Pods may resolve a named target port to different numbers: each such set of ports has a slice of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::selector::LabelSelector;
use api::{Object, Objects};
use serde_json::{Value, json};

use super::plan::{Plan, controls, hash, is_over, is_ready, key, letters, owned_by};

const GROUP: &str = "discovery.k8s.io";
const SLICES: &str = "endpointslices";
/// Label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Letters at the end of a slice's name.
const SUFFIX_LETTERS: usize = 5;

pub(super) fn reconcile(plan: &mut Plan<'_>, namespace: &str) {
    for service in plan.objects.in_namespace("", "services", namespace) {
        let selector = service.at("/spec/selector");
        let selects = selector.as_object().is_some_and(|labels| !labels.is_empty());
        if !selects || service.is_deleting() || service.str_at("/spec/type") == "ExternalName" {
            continue;
        }
        let pods = backends(plan, service, &LabelSelector::exact(selector));
        slices(plan, service, &pods);
        endpoints(plan, service, &pods);
    }
}

/// A pod that a service leads to.
#[derive(Debug)]
struct Backend<'a> {
    pod: &'a Arc<Object>,
    ready: bool,
    ports: Value,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

fn backends<'a>(plan: &Plan<'a>, service: &Object, selector: &LabelSelector) -> Vec<Backend<'a>> {
    let namespace = service.namespace().unwrap_or_default();
    let always = service.at("/spec/publishNotReadyAddresses").as_bool().unwrap_or(false);
    let selected =
        plan.objects.in_namespace("", "pods", namespace).filter(|pod| selector.matches(pod) && !is_over(pod));
    let mut backends = Vec::new();
    for pod in selected {
        let addresses: Vec<IpAddr> = addresses(pod).collect();
        if addresses.is_empty() {
            continue;
        }
        backends.push(Backend {
            pod,
            ready: always || (is_ready(pod) && !pod.is_deleting()),
            ports: ports(service, pod),
            v4: addresses.iter().copied().find(IpAddr::is_ipv4),
            v6: addresses.iter().copied().find(IpAddr::is_ipv6),
        });
    }
    backends
}

/// The addresses that a pod reports.
pub(crate) fn addresses(pod: &Object) -> impl Iterator<Item = IpAddr> {
    let listed = pod.items_at("/status/podIPs").iter().filter_map(|item| item.get("ip")?.as_str());
    let first = Some(pod.str_at("/status/podIP")).filter(|_| pod.items_at("/status/podIPs").is_empty());
    listed.chain(first).filter_map(|text| text.parse().ok())
}

/// The service's ports as this pod has them; a name that the pod does not know is left out.
fn ports(service: &Object, pod: &Object) -> Value {
    let port = |port: &Value| {
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
        let number = target_port(port, protocol, pod)?;
        let mut shown = json!({ "name": port.get("name").and_then(Value::as_str).unwrap_or(""), "port": number });
        if let (Some(fields), Some(application)) = (shown.as_object_mut(), port.get("appProtocol")) {
            fields.insert("appProtocol".to_owned(), application.clone());
        }
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("protocol".to_owned(), Value::from(protocol));
        }
        Some(shown)
    };
    service.items_at("/spec/ports").iter().filter_map(port).collect()
}

/// Where a port of a service leads to inside a pod.
fn target_port(port: &Value, protocol: &str, pod: &Object) -> Option<u64> {
    let own = port.get("port").and_then(Value::as_u64);
    let target = port.get("targetPort").unwrap_or(&Value::Null);
    let Some(name) = target.as_str() else {
        return target.as_u64().filter(|number| *number > 0).or(own);
    };
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let containers = pod.items_at("/spec/containers").iter().chain(pod.items_at("/spec/initContainers"));
    let ports = containers.filter_map(|container| container.get("ports")?.as_array()).flatten();
    let same = |one: &&Value| {
        let text = |field: &str| one.get(field).and_then(Value::as_str);
        text("name") == Some(name) && text("protocol").unwrap_or("TCP") == protocol
    };
    ports.filter(same).find_map(|one| one.get("containerPort")?.as_u64())
}

fn slices(plan: &mut Plan<'_>, service: &Object, pods: &[Backend<'_>]) {
    let namespace = service.namespace().unwrap_or_default();
    let mut wanted: BTreeMap<String, Object> = BTreeMap::new();
    for family in service.items_at("/spec/ipFamilies").iter().filter_map(Value::as_str) {
        let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
        // A service without pods has one slice that says so.
        groups.insert(slice_name(service, family, &json!([])), (json!([]), Vec::new()));
        for backend in pods {
            let address = if family == "IPv6" { backend.v6 } else { backend.v4 };
            let Some(address) = address else { continue };
            let group = groups.entry(slice_name(service, family, &backend.ports));
            let shown = endpoint(service, backend, address);
            group.or_insert_with(|| (backend.ports.clone(), Vec::new())).1.push(shown);
        }
        if groups.len() > 1 {
            groups.retain(|_, (_, endpoints)| !endpoints.is_empty());
        }
        for (name, (ports, endpoints)) in groups {
            wanted.insert(name.clone(), slice(service, &name, family, ports, endpoints));
        }
    }
    for found in plan.objects.in_namespace(GROUP, SLICES, namespace) {
        if !controls(service, found) || found.label(MANAGED_BY) != Some(MANAGER) {
            continue;
        }
        match wanted.remove(found.name()) {
            None => plan.delete(key(GROUP, SLICES, found), found),
            Some(wanted) => update(plan, found, &wanted, &["addressType", "endpoints", "ports"]),
        }
    }
    for slice in wanted.into_values() {
        plan.create(slice);
    }
}

fn slice_name(service: &Object, family: &str, ports: &Value) -> String {
    format!("{}-{}", service.name(), letters(hash(&json!([service.uid(), family, ports])), SUFFIX_LETTERS))
}

fn slice(service: &Object, name: &str, family: &str, ports: Value, endpoints: Vec<Value>) -> Object {
    let mut slice = Object::named("discovery.k8s.io/v1", "EndpointSlice", service.namespace(), name);
    slice.set("/metadata/labels", json!({ SERVICE_NAME: service.name(), MANAGED_BY: MANAGER }));
    slice.set("/metadata/ownerReferences", owned_by(service));
    slice.set("/addressType", family);
    slice.set("/endpoints", endpoints);
    slice.set("/ports", ports);
    slice
}

fn endpoint(service: &Object, backend: &Backend<'_>, address: IpAddr) -> Value {
    let terminating = backend.pod.is_deleting();
    let mut shown = json!({
        "addresses": [address],
        "conditions": { "ready": backend.ready, "serving": is_ready(backend.pod), "terminating": terminating },
        "nodeName": backend.pod.str_at("/spec/nodeName"),
        "targetRef": target(backend.pod),
    });
    // A pod that names itself below this service has a DNS name of its own.
    let host = backend.pod.str_at("/spec/hostname");
    let below = backend.pod.str_at("/spec/subdomain") == service.name() && !host.is_empty();
    if let Some(fields) = shown.as_object_mut().filter(|_| below) {
        fields.insert("hostname".to_owned(), Value::from(host));
    }
    shown
}

fn target(pod: &Object) -> Value {
    json!({ "kind": "Pod", "name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid() })
}

/// Sets the fields that differ.
fn update(plan: &mut Plan<'_>, found: &Object, wanted: &Object, fields: &[&str]) {
    let differs = |field: &&&str| found.at(&format!("/{field}")) != wanted.at(&format!("/{field}"));
    let mut new = None;
    for field in fields.iter().filter(differs) {
        let value = wanted.at(&format!("/{field}")).clone();
        new.get_or_insert_with(|| found.clone()).set(&format!("/{field}"), value);
    }
    if let Some(new) = new {
        plan.replace(new);
    }
}

/// The older form, of the service's first family.
fn endpoints(plan: &mut Plan<'_>, service: &Object, pods: &[Backend<'_>]) {
    let v6 = service.items_at("/spec/ipFamilies").first().and_then(Value::as_str) == Some("IPv6");
    let mut groups: BTreeMap<String, (Value, Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for backend in pods.iter().filter(|backend| !backend.pod.is_deleting()) {
        let Some(address) = (if v6 { backend.v6 } else { backend.v4 }) else { continue };
        let shown = json!({
            "ip": address, "nodeName": backend.pod.str_at("/spec/nodeName"), "targetRef": target(backend.pod),
        });
        let group = groups.entry(slice_name(service, "", &backend.ports));
        let (_, ready, waiting) = group.or_insert_with(|| (backend.ports.clone(), Vec::new(), Vec::new()));
        if backend.ready { ready.push(shown) } else { waiting.push(shown) }
    }
    let subset = |(mut ports, ready, waiting): (Value, Vec<Value>, Vec<Value>)| {
        // Unlike in slices, a port without name has none here.
        for port in ports.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            port.retain(|field, value| field != "name" || value != "");
        }
        let mut subset = json!({ "ports": ports });
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            if let Some(fields) = subset.as_object_mut().filter(|_| !addresses.is_empty()) {
                fields.insert(field.to_owned(), Value::from(addresses));
            }
        }
        subset
    };
    let subsets: Vec<Value> = groups.into_values().map(subset).collect();
    let mut wanted = Object::named("v1", "Endpoints", service.namespace(), service.name());
    wanted.set("/metadata/ownerReferences", owned_by(service));
    if !subsets.is_empty() {
        wanted.set("/subsets", subsets);
    }
    match plan.objects.find("", "endpoints", service.namespace(), service.name()) {
        Some(found) => update(plan, found, &wanted, &["subsets"]),
        None => plan.create(wanted),
    }
}

/// The slices of a service.
pub(crate) fn slices_of<'a>(
    objects: &'a Objects,
    namespace: &'a str,
    service: &'a str,
) -> impl Iterator<Item = &'a Arc<Object>> {
    objects.in_namespace(GROUP, SLICES, namespace).filter(move |slice| slice.label(SERVICE_NAME) == Some(service))
}
