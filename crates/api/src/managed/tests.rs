use serde_json::{Value, json};

use super::{Writer, apply, note};
use crate::kinds::Kinds;
use crate::object::Object;
use crate::schema::Schema;
use crate::status::Status;
use crate::yaml;

const NOW: &str = "2026-01-02T03:04:05Z";

fn by<'a>(name: &'a str, version: &'a str) -> Writer<'a> {
    Writer { name, api_version: version, part: "" }
}

fn object(text: &str) -> Object {
    Object::new(yaml::documents(text).remove(0).value).unwrap()
}

/// Applies as a writer to what is stored.
fn applied(old: Option<&Object>, text: &str, name: &str, force: bool) -> Result<Object, Status> {
    let config = object(text);
    let schema = Schema::builtin(config.api_version(), config.kind());
    apply(schema.as_deref(), old, &config, &by(name, config.api_version()), force, NOW)
}

/// What a plain write of a whole object stores.
fn updated(old: Option<&Object>, text: &str, name: &str) -> Object {
    let mut new = object(text);
    if let Some(old) = old
        && new.at("/metadata/managedFields").is_null()
    {
        new.set("/metadata/managedFields", old.at("/metadata/managedFields").clone());
    }
    let schema = Schema::builtin(new.api_version(), new.kind());
    let version = new.api_version().to_owned();
    note(schema.as_deref(), old, &mut new, &by(name, &version), NOW).unwrap();
    new
}

/// Writer, operation and fields of each entry.
fn entries(object: &Object) -> Vec<(String, String, Value)> {
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("").to_owned();
    let entries = object.items_at("/metadata/managedFields").iter();
    entries.map(|entry| (text(entry, "manager"), text(entry, "operation"), entry["fieldsV1"].clone())).collect()
}

fn map(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, namespace: ns}}\ndata: {data}\n")
}

#[test]
fn a_plain_write_owns_what_it_set_and_takes_it_from_others() {
    let first = updated(None, &map("{a: '1', b: '2'}"), "one");
    assert_eq!(entries(&first), [("one".into(), "Update".into(), json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}))]);
    let entry = &first.items_at("/metadata/managedFields")[0];
    assert_eq!(
        (&entry["time"], &entry["apiVersion"], &entry["fieldsType"]),
        (&json!(NOW), &json!("v1"), &json!("FieldsV1"))
    );
    let second = updated(Some(&first), &map("{a: '1', b: '3', c: '4'}"), "two");
    assert_eq!(
        entries(&second),
        [
            ("one".into(), "Update".into(), json!({"f:data": {".": {}, "f:a": {}}})),
            ("two".into(), "Update".into(), json!({"f:data": {"f:b": {}, "f:c": {}}})),
        ]
    );
    let third = updated(Some(&second), &map("{c: '4'}"), "one");
    assert_eq!(
        entries(&third),
        [
            ("one".into(), "Update".into(), json!({"f:data": {}})),
            ("two".into(), "Update".into(), json!({"f:data": {"f:c": {}}})),
        ],
    );
    assert_eq!(updated(Some(&third), &map("{c: '4'}"), "three"), third, "who changes nothing owns nothing");
}

#[test]
fn applying_owns_what_is_applied_and_taking_it_out_removes_it() {
    let first = applied(None, &map("{a: '1', b: '2'}"), "one", false).unwrap();
    assert_eq!(entries(&first), [("one".into(), "Apply".into(), json!({"f:data": {"f:a": {}, "f:b": {}}}))]);
    assert_eq!(applied(Some(&first), &map("{a: '1', b: '2'}"), "one", false).unwrap(), first, "nothing changes");
    let second = applied(Some(&first), &map("{b: '2', c: '3'}"), "two", false).unwrap();
    assert_eq!(second.at("/data"), &json!({"a": "1", "b": "2", "c": "3"}), "equal values are shared");
    let third = applied(Some(&second), &map("{a: '1'}"), "one", false).unwrap();
    assert_eq!(third.at("/data"), &json!({"a": "1", "b": "2", "c": "3"}), "b is still wanted by the other");
    let fourth = applied(Some(&third), &map("{c: '3'}"), "two", false).unwrap();
    assert_eq!(fourth.at("/data"), &json!({"a": "1", "c": "3"}), "and now by nobody");
    let fifth = applied(Some(&fourth), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}", "one", false).unwrap();
    assert_eq!((fifth.at("/data"), entries(&fifth).len()), (&json!({"c": "3"}), 1));
    let sixth = applied(Some(&fifth), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}", "two", false).unwrap();
    assert_eq!((sixth.at("/data"), sixth.at("/metadata/managedFields")), (&Value::Null, &Value::Null));
}

