//! One pod, or pod template, joins the mesh.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{
    Error, INIT_CONTAINER, Options, Outcome, Owner, PROXY_CONTAINER, STATUS_ANNOTATION, Skip, containers,
    foreign_container, is_injected, name_of, rules, sidecar,
};

const MODE: &str = "sidecar.istio.io/interceptionMode";
const NATIVE: &str = "sidecar.istio.io/nativeSidecar";

/// What an annotation may say.
type Check = (fn(&str) -> bool, &'static str);

const PORTS: Check = (is_port_list, "write port numbers with commas between them, such as \"8080,9090\"");
const PORTS_OR_ALL: Check =
    (|text| text == "*" || is_port_list(text), "write \"*\", or port numbers with commas between them");
const RANGES: Check =
    (is_range_list, "write \"*\", or address ranges with commas between them, such as \"10.0.0.0/8\"");
const NAMES: Check =
    (|text| text.split(',').all(|name| !name.trim().is_empty()), "write names of interfaces with commas between them");
const MODES: Check = (|text| matches!(text, "REDIRECT" | "TPROXY" | "NONE"), "write REDIRECT, TPROXY or NONE");
const BOOLEAN: Check = (|text| matches!(text, "true" | "false"), "write \"true\" or \"false\"");
const QUANTITY: Check = (is_quantity, "write a quantity such as \"100m\" or \"128Mi\"");
const PORT: Check = (|text| text.parse::<u16>().is_ok(), "write a port number");
const TEXT: Check = (|text| !text.is_empty(), "write something, or take it out");

/// Every annotation that injection reads, with what it may say.
const ANNOTATIONS: [(&str, Check); 20] = [
    ("traffic.sidecar.istio.io/includeInboundPorts", PORTS_OR_ALL),
    ("traffic.sidecar.istio.io/excludeInboundPorts", PORTS),
    ("traffic.sidecar.istio.io/includeOutboundPorts", PORTS),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", PORTS),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", RANGES),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", RANGES),
    ("traffic.sidecar.istio.io/excludeInterfaces", NAMES),
    ("traffic.sidecar.istio.io/kubevirtInterfaces", NAMES),
    ("istio.io/reroute-virtual-interfaces", NAMES),
    (MODE, MODES),
    (NATIVE, BOOLEAN),
    ("sidecar.istio.io/inject", TEXT),
    ("sidecar.istio.io/proxyImage", TEXT),
    ("sidecar.istio.io/proxyCPU", QUANTITY),
    ("sidecar.istio.io/proxyCPULimit", QUANTITY),
    ("sidecar.istio.io/proxyMemory", QUANTITY),
    ("sidecar.istio.io/proxyMemoryLimit", QUANTITY),
    ("sidecar.istio.io/agentLogLevel", TEXT),
    ("status.sidecar.istio.io/port", PORT),
    ("proxy.istio.io/config", TEXT),
];

/// Puts the sidecar into a pod, unless it has one, refuses it or uses the network of the node. `object` names it in messages.
/// On an error the pod is left as it was.
pub fn inject_pod(pod: &mut Value, object: &str, owner: &Owner, options: &Options) -> Result<Outcome, Error> {
    if is_injected(pod) {
        return Ok(Outcome::Skipped(Skip::AlreadyInjected));
    }
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Ok(Outcome::Skipped(Skip::HostNetwork));
    }
    if rules::says_no(pod) {
        return Ok(Outcome::Skipped(Skip::Refused));
    }
    if let Some(foreign) = foreign_container(pod).or_else(|| left_over(pod)) {
        return Err(Error::NameTaken {
            object: object.to_owned(),
            container: name_of(foreign).to_owned(),
            image: foreign.get("image").and_then(Value::as_str).unwrap_or_default().to_owned(),
        });
    }
    check_annotations(pod, object)?;
    let notes = notes(pod);
    if !pod.get("spec").is_some_and(Value::is_object) {
        return Err(Error::NoPod { object: object.to_owned(), path: "spec".to_owned() });
    }
    let native = annotation(pod, NATIVE) != Some("false");
    let mode = annotation(pod, MODE).unwrap_or("REDIRECT").to_owned();
    add_metadata(pod, owner, options, native, &mode);
    add_spec(pod, owner, options, native, &mode);
    Ok(Outcome::Injected(notes))
}

