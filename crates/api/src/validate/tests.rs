//! Tests of what may be stored.

#![expect(clippy::needless_pass_by_value, reason = "cases are written as `json!` literals")]

use serde_json::{Value, json};

use super::validate;
use crate::crds;
use crate::defaults;
use crate::kinds::Kinds;
use crate::object::Object;
use crate::status::Status;

fn check(object: &Object, old: Option<&Object>) -> Result<(), Status> {
    let all = crds::istio();
    let kinds = Kinds::with_crds(&all);
    validate(kinds.of_object(object).unwrap(), object, old)
}

fn fields(object: &Object) -> Vec<String> {
    check(object, None)
        .map_or_else(|status| status.causes().iter().map(|cause| cause.field.clone()).collect(), |()| Vec::new())
}

fn object(api_version: &str, kind: &str, spec: Value) -> Object {
    Object::new(
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a", "namespace": "foo"}, "spec": spec}),
    )
    .unwrap()
}

fn pod(spec: Value) -> Object {
    object("v1", "Pod", spec)
}

fn deployment(labels: Value, spec: Value) -> Object {
    object(
        "apps/v1",
        "Deployment",
        json!({"selector": {"matchLabels": {"app": "a"}}, "template": {"metadata": {"labels": labels}, "spec": spec}}),
    )
}

#[test]
fn a_policy_that_is_wrong_is_invalid_with_the_text_of_the_real_server() {
    let bad = object(
        "security.istio.io/v1beta1",
        "AuthorizationPolicy",
        json!({"action": "PERMIT", "rules": [{"to": [{"operation": {"ports": [9000]}}]}]}),
    );
    let status = check(&bad, None).unwrap_err();
    assert_eq!((status.code(), status.reason()), (422, "Invalid"));
    assert!(
        status.message().starts_with(
            "AuthorizationPolicy.security.istio.io \"a\" is invalid: [spec.action: Unsupported value: \"PERMIT\""
        ),
        "{status}"
    );
    assert_eq!(status.causes().len(), 2);
}

#[test]
fn builtin_objects_of_wrong_types_are_bad_requests() {
    let bad = object("apps/v1", "Deployment", json!({"replicas": "two"}));
    let status = check(&bad, None).unwrap_err();
    assert_eq!(status.code(), 400);
    assert!(
        status.message().starts_with("Deployment in version \"v1\" cannot be handled as a Deployment: spec.replicas"),
        "{status}"
    );
}

#[test]
fn pods_and_their_templates() {
    let container = |rest: Value| {
        let mut whole = json!({"name": "c", "image": "i"});
        crate::patch::merge(&mut whole, &rest);
        json!({"containers": [whole], "volumes": [{"name": "v", "emptyDir": {}}]})
    };
    for (spec, expected) in [
        (
            container(json!({"ports": [{"containerPort": 9000}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            vec![],
        ),
        (container(json!({"name": "C"})), vec!["spec.containers[0].name"]),
        (container(json!({"name": null})), vec!["spec.containers[0].name"]),
        (container(json!({"ports": [{"containerPort": 70000}]})), vec!["spec.containers[0].ports[0].containerPort"]),
        (
            container(json!({"ports": [{"containerPort": 1, "name": "x"}, {"containerPort": 2, "name": "x"}]})),
            vec!["spec.containers[0].ports[1].name"],
        ),
        (
            container(json!({"volumeMounts": [{"name": "none", "mountPath": "/v"}]})),
            vec!["spec.containers[0].volumeMounts[0].name"],
        ),
        (json!({"containers": []}), vec!["spec.containers"]),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "c", "image": "i"}]}),
            vec!["spec.containers[0].name"],
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "A"}),
            vec!["spec.serviceAccountName"],
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": -1}),
            vec!["spec.terminationGracePeriodSeconds"],
        ),
    ] {
        assert_eq!(fields(&pod(spec.clone())), expected, "{spec}");
    }
    let good = json!({"containers": [{"name": "c", "image": "i"}]});
    assert_eq!(fields(&deployment(json!({"app": "a"}), good.clone())), Vec::<String>::new());
    assert_eq!(fields(&deployment(json!({"app": "b"}), good.clone())), vec!["spec.template.metadata.labels"]);
    let mut once = good;
    once["restartPolicy"] = json!("Never");
    assert_eq!(fields(&deployment(json!({"app": "a"}), once)), vec!["spec.template.spec.restartPolicy"]);
    assert_eq!(fields(&object("apps/v1", "Deployment", json!({}))), vec!["spec.selector", "spec.template"]);
}

