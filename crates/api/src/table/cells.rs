//! Columns and cells of the built-in kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{name_column, pod};
use crate::kinds::{Column, Kind};
use crate::object::{Object, text};
use crate::time;

/// A column after `Name`: heading, type, and whether it shows only under `-o wide`.
type Heading = (&'static str, &'static str, bool);

const AGE: Heading = ("Age", "string", false);
/// Most addresses or ports shown in one cell before `+ n more...`.
const SHOWN_MAX: usize = 3;

const POD: &[Heading] = &[
    ("Ready", "string", false),
    ("Status", "string", false),
    ("Restarts", "string", false),
    AGE,
    ("IP", "string", true),
    ("Node", "string", true),
    ("Nominated Node", "string", true),
    ("Readiness Gates", "string", true),
];
const DEPLOYMENT: &[Heading] = &[
    ("Ready", "string", false),
    ("Up-to-date", "string", false),
    ("Available", "string", false),
    AGE,
    ("Containers", "string", true),
    ("Images", "string", true),
    ("Selector", "string", true),
];
const REPLICA_SET: &[Heading] = &[
    ("Desired", "integer", false),
    ("Current", "integer", false),
    ("Ready", "integer", false),
    AGE,
    ("Containers", "string", true),
    ("Images", "string", true),
    ("Selector", "string", true),
];
const JOB: &[Heading] = &[
    ("Status", "string", false),
    ("Completions", "string", false),
    ("Duration", "string", false),
    AGE,
    ("Containers", "string", true),
    ("Images", "string", true),
    ("Selector", "string", true),
];
const SERVICE: &[Heading] = &[
    ("Type", "string", false),
    ("Cluster-IP", "string", false),
    ("External-IP", "string", false),
    ("Port(s)", "string", false),
    AGE,
    ("Selector", "string", true),
];
const NODE: &[Heading] = &[
    ("Status", "string", false),
    ("Roles", "string", false),
    AGE,
    ("Version", "string", false),
    ("Internal-IP", "string", true),
    ("External-IP", "string", true),
    ("OS-Image", "string", true),
    ("Kernel-Version", "string", true),
    ("Container-Runtime", "string", true),
];
const EVENT: &[Heading] = &[
    ("Last Seen", "string", false),
    ("Type", "string", false),
    ("Reason", "string", false),
    ("Object", "string", false),
    ("Subobject", "string", true),
    ("Source", "string", true),
    ("Message", "string", false),
    ("First Seen", "string", true),
    ("Count", "string", true),
    ("Name", "string", true),
];
const ENDPOINT_SLICE: &[Heading] =
    &[("AddressType", "string", false), ("Ports", "string", false), ("Endpoints", "string", false), AGE];

fn headings(kind: &Kind) -> &'static [Heading] {
    match kind.kind.as_str() {
        "Pod" => POD,
        "Deployment" => DEPLOYMENT,
        "ReplicaSet" => REPLICA_SET,
        "Job" => JOB,
        "Service" => SERVICE,
        "Node" => NODE,
        "Event" => EVENT,
        "EndpointSlice" => ENDPOINT_SLICE,
        "Namespace" => &[("Status", "string", false), AGE],
        "Secret" => &[("Type", "string", false), ("Data", "integer", false), AGE],
        "ConfigMap" => &[("Data", "integer", false), AGE],
        "Endpoints" => &[("Endpoints", "string", false), AGE],
        "Lease" => &[("Holder", "string", false), AGE],
        "CustomResourceDefinition" => &[("Created At", "date", false)],
        _ => &[AGE],
    }
}

pub(super) fn columns(kind: &Kind) -> Vec<Column> {
    let after = headings(kind).iter().map(|&(name, cell_type, wide)| Column {
        name: name.to_owned(),
        cell_type: cell_type.to_owned(),
        format: if name == "Name" { "name" } else { "" }.to_owned(),
        description: format!("{name} of the {}.", kind.kind),
        priority: i64::from(wide),
        path: String::new(),
    });
    // Events are told by what happened; their own name comes last.
    if kind.kind == "Event" { after.collect() } else { std::iter::once(name_column()).chain(after).collect() }
}

