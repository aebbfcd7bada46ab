//! The mesh of `mesh.yaml` as objects, for the tests of this crate.

use std::sync::Arc;

use api::{Change, Event, Key, Object, Objects};
use control::inject::{Options, Owner, inject_pod, is_injected};

/// The plural of a kind, as far as it occurs here.
fn plural(kind: &str) -> String {
    match kind {
        "AuthorizationPolicy" => "authorizationpolicies".to_owned(),
        "ProxyConfig" => "proxyconfigs".to_owned(),
        "Gateway" => "gateways".to_owned(),
        "ServiceEntry" => "serviceentries".to_owned(),
        "Telemetry" => "telemetries".to_owned(),
        _ => format!("{}s", kind.to_ascii_lowercase()),
    }
}

pub(crate) fn key(object: &Object) -> Key {
    Key {
        group: object.group().to_owned(),
        plural: plural(object.kind()),
        namespace: object.namespace().map(str::to_owned),
        name: object.name().to_owned(),
    }
}

pub(crate) fn put(objects: &mut Objects, object: Object) {
    let revision = objects.revision() + 1;
    let event = Event { revision, key: key(&object), change: Change::Put { old: None, new: Arc::new(object) } };
    objects.apply(&event);
}

/// The mesh of the goldens, its pods in the mesh but for those that refuse.
pub(crate) fn mesh() -> Objects {
    let mut objects = Objects::new();
    for document in api::yaml::documents(include_str!("mesh.yaml")) {
        let mut value = document.value;
        if value["kind"] == "Pod" {
            inject_pod(&mut value, "pod", &Owner::default(), &Options::default()).unwrap();
        }
        put(&mut objects, Object::new(value).unwrap());
    }
    assert!(is_injected(objects.find("", "pods", Some("foo"), "web-1").unwrap().value()));
    objects
}

pub(crate) fn object(text: &str) -> Object {
    let mut documents = api::yaml::documents(text);
    assert_eq!(documents.len(), 1, "{text}");
    let document = documents.remove(0);
    assert!(document.fatal().is_none(), "{:?} in {text}", document.problems);
    Object::new(document.value).unwrap()
}
