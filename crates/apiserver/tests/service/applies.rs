//! Server-side apply and who owns which field, through HTTP.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::{Answer, MAPS, Service, WIDGETS, service};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

impl Service {
    async fn apply(&self, path: &str, query: &str, body: &str) -> Answer {
        let path = format!("{path}?{query}");
        self.typed(Method::PATCH, &path, "application/apply-patch+yaml", body.to_owned()).await
    }
}

fn map(data: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}).to_string()
}

/// Writer, operation and part of each entry, sorted.
fn owners(answer: &Answer) -> Vec<String> {
    let entries = answer.value.pointer("/metadata/managedFields").and_then(Value::as_array);
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("-").to_owned();
    let of = |entry| ["manager", "operation", "subresource"].map(|name| text(entry, name)).join(" ");
    let mut owners: Vec<String> = entries.into_iter().flatten().map(of).collect();
    owners.sort();
    owners
}

#[tokio::test]
async fn an_apply_makes_changes_and_leaves_alone() {
    let service = service();
    let path = format!("{MAPS}/a");
    let made = service.apply(&path, "fieldManager=one", &map(&json!({"x": "1", "y": "2"}))).await;
    assert_eq!((made.code, owners(&made)), (201, vec!["one Apply -".to_owned()]), "{:?}", made.value);
    let same = service.apply(&path, "fieldManager=one", &map(&json!({"x": "1", "y": "2"}))).await;
    assert_eq!((same.code, &same.value), (200, &made.value), "nothing changed, so no new revision");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: \"1\"\n";
    let less = service.apply(&path, "fieldManager=one", yaml).await;
    assert_eq!((less.code, &less.value["data"]), (200, &json!({"x": "1"})), "{:?}", less.value);
    let dry = service.apply(&path, "fieldManager=one&dryRun=All", &map(&json!({"x": "2"}))).await;
    assert_eq!((dry.code, &dry.value["data"]), (200, &json!({"x": "2"})));
    assert_eq!(service.get(&path).await.value, less.value);
}

#[tokio::test]
async fn a_field_of_another_writer_is_a_conflict() {
    let service = service();
    let path = format!("{MAPS}/a");
    service.map("a", "x").await;
    let refused = service.apply(&path, "fieldManager=one&force=false", &map(&json!({"x": "2"}))).await;
    let message = "Apply failed with 1 conflict: conflict with \"unknown\" using v1: .data.x";
    assert_eq!(refused.failure(), (409, "Conflict", message));
    assert_eq!(
        refused.value["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"unknown\" using v1", "field": ".data.x"}])
    );
    let forced = service.apply(&path, "fieldManager=one&force=true", &map(&json!({"x": "2"}))).await;
    assert_eq!((forced.code, &forced.value["data"]), (200, &json!({"x": "2"})), "{:?}", forced.value);
    assert_eq!(owners(&forced), ["one Apply -", "unknown Update -"]);
}

#[tokio::test]
async fn who_applies_says_who_it_is_and_what() {
    let service = service();
    let path = format!("{MAPS}/a");
    let nameless = service.apply(&path, "", &map(&json!({}))).await;
    assert_eq!(
        nameless.failure(),
        (
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
        )
    );
    let long = service.apply(&path, &format!("fieldManager={}", "x".repeat(129)), &map(&json!({}))).await;
    assert_eq!(long.failure().0, 422);
    service.map("a", "x").await;
    let forced = service.merge(&format!("{path}?force=true"), json!({})).await;
    assert!(forced.failure().2.contains("force: Forbidden: may not be specified for non-apply patch"));
    for (body, says) in [
        (map(&json!({})).replace("\"a\"", "\"b\""), "does not match the name on the URL"),
        (map(&json!({})).replace("\"v1\"", "\"v2\""), "does not match the expected API version"),
        (map(&json!({})).replace("\"ConfigMap\"", "\"Secret\""), "does not match the expected kind"),
        (map(&json!({})).replace("{\"name\"", "{\"managedFields\":[],\"name\""), "metadata.managedFields must be nil"),
        ("a: b: c".to_owned(), "cannot be read as YAML"),
        ("[]".to_owned(), "must be a mapping"),
        (map(&json!({})).replace("\"data\"", "\"dada\""), ".dada: field not declared in schema"),
    ] {
        let answer = service.apply(&path, "fieldManager=one", &body).await;
        assert!(answer.failure().2.contains(says), "{body}: {:?}", answer.value);
    }
}