#[test]
fn services() {
    for (spec, expected) in [
        (json!({"ports": [{"port": 9000}], "selector": {"app": "a"}}), vec![]),
        (json!({"clusterIP": "None"}), vec![]),
        (json!({"type": "ExternalName", "externalName": "x.y"}), vec![]),
        (json!({}), vec!["spec.ports"]),
        (json!({"type": "ExternalName"}), vec!["spec.externalName"]),
        (json!({"ports": [{"port": 0}]}), vec!["spec.ports[0].port"]),
        (json!({"ports": [{"port": 1}, {"port": 2, "name": "x"}]}), vec!["spec.ports[0].name"]),
        (json!({"ports": [{"port": 1, "name": "x"}, {"port": 1, "name": "y"}]}), vec!["spec.ports[1]"]),
        (json!({"ports": [{"port": 1, "name": "x"}, {"port": 1, "name": "y", "protocol": "UDP"}]}), vec![]),
        (
            json!({"ports": [{"port": 1, "targetPort": 99999}], "selector": {"a b": "x"}}),
            vec!["spec.selector", "spec.ports[0].targetPort"],
        ),
        (json!({"type": "Odd", "ports": [{"port": 1}]}), vec!["spec.type"]),
    ] {
        assert_eq!(fields(&object("v1", "Service", spec.clone())), expected, "{spec}");
    }
}

#[test]
fn some_fields_may_not_change() {
    let old = deployment(json!({"app": "a"}), json!({"containers": [{"name": "c", "image": "i"}]}));
    let mut new = old.clone();
    new.set("/spec/replicas", 3);
    assert_eq!(check(&new, Some(&old)), Ok(()));
    new.set("/spec/selector/matchLabels/app", "b");
    new.set("/spec/template/metadata/labels/app", "b");
    assert_eq!(
        check(&new, Some(&old)).unwrap_err().causes()[0].message,
        "Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"
    );

    let mut old = pod(json!({"containers": [{"name": "c", "image": "i"}]}));
    defaults::apply(&mut old);
    defaults::on_create(&mut old);
    let mut new = old.clone();
    new.set("/spec/nodeName", "n");
    new.set("/spec/containers/0/image", "j");
    assert_eq!(check(&new, Some(&old)), Ok(()), "a pod gets its node, and may get another image");
    let placed = new.clone();
    new.set("/spec/nodeName", "m");
    assert_eq!(check(&new, Some(&placed)).unwrap_err().causes()[0].field, "spec.nodeName");
    let mut other = placed.clone();
    other.set("/spec/containers/0/command", json!(["x"]));
    assert_eq!(check(&other, Some(&placed)).unwrap_err().causes()[0].reason, "FieldValueForbidden");
}

#[test]
fn keys_names_and_definitions() {
    let config = |data: Value| {
        Object::new(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "foo"}, "data": data})).unwrap()
    };
    assert_eq!(fields(&config(json!({"a.b_c-D": "x"}))), Vec::<String>::new());
    for key in ["a/b", "..", "", "a b"] {
        assert_eq!(fields(&config(json!({key: "x"}))), vec![format!("data[{key}]")]);
    }
    let mut frozen = config(json!({"a": "x"}));
    frozen.set("/immutable", true);
    let mut changed = frozen.clone();
    changed.set("/data/a", "y");
    assert_eq!(check(&changed, Some(&frozen)).unwrap_err().causes()[0].field, "data");

    let mut named = Object::named("v1", "Namespace", None, "Foo");
    assert_eq!(fields(&named), vec!["metadata.name"]);
    named.set("/metadata/name", "foo");
    assert_eq!(fields(&named), Vec::<String>::new());

    for mut definition in crds::istio() {
        assert_eq!(check(&definition, None), Ok(()));
        definition.set("/spec/scope", "World");
        assert_eq!(fields(&definition), vec!["spec.scope"]);
    }
}

#[test]
fn the_samples_are_valid_and_use_known_fields_only() {
    for file in [
        include_str!("../../../../samples/sleep/sleep.yaml"),
        include_str!("../../../../samples/tcp-echo/tcp-echo.yaml"),
    ] {
        let documents = crate::yaml::documents(file);
        assert!(documents.len() > 1);
        for document in documents {
            assert_eq!(document.problems, vec![]);
            let mut object = Object::new(document.value).unwrap();
            object.set("/metadata/namespace", "foo");
            let schema = crate::schema::Schema::builtin(object.api_version(), object.kind()).unwrap();
            assert_eq!(schema.prune(&mut object.clone().into_value()), Vec::<String>::new());
            defaults::apply(&mut object);
            assert_eq!(check(&object, None), Ok(()));
        }
    }
}
