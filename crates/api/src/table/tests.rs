//! Tests of tables: one row of each kind.

#![expect(clippy::needless_pass_by_value, reason = "cases are written as `json!` literals")]

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Include, columns, table};
use crate::crds;
use crate::kinds::Kinds;
use crate::object::Object;

const CREATED: &str = "2026-03-01T00:00:00Z";

fn now() -> Timestamp {
    "2026-03-01T00:02:13Z".parse().unwrap()
}

fn object(api_version: &str, kind: &str, rest: Value) -> Object {
    let mut whole = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a", "namespace": "foo", "creationTimestamp": CREATED}});
    crate::patch::merge(&mut whole, &rest);
    Object::new(whole).unwrap()
}

/// The row as `kubectl get -o wide` would show it.
fn row(group: &str, plural: &str, object: &Object) -> Vec<String> {
    let all = crds::istio();
    let kinds = Kinds::with_crds(&all);
    let kind = kinds.by_resource(group, plural).unwrap();
    let table = table(kind, kind.storage(), [object], 7, now(), Include::Metadata, true);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), table["columnDefinitions"].as_array().unwrap().len(), "{plural}");
    cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for kind in Kinds::builtin().iter().filter(|kind| kind.stored()) {
        row(&kind.group, &kind.plural, &object(&kind.api_version("v1"), &kind.kind, json!({})));
    }
}

#[test]
fn rows_of_builtin_kinds() {
    let template = json!({"spec": {"containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "j"}]}});
    let selector = json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["b", "c"]}]});
    for (group, plural, object, expected) in [
        (
            "apps",
            "deployments",
            object(
                "apps/v1",
                "Deployment",
                json!({"spec": {"replicas": 3, "selector": selector, "template": template},
                "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}),
            ),
            "a|1/3|2|1|2m13s|x,y|i:1,j|app=a,t in (b,c)",
        ),
        (
            "apps",
            "replicasets",
            object(
                "apps/v1",
                "ReplicaSet",
                json!({"spec": {"replicas": 3, "template": template}, "status": {"replicas": 2, "readyReplicas": 1}}),
            ),
            "a|3|2|1|2m13s|x,y|i:1,j|<none>",
        ),
        (
            "",
            "services",
            object(
                "v1",
                "Service",
                json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "selector": {"app": "a"},
                "ports": [{"port": 9000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "nodePort": 30000}]}}),
            ),
            "a|ClusterIP|10.0.0.1|<none>|9000/TCP,53:30000/UDP|2m13s|app=a",
        ),
        (
            "",
            "services",
            object("v1", "Service", json!({"spec": {"type": "ExternalName", "externalName": "x.y"}})),
            "a|ExternalName|<none>|x.y|<none>|2m13s|<none>",
        ),
        (
            "",
            "services",
            object("v1", "Service", json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}})),
            "a|LoadBalancer|10.0.0.1|<pending>|<none>|2m13s|<none>",
        ),
    ] {
        assert_eq!(row(group, plural, &object).join("|"), expected, "{plural}");
    }
}

#[test]
fn rows_of_the_other_builtin_kinds() {
    for (group, plural, object, expected) in [
        ("", "namespaces", object("v1", "Namespace", json!({"status": {"phase": "Active"}})), "a|Active|2m13s"),
        ("", "serviceaccounts", object("v1", "ServiceAccount", json!({})), "a|2m13s"),
        (
            "",
            "secrets",
            object("v1", "Secret", json!({"type": "Opaque", "data": {"x": "", "y": ""}})),
            "a|Opaque|2|2m13s",
        ),
        ("", "configmaps", object("v1", "ConfigMap", json!({"data": {"x": ""}, "binaryData": {"y": ""}})), "a|2|2m13s"),
        (
            "discovery.k8s.io",
            "endpointslices",
            object(
                "discovery.k8s.io/v1",
                "EndpointSlice",
                json!({"addressType": "IPv4", "ports": [{"port": 9000}, {"port": 9001}],
                "endpoints": [{"addresses": ["10.1.0.1"]}, {"addresses": ["10.1.0.2"]}, {"addresses": ["10.1.0.3"]}, {"addresses": ["10.1.0.4"]}]}),
            ),
            "a|IPv4|9000,9001|10.1.0.1,10.1.0.2,10.1.0.3 + 1 more...|2m13s",
        ),
        (
            "",
            "endpoints",
            object(
                "v1",
                "Endpoints",
                json!({"subsets": [{"addresses": [{"ip": "10.1.0.1"}], "ports": [{"port": 80}]}]}),
            ),
            "a|10.1.0.1:80|2m13s",
        ),
    ] {
        assert_eq!(row(group, plural, &object).join("|"), expected, "{plural}");
    }
}

