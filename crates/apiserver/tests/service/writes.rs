//! Creating, updating and patching, and what is refused.

use api::admission::{Admitted, Operation};
use api::{Object, Status, Write};
use apiserver::Hooks;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{MAPS, WIDGETS, admitting, hooks, service, service_with, widget};

#[tokio::test]
async fn the_server_writes_what_clients_cannot() {
    let service = service();
    let made = service
        .post(MAPS, json!({"metadata": {"generateName": "a-", "uid": "mine", "resourceVersion": "", "creationTimestamp": "2000-01-01T00:00:00Z"}}))
        .await;
    let name = made.text("/metadata/name");
    assert!(made.code == 201 && name.len() == 7 && name.starts_with("a-"), "{:?}", made.value);
    assert!(
        made.text("/metadata/uid").len() == 36
            && made.text("/metadata/creationTimestamp").starts_with("20")
            && made.text("/metadata/creationTimestamp") > "2020"
    );
    assert_eq!(
        (made.text("/metadata/namespace"), made.text("/kind"), made.text("/apiVersion")),
        ("default", "ConfigMap", "v1")
    );
    let changed = service
        .merge(
            &format!("{MAPS}/{name}"),
            json!({"metadata": {"creationTimestamp": "2000-01-01T00:00:00Z", "labels": {"a": "b"}}}),
        )
        .await;
    assert_eq!(changed.text("/metadata/creationTimestamp"), made.text("/metadata/creationTimestamp"));
    let namespace = service.post("/api/v1/namespaces", json!({"metadata": {"name": "foo"}})).await.value;
    assert_eq!(
        (&namespace["spec"]["finalizers"], &namespace["status"]["phase"]),
        (&json!(["kubernetes"]), &json!("Active"))
    );
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "foo");
}

#[tokio::test]
async fn bodies_that_do_not_fit_are_refused() {
    let service = service();
    service.widgets().await;
    service.map("a", "1").await;
    for (path, body, expected) in [
        (
            MAPS,
            json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "b"}}),
            (400, "BadRequest", "the API version in the data (v2) does not match the expected API version (v1)"),
        ),
        (
            MAPS,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b"}}),
            (400, "BadRequest", "the kind in the data (Secret)"),
        ),
        (
            MAPS,
            json!({"metadata": {"name": "b", "namespace": "other"}}),
            (
                400,
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the request",
            ),
        ),
        (MAPS, json!({"metadata": {"name": "B"}}), (422, "Invalid", "a lowercase RFC 1123 subdomain must consist of")),
        (MAPS, json!({"metadata": {}}), (422, "Invalid", "name or generateName is required")),
        (MAPS, json!({"metadata": {"name": "a"}}), (409, "AlreadyExists", "configmaps \"a\" already exists")),
        (MAPS, json!([1]), (400, "BadRequest", "")),
        (
            "/api/v1/namespaces/none/configmaps",
            json!({"metadata": {"name": "a"}}),
            (404, "NotFound", "namespaces \"none\" not found"),
        ),
        (WIDGETS, widget("a", json!({"size": "big"})), (422, "Invalid", "spec.size")),
        (WIDGETS, widget("a", json!({"size": 0})), (422, "Invalid", "spec.size")),
    ] {
        let answer = service.post(path, body).await;
        let (code, reason, message) = answer.failure();
        assert!(
            (code, reason) == (expected.0, expected.1) && message.contains(expected.2),
            "{path} {code} {reason}: {message}"
        );
    }
    let broken = service.typed(Method::POST, MAPS, "application/json", "{").await;
    assert!(broken.failure().2.starts_with("the body cannot be read as JSON"));
    let unknown = service.typed(Method::POST, MAPS, "text/plain", "x").await;
    assert!(unknown.failure().0 == 415 && unknown.message().contains("application/yaml"), "{}", unknown.message());
    let yaml =
        service.typed(Method::POST, MAPS, "application/yaml", "metadata: {name: from-yaml}\ndata:\n  x: '1'\n").await;
    assert_eq!((yaml.code, yaml.text("/data/x")), (201, "1"));
    let twice =
        service.typed(Method::POST, MAPS, "application/yaml", "metadata: {name: z}\ndata: {x: '1', x: '2'}\n").await;
    assert_eq!(twice.failure().0, 400);
}

