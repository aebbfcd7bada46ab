//! Tests of protobuf bodies: those of kubectl, and hostile ones.

#![expect(clippy::needless_pass_by_value, reason = "cases are written as `json!` literals")]

use proptest::prelude::{any, prop, proptest};
use serde_json::{Value, json};

use super::{MAGIC, decode, is_protobuf};

/// What kubectl 1.37 sends for `kubectl create ..` and `kubectl auth ..`.
macro_rules! body {
    ($name:literal) => {
        include_bytes!(concat!("bodies/", $name, ".bin"))
    };
}

fn object(api_version: &str, kind: &str, rest: Value) -> Value {
    let mut whole = json!({"apiVersion": api_version, "kind": kind});
    crate::patch::merge(&mut whole, &rest);
    whole
}

fn means(body: &[u8], expected: &Value) {
    assert!(is_protobuf(body));
    let decoded = decode(body).unwrap();
    assert_eq!(decoded.value(), expected);
    let schema = crate::schema::Schema::builtin(decoded.api_version(), decoded.kind()).unwrap();
    assert_eq!(schema.prune(&mut decoded.into_value()), Vec::<String>::new());
}

#[test]
fn bodies_of_kubectl_mean_what_was_typed() {
    for (body, expected) in [
        (
            body!("namespace").as_slice(),
            object("v1", "Namespace", json!({"metadata": {"name": "foo"}, "spec": {}, "status": {}})),
        ),
        (
            body!("configmap"),
            object("v1", "ConfigMap", json!({"metadata": {"name": "cm"}, "data": {"a": "b", "c": "d"}})),
        ),
        (
            body!("configmap-binary"),
            object("v1", "ConfigMap", json!({"metadata": {"name": "cmb"}, "binaryData": {"bin": "AP8="}})),
        ),
        (body!("secret"), object("v1", "Secret", json!({"metadata": {"name": "s"}, "data": {"a": "Yg=="}}))),
        (body!("serviceaccount"), object("v1", "ServiceAccount", json!({"metadata": {"name": "x"}}))),
        (
            body!("tokenrequest"),
            object(
                "authentication.k8s.io/v1",
                "TokenRequest",
                json!({"metadata": {}, "spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600}, "status": {}}),
            ),
        ),
        (
            body!("service"),
            object(
                "v1",
                "Service",
                json!({"metadata": {"name": "svc", "labels": {"app": "svc"}}, "spec": {
                "ports": [{"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": "http"}, {"name": "9000-9001", "protocol": "TCP", "port": 9000, "targetPort": 9001}],
                "selector": {"app": "svc"}, "type": "ClusterIP"}, "status": {"loadBalancer": {}}}),
            ),
        ),
        (
            body!("service-headless"),
            object(
                "v1",
                "Service",
                json!({"metadata": {"name": "hl", "labels": {"app": "hl"}}, "spec": {"selector": {"app": "hl"}, "clusterIP": "None", "type": "ClusterIP"}, "status": {"loadBalancer": {}}}),
            ),
        ),
    ] {
        means(body, &expected);
    }
}

#[test]
fn bodies_with_templates_and_reviews() {
    let template = |rest: Value| json!({"metadata": {"labels": {"app": "d"}}, "spec": rest});
    for (body, expected) in [
        (
            body!("deployment").as_slice(),
            object(
                "apps/v1",
                "Deployment",
                json!({"metadata": {"name": "d", "labels": {"app": "d"}}, "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}},
                "template": template(json!({"containers": [{"name": "nginx", "image": "nginx", "command": ["sh", "-c", "sleep 1"],
                    "ports": [{"containerPort": 80}], "resources": {}}]})), "strategy": {}}, "status": {}}),
            ),
        ),
        (
            body!("job"),
            object(
                "batch/v1",
                "Job",
                json!({"metadata": {"name": "j"}, "spec": {"template": {"metadata": {}, "spec": {
                "containers": [{"name": "j", "image": "busybox", "command": ["date"], "resources": {}}], "restartPolicy": "Never"}}}, "status": {}}),
            ),
        ),
        (
            body!("selfsubjectreview"),
            object(
                "authentication.k8s.io/v1",
                "SelfSubjectReview",
                json!({"metadata": {}, "status": {"userInfo": {}}}),
            ),
        ),
        (
            body!("selfsubjectaccessreview"),
            object(
                "authorization.k8s.io/v1",
                "SelfSubjectAccessReview",
                json!({"metadata": {}, "spec": {"resourceAttributes": {"namespace": "foo", "verb": "create", "resource": "pods"}}, "status": {}}),
            ),
        ),
        (
            body!("selfsubjectrulesreview"),
            object(
                "authorization.k8s.io/v1",
                "SelfSubjectRulesReview",
                json!({"metadata": {}, "spec": {"namespace": "foo"}, "status": {}}),
            ),
        ),
    ] {
        means(body, &expected);
    }
}

#[test]
fn kinds_known_in_json_only_are_refused_as_such() {
    let status = decode(body!("ingress")).unwrap_err();
    assert_eq!(status.code(), 415);
    assert!(status.message().contains("`Ingress` of `networking.k8s.io/v1`"), "{status}");
}

/// A length-delimited field.
fn bytes(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = inner.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7F).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend(inner);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &type_meta), bytes(2, raw)].concat()
}

