//! Whether an object may be stored: everything that can be said without looking at other objects.
//!
//! In the order of the real server: types of fields, then `metadata`, then the rules of the kind, then what may not change.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kinds::Kind;
use crate::names;
use crate::object::{Object, text};
use crate::selector::LabelSelector;
use crate::status::{Cause, Status};

/// Checks an object of a kind that is to take the place of `old`, or is new.
///
/// Unknown fields are not told here: [`crate::schema::Schema::prune`] finds them.
pub fn validate(kind: &Kind, object: &Object, old: Option<&Object>) -> Result<(), Status> {
    let schema = kind.version(object.version()).and_then(|version| version.schema.as_ref());
    let mut causes = schema.map_or_else(Vec::new, |schema| schema.validate(object.value()));
    if kind.builtin
        && let Some(wrong) = causes.iter().find(|cause| cause.reason == "FieldValueTypeInvalid")
    {
        // The real server fails to decode such an object, which is another error than an invalid one.
        let (name, version) = (&kind.kind, object.version());
        return Err(Status::bad_request(format!(
            "{name} in version \"{version}\" cannot be handled as a {name}: {wrong}"
        )));
    }
    causes.splice(0..0, names::metadata(kind, object));
    if kind.builtin {
        builtin(object, &mut causes);
        if let Some(old) = old {
            immutable(old, object, &mut causes);
        }
    }
    if kind.plural == crate::kinds::CRD_PLURAL && kind.group == crate::kinds::CRD_GROUP && causes.is_empty() {
        Kind::from_crd(object)?;
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid(&kind.group, &kind.kind, object.name(), causes)) }
}

fn builtin(object: &Object, causes: &mut Vec<Cause>) {
    match (object.group(), object.kind()) {
        ("", "Pod") => pod_spec("spec", object.at("/spec"), causes),
        ("apps", "Deployment" | "ReplicaSet") => {
            let template = object.at("/spec/template");
            let labels = template.pointer("/metadata/labels").unwrap_or(&Value::Null);
            selected(object.at("/spec/selector"), labels, causes);
            names::labels("spec.template.metadata.labels", labels, causes);
            let policy = object.str_at("/spec/template/spec/restartPolicy");
            if !matches!(policy, "" | "Always") {
                let supported = ["Always".to_owned()];
                let field = "spec.template.spec.restartPolicy";
                causes.push(Cause::not_supported(field, &Value::from(policy), &supported));
            }
            not_negative("spec.replicas", object.at("/spec/replicas"), causes);
            pod_spec("spec.template.spec", template.get("spec").unwrap_or(&Value::Null), causes);
        }
        ("batch", "Job") => job(object, causes),
        ("", "Service") => service(object, causes),
        ("", "ConfigMap" | "Secret") => {
            for list in ["data", "binaryData"] {
                for key in object.at(&format!("/{list}")).as_object().into_iter().flatten().map(|(key, _)| key) {
                    let valid = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
                    if !valid || key.is_empty() || key.len() > 253 || key == "." || key.starts_with("..") {
                        let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                        causes.push(Cause::invalid(&format!("{list}[{key}]"), &Value::from(key.as_str()), detail));
                    }
                }
            }
        }
        _ => {}
    }
}

/// What a job may be, and what of Kubernetes' jobs is not built.
fn job(object: &Object, causes: &mut Vec<Cause>) {
    let template = object.at("/spec/template");
    names::labels(
        "spec.template.metadata.labels",
        template.pointer("/metadata/labels").unwrap_or(&Value::Null),
        causes,
    );
    let policy = object.str_at("/spec/template/spec/restartPolicy");
    if !matches!(policy, "OnFailure" | "Never") {
        let supported = ["OnFailure".to_owned(), "Never".to_owned()];
        causes.push(Cause::not_supported("spec.template.spec.restartPolicy", &Value::from(policy), &supported));
    }
    let numbers = ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"];
    for name in numbers {
        not_negative(&format!("spec.{name}"), object.at(&format!("/spec/{name}")), causes);
    }
    let mode = object.str_at("/spec/completionMode");
    if !matches!(mode, "" | "NonIndexed") {
        causes.push(Cause::not_supported("spec.completionMode", &Value::from(mode), &["NonIndexed".to_owned()]));
    }
    for name in ["podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "maxFailedIndexes", "managedBy"] {
        if !object.at(&format!("/spec/{name}")).is_null() {
            causes.push(Cause::forbidden(&format!("spec.{name}"), "is not built on a local mesh; remove the field"));
        }
    }
    pod_spec("spec.template.spec", template.get("spec").unwrap_or(&Value::Null), causes);
}

fn selected(selector: &Value, labels: &Value, causes: &mut Vec<Cause>) {
    match LabelSelector::of(selector) {
        Ok(parsed) if parsed.is_everything() => {
            let detail = "empty selector is invalid for deployment";
            causes.push(Cause::invalid("spec.selector", selector, detail));
        }
        Ok(parsed) if !selector.is_null() && !parsed.matches_labels(labels) => {
            let detail = "`selector` does not match template `labels`";
            causes.push(Cause::invalid("spec.template.metadata.labels", labels, detail));
        }
        Ok(_) => {}
        Err(status) => causes.push(Cause::invalid("spec.selector", selector, status.message())),
    }
}