#[tokio::test]
async fn unknown_fields_are_refused_told_or_dropped() {
    let service = service();
    service.widgets().await;
    let body = |name: &str| widget(name, json!({"size": 1, "sise": 2, "x": {"y": 1}}));
    let strict = service.post(&format!("{WIDGETS}?fieldValidation=Strict"), body("a")).await;
    assert_eq!(
        strict.failure(),
        (
            400,
            "BadRequest",
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.sise\", unknown field \"spec.x\""
        )
    );
    let warned = service.post(&format!("{WIDGETS}?fieldValidation=Warn"), body("b")).await;
    assert_eq!((warned.code, &warned.value["spec"]), (201, &json!({"size": 1, "color": "red"})));
    assert_eq!(warned.warnings, [r#"299 - "unknown field \"spec.sise\"""#, r#"299 - "unknown field \"spec.x\"""#]);
    let ignored = service.post(&format!("{WIDGETS}?fieldValidation=Ignore"), body("c")).await;
    assert_eq!(
        (ignored.code, ignored.warnings.len(), &ignored.value["spec"]),
        (201, 0, &json!({"size": 1, "color": "red"}))
    );
    let builtin =
        service.post(&format!("{MAPS}?fieldValidation=Strict"), json!({"metadata": {"name": "a"}, "dta": {}})).await;
    assert_eq!(builtin.failure().0, 400);
    assert_eq!(service.post(&format!("{MAPS}?fieldValidation=Some"), json!({})).await.failure().0, 400);
}

#[tokio::test]
async fn updates_are_optimistic() {
    let service = service();
    service.widgets().await;
    let made = service.map("a", "1").await.value;
    let path = format!("{MAPS}/a");
    let mut changed = made.clone();
    changed["data"]["x"] = json!("2");
    let first = service.put(&path, changed.clone()).await;
    assert_eq!((first.code, first.text("/data/x")), (200, "2"));
    let second = service.put(&path, changed.clone()).await;
    assert_eq!(
        second.failure(),
        (
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
        )
    );
    changed["metadata"]["resourceVersion"] = Value::Null;
    changed["metadata"]["uid"] = json!("other");
    assert_eq!(service.put(&path, changed.clone()).await.failure().0, 409);
    changed["metadata"]["name"] = json!("b");
    assert_eq!(
        service.put(&path, changed).await.failure(),
        (400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)")
    );
    let same = service.put(&path, first.value.clone()).await;
    assert_eq!(same.value, first.value, "nothing changed, so no new revision");
    service.post(WIDGETS, widget("w", json!({"size": 1}))).await;
    let blind = service.put(&format!("{WIDGETS}/w"), widget("w", json!({"size": 2}))).await;
    assert!(
        blind.failure().0 == 422
            && blind.message().contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{}",
        blind.message()
    );
    let missing = service.put(&format!("{MAPS}/none"), json!({"metadata": {"name": "none"}})).await;
    assert_eq!(missing.failure().0, 404);
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_only_spec_counts_as_a_generation() {
    let service = service();
    service.widgets().await;
    let path = format!("{WIDGETS}/w");
    let mut body = widget("w", json!({"size": 1}));
    body["status"] = json!({"ready": true});
    let made = service.post(WIDGETS, body).await.value;
    assert_eq!((made["metadata"]["generation"].as_u64(), made.get("status")), (Some(1), None));
    let status =
        service.merge(&format!("{path}/status"), json!({"status": {"ready": true}, "spec": {"size": 9}})).await.value;
    assert_eq!(
        (&status["status"], &status["spec"]["size"], status["metadata"]["generation"].as_u64()),
        (&json!({"ready": true}), &json!(1), Some(1))
    );
    let spec = service.merge(&path, json!({"status": {"ready": false}, "spec": {"size": 2}})).await.value;
    assert_eq!(
        (&spec["status"], &spec["spec"]["size"], spec["metadata"]["generation"].as_u64()),
        (&json!({"ready": true}), &json!(2), Some(2))
    );
    let labels = service.merge(&path, json!({"metadata": {"labels": {"a": "b"}, "generation": 7}})).await.value;
    assert_eq!(labels["metadata"]["generation"].as_u64(), Some(2));
}

#[tokio::test]
async fn patches_of_every_type() {
    let service = service();
    service.widgets().await;
    service.post(WIDGETS, widget("w", json!({"size": 1}))).await;
    service.map("a", "1").await;
    let (map, custom) = (format!("{MAPS}/a"), format!("{WIDGETS}/w"));
    let json_patch =
        r#"[{"op": "test", "path": "/data/x", "value": "1"}, {"op": "add", "path": "/data/y", "value": "2"}]"#;
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(
        service.typed(Method::PATCH, &map, "application/json-patch+json", json_patch).await.text("/data/y"),
        "2"
    );
    assert_eq!(
        service.typed(Method::PATCH, &map, strategic, r#"{"data": {"$patch": "replace", "z": "3"}}"#).await.value["data"],
        json!({"z": "3"})
    );
    let custom_strategic = service.typed(Method::PATCH, &custom, strategic, "{}").await;
    assert!(custom_strategic.failure().0 == 415 && custom_strategic.message().contains("application/merge-patch+json"));
    assert_eq!(service.typed(Method::PATCH, &map, "application/json", "{}").await.failure().0, 415);
    let stale = service.merge(&map, json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "9"}})).await;
    assert_eq!(stale.failure().0, 409);
    let strict = service.merge(&format!("{custom}?fieldValidation=Strict"), json!({"spec": {"sise": 1}})).await;
    assert_eq!(strict.failure().0, 400);
    assert_eq!(service.merge(&format!("{MAPS}/none"), json!({})).await.failure().0, 404);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let service = service();
    let made = service.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "a"}})).await;
    assert_eq!((made.code, made.text("/metadata/name"), made.text("/metadata/resourceVersion")), (201, "a", ""));
    assert_eq!(service.get(&format!("{MAPS}/a")).await.code, 404);
    let before = service.map("a", "1").await.value;
    assert_eq!(service.merge(&format!("{MAPS}/a?dryRun=All"), json!({"data": {"x": "2"}})).await.text("/data/x"), "2");
    assert_eq!(service.delete(&format!("{MAPS}/a?dryRun=All")).await.code, 200);
    assert_eq!(service.get(&format!("{MAPS}/a")).await.value, before);
    assert_eq!(service.post(&format!("{MAPS}?dryRun=Some"), json!({})).await.failure().0, 400);
}

