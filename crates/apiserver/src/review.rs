//! Objects that are asked, never stored: may I, who am I, whose token is this. There is one user, and it may do everything.

use api::{Object, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::server::Inner;
use crate::{Body, authn, reply};

/// Answers a review.
pub(crate) fn answer(inner: &Inner, plural: &str, mut review: Object) -> Result<Response<Body>, Status> {
    let status = match plural {
        "selfsubjectaccessreviews" | "subjectaccessreviews" | "localsubjectaccessreviews" => json!({"allowed": true}),
        "selfsubjectrulesreviews" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        "selfsubjectreviews" => json!({"userInfo": user()}),
        "tokenreviews" => {
            let known = Sha256::digest(review.str_at("/spec/token")) == Sha256::digest(&inner.credentials.token);
            if known { json!({"authenticated": true, "user": user()}) } else { json!({"authenticated": false}) }
        }
        _ => return Err(Status::method_not_allowed()),
    };
    review.set("/metadata/creationTimestamp", Value::Null);
    review.set("/status", status);
    Ok(reply::json(StatusCode::CREATED, review.value()))
}

fn user() -> Value {
    json!({"username": authn::ADMIN, "groups": ["system:masters", "system:authenticated"]})
}
