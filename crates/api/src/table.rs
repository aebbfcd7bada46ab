//! `meta.k8s.io/v1` tables: what `kubectl get` shows.
//!
//! The server makes every cell, ages included, so `now` is a parameter.

mod cells;
mod path;
mod pod;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kinds::{Column, Kind};
use crate::object::Object;
use crate::time;

/// What each row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// The metadata of the object, which is the default.
    #[default]
    Metadata,
    /// Nothing.
    Nothing,
    /// The whole object.
    Object,
}

impl Include {
    /// The value of the query parameter `includeObject`; the default for any other text.
    pub fn from_query(text: &str) -> Self {
        match text {
            "None" => Self::Nothing,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// A table of objects, as JSON. `revision` is that of the list, or of the object for a single one.
///
/// A watch sends one table an event, and `with_columns` in the first one only.
#[expect(single_use_lifetimes, reason = "an item type of `impl Trait` needs its lifetime named")]
pub fn table<'a>(
    kind: &Kind,
    version: &str,
    objects: impl IntoIterator<Item = &'a Object>,
    revision: u64,
    now: Timestamp,
    include: Include,
    with_columns: bool,
) -> Value {
    let columns = columns(kind, version);
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, &columns, object, now, include)).collect();
    let definitions = if with_columns { columns.iter().map(definition).collect() } else { Value::Null };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision.to_string()},
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// The columns of a kind in a version.
pub fn columns(kind: &Kind, version: &str) -> Vec<Column> {
    if kind.builtin {
        return cells::columns(kind);
    }
    let mut columns = vec![name_column()];
    columns
        .extend(kind.version(version).map_or(&[] as &[Column], |version| version.columns.as_slice()).iter().cloned());
    columns
}

fn row(kind: &Kind, columns: &[Column], object: &Object, now: Timestamp, include: Include) -> Value {
    let cells = if kind.builtin { cells::cells(kind, object, now) } else { custom_cells(columns, object, now) };
    let mut row = json!({ "cells": cells });
    let carried = match include {
        Include::Nothing => return row,
        Include::Object => object.value().clone(),
        Include::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.at("/metadata"),
        }),
    };
    if let Value::Object(fields) = &mut row {
        fields.insert("object".to_owned(), carried);
    }
    row
}

fn custom_cells(columns: &[Column], object: &Object, now: Timestamp) -> Vec<Value> {
    columns
        .iter()
        .map(|column| {
            let found = path::find(&column.path, object.value());
            match (column.cell_type.as_str(), found) {
                (_, None) => Value::Null,
                ("date", Some(found)) => Value::from(time::age(found.as_str().unwrap_or(""), now)),
                ("string", Some(found)) if !found.is_string() => Value::from(found.to_string()),
                (_, Some(found)) => found,
            }
        })
        .collect()
}

fn definition(column: &Column) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), Value::from(column.name.as_str()));
    fields.insert("type".to_owned(), Value::from(shown_type(&column.cell_type)));
    fields.insert("format".to_owned(), Value::from(column.format.as_str()));
    fields.insert("description".to_owned(), Value::from(column.description.as_str()));
    fields.insert("priority".to_owned(), Value::from(column.priority));
    Value::Object(fields)
}

/// Dates are sent as texts, since the server has made ages of them.
fn shown_type(cell_type: &str) -> &str {
    if cell_type == "date" { "string" } else { cell_type }
}

fn name_column() -> Column {
    Column {
        name: "Name".to_owned(),
        cell_type: "string".to_owned(),
        format: "name".to_owned(),
        description: "Name of the object, unique in its namespace.".to_owned(),
        priority: 0,
        path: ".metadata.name".to_owned(),
    }
}

#[cfg(test)]
mod tests;
