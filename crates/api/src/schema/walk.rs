//! Walking an object along its schema.

use std::collections::HashSet;

use base64::Engine as _;
use serde_json::Value;

use super::{FINDINGS_MAX, ListKeys, Node, Shape};
use crate::object::json_type;
use crate::quantity;
use crate::status::Cause;

/// Paths found, no more than are told.
#[derive(Default)]
pub(super) struct Paths(Vec<String>);

impl Paths {
    fn add(&mut self, path: String) {
        if self.0.len() < FINDINGS_MAX {
            self.0.push(path);
        }
    }

    pub(super) fn sorted(mut self) -> Vec<String> {
        self.0.sort();
        self.0
    }
}

pub(super) fn prune(node: &Node, value: &mut Value, path: &str, removed: &mut Paths) {
    match value {
        Value::Object(fields) if node.shape == Shape::Object || !node.properties.is_empty() => {
            fields.retain(|name, child| {
                let path = join(path, name);
                match node.properties.get(name).or(node.additional.as_deref()) {
                    Some(child_node) => prune(child_node, child, &path, removed),
                    None if node.preserve => {}
                    None => {
                        removed.add(path);
                        return false;
                    }
                }
                true
            });
        }
        Value::Array(items) => {
            if let Some(item_node) = &node.items {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(item_node, item, &format!("{path}[{index}]"), removed);
                }
            }
        }
        _ => {}
    }
}

pub(super) fn default(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, child_node) in &node.properties {
                if let Some(default) = &child_node.default {
                    let place = fields.entry(name.clone()).or_insert(Value::Null);
                    if place.is_null() && !child_node.nullable {
                        *place = default.clone();
                    }
                }
            }
            for (name, child) in fields.iter_mut() {
                if let Some(child_node) = node.properties.get(name).or(node.additional.as_deref()) {
                    default(child_node, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_node) = &node.items {
                for item in items {
                    default(item_node, item);
                }
            }
        }
        _ => {}
    }
}

pub(super) struct Checker {
    causes: Vec<Cause>,
    builtin: bool,
}

impl Checker {
    pub(super) const fn new(builtin: bool) -> Self {
        Self { causes: Vec::new(), builtin }
    }

    pub(super) fn into_causes(self) -> Vec<Cause> {
        self.causes
    }

    pub(super) fn check(&mut self, node: &Node, value: &Value, path: &str) {
        if value.is_null() && (node.nullable || self.builtin) || self.causes.len() >= FINDINGS_MAX {
            return;
        }
        if let Err(wanted) = fits(node.shape, value) {
            self.causes.push(Cause::wrong_type(path, json_type(value), wanted));
            return;
        }
        let free = node.allowed.is_empty() || self.builtin && value.as_str() == Some("");
        if !free && !node.allowed.contains(value) {
            let supported: Vec<String> = node.allowed.iter().map(shown).collect();
            self.causes.push(Cause::not_supported(path, value, &supported));
        }
        match value {
            Value::Object(fields) => self.fields(node, fields, value, path),
            Value::Array(items) => self.items(node, items, path),
            Value::String(text) => self.text(node, text, value, path),
            Value::Number(_) => self.number(node, value, path),
            _ => {}
        }
        self.conditions(node, value, path);
    }

