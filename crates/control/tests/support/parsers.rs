//! Every parser of texts and bodies that others wrote, each with what must hold of any input. Run over mutated seeds by
//! `tests/mutated.rs`, and by libFuzzer (`fuzz/`). That nothing panics is the first of it.

#[path = "seeds.rs"]
mod seeds;

use std::sync::{Arc, LazyLock};

use api::object::Object;
use api::patch::{PatchType, apply};
use api::selector::{FieldSelector, LabelSelector};
use api::yaml::{Document, Node, documents, joined, parts};
use api::{Kind, Kinds, quantity};
use control::analyze::{Diagnostic, Options, analyze, fixed};
use control::bundle::{Bundle, Text, read};
use control::{inject, names, suite};
use policy::ask::Asker;
use policy::finding::Finding;
use policy::table::table;
use policy::{Connection, Mesh, Peer, Profile, Settings, Workload, WorkloadId, parse};
use serde_json::{Value, json};

pub(crate) use seeds::seeds;

/// Name, what reads bytes and asserts what must hold of any, and seeds.
pub(crate) type Parser = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub(crate) const PARSERS: &[Parser] = &[
    ("yaml", yaml, seeds),
    ("policy", policies, seeds),
    ("corpus", corpus, seeds),
    ("bundle", bundle, seeds),
    ("mesh-config", mesh_config, seeds::mesh_configs),
    ("protobuf", protobuf, seeds::bodies),
    ("patch", patch, seeds::patches),
    ("analyze", analysis, seeds::manifests),
    ("inject", injection, seeds::manifests),
    ("policy-test", policy_test, seeds::suites),
    ("selector", selector, seeds::selectors),
    ("quantity", quantities, seeds::quantities),
    ("workload-name", workload_name, seeds::workload_names),
    ("crd", definition, seeds::definitions),
];

