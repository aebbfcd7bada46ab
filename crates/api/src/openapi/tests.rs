use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{encode, version_2, version_3};
use crate::kinds::Kinds;

fn kinds() -> Kinds {
    Kinds::with_crds(&crate::crds::istio())
}

/// Every reference in a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get("$ref") {
                found.insert(to.clone());
            }
            fields.values().for_each(|child| references(child, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_kind_has_words_and_a_shape_and_every_reference_leads_somewhere() {
    let kinds = kinds();
    let two = version_2(&kinds);
    let mut documents = vec![(two["definitions"].clone(), two.clone())];
    for (group, versions) in kinds.groups() {
        for version in versions {
            let three = version_3(&kinds, group, version);
            let schemas = three["components"]["schemas"].clone();
            for kind in kinds.in_version(group, version) {
                let named = json!([{"group": group, "version": version, "kind": kind.kind}]);
                let of = |schemas: &Value| {
                    let all = schemas.as_object().unwrap().values();
                    all.filter(|one| one["x-kubernetes-group-version-kind"] == named).count()
                };
                assert_eq!((of(&schemas), of(&two["definitions"])), (1, 1), "{named}");
            }
            documents.push((schemas, three));
        }
    }
    for (schemas, document) in &documents {
        let mut found = BTreeSet::new();
        references(document, &mut found);
        for to in found {
            let name = to.rsplit('/').next().unwrap();
            assert!(schemas.get(name).is_some(), "{to} leads nowhere");
        }
        for (name, schema) in schemas.as_object().unwrap() {
            let is_kind = schema.get("x-kubernetes-group-version-kind").is_some();
            assert!(!is_kind || schema["description"].is_string() || name.contains("istio"), "{name} has no words");
        }
    }
}

#[test]
fn a_schema_says_what_is_needed_what_merges_and_by_which_key() {
    let document = version_3(&kinds(), "", "v1");
    let schemas = &document["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["properties"]["spec"]["allOf"][0]["$ref"], json!("#/components/schemas/io.k8s.api.core.v1.PodSpec"));
    assert_eq!(pod["required"], json!(["spec"]));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["items"]["allOf"][0]["$ref"], json!("#/components/schemas/io.k8s.api.core.v1.Container"));
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(
        (&containers["x-kubernetes-patch-strategy"], &containers["x-kubernetes-patch-merge-key"]),
        (&json!("merge"), &json!("name"))
    );
    let port = &schemas["io.k8s.api.core.v1.ServicePort"]["properties"]["targetPort"];
    assert_eq!(port["allOf"][0]["$ref"], json!("#/components/schemas/io.k8s.apimachinery.pkg.util.intstr.IntOrString"));
    let key = &schemas["io.k8s.api.core.v1.ConfigMapKeySelector"];
    assert!(key["properties"]["name"].is_object() && key["properties"]["key"].is_object(), "inlined fields: {key}");
}

/// The fields of one message: number and content.
fn fields(mut rest: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    let varint = |rest: &mut &[u8]| {
        let (mut number, mut shift) = (0_u64, 0);
        loop {
            let (&byte, after) = rest.split_first().unwrap();
            *rest = after;
            number |= u64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return number;
            }
        }
    };
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let value = varint(&mut rest);
        if key & 7 == 2 {
            let (inner, after) = rest.split_at(usize::try_from(value).unwrap());
            found.push((key >> 3, inner.to_vec()));
            rest = after;
        } else {
            found.push((key >> 3, value.to_le_bytes().to_vec()));
        }
    }
    found
}

fn inner(message: &[u8], number: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(one, _)| *one == number).map(|(_, bytes)| bytes).collect()
}

#[test]
fn version_2_is_encoded_as_older_clients_read_it() {
    let document = version_2(&kinds());
    let bytes = encode(&document);
    assert_eq!(inner(&bytes, 1), [b"2.0".to_vec()]);
    let named = |messages: Vec<Vec<u8>>, name: &str| {
        let found = messages.into_iter().find(|message| inner(message, 1) == [name.as_bytes().to_vec()]);
        inner(&found.unwrap_or_else(|| panic!("no {name}")), 2).remove(0)
    };
    let definitions = inner(&inner(&bytes, 9)[0], 1);
    assert_eq!(definitions.len(), document["definitions"].as_object().unwrap().len());
    let spec = named(definitions, "io.k8s.api.core.v1.PodSpec");
    let containers = named(inner(&inner(&spec, 25)[0], 1), "containers");
    assert_eq!(inner(&inner(&containers, 22)[0], 1), [b"array".to_vec()]);
    let item = inner(&inner(&containers, 23)[0], 1).remove(0);
    assert_eq!(inner(&item, 1), [b"#/definitions/io.k8s.api.core.v1.Container".to_vec()]);
    let keys: Vec<_> =
        inner(&containers, 31).iter().map(|one| String::from_utf8(inner(one, 1).remove(0)).unwrap()).collect();
    assert!(keys.contains(&"x-kubernetes-patch-merge-key".to_owned()), "{keys:?}");
    let paths = inner(&inner(&bytes, 8)[0], 2);
    let path = named(paths, "/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
    let applied = inner(&path, 8).remove(0);
    let parameters: Vec<_> = inner(&applied, 8)
        .iter()
        .map(|one| inner(&inner(&inner(one, 1)[0], 2)[0], 3).remove(0))
        .map(|query| String::from_utf8(inner(&query, 4).remove(0)).unwrap())
        .collect();
    assert!(parameters.contains(&"dryRun".to_owned()), "{parameters:?}");
    let extension =
        inner(&applied, 13).into_iter().find(|one| inner(one, 1) == [b"x-kubernetes-group-version-kind".to_vec()]);
    let yaml = inner(&inner(&extension.unwrap(), 2)[0], 2).remove(0);
    assert_eq!(
        serde_json::from_slice::<Value>(&yaml).unwrap(),
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
}
