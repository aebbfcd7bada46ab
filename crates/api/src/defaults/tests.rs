//! Tests of what the server fills in.

#![expect(clippy::needless_pass_by_value, reason = "cases are written as `json!` literals")]

use serde_json::{Value, json};

use super::{apply, is_latest, on_create, qos_class};
use crate::crds;
use crate::object::Object;
use crate::schema::Schema;

fn applied(api_version: &str, kind: &str, spec: Value) -> Object {
    let value =
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a", "namespace": "foo"}, "spec": spec});
    let mut object = Object::new(value).unwrap();
    apply(&mut object);
    let once = object.clone();
    apply(&mut object);
    assert_eq!(object, once, "twice is once");
    if let Some(schema) = Schema::builtin(api_version, kind) {
        assert_eq!(schema.prune(&mut object.clone().into_value()), Vec::<String>::new());
    }
    object
}

#[test]
fn a_deployment_gets_its_strategy_and_template() {
    let pod = json!({"containers": [{"name": "c", "image": "docker.io/istio/tcp-echo-server:1.2", "ports": [{"containerPort": 9000}],
        "readinessProbe": {"httpGet": {"port": 1}}}], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]});
    let object = applied("apps/v1", "Deployment", json!({"selector": {}, "strategy": {}, "template": {"spec": pod}}));
    assert_eq!(
        object.at("/spec"),
        &json!({"selector": {}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            "template": {"spec": {
                "containers": [{"name": "c", "image": "docker.io/istio/tcp-echo-server:1.2", "ports": [{"containerPort": 9000, "protocol": "TCP"}],
                    "readinessProbe": {"httpGet": {"port": 1, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "resources": {}, "imagePullPolicy": "IfNotPresent"}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30, "securityContext": {}}},
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600})
    );
    let given =
        applied("apps/v1", "Deployment", json!({"replicas": 0, "strategy": {"type": "Recreate"}, "template": {}}));
    assert_eq!(given.at("/spec/replicas"), &json!(0));
    assert!(given.at("/spec/strategy/rollingUpdate").is_null());
    assert_eq!(applied("apps/v1", "ReplicaSet", json!({})).at("/spec/replicas"), &json!(1));
}

#[test]
fn a_pod_gets_what_defaults_and_admission_add() {
    let mut pod = applied(
        "v1",
        "Pod",
        json!({"containers": [{"name": "c", "image": "x", "resources": {"limits": {"cpu": "1"}}}]}),
    );
    assert_eq!(pod.at("/spec/containers/0/resources/requests"), &json!({"cpu": "1"}));
    assert_eq!(pod.at("/spec/containers/0/imagePullPolicy"), &json!("Always"));
    assert_eq!(pod.at("/spec/enableServiceLinks"), &json!(true));
    on_create(&mut pod);
    assert_eq!(pod.at("/status"), &json!({"phase": "Pending", "qosClass": "Burstable"}));
    assert_eq!((pod.str_at("/spec/serviceAccountName"), pod.str_at("/spec/serviceAccount")), ("default", "default"));
    assert_eq!(pod.items_at("/spec/tolerations").len(), 2);
    let mut named = applied("v1", "Pod", json!({"serviceAccountName": "sleep", "containers": []}));
    on_create(&mut named);
    assert_eq!(named.str_at("/spec/serviceAccount"), "sleep");
}

#[test]
fn services_get_ports_and_policies() {
    let service = applied(
        "v1",
        "Service",
        json!({"ports": [{"port": 9000, "name": "tcp"}, {"port": 80, "targetPort": "http", "protocol": "UDP"}]}),
    );
    assert_eq!(
        service.at("/spec"),
        &json!({"ports": [{"port": 9000, "name": "tcp", "protocol": "TCP", "targetPort": 9000}, {"port": 80, "targetPort": "http", "protocol": "UDP"}],
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"})
    );
    assert!(applied("v1", "Service", json!({"type": "ExternalName"})).at("/spec/internalTrafficPolicy").is_null());
    let balanced = applied("v1", "Service", json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}));
    assert_eq!(balanced.at("/spec/externalTrafficPolicy"), &json!("Cluster"));
    assert_eq!(balanced.at("/spec/sessionAffinityConfig/clientIP/timeoutSeconds"), &json!(10800));
}

#[test]
fn secrets_keep_no_plain_texts() {
    let mut secret = Object::new(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"a": "Yg=="}, "stringData": {"a": "c", "x/y": "d"}})).unwrap();
    apply(&mut secret);
    assert_eq!((secret.at("/data"), secret.str_at("/type")), (&json!({"a": "Yw==", "x/y": "ZA=="}), "Opaque"));
    assert!(secret.at("/stringData").is_null());
}

#[test]
fn namespaces_and_definitions() {
    let mut namespace = Object::named("v1", "Namespace", None, "foo");
    apply(&mut namespace);
    on_create(&mut namespace);
    assert_eq!(namespace.label("kubernetes.io/metadata.name"), Some("foo"));
    assert_eq!(
        (namespace.at("/spec/finalizers"), namespace.str_at("/status/phase")),
        (&json!(["kubernetes"]), "Active")
    );

    for mut definition in crds::istio() {
        apply(&mut definition);
        on_create(&mut definition);
        assert_eq!(definition.items_at("/status/storedVersions").len(), 1);
        assert_eq!(definition.str_at("/status/conditions/1/type"), "Established");
        assert_eq!(definition.at("/status/acceptedNames"), definition.at("/spec/names"));
    }
}

#[test]
fn quality_of_service() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "2"}}), "Burstable"),
        (json!({"requests": {"memory": "1"}}), "Burstable"),
    ] {
        assert_eq!(qos_class(&json!({"containers": [{"resources": resources}]})), class);
    }
}

#[test]
fn the_newest_image_is_always_pulled() {
    for (image, latest) in [
        ("nginx", true),
        ("nginx:latest", true),
        ("nginx:1", false),
        ("localhost:5000/nginx", true),
        ("localhost:5000/nginx:1", false),
        ("nginx@sha256:ab", false),
        ("nginx:latest@sha256:ab", true),
        ("nginx:1@sha256:ab", false),
    ] {
        assert_eq!(is_latest(image), latest, "{image}");
    }
}
