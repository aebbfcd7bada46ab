//! Tests of the table of kinds and of definitions that add to it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Kind, Kinds, version_rank};
use crate::object::{Key, Object};

fn definition() -> Object {
    Object::new(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wi"]},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                 "subresources": {"status": {}},
                 "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
                {"name": "v0", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}
            ]
        }
    }))
    .unwrap()
}

#[test]
fn builtin_names_are_unique_and_complete() {
    let kinds = Kinds::builtin();
    let mut resources = BTreeSet::new();
    for kind in kinds.iter() {
        assert!(resources.insert(kind.resource()), "{} stands twice", kind.resource());
        assert!(!kind.storage().is_empty());
        assert_eq!(kind.stored(), kind.verbs.len() > 1);
    }
    for (group, plural, short) in [("", "pods", "po"), ("apps", "deployments", "deploy"), ("", "namespaces", "ns")] {
        let kind = kinds.by_resource(group, plural).unwrap();
        assert!(kind.short_names.iter().any(|name| name == short));
        assert!(kind.has_status("v1"));
    }
    assert_eq!(
        kinds.by_resource("apps", "deployments").unwrap().subresource("v1", "scale").unwrap().body,
        Some(["autoscaling", "v1", "Scale"])
    );
    assert!(!kinds.by_kind("authorization.k8s.io", "SelfSubjectAccessReview").unwrap().stored());
}

#[test]
fn a_definition_adds_a_kind_with_the_storage_version_first() {
    let definition = definition();
    let kinds = Kinds::with_crds([&definition]);
    let kind = kinds.by_resource("example.com", "widgets").unwrap();
    assert_eq!(kind.storage(), "v1");
    assert_eq!((kind.singular.as_str(), kind.list_kind.as_str()), ("widget", "WidgetList"));
    assert!(kind.version("v0").is_none());
    assert!(kind.has_status("v1") && !kind.has_status("v1beta1"));
    assert_eq!(kind.versions[0].columns[0].path, ".spec.size");
    assert_eq!(kind.versions[1].columns[0].name, "Age");
    let groups = kinds.groups();
    assert_eq!(groups.last().unwrap(), &("example.com", vec!["v1", "v1beta1"]));
    assert_eq!(groups[0], ("", vec!["v1"]));
    let old = Object::named("example.com/v1beta1", "Widget", Some("foo"), "a");
    assert_eq!(kinds.key_of(&old).unwrap(), Key::namespaced("example.com", "widgets", "foo", "a"));
    assert_eq!(kind.convert(&old, "v1").api_version(), "example.com/v1");
}

#[test]
fn a_definition_cannot_take_the_place_of_a_builtin_kind() {
    let mut definition = definition();
    definition.set("/metadata/name", "deployments.apps");
    definition.set("/spec/group", "apps");
    definition.set("/spec/names/plural", "deployments");
    let kinds = Kinds::with_crds([&definition]);
    assert!(kinds.by_resource("apps", "deployments").unwrap().builtin);
    definition.set("/metadata/name", "gadgets.apps");
    definition.set("/spec/names/plural", "gadgets");
    definition.set("/spec/names/kind", "Deployment");
    assert!(Kinds::with_crds([&definition]).by_resource("apps", "gadgets").is_none());
}

#[test]
fn a_broken_definition_is_refused_with_every_cause() {
    type Change = (&'static str, Value, &'static str);
    let changes: [Change; 6] = [
        ("/spec/group", json!(""), "spec.group"),
        ("/spec/names/kind", json!(7), "spec.names.kind"),
        ("/spec/scope", json!("World"), "spec.scope"),
        ("/metadata/name", json!("other"), "metadata.name"),
        ("/spec/versions/1/storage", json!(false), "spec.versions"),
        ("/spec/versions/0/schema", json!(null), "spec.versions[0].schema.openAPIV3Schema"),
    ];
    for (pointer, value, field) in changes {
        let mut definition = definition();
        definition.set(pointer, value);
        let status = Kind::from_crd(&definition).unwrap_err();
        assert_eq!((status.code(), status.reason()), (422, "Invalid"));
        assert!(status.causes().iter().any(|cause| cause.field == field), "{field}: {status}");
    }
}

#[test]
fn keys_need_a_name_and_a_namespace_where_there_is_one() {
    let kinds = Kinds::builtin();
    assert_eq!(kinds.key_of(&Object::named("v1", "Pod", None, "a")).unwrap_err().code(), 400);
    assert_eq!(kinds.key_of(&Object::named("v1", "Namespace", None, "")).unwrap_err().code(), 400);
    assert_eq!(kinds.key_of(&Object::named("v1", "Nothing", None, "a")).unwrap_err().code(), 404);
    assert_eq!(kinds.key_of(&Object::named("v7", "Pod", Some("a"), "a")).unwrap_err().code(), 404);
    let stray = Object::named("v1", "Namespace", Some("odd"), "a");
    assert_eq!(kinds.key_of(&stray).unwrap(), Key::cluster("", "namespaces", "a"));
}

#[test]
fn stable_versions_are_preferred() {
    let mut names = vec!["v1alpha1", "v1", "odd", "v1beta2", "v2", "v2beta1", "v1beta1", "v11"];
    names.sort_by_key(|name| std::cmp::Reverse(version_rank(name)));
    assert_eq!(names, vec!["v11", "v2", "v1", "v2beta1", "v1beta2", "v1beta1", "v1alpha1", "odd"]);
}
