//! The `scale` subresource: the number of replicas of a workload, in a form that all kinds of workloads share.

use api::patch::{self, PatchType};
use api::selector::{LabelSelector, Operator};
use api::{Object, Status};
use serde_json::{Value, json};

/// The scale of an object.
pub(super) fn of(object: &Object) -> Result<Object, Status> {
    let number = |pointer: &str, otherwise: i64| object.at(pointer).as_i64().unwrap_or(otherwise);
    let metadata = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .into_iter()
        .map(|name| (name.to_owned(), object.at(&format!("/metadata/{name}")).clone()));
    Object::new(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": Value::Object(metadata.collect()),
        "spec": {"replicas": number("/spec/replicas", 1)},
        "status": {"replicas": number("/status/replicas", 0), "selector": selector(object)?},
    }))
}

/// The object with the number of replicas that a changed scale says.
pub(super) fn applied(object: &Object, scale: &Object) -> Result<Object, Status> {
    if scale.kind() != "Scale" || scale.api_version() != "autoscaling/v1" {
        return Err(Status::bad_request(format!(
            "a Scale of autoscaling/v1 is needed, this is a {} of {}",
            scale.kind(),
            scale.api_version()
        )));
    }
    let replicas = scale.at("/spec/replicas").as_i64().unwrap_or(0);
    if !(0..=i64::from(i32::MAX)).contains(&replicas) {
        let cause = api::Cause::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", object.name(), vec![cause]));
    }
    let mut object = object.clone();
    if scale.revision() != 0 {
        object.set("/metadata/resourceVersion", scale.at("/metadata/resourceVersion").clone());
    }
    object.set("/spec/replicas", replicas);
    Ok(object)
}

/// The object after a patch of its scale.
pub(super) fn patched(patch_type: PatchType, object: &Object, patch: &Value) -> Result<Object, Status> {
    applied(object, &patch::apply(patch_type, &of(object)?, patch)?)
}

/// The selector as text.
fn selector(object: &Object) -> Result<String, Status> {
    let selector = LabelSelector::of(object.at("/spec/selector"))?;
    let texts: Vec<String> = selector
        .requirements()
        .iter()
        .map(|requirement| {
            let key = &requirement.key;
            match &requirement.operator {
                Operator::In(values) if values.len() == 1 => format!("{key}={}", values.concat()),
                Operator::In(values) => format!("{key} in ({})", values.join(",")),
                Operator::NotIn(values) => format!("{key} notin ({})", values.join(",")),
                Operator::Exists => key.clone(),
                Operator::DoesNotExist => format!("!{key}"),
                Operator::GreaterThan(value) => format!("{key}>{value}"),
                Operator::LessThan(value) => format!("{key}<{value}"),
            }
        })
        .collect();
    Ok(texts.join(","))
}