#[test]
fn what_another_set_is_a_conflict_with_its_field_unless_forced() {
    let stored = updated(None, &map("{a: '1', b: '2'}"), "kubectl-edit");
    let status = applied(Some(&stored), &map("{a: '9'}"), "one", false).unwrap_err();
    assert_eq!(
        (status.code(), status.reason(), status.message()),
        (409, "Conflict", "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.a")
    );
    let cause = &status.causes()[0];
    assert_eq!(
        (cause.reason, cause.message.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", "conflict with \"kubectl-edit\" using v1", ".data.a")
    );
    let forced = applied(Some(&stored), &map("{a: '9'}"), "one", true).unwrap();
    assert_eq!(forced.at("/data/a"), &json!("9"));
    assert_eq!(
        entries(&forced),
        [
            ("one".into(), "Apply".into(), json!({"f:data": {"f:a": {}}})),
            ("kubectl-edit".into(), "Update".into(), json!({"f:data": {".": {}, "f:b": {}}})),
        ]
    );
    let other = applied(Some(&forced), &map("{a: '7', b: '8'}"), "two", false).unwrap_err();
    assert_eq!(
        other.message(),
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.a\nconflicts with \"kubectl-edit\" using v1:\n- .data.b"
    );
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: ns, labels: {app: a}}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec:
      containers:
      - name: one
        image: i:1
        ports: [{containerPort: 80}]
        env: [{name: A, value: '1'}, {name: B, value: '2'}]
      - {name: two, image: j:1}
";

#[test]
fn elements_of_lists_are_owned_by_their_keys() {
    let stored = applied(None, DEPLOYMENT, "one", false).unwrap();
    let container = json!({".": {}, "f:name": {}, "f:image": {}});
    assert_eq!(
        entries(&stored)[0].2,
        json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {"f:app": {}}},
                    "f:spec": {"f:containers": {
                        "k:{\"name\":\"one\"}": {
                            ".": {}, "f:name": {}, "f:image": {},
                            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                            "f:env": {
                                "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}},
                                "k:{\"name\":\"B\"}": {".": {}, "f:name": {}, "f:value": {}},
                            },
                        },
                        "k:{\"name\":\"two\"}": container,
                    }},
                },
            },
        })
    );
    // Another one adds a container and a variable, in places of its own.
    let more = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: ns}
spec:
  template:
    spec:
      containers:
      - {name: side, image: s:1}
      - {name: one, env: [{name: C, value: '3'}]}
";
    let both = applied(Some(&stored), more, "two", false).unwrap();
    let names = |object: &Object, pointer: &str| {
        let items = object.items_at(pointer).iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&both, "/spec/template/spec/containers"), "side one two");
    assert_eq!(names(&both, "/spec/template/spec/containers/1/env"), "A B C");
    let less = DEPLOYMENT.replace("      - {name: two, image: j:1}\n", "").replace(", {name: B, value: '2'}", "");
    let left = applied(Some(&both), &less, "one", false).unwrap();
    assert_eq!(names(&left, "/spec/template/spec/containers"), "side one");
    assert_eq!(names(&left, "/spec/template/spec/containers/1/env"), "A C");
    let conflict = applied(Some(&left), &DEPLOYMENT.replace("i:1", "i:2"), "three", false).unwrap_err();
    assert_eq!(
        conflict.message(),
        "Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"one\"].image"
    );
}

