//! One Kubernetes object as JSON, and the key under which it is stored.
//!
//! Nothing here knows which kinds exist ([`crate::kinds`]) or whether an object is valid ([`crate::schema`]).

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::status::Status;

/// One Kubernetes object: always a JSON mapping.
///
/// Reading accessors never fail: what is absent or of another type reads as empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Object(Value);

/// Where an object is stored: resource, namespace (none for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// API group, empty for the core group.
    pub group: String,
    /// Plural resource name, such as `pods`.
    pub plural: String,
    /// Namespace, or none if the kind is cluster-scoped.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// `apiVersion` of the owner.
    pub api_version: &'a str,
    /// Kind of the owner.
    pub kind: &'a str,
    /// Name of the owner, in the same namespace.
    pub name: &'a str,
    /// Uid of the owner.
    pub uid: &'a str,
    /// Whether the owner is the one controller.
    pub controller: bool,
}

static NULL: Value = Value::Null;

impl Object {
    /// Takes a JSON value, which must be a mapping.
    pub fn new(value: Value) -> Result<Self, Status> {
        if value.is_object() {
            Ok(Self(value))
        } else {
            Err(Status::bad_request(format!(
                "a Kubernetes object must be a mapping, this is {}; send one object with apiVersion, kind and metadata",
                json_type(&value)
            )))
        }
    }

    /// A new object with nothing but its type and name.
    pub fn named(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Self {
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), Value::from(name));
        if let Some(namespace) = namespace {
            metadata.insert("namespace".to_owned(), Value::from(namespace));
        }
        Self(json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata }))
    }

    /// The whole object.
    pub const fn value(&self) -> &Value {
        &self.0
    }

    /// The whole object as a mapping.
    pub fn fields(&self) -> &Map<String, Value> {
        static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        self.0.as_object().unwrap_or(&EMPTY)
    }

    /// Gives the object away as JSON.
    pub fn into_value(self) -> Value {
        self.0
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.str_at("/kind")
    }

    /// `apiVersion`, such as `apps/v1`.
    pub fn api_version(&self) -> &str {
        self.str_at("/apiVersion")
    }

    /// The group of `apiVersion`, empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// The version of `apiVersion`.
    pub fn version(&self) -> &str {
        let whole = self.api_version();
        whole.split_once('/').map_or(whole, |(_, version)| version)
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.str_at("/metadata/name")
    }

    /// `metadata.namespace`, none if absent or empty.
    pub fn namespace(&self) -> Option<&str> {
        Some(self.str_at("/metadata/namespace")).filter(|namespace| !namespace.is_empty())
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.str_at("/metadata/uid")
    }

    /// `metadata.resourceVersion` as a number, 0 if absent.
    pub fn revision(&self) -> u64 {
        self.str_at("/metadata/resourceVersion").parse().unwrap_or(0)
    }

    /// `metadata.generation`, 0 if absent.
    pub fn generation(&self) -> i64 {
        self.at("/metadata/generation").as_i64().unwrap_or(0)
    }

    /// The pairs of `metadata.labels`.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        string_pairs(self.at("/metadata/labels"))
    }

    /// One label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.at("/metadata/labels").get(name)?.as_str()
    }

    /// The pairs of `metadata.annotations`.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        string_pairs(self.at("/metadata/annotations"))
    }

    /// One annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.at("/metadata/annotations").get(name)?.as_str()
    }

    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.items_at("/metadata/finalizers").iter().filter_map(Value::as_str)
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_deleting(&self) -> bool {
        !self.str_at("/metadata/deletionTimestamp").is_empty()
    }

    /// `metadata.ownerReferences`.
    pub fn owners(&self) -> impl Iterator<Item = Owner<'_>> {
        self.items_at("/metadata/ownerReferences").iter().map(|owner| Owner {
            api_version: text(owner, "apiVersion"),
            kind: text(owner, "kind"),
            name: text(owner, "name"),
            uid: text(owner, "uid"),
            controller: owner.get("controller").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// The owner reference that is marked as controller.
    pub fn controller(&self) -> Option<Owner<'_>> {
        self.owners().find(|owner| owner.controller)
    }

    /// The value at a JSON pointer, null if absent.
    pub fn at(&self, pointer: &str) -> &Value {
        find(&self.0, pointer).unwrap_or(&NULL)
    }

    /// The text at a JSON pointer, empty if absent or not a string.
    pub fn str_at(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or("")
    }

    /// The list at a JSON pointer, empty if absent or not a list.
    pub fn items_at(&self, pointer: &str) -> &[Value] {
        self.at(pointer).as_array().map_or(&[], Vec::as_slice)
    }

    /// Puts a value at a JSON pointer; mappings that are missing on the way are made.
    ///
    /// Does nothing if the way leads through a list index that does not exist, or to the root itself.
    pub fn set(&mut self, pointer: &str, value: impl Into<Value>) {
        if let Some((parent, last)) = split_pointer(pointer)
            && let Some(place) = walk(&mut self.0, parent)
        {
            match place {
                Value::Array(items) => {
                    if let Some(item) = last.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                        *item = value.into();
                    }
                }
                Value::Object(fields) => {
                    fields.insert(last, value.into());
                }
                _ => {}
            }
        }
    }

    /// Takes the value at a JSON pointer out of the object; list items close up.
    pub fn remove(&mut self, pointer: &str) -> Option<Value> {
        let (parent, last) = split_pointer(pointer)?;
        match self.0.pointer_mut(parent)? {
            Value::Object(fields) => fields.shift_remove(&last),
            Value::Array(items) => {
                let index = last.parse::<usize>().ok()?;
                (index < items.len()).then(|| items.remove(index))
            }
            _ => None,
        }
    }

    /// The value at a JSON pointer, to be changed in place.
    pub fn at_mut(&mut self, pointer: &str) -> Option<&mut Value> {
        // The root must stay a mapping, so it is not handed out.
        if pointer.is_empty() { None } else { self.0.pointer_mut(pointer) }
    }
}

