//! Tests of the three patches, with properties.

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::prop_assert_eq;
use serde_json::{Map, Value, json};

use super::{PatchType, apply, json, merge, strategic};
use crate::kinds::Kinds;
use crate::object::Object;

fn merged(target: Value, patch: &Value) -> Value {
    let mut target = target;
    merge(&mut target, patch);
    target
}

#[test]
fn merge_patch_cases_of_rfc_7396() {
    for (target, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
    ] {
        assert_eq!(merged(target.clone(), &patch), result, "{target} {patch}");
    }
}

#[test]
fn json_patch_operations() {
    let document = json!({"a": {"b": 1}, "l": [1, 2], "x/y": {"~": 0}});
    for (patch, result) in [
        (json!([]), document.clone()),
        (
            json!([{"op": "add", "path": "/a/c", "value": null}]),
            json!({"a": {"b": 1, "c": null}, "l": [1, 2], "x/y": {"~": 0}}),
        ),
        (json!([{"op": "add", "path": "/l/1", "value": 9}]), json!({"a": {"b": 1}, "l": [1, 9, 2], "x/y": {"~": 0}})),
        (json!([{"op": "add", "path": "/l/-", "value": 9}]), json!({"a": {"b": 1}, "l": [1, 2, 9], "x/y": {"~": 0}})),
        (json!([{"op": "remove", "path": "/l/0"}, {"op": "remove", "path": "/a"}]), json!({"l": [2], "x/y": {"~": 0}})),
        (
            json!([{"op": "replace", "path": "/x~1y/~0", "value": 5}]),
            json!({"a": {"b": 1}, "l": [1, 2], "x/y": {"~": 5}}),
        ),
        (json!([{"op": "move", "from": "/a/b", "path": "/c"}]), json!({"a": {}, "l": [1, 2], "x/y": {"~": 0}, "c": 1})),
        (
            json!([{"op": "copy", "from": "/a", "path": "/a/b"}]),
            json!({"a": {"b": {"b": 1}}, "l": [1, 2], "x/y": {"~": 0}}),
        ),
        (
            json!([{"op": "test", "path": "/a", "value": {"b": 1}}, {"op": "replace", "path": "", "value": {}}]),
            json!({}),
        ),
    ] {
        assert_eq!(json(&document, &patch).unwrap(), result, "{patch}");
    }
}

#[test]
fn json_patch_failures_say_which_operation_and_change_nothing() {
    let document = json!({"a": {"b": 1}, "l": [1, 2]});
    for (operation, code) in [
        (json!({"op": "add", "path": "/x/y", "value": 1}), 422),
        (json!({"op": "add", "path": "/l/3", "value": 1}), 422),
        (json!({"op": "add", "path": "/l/01", "value": 1}), 422),
        (json!({"op": "add", "path": "/a/b/c", "value": 1}), 422),
        (json!({"op": "add", "path": "/a"}), 400),
        (json!({"op": "add", "path": "a", "value": 1}), 400),
        (json!({"op": "remove", "path": "/x"}), 422),
        (json!({"op": "remove", "path": "/l/-"}), 422),
        (json!({"op": "remove", "path": ""}), 422),
        (json!({"op": "replace", "path": "/x", "value": 1}), 422),
        (json!({"op": "move", "from": "/a", "path": "/a/c"}), 422),
        (json!({"op": "move", "path": "/a"}), 400),
        (json!({"op": "copy", "from": "/x", "path": "/y"}), 422),
        (json!({"op": "test", "path": "/a/b", "value": 2}), 422),
        (json!({"op": "turn", "path": "/a"}), 400),
        (json!(7), 400),
    ] {
        let patch = json!([{"op": "add", "path": "/ok", "value": 1}, operation.clone()]);
        let status = json(&document, &patch).unwrap_err();
        assert_eq!(status.code(), code, "{operation}");
        assert!(status.message().contains("operation 1: "), "{status}");
    }
    assert_eq!(json(&document, &json!({})).unwrap_err().code(), 400);
}