#[test]
fn rows_of_nodes_and_events() {
    for (group, plural, object, expected) in [
        (
            "",
            "nodes",
            object(
                "v1",
                "Node",
                json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "status": {
                "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}], "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian"}}}),
            ),
            "a|Ready|control-plane|2m13s|v1|10.0.0.9|<none>|Debian|<unknown>|<unknown>",
        ),
        (
            "",
            "events",
            object(
                "v1",
                "Event",
                json!({"involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Pulled", "type": "Normal", "message": "done\n",
                "count": 3, "firstTimestamp": CREATED, "lastTimestamp": "2026-03-01T00:02:00Z", "source": {"component": "kubelet", "host": "n"}}),
            ),
            "13s (x3 over 2m13s)|Normal|Pulled|pod/p||kubelet, n|done|2m13s|3|a",
        ),
        (
            "events.k8s.io",
            "events",
            object(
                "events.k8s.io/v1",
                "Event",
                json!({"regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-03-01T00:02:00.000000Z", "note": "x", "reportingController": "c"}),
            ),
            "13s|||pod/p||c|x|13s|1|a",
        ),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            object("apiextensions.k8s.io/v1", "CustomResourceDefinition", json!({})),
            "a|2026-03-01T00:00:00Z",
        ),
    ] {
        assert_eq!(row(group, plural, &object).join("|"), expected, "{plural}");
    }
}

// S-4; what is wide is of this mesh
#[test]
fn s_4_columns_of_policies() {
    let policy = object(
        "security.istio.io/v1",
        "AuthorizationPolicy",
        json!({"spec": {"action": "DENY"}, "status": {"conditions": [{"type": "Accepted", "status": "True", "message": ""},
            {"type": "Enforced", "status": "False", "message": "because"}]}}),
    );
    assert_eq!(row("security.istio.io", "authorizationpolicies", &policy), ["a", "DENY", "2m13s", "False", "because"]);
    let silent = object("security.istio.io/v1", "AuthorizationPolicy", json!({"spec": {}}));
    assert_eq!(row("security.istio.io", "authorizationpolicies", &silent), ["a", "null", "2m13s", "null", "null"]);
    let mutual = object("security.istio.io/v1", "PeerAuthentication", json!({"spec": {"mtls": {"mode": "STRICT"}}}));
    assert_eq!(row("security.istio.io", "peerauthentications", &mutual), ["a", "STRICT", "2m13s", "null", "null"]);
    let route = object("networking.istio.io/v1", "VirtualService", json!({"spec": {"hosts": ["x", "y"]}}));
    assert_eq!(row("networking.istio.io", "virtualservices", &route), ["a", "null", "[\"x\",\"y\"]", "2m13s"]);
}

/// READY, STATUS and RESTARTS of a pod.
fn pod(spec: Value, status: Value, deleting: bool) -> String {
    let mut pod = object("v1", "Pod", json!({"spec": spec, "status": status}));
    if deleting {
        pod.set("/metadata/deletionTimestamp", CREATED);
    }
    row("", "pods", &pod)[1..4].join("|")
}

