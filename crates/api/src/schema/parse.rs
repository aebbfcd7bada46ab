//! Reading OpenAPI v3 schemas.

use serde_json::Value;

use super::{Bounds, ListKeys, Node, Schema, Shape, core};
use crate::object::text;
use crate::status::Cause;

/// Deepest schema, the depth at which JSON bodies are refused; every level of an object takes one or two of these.
const DEPTH_MAX: usize = 128;

pub(super) fn schema(document: &Value, field: &str) -> Result<Schema, Vec<Cause>> {
    let mut reader = Reader { causes: Vec::new(), unchecked: Vec::new() };
    if !document.is_object() {
        return Err(vec![Cause::required(field, "schemas are required")]);
    }
    if text(document, "type") != "object" {
        let detail = "must be object at the root";
        reader.causes.push(Cause::invalid(&format!("{field}.type"), &Value::from(text(document, "type")), detail));
    }
    let root = core::with_object_fields(reader.node(document, field, Place::Value, DEPTH_MAX));
    if reader.causes.is_empty() {
        Ok(Schema { root, document: document.clone(), unchecked: reader.unchecked, builtin: false })
    } else {
        Err(reader.causes)
    }
}

/// Whether a schema describes a value, or is one of several conditions on it, which may leave the type out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Value,
    Condition,
}

struct Reader {
    causes: Vec<Cause>,
    unchecked: Vec<String>,
}

impl Reader {
    fn node(&mut self, schema: &Value, field: &str, place: Place, depth: usize) -> Node {
        let Some(depth) = depth.checked_sub(1) else {
            self.causes.push(Cause::field(
                "FieldValueInvalid",
                format!("Invalid value: nested deeper than {DEPTH_MAX}"),
                field,
            ));
            return Node::default();
        };
        for rule in ["pattern", "x-kubernetes-validations"] {
            if schema.get(rule).is_some() {
                self.unchecked.push(format!("{field}.{rule}"));
            }
        }
        let child = |reader: &mut Self, name: &str, place: Place| {
            let found = schema.get(name)?;
            found.is_object().then(|| Box::new(reader.node(found, &format!("{field}.{name}"), place, depth)))
        };
        let mut node = Node {
            shape: self.shape(schema, field, place),
            nullable: flag(schema, "nullable"),
            preserve: flag(schema, "x-kubernetes-preserve-unknown-fields"),
            items: child(self, "items", place),
            additional: child(self, "additionalProperties", place),
            not: child(self, "not", Place::Condition),
            default: schema.get("default").cloned(),
            allowed: list(schema, "enum").to_vec(),
            required: list(schema, "required").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            bounds: bounds(schema),
            keys: keys(schema),
            distinct: keys(schema) != ListKeys::Atomic,
            atomic: text(schema, "x-kubernetes-map-type") == "atomic",
            ..Node::default()
        };
        if flag(schema, "additionalProperties") {
            node.additional = Some(Box::new(Node { preserve: true, ..Node::default() }));
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let property = self.node(property, &format!("{field}.properties[{name}]"), place, depth);
            node.properties.insert(name.clone(), property);
        }
        node.all_of = self.conditions(schema, "allOf", field, depth);
        // An integer-or-string says so by `anyOf` too; that adds nothing.
        if node.shape != Shape::IntOrString {
            node.any_of = self.conditions(schema, "anyOf", field, depth);
        }
        node.one_of = self.conditions(schema, "oneOf", field, depth);
        if flag(schema, "x-kubernetes-embedded-resource") {
            node = core::with_object_fields(node);
        }
        node
    }

    fn conditions(&mut self, schema: &Value, name: &str, field: &str, depth: usize) -> Vec<Node> {
        let listed = list(schema, name).iter().enumerate();
        listed
            .map(|(index, one)| self.node(one, &format!("{field}.{name}[{index}]"), Place::Condition, depth))
            .collect()
    }

    fn shape(&mut self, schema: &Value, field: &str, place: Place) -> Shape {
        if flag(schema, "x-kubernetes-int-or-string") {
            return Shape::IntOrString;
        }
        match text(schema, "type") {
            "object" => Shape::Object,
            "array" => Shape::Array,
            "string" => Shape::String,
            "integer" => Shape::Integer,
            "number" => Shape::Number,
            "boolean" => Shape::Boolean,
            "" => {
                if place == Place::Value && !flag(schema, "x-kubernetes-preserve-unknown-fields") {
                    let detail = "must not be empty for specified object fields";
                    self.causes.push(Cause::required(&format!("{field}.type"), detail));
                }
                Shape::Any
            }
            other => {
                let known = ["array", "boolean", "integer", "number", "object", "string"].map(str::to_owned);
                self.causes.push(Cause::not_supported(&format!("{field}.type"), &Value::from(other), &known));
                Shape::Any
            }
        }
    }
}

fn bounds(schema: &Value) -> Bounds {
    let count = |name| schema.get(name).and_then(Value::as_u64);
    let number = |name| schema.get(name).and_then(Value::as_f64);
    Bounds {
        length: (count("minLength"), count("maxLength")),
        items: (count("minItems"), count("maxItems")),
        properties: (count("minProperties"), count("maxProperties")),
        value: (number("minimum"), number("maximum")),
        exclusive: (flag(schema, "exclusiveMinimum"), flag(schema, "exclusiveMaximum")),
    }
}

fn keys(schema: &Value) -> ListKeys {
    match text(schema, "x-kubernetes-list-type") {
        "set" => ListKeys::Set,
        "map" => {
            let keys = list(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str);
            ListKeys::Map(keys.map(str::to_owned).collect())
        }
        _ => ListKeys::Atomic,
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn list<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