#[test]
fn what_was_filled_in_goes_with_what_it_was_filled_into_and_other_keys_stay() {
    let with_probe =
        DEPLOYMENT.replace("{name: two, image: j:1}", "{name: two, image: j:1, livenessProbe: {exec: {command: [x]}}}");
    let labels = with_probe
        .replace("name: a, namespace: ns, labels: {app: a}", "name: a, labels: {app: a}, annotations: {x: y}");
    let mut stored = applied(None, &labels, "one", false).unwrap();
    // The server fills in defaults, a controller notes something: nobody is written down for it.
    stored.set("/spec/template/spec/containers/1/livenessProbe/periodSeconds", 10);
    stored.set("/spec/template/spec/containers/1/imagePullPolicy", "Always");
    stored.set("/metadata/annotations/by-the-mesh", "1");
    stored.set("/spec/replicas", 1);
    let less = applied(Some(&stored), DEPLOYMENT, "one", false).unwrap();
    assert_eq!(
        less.at("/spec/template/spec/containers/1"),
        &json!({"name": "two", "image": "j:1", "imagePullPolicy": "Always"})
    );
    assert_eq!(less.at("/metadata/annotations"), &json!({"by-the-mesh": "1"}));
    assert_eq!(less.at("/spec/replicas"), &json!(1));
}

#[test]
fn lists_without_keys_are_owned_whole() {
    let all = crate::crds::istio();
    let kinds = Kinds::with_crds(&all);
    let kind = kinds.by_resource("security.istio.io", "authorizationpolicies").unwrap();
    let schema = kind.version("v1").unwrap().schema.clone().unwrap();
    let policy = |ports: &str| {
        object(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: ns}}\nspec:\n  \
             action: ALLOW\n  rules: [{{to: [{{operation: {{ports: [{ports}]}}}}]}}]\n"
        ))
    };
    let put = |old: Option<&Object>, ports: &str, name: &str| {
        apply(Some(&schema), old, &policy(ports), &by(name, "security.istio.io/v1"), false, NOW)
    };
    let stored = put(None, "'1'", "kubectl").unwrap();
    assert_eq!(entries(&stored)[0].2, json!({"f:spec": {"f:action": {}, "f:rules": {}}}));
    let status = put(Some(&stored), "'2'", "other").unwrap_err();
    assert_eq!(status.message(), "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.rules");
    assert_eq!(put(Some(&stored), "'2'", "kubectl").unwrap().at("/spec/rules/0/to/0/operation/ports"), &json!(["2"]));
    let mut unknown = policy("'1'");
    unknown.set("/spec/rulez", 1);
    let status = apply(Some(&schema), None, &unknown, &by("kubectl", "security.istio.io/v1"), false, NOW).unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            500,
            "failed to create typed patch object (ns/a; security.istio.io/v1, Kind=AuthorizationPolicy): .spec.rulez: field not declared in schema"
        )
    );
}

#[test]
fn kubectl_passes_from_client_side_to_server_side_apply() {
    let last = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"annotations":{},"name":"a","namespace":"ns"},"data":{"a":"1","b":"2"}}"#;
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  namespace: ns\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: '{last}'\ndata: {{a: '1', b: '2'}}\n"
    );
    let stored = updated(None, &text, "kubectl-client-side-apply");
    let taken = applied(Some(&stored), &map("{a: '9', b: '2'}"), "kubectl", false).unwrap();
    assert_eq!(taken.at("/data"), &json!({"a": "9", "b": "2"}));
    let last = taken.annotation("kubectl.kubernetes.io/last-applied-configuration").unwrap();
    assert!(last.contains("\"a\":\"9\"") && last.ends_with('\n'), "{last}");
    // What somebody else has changed since is not kubectl's.
    let changed = updated(Some(&stored), &text.replace("b: '2'}", "b: '7'}"), "other");
    let status = applied(Some(&changed), &map("{a: '9', b: '2'}"), "kubectl", false).unwrap_err();
    assert_eq!(status.message(), "Apply failed with 1 conflict: conflict with \"other\" using v1: .data.b");
    assert!(applied(Some(&stored), &map("{a: '9'}"), "another", false).is_err());
}

