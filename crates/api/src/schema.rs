//! Structural schemas.

use serde_json::Value;

use crate::status::Cause;

/// A structural schema of a kind.
#[derive(Clone, Debug)]
pub struct Schema {
    document: Value,
}

impl Schema {
    /// Reads an OpenAPI v3 schema as `CustomResourceDefinitions` carry it.
    pub fn parse(document: &Value, field: &str) -> Result<Self, Vec<Cause>> {
        if document.is_object() {
            Ok(Self { document: document.clone() })
        } else {
            Err(vec![Cause::required(field, "schemas are required")])
        }
    }

    /// The schema as it was written.
    pub const fn document(&self) -> &Value {
        &self.document
    }
}
