//! Bodies as clients send them.

use api::Status;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

/// Reads the body of a write: JSON, YAML or protobuf.
pub(super) fn body(headers: &HeaderMap, body: &[u8]) -> Result<Value, Status> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    match media_type.split(';').next().unwrap_or_default().trim() {
        "application/json" | "" => json(body),
        _ => Err(Status::unsupported_media_type(&[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ])),
    }
}

/// Reads a patch.
pub(super) fn patch(body: &[u8]) -> Result<Value, Status> {
    json(body)
}

fn json(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("the body cannot be read as JSON: {error}")))
}