fn pod_spec(field: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let mut volumes = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let name = text(volume, "name");
        named(&format!("{field}.volumes[{index}].name"), name, &mut volumes, causes);
    }
    if spec.get("containers").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        causes.push(Cause::required(&format!("{field}.containers"), ""));
    }
    let mut containers = BTreeSet::new();
    for group in ["initContainers", "containers"] {
        for (index, container) in list(spec, group).iter().enumerate() {
            let field = format!("{field}.{group}[{index}]");
            named(&format!("{field}.name"), text(container, "name"), &mut containers, causes);
            ports(&field, container, causes);
            for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
                let name = text(mount, "name");
                if !volumes.contains(name) {
                    causes.push(Cause::not_found(&format!("{field}.volumeMounts[{index}].name"), &Value::from(name)));
                }
            }
        }
    }
    let account = text(spec, "serviceAccountName");
    if let Some(wrong) = names::subdomain(account).filter(|_| !account.is_empty()) {
        causes.push(Cause::invalid(&format!("{field}.serviceAccountName"), &Value::from(account), &wrong));
    }
    not_negative(&format!("{field}.terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"], causes);
}

fn ports(field: &str, container: &Value, causes: &mut Vec<Cause>) {
    let mut port_names = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        port_number(&format!("{field}.containerPort"), &port["containerPort"], causes);
        if port["hostPort"].as_i64().is_some_and(|number| number != 0) {
            port_number(&format!("{field}.hostPort"), &port["hostPort"], causes);
        }
        let name = text(port, "name");
        if !name.is_empty() && !port_names.insert(name.to_owned()) {
            causes.push(Cause::duplicate(&format!("{field}.name"), &Value::from(name)));
        }
    }
}

fn service(object: &Object, causes: &mut Vec<Cause>) {
    let kind = object.str_at("/spec/type");
    let ports = object.items_at("/spec/ports");
    if ports.is_empty() && kind != "ExternalName" && object.str_at("/spec/clusterIP") != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if kind == "ExternalName" && object.str_at("/spec/externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    names::labels("spec.selector", object.at("/spec/selector"), causes);
    let (mut port_names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        port_number(&format!("{field}.port"), &port["port"], causes);
        if port["targetPort"].is_number() {
            port_number(&format!("{field}.targetPort"), &port["targetPort"], causes);
        }
        let name = text(port, "name");
        let name_field = format!("{field}.name");
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(Cause::required(&name_field, ""));
            }
        } else {
            named(&name_field, name, &mut port_names, causes);
        }
        let protocol = if text(port, "protocol").is_empty() { "TCP" } else { text(port, "protocol") };
        if !numbers.insert((protocol.to_owned(), port["port"].to_string())) {
            causes.push(Cause::duplicate(&field, port));
        }
    }
}

/// What may not change in an object.
fn immutable(old: &Object, new: &Object, causes: &mut Vec<Cause>) {
    let pointers: &[&str] = match (new.group(), new.kind()) {
        ("apps", "Deployment" | "ReplicaSet") => &["/spec/selector"],
        ("batch", "Job") => &["/spec/selector", "/spec/template", "/spec/completions", "/spec/completionMode"],
        ("", "Pod") => {
            &["/spec/nodeName", "/spec/serviceAccountName", "/spec/hostNetwork", "/spec/volumes", "/spec/restartPolicy"]
        }
        ("", "Secret") => &["/type"],
        _ => &[],
    };
    for pointer in pointers {
        let (before, now) = (old.at(pointer), new.at(pointer));
        // An empty field may be filled in: this is how a pod gets its node.
        if !before.is_null() && before.as_str() != Some("") && before != now {
            let field = pointer.trim_start_matches('/').replace('/', ".");
            causes.push(Cause::invalid(&field, now, "field is immutable"));
        }
    }
    if new.kind() == "Pod" {
        pod_containers(old, new, causes);
    }
    if old.at("/immutable") == &Value::Bool(true) && matches!(new.kind(), "ConfigMap" | "Secret") {
        for list in ["data", "binaryData"] {
            if old.at(&format!("/{list}")) != new.at(&format!("/{list}")) {
                causes.push(Cause::forbidden(list, "field is immutable when `immutable` is set"));
            }
        }
    }
}

/// Of the containers of a pod only images may change.
fn pod_containers(old: &Object, new: &Object, causes: &mut Vec<Cause>) {
    for list in ["containers", "initContainers"] {
        let without_images = |object: &Object| {
            let mut containers = object.items_at(&format!("/spec/{list}")).to_vec();
            for container in containers.iter_mut().filter_map(Value::as_object_mut) {
                container.shift_remove("image");
            }
            containers
        };
        if without_images(old) != without_images(new) {
            let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
            causes.push(Cause::forbidden("spec", detail));
        }
    }
}

/// A name that must be a DNS label and stand once.
fn named(field: &str, name: &str, seen: &mut BTreeSet<String>, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        return;
    }
    if let Some(wrong) = names::label(name) {
        causes.push(Cause::invalid(field, &Value::from(name), &wrong));
    }
    if !seen.insert(name.to_owned()) {
        causes.push(Cause::duplicate(field, &Value::from(name)));
    }
}

fn port_number(field: &str, port: &Value, causes: &mut Vec<Cause>) {
    if let Some(number) = port.as_i64()
        && !(1..=65535).contains(&number)
    {
        causes.push(Cause::invalid(field, port, "must be between 1 and 65535, inclusive"));
    }
}

fn not_negative(field: &str, number: &Value, causes: &mut Vec<Cause>) {
    if number.as_i64().is_some_and(|number| number < 0) {
        causes.push(Cause::invalid(field, number, "must be greater than or equal to 0"));
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests;
