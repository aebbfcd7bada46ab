//! What of an object is not as its schema has it, place by place, for whoever shows an author what was written: fields that do not
//! exist, values of another type, words that are not known. Nothing is changed, and what is missing is not told: a part of an
//! object, such as a patch, is no fault.

use serde_json::{Map, Value};

use super::walk::{fits, shown};
use super::{FINDINGS_MAX, Node};
use crate::object::json_type;

/// One thing that is not as the schema has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, such as `spec.ports[0].port` or `metadata.labels[a.b/c]`.
    pub path: String,
    /// What.
    pub wrong: Wrong,
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// There is no such field.
    Unknown {
        /// Its name.
        field: String,
        /// The fields that there are.
        known: Vec<String>,
        /// Where in the neighbourhood there is one of that name.
        elsewhere: Option<Elsewhere>,
    },
    /// The value has another type.
    Type {
        /// The type that the field has.
        wanted: &'static str,
        /// The type of the value.
        found: &'static str,
    },
    /// The text is none of the words that the field takes.
    Word {
        /// The text.
        found: String,
        /// The words.
        known: Vec<String>,
    },
}

/// Where a field that stands in the wrong place could have been meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// One level up, beside the mapping that it stands in.
    Above,
    /// One level down, below this field.
    Below(String),
    /// Below this neighbour of the mapping that it stands in.
    Beside(String),
}

/// Walks the value, and gathers at most [`FINDINGS_MAX`] faults.
pub(super) fn find(root: &Node, value: &Value) -> Vec<Fault> {
    let mut walk = Walk { faults: Vec::new() };
    walk.value(root, None, value, "");
    walk.faults
}

struct Walk {
    faults: Vec<Fault>,
}

impl Walk {
    fn value(&mut self, node: &Node, above: Option<&Node>, value: &Value, path: &str) {
        // Null is as if the field were not there.
        if value.is_null() {
            return;
        }
        if let Err(wanted) = fits(node.shape, value) {
            return self.tell(path.to_owned(), Wrong::Type { wanted, found: json_type(value) });
        }
        match value {
            Value::Object(fields) => self.fields(node, above, fields, path),
            Value::Array(items) => {
                let Some(item_node) = &node.items else { return };
                for (index, item) in items.iter().enumerate() {
                    // What is above an item is what holds the list.
                    self.value(item_node, above, item, &format!("{path}[{index}]"));
                }
            }
            Value::String(text) if !(text.is_empty() || node.allowed.is_empty() || node.allowed.contains(value)) => {
                let known = node.allowed.iter().map(shown).collect();
                self.tell(path.to_owned(), Wrong::Word { found: text.clone(), known });
            }
            _ => {}
        }
    }

    fn fields(&mut self, node: &Node, above: Option<&Node>, fields: &Map<String, Value>, path: &str) {
        for (name, child) in fields {
            let place = member(path, name);
            match node.properties.get(name).or(node.additional.as_deref()) {
                Some(child_node) => self.value(child_node, Some(node), child, &place),
                // A mapping of which nothing is described is anything.
                None if node.preserve || node.properties.is_empty() => {}
                None => {
                    let known = node.properties.keys().cloned().collect();
                    let elsewhere = elsewhere(node, above, name);
                    self.tell(place, Wrong::Unknown { field: name.clone(), known, elsewhere });
                }
            }
        }
    }

    fn tell(&mut self, path: String, wrong: Wrong) {
        if self.faults.len() < FINDINGS_MAX {
            self.faults.push(Fault { path, wrong });
        }
    }
}

fn elsewhere(node: &Node, above: Option<&Node>, name: &str) -> Option<Elsewhere> {
    if above.is_some_and(|above| above.properties.contains_key(name)) {
        return Some(Elsewhere::Above);
    }
    let below = holder(node, name, true).map(Elsewhere::Below);
    below.or_else(|| holder(above?, name, false).map(Elsewhere::Beside))
}

/// The one field of a mapping below which there is a field of this name, in items of a list too if wanted.
fn holder(node: &Node, name: &str, in_items: bool) -> Option<String> {
    let holds = |child: &Node| {
        let items = child.items.as_ref().filter(|_| in_items);
        child.properties.contains_key(name) || items.is_some_and(|item| item.properties.contains_key(name))
    };
    let mut all = node.properties.iter().filter(|(_, child)| holds(child)).map(|(field, _)| field.clone());
    // Where several could be meant none is named.
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// The path of a member; a name that a path could misread stands in brackets.
fn member(path: &str, name: &str) -> String {
    if name.contains(['.', '/', '[', ']']) {
        format!("{path}[{name}]")
    } else if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