#[test]
fn json_patch_cannot_grow_without_bound() {
    let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
    let patch = Value::Array(vec![double; 200]);
    let status = json(&json!({"a": ["0123456789"]}), &patch).unwrap_err();
    assert_eq!(status.code(), 422, "{status}");

    let wide = json!({"op": "copy", "from": "/s", "path": "/l/-"});
    let status = json(&json!({"s": "x".repeat(1_000_000), "l": []}), &Value::Array(vec![wide; 5])).unwrap_err();
    assert!(status.message().contains("bytes"), "{status}");

    let many = Value::Array(vec![json!({"op": "test", "path": "/x", "value": null}); 10_001]);
    assert_eq!(json(&json!({}), &many).unwrap_err().code(), 413);
}

fn deployment() -> Value {
    json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}, "template": {"spec": {
        "containers": [
            {"name": "a", "image": "a:1", "args": ["1", "2"], "ports": [{"containerPort": 80}, {"containerPort": 81}],
             "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "b:1"}],
        "tolerations": [{"key": "x"}]}}},
        "metadata": {"finalizers": ["x", "y"], "labels": {"a": "1", "b": "2"}}})
}

fn pod_spec(patch: &Value) -> Value {
    let patched = strategic(&deployment(), &json!({"spec": {"template": {"spec": patch}}})).unwrap();
    patched.pointer("/spec/template/spec").unwrap().clone()
}

#[test]
fn strategic_lists_merge_by_key() {
    let spec = pod_spec(&json!({"containers": [
        {"name": "b", "image": "b:2"},
        {"name": "c", "image": "c:1"},
        {"name": "a", "args": ["3"], "ports": [{"containerPort": 81, "name": "x"}], "env": [{"name": "X", "$patch": "delete"}, {"name": "Z", "value": null}]}],
        "tolerations": [{"key": "y"}]}));
    assert_eq!(
        spec["containers"],
        json!([
            {"name": "b", "image": "b:2"},
            {"name": "c", "image": "c:1"},
            {"name": "a", "image": "a:1", "args": ["3"], "ports": [{"containerPort": 80}, {"containerPort": 81, "name": "x"}],
             "env": [{"name": "Z"}, {"name": "Y", "value": "2"}]}]),
        "in the order of the patch, what is new first, as in Kubernetes"
    );
    assert_eq!(spec["tolerations"], json!([{"key": "y"}]), "a list without a key is replaced");
}

#[test]
fn strategic_directives() {
    let names = |spec: &Value| -> Vec<String> {
        spec["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let spec = pod_spec(
        &json!({"containers": [{"name": "c"}], "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}),
    );
    assert_eq!(names(&spec), ["c", "b", "a"]);
    let spec = pod_spec(
        &json!({"containers": [{"name": "c"}], "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}]}),
    );
    assert_eq!(names(&spec), ["c", "a", "b"], "what only the server knows keeps its place among what was there");
    let spec = pod_spec(&json!({"containers": [{"name": "new"}, {"name": "b"}]}));
    assert_eq!(names(&spec), ["new", "a", "b"]);
    let spec = pod_spec(&json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}));
    assert_eq!(names(&spec), ["z"]);
    let spec = pod_spec(&json!({"$patch": "replace", "containers": []}));
    assert_eq!(spec, json!({"containers": []}));

    let patched =
        strategic(&deployment(), &json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}))
            .unwrap();
    assert_eq!(patched["spec"]["strategy"], json!({"type": "Recreate"}));
    let patched = strategic(
        &deployment(),
        &json!({"metadata": {"labels": {"$patch": "delete"}, "finalizers": ["z", "x"], "$deleteFromPrimitiveList/finalizers": ["y"],
            "$setElementOrder/finalizers": ["z", "x"]}}),
    )
    .unwrap();
    assert_eq!(patched["metadata"], json!({"labels": {}, "finalizers": ["z", "x"]}));
}

#[test]
fn ports_of_a_service_merge_by_port() {
    let service = json!({"spec": {"ports": [{"port": 9000, "name": "tcp"}, {"port": 9001}]}});
    let patch = json!({"spec": {"ports": [{"port": 9001, "name": "other"}, {"port": 9000, "$patch": "delete"}]}});
    assert_eq!(strategic(&service, &patch).unwrap()["spec"]["ports"], json!([{"port": 9001, "name": "other"}]));
}

#[test]
fn strategic_refuses_what_it_cannot_mean() {
    for patch in [
        json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}),
        json!({"spec": {"template": {"spec": {"containers": ["x"]}}}}),
        json!({"spec": {"$patch": "explode"}}),
        json!({"spec": {"strategy": {"$retainKeys": "type"}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}),
        json!({"metadata": {"$setElementOrder/finalizers": 1}}),
    ] {
        let status = strategic(&deployment(), &patch).unwrap_err();
        assert!(matches!(status.code(), 400 | 422), "{patch}");
    }
}