pub(super) fn cells(kind: &Kind, object: &Object, now: Timestamp) -> Vec<Value> {
    let age = json!(time::age(object.str_at("/metadata/creationTimestamp"), now));
    let name = json!(object.name());
    let or_none = |text: &str| json!(if text.is_empty() { "<none>" } else { text });
    match kind.kind.as_str() {
        "Pod" => pod::cells(object, now),
        "Deployment" => {
            let wanted = count(object, "/spec/replicas");
            let mut cells = vec![
                name,
                json!(format!("{}/{wanted}", count(object, "/status/readyReplicas"))),
                json!(count(object, "/status/updatedReplicas").to_string()),
                json!(count(object, "/status/availableReplicas").to_string()),
                age,
            ];
            cells.extend(template(object));
            cells
        }
        "ReplicaSet" => {
            let counts = ["/spec/replicas", "/status/replicas", "/status/readyReplicas"];
            let mut cells = vec![name];
            cells.extend(counts.map(|pointer| json!(count(object, pointer))));
            cells.push(age);
            cells.extend(template(object));
            cells
        }
        "Job" => job(object, now, age),
        "Service" => service(object, age),
        "Node" => node(object, age),
        "Event" => event(object, now),
        "EndpointSlice" => {
            let ports = object
                .items_at("/ports")
                .iter()
                .map(|port| port.get("port").map_or_else(|| "*".to_owned(), Value::to_string));
            let endpoints = object.items_at("/endpoints").iter();
            let addresses = endpoints.filter_map(|one| one.get("addresses")?.as_array()).flatten();
            let addresses = addresses.filter_map(Value::as_str).map(str::to_owned);
            vec![
                name,
                json!(object.str_at("/addressType")),
                json!(some(ports, "<unset>")),
                json!(some(addresses, "<unset>")),
                age,
            ]
        }
        "Namespace" => vec![name, json!(object.str_at("/status/phase")), age],
        "Secret" => vec![name, json!(object.str_at("/type")), json!(size(object, "/data")), age],
        "ConfigMap" => vec![name, json!(size(object, "/data").saturating_add(size(object, "/binaryData"))), age],
        "Endpoints" => vec![name, json!(some(endpoints(object).into_iter(), "<none>")), age],
        "Lease" => vec![name, or_none(object.str_at("/spec/holderIdentity")), age],
        "CustomResourceDefinition" => vec![name, json!(object.str_at("/metadata/creationTimestamp"))],
        _ => vec![name, age],
    }
}

fn job(object: &Object, now: Timestamp, age: Value) -> Vec<Value> {
    let is = |kind: &str| {
        let mut conditions = object.items_at("/status/conditions").iter();
        conditions.any(|one| text(one, "type") == kind && text(one, "status") == "True")
    };
    let status = match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if !object.at("/metadata/deletionTimestamp").is_null() => "Terminating",
        () if is("Suspended") => "Suspended",
        () => "Running",
    };
    let (done, wanted) = (count(object, "/status/succeeded"), object.at("/spec/completions").as_u64());
    let completions = match (wanted, count(object, "/spec/parallelism")) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, 0 | 1) => format!("{done}/1"),
        (None, side_by_side) => format!("{done}/1 of {side_by_side}"),
    };
    let duration = time::parse(object.str_at("/status/startTime")).map_or_else(String::new, |begun| {
        let end = time::parse(object.str_at("/status/completionTime")).unwrap_or(now);
        time::short_duration(end.as_second().saturating_sub(begun.as_second()))
    });
    let mut cells = vec![json!(object.name()), json!(status), json!(completions), json!(duration), age];
    cells.extend(template(object));
    cells
}

/// Containers, images and selector of a workload.
fn template(object: &Object) -> [Value; 3] {
    let containers = object.items_at("/spec/template/spec/containers");
    let all = |field| json!(containers.iter().map(|one| text(one, field)).collect::<Vec<_>>().join(","));
    [all("name"), all("image"), json!(selector(object.at("/spec/selector")))]
}

fn selector(selector: &Value) -> String {
    let mut terms = pairs(selector.get("matchLabels").unwrap_or(&Value::Null));
    for one in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = text(one, "key");
        let values = one.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(",");
        terms.push(match text(one, "operator") {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            operator => format!("{key} {} ({values})", operator.to_lowercase()),
        });
    }
    if terms.is_empty() { "<none>".to_owned() } else { terms.join(",") }
}

fn pairs(labels: &Value) -> Vec<String> {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    pairs.sort();
    pairs
}

