//! Services as the policy core wants them: what protocol a workload port speaks depends on them, a verdict never does.

use api::{Object, Objects};
use policy::{Labels, Service, ServicePort};
use serde_json::Value;

use super::labels;

/// All services that select pods.
pub(super) fn of(objects: &Objects) -> Vec<Service> {
    objects.list("", "services").filter_map(|service| one(objects, service)).collect()
}

fn one(objects: &Objects, service: &Object) -> Option<Service> {
    let selector = labels(service.at("/spec/selector"));
    if selector.is_empty() || service.str_at("/spec/type") == "ExternalName" {
        return None;
    }
    let namespace = service.namespace().unwrap_or_default();
    let mut ports = Vec::new();
    for port in service.items_at("/spec/ports") {
        // Without a word it is TCP; others are never judged.
        if !matches!(text(port, "protocol"), None | Some("TCP")) {
            continue;
        }
        let Some(number) = number(port.get("port")) else { continue };
        for target in targets(objects, namespace, &selector, port, number) {
            ports.push(ServicePort {
                name: text(port, "name").map(str::to_owned),
                app_protocol: text(port, "appProtocol").map(str::to_owned),
                port: number,
                target,
            });
        }
    }
    Some(Service {
        namespace: namespace.to_owned(),
        name: service.name().to_owned(),
        selector,
        ports,
        created: Some(service.str_at("/metadata/creationTimestamp").to_owned()).filter(|time| !time.is_empty()),
    })
}

/// The workload ports behind a service port: one, or, for a name, each that the selected pods give to it.
fn targets(objects: &Objects, namespace: &str, selector: &Labels, port: &Value, same: u16) -> Vec<u16> {
    match port.get("targetPort") {
        None | Some(Value::Null) => vec![same],
        Some(Value::String(name)) => {
            let mut found: Vec<u16> = objects
                .in_namespace("", "pods", namespace)
                .filter(|pod| selects(selector, pod))
                .filter_map(|pod| named_port(pod, name))
                .collect();
            found.sort_unstable();
            found.dedup();
            // Digits in quotes are a number to Kubernetes as well, once no port has them as its name.
            if found.is_empty() { name.parse().ok().into_iter().collect() } else { found }
        }
        // 0 stands for "not given".
        value => vec![number(value).filter(|port| *port != 0).unwrap_or(same)],
    }
}

fn selects(selector: &Labels, pod: &Object) -> bool {
    selector.iter().all(|(key, value)| pod.label(key) == Some(value))
}

fn named_port(pod: &Object, name: &str) -> Option<u16> {
    let lists = ["/spec/containers", "/spec/initContainers"];
    lists
        .into_iter()
        .flat_map(|list| pod.items_at(list))
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten()
        .filter(|port| text(port, "name") == Some(name) && matches!(text(port, "protocol"), None | Some("TCP")))
        .find_map(|port| number(port.get("containerPort")))
}

fn number(value: Option<&Value>) -> Option<u16> {
    u16::try_from(value?.as_u64()?).ok()
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}