#[test]
fn times_maps_numbers_and_parts() {
    let time = [0x08, 0x80, 0x80, 0x80, 0xC0, 0x06];
    let metadata = [
        bytes(1, b"a"),
        bytes(8, &time),
        bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat()),
        bytes(11, &bytes(1, b"empty")),
    ]
    .concat();
    let context = [0x10, 0x00, 0x22, 0x02, 0x01, 0x02, 0x20, 0x03];
    let limits = bytes(1, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat());
    let container = [bytes(1, b"c"), bytes(8, &limits)].concat();
    let pod = [bytes(1, &metadata), bytes(2, &bytes(2, &container)), bytes(2, &bytes(14, &context))].concat();
    let decoded = decode(&envelope("v1", "Pod", &pod)).unwrap();
    assert_eq!(
        decoded.value(),
        &json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": "2025-04-16T19:07:44Z", "labels": {"k": "v", "empty": ""}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "100m"}}}],
                "securityContext": {"runAsUser": 0, "supplementalGroups": [1, 2, 3]}}})
    );
}

#[test]
fn malformed_bodies_are_refused() {
    let pod = |raw: &[u8]| envelope("v1", "Pod", raw);
    let mut deep = Vec::new();
    for _ in 0..100 {
        deep = bytes(15, &deep);
    }
    for (why, body) in [
        ("no magic", b"{}".to_vec()),
        ("cut in the envelope", pod(&[])[..8].to_vec()),
        ("cut in a field", pod(&[0x0A, 0x05, 0x01])),
        ("endless number", pod(&[0x80; 12])),
        ("group", pod(&[0x0B])),
        ("field 0", pod(&[0x02, 0x00])),
        ("number where a message belongs", pod(&[0x08, 0x01])),
        ("no text", pod(&bytes(1, &bytes(1, &[0xFF])))),
        ("huge length", pod(&[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F])),
        ("no time", pod(&bytes(1, &bytes(8, &[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F])))),
        ("volume of an exotic kind", pod(&bytes(2, &bytes(1, &bytes(2, &[0x1A, 0x00]))))),
        ("too many messages", pod(&bytes(2, &bytes(2, &[]).repeat(300_000)))),
    ] {
        let status = decode(&body).expect_err(why);
        assert_eq!(status.code(), 400, "{why}");
        assert!(!status.message().is_empty());
    }
    assert!(decode(&pod(&deep)).is_ok(), "unknown fields may nest as they like");
}

proptest! {
    #[test]
    fn no_body_makes_a_panic(raw in prop::collection::vec(any::<u8>(), 0..80)) {
        let _either = decode(&envelope("apps/v1", "Deployment", &raw));
        let _either = decode(&[MAGIC, &raw].concat());
    }

    #[test]
    fn no_broken_body_of_kubectl_makes_a_panic(at in 0_usize..227, byte in any::<u8>()) {
        let mut body = body!("deployment").to_vec();
        body[at] = byte;
        let _either = decode(&body);
        body.truncate(at);
        let _either = decode(&body);
    }
}
