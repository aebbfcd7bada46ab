//! Schemas of kinds that definitions make.

use serde_json::{Map, Value, json};

use super::{Format, Schemas, object_fields};

/// What version 2 knows of a schema; the rest, such as `oneOf`, is left out there.
const KNOWN: &[&str] =
    &["type", "format", "description", "required", "enum", "properties", "items", "additionalProperties"];

/// The schema of a kind as its definition has it, with the fields that every object has.
pub(super) fn schema(document: &Value, format: Format, schemas: &mut Schemas) -> Value {
    let mut value = match format {
        Format::Two => simple(document),
        Format::Three => document.clone(),
    };
    if let Some(fields) = value.as_object_mut() {
        let properties = fields.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.extend(object_fields("", format, schemas));
        }
    }
    value
}

fn simple(schema: &Value) -> Value {
    let Some(all) = schema.as_object() else { return json!({}) };
    let is = |name: &str| all.get(name) == Some(&Value::Bool(true));
    // An integer or text has no type in version 2, and a mapping with unknown fields no list of those that are known:
    // older clients would refuse the others.
    if is("x-kubernetes-int-or-string") || is("x-kubernetes-preserve-unknown-fields") {
        let known = all.iter().filter(|(name, _)| matches!(name.as_str(), "description"));
        return Value::Object(known.map(|(name, value)| (name.clone(), value.clone())).collect());
    }
    let mut fields = Map::new();
    for (name, value) in all {
        let kept = match name.as_str() {
            "properties" => {
                let each = value.as_object().into_iter().flatten();
                Value::Object(each.map(|(name, child)| (name.clone(), simple(child))).collect())
            }
            "items" | "additionalProperties" if value.is_object() => simple(value),
            known if KNOWN.contains(&known) || known.starts_with("x-kubernetes-") => value.clone(),
            _ => continue,
        };
        fields.insert(name.clone(), kept);
    }
    Value::Object(fields)
}
