//! Objects in forms other than their own.

use api::{Kind, Object};
use serde_json::{Value, json};

/// The object's metadata and nothing else.
pub(crate) fn metadata(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.at("/metadata")})
}

/// A table with one row for each object; without headings after the first event of a watch.
pub(crate) fn table(_kind: &Kind, _version: &str, objects: &[&Object], headings: bool) -> Value {
    let columns = if headings {
        json!([{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}])
    } else {
        Value::Null
    };
    let rows: Vec<Value> =
        objects.iter().map(|object| json!({"cells": [object.name()], "object": metadata(object)})).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows})
}
