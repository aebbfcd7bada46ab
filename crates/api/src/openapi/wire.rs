//! Version 2 as protobuf, which is how kubectl asks for it: the message `openapi.v2.Document` of gnostic.

use serde_json::Value;

/// Encodes a document of version 2.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut to = Vec::new();
    text(&mut to, 1, document.get("swagger"));
    message(&mut to, 2, document.get("info"), |to, info| {
        text(to, 1, info.get("title"));
        text(to, 2, info.get("version"));
    });
    message(&mut to, 8, document.get("paths"), |to, paths| each(to, 2, paths, path));
    message(&mut to, 9, document.get("definitions"), |to, definitions| each(to, 1, definitions, schema));
    to
}

fn path(to: &mut Vec<u8>, path: &Value) {
    message(to, 8, path.get("patch"), |to, operation| {
        text(to, 5, operation.get("operationId"));
        for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
            // Inside three messages that each say which kind of parameter it is.
            message(to, 8, Some(parameter), |to, parameter| {
                message(to, 1, Some(parameter), |to, parameter| {
                    message(to, 2, Some(parameter), |to, parameter| {
                        message(to, 3, Some(parameter), |to, parameter| {
                            text(to, 2, parameter.get("in"));
                            text(to, 4, parameter.get("name"));
                            text(to, 6, parameter.get("type"));
                        });
                    });
                });
            });
        }
        extensions(to, 13, operation);
    });
}

fn schema(to: &mut Vec<u8>, of: &Value) {
    text(to, 1, of.get("$ref"));
    text(to, 2, of.get("format"));
    text(to, 4, of.get("description"));
    for name in of.get("required").and_then(Value::as_array).into_iter().flatten() {
        text(to, 19, Some(name));
    }
    for value in of.get("enum").and_then(Value::as_array).into_iter().flatten() {
        any(to, 20, value);
    }
    message(to, 21, of.get("additionalProperties"), |to, inner| {
        if let Some(allowed) = inner.as_bool() {
            tag(to, 2, 0);
            varint(to, u64::from(allowed));
        } else {
            message(to, 1, Some(inner), schema);
        }
    });
    message(to, 22, of.get("type"), |to, name| text(to, 1, Some(name)));
    message(to, 23, of.get("items"), |to, inner| message(to, 1, Some(inner), schema));
    message(to, 25, of.get("properties"), |to, properties| each(to, 1, properties, schema));
    extensions(to, 31, of);
}

/// Named messages, one for each field of a mapping.
fn each(to: &mut Vec<u8>, number: u32, mapping: &Value, write: fn(&mut Vec<u8>, &Value)) {
    for (name, value) in mapping.as_object().into_iter().flatten() {
        message(to, number, Some(value), |to, value| {
            bytes(to, 1, name.as_bytes());
            message(to, 2, Some(value), write);
        });
    }
}

fn extensions(to: &mut Vec<u8>, number: u32, of: &Value) {
    for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        message(to, number, Some(value), |to, value| {
            bytes(to, 1, name.as_bytes());
            any(to, 2, value);
        });
    }
}

/// A value of any kind stands as YAML, of which JSON is a part.
fn any(to: &mut Vec<u8>, number: u32, value: &Value) {
    message(to, number, Some(value), |to, value| bytes(to, 2, value.to_string().as_bytes()));
}

fn message(to: &mut Vec<u8>, number: u32, value: Option<&Value>, write: impl FnOnce(&mut Vec<u8>, &Value)) {
    if let Some(value) = value {
        let mut inner = Vec::new();
        write(&mut inner, value);
        bytes(to, number, &inner);
    }
}

fn text(to: &mut Vec<u8>, number: u32, value: Option<&Value>) {
    if let Some(text) = value.and_then(Value::as_str) {
        bytes(to, number, text.as_bytes());
    }
}

fn bytes(to: &mut Vec<u8>, number: u32, value: &[u8]) {
    tag(to, number, 2);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn tag(to: &mut Vec<u8>, number: u32, wire_type: u64) {
    varint(to, u64::from(number) << 3 | wire_type);
}

fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(u8::try_from(number & 0x7F).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    to.push(u8::try_from(number).unwrap_or_default());
}
