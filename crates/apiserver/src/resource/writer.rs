//! Who writes, as the request says it.

use api::patch::PatchType;
use api::{Cause, Status};
use http::header::USER_AGENT;
use serde_json::Value;

use super::Resource;

/// Longest name of a writer (Kubernetes).
const NAME_BYTES_MAX: usize = 128;

/// The name of whoever writes: what it calls itself, or the beginning of its user agent.
pub(super) fn name(resource: &Resource) -> Result<String, Status> {
    if let Some(name) = resource.ask.query.get("fieldManager") {
        return match fault(name) {
            None => Ok(name.to_owned()),
            Some(why) => Err(invalid(Cause::invalid("fieldManager", &Value::from(name), why))),
        };
    }
    let agent = resource.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let name: String =
        agent.split('/').next().unwrap_or_default().chars().filter(|letter| !letter.is_control()).collect();
    // A client that says nothing of itself still is one.
    let name = if name.is_empty() { "unknown".to_owned() } else { name };
    Ok(name.chars().take(NAME_BYTES_MAX).collect())
}

/// Whether fields of others are to be taken over.
pub(super) fn force(resource: &Resource, patch_type: PatchType) -> Result<bool, Status> {
    let query = &resource.ask.query;
    if patch_type == PatchType::Apply {
        if query.get("fieldManager").is_none() {
            return Err(invalid(Cause::required("fieldManager", "is required for apply patch")));
        }
        return Ok(query.is_on("force"));
    }
    if query.get("force").is_some() {
        return Err(invalid(Cause::forbidden("force", "may not be specified for non-apply patch")));
    }
    Ok(false)
}

fn fault(name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Some("may not be longer than 128");
    }
    name.chars().any(char::is_control).then_some("should only contain printable characters")
}

fn invalid(cause: Cause) -> Status {
    Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause])
}
