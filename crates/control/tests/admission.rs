//! What an author is told: every case's refusal and warnings, against `tests/golden/admission.txt`; `UPDATE_EXPECT=1` writes it anew.
#![cfg(test)]

#[path = "golden/fixture.rs"]
mod fixture;

use std::fmt::Write;

use api::admission::{Admission, Admitted, Operation};
use api::{Object, Objects};
use control::admission::Gate;
use control::inject::{Options, is_injected};
use control::translate::Translator;
use serde_json::json;

use fixture::{key, mesh, object, put};

fn admit(gate: &mut Gate, objects: &Objects, old: Option<&Object>, new: &Object) -> Admitted {
    let operation = if old.is_some() { Operation::Update } else { Operation::Create };
    gate.admit(&Admission { operation, key: &key(new), subresource: None, old, new: Some(new), objects })
}

/// An AuthorizationPolicy in namespace `foo` with this `spec`.
fn policy(spec: &str) -> Object {
    object(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: foo}}\nspec: {spec}\n"
    ))
}

fn told(admitted: &Admitted) -> String {
    let mut text = String::new();
    if let Some(status) = &admitted.refusal {
        writeln!(text, "  refused {} {}: {}", status.code(), status.reason(), status.message()).unwrap();
    }
    for warning in &admitted.warnings {
        writeln!(text, "  Warning: {warning}").unwrap();
    }
    if text.is_empty() { "  -\n".to_owned() } else { text }
}

/// Specs of policies in namespace `foo`.
const SPECS: &[&str] = &[
    // The walkthroughs.
    "{selector: {matchLabels: {app: tcp-echo}}, action: ALLOW, rules: [{to: [{operation: {ports: ['9000', '9001']}}]}]}",
    "{selector: {matchLabels: {app: tcp-echo}}, action: ALLOW, rules: [{to: [{operation: {methods: [GET], ports: ['9000']}}]}]}",
    "{selector: {matchLabels: {app: tcp-echo}}, action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['9000']}}]}]}",
    "{action: ALLOW, rules: [{to: [{operation: {ports: ['9000']}}]}]}",
    // Refused.
    "{selector: {matchLabels: {app: tcp-echo}}, action: PERMIT}",
    "{action: DENY}",
    "{rules: [{to: [{operation: {ports: ['70000', http]}}]}]}",
    "{rules: [{to: [{operation: {ports: [9000]}}]}]}",
    "{rules: [{from: [{source: {}}]}]}",
    "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}",
    "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}",
    "{selector: {matchLabels: {app: x}}, targetRefs: [{kind: Service, name: x}]}",
    "{action: CUSTOM, rules: [{}]}",
    // Istio's own warnings.
    "{selector: {}, rules: [{}]}",
    "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
    // References.
    "{selector: {matchLabels: {app: tcp-ecco}}, rules: [{}]}",
    "{selector: {matchLabels: {app: plain}}, rules: [{}]}",
    "{selector: {matchLabels: {app: nothing-of-the-kind}}, rules: [{}]}",
    "{rules: [{from: [{source: {namespaces: [fooo, bar, 'b*', nowhere]}}]}]}",
    "{rules: [{from: [{source: {notNamespaces: [fooo]}}]}]}",
    "{rules: [{when: [{key: source.namespace, notValues: [fooo]}]}]}",
    "{rules: [{from: [{source: {serviceAccounts: [slep, foo/sleep, bar/default, bar/x, other/x]}}]}]}",
    "{rules: [{from: [{source: {principals: [cluster.local/ns/foo/sa/sleep, cluster.local/ns/foo/sa/slip, other.org/ns/q/sa/r, cluster.local/ns/foo/sa/*]}}]}]}",
    "{rules: [{from: [{source: {principals: ['spiffe://cluster.local/ns/foo/sa/sleep']}}]}]}",
    "{rules: [{from: [{source: {principals: ['*/sa/*']}}]}]}",
    "{selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {ports: ['80', '8080', '7777']}}]}]}",
    "{selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]}",
    // Not built yet, and never silently weaker.
    "{action: AUDIT, rules: [{}]}",
    "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
    "{rules: [{when: [{key: connection.sni, values: [a.example]}]}]}",
    "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}], rules: [{}]}",
];

