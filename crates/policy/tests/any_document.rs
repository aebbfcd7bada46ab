//! Documents of any shape: parsing never panics, always says why it refuses, and what it lets through compiles and decides.
#![cfg(test)]

use std::sync::Arc;

use policy::table::table;
use policy::{Mesh, Profile, Settings, Workload, WorkloadId, parse};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use serde_json::{Map, Value, json};

/// Names and values that a policy could hold, in any place.
fn words() -> impl Strategy<Value = String> {
    let known = [
        "spec",
        "rules",
        "from",
        "to",
        "when",
        "source",
        "operation",
        "key",
        "values",
        "notValues",
        "ports",
        "notPorts",
        "principals",
        "namespaces",
        "serviceAccounts",
        "trustDomains",
        "ipBlocks",
        "methods",
        "selector",
        "matchLabels",
        "targetRefs",
        "action",
        "provider",
        "name",
        "mtls",
        "mode",
        "portLevelMtls",
        "ALLOW",
        "DENY",
        "CUSTOM",
        "STRICT",
        "source.ip",
        "destination.port",
        "connection.sni",
        "9000",
        "65536",
        "10.0.0.0/8",
        "::/0",
        "*",
        "a*",
        "",
        "foo",
        "cluster.local/ns/foo/sa/x",
        "request.headers[x]",
        "ü",
        "a/b/c",
    ];
    prop_oneof![9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        8 => words().prop_map(Value::String),
        1 => Just(Value::Null),
        1 => any::<i32>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((words(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A policy in which one part is anything.
fn documents() -> impl Strategy<Value = Value> {
    let places = [
        "",
        "/spec",
        "/spec/rules",
        "/spec/rules/0",
        "/spec/rules/0/from/0/source",
        "/spec/rules/0/to/0/operation",
        "/spec/rules/0/when/0",
        "/metadata",
    ];
    (prop::sample::select(places.to_vec()), values()).prop_map(|(place, value)| {
        let mut document = json!({"metadata": {"name": "p", "namespace": "foo"}, "spec": {"rules": [
            {"from": [{"source": {}}], "to": [{"operation": {}}], "when": [{"key": "source.ip", "values": ["10.0.0.1"]}]}
        ]}});
        *document.pointer_mut(place).unwrap() = value;
        document
    })
}

proptest! {
    #[test]
    fn is_read_or_refused_with_a_reason(document in documents(), ambient in any::<bool>()) {
        let profile = if ambient { Profile::Ambient } else { Profile::Sidecar };
        let settings = Settings { profile, ..Settings::default() };
        let peer = parse::peer_authentication(&document, &settings);
        assert!(peer.value.is_some() || peer.findings.iter().any(policy::Finding::refuses));
        let parsed = parse::authorization_policy(&document, &settings);
        assert!(parsed.value.is_some() || parsed.findings.iter().any(policy::Finding::refuses));
        for finding in parsed.findings.iter().chain(&peer.findings) {
            assert!(!finding.message.is_empty() && finding.path.steps().len() < 20, "{finding}");
        }
        let id = WorkloadId::new("foo", "w");
        let address = "10.0.0.1".parse().unwrap();
        let workload = Workload { id: id.clone(), labels: [].into(), service_account: "x".to_owned(), addresses: vec![address], in_mesh: true };
        let policies = parsed.value.into_iter().map(Arc::new).collect();
        let peer_authentications = peer.value.into_iter().map(Arc::new).collect();
        let mesh = Mesh { settings, workloads: vec![workload], policies, peer_authentications, ..Mesh::default() };
        table(&policy::compile(&mesh, 1, None), &id, address).unwrap();
    }
}
