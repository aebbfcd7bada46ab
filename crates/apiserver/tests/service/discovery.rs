//! Discovery, OpenAPI, version, health and self-reviews.

use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::{WIDGETS, service};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn find<'a>(list: &'a Value, field: &str, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|item| item[field] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[tokio::test]
async fn both_forms_tell_the_same_kinds() {
    let service = service();
    service.widgets().await;
    assert_eq!(service.get("/api").await.value["versions"], json!(["v1"]));
    let groups = service.get("/apis").await.value;
    let group = find(&groups["groups"], "name", "example.com");
    assert_eq!(
        (&group["preferredVersion"]["version"], group["versions"].as_array().map(Vec::len)),
        (&json!("v1"), Some(2))
    );
    assert_eq!(service.get("/apis/example.com").await.text("/kind"), "APIGroup");
    let pods = service.get("/api/v1").await.value;
    let pod = find(&pods["resources"], "name", "pods");
    assert_eq!((&pod["kind"], &pod["namespaced"], &pod["shortNames"]), (&json!("Pod"), &json!(true), &json!(["po"])));
    let scale = service.get("/apis/apps/v1").await.value;
    let scale = find(&scale["resources"], "name", "deployments/scale");
    assert_eq!(
        (&scale["group"], &scale["version"], &scale["kind"]),
        (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
    );

    let response = service.stream("/apis", &format!("{AGGREGATED},application/json")).await;
    assert_eq!(response.headers()[CONTENT_TYPE], AGGREGATED);
    let aggregated: Value = serde_json::from_slice(&response.into_body().bytes().await).unwrap();
    let named = |name: &str| {
        aggregated["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == name).cloned().unwrap()
    };
    let widgets = named("example.com")["versions"][0]["resources"][0].clone();
    assert_eq!(
        (&widgets["resource"], &widgets["responseKind"]),
        (&json!("widgets"), &json!({"group": "example.com", "version": "v1", "kind": "Widget"}))
    );
    let deployments = find(&named("apps")["versions"][0]["resources"], "resource", "deployments").clone();
    assert_eq!(deployments["responseKind"], json!({"group": "", "version": "", "kind": "Deployment"}));
    assert_eq!(
        find(&deployments["subresources"], "subresource", "scale")["responseKind"],
        json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
    );
    let older = service
        .stream("/apis", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json")
        .await;
    assert_eq!(older.headers()[CONTENT_TYPE], "application/json");
}

#[tokio::test]
async fn openapi_says_that_the_server_validates_fields() {
    let service = service();
    service.widgets().await;
    let index = service.get("/openapi/v3").await.value;
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let response = service.stream(url, "application/json").await;
    assert!(response.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let document: Value = serde_json::from_slice(&response.into_body().bytes().await).unwrap();
    let patch = &document["paths"][format!("{}/{{name}}", WIDGETS.replace("default", "{namespace}"))]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "example.com", "version": "v1", "kind": "Widget"})
    );
    assert_eq!(find(&patch["parameters"], "name", "fieldValidation")["in"], "query");
    assert!(document["components"]["schemas"]["com.example.v1.Widget"]["properties"]["spec"].is_object());
    let stub = service.stream("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").await;
    assert_eq!(stub.headers()[CONTENT_TYPE], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert!(stub.into_body().bytes().await.starts_with(b"\x0a\x032.0\x12"));
    assert_eq!(service.get("/openapi/v2").await.text("/swagger"), "2.0");
}

#[tokio::test]
async fn health_version_and_reviews() {
    let service = service();
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(service.get(path).await.value, json!("ok"), "{path}");
    }
    assert_eq!(service.get("/version?timeout=5s").await.text("/minor"), "32");
    let review = service
        .post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
        )
        .await;
    assert_eq!((review.code, &review.value["status"]["allowed"]), (201, &json!(true)));
    let who = service.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(who.text("/status/userInfo/username"), "tidegate-admin");
    assert_eq!(service.get("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").await.failure().0, 405);
}