#[test]
fn media_types() {
    let kinds = Kinds::builtin();
    let pods = kinds.by_resource("", "pods").unwrap();
    assert_eq!(PatchType::of("application/merge-patch+json; charset=utf-8", pods), Ok(PatchType::Merge));
    assert_eq!(PatchType::of("application/strategic-merge-patch+json", pods), Ok(PatchType::Strategic));
    let status = PatchType::of("application/json", pods).unwrap_err();
    assert_eq!(status.code(), 415);
    let mut custom = crate::kinds::Kind::clone(pods);
    custom.builtin = false;
    let status = PatchType::of("application/strategic-merge-patch+json", &custom).unwrap_err();
    assert_eq!(
        status.message(),
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
    let object = Object::named("v1", "Pod", Some("a"), "b");
    for kind in [PatchType::Merge, PatchType::Strategic, PatchType::Json] {
        assert_eq!(apply(kind, &object, &json!("x")).unwrap_err().code(), 400);
    }
    let whole = json!([{"op": "replace", "path": "", "value": []}]);
    assert_eq!(apply(PatchType::Json, &object, &whole).unwrap_err().code(), 400);
}

/// Any JSON without nulls: null means removal in a merge patch, so it cannot be put by one.
fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,3}".prop_map(Value::from)
    ];
    let keys =
        || prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("c".to_owned()), Just("x/~y".to_owned())];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn mappings() -> impl Strategy<Value = Value> {
    documents().prop_map(|value| json!({ "a": value, "d": 1 }))
}

/// The smallest merge patch that turns one document into the other.
fn merge_difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, new) in to {
        match from.get(name) {
            Some(old) if old == new => {}
            // A mapping that replaces something else must be told whole, which a merge patch does by itself.
            Some(old) => drop(patch.insert(name.clone(), merge_difference(old, new))),
            None => drop(patch.insert(name.clone(), new.clone())),
        }
    }
    Value::Object(patch)
}

proptest! {
    #[test]
    fn a_merge_difference_leads_from_one_document_to_the_other(from in mappings(), to in mappings()) {
        let patch = merge_difference(&from, &to);
        prop_assert_eq!(&merged(from.clone(), &patch), &to);
        // Without directives and keyed lists a strategic merge is a plain one.
        prop_assert_eq!(strategic(&from, &patch).unwrap(), to);
    }

    #[test]
    fn merging_twice_is_merging_once(target in mappings(), patch in mappings()) {
        let once = merged(target, &patch);
        prop_assert_eq!(merged(once.clone(), &patch), once);
    }

    #[test]
    fn what_json_patch_adds_it_can_test_and_remove(document in mappings(), value in documents()) {
        let patch = json!([
            {"op": "add", "path": "/new~1~0", "value": &value},
            {"op": "test", "path": "/new~1~0", "value": &value},
            {"op": "move", "from": "/new~1~0", "path": "/other"},
            {"op": "remove", "path": "/other"},
        ]);
        prop_assert_eq!(json(&document, &patch).unwrap(), document);
    }
}