/// Whole objects.
const OBJECTS: &[&str] = &[
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: bar}, spec: {rules: [{}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: bar}, spec: {selector: {matchLabels: {app: plain}}}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: istio-system}, spec: {rules: [{}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: foo, annotations: {istio.io/dry-run: 'true'}}, spec: {rules: [{}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: foo, annotations: {istio.io/dry-run: 'maybe'}}, spec: {rules: [{}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: foo, annotations: {tidegate.io/colour: red, tidegate.io/existing: keep}}, spec: {rules: [{}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: foo, annotations: {tidegate.io/trial-of: q}}, spec: {rules: [{}]}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: foo}, spec: {mtls: {mode: STRICT}}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: foo}, spec: {mtls: {mode: SOMETIMES}}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: foo}, spec: {portLevelMtls: {'80': {mode: STRICT}}}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: foo}, spec: {selector: {matchLabels: {app: wob}}, mtls: {mode: STRICT}}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: istio-system}, spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: foo, annotations: {istio.io/dry-run: 'true'}}, spec: {}}",
    "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: p, namespace: foo}, spec: {}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: p, namespace: foo}, spec: {}}",
    "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: p, namespace: foo, annotations: {istio.io/dry-run: 'true'}}, spec: {}}",
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'trustDomain: a/b'}}",
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'accessLogFile: /dev/stdout'}}",
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: foo}, data: {mesh: 'trustDomain: a/b'}}",
];

#[test]
fn what_authors_are_told() {
    let objects = mesh();
    let mut text = String::new();
    let specs = SPECS.iter().map(|spec| (*spec, policy(spec)));
    for (written, new) in specs.chain(OBJECTS.iter().map(|text| (*text, object(text)))) {
        let admitted = admit(&mut Gate::default(), &objects, None, &new);
        assert!(admitted.object.is_none(), "only pods are changed");
        assert!(admitted.warnings.iter().all(|warning| warning.len() <= 256 && !warning.contains('\n')));
        writeln!(text, "{written}\n{}", told(&admitted)).unwrap();
    }
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/admission.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{} differs; UPDATE_EXPECT=1, then look at the difference", path.display());
}

#[test]
fn strict_turns_mistakes_into_refusals_and_nothing_else() {
    let mut objects = mesh();
    put(
        &mut objects,
        object(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'tidegate: {strict: true}'}}",
        ),
    );
    let mut gate = Gate::default();
    let admitted = admit(&mut gate, &objects, None, &policy("{selector: {matchLabels: {app: tcp-ecco}}, rules: [{}]}"));
    let refusal = admitted.refusal.unwrap();
    assert_eq!(refusal.code(), 422);
    assert!(refusal.message().contains("TG0501") && refusal.message().contains("`strict` is on"), "{refusal}");
    // What Istio itself only warns of stays a warning.
    let admitted = admit(&mut gate, &objects, None, &policy("{selector: {}, rules: [{}]}"));
    assert!(admitted.refusal.is_none() && admitted.warnings[0].starts_with("selector-no-labels"), "{admitted:?}");
    let fine = policy("{selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {ports: ['8080']}}]}]}");
    assert_eq!(told(&admit(&mut gate, &objects, None, &fine)), "  -\n");
}

#[test]
fn settings_are_read_anew_for_every_write() {
    let mut objects = mesh();
    let mut gate = Gate::default();
    let meant = policy("{rules: [{from: [{source: {principals: [example.org/ns/foo/sa/slip]}}]}]}");
    assert_eq!(told(&admit(&mut gate, &objects, None, &meant)), "  -\n", "another trust domain cannot be looked up");
    put(
        &mut objects,
        object(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'trustDomain: example.org'}}",
        ),
    );
    assert!(told(&admit(&mut gate, &objects, None, &meant)).contains("TG0503"));
}

