//! The patches of HTTP PATCH: JSON merge patch, JSON patch and strategic merge patch.
//!
//! Server-side apply is not here: it needs the field sets of `metadata.managedFields`, not only the two documents.

mod json;
mod merge;
mod strategic;

use serde_json::Value;

use crate::kinds::Kind;
use crate::object::Object;
use crate::status::Status;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

/// How the body of a PATCH is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902: a list of operations.
    Json,
    /// RFC 7396: a partial document.
    Merge,
    /// A partial document whose lists merge by key.
    Strategic,
    /// Server-side apply: the whole intent of one field manager.
    Apply,
}

impl PatchType {
    /// The media type's patch, parameters ignored.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }

    /// The patch of a request for a kind; 415 with the accepted media types if there is none.
    pub fn of(media_type: &str, kind: &Kind) -> Result<Self, Status> {
        match Self::from_media_type(media_type) {
            Some(Self::Strategic) if !kind.builtin => {}
            Some(patch) => return Ok(patch),
            None => {}
        }
        let mut accepted = vec!["application/json-patch+json", "application/merge-patch+json"];
        if kind.builtin {
            accepted.push("application/strategic-merge-patch+json");
        }
        accepted.push("application/apply-patch+yaml");
        Err(Status::unsupported_media_type(&accepted))
    }
}

/// Applies a patch to an object. The caller checks that name, namespace, kind and uid stayed what they were.
pub fn apply(patch_type: PatchType, object: &Object, patch: &Value) -> Result<Object, Status> {
    let patched = match patch_type {
        PatchType::Json => json(object.value(), patch)?,
        PatchType::Merge => {
            mapping(patch)?;
            let mut patched = object.value().clone();
            merge(&mut patched, patch);
            patched
        }
        PatchType::Strategic => {
            mapping(patch)?;
            strategic(object.value(), patch)?
        }
        PatchType::Apply => {
            let accepted = ["application/json-patch+json", "application/merge-patch+json"];
            return Err(Status::unsupported_media_type(&accepted));
        }
    };
    Object::new(patched)
}

fn mapping(patch: &Value) -> Result<(), Status> {
    if patch.is_object() {
        return Ok(());
    }
    let found = crate::object::json_type(patch);
    Err(Status::bad_request(format!("a merge patch must be a mapping, this is {found}; send the fields to change")))
}

#[cfg(test)]
mod tests;
