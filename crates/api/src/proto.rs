//! The protobuf bodies of kubectl: its typed calls send them, whatever the server prefers. Replies are always JSON.

mod wire;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::object::Object;
use crate::status::Status;
use crate::time;
use crate::types::{self, Field, FieldKind, Shape};
use wire::{Reader, Token};

/// First bytes of every protobuf body.
pub const MAGIC: &[u8] = b"k8s\0";
/// Media type of protobuf bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Deepest nesting of messages; the deepest built-in kind needs about 15.
const DEPTH_MAX: usize = 64;
/// Most messages in one body: an empty message takes 2 bytes, but some hundred in memory.
const MESSAGES_MAX: usize = 200_000;

/// Whether a body is protobuf.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// Decodes a body into the object it stands for; 400 if it is malformed, 415 if its kind is known in JSON only.
pub fn decode(body: &[u8]) -> Result<Object, Status> {
    let message =
        body.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not start with the Kubernetes envelope"))?;
    let (mut api_version, mut kind, mut raw): (&str, &str, &[u8]) = ("", "", &[]);
    let mut envelope = Reader::new(message);
    while let Some((number, token)) = envelope.next().map_err(malformed)? {
        match (number, token) {
            (1, Token::Bytes(type_meta)) => {
                let mut reader = Reader::new(type_meta);
                while let Some((number, token)) = reader.next().map_err(malformed)? {
                    match (number, token) {
                        (1, Token::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Token::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Token::Bytes(bytes)) => raw = bytes,
            (3, Token::Bytes([_, ..])) => return Err(malformed("content encodings are not known here")),
            _ => {}
        }
    }
    let Some(name) = types::table().root(api_version, kind) else {
        return Err(Status::failure(
            415,
            "UnsupportedMediaType",
            format!("kind `{kind}` of `{api_version}` is known in JSON only; send application/json"),
        ));
    };
    let mut fields = Map::new();
    fields.insert("apiVersion".to_owned(), Value::from(api_version));
    fields.insert("kind".to_owned(), Value::from(kind));
    let mut decoder = Decoder { messages: 0 };
    decoder.message(name, raw, &mut fields, DEPTH_MAX)?;
    Object::new(Value::Object(fields))
}

struct Decoder {
    messages: usize,
}

impl Decoder {
    fn message(&mut self, name: &str, bytes: &[u8], into: &mut Map<String, Value>, depth: usize) -> Result<(), Status> {
        let depth = depth.checked_sub(1).ok_or_else(|| malformed("it is nested too deep"))?;
        self.messages = self.messages.saturating_add(1);
        if self.messages > MESSAGES_MAX {
            return Err(malformed("it has too many messages"));
        }
        let fields = types::table().fields(name);
        let mut reader = Reader::new(bytes);
        while let Some((number, token)) = reader.next().map_err(malformed)? {
            // Fields of newer versions are skipped, as every protobuf reader does.
            let Some(field) = fields.iter().find(|field| field.number == number) else { continue };
            if let ("@", FieldKind::Type(inner), Token::Bytes(bytes)) = (field.name, &field.kind, &token) {
                self.message(inner, bytes, into, depth)?;
                continue;
            }
            match field.shape {
                Shape::One => self.one(field, &token, into, depth)?,
                Shape::List => self.element(field, &token, into, depth)?,
                Shape::Mapping => self.entry(field, &token, into, depth)?,
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        field: &Field,
        token: &Token<'_>,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), Status> {
        // A message that comes in parts is one message.
        let before = into.get_mut(field.name).map_or(Value::Null, Value::take);
        let value = self.value(field, token, before, depth)?;
        let zero = match &value {
            Value::Null => true,
            Value::Bool(set) => !set,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(_) | Value::Object(_) => false,
        };
        if zero && !field.pointer {
            into.shift_remove(field.name);
        } else {
            into.insert(field.name.to_owned(), value);
        }
        Ok(())
    }

    fn element(
        &mut self,
        field: &Field,
        token: &Token<'_>,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), Status> {
        let mut values = Vec::new();
        if let (FieldKind::Integer, Token::Bytes(packed)) = (&field.kind, token) {
            let mut reader = Reader::new(packed);
            while let Some(number) = reader.varint().map_err(malformed)? {
                values.push(Value::from(number.cast_signed()));
            }
        } else {
            values.push(self.value(field, token, Value::Null, depth)?);
        }
        let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(items) = list {
            items.extend(values);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        field: &Field,
        token: &Token<'_>,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), Status> {
        let Token::Bytes(entry) = token else { return Err(wrong_wire(field)) };
        let (mut key, mut value) = ("", None);
        let mut reader = Reader::new(entry);
        while let Some((number, token)) = reader.next().map_err(malformed)? {
            match (number, token) {
                (1, Token::Bytes(bytes)) => key = text(bytes)?,
                (2, token) => value = Some(self.value(field, &token, Value::Null, depth)?),
                _ => {}
            }
        }
        // An entry without value has the zero one.
        let value = value.unwrap_or_else(|| Value::from(""));
        let mapping = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(fields) = mapping {
            fields.insert(key.to_owned(), value);
        }
        Ok(())
    }

    fn value(&mut self, field: &Field, token: &Token<'_>, before: Value, depth: usize) -> Result<Value, Status> {
        Ok(match (&field.kind, token) {
            (FieldKind::Text | FieldKind::OneOf(_), Token::Bytes(bytes)) => Value::from(text(bytes)?),
            (FieldKind::Integer, Token::Varint(number)) => Value::from(number.cast_signed()),
            (FieldKind::Boolean, Token::Varint(number)) => Value::from(*number != 0),
            (FieldKind::Bytes, Token::Bytes(bytes)) => {
                Value::from(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            (FieldKind::Quantity, Token::Bytes(bytes)) => {
                let mut quantity = "";
                let mut reader = Reader::new(bytes);
                while let Some((number, token)) = reader.next().map_err(malformed)? {
                    if let (1, Token::Bytes(bytes)) = (number, token) {
                        quantity = text(bytes)?;
                    }
                }
                Value::from(quantity)
            }
            (FieldKind::Time, Token::Bytes(bytes)) => moment(field, bytes)?,
            (FieldKind::IntOrString, Token::Bytes(bytes)) => int_or_string(bytes)?,
            (FieldKind::Json, Token::Bytes(bytes)) => json(field, bytes)?,
            (FieldKind::Type(name), Token::Bytes(bytes)) => {
                let mut fields = if let Value::Object(fields) = before { fields } else { Map::new() };
                self.message(name, bytes, &mut fields, depth)?;
                Value::Object(fields)
            }
            (FieldKind::Anything, _) => {
                return Err(malformed(&format!("`{}` is known in JSON only; send application/json", field.name)));
            }
            _ => return Err(wrong_wire(field)),
        })
    }
}

/// A time; an empty message is no time.
fn moment(field: &Field, bytes: &[u8]) -> Result<Value, Status> {
    let (mut seconds, mut nanos) = (None, 0_i64);
    let mut reader = Reader::new(bytes);
    while let Some((number, token)) = reader.next().map_err(malformed)? {
        match (number, token) {
            (1, Token::Varint(number)) => seconds = Some(number.cast_signed()),
            (2, Token::Varint(number)) => nanos = number.cast_signed(),
            _ => {}
        }
    }
    if seconds.is_none() && nanos == 0 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).unwrap_or(-1);
    let valid = Timestamp::new(seconds.unwrap_or(0), nanos.max(0)).ok().filter(|_| nanos >= 0);
    let moment = valid.ok_or_else(|| malformed(&format!("`{}` is no time", field.name)))?;
    Ok(Value::from(if nanos == 0 { time::seconds(moment) } else { time::micros(moment) }))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Status> {
    let (mut is_text, mut number, mut words) = (false, 0_i64, "");
    let mut reader = Reader::new(bytes);
    while let Some((field, token)) = reader.next().map_err(malformed)? {
        match (field, token) {
            (1, Token::Varint(kind)) => is_text = kind == 1,
            (2, Token::Varint(value)) => number = value.cast_signed(),
            (3, Token::Bytes(bytes)) => words = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(words) } else { Value::from(number) })
}

fn json(field: &Field, bytes: &[u8]) -> Result<Value, Status> {
    let mut value = Value::Null;
    let mut reader = Reader::new(bytes);
    while let Some((number, token)) = reader.next().map_err(malformed)? {
        if let (1, Token::Bytes(bytes)) = (number, token) {
            value = serde_json::from_slice(bytes)
                .map_err(|error| malformed(&format!("`{}` holds no JSON: {error}", field.name)))?;
        }
    }
    Ok(value)
}

fn text(bytes: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a text is not UTF-8"))
}

fn wrong_wire(field: &Field) -> Status {
    malformed(&format!("`{}` has the wrong wire type", field.name))
}

fn malformed(why: &str) -> Status {
    Status::bad_request(format!("the protobuf body is malformed: {why}"))
}

#[cfg(test)]
mod tests;
