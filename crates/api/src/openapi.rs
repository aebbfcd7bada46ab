//! `OpenAPI` documents of the kinds that are served: what `kubectl explain` tells, and what clients check before they send.
//!
//! Version 3 has one document for each group and version, version 2 one for all, which older clients take as protobuf.

mod builtin;
mod custom;
mod wire;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Kinds};
use crate::schema::Schema;
use crate::types::rules;

pub use wire::encode;

const TITLE: &str = "tidegate";
const VERSION: &str = "v1";
/// Who is what, in both versions.
const GROUP_VERSION_KIND: &str = "x-kubernetes-group-version-kind";

/// Which version of the format a schema is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Two,
    Three,
}

/// Schemas by name, and the names that are still to be written.
#[derive(Debug, Default)]
struct Schemas {
    written: Map<String, Value>,
    wanted: BTreeSet<&'static str>,
}

/// The document of one group and version.
pub fn version_3(kinds: &Kinds, group: &str, version: &str) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Schemas::default());
    for kind in kinds.in_version(group, version) {
        add(&mut paths, &mut schemas, kind, version, Format::Three);
    }
    json!({
        "openapi": "3.0.0", "info": {"title": TITLE, "version": VERSION}, "paths": paths,
        "components": {"schemas": complete(schemas, Format::Three)},
    })
}

/// The document of all kinds.
pub fn version_2(kinds: &Kinds) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Schemas::default());
    for kind in kinds.iter() {
        for version in kind.versions.iter().filter(|version| version.served) {
            add(&mut paths, &mut schemas, kind, &version.name, Format::Two);
        }
    }
    json!({
        "swagger": "2.0", "info": {"title": TITLE, "version": VERSION}, "paths": paths,
        "definitions": complete(schemas, Format::Two),
    })
}

/// The path below which a group and version are served, without the leading slash.
pub fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn add(paths: &mut Map<String, Value>, schemas: &mut Schemas, kind: &Kind, version: &str, format: Format) {
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let base = format!("/{}{scope}/{}", place(&kind.group, version), kind.plural);
    if kind.verbs.contains(&"patch") {
        paths.insert(format!("{base}/{{name}}"), json!({"patch": operation("patch", kind, version, format)}));
    } else if kind.stored() {
        // `kubectl explain` finds a kind by the paths of its resource.
        paths.insert(base, json!({"get": operation("get", kind, version, format)}));
    }
    let document = kind.version(version).and_then(|version| version.schema.as_deref()).map(Schema::document);
    let mut schema = match document {
        Some(document) if !kind.builtin => custom::schema(document, format, schemas),
        _ => builtin::root(kind, version, format, schemas),
    };
    if let Some(fields) = schema.as_object_mut() {
        let named = json!([{"group": kind.group, "version": version, "kind": kind.kind}]);
        fields.insert(GROUP_VERSION_KIND.to_owned(), named);
    }
    schemas.written.insert(schema_name(kind, version), schema);
}

/// Writes what the schemas refer to, and what that refers to.
fn complete(mut schemas: Schemas, format: Format) -> Map<String, Value> {
    while let Some(of) = schemas.wanted.pop_first() {
        let name = builtin::name_of(of);
        if !schemas.written.contains_key(&name) {
            let schema = builtin::schema(of, format, &mut schemas);
            schemas.written.insert(name, schema);
        }
    }
    schemas.written
}

/// A verb of a kind: that a patch takes `fieldValidation` makes kubectl leave that to the server.
fn operation(verb: &str, kind: &Kind, version: &str, format: Format) -> Value {
    let parameter = |name: &str| match format {
        Format::Two => json!({"name": name, "in": "query", "type": "string", "uniqueItems": true}),
        Format::Three => json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}),
    };
    json!({
        "operationId": format!("{verb}{}", kind.kind),
        "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation"), parameter("force")],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": verb,
        GROUP_VERSION_KIND: {"group": kind.group, "version": version, "kind": kind.kind},
    })
}

/// A reference to another schema, with words about this use of it.
fn reference(name: &str, words: &str, format: Format) -> Value {
    let mut value = match format {
        Format::Two => json!({"$ref": format!("#/definitions/{name}")}),
        Format::Three => json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}]}),
    };
    describe(&mut value, words);
    value
}

fn describe(schema: &mut Value, words: &str) {
    if let Some(fields) = schema.as_object_mut().filter(|_| !words.is_empty()) {
        fields.insert("description".to_owned(), Value::from(words));
    }
}

/// The fields that every whole object has.
fn object_fields(of: &str, format: Format, schemas: &mut Schemas) -> [(String, Value); 3] {
    let text = |name: &str| (name.to_owned(), json!({"type": "string", "description": rules::field_words(of, name)}));
    schemas.wanted.insert("ObjectMeta");
    let metadata = reference(&builtin::name_of("ObjectMeta"), rules::field_words(of, "metadata"), format);
    [text("apiVersion"), text("kind"), ("metadata".to_owned(), metadata)]
}

/// The name of a kind's schema: that of its type, or the group backwards, as Java packages are named.
fn schema_name(kind: &Kind, version: &str) -> String {
    if let Some(of) = builtin::type_of(kind, version) {
        return builtin::name_of(of);
    }
    let mut parts: Vec<&str> = kind.group.split('.').rev().filter(|part| !part.is_empty()).collect();
    parts.extend([version, kind.kind.as_str()]);
    parts.join(".")
}

#[cfg(test)]
mod tests;