impl TryFrom<Value> for Object {
    type Error = Status;

    fn try_from(value: Value) -> Result<Self, Status> {
        Self::new(value)
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        object.0
    }
}

impl Key {
    /// A key of a namespaced object.
    pub fn namespaced(group: &str, plural: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.to_owned(),
            plural: plural.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        }
    }

    /// A key of a cluster-scoped object.
    pub fn cluster(group: &str, plural: &str, name: &str) -> Self {
        Self { group: group.to_owned(), plural: plural.to_owned(), namespace: None, name: name.to_owned() }
    }

    /// Resource with group as messages show it, such as `deployments.apps`.
    pub fn resource(&self) -> String {
        resource(&self.group, &self.plural)
    }

    /// Whether the key is of this resource.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.resource(), self.name),
            None => write!(f, "{}/{}", self.resource(), self.name),
        }
    }
}

/// `plural` or `plural.group`.
pub(crate) fn resource(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

/// The JSON type of a value in words of OpenAPI.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The text of one field, empty if absent.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

fn string_pairs(value: &Value) -> impl Iterator<Item = (&str, &str)> {
    value.as_object().into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
}

/// The value at a JSON pointer. The general way copies every step twice to look for escapes, of which nearly no pointer has one.
fn find<'a>(root: &'a Value, pointer: &str) -> Option<&'a Value> {
    if pointer.is_empty() || pointer.contains('~') {
        return root.pointer(pointer);
    }
    pointer.strip_prefix('/')?.split('/').try_fold(root, |place, step| match place {
        Value::Object(fields) => fields.get(step),
        Value::Array(_) => place.pointer(&format!("/{step}")),
        _ => None,
    })
}

fn split_pointer(pointer: &str) -> Option<(&str, String)> {
    let (parent, last) = pointer.rsplit_once('/')?;
    Some((parent, unescape(last)))
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn walk<'a>(root: &'a mut Value, parent: &str) -> Option<&'a mut Value> {
    let mut place = root;
    for token in parent.split('/').skip(1) {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = match place {
            Value::Object(fields) => fields.entry(unescape(token)).or_insert(Value::Null),
            Value::Array(items) => items.get_mut(token.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    if place.is_null() {
        *place = Value::Object(Map::new());
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::{Key, Object};
    use serde_json::json;

    #[test]
    fn accessors_read_what_is_there_and_nothing_else() {
        let object = Object::new(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "b", "uid": "u", "resourceVersion": "12", "generation": 3,
                "labels": {"app": "x", "odd": 1}, "finalizers": ["f"],
                "ownerReferences": [{"kind": "A", "name": "n", "uid": "1"}, {"kind": "B", "uid": "2", "controller": true}]}
        }))
        .unwrap();
        assert_eq!((object.group(), object.version(), object.kind()), ("apps", "v1", "Deployment"));
        assert_eq!((object.name(), object.namespace(), object.uid()), ("a", Some("b"), "u"));
        assert_eq!((object.revision(), object.generation()), (12, 3));
        assert_eq!(object.labels().collect::<Vec<_>>(), vec![("app", "x")]);
        assert_eq!(object.finalizers().collect::<Vec<_>>(), vec!["f"]);
        assert_eq!(object.controller().map(|owner| owner.uid), Some("2"));
        assert!(!object.is_deleting());
        assert!(object.at("/spec/replicas").is_null());

        let core = Object::named("v1", "Namespace", None, "foo");
        assert_eq!((core.group(), core.version(), core.namespace(), core.revision()), ("", "v1", None, 0));
    }

    #[test]
    fn set_makes_the_way_and_remove_takes_away() {
        let mut object = Object::named("v1", "Pod", Some("foo"), "a");
        object.set("/status/phase", "Running");
        object.set("/metadata/labels/a.b~1c", "x");
        assert_eq!(object.label("a.b/c"), Some("x"));
        object.set("/spec/containers", json!([{"name": "a"}]));
        object.set("/spec/containers/0/image", "i");
        object.set("/spec/containers/7/image", "lost");
        object.set("", "the root cannot be replaced");
        assert_eq!(object.at("/spec/containers"), &json!([{"name": "a", "image": "i"}]));
        assert_eq!(object.remove("/status/phase"), Some(json!("Running")));
        assert_eq!(object.remove("/status/phase"), None);
        assert_eq!(object.remove("/spec/containers/0/image"), Some(json!("i")));
        assert_eq!(object.remove("/spec/containers/3"), None);
    }

    #[test]
    fn only_a_mapping_is_an_object() {
        for value in [json!(null), json!([]), json!("x"), json!(1)] {
            assert_eq!(Object::new(value).unwrap_err().code(), 400);
        }
        assert!(serde_json::from_str::<Object>("[]").is_err());
    }

    #[test]
    fn keys_show_resource_namespace_and_name() {
        assert_eq!(Key::namespaced("apps", "deployments", "foo", "a").to_string(), "deployments.apps/foo/a");
        assert_eq!(Key::cluster("", "namespaces", "foo").to_string(), "namespaces/foo");
    }
}