#[test]
fn a_policy_beyond_the_bound_is_refused_with_the_count() {
    let blocks: Vec<String> =
        (0..40_000u32).map(|n| format!("10.{}.{}.{}/32", n >> 15, (n >> 7) & 255, (n & 127) * 2)).collect();
    let mut large = policy("{}");
    large.set(
        "/spec/rules",
        json!([{ "from": [{ "source": { "ipBlocks": blocks } }], "to": [{ "operation": { "ports": ["9000"] } }] }]),
    );
    for objects in [mesh(), Objects::new()] {
        let admitted = admit(&mut Gate::default(), &objects, None, &large);
        let refusal = admitted.refusal.expect("it is too large whether or not there is a pod yet");
        assert_eq!(refusal.code(), 422);
        let count = refusal.message().split_whitespace().find_map(|word| word.parse::<usize>().ok());
        assert!(count.is_some_and(|count| count > 16_384), "{refusal}");
    }
    // One that got in all the same can be labelled, and be made no larger.
    let mut objects = mesh();
    put(&mut objects, large.clone());
    let mut labelled = large.clone();
    labelled.set("/metadata/labels", json!({ "to-do": "shrink" }));
    assert!(admit(&mut Gate::default(), &objects, Some(&large), &labelled).refusal.is_none());
    labelled.set("/spec/rules/0/to/0/operation/ports", json!(["9000", "9001"]));
    assert!(admit(&mut Gate::default(), &objects, Some(&large), &labelled).refusal.is_some());
    // The same policy for gateways, or below the bound, is none of the kernel's business.
    large.set("/spec/targetRefs", json!([{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g" }]));
    assert!(admit(&mut Gate::default(), &mesh(), None, &large).refusal.is_none());
}

#[test]
fn policies_that_are_there_count_towards_the_bound() {
    let rules = |from: u32, to: u32| {
        let blocks: Vec<String> =
            (from..to).map(|n| format!("10.{}.{}.{}/32", n >> 15, (n >> 7) & 255, (n & 127) * 2)).collect();
        json!([{ "from": [{ "source": { "ipBlocks": blocks } }] }])
    };
    let mut objects = mesh();
    let mut first = policy("{}");
    first.set("/metadata/name", "first");
    first.set("/spec/rules", rules(0, 10_000));
    assert!(admit(&mut Gate::default(), &objects, None, &first).refusal.is_none());
    put(&mut objects, first.clone());
    let mut second = policy("{}");
    second.set("/spec/rules", rules(10_000, 20_000));
    assert!(admit(&mut Gate::default(), &Objects::new(), None, &second).refusal.is_none(), "alone it is small enough");
    assert!(admit(&mut Gate::default(), &objects, None, &second).refusal.is_some());
    // A policy takes the place of its earlier self.
    let mut gate = Gate::default();
    first.set("/spec/rules", rules(10_000, 20_000));
    let stored = objects.find("security.istio.io", "authorizationpolicies", Some("foo"), "first").cloned().unwrap();
    assert!(admit(&mut gate, &objects, Some(&stored), &first).refusal.is_none());
}

fn pod(namespace: &str) -> Object {
    object(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: echo-5d8f9-abcde, namespace: {namespace}, labels: {{app: echo, pod-template-hash: 5d8f9}}, \
         ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: echo-5d8f9, uid: u, controller: true}}]}}, \
         spec: {{containers: [{{name: echo, image: x}}]}}}}"
    ))
}

