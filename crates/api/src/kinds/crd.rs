//! Kinds out of `CustomResourceDefinition` objects.

use std::sync::Arc;

use serde_json::Value;

use super::{CRD_GROUP, Column, Kind, Subresource, VERBS_PART, VERBS_STORED, Version};
use crate::object::{Object, text};
use crate::schema::Schema;
use crate::status::{Cause, Status};

pub(super) fn kind(definition: &Object) -> Result<Kind, Status> {
    let mut causes = Vec::new();
    let mut required = |pointer: &str, field: &str| {
        let found = definition.str_at(pointer);
        if found.is_empty() {
            causes.push(Cause::required(field, ""));
        }
        found
    };
    let group = required("/spec/group", "spec.group");
    let plural = required("/spec/names/plural", "spec.names.plural");
    let kind = required("/spec/names/kind", "spec.names.kind");
    let scope = required("/spec/scope", "spec.scope");
    if !matches!(scope, "" | "Namespaced" | "Cluster") {
        let supported = ["Cluster".to_owned(), "Namespaced".to_owned()];
        causes.push(Cause::not_supported("spec.scope", &Value::from(scope), &supported));
    }
    let name = format!("{plural}.{group}");
    if definition.name() != name {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &Value::from(definition.name()), detail));
    }
    let versions = versions(definition, &mut causes);
    if !causes.is_empty() {
        return Err(Status::invalid(CRD_GROUP, "CustomResourceDefinition", definition.name(), causes));
    }
    let or = |found: &str, otherwise: String| {
        if found.is_empty() { otherwise } else { found.to_owned() }
    };
    let texts = |pointer| definition.items_at(pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(Kind {
        group: group.to_owned(),
        plural: plural.to_owned(),
        singular: or(definition.str_at("/spec/names/singular"), kind.to_lowercase()),
        kind: kind.to_owned(),
        list_kind: or(definition.str_at("/spec/names/listKind"), format!("{kind}List")),
        short_names: texts("/spec/names/shortNames"),
        categories: texts("/spec/names/categories"),
        namespaced: scope == "Namespaced",
        verbs: VERBS_STORED,
        versions,
        builtin: false,
        view_of: None,
    })
}

fn versions(definition: &Object, causes: &mut Vec<Cause>) -> Vec<Version> {
    let listed = definition.items_at("/spec/versions");
    let stored = listed.iter().filter(|version| is(version, "storage")).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        causes.push(Cause::field("FieldValueInvalid", format!("Invalid value: {detail}"), "spec.versions"));
    }
    let mut versions = Vec::new();
    for (index, version) in listed.iter().enumerate() {
        let field = format!("spec.versions[{index}]");
        if text(version, "name").is_empty() {
            causes.push(Cause::required(&format!("{field}.name"), ""));
        }
        let schema = schema(version, &field, causes);
        let version_of = Version {
            name: text(version, "name").to_owned(),
            served: is(version, "served"),
            columns: columns(version),
            subresources: subresources(version),
            schema,
        };
        if is(version, "storage") {
            versions.insert(0, version_of);
        } else {
            versions.push(version_of);
        }
    }
    versions
}

fn schema(version: &Value, field: &str, causes: &mut Vec<Cause>) -> Option<Arc<Schema>> {
    let field = format!("{field}.schema.openAPIV3Schema");
    let Some(document) = version.pointer("/schema/openAPIV3Schema") else {
        causes.push(Cause::required(&field, "schemas are required"));
        return None;
    };
    match Schema::parse(document, &field) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(found) => {
            causes.extend(found);
            None
        }
    }
}

fn subresources(version: &Value) -> Vec<Subresource> {
    let mut parts = Vec::new();
    if version.pointer("/subresources/scale").is_some() {
        let body = Some(["autoscaling", "v1", "Scale"]);
        parts.push(Subresource { name: "scale".to_owned(), body, verbs: VERBS_PART });
    }
    if version.pointer("/subresources/status").is_some() {
        parts.push(Subresource { name: "status".to_owned(), body: None, verbs: VERBS_PART });
    }
    parts
}

fn columns(version: &Value) -> Vec<Column> {
    let listed = version.get("additionalPrinterColumns").and_then(Value::as_array);
    let mut columns: Vec<Column> = listed
        .into_iter()
        .flatten()
        .map(|column| Column {
            name: text(column, "name").to_owned(),
            cell_type: text(column, "type").to_owned(),
            format: text(column, "format").to_owned(),
            description: text(column, "description").to_owned(),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path: text(column, "jsonPath").to_owned(),
        })
        .collect();
    if columns.is_empty() {
        columns.push(Column {
            name: "Age".to_owned(),
            cell_type: "date".to_owned(),
            format: String::new(),
            description: "Time since the object was created".to_owned(),
            priority: 0,
            path: ".metadata.creationTimestamp".to_owned(),
        });
    }
    columns
}

fn is(version: &Value, field: &str) -> bool {
    version.get(field).and_then(Value::as_bool).unwrap_or(false)
}
