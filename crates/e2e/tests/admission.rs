//! What kubectl is told of policies by a running mesh, and what the core says of the same: they are the same.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use control::bundle::{self, Text};
use control::corpus;
use control::finding::table;
use e2e::mesh::{Mesh, kubectls, told};
use e2e::workspace_root;
use e2e::world::{World, security};
use serde_json::Value;

/// A validation case: what is applied, and what the core says of it.
struct Case {
    id: String,
    policies: String,
    errors: BTreeSet<String>,
    warnings: BTreeSet<String>,
}

/// The words of an API server for what a schema refuses.
const BY_SCHEMA: [(&str, &[&str]); 5] = [
    ("schema-type", &["must be of type", "cannot unmarshal", "expected list"]),
    ("schema-enum", &["Unsupported value"]),
    ("schema-unknown-field", &["unknown field"]),
    ("schema-required", &["Required value"]),
    ("schema-max-items", &["Too many", "Too long", "should have at most"]),
];
/// What the corpora hold at least.
const CASES_MIN: usize = 50;

fn words(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

/// What the documents of a text say.
fn values(text: &str) -> Vec<Value> {
    let bytes = text.as_bytes().to_vec();
    let bundle = bundle::read(vec![Text { name: String::new(), bytes }], "default");
    bundle.texts()[0].documents.iter().map(|document| document.value.clone()).collect()
}

/// The validation cases of both corpora.
fn cases() -> Vec<Case> {
    let mut found = Vec::new();
    let root = workspace_root().join("crates/control/tests/conformance");
    for folder in ["cases", "own"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let documents = values(&text);
            let written = documents[0]["cases"].as_array().into_iter().flatten();
            for (case, written) in corpus::read(&text).cases.iter().zip(written) {
                assert_eq!(written["id"], case.id.as_str());
                let answer = case.answer(case.profiles[0]).value;
                if answer["kind"] == "validation" {
                    let policies = written["policies"].as_str().unwrap().to_owned();
                    let (errors, warnings) = (words(&answer["errors"]), words(&answer["warnings"]));
                    found.push(Case { id: case.id.clone(), policies, errors, warnings });
                }
            }
        }
    }
    found
}

/// The core's words in what kubectl printed: refusals bear them in brackets, Istio's warnings at their beginning.
fn said(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let all = |is: &dyn Fn(&str) -> bool| -> BTreeSet<String> {
        table().map(|entry| entry.word).filter(|word| !word.starts_with("TG") && is(word)).map(str::to_owned).collect()
    };
    let mut errors = all(&|word| text.contains(&format!("({word})")));
    let by_schema = BY_SCHEMA.iter().filter(|(_, words)| words.iter().any(|word| text.contains(word)));
    errors.extend(by_schema.map(|(code, _)| (*code).to_owned()));
    (errors, all(&|word| text.contains(&format!("Warning: {word}:"))))
}

#[test]
fn kubectl_is_told_of_every_validation_case_what_the_core_says() {
    let (mesh, cases) = (Mesh::up(), cases());
    assert!(cases.len() >= CASES_MIN, "{}", cases.len());
    let mut namespaces = BTreeSet::new();
    let mut script = "eval \"$(tidegate env)\"\n".to_owned();
    for (number, case) in cases.iter().enumerate() {
        fs::write(mesh.work_dir().join(format!("{number}.yaml")), &case.policies).unwrap();
        let namespace = |value: &Value| Some(value.pointer("/metadata/namespace")?.as_str()?.to_owned());
        namespaces.extend(values(&case.policies).iter().filter_map(namespace));
    }
    for namespace in &namespaces {
        writeln!(
            script,
            "kubectl get namespace {namespace} >/dev/null 2>&1 || kubectl create namespace {namespace} >/dev/null"
        )
        .unwrap();
    }
    for number in 0..cases.len() {
        // An unchanged object is not sent again, and so would be told nothing.
        writeln!(
            script,
            "echo '=== {number}'; kubectl apply -f {number}.yaml 2>&1; \
             kubectl delete authorizationpolicies,peerauthentications --all -A >/dev/null 2>&1"
        )
        .unwrap();
    }
    let kubectl = kubectls().into_iter().find(|kubectl| kubectl.version == "1.37").unwrap();
    let output = mesh.bash(&kubectl, &script);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let parts: Vec<&str> = text.split("=== ").skip(1).collect();
    assert_eq!(parts.len(), cases.len(), "{}", told(&output));
    for (case, text) in cases.iter().zip(parts) {
        let (errors, warnings) = said(text);
        assert_eq!((&errors, &warnings), (&case.errors, &case.warnings), "{}:\n{text}\n{}", case.id, case.policies);
    }
}

#[test]
fn own_warnings_are_told_and_are_refusals_where_the_mesh_is_strict() {
    let world = World::new();
    let typo = "{selector: {matchLabels: {app: servr}}, rules: [{to: [{operation: {ports: ['9000']}}]}]}";
    let warned = world.policy("foo/typo", typo);
    assert!(warned.contains("Warning: TG0501: spec.selector"), "{warned}");
    assert_eq!(world.condition("authorizationpolicy", "foo/typo", "Accepted"), "True Accepted");
    let live = world.run("tidegate analyze live -o github");
    let text = String::from_utf8_lossy(&live.stdout).into_owned();
    assert_eq!(live.status.code(), Some(79), "{}", told(&live));
    assert!(text.contains("title=TG0501::`app=servr` selects no pod in namespace foo"), "{text}");
    world.forget("foo/typo");
    world.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'tidegate: {strict: true}'}}",
    );
    let refused = world.refused(&security("AuthorizationPolicy", "foo/typo", typo));
    for word in ["TG0501", "spec.selector", "`strict` is on", "app=server"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    // What is no mistake passes, and Istio's own warnings stay warnings.
    let fine = "{selector: {matchLabels: {app: server}}, rules: [{to: [{operation: {ports: ['9000']}}]}]}";
    assert_eq!(world.policy("foo/fine", fine), "");
    assert!(world.policy("foo/all", "{selector: {}, rules: [{}]}").contains("Warning: selector-no-labels:"));
}
