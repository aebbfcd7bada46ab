//! Schemas of built-in kinds, made from the table of types.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::{ListKeys, Node, Schema, Shape};
use crate::types::rules::{self, Together};
use crate::types::{self, Field, FieldKind};

static POD_TEMPLATE: LazyLock<Arc<Schema>> = LazyLock::new(|| Arc::new(of(object("PodTemplateSpec"))));

/// Fields that typed servers have always, if only empty, since they are no pointers there.
const ALWAYS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "template",
    "strategy",
    "resources",
    "containers",
    "state",
    "lastState",
    "involvedObject",
    "source",
    "loadBalancer",
    "nodeInfo",
    "daemonEndpoints",
    "kubeletEndpoint",
];

static SCHEMAS: LazyLock<BTreeMap<&'static str, Arc<Schema>>> = LazyLock::new(|| {
    types::table()
        .roots()
        .map(|name| {
            let schema = of(with_object_fields(object(name)));
            (name, Arc::new(schema))
        })
        .collect()
});

fn of(root: Node) -> Schema {
    Schema { root, document: Value::Null, unchecked: Vec::new(), builtin: true }
}

pub(super) fn pod_template() -> Arc<Schema> {
    Arc::clone(&POD_TEMPLATE)
}

pub(super) fn schema(api_version: &str, kind: &str) -> Option<Arc<Schema>> {
    SCHEMAS.get(types::table().root(api_version, kind)?).cloned()
}

/// Adds what every object has: its type and `metadata`.
pub(super) fn with_object_fields(mut node: Node) -> Node {
    node.shape = Shape::Object;
    for name in ["apiVersion", "kind"] {
        node.properties.entry(name.to_owned()).or_insert_with(|| of_shape(Shape::String));
    }
    node.properties.insert("metadata".to_owned(), Node { always: true, ..object("ObjectMeta") });
    node
}

fn object(name: &str) -> Node {
    let mut node = of_shape(Shape::Object);
    node.atomic = rules::of_type(name).together == Together::Atomic;
    for field in types::table().fields(name) {
        let child = value(name, field);
        if field.name == "@" {
            node.properties.extend(child.properties);
            node.required.extend(child.required);
            continue;
        }
        if field.required {
            node.required.push(field.name.to_owned());
        }
        node.properties.insert(field.name.to_owned(), child);
    }
    node
}

fn value(of: &str, field: &Field) -> Node {
    let element = match &field.kind {
        FieldKind::Text => of_shape(Shape::String),
        FieldKind::OneOf(words) => {
            Node { allowed: words.iter().map(|&word| Value::from(word)).collect(), ..of_shape(Shape::String) }
        }
        FieldKind::Integer => of_shape(Shape::Integer),
        FieldKind::Boolean => of_shape(Shape::Boolean),
        FieldKind::Quantity => of_shape(Shape::Quantity),
        FieldKind::Bytes => of_shape(Shape::Bytes),
        FieldKind::Time => of_shape(Shape::Time),
        FieldKind::IntOrString => of_shape(Shape::IntOrString),
        FieldKind::Anything | FieldKind::Json => Node { preserve: true, ..Node::default() },
        FieldKind::Type(name) => object(name),
    };
    let together = rules::of_field(of, field.name).together;
    let mut node = match field.shape {
        types::Shape::One => element,
        types::Shape::List => Node { items: Some(Box::new(element)), keys: keys(&together), ..of_shape(Shape::Array) },
        types::Shape::Mapping => Node { additional: Some(Box::new(element)), ..of_shape(Shape::Object) },
    };
    node.atomic |= together == Together::Atomic;
    node.always = ALWAYS.contains(&field.name);
    node
}

fn keys(together: &Together) -> ListKeys {
    match together {
        Together::Default | Together::Atomic => ListKeys::Atomic,
        Together::Set => ListKeys::Set,
        Together::Keys(names) => ListKeys::Map(names.iter().map(|&name| name.to_owned()).collect()),
    }
}

/// Null counts as absent in the fields of built-in types: typed clients write `creationTimestamp: null`.
fn of_shape(shape: Shape) -> Node {
    Node { shape, nullable: true, ..Node::default() }
}