/// One of our containers without the rest of an injection: half of one was taken out by hand.
fn left_over(pod: &Value) -> Option<&Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| containers(pod, list))
        .find(|container| matches!(name_of(container), INIT_CONTAINER | PROXY_CONTAINER))
}

fn add_metadata(pod: &mut Value, owner: &Owner, options: &Options, native: bool, mode: &str) {
    let first = containers(pod, "containers").next().map(name_of).unwrap_or_default().to_owned();
    let label = |key: &str| {
        pod.get("metadata").and_then(|all| all.get("labels")).and_then(|all| all.get(key)).and_then(Value::as_str)
    };
    let name = ["app.kubernetes.io/name", "app"].into_iter().find_map(label).unwrap_or(&owner.name).to_owned();
    let version = ["app.kubernetes.io/version", "version"].into_iter().find_map(label).unwrap_or("latest").to_owned();
    let scraped =
        ["path", "port", "scrape"].iter().any(|key| annotation(pod, &format!("prometheus.io/{key}")).is_some());
    let status = status(options, native, mode);

    let Some(pod) = pod.as_object_mut() else { return };
    edit_object(pod, "metadata", |metadata| {
        edit_object(metadata, "labels", |labels| {
            put_absent(labels, "security.istio.io/tlsMode", "istio");
            if !name.is_empty() {
                put_absent(labels, "service.istio.io/canonical-name", &name);
            }
            put_absent(labels, "service.istio.io/canonical-revision", &version);
        });
        edit_object(metadata, "annotations", |annotations| {
            put_absent(annotations, super::REVISION_LABEL, &options.revision);
            put_absent(annotations, "kubectl.kubernetes.io/default-container", &first);
            put_absent(annotations, "kubectl.kubernetes.io/default-logs-container", &first);
            if !scraped {
                // A pod that names its own metrics keeps them: they are not merged here.
                put_absent(annotations, "prometheus.io/path", "/stats/prometheus");
                put_absent(annotations, "prometheus.io/port", "15020");
                put_absent(annotations, "prometheus.io/scrape", "true");
            }
            annotations.insert(STATUS_ANNOTATION.to_owned(), Value::String(status));
        });
    });
}

fn status(options: &Options, native: bool, mode: &str) -> String {
    let mut initial: Vec<&str> = Vec::new();
    let mut usual: Vec<&str> = Vec::new();
    if mode != "NONE" {
        initial.push(INIT_CONTAINER);
    }
    if native { &mut initial } else { &mut usual }.push(PROXY_CONTAINER);
    json!({
        "initContainers": initial, "containers": usual, "volumes": sidecar::VOLUMES, "imagePullSecrets": null, "revision": options.revision,
    })
    .to_string()
}

