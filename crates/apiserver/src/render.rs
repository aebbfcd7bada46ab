//! Objects in forms other than their own.

use api::table::{self, Include};
use api::{Kind, Object};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The object's metadata and nothing else.
pub(crate) fn metadata(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.at("/metadata")})
}

/// A table that shows one object.
pub(crate) fn row(kind: &Kind, version: &str, object: &Object, include: Include, headings: bool) -> Value {
    table::table(kind, version, [object], object.revision(), Timestamp::now(), include, headings)
}

/// A table of a list; `list` is the list's metadata.
pub(crate) fn rows(kind: &Kind, version: &str, objects: &[&Object], include: Include, list: &Value) -> Value {
    let mut table = table::table(kind, version, objects.iter().copied(), 0, Timestamp::now(), include, true);
    if let Some(fields) = table.as_object_mut() {
        fields.insert("metadata".to_owned(), list.clone());
    }
    table
}