#[test]
fn a_client_may_rewrite_who_owns_what() {
    let stored = updated(None, &map("{a: '1'}"), "one");
    let given = |fields: Value| {
        let mut new = stored.clone();
        new.set("/metadata/managedFields", fields);
        note(Schema::builtin("v1", "ConfigMap").as_deref(), Some(&stored), &mut new, &by("two", "v1"), NOW).unwrap();
        entries(&new)
    };
    let entry = json!({"manager": "mine", "operation": "Apply", "apiVersion": "v1", "time": NOW, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:a": {}}}});
    assert_eq!(given(json!([entry])), [("mine".into(), "Apply".into(), json!({"f:data": {"f:a": {}}}))]);
    assert_eq!(given(json!([{}])), [], "one empty entry forgets them all");
    for kept in [
        json!([]),
        json!(null),
        json!([{"manager": "x", "operation": "Odd"}]),
        json!([{"operation": "Apply", "fieldsV1": {"x": {}}}]),
    ] {
        assert_eq!(given(kept.clone()), entries(&stored), "{kept}");
    }
}

#[test]
fn the_status_is_owned_apart() {
    let schema = Schema::builtin("apps/v1", "Deployment");
    let stored = updated(None, DEPLOYMENT, "one");
    let mut new = stored.clone();
    new.set("/status/replicas", 1);
    let part = Writer { part: "status", ..by("one", "apps/v1") };
    note(schema.as_deref(), Some(&stored), &mut new, &part, NOW).unwrap();
    assert_eq!(entries(&new).len(), 2);
    assert_eq!(entries(&new)[1].2, json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(new.at("/metadata/managedFields/1/subresource"), &json!("status"));
    // A plain write that carries a status claims nothing of it.
    let mut again = new.clone();
    again.set("/status/replicas", 2);
    note(schema.as_deref(), Some(&new), &mut again, &by("two", "apps/v1"), NOW).unwrap();
    assert_eq!(entries(&again), entries(&new));
}

#[test]
fn entries_are_bounded_and_the_oldest_are_joined() {
    let mut stored = updated(None, &map("{a0: '0'}"), "w0");
    for number in 1..=14 {
        let mut new = stored.clone();
        new.set(&format!("/data/a{number}"), "1");
        let time = format!("2026-01-02T03:04:{number:02}Z");
        let name = format!("w{number}");
        note(Schema::builtin("v1", "ConfigMap").as_deref(), Some(&stored), &mut new, &by(&name, "v1"), &time).unwrap();
        stored = new;
    }
    let all = entries(&stored);
    assert_eq!((all.len(), all.iter().filter(|entry| entry.0 == "ancient-changes").count()), (10, 1));
    let mut stored = applied(None, &map("{a: '1'}"), "w0", false).unwrap();
    for number in 1..=70 {
        match applied(Some(&stored), &map("{a: '1'}"), &format!("w{number}"), false) {
            Ok(object) => stored = object,
            Err(status) => {
                assert_eq!((number, status.code()), (64, 422), "{status}");
                return;
            }
        }
    }
    panic!("the number of appliers has no bound");
}

#[test]
fn a_configuration_that_cannot_merge_is_refused() {
    let twice = DEPLOYMENT.replace("name: two", "name: one");
    let status = applied(None, &twice, "one", false).unwrap_err();
    assert!(
        status.message().ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"one\"]"),
        "{status}"
    );
    let nameless = DEPLOYMENT.replace("{name: two, image: j:1}", "{image: j:1}");
    assert!(applied(None, &nameless, "one", false).unwrap_err().message().contains("element 1 omits a key"));
    let mut given = object(&map("{a: '1'}"));
    given.set("/metadata/managedFields", json!([]));
    assert_eq!(
        apply(None, None, &given, &by("one", "v1"), false, NOW).unwrap_err().message(),
        "metadata.managedFields must be nil"
    );
}
