//! The types of built-in kinds: one compact table of field names, JSON types and protobuf numbers.
//!
//! `types/core.txt` has one type a line: `Name = apiVersion Kind: field type number, ..`. Types: `s` text, `s(A|B)` one of
//! these, `i` integer, `b` boolean, `q` quantity, `y` bytes (base64 in JSON), `t` time, `is` integer or text, `*` anything
//! (its protobuf form is not known here), `*j` JSON inside bytes, or the name of another type; `[x]` is a list, `{x}` a
//! mapping. `!` marks what must be given, `?` a scalar whose zero differs from its absence. A field named `@` is inlined. A number 0
//! is one that is not known here: such a field comes in JSON. The fields are those of Kubernetes 1.37, and of 1.35 what 1.37 took out.

pub(crate) mod rules;

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// All types by name, and which of them are whole objects.
#[derive(Debug, Default)]
pub(crate) struct Types {
    types: BTreeMap<&'static str, Vec<Field>>,
    roots: BTreeMap<(&'static str, &'static str), &'static str>,
}

/// A field of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// Name in JSON; `@` for a type whose fields stand in the outer one.
    pub(crate) name: &'static str,
    pub(crate) kind: FieldKind,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
    pub(crate) pointer: bool,
    /// Field number in protobuf.
    pub(crate) number: u32,
}

/// What a field, or an element of it, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Text,
    OneOf(Vec<&'static str>),
    Integer,
    Boolean,
    Quantity,
    Bytes,
    Time,
    IntOrString,
    Anything,
    Json,
    Type(&'static str),
}

/// Whether a field holds one value, a list, or a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    List,
    Mapping,
}

static TABLE: LazyLock<Types> = LazyLock::new(|| read(include_str!("types/core.txt")));

/// The table.
pub(crate) fn table() -> &'static Types {
    &TABLE
}

impl Types {
    /// The fields of a type.
    pub(crate) fn fields(&self, name: &str) -> &[Field] {
        self.types.get(name).map_or(&[], Vec::as_slice)
    }

    /// The type of whole objects of a kind.
    pub(crate) fn root(&self, api_version: &str, kind: &str) -> Option<&'static str> {
        self.roots.get(&(api_version, kind)).copied()
    }

    /// All types with their fields.
    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &[Field])> {
        self.types.iter().map(|(name, fields)| (*name, fields.as_slice()))
    }

    /// The types of all whole objects.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &'static str> {
        self.roots.values().copied()
    }
}

fn read(text: &'static str) -> Types {
    let mut types = Types::default();
    for line in text.lines() {
        let Some((head, fields)) = line.split_once(": ") else { continue };
        let mut words = head.split(' ');
        let name = words.next().unwrap_or("");
        if let (Some("="), Some(api_version), Some(kind)) = (words.next(), words.next(), words.next()) {
            types.roots.insert((api_version, kind), name);
        }
        types.types.insert(name, fields.split(", ").filter_map(field).collect());
    }
    types
}

fn field(text: &'static str) -> Option<Field> {
    let mut words = text.split(' ');
    let (name, written, number) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    let written = written.trim_end_matches(['!', '?']);
    let marks = text.split(' ').nth(1)?.strip_prefix(written)?;
    let inner = |open, close| written.strip_prefix(open)?.strip_suffix(close);
    let (shape, element) = match (inner('[', ']'), inner('{', '}')) {
        (Some(element), _) => (Shape::List, element),
        (_, Some(element)) => (Shape::Mapping, element),
        _ => (Shape::One, written),
    };
    let kind = match element {
        "s" => FieldKind::Text,
        "i" => FieldKind::Integer,
        "b" => FieldKind::Boolean,
        "q" => FieldKind::Quantity,
        "y" => FieldKind::Bytes,
        "t" => FieldKind::Time,
        "is" => FieldKind::IntOrString,
        "*" => FieldKind::Anything,
        "*j" => FieldKind::Json,
        other => match other.strip_prefix("s(").and_then(|rest| rest.strip_suffix(')')) {
            Some(words) => FieldKind::OneOf(words.split('|').collect()),
            None => FieldKind::Type(other),
        },
    };
    Some(Field { name, kind, shape, required: marks.contains('!'), pointer: marks.contains('?'), number })
}

#[cfg(test)]
mod tests {
    use super::{FieldKind, Shape, table};
    use std::collections::BTreeSet;

    #[test]
    fn every_line_is_read_and_every_name_is_known() {
        let text = include_str!("types/core.txt");
        assert_eq!(table().types.len(), text.lines().count());
        for line in text.lines() {
            let (head, fields) = line.split_once(": ").unwrap();
            let name = head.split(' ').next().unwrap();
            assert_eq!(table().fields(name).len(), fields.split(", ").count(), "{name}");
            let mut numbers = BTreeSet::new();
            for field in table().fields(name) {
                assert!(field.number == 0 || numbers.insert(field.number), "{name} has number {} twice", field.number);
                if let FieldKind::Type(other) = field.kind {
                    assert!(!table().fields(other).is_empty(), "{name}.{} is of unknown type {other}", field.name);
                }
            }
        }
    }

    #[test]
    fn marks_and_shapes() {
        let find = |name: &str, field: &str| table().fields(name).iter().find(|one| one.name == field).unwrap().clone();
        let ports = find("Container", "ports");
        assert_eq!((ports.kind, ports.shape), (FieldKind::Type("ContainerPort"), Shape::List));
        let replicas = find("DeploymentSpec", "replicas");
        assert!(replicas.pointer && !replicas.required);
        let operator = find("LabelSelectorRequirement", "operator");
        assert_eq!(operator.kind, FieldKind::OneOf(vec!["DoesNotExist", "Exists", "In", "NotIn"]));
        assert!(operator.required);
        assert_eq!(find("Secret", "data").shape, Shape::Mapping);
        assert_eq!(table().root("apps/v1", "Deployment"), Some("Deployment"));
        assert_eq!(table().root("events.k8s.io/v1", "Event"), Some("EventsEvent"));
    }
}