fn service(object: &Object, age: Value) -> Vec<Value> {
    let kind = object.str_at("/spec/type");
    let own = object.items_at("/spec/externalIPs").iter().filter_map(Value::as_str);
    let balanced = object.items_at("/status/loadBalancer/ingress").iter();
    let balanced = balanced.map(|one| if text(one, "ip").is_empty() { text(one, "hostname") } else { text(one, "ip") });
    let external: Vec<&str> = own.chain(balanced).collect();
    let external = match (kind, external.is_empty()) {
        ("ExternalName", _) => object.str_at("/spec/externalName").to_owned(),
        (_, false) => external.join(","),
        ("LoadBalancer", true) => "<pending>".to_owned(),
        (_, true) => "<none>".to_owned(),
    };
    let ports = object.items_at("/spec/ports").iter().map(|port| {
        let number = |field| port.get(field).and_then(Value::as_u64).unwrap_or(0);
        let protocol = if text(port, "protocol").is_empty() { "TCP" } else { text(port, "protocol") };
        match number("nodePort") {
            0 => format!("{}/{protocol}", number("port")),
            node => format!("{}:{node}/{protocol}", number("port")),
        }
    });
    let ports = ports.collect::<Vec<_>>().join(",");
    let address = object.str_at("/spec/clusterIP");
    let labels = pairs(object.at("/spec/selector")).join(",");
    let or_none = |text: &str| json!(if text.is_empty() { "<none>" } else { text });
    vec![json!(object.name()), json!(kind), or_none(address), json!(external), or_none(&ports), age, or_none(&labels)]
}

fn node(object: &Object, age: Value) -> Vec<Value> {
    let ready = object.items_at("/status/conditions").iter().find(|one| text(one, "type") == "Ready");
    let mut status = match ready.map(|one| text(one, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object.at("/spec/unschedulable").as_bool() == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    let roles = object.labels().filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
    let roles = roles.collect::<Vec<_>>().join(",");
    let address = |wanted: &str| {
        let found = object.items_at("/status/addresses").iter().find(|one| text(one, "type") == wanted);
        found.map_or("<none>", |one| text(one, "address")).to_owned()
    };
    let system = |field: &str| match object.str_at(&format!("/status/nodeInfo/{field}")) {
        "" => "<unknown>".to_owned(),
        known => known.to_owned(),
    };
    vec![
        json!(object.name()),
        json!(status),
        json!(if roles.is_empty() { "<none>" } else { &roles }),
        age,
        json!(object.str_at("/status/nodeInfo/kubeletVersion")),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        json!(system("osImage")),
        json!(system("kernelVersion")),
        json!(system("containerRuntimeVersion")),
    ]
}

/// Events of both groups; the newer one has other names for the same.
fn event(object: &Object, now: Timestamp) -> Vec<Value> {
    let first_of = |pointers: &[&str]| -> String {
        pointers.iter().map(|pointer| object.str_at(pointer)).find(|text| !text.is_empty()).unwrap_or("").to_owned()
    };
    let ago = |text: &str| time::age(text, now);
    let first = first_of(&["/firstTimestamp", "/eventTime", "/deprecatedFirstTimestamp"]);
    let last = first_of(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/deprecatedLastTimestamp"]);
    let times = [count(object, "/series/count"), count(object, "/count"), count(object, "/deprecatedCount"), 1];
    let times = times.into_iter().find(|&times| times > 0).unwrap_or(1);
    let seen = if times > 1 { format!("{} (x{times} over {})", ago(&last), ago(&first)) } else { ago(&last) };
    let about = if object.at("/involvedObject").is_null() { "/regarding" } else { "/involvedObject" };
    let part = |field: &str| object.str_at(&format!("{about}/{field}"));
    let source = first_of(&["/source/component", "/reportingComponent", "/reportingController"]);
    let host = object.str_at("/source/host");
    vec![
        json!(seen),
        json!(object.str_at("/type")),
        json!(object.str_at("/reason")),
        json!(format!("{}/{}", part("kind").to_lowercase(), part("name"))),
        json!(part("fieldPath")),
        json!(if host.is_empty() { source } else { format!("{source}, {host}") }),
        json!(first_of(&["/message", "/note"]).trim()),
        json!(ago(&first)),
        json!(times.to_string()),
        json!(object.name()),
    ]
}

fn endpoints(object: &Object) -> Vec<String> {
    let mut all = Vec::new();
    for subset in object.items_at("/subsets") {
        let list = |field| subset.get(field).and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
        for port in list("ports") {
            for address in list("addresses") {
                let number = port.get("port").and_then(Value::as_u64).unwrap_or(0);
                all.push(format!("{}:{number}", text(address, "ip")));
            }
        }
    }
    all
}

/// The first few of many, and how many more there are.
fn some(all: impl Iterator<Item = String>, none: &str) -> String {
    let all: Vec<String> = all.collect();
    let shown = all.get(..SHOWN_MAX).unwrap_or(&all).join(",");
    match all.len() {
        0 => none.to_owned(),
        1..=SHOWN_MAX => shown,
        more => format!("{shown} + {} more...", more.saturating_sub(SHOWN_MAX)),
    }
}

fn count(object: &Object, pointer: &str) -> u64 {
    object.at(pointer).as_u64().unwrap_or(0)
}

fn size(object: &Object, pointer: &str) -> usize {
    object.at(pointer).as_object().map_or(0, serde_json::Map::len)
}