#[test]
fn the_status_of_a_pod_without_init_containers() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let running = json!({"name": "a", "ready": true, "state": {"running": {}}});
    let with = |phase: &str, statuses: Value| json!({"phase": phase, "containerStatuses": statuses});
    let waiting = |reason: &str| {
        json!({"name": "b", "ready": false, "restartCount": 2, "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": {"finishedAt": "2026-03-01T00:01:13Z"}}})
    };
    let ended = |end: Value| json!({"name": "b", "state": {"terminated": end}});
    for (status, expected) in [
        (json!({"phase": "Pending"}), "0/2|Pending|0"),
        (
            with("Pending", json!([{"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}])),
            "0/2|ContainerCreating|0",
        ),
        (with("Running", json!([running, {"name": "b", "ready": true, "state": {"running": {}}}])), "2/2|Running|0"),
        (with("Running", json!([running, {"name": "b", "ready": false, "state": {"running": {}}}])), "1/2|Running|0"),
        (with("Running", json!([running, waiting("CrashLoopBackOff")])), "1/2|CrashLoopBackOff|2 (60s ago)"),
        (with("Pending", json!([running, waiting("ErrImagePull")])), "1/2|ErrImagePull|2 (60s ago)"),
        (with("Failed", json!([ended(json!({"exitCode": 1, "reason": "Error"}))])), "0/2|Error|0"),
        (with("Failed", json!([ended(json!({"exitCode": 3}))])), "0/2|ExitCode:3|0"),
        (with("Failed", json!([ended(json!({"signal": 9}))])), "0/2|Signal:9|0"),
        (with("Succeeded", json!([ended(json!({"exitCode": 0, "reason": "Completed"}))])), "0/2|Completed|0"),
        (with("Running", json!([ended(json!({"exitCode": 0, "reason": "Completed"})), running])), "1/2|NotReady|0"),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/2|Evicted|0"),
    ] {
        assert_eq!(pod(spec.clone(), status.clone(), false), expected, "{status}");
    }
    assert_eq!(pod(spec.clone(), with("Running", json!([running])), true), "1/2|Terminating|0");
    assert_eq!(pod(spec, json!({"phase": "Succeeded"}), true), "0/2|Succeeded|0");
}

#[test]
fn native_sidecars_count_as_containers() {
    let spec = json!({"containers": [{"name": "app"}], "initContainers": [{"name": "istio-init"}, {"name": "istio-proxy", "restartPolicy": "Always"}]});
    let done = json!({"name": "istio-init", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let proxy = |started: bool, ready: bool| json!({"name": "istio-proxy", "started": started, "ready": ready, "restartCount": 1, "state": {"running": {}}});
    let app = json!({"name": "app", "ready": true, "state": {"running": {}}});
    let creating = json!({"name": "app", "state": {"waiting": {"reason": "PodInitializing"}}});
    for (init, containers, expected) in [
        (json!([{"name": "istio-init", "state": {"running": {}}}]), json!([creating]), "0/2|Init:0/2|0"),
        (
            json!([{"name": "istio-init", "state": {"waiting": {"reason": "ErrImagePull"}}}]),
            json!([]),
            "0/2|Init:ErrImagePull|0",
        ),
        (
            json!([{"name": "istio-init", "restartCount": 4, "state": {"terminated": {"exitCode": 2}}}]),
            json!([]),
            "0/2|Init:ExitCode:2|4",
        ),
        (
            json!([{"name": "istio-init", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]),
            json!([]),
            "0/2|Init:Error|0",
        ),
        (json!([done, proxy(false, false)]), json!([creating]), "0/2|Init:1/2|1"),
        (json!([done, proxy(true, true)]), json!([creating]), "1/2|PodInitializing|1"),
        (json!([done, proxy(true, true)]), json!([app]), "2/2|Running|1"),
        (json!([done, proxy(true, false)]), json!([app]), "1/2|Running|1"),
    ] {
        let status = json!({"phase": "Running", "initContainerStatuses": init, "containerStatuses": containers});
        assert_eq!(pod(spec.clone(), status.clone(), false), expected, "{status}");
    }
}

#[test]
fn tables_carry_what_was_asked_for() {
    let kinds = Kinds::builtin();
    let kind = kinds.by_resource("", "namespaces").unwrap();
    let namespace = object("v1", "Namespace", json!({"status": {"phase": "Active"}}));
    let with = |include, with_columns| table(kind, "v1", [&namespace], 12, now(), include, with_columns);
    let first = with(Include::from_query(""), true);
    assert_eq!((&first["kind"], &first["metadata"]["resourceVersion"]), (&json!("Table"), &json!("12")));
    assert_eq!(first["columnDefinitions"][0]["format"], json!("name"));
    assert_eq!(first["rows"][0]["object"]["kind"], json!("PartialObjectMetadata"));
    assert_eq!(first["rows"][0]["object"]["metadata"]["name"], json!("a"));
    assert!(first["rows"][0]["object"]["status"].is_null());
    assert!(with(Include::from_query("Metadata"), false)["columnDefinitions"].is_null());
    assert!(with(Include::from_query("None"), true)["rows"][0].get("object").is_none());
    assert_eq!(with(Include::from_query("Object"), true)["rows"][0]["object"], *namespace.value());
    let wide: Vec<String> = columns(kinds.by_resource("", "pods").unwrap(), "v1")
        .into_iter()
        .filter(|one| one.priority > 0)
        .map(|one| one.name)
        .collect();
    assert_eq!(wide, ["IP", "Node", "Nominated Node", "Readiness Gates"]);
}
