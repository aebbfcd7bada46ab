//! Objects that are asked, never stored: may I, who am I. There is one user, and it may do everything.

use api::{Object, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{Body, authn, reply};

/// Answers a review.
pub(crate) fn answer(plural: &str, mut review: Object) -> Result<Response<Body>, Status> {
    let status = match plural {
        "selfsubjectaccessreviews" => json!({"allowed": true}),
        "selfsubjectrulesreviews" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        "selfsubjectreviews" => json!({"userInfo": user()}),
        _ => return Err(Status::method_not_allowed()),
    };
    review.set("/metadata/creationTimestamp", Value::Null);
    review.set("/status", status);
    Ok(reply::json(StatusCode::CREATED, review.value()))
}

fn user() -> Value {
    json!({"username": authn::ADMIN, "groups": ["system:masters", "system:authenticated"]})
}
