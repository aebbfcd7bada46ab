//! Bodies as clients send them.

use api::patch::PatchType;
use api::{Object, Status, proto};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// Reads the body of a write: JSON, YAML or protobuf.
pub(super) fn body(headers: &HeaderMap, body: &[u8]) -> Result<Value, Status> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    match media_type.split(';').next().unwrap_or_default().trim() {
        "application/json" | "" => json(body),
        proto::MEDIA_TYPE => proto::decode(body).map(Object::into_value),
        "application/yaml" | "text/yaml" | "application/x-yaml" => yaml(body),
        _ => Err(Status::unsupported_media_type(&["application/json", "application/yaml", proto::MEDIA_TYPE])),
    }
}

/// Reads a patch; that of an apply may be YAML.
pub(super) fn patch(patch_type: PatchType, body: &[u8]) -> Result<Value, Status> {
    let is_yaml = patch_type == PatchType::Apply && !body.trim_ascii_start().starts_with(b"{");
    if is_yaml { yaml(body) } else { json(body) }
}

fn yaml(body: &[u8]) -> Result<Value, Status> {
    let text = std::str::from_utf8(body).map_err(|_| Status::bad_request("the body is not UTF-8"))?;
    let mut documents =
        api::yaml::documents(text).into_iter().filter(|document| !document.is_empty() || !document.problems.is_empty());
    let (Some(document), None) = (documents.next(), documents.next()) else {
        return Err(Status::bad_request("the body must be one YAML document"));
    };
    match document.problems.first() {
        Some(problem) => Err(Status::bad_request(format!(
            "the body cannot be read as YAML: line {}: {}",
            problem.span.line, problem.message
        ))),
        None => Ok(document.value),
    }
}

fn json(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("the body cannot be read as JSON: {error}")))
}
