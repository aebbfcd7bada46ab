//! Every parser of bytes that others wrote, each with what must hold of any input. Run over mutated seeds by `tests/mutated.rs`, and
//! by libFuzzer (`fuzz/`). That nothing panics is the first of it.

use std::sync::Arc;

use api::object::Object;
use api::patch::{PatchType, apply};
use api::yaml::{Document, Node, documents};
use control::bundle::{Text, read};
use policy::finding::Finding;
use policy::table::table;
use policy::{Connection, Mesh, Peer, Profile, Settings, Workload, WorkloadId, parse};
use serde_json::{Value, json};

/// Reads bytes and asserts what must hold of any.
pub(crate) type Parser = fn(&[u8]);

/// Name and parser.
pub(crate) const PARSERS: &[(&str, Parser)] = &[
    ("yaml", yaml),
    ("policy", policies),
    ("corpus", corpus),
    ("bundle", bundle),
    ("mesh-config", mesh_config),
    ("protobuf", protobuf),
    ("patch", patch),
];

/// Documents with spans: every span lies in the text, and every problem has a place.
pub(crate) fn yaml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for document in documents(&text) {
        if let Some(root) = &document.root {
            inside(root, &text);
        }
        if let Some(problem) = document.fatal() {
            assert!(problem.span.line >= 1 && problem.span.column >= 1 && !problem.message.is_empty());
        }
    }
}

fn inside(node: &Node, text: &str) {
    assert!(text.get(node.span.bytes.clone()).is_some(), "{:?} is no part of the text", node.span);
    node.fields().iter().for_each(|field| inside(&field.node, text));
    node.items().iter().for_each(|item| inside(item, text));
}

/// Policies in both profiles: read or refused with a reason; what is read compiles, becomes a table, and is decided as it is explained.
pub(crate) fn policies(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for profile in [Profile::Sidecar, Profile::Ambient] {
        let settings = Settings { profile, ..Settings::default() };
        let mut mesh = Mesh { settings: settings.clone(), workloads: vec![workload()], ..Mesh::default() };
        for Document { value, .. } in documents(&text) {
            let policy = parse::authorization_policy(&value, &settings);
            assert!(policy.value.is_some() || policy.findings.iter().any(Finding::refuses));
            mesh.policies.extend(policy.value.map(Arc::new));
            let peer = parse::peer_authentication(&value, &settings);
            assert!(peer.value.is_some() || peer.findings.iter().any(Finding::refuses));
            mesh.peer_authentications.extend(peer.value.map(Arc::new));
        }
        decide(&mesh);
    }
}

fn workload() -> Workload {
    Workload {
        id: WorkloadId::new("foo", "tcp-echo"),
        labels: [("app".to_owned(), "tcp-echo".to_owned())].into(),
        service_account: "tcp-echo".to_owned(),
        addresses: vec!["10.0.2.9".parse().unwrap()],
        in_mesh: true,
    }
}

fn decide(mesh: &Mesh) {
    let snapshot = policy::compile(mesh, 1, None);
    for Workload { id, addresses, .. } in &mesh.workloads {
        for address in addresses {
            let made = table(&snapshot, id, *address);
            for (peer, port) in [(Peer::Anonymous, 9000), (Peer::verified("spiffe://cluster.local/ns/foo/sa/sleep"), 0)]
            {
                let connection = Connection::new("10.0.1.5".parse().unwrap(), peer, *address, port);
                let (decided, explained) = (snapshot.decide(id, &connection), snapshot.explain(id, &connection));
                assert_eq!(decided.reason, explained.decision.reason);
                assert_eq!(decided.rule, explained.decision.rule);
            }
            if let Ok(table) = made {
                let connection = Connection::new("10.0.1.5".parse().unwrap(), Peer::Anonymous, *address, 9000);
                let permits = snapshot.decide_at_syn(id, &connection).is_permitted();
                let stranger = snapshot.at(connection.source).identity.is_none();
                let accepts = table.verdict(connection.source, 9000) == policy::Verdict::Accept;
                assert!(!stranger || address.is_ipv6() || permits == accepts);
            }
        }
    }
}

/// A corpus: cases and problems, and every case has an answer.
pub(crate) fn corpus(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let corpus = control::corpus::read(&text);
    assert!(!corpus.cases.is_empty() || !corpus.problems.is_empty());
    let lines = text.matches(['\n', '\r']).count() + 1; // YAML ends a line at either
    assert!(corpus.problems.iter().all(|one| one.place.line <= lines && !one.message.is_empty()));
    for case in &corpus.cases {
        for &profile in &case.profiles {
            case.judge(&case.answer(profile));
        }
    }
}

/// Files of any kind of object: every problem has a place in the text, and what is left is a mesh that decides.
pub(crate) fn bundle(bytes: &[u8]) {
    let bundle = read(vec![Text { name: "a.yaml".to_owned(), bytes: bytes.to_vec() }], "default");
    for problem in bundle.problems() {
        let text = &bundle.texts()[problem.place.text].text;
        assert!(text.get(problem.place.span.bytes.clone()).is_some(), "{problem:?}");
    }
    decide(&bundle.mesh(None, None));
}

/// Settings of a mesh.
pub(crate) fn mesh_config(bytes: &[u8]) {
    control::mesh_config::of_text(&String::from_utf8_lossy(bytes));
}

/// Bodies in protobuf, with and without the envelope.
pub(crate) fn protobuf(bytes: &[u8]) {
    let _decoded = api::proto::decode(bytes);
    let _in_envelope = api::proto::decode(&[b"k8s\0", bytes].concat());
}

/// Patches of every type on an object.
pub(crate) fn patch(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let object =
        Object::new(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}))
        .unwrap();
    for Document { value, .. } in documents(&text) {
        for patch_type in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            if let Ok(patched) = apply(patch_type, &object, &value) {
                assert!(matches!(patched.value(), Value::Object(_)));
            }
        }
    }
}
