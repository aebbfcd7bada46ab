//! What the server fills into built-in objects.
//!
//! [`apply`] belongs to every write and changes nothing the second time; [`on_create`] belongs to creation. Addresses of
//! services are not here: whoever allocates them fills them in.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::object::{Object, text};

/// Fills in defaults of the kind; objects of other kinds stay as they are.
pub fn apply(object: &mut Object) {
    match (object.group(), object.kind()) {
        ("", "Pod") => {
            with_mapping(object, "/spec", pod_spec);
            with_mapping(object, "/spec", requests_from_limits);
            put_absent(object, "/spec/enableServiceLinks", true);
        }
        ("apps", "Deployment") => deployment(object),
        ("apps", "ReplicaSet") => {
            put_absent(object, "/spec/replicas", 1);
            with_mapping(object, "/spec/template/spec", pod_spec);
        }
        ("batch", "Job") => job(object),
        ("", "Service") => service(object),
        ("", "Secret") => secret(object),
        ("", "Namespace") => {
            let name = object.name().to_owned();
            object.set("/metadata/labels/kubernetes.io~1metadata.name", name);
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            each(object.at_mut("/ports"), |port| {
                absent(port, "protocol", "TCP");
                absent(port, "name", "");
            });
        }
        ("", "Endpoints") => each(object.at_mut("/subsets"), |subset| {
            each(subset.get_mut("ports"), |port| absent(port, "protocol", "TCP"));
        }),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object),
        _ => {}
    }
}

/// What only a new object gets: its first status, and for pods what admission adds.
pub fn on_create(object: &mut Object) {
    match (object.group(), object.kind()) {
        ("", "Namespace") => {
            object.set("/spec/finalizers", json!(["kubernetes"]));
            object.set("/status", json!({"phase": "Active"}));
        }
        ("", "Pod") => {
            let account = [object.str_at("/spec/serviceAccountName"), object.str_at("/spec/serviceAccount"), "default"];
            let account = account.into_iter().find(|name| !name.is_empty()).unwrap_or("default").to_owned();
            object.set("/spec/serviceAccountName", account.as_str());
            object.set("/spec/serviceAccount", account);
            put_absent(object, "/spec/priority", 0);
            put_absent(object, "/spec/preemptionPolicy", "PreemptLowerPriority");
            tolerations(object);
            let class = qos_class(object.at("/spec"));
            object.set("/status", json!({"phase": "Pending", "qosClass": class}));
        }
        ("apps", "Deployment") => object.set("/status", json!({})),
        ("apps", "ReplicaSet") => object.set("/status", json!({"replicas": 0})),
        ("batch", "Job") => {
            object.set("/status", json!({}));
            own_pods(object);
        }
        ("", "Service") => object.set("/status", json!({"loadBalancer": {}})),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => established(object),
        _ => {}
    }
}

/// The quality-of-service class of a pod by its resources.
pub fn qos_class(spec: &Value) -> &'static str {
    let (mut any, mut all) = (false, true);
    for container in all_containers(spec) {
        for resource in ["cpu", "memory"] {
            let of = |kind: &str| container.pointer(&format!("/resources/{kind}/{resource}"));
            let (limit, request) = (of("limits"), of("requests"));
            any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn all_containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|list| spec.get(list)?.as_array()).flatten()
}

fn deployment(object: &mut Object) {
    put_absent(object, "/spec/replicas", 1);
    put_absent(object, "/spec/revisionHistoryLimit", 10);
    put_absent(object, "/spec/progressDeadlineSeconds", 600);
    put_absent(object, "/spec/strategy/type", "RollingUpdate");
    if object.str_at("/spec/strategy/type") == "RollingUpdate" {
        put_absent(object, "/spec/strategy/rollingUpdate/maxUnavailable", "25%");
        put_absent(object, "/spec/strategy/rollingUpdate/maxSurge", "25%");
    }
    with_mapping(object, "/spec/template/spec", pod_spec);
}

fn job(object: &mut Object) {
    // With parallelism alone a job is a queue of work, whose end its pods tell.
    if object.at("/spec/completions").is_null() && object.at("/spec/parallelism").is_null() {
        put_absent(object, "/spec/completions", 1);
    }
    put_absent(object, "/spec/parallelism", 1);
    put_absent(object, "/spec/backoffLimit", 6);
    put_absent(object, "/spec/completionMode", "NonIndexed");
    put_absent(object, "/spec/suspend", false);
    put_absent(object, "/spec/podReplacementPolicy", "TerminatingOrFailed");
    with_mapping(object, "/spec/template/spec", pod_spec);
}

/// Labels by which the pods of a job are found, and its selector, unless it says how it finds them.
fn own_pods(job: &mut Object) {
    if job.at("/spec/manualSelector") == &json!(true) {
        return;
    }
    let (uid, name) = (job.uid().to_owned(), job.name().to_owned());
    let labels = [("controller-uid", &uid), ("job-name", &name)];
    for (label, value) in labels {
        job.set(&format!("/spec/template/metadata/labels/batch.kubernetes.io~1{label}"), value.as_str());
        job.set(&format!("/spec/template/metadata/labels/{label}"), value.as_str());
    }
    job.set("/spec/selector", json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } }));
}