#[tokio::test]
async fn each_write_is_noted_under_its_writer_and_part() {
    let service = service();
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let agent = Request::post(DEPLOYMENTS).header("user-agent", "kubectl/v1.20.2 (linux/amd64)");
    let made = service.send(agent.body(deployment.to_string().into()).unwrap()).await;
    assert_eq!((made.code, owners(&made)), (201, vec!["kubectl Update -".to_owned()]), "{:?}", made.value);
    let path = format!("{DEPLOYMENTS}/d");
    let scale =
        service.merge(&format!("{path}/scale?fieldManager=kubectl-scale"), json!({"spec": {"replicas": 3}})).await;
    assert_eq!(scale.code, 200, "{:?}", scale.value);
    service
        .merge(&format!("{path}/status?fieldManager=ctl"), json!({"status": {"replicas": 3}, "spec": {"replicas": 9}}))
        .await;
    let now = service.get(&path).await;
    assert_eq!(owners(&now), ["ctl Update status", "kubectl Update -", "kubectl-scale Update scale"]);
    assert_eq!(now.value["spec"]["replicas"], json!(3));
    let mut wanted = deployment.clone();
    wanted["spec"]["replicas"] = json!(2);
    let refused = service.apply(&path, "fieldManager=me", &wanted.to_string()).await;
    assert_eq!(
        refused.message(),
        "Apply failed with 1 conflict: conflict with \"kubectl-scale\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "status": {"readyReplicas": 1}});
    let applied = service.apply(&format!("{path}/status"), "fieldManager=me", &status.to_string()).await;
    assert_eq!((applied.code, &applied.value["status"]["readyReplicas"]), (200, &json!(1)), "{:?}", applied.value);
    assert!(owners(&applied).contains(&"me Apply status".to_owned()), "{:?}", owners(&applied));
    assert_eq!(
        service
            .apply(
                &format!("{DEPLOYMENTS}/none/status"),
                "fieldManager=me",
                &status.to_string().replace("\"d\"", "\"none\"")
            )
            .await
            .code,
        404
    );
}

#[tokio::test]
async fn a_json_patch_may_rewrite_who_owns_what() {
    let service = service();
    let made = service.map("a", "x").await;
    let entry = json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:x": {}}}}]);
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": entry},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": made.text("/metadata/resourceVersion")},
    ]);
    let map_path = format!("{MAPS}/a");
    let done = service.typed(Method::PATCH, &map_path, "application/json-patch+json", patch.to_string()).await;
    assert_eq!((done.code, &done.value["metadata"]["managedFields"]), (200, &entry), "{:?}", done.value);
    // What the new owner leaves out now goes, without a conflict.
    let less = service.apply(&map_path, "fieldManager=kubectl", &map(&json!({"y": "1"}))).await;
    assert_eq!((less.code, &less.value["data"]), (200, &json!({"y": "1"})), "{:?}", less.value);
}

#[tokio::test]
async fn versions_of_a_kind_share_their_owners() {
    let service = service();
    service.widgets().await;
    let widget = |version: &str, size: u32| {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": size}})
            .to_string()
    };
    let made = service.apply(&format!("{WIDGETS}/w"), "fieldManager=one", &widget("v1", 1)).await;
    assert_eq!((made.code, &made.value["spec"]), (201, &json!({"size": 1, "color": "red"})), "{:?}", made.value);
    let older = WIDGETS.replace("/v1/", "/v1beta1/");
    let again = service.apply(&format!("{older}/w"), "fieldManager=one", &widget("v1beta1", 2)).await;
    assert_eq!((again.code, owners(&again)), (200, vec!["one Apply -".to_owned()]), "{:?}", again.value);
    let other = service.apply(&format!("{older}/w"), "fieldManager=two", &widget("v1beta1", 3)).await;
    assert_eq!(other.message(), "Apply failed with 1 conflict: conflict with \"one\": .spec.size");
    // What was filled in is nobody's.
    let color =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"color": "blue"}});
    let done = service.apply(&format!("{WIDGETS}/w"), "fieldManager=two", &color.to_string()).await;
    assert_eq!((done.code, &done.value["spec"]), (200, &json!({"size": 2, "color": "blue"})));
}
