//! Deleting: finalizers, graces, owners, whole collections.

use api::{Key, Object, Write};
use serde_json::{Value, json};

use crate::{MAPS, Service, WIDGETS, service, widget};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn pod(service: &Service, name: &str, node: Option<&str>) {
    let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
    }
    service.server.write(Write::Create(Object::new(pod).unwrap())).await.unwrap();
}

#[tokio::test]
async fn plain_objects_go_at_once_and_only_the_fact_is_told() {
    let service = service();
    let uid = service.map("a", "1").await.text("/metadata/uid").to_owned();
    let wrong = service.delete_with(&format!("{MAPS}/a"), json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!((wrong.failure().0, wrong.failure().1), (409, "Conflict"));
    let gone = service
        .delete_with(&format!("{MAPS}/a"), json!({"propagationPolicy": "Background", "preconditions": {"uid": uid}}))
        .await;
    assert_eq!(gone.code, 200);
    assert_eq!(
        (gone.text("/status"), &gone.value["details"]),
        ("Success", &json!({"name": "a", "kind": "configmaps", "uid": uid}))
    );
    assert_eq!(service.delete(&format!("{MAPS}/a")).await.failure().0, 404);
    for bad in [json!({"propagationPolicy": "Sideways"}), json!({"gracePeriodSeconds": -1})] {
        assert_eq!(service.delete_with(&format!("{MAPS}/a"), bad).await.failure().0, 400);
    }
}

#[tokio::test]
async fn pods_that_run_get_time_to_end() {
    let service = service();
    pod(&service, "p", Some("n")).await;
    let asked = service.delete(&format!("{PODS}/p")).await;
    assert_eq!(
        (asked.code, asked.text("/kind"), &asked.value["metadata"]["deletionGracePeriodSeconds"]),
        (200, "Pod", &json!(30))
    );
    assert!(!asked.text("/metadata/deletionTimestamp").is_empty());
    let later = service.delete_with(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 100})).await;
    assert_eq!(later.value["metadata"], asked.value["metadata"], "a longer time does not count");
    let sooner = service.delete_with(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(sooner.value["metadata"]["deletionGracePeriodSeconds"], json!(5));
    service.server.write(Write::Delete { key: Key::namespaced("", "pods", "default", "p"), now: true }).await.unwrap();
    assert_eq!(service.get(&format!("{PODS}/p")).await.code, 404);
    pod(&service, "unplaced", None).await;
    assert_eq!(service.delete(&format!("{PODS}/unplaced")).await.code, 200);
    assert_eq!(service.get(&format!("{PODS}/unplaced")).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let service = service();
    service.post(MAPS, json!({"metadata": {"name": "a", "finalizers": ["x.example.com/a", "x.example.com/b"]}})).await;
    let path = format!("{MAPS}/a");
    let held = service.delete(&path).await;
    assert_eq!((held.code, held.text("/kind")), (200, "ConfigMap"));
    assert!(!held.text("/metadata/deletionTimestamp").is_empty());
    let one = service.merge(&path, json!({"metadata": {"finalizers": ["x.example.com/b"]}})).await;
    assert_eq!(one.code, 200);
    assert_eq!(service.get(&path).await.code, 200);
    assert_eq!(service.merge(&path, json!({"metadata": {"finalizers": null}})).await.code, 200);
    assert_eq!(service.get(&path).await.code, 404);
}

#[tokio::test]
async fn namespaces_go_when_they_are_let_go() {
    let service = service();
    service.post("/api/v1/namespaces", json!({"metadata": {"name": "foo"}})).await;
    let maps = "/api/v1/namespaces/foo/configmaps";
    service.post(maps, json!({"metadata": {"name": "a"}})).await;
    let asked = service.delete("/api/v1/namespaces/foo").await;
    assert_eq!((asked.code, asked.text("/kind"), asked.text("/status/phase")), (200, "Namespace", "Terminating"));
    assert_eq!(asked.value["spec"]["finalizers"], json!(["kubernetes"]));
    let refused = service.post(maps, json!({"metadata": {"name": "b"}})).await;
    assert_eq!((refused.failure().0, refused.text("/details/causes/0/reason")), (403, "NamespaceTerminating"));
    assert!(
        refused.message().contains("unable to create new content in namespace foo because it is being terminated"),
        "{}",
        refused.message()
    );
    assert_eq!(service.delete(&format!("{maps}/a")).await.code, 200);
    let key = Key::cluster("", "namespaces", "foo");
    let client = service.merge("/api/v1/namespaces/foo", json!({"spec": {"finalizers": []}})).await;
    assert_eq!(client.value["spec"]["finalizers"], json!(["kubernetes"]), "only by the way meant for it");
    service.server.write(Write::PatchMeta { key, patch: json!({"spec": {"finalizers": []}}) }).await.unwrap();
    assert_eq!(service.get("/api/v1/namespaces/foo").await.code, 404);
    assert_eq!(service.delete("/api/v1/namespaces/default").await.failure().0, 403);
}

#[tokio::test]
async fn what_hangs_on_an_object_follows_the_wish() {
    for (policy, owner_left, child_left, references) in
        [("Background", false, true, 1), ("Orphan", false, true, 0), ("Foreground", false, false, 0)]
    {
        let service = service();
        let uid = service.map("owner", "1").await.text("/metadata/uid").to_owned();
        let owners = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
        service.post(MAPS, json!({"metadata": {"name": "child", "ownerReferences": owners}})).await;
        service.delete_with(&format!("{MAPS}/owner"), json!({"propagationPolicy": policy})).await;
        assert_eq!(service.get(&format!("{MAPS}/owner")).await.code == 200, owner_left, "{policy}");
        let child = service.get(&format!("{MAPS}/child")).await;
        assert_eq!(child.code == 200, child_left, "{policy}");
        let left = child.value.pointer("/metadata/ownerReferences").and_then(Value::as_array).map_or(0, Vec::len);
        assert_eq!(left, references, "{policy}");
    }
}

#[tokio::test]
async fn a_foreground_deletion_waits_for_pods_to_end() {
    let service = service();
    let uid = service.map("owner", "1").await.text("/metadata/uid").to_owned();
    pod(&service, "p", Some("n")).await;
    let owners = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
    service.merge(&format!("{PODS}/p"), json!({"metadata": {"ownerReferences": owners}})).await;
    let waits = service.delete_with(&format!("{MAPS}/owner"), json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!(waits.value["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert!(!service.get(&format!("{PODS}/p")).await.text("/metadata/deletionTimestamp").is_empty());
    service.server.write(Write::Delete { key: Key::namespaced("", "pods", "default", "p"), now: true }).await.unwrap();
    assert_eq!(service.get(&format!("{MAPS}/owner")).await.code, 404);
}

#[tokio::test]
async fn a_foreground_deletion_does_not_wait_for_what_its_object_hangs_on() {
    let service = service();
    let uid = |object: crate::Answer| object.text("/metadata/uid").to_owned();
    let owned = |name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}]);
    let adopt = async |child: &str, name: &str, uid: &str| {
        let owners = json!({"metadata": {"ownerReferences": owned(name, uid)}});
        assert_eq!(service.merge(&format!("{MAPS}/{child}"), owners).await.code, 200);
    };
    let foreground = json!({"propagationPolicy": "Foreground"});
    let itself = uid(service.map("itself", "1").await);
    adopt("itself", "itself", &itself).await;
    // And around a corner.
    let (one, other) = (uid(service.map("one", "1").await), uid(service.map("other", "1").await));
    adopt("one", "other", &other).await;
    adopt("other", "one", &one).await;
    for name in ["itself", "one"] {
        let removed = service.delete_with(&format!("{MAPS}/{name}"), foreground.clone()).await;
        assert_eq!(removed.code, 200, "{name}");
        assert_eq!(service.get(&format!("{MAPS}/{name}")).await.code, 404, "{name} hangs");
    }
    // A running pod that is its own owner ends as any other does, and is there until then.
    pod(&service, "p", Some("n")).await;
    let own = uid(service.get(&format!("{PODS}/p")).await);
    let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": own}]);
    service.merge(&format!("{PODS}/p"), json!({"metadata": {"ownerReferences": owners}})).await;
    let ending = service.delete_with(&format!("{PODS}/p"), foreground).await;
    assert_eq!(ending.value.pointer("/metadata/finalizers"), None, "it waits for nothing but its processes");
    assert!(!service.get(&format!("{PODS}/p")).await.text("/metadata/deletionTimestamp").is_empty());
    let key = Key::namespaced("", "pods", "default", "p");
    service.server.write(Write::End { key, uid: own }).await.unwrap();
    assert_eq!(service.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn collections_go_by_selection() {
    let service = service();
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        service.map(name, label).await;
    }
    let gone = service.delete(&format!("{MAPS}?labelSelector=l%3D1")).await;
    assert_eq!(
        (gone.code, gone.text("/kind"), gone.value["items"].as_array().map(Vec::len)),
        (200, "ConfigMapList", Some(2))
    );
    let left = service.get(MAPS).await.value;
    assert_eq!((left["items"].as_array().map(Vec::len), &left["items"][0]["metadata"]["name"]), (Some(1), &json!("b")));
}

#[tokio::test]
async fn a_definition_takes_its_objects_with_it() {
    let service = service();
    service.widgets().await;
    service.post(WIDGETS, widget("a", json!({"size": 1}))).await;
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
    let stored = service.get(definition).await.value;
    assert_eq!(stored["status"]["conditions"][1]["type"], "Established");
    assert_eq!(service.delete(definition).await.code, 200);
    assert_eq!(service.get(WIDGETS).await.value, json!("404 page not found\n"));
    service.widgets().await;
    assert_eq!(service.get(WIDGETS).await.value["items"], json!([]), "none came back with the kind");
    let claimed = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "pods.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "pods", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let refused = service.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", claimed).await;
    assert!(refused.failure().0 == 422 && refused.message().contains("spec.names.kind"), "{}", refused.message());
}