fn add_spec(pod: &mut Value, owner: &Owner, options: &Options, native: bool, mode: &str) {
    let text = |key: &str| annotation(pod, key).map(str::to_owned);
    let traffic = |key: &str| text(&format!("traffic.sidecar.istio.io/{key}"));
    let redirection = sidecar::Redirection {
        mode: mode.to_owned(),
        include_outbound_ranges: traffic("includeOutboundIPRanges").unwrap_or_else(|| "*".to_owned()),
        exclude_outbound_ranges: traffic("excludeOutboundIPRanges").unwrap_or_default(),
        include_inbound_ports: traffic("includeInboundPorts").unwrap_or_else(|| "*".to_owned()),
        exclude_inbound_ports: traffic("excludeInboundPorts").unwrap_or_default(),
        include_outbound_ports: traffic("includeOutboundPorts").unwrap_or_default(),
        exclude_outbound_ports: traffic("excludeOutboundPorts").unwrap_or_default(),
        exclude_interfaces: traffic("excludeInterfaces").unwrap_or_default(),
        reroute_interfaces: text("istio.io/reroute-virtual-interfaces")
            .or_else(|| traffic("kubevirtInterfaces"))
            .unwrap_or_default(),
    };
    let sizing = sidecar::Sizing {
        cpu: text("sidecar.istio.io/proxyCPU"),
        cpu_limit: text("sidecar.istio.io/proxyCPULimit"),
        memory: text("sidecar.istio.io/proxyMemory"),
        memory_limit: text("sidecar.istio.io/proxyMemoryLimit"),
        log_level: text("sidecar.istio.io/agentLogLevel"),
        status_port: text("status.sidecar.istio.io/port").and_then(|port| port.parse().ok()),
        proxy_config: text("proxy.istio.io/config"),
    };
    let mut proxy = sidecar::proxy_container(options, owner, pod, mode, &sizing);
    let mut front = Vec::new();
    if mode != "NONE" {
        front.push(sidecar::init_container(options, &redirection));
    }
    if native {
        front.push(proxy.take());
    } else if let Some(map) = proxy.as_object_mut() {
        // Only a container that starts before the others restarts by itself and holds them back until it has started.
        map.shift_remove("restartPolicy");
        map.shift_remove("startupProbe");
    }
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if !native {
        edit_list(spec, "containers", |list| list.push(proxy));
    }
    // Before the pod's own, so that these find the network as the other containers will.
    edit_list(spec, "initContainers", |list| drop(list.splice(0..0, front)));
    edit_list(spec, "volumes", |list| {
        list.retain(|volume| !sidecar::VOLUMES.contains(&name_of(volume)));
        list.extend(sidecar::volumes());
    });
}

fn check_annotations(pod: &Value, object: &str) -> Result<(), Error> {
    for (key, (valid, expected)) in ANNOTATIONS {
        if let Some(value) = annotation(pod, key)
            && !valid(value)
            // An empty list is what Istio's own defaults write.
            && !(value.is_empty() && key.starts_with("traffic."))
        {
            return Err(Error::Annotation {
                object: object.to_owned(),
                annotation: key.to_owned(),
                value: value.to_owned(),
                expected,
            });
        }
    }
    Ok(())
}

/// What the annotations ask for and this mesh does not do. Nothing of it makes a policy weaker.
fn notes(pod: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    for (key, _) in ANNOTATIONS {
        if annotation(pod, key).is_none() {
            continue;
        }
        if key.starts_with("traffic.") || key == MODE || key == "istio.io/reroute-virtual-interfaces" {
            notes.push(format!(
                "annotation `{key}` has no effect on a local mesh: policies cover every port and address of the pod"
            ));
        } else if key == "sidecar.istio.io/proxyImage" {
            notes.push(format!("annotation `{key}` has no effect: the proxy is Tidegate's own"));
        }
    }
    notes
}

fn annotation<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// Edits the object under `key`, made if there is none.
fn edit_object(map: &mut Map<String, Value>, key: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
    let slot = map.entry(key).or_insert(Value::Null);
    let mut inner = match slot.take() {
        Value::Object(inner) => inner,
        _ => Map::new(),
    };
    edit(&mut inner);
    *slot = Value::Object(inner);
}

/// Edits the list under `key`; where it is empty afterwards, there is no such key.
fn edit_list(map: &mut Map<String, Value>, key: &str, edit: impl FnOnce(&mut Vec<Value>)) {
    let slot = map.entry(key).or_insert(Value::Null);
    let mut list = match slot.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    edit(&mut list);
    if list.is_empty() {
        map.shift_remove(key);
    } else {
        *slot = Value::Array(list);
    }
}

fn put_absent(map: &mut Map<String, Value>, key: &str, value: &str) {
    map.entry(key).or_insert_with(|| Value::String(value.to_owned()));
}

fn is_port_list(text: &str) -> bool {
    text.split(',').all(|port| port.trim().parse::<u16>().is_ok())
}

fn is_range_list(text: &str) -> bool {
    text == "*" || text.split(',').all(|range| is_range(range.trim()))
}

fn is_range(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let bits = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= bits)
}

fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    text.len() - number.len() <= 2 && number.parse::<f64>().is_ok_and(|value| value >= 0.0)
}