#[test]
fn pods_join_where_their_namespace_says_so() {
    let objects = mesh();
    let mut gate = Gate::new(Translator::default(), Options::default());
    let admitted = admit(&mut gate, &objects, None, &pod("foo"));
    let injected = admitted.object.unwrap();
    assert!(is_injected(injected.value()) && admitted.refusal.is_none() && admitted.warnings.is_empty());
    let owner = |name: &str| {
        let env = injected.items_at("/spec/initContainers/1/env");
        env.iter().find(|entry| entry["name"] == name).map(|entry| entry["value"].as_str().unwrap().to_owned())
    };
    assert_eq!(owner("ISTIO_META_WORKLOAD_NAME").as_deref(), Some("echo"));
    assert_eq!(owner("ISTIO_META_OWNER").as_deref(), Some("kubernetes://apis/apps/v1/namespaces/foo/deployments/echo"));
    let again = admit(&mut gate, &objects, None, &injected);
    assert!(again.object.is_none() && again.refusal.is_none(), "what came injected stays as it is");
    for namespace in ["bar", "kube-system", "nowhere"] {
        let admitted = admit(&mut gate, &objects, None, &pod(namespace));
        assert!(admitted.object.is_none() && admitted.refusal.is_none(), "{namespace}");
    }
    let mut asking = pod("bar");
    asking.set("/metadata/labels/sidecar.istio.io~1inject", "true");
    assert!(is_injected(admit(&mut gate, &objects, None, &asking).object.unwrap().value()));
}

#[test]
fn a_pod_that_cannot_be_injected_is_refused_where_it_would_have_to_be() {
    let objects = mesh();
    let mut imitation = pod("foo");
    imitation.set("/spec/containers/0/name", "istio-proxy");
    let refusal = admit(&mut Gate::default(), &objects, None, &imitation).refusal.unwrap();
    assert_eq!(refusal.code(), 422);
    assert!(refusal.message().contains("istio-proxy"), "{refusal}");
    imitation.set("/metadata/namespace", "bar");
    let admitted = admit(&mut Gate::default(), &objects, None, &imitation);
    assert!(admitted.refusal.is_none() && admitted.object.is_none(), "elsewhere it is a container like any other");
    let mut noted = pod("foo");
    noted.set("/metadata/annotations/traffic.sidecar.istio.io~1excludeInboundPorts", "9000");
    let admitted = admit(&mut Gate::default(), &objects, None, &noted);
    assert!(
        admitted.warnings[0].starts_with("TG0509") && admitted.warnings[0].contains("has no effect"),
        "{admitted:?}"
    );
}

#[test]
fn membership_and_identity_of_a_pod_that_runs_do_not_change() {
    let objects = mesh();
    let mut gate = Gate::default();
    let inside = objects.find("", "pods", Some("foo"), "web-1").unwrap().as_ref().clone();
    let mut left = inside.clone();
    left.remove("/metadata/annotations/sidecar.istio.io~1status");
    let mut other = inside.clone();
    other.set("/spec/serviceAccountName", "sleep");
    let mut named = inside.clone();
    named.set("/spec/serviceAccountName", "default");
    let mut labelled = inside.clone();
    labelled.set("/metadata/labels/app", "other");
    let refused = |gate: &mut Gate, old: &Object, new: &Object| {
        admit(gate, &objects, Some(old), new).refusal.map(|status| status.to_string())
    };
    assert!(refused(&mut gate, &inside, &left).unwrap().contains("sidecar.istio.io/status"));
    assert!(refused(&mut gate, &left, &inside).unwrap().contains("sidecar.istio.io/status"));
    assert!(refused(&mut gate, &inside, &other).unwrap().contains("serviceAccountName"));
    assert_eq!(refused(&mut gate, &inside, &named), None, "the account that was meant may be written out");
    assert_eq!(refused(&mut gate, &inside, &labelled), None);
}

#[test]
fn no_part_of_a_pod_leads_out_of_the_mesh() {
    let objects = mesh();
    let old = objects.find("", "pods", Some("foo"), "web-1").unwrap().as_ref().clone();
    let mut new = old.clone();
    new.set("/spec/ephemeralContainers", json!([{ "name": "istio-proxy", "image": "x" }]));
    assert!(!is_injected(new.value()), "an imitation beside the real one");
    let key = key(&old);
    let part = |new| Admission {
        operation: Operation::Update,
        key: &key,
        subresource: Some("ephemeralcontainers"),
        old: Some(&old),
        new: Some(new),
        objects: &objects,
    };
    assert!(Gate::default().admit(&part(&new)).refusal.is_some());
    let mut debug = new.clone();
    debug.set("/spec/ephemeralContainers/0/name", "debug");
    assert!(Gate::default().admit(&part(&debug)).refusal.is_none());
}