    fn fields(&mut self, node: &Node, fields: &serde_json::Map<String, Value>, value: &Value, path: &str) {
        for name in &node.required {
            let absent = match fields.get(name) {
                None => true,
                Some(found) => self.builtin && (found.is_null() || found.as_str() == Some("")),
            };
            if absent {
                self.causes.push(Cause::required(&join(path, name), ""));
            }
        }
        for (name, child) in fields {
            if let Some(child_node) = node.properties.get(name).or(node.additional.as_deref()) {
                self.check(child_node, child, &join(path, name));
            }
        }
        let (least, most) = node.bounds.properties;
        if let Some(most) = most.filter(|&most| fields.len() as u64 > most) {
            self.causes.push(Cause::too_many(path, fields.len(), most));
        }
        if let Some(least) = least.filter(|&least| (fields.len() as u64) < least) {
            self.causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body should have at least {least} properties"),
            ));
        }
    }

    fn items(&mut self, node: &Node, items: &[Value], path: &str) {
        let (least, most) = node.bounds.items;
        if let Some(most) = most.filter(|&most| items.len() as u64 > most) {
            self.causes.push(Cause::too_many(path, items.len(), most));
            return;
        }
        if let Some(least) = least.filter(|&least| (items.len() as u64) < least) {
            let detail = format!("{path} in body should have at least {least} items");
            self.causes.push(Cause::invalid(path, &Value::from(items.len()), &detail));
        }
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Some(item_node) = &node.items {
                self.check(item_node, item, &path);
            }
            let key = match &node.keys {
                _ if !node.distinct => continue,
                ListKeys::Atomic => continue,
                ListKeys::Set => item.to_string(),
                ListKeys::Map(keys) => {
                    let values: Vec<&Value> = keys.iter().map(|key| item.get(key).unwrap_or(&Value::Null)).collect();
                    format!("{values:?}")
                }
            };
            if !seen.insert(key) && self.causes.len() < FINDINGS_MAX {
                self.causes.push(Cause::duplicate(&path, item));
            }
        }
    }

    fn text(&mut self, node: &Node, text: &str, value: &Value, path: &str) {
        let (least, most) = node.bounds.length;
        let length = text.chars().count() as u64;
        if let Some(most) = most.filter(|&most| length > most) {
            self.causes.push(Cause::too_long(path, most));
        }
        if let Some(least) = least.filter(|&least| length < least) {
            self.causes.push(Cause::invalid(
                path,
                value,
                &format!("{path} in body should be at least {least} chars long"),
            ));
        }
    }

    fn number(&mut self, node: &Node, value: &Value, path: &str) {
        let Some(number) = value.as_f64() else { return };
        let ((least, most), (above, below)) = (node.bounds.value, node.bounds.exclusive);
        let too_small = least.filter(|&least| number < least || above && number <= least);
        let too_big = most.filter(|&most| number > most || below && number >= most);
        let or_equal = |exclusive| if exclusive { "" } else { " or equal to" };
        if let Some(least) = too_small {
            let detail = format!("{path} in body should be greater than{} {least}", or_equal(above));
            self.causes.push(Cause::invalid(path, value, &detail));
        }
        if let Some(most) = too_big {
            let detail = format!("{path} in body should be less than{} {most}", or_equal(below));
            self.causes.push(Cause::invalid(path, value, &detail));
        }
    }

    fn conditions(&mut self, node: &Node, value: &Value, path: &str) {
        let holds = |condition: &Node| {
            let mut checker = Self::new(self.builtin);
            checker.check(condition, value, path);
            checker.causes.is_empty()
        };
        let all = node.all_of.iter().all(holds);
        let any = node.any_of.is_empty() || node.any_of.iter().any(holds);
        let one = node.one_of.is_empty() || node.one_of.iter().filter(|condition| holds(condition)).count() == 1;
        let forbidden = node.not.as_deref().is_some_and(holds);
        for (holds, text) in [
            (all, "must validate all the schemas (allOf)"),
            (any, "must validate at least one schema (anyOf)"),
            (one, "must validate one and only one schema (oneOf)"),
            (!forbidden, "must not validate the schema (not)"),
        ] {
            if !holds && self.causes.len() < FINDINGS_MAX {
                self.causes.push(Cause::invalid(path, value, &format!("\"{path}\" {text}")));
            }
        }
    }
}

/// Whether a value has a shape; if not, the shape in words.
pub(super) fn fits(shape: Shape, value: &Value) -> Result<(), &'static str> {
    let whole = || value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let (fits, wanted) = match shape {
        Shape::Any => (true, ""),
        Shape::Object => (value.is_object(), "object"),
        Shape::Array => (value.is_array(), "array"),
        Shape::String => (value.is_string(), "string"),
        Shape::Integer => (value.is_number() && whole(), "integer"),
        Shape::Number => (value.is_number(), "number"),
        Shape::Boolean => (value.is_boolean(), "boolean"),
        Shape::IntOrString => (value.is_string() || value.is_number() && whole(), "integer or string"),
        Shape::Quantity => (
            value.is_number() || value.as_str().is_some_and(|text| quantity::parse(text).is_some()),
            "quantity such as 100m or 64Mi",
        ),
        Shape::Bytes => {
            let standard = base64::engine::general_purpose::STANDARD;
            (value.as_str().is_some_and(|text| standard.decode(text).is_ok()), "base64 text")
        }
        Shape::Time => (value.as_str().is_some_and(|text| crate::time::parse(text).is_some()), "RFC 3339 time"),
    };
    if fits { Ok(()) } else { Err(wanted) }
}

pub(super) fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
