//! What of a shape matters for taking values apart and putting them together.

use std::sync::LazyLock;

use serde_json::Value;

use super::{ListKeys, Node, Shape};

/// The shape of what nothing is known about: mappings come apart, lists do not.
static FREE: LazyLock<Node> = LazyLock::new(Node::free);

impl Node {
    /// A shape that nothing is known about.
    pub(crate) fn free() -> Self {
        Self { preserve: true, ..Self::default() }
    }

    /// The shape of a field, and whether it is one that the shape names.
    pub(crate) fn field(&self, name: &str) -> (&Self, bool) {
        match self.properties.get(name) {
            Some(node) => (node, true),
            None => (self.additional.as_deref().unwrap_or(&FREE), false),
        }
    }

    /// The shape of the elements of a list.
    pub(crate) fn item(&self) -> &Self {
        self.items.as_deref().unwrap_or(&FREE)
    }

    /// What tells the elements of a list apart.
    pub(crate) const fn list_keys(&self) -> &ListKeys {
        &self.keys
    }

    /// Whether a mapping is set as a whole.
    pub(crate) const fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// Whether a mapping has any keys, not fields that the shape names.
    pub(crate) fn is_free_mapping(&self) -> bool {
        self.properties.is_empty() && matches!(self.shape, Shape::Any | Shape::Object)
    }

    /// Whether typed servers have the field always, if only empty.
    pub(crate) const fn is_always_there(&self) -> bool {
        self.always
    }

    /// What stands for the value if it is left out.
    pub(crate) fn default_value(&self) -> Option<Value> {
        self.default.clone()
    }
}