fn service(object: &mut Object) {
    put_absent(object, "/spec/type", "ClusterIP");
    put_absent(object, "/spec/sessionAffinity", "None");
    let kind = object.str_at("/spec/type").to_owned();
    if object.str_at("/spec/sessionAffinity") == "ClientIP" {
        put_absent(object, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds", 10800);
    }
    if kind != "ExternalName" {
        put_absent(object, "/spec/internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        put_absent(object, "/spec/externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        put_absent(object, "/spec/allocateLoadBalancerNodePorts", true);
    }
    each(object.at_mut("/spec/ports"), |port| {
        absent(port, "protocol", "TCP");
        let target = port.get("targetPort");
        let unset = target.is_none_or(|target| target.is_null() || target == &json!(0) || target == &json!(""));
        if let (true, Some(number)) = (unset, port.get("port").cloned()) {
            port.insert("targetPort".to_owned(), number);
        }
    });
}

/// Texts become data: `stringData` is never stored.
fn secret(object: &mut Object) {
    put_absent(object, "/type", "Opaque");
    if let Some(Value::Object(texts)) = object.remove("/stringData") {
        for (name, value) in texts {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or(""));
            object.set(&format!("/data/{}", name.replace('~', "~0").replace('/', "~1")), encoded);
        }
    }
}

fn definition(object: &mut Object) {
    let kind = object.str_at("/spec/names/kind").to_owned();
    put_absent(object, "/spec/names/singular", kind.to_lowercase());
    put_absent(object, "/spec/names/listKind", format!("{kind}List"));
    put_absent(object, "/spec/conversion/strategy", "None");
}

fn established(object: &mut Object) {
    let since = object.at("/metadata/creationTimestamp").clone();
    let mut stored = object.items_at("/spec/versions").iter();
    let stored =
        stored.find(|version| version.get("storage") == Some(&json!(true))).map_or("", |one| text(one, "name"));
    let condition = |name: &str, reason: &str, message: &str| json!({"type": name, "status": "True", "lastTransitionTime": since, "reason": reason, "message": message});
    let status = json!({
        "acceptedNames": object.at("/spec/names"), "storedVersions": [stored],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
    object.set("/status", status);
}

fn tolerations(object: &mut Object) {
    let mut all = object.items_at("/spec/tolerations").to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !all.iter().any(|one| text(one, "key") == key && matches!(text(one, "effect"), "" | "NoExecute")) {
            all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    object.set("/spec/tolerations", all);
}

fn pod_spec(spec: &mut Map<String, Value>) {
    absent(spec, "restartPolicy", "Always");
    absent(spec, "dnsPolicy", "ClusterFirst");
    absent(spec, "schedulerName", "default-scheduler");
    absent(spec, "terminationGracePeriodSeconds", 30);
    absent(spec, "securityContext", json!({}));
    for list in ["containers", "initContainers"] {
        each(spec.get_mut(list), container);
    }
    each(spec.get_mut("volumes"), volume);
}

fn container(container: &mut Map<String, Value>) {
    absent(container, "terminationMessagePath", "/dev/termination-log");
    absent(container, "terminationMessagePolicy", "File");
    absent(container, "resources", json!({}));
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    absent(container, "imagePullPolicy", policy);
    each(container.get_mut("ports"), |port| absent(port, "protocol", "TCP"));
    each(container.get_mut("env"), |variable| {
        if let Some(Value::Object(field)) = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            absent(field, "apiVersion", "v1");
        }
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            for (field, value) in
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
            {
                absent(probe, field, value);
            }
            http_get(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(Value::Object(action)) =
            container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook))
        {
            http_get(action);
        }
    }
}

fn http_get(action: &mut Map<String, Value>) {
    if let Some(Value::Object(get)) = action.get_mut("httpGet") {
        absent(get, "path", "/");
        absent(get, "scheme", "HTTP");
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|field| field == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(Value::Object(source)) = volume.get_mut(source) {
            absent(source, "defaultMode", 0o644);
        }
    }
    if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
        absent(path, "type", "");
    }
    each(volume.get_mut("projected").and_then(|projected| projected.get_mut("sources")), |source| {
        if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
            absent(token, "expirationSeconds", 3600);
        }
    });
}

fn requests_from_limits(spec: &mut Map<String, Value>) {
    for list in ["containers", "initContainers"] {
        each(spec.get_mut(list), |container| {
            let Some(Value::Object(resources)) = container.get_mut("resources") else { return };
            let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
            let requests = resources.entry("requests").or_insert_with(|| json!({}));
            if let Value::Object(requests) = requests {
                for (resource, limit) in limits {
                    requests.entry(resource).or_insert(limit);
                }
            }
        });
    }
}

/// Whether an image reference means the newest image: no tag and no digest, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map_or(!digest, |(_, tag)| tag == "latest")
}

fn put_absent(object: &mut Object, pointer: &str, value: impl Into<Value>) {
    let unset = matches!(object.at(pointer), Value::Null) || object.at(pointer).as_str() == Some("");
    if unset {
        object.set(pointer, value);
    }
}

fn absent(fields: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if fields.get(name).is_none_or(Value::is_null) || fields.get(name).and_then(Value::as_str) == Some("") {
        fields.insert(name.to_owned(), value.into());
    }
}

fn with_mapping(object: &mut Object, pointer: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    if let Some(Value::Object(fields)) = object.at_mut(pointer) {
        change(fields);
    }
}

fn each(list: Option<&mut Value>, mut change: impl FnMut(&mut Map<String, Value>)) {
    for item in list.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(fields) = item {
            change(fields);
        }
    }
}

#[cfg(test)]
mod tests;