#[test]
fn a_namespace_that_begins_to_inject_tells_of_the_pods_it_has() {
    let objects = mesh();
    let old = objects.find("", "namespaces", None, "bar").unwrap().as_ref().clone();
    let mut new = old.clone();
    new.set("/metadata/labels/istio-injection", "enabled");
    let warnings = admit(&mut Gate::default(), &objects, Some(&old), &new).warnings;
    assert_eq!(
        warnings,
        ["TG0505: 1 pod stays outside the mesh until made anew: `kubectl rollout restart deployment -n bar`"]
    );
    assert_eq!(told(&admit(&mut Gate::default(), &objects, Some(&new), &new)), "  -\n", "it is told once");
    assert_eq!(told(&admit(&mut Gate::default(), &objects, None, &new)), "  -\n");
    assert_eq!(told(&admit(&mut Gate::default(), &objects, Some(&new), &old)), "  -\n");
}

/// The words in brackets at the end of each cause, and those at the start of Istio's own warnings.
fn codes(admitted: &Admitted) -> (Vec<String>, Vec<String>) {
    let causes = admitted.refusal.iter().flat_map(api::Status::causes);
    let errors =
        causes.map(|cause| cause.message.rsplit_once(" (").unwrap().1.trim_end_matches(')').to_owned()).collect();
    let words =
        admitted.warnings.iter().filter_map(|warning| warning.split_once(": ")).map(|(code, _)| code.to_owned());
    (errors, words.filter(|code| !code.starts_with("TG")).collect())
}

#[test]
fn every_validation_case_of_the_corpus_is_answered_alike() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/cases/validation.yaml");
    let corpus = api::yaml::documents(&std::fs::read_to_string(path).unwrap()).remove(0).value;
    let cases = corpus["cases"].as_array().unwrap();
    assert!(cases.len() >= 27);
    for case in cases {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        for document in api::yaml::documents(case["policies"].as_str().unwrap()) {
            let new = Object::new(document.value).unwrap();
            let (more_errors, more_warnings) = codes(&admit(&mut Gate::default(), &mesh(), None, &new));
            errors.extend(more_errors);
            warnings.extend(more_warnings);
        }
        for (found, expected) in [(errors, &case["expect"]["errors"]), (warnings, &case["expect"]["warnings"])] {
            let found: std::collections::BTreeSet<String> = found.into_iter().collect();
            let expected =
                expected.as_array().into_iter().flatten().map(|code| code.as_str().unwrap().to_owned()).collect();
            assert_eq!(found, expected, "{}: {}", case["id"], case["title"]);
        }
    }
}

#[test]
fn parts_and_deletions_pass() {
    let objects = mesh();
    let bad = policy("{action: DENY}");
    let mut gate = Gate::default();
    let (key, new) = (key(&bad), Some(&bad));
    let status = Admission {
        operation: Operation::Update,
        key: &key,
        subresource: Some("status"),
        old: new,
        new,
        objects: &objects,
    };
    let gone = Admission {
        operation: Operation::Delete,
        key: &key,
        subresource: None,
        old: new,
        new: None,
        objects: &objects,
    };
    for request in [status, gone] {
        let admitted = gate.admit(&request);
        assert!(admitted.refusal.is_none() && admitted.warnings.is_empty() && admitted.object.is_none());
    }
}

#[test]
fn many_warnings_are_counted_and_long_ones_cut() {
    let objects = mesh();
    let names: Vec<String> = (0..40).map(|n| format!("nowhere-{n}-{}", "ä".repeat(150))).collect();
    let mut many = policy("{}");
    many.set("/spec/rules", json!([{ "from": [{ "source": { "namespaces": names } }] }]));
    let warnings = admit(&mut Gate::default(), &objects, None, &many).warnings;
    assert_eq!(warnings.len(), 16);
    assert!(warnings[15].starts_with("and ") && warnings[15].ends_with(" more"), "{}", warnings[15]);
    assert!(warnings[0].len() <= 256 && warnings[0].ends_with("..."), "{}", warnings[0]);
}
