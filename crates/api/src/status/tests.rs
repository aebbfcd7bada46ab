//! Tests of the shapes of Status.

use serde_json::{Value, json};

use super::{Cause, Details, Status};
use crate::object::Key;

fn policy() -> Key {
    Key::namespaced("security.istio.io", "authorizationpolicies", "foo", "tcp-policy")
}

#[test]
fn every_shape_has_its_code_reason_and_text() {
    let pod = Key::namespaced("", "pods", "foo", "a");
    let nodes = Key::cluster("", "nodes", "");
    let no_name = Key { name: String::new(), ..policy() };
    for (status, code, reason, message) in [
        (Status::bad_request("x"), 400, "BadRequest", "x"),
        (Status::denied("no"), 400, "", "no"),
        (Status::unauthorized(), 401, "Unauthorized", "Unauthorized"),
        (
            Status::forbidden_verb("dev", "list", &no_name),
            403,
            "Forbidden",
            "authorizationpolicies.security.istio.io is forbidden: User \"dev\" cannot list resource \"authorizationpolicies\" in API group \"security.istio.io\" in the namespace \"foo\"",
        ),
        (
            Status::forbidden_verb("dev", "list", &nodes),
            403,
            "Forbidden",
            "nodes is forbidden: User \"dev\" cannot list resource \"nodes\" in API group \"\" at the cluster scope",
        ),
        (
            Status::namespace_terminating(&pod),
            403,
            "Forbidden",
            "pods \"a\" is forbidden: unable to create new content in namespace foo because it is being terminated",
        ),
        (
            Status::not_found(&policy()),
            404,
            "NotFound",
            "authorizationpolicies.security.istio.io \"tcp-policy\" not found",
        ),
        (Status::no_resource(), 404, "NotFound", "the server could not find the requested resource"),
        (
            Status::method_not_allowed(),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (Status::already_exists(&pod), 409, "AlreadyExists", "pods \"a\" already exists"),
        (
            Status::conflict(&pod),
            409,
            "Conflict",
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again",
        ),
        (Status::expired(1, 275), 410, "Expired", "too old resource version: 1 (275)"),
        (Status::too_large(3), 413, "RequestEntityTooLarge", "Request entity too large: limit is 3"),
        (Status::revision_too_large(9, 5), 504, "Timeout", "Too large resource version: 9, current: 5"),
        (Status::internal("disk"), 500, "InternalError", "Internal error occurred: disk"),
        (Status::unavailable("x").context("store"), 503, "ServiceUnavailable", "store: x"),
        (Status::too_many_requests("x", 1), 429, "TooManyRequests", "x"),
        (
            Status::not_acceptable(&["application/json"]),
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        ),
    ] {
        assert_eq!((status.code(), status.reason(), status.message()), (code, reason, message));
        assert!(!status.is_success());
        assert_eq!(status.to_string(), message);
    }
}

#[test]
fn an_invalid_object_lists_its_causes_once_in_the_message_and_once_in_the_details() {
    let one = Cause::not_supported("spec.action", &json!("PERMIT"), &["ALLOW".to_owned(), "DENY".to_owned()]);
    let two = Cause::required("spec.rules[0].when[0].key", "");
    let single = Status::invalid("security.istio.io", "AuthorizationPolicy", "bad2", vec![one.clone()]);
    assert_eq!(
        single.message(),
        "AuthorizationPolicy.security.istio.io \"bad2\" is invalid: spec.action: Unsupported value: \"PERMIT\": supported values: \"ALLOW\", \"DENY\""
    );
    let both = Status::invalid("", "Pod", "a", vec![one, two]);
    assert_eq!(
        both.to_value(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Pod \"a\" is invalid: [spec.action: Unsupported value: \"PERMIT\": supported values: \"ALLOW\", \"DENY\", spec.rules[0].when[0].key: Required value]",
            "reason": "Invalid",
            "details": {"name": "a", "kind": "Pod", "causes": [
                {"reason": "FieldValueNotSupported", "message": "Unsupported value: \"PERMIT\": supported values: \"ALLOW\", \"DENY\"", "field": "spec.action"},
                {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.rules[0].when[0].key"}]},
            "code": 422})
    );
}

#[test]
fn causes_have_the_texts_of_the_real_server() {
    for (cause, shown) in [
        (Cause::required("a", "name it"), "a: Required value: name it"),
        (Cause::invalid("a", &json!(0), "must be more"), "a: Invalid value: 0: must be more"),
        (
            Cause::wrong_type("p[0]", "integer", "string"),
            "p[0]: Invalid value: \"integer\": p[0] in body must be of type string: \"integer\"",
        ),
        (Cause::duplicate("a", &json!("x")), "a: Duplicate value: \"x\""),
        (Cause::forbidden("a", "no"), "a: Forbidden: no"),
        (Cause::not_found("a", &json!("x")), "a: Not found: \"x\""),
        (Cause::too_many("a", 20, 16), "a: Too many: 20: must have at most 16 items"),
        (Cause::too_many("a", 2, 1), "a: Too many: 2: must have at most 1 item"),
        (Cause::too_long("a", 63), "a: Too long: may not be more than 63 bytes"),
        (Cause::field("X", "whole object", ""), "whole object"),
    ] {
        assert_eq!(cause.to_string(), shown);
    }
}

#[test]
fn statuses_serialise_as_the_server_sends_them() {
    let deleted = Status::deleted(&policy(), "u-1");
    assert!(deleted.is_success());
    assert_eq!(
        serde_json::to_value(&deleted).unwrap(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "tcp-policy", "group": "security.istio.io", "kind": "authorizationpolicies", "uid": "u-1"}})
    );
    assert_eq!(
        Value::from(Status::success()),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
    );
    let ended = Status::exit_code(3);
    assert_eq!(ended.reason(), "NonZeroExitCode");
    assert_eq!(ended.to_value()["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    let busy = Status::too_many_requests("x", 2).to_value();
    assert_eq!(busy["details"]["retryAfterSeconds"], json!(2));
    let about = Status::bad_request("x").about(Details::of(&policy()));
    assert_eq!(about.details().map(|details| details.kind.as_str()), Some("authorizationpolicies"));
    let terminating = Status::namespace_terminating(&policy());
    assert_eq!(terminating.causes()[0].reason, "NamespaceTerminating");
}
