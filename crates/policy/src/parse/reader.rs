//! Walking a JSON document: typed access that notes what does not fit.

use serde_json::{Map, Value};

use crate::finding::{Code, FieldPath, Finding};
use crate::mesh::Labels;

/// Where a walk is: steps that borrow the ones before them, so that a step costs nothing unless something is found there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'a> {
    Root,
    Member(&'a Self, &'a str),
    Index(&'a Self, usize),
}

impl Path<'_> {
    /// This path and then a member.
    pub(super) const fn member<'s>(&'s self, name: &'s str) -> Path<'s> {
        Path::Member(self, name)
    }

    /// This path and then an element.
    pub(super) const fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }

    /// The path as findings keep it.
    fn kept(&self) -> FieldPath {
        match self {
            Self::Root => FieldPath::default(),
            Self::Member(before, name) => before.kept().member(name),
            Self::Index(before, index) => before.kept().index(*index),
        }
    }
}

/// Collects findings while a document is walked.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) findings: Vec<Finding>,
}

impl Reader {
    pub(super) fn find(&mut self, code: Code, path: &Path<'_>, message: impl Into<String>) {
        self.findings.push(Finding::new(code, path.kept(), message));
    }

    /// A member of an object; `null` is as if it were not there, as the API server prunes it.
    pub(super) fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
        object.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn object<'a>(&mut self, value: &'a Value, path: &Path<'_>) -> Option<&'a Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.wrong_type(value, path, "an object");
        }
        object
    }

    pub(super) fn list<'a>(&mut self, value: &'a Value, path: &Path<'_>) -> Option<&'a [Value]> {
        let list = value.as_array();
        if list.is_none() {
            self.wrong_type(value, path, "a list");
        }
        list.map(Vec::as_slice)
    }

    pub(super) fn text<'a>(&mut self, value: &'a Value, path: &Path<'_>) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            self.wrong_type(value, path, "a string");
        }
        text
    }

    /// An optional object member.
    pub(super) fn object_member<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        name: &str,
        path: &Path<'_>,
    ) -> Option<&'a Map<String, Value>> {
        self.object(Self::member(object, name)?, &path.member(name))
    }

    /// An optional list member; absent is empty.
    pub(super) fn list_member<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        name: &str,
        path: &Path<'_>,
    ) -> &'a [Value] {
        Self::member(object, name).and_then(|value| self.list(value, &path.member(name))).unwrap_or_default()
    }

    /// An optional string member.
    pub(super) fn text_member<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        name: &str,
        path: &Path<'_>,
    ) -> Option<&'a str> {
        self.text(Self::member(object, name)?, &path.member(name))
    }

    /// Notes members that the object does not have (S-7).
    pub(super) fn known_only(&mut self, object: &Map<String, Value>, known: &[&str], path: &Path<'_>) {
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = format!("unknown field `{name}`; known here: {}", known.join(", "));
            self.find(Code::SchemaUnknownField, &path.member(name), message);
        }
    }

    pub(super) fn at_most(&mut self, length: usize, most: usize, path: &Path<'_>) {
        if length > most {
            self.find(Code::SchemaMaxItems, path, format!("{length} items, at most {most} are allowed"));
        }
    }

    /// String to string, as labels are.
    pub(super) fn labels(&mut self, object: &Map<String, Value>, path: &Path<'_>) -> Labels {
        object
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), self.text(value, &path.member(key))?.to_owned())))
            .collect()
    }

    pub(super) fn wrong_type(&mut self, value: &Value, path: &Path<'_>, wanted: &str) {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let help = if wanted == "a string" && value.is_number() {
            format!("; write it in quotes: \"{value}\"")
        } else {
            String::new()
        };
        self.find(Code::SchemaType, path, format!("{wanted} is wanted, {found} was found{help}"));
    }
}
