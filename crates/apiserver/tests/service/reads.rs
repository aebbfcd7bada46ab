//! Getting and listing: pages, selectors, tables.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::{MAPS, WIDGETS, service, widget};

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn lists_select_and_come_in_pages() {
    let service = service();
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1"), ("d", "1")] {
        service.map(name, label).await;
    }
    let all = service.get(MAPS).await;
    assert_eq!(
        (all.text("/kind"), all.text("/apiVersion"), names(&all.value)),
        ("ConfigMapList", "v1", vec!["a", "b", "c", "d"])
    );
    for (query, expected) in [
        ("labelSelector=l%3D1", vec!["a", "c", "d"]),
        ("labelSelector=l+in+(2)", vec!["b"]),
        ("labelSelector=!l", vec![]),
        ("fieldSelector=metadata.name%3Dc", vec!["c"]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
        ("resourceVersion=0", vec!["a", "b", "c", "d"]),
    ] {
        assert_eq!(names(&service.get(&format!("{MAPS}?{query}")).await.value), expected, "{query}");
    }
    let first = service.get(&format!("{MAPS}?limit=2&labelSelector=l%3D1")).await.value;
    assert_eq!((names(&first), first["metadata"]["remainingItemCount"].as_u64()), (vec!["a", "c"], Some(1)));
    service.map("e", "1").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = service.get(&format!("{MAPS}?limit=2&labelSelector=l%3D1&continue={token}")).await.value;
    assert_eq!(names(&second), ["d", "e"]);
    assert_eq!(
        second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"],
        "a watch from here misses nothing"
    );
    assert_eq!(second["metadata"].get("continue"), None);
    let everywhere = service.get("/api/v1/configmaps").await;
    assert_eq!(names(&everywhere.value).len(), 5);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_the_reason() {
    let service = service();
    for (path, expected) in [
        (format!("{MAPS}/none"), (404, "NotFound", "configmaps \"none\" not found")),
        (
            format!("{MAPS}?continue=x"),
            (400, "BadRequest", "continue key is not valid: start the list anew without it"),
        ),
        (format!("{MAPS}?resourceVersion=99999"), (504, "Timeout", "Too large resource version")),
        (format!("{MAPS}?fieldSelector=data.x%3D1"), (400, "BadRequest", "field label not supported")),
        (format!("{MAPS}?labelSelector=a%3D%3D%3D"), (400, "BadRequest", "")),
    ] {
        let answer = service.get(&path).await;
        let (code, reason, message) = answer.failure();
        assert!((code, reason) == (expected.0, expected.1) && message.contains(expected.2), "{path}: {message}");
    }
    let too_new = service.get(&format!("{MAPS}?resourceVersion=99999")).await.value;
    assert_eq!(too_new["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn paths_that_lead_nowhere_are_plain_text() {
    let service = service();
    for path in [
        "/nothing",
        "/apis/none.example.com/v1/things",
        "/apis/apps/v2/deployments",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/namespaces/default/configmaps/a/log",
        "/api/v1/namespaces/default/pods/a/nothing",
        "/tidegate/nothing",
        "/openapi/v3/apis/none/v1",
    ] {
        let answer = service.get(path).await;
        assert_eq!((answer.code, &answer.value), (404, &json!("404 page not found\n")), "{path}");
    }
    let posted = service.post("/api/v1/configmaps", json!({})).await;
    assert_eq!(posted.code, 404);
    let odd =
        service.send(Request::builder().method(Method::OPTIONS).uri(MAPS).body(bytes::Bytes::new()).unwrap()).await;
    assert_eq!(odd.failure().0, 405);
}

#[tokio::test]
async fn tables_and_metadata_are_made_for_those_who_ask() {
    let service = service();
    service.map("a", "1").await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let list = service.get_as(MAPS, accept).await.value;
    assert_eq!((list["kind"].as_str(), list["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("a")));
    assert_eq!(
        list["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| column["name"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["Name", "Data", "Age"]
    );
    assert!(
        list["metadata"]["resourceVersion"].is_string() && list["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    );
    let one = service.get_as(&format!("{MAPS}/a?includeObject=Object"), accept).await.value;
    assert_eq!((one["kind"].as_str(), one["rows"][0]["object"]["data"]["x"].as_str()), (Some("Table"), Some("1")));
    let metadata = service
        .get_as(&format!("{MAPS}/a"), "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
        .await
        .value;
    assert_eq!(
        (metadata["kind"].as_str(), metadata["metadata"]["name"].as_str(), metadata.get("data")),
        (Some("PartialObjectMetadata"), Some("a"), None)
    );
}

#[tokio::test]
async fn one_object_is_served_in_every_version_of_its_kind() {
    let service = service();
    service.widgets().await;
    let mut old = widget("a", json!({"size": 1}));
    old["apiVersion"] = json!("example.com/v1beta1");
    let beta = WIDGETS.replace("/v1/", "/v1beta1/");
    let made = service.post(&beta, old).await;
    assert_eq!((made.code, made.text("/apiVersion")), (201, "example.com/v1beta1"));
    let stored = service.get(&format!("{WIDGETS}/a")).await;
    assert_eq!((stored.text("/apiVersion"), stored.text("/spec/color")), ("example.com/v1", "red"));
    assert_eq!(service.get(&beta).await.text("/items/0/apiVersion"), "example.com/v1beta1");
}

#[tokio::test]
async fn events_are_shown_in_both_groups_and_written_in_one() {
    let service = service();
    let base = "/api/v1/namespaces/default/events";
    let made = service
        .post(base, json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "message": "m"}))
        .await;
    assert_eq!(made.code, 201, "{:?}", made.value);
    let newer = "/apis/events.k8s.io/v1/namespaces/default/events";
    let one = service.get(&format!("{newer}/e")).await;
    assert_eq!(
        (one.text("/apiVersion"), one.text("/note"), one.text("/regarding/name"), &one.value["message"]),
        ("events.k8s.io/v1", "m", "p", &Value::Null)
    );
    let list = service.get(newer).await.value;
    assert_eq!((names(&list), &list["items"][0]["note"]), (vec!["e"], &json!("m")));
    let refused = service.post(newer, json!({"metadata": {"name": "f"}})).await;
    assert_eq!(
        refused.failure(),
        (405, "MethodNotAllowed", "events.events.k8s.io are shown only; make and delete them as events")
    );
}

#[tokio::test]
async fn a_kind_that_is_not_run_can_be_asked_for_and_not_made() {
    let service = service();
    let base = "/apis/apps/v1/namespaces/default/statefulsets";
    assert_eq!(service.get(base).await.value["items"], json!([]));
    assert_eq!(service.get("/apis/apps/v1/statefulsets").await.code, 200);
    assert_eq!(service.get(&format!("{base}/a")).await.failure().2, "statefulsets.apps \"a\" not found");
    let refused = service.post(base, json!({"metadata": {"name": "a"}})).await;
    assert_eq!(refused.failure().0, 405);
    assert!(refused.message().starts_with("statefulsets.apps are not run by this mesh"), "{}", refused.message());
    for (path, says) in [
        ("/api/v1/namespaces/default/serviceaccounts/a/token", "tokens of service accounts are not issued here"),
        ("/api/v1/namespaces/default/pods/a/ephemeralcontainers", "containers are not added to running pods here"),
    ] {
        let refused = service.post(path, json!({})).await;
        assert!(refused.failure().0 == 403 && refused.message().contains(says), "{:?}", refused.value);
    }
}