/// Documents with spans: every span lies in the text, and every problem has a place. Parts read apart say the same, or nothing.
pub(crate) fn yaml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let all = documents(&text);
    if let Some(apart) = joined(&text, parts(&text, 1).iter().map(|part| part.read(&text)).collect()) {
        assert_eq!(format!("{apart:?}"), format!("{all:?}"));
    }
    for document in all {
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

/// Manifests as `analyze` looks at them: whatever is said has its place, and what is mended still reads.
pub(crate) fn analysis(bytes: &[u8]) {
    let look = |bytes: &[u8]| {
        let bundle = read(vec![Text { name: "a.yaml".to_owned(), bytes: bytes.to_vec() }], "default");
        let report = analyze(&bundle, &Options::default());
        (bundle, report)
    };
    let (bundle, report) = look(bytes);
    let text = bundle.texts()[0].text.as_str();
    for one in report.diagnostics.iter().flat_map(Diagnostic::each) {
        assert!(!one.message.is_empty());
        assert!(one.labels.iter().all(|label| text.get(label.bytes.clone()).is_some()), "{one:?}");
        let edits = one.fix.iter().flat_map(|fix| &fix.edits);
        assert!(edits.into_iter().all(|edit| text.get(edit.bytes.clone()).is_some()), "{one:?}");
    }
    if let Some(mended) = fixed(text, 0, &report.diagnostics) {
        let (after, _) = look(mended.as_bytes());
        assert!(after.problems().len() <= bundle.problems().len(), "mended to {mended}");
    }
}

/// Manifests that are injected: what comes out reads, and a second time changes nothing.
pub(crate) fn injection(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(once) = inject::inject_manifest(&text, &inject::Options::default()) {
        let twice = inject::inject_manifest(&once.text, &inject::Options::default());
        assert_eq!(twice.map(|twice| twice.text).as_ref(), Ok(&once.text));
    }
}

/// Two pods, a Deployment, its Service and a policy.
static SMALL: LazyLock<(Bundle, Asker)> = LazyLock::new(|| {
    let bytes = seeds::SMALL_MESH.as_bytes().to_vec();
    let bundle = read(vec![Text { name: "a.yaml".to_owned(), bytes }], "foo");
    let asker = Asker::new(bundle.mesh(None, None));
    (bundle, asker)
});

/// Tests of policies: problems have a place, and whatever was read has an answer.
pub(crate) fn policy_test(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let suites = suite::read(&text);
    for problem in &suites.problems {
        assert!(text.get(problem.span.bytes.clone()).is_some() && !problem.message.is_empty(), "{problem:?}");
    }
    let (bundle, asker) = &*SMALL;
    for item in suites.suites.iter().flat_map(|suite| &suite.items) {
        suite::judge(item, suite::World { asker, objects: bundle.objects(), namespace: "foo" });
    }
}

/// Selectors of the query of a list: read or refused with a reason that names them.
pub(crate) fn selector(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pods = SMALL.0.objects().list("", "pods");
    let kinds = Kinds::builtin();
    let kind = kinds.by_resource("", "pods").unwrap();
    match LabelSelector::parse(&text) {
        Ok(selector) => assert!(pods.filter(|pod| selector.matches(pod)).count() <= 3),
        Err(status) => assert!(status.code() == 400 && status.message().contains(text.as_ref()), "{status}"),
    }
    match FieldSelector::parse(&text, kind) {
        Ok(selector) => SMALL.0.objects().list("", "pods").for_each(|pod| {
            assert!(!selector.matches(pod) || selector.name().is_none_or(|name| name == pod.name()));
        }),
        Err(status) => assert!(status.code() == 400 && status.message().contains(text.as_ref()), "{status}"),
    }
}

/// Quantities: what is read is so with a sign as well, and shares of a total are no more than it, but for what is rounded up.
pub(crate) fn quantities(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(thousandths) = quantity::parse(&text)
        && !text.starts_with(['-', '+'])
    {
        assert_eq!(quantity::parse(&format!("-{text}")), Some(-thousandths));
        assert_eq!(quantity::parse(&format!("+{text}")), Some(thousandths));
        assert!(thousandths >= 0);
    }
    let of = |total| [true, false].map(|up| quantity::of_total(&Value::from(text.as_ref()), total, up));
    if let [Some(up), Some(down)] = of(7) {
        assert!(up == down || up == down + 1);
    }
}

/// Names of workloads: one at least, or a sentence.
pub(crate) fn workload_name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match names::workloads(&text, "foo", SMALL.0.objects()) {
        Ok(found) => assert!(!found.is_empty()),
        Err(why) => assert!(!why.is_empty()),
    }
}

/// Definitions of kinds: refused with causes, or a schema that any object passes through: what was pruned once is not pruned again.
pub(crate) fn definition(bytes: &[u8]) {
    for Document { value, .. } in documents(&String::from_utf8_lossy(bytes)) {
        let Some(kind) = Object::new(value).ok().and_then(|object| Kind::from_crd(&object).ok()) else { continue };
        let api_version = kind.api_version(kind.storage());
        let object = json!({"apiVersion": api_version, "kind": kind.kind, "metadata": {"name": "a", "namespace": "foo"},
            "spec": {"size": 3, "color": "red", "sizes": [1, "2", null], "nested": {"a": {"b": []}}, "port": "http"}, "status": []});
        for version in &kind.versions {
            let Some(schema) = &version.schema else { continue };
            let mut object = object.clone();
            schema.prune(&mut object);
            assert!(schema.prune(&mut object).is_empty());
            schema.default(&mut object);
            let defaulted = object.clone();
            schema.default(&mut object);
            assert_eq!(object, defaulted);
            let causes = schema.validate(&object);
            assert!(causes.len() <= api::schema::FINDINGS_MAX + 8, "{}", causes.len());
            let object = Object::new(object).unwrap();
            api::table::table(
                &kind,
                &version.name,
                [&object],
                1,
                jiff::Timestamp::UNIX_EPOCH,
                api::table::Include::Nothing,
                true,
            );
        }
    }
}