#[tokio::test]
async fn the_admission_step_changes_warns_and_refuses_with_everything_before_in_view() {
    let service = admitting(|admission| {
        let mut admitted = Admitted::default();
        if !admission.key.is("", "configmaps") || admission.key.name == "kube-root-ca.crt" {
            return admitted;
        }
        let seen = admission.objects.in_namespace("", "configmaps", "default").count();
        match (admission.operation, admission.new) {
            (Operation::Create, Some(new)) => {
                let mut object = Object::clone(new);
                object.set("/data/seen", seen.to_string());
                admitted.object = Some(object);
                admitted.warnings.push("take \"care\"".to_owned());
            }
            (Operation::Update, Some(new)) if new.str_at("/data/x") == "bad" => {
                admitted.refusal = Some(Status::denied("no bad x"));
            }
            (Operation::Delete, None) if admission.key.name == "kept" => {
                admitted.refusal = Some(Status::denied("it stays"));
            }
            _ => {}
        }
        admitted
    });
    let first = service.map("a", "1").await;
    assert_eq!(
        (first.text("/data/seen"), first.warnings.as_slice()),
        ("0", &[r#"299 - "take \"care\"""#.to_owned()][..])
    );
    assert_eq!(service.map("kept", "1").await.text("/data/seen"), "1");
    let refused = service.merge(&format!("{MAPS}/a"), json!({"data": {"x": "bad"}})).await;
    assert!(refused.code >= 400 && refused.message().contains("no bad x"), "{:?}", refused.value);
    assert_eq!(service.get(&format!("{MAPS}/a")).await.text("/data/x"), "1");
    assert!(service.delete(&format!("{MAPS}/kept")).await.message().contains("it stays"));
    assert_eq!(service.get(&format!("{MAPS}/kept")).await.code, 200);
    assert_eq!(service.delete(&format!("{MAPS}/a")).await.code, 200);
}

#[tokio::test]
async fn the_answer_to_a_write_waits_until_it_is_in_force() {
    let (settle, settled) = watch::channel(0);
    let service = service_with(Hooks { settled, ..hooks() });
    let revision = service
        .server
        .write(Write::Create(Object::named("v1", "ConfigMap", Some("default"), "a")))
        .await
        .unwrap()
        .revision();
    let held = service.merge("/api/v1/namespaces/default/configmaps/a", json!({"data": {"x": "1"}}));
    tokio::pin!(held);
    assert!(futures_util::poll!(&mut held).is_pending());
    settle.send(revision).unwrap();
    let read = service.get(&format!("{MAPS}/a")).await;
    assert_eq!(read.code, 200, "reading never waits");
    settle.send(revision + 1).unwrap();
    assert_eq!(held.await.warnings, Vec::<String>::new());
    let late = service.merge(&format!("{MAPS}/a"), json!({"data": {"x": "2"}})).await;
    assert_eq!((late.code, late.text("/data/x"), late.warnings.len()), (200, "2", 1));
    let expected = format!(
        "stored, but not yet in force: revision {} is stored, revision {} is in force",
        revision + 2,
        revision + 1
    );
    assert!(late.warnings[0].contains(&expected), "{:?}", late.warnings);
}

#[tokio::test]
async fn the_answer_to_a_write_says_what_it_took() {
    let service = service();
    let parts = |timing: Option<String>| -> Vec<(String, f64)> {
        let timing = timing.unwrap();
        let part = |part: &str| part.split_once(";dur=").map(|(name, took)| (name.to_owned(), took.parse().unwrap()));
        timing.split(", ").map(|text| part(text).unwrap()).collect()
    };
    let made = parts(service.map("a", "1").await.timing);
    let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["store", "commit", "settle"]);
    assert!(made[1].1 > 0.0 && made[0].1 >= made[1].1, "a commit is a part of storing: {made:?}");
    let again = parts(service.merge(&format!("{MAPS}/a"), json!({"data": {"x": "1"}})).await.timing);
    assert!(again[0].1 > 0.0 && again[1].1 == 0.0, "nothing was to be committed: {again:?}");
    assert_eq!(service.get(&format!("{MAPS}/a")).await.timing, None, "reading commits nothing");
}

#[tokio::test]
async fn scale_is_a_view_of_replicas() {
    let service = service();
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = service.post(base, json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}, "template": template}})).await;
    assert_eq!(made.code, 201, "{:?}", made.value);
    let path = format!("{base}/d/scale");
    let scale = service.get(&path).await;
    assert_eq!(
        (scale.text("/kind"), scale.text("/apiVersion"), scale.text("/status/selector"), &scale.value["spec"]),
        ("Scale", "autoscaling/v1", "app=a", &json!({"replicas": 2}))
    );
    let patched = service.merge(&path, json!({"spec": {"replicas": 5}})).await;
    assert_eq!((patched.code, patched.text("/kind"), &patched.value["spec"]["replicas"]), (200, "Scale", &json!(5)));
    let mut body = patched.value;
    body["spec"]["replicas"] = json!(1);
    assert_eq!(service.put(&path, body.clone()).await.value["spec"]["replicas"], json!(1));
    assert_eq!(service.put(&path, body).await.failure().0, 409, "the revision is an old one");
    assert_eq!(service.merge(&path, json!({"spec": {"replicas": -1}})).await.failure().0, 422);
    let deployment = service.get(&format!("{base}/d")).await.value;
    assert_eq!((&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]), (&json!(1), &json!(3)));
}
