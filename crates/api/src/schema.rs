//! Structural schemas: what fields an object may have, which are pruned, which are filled in, and what is wrong with the rest.
//!
//! `pattern` and `x-kubernetes-validations` are not evaluated; [`Schema::unchecked`] names where a schema has them, so that
//! whoever stores a definition can say so.

mod core;
mod faults;
mod node;
mod parse;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::status::Cause;

pub use faults::{Elsewhere, Fault, Wrong};

/// Most causes and most unknown fields told about one object; more help nobody and would make a reply of any size.
pub const FINDINGS_MAX: usize = 256;

/// The shape of the objects of one version of a kind.
#[derive(Clone, Debug)]
pub struct Schema {
    root: Node,
    document: Value,
    unchecked: Vec<String>,
    /// Built-in kinds: null counts as absent everywhere, an empty text as absent where a value is required.
    builtin: bool,
}

/// The shape of one value.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the properties of a schema are independent of one another")]
pub(crate) struct Node {
    shape: Shape,
    nullable: bool,
    /// Keep what is not described.
    preserve: bool,
    properties: BTreeMap<String, Self>,
    additional: Option<Box<Self>>,
    items: Option<Box<Self>>,
    required: Vec<String>,
    allowed: Vec<Value>,
    default: Option<Value>,
    bounds: Bounds,
    all_of: Vec<Self>,
    any_of: Vec<Self>,
    one_of: Vec<Self>,
    not: Option<Box<Self>>,
    keys: ListKeys,
    /// No two elements of the list may be one.
    distinct: bool,
    /// A mapping that is set as a whole.
    atomic: bool,
    /// Typed servers have the field always, if only empty.
    always: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shape {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    Quantity,
    Bytes,
    Time,
}

#[derive(Clone, Debug, Default)]
struct Bounds {
    length: (Option<u64>, Option<u64>),
    items: (Option<u64>, Option<u64>),
    properties: (Option<u64>, Option<u64>),
    value: (Option<f64>, Option<f64>),
    exclusive: (bool, bool),
}

/// Which items of a list are one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListKeys {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Schema {
    /// Reads an OpenAPI v3 schema as `CustomResourceDefinitions` carry it; `field` is where it stands, for the causes.
    pub fn parse(document: &Value, field: &str) -> Result<Self, Vec<Cause>> {
        parse::schema(document, field)
    }

    /// The shape of the whole object.
    pub(crate) const fn root(&self) -> &Node {
        &self.root
    }

    /// The schema of a built-in kind.
    pub fn builtin(api_version: &str, kind: &str) -> Option<Arc<Self>> {
        core::schema(api_version, kind)
    }

    /// The schema of the pods that a workload makes: `metadata` and `spec`, as they stand in the workload's template.
    pub fn pod_template() -> Arc<Self> {
        core::pod_template()
    }

    /// The schema as it was written; null for built-in kinds.
    pub const fn document(&self) -> &Value {
        &self.document
    }

    /// Paths of the rules in the schema that are not evaluated here.
    pub fn unchecked(&self) -> &[String] {
        &self.unchecked
    }

    /// Takes away every field that is not described, and says which, in order.
    ///
    /// With `fieldValidation=Strict` an object with such fields is refused: [`unknown_fields`] makes the texts.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut removed = walk::Paths::default();
        walk::prune(&self.root, object, "", &mut removed);
        removed.sorted()
    }

    /// Fills in what is absent and has a default.
    pub fn default(&self, object: &mut Value) {
        walk::default(&self.root, object);
    }

    /// Everything that is wrong, at most [`FINDINGS_MAX`].
    pub fn validate(&self, object: &Value) -> Vec<Cause> {
        let mut checker = walk::Checker::new(self.builtin);
        checker.check(&self.root, object, "");
        checker.into_causes()
    }

    /// What is not as it is described, place by place, for whoever shows it beside what was written; at most [`FINDINGS_MAX`].
    ///
    /// What is missing, and whatever [`Self::validate`] says beyond types and words, is not among it.
    pub fn faults(&self, object: &Value) -> Vec<Fault> {
        faults::find(&self.root, object)
    }
}

/// The texts of unknown fields as strict decoding and warnings tell them.
pub fn unknown_fields(paths: &[String]) -> Vec<String> {
    paths.iter().map(|path| format!("unknown field \"{path}\"")).collect()
}

#[cfg(test)]
mod tests;
