use serde_json::{Value, json};

use super::{authorization_policy, dry_run_on_other_kind, peer_authentication};
use crate::finding::{Code, Finding, Severity};
use crate::mesh::{Profile, Settings};

fn policy(spec: &Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "foo"}, "spec": spec})
}

fn words(findings: &[Finding], wanted: impl Fn(Severity) -> bool) -> Vec<&'static str> {
    let mut words: Vec<_> =
        findings.iter().filter(|one| wanted(one.code.severity())).map(|one| one.code.word()).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// Codes of refusals and of Istio's warnings.
fn admission(document: &Value) -> Vec<&'static str> {
    words(&authorization_policy(document, &Settings::default()).findings, |severity| severity != Severity::Advice)
}

fn advice(document: &Value, profile: Profile) -> Vec<&'static str> {
    let settings = Settings { profile, ..Settings::default() };
    words(&authorization_policy(document, &settings).findings, |severity| severity == Severity::Advice)
}

fn allow(rule: &Value) -> Value {
    policy(&json!({"action": "ALLOW", "rules": [rule]}))
}

fn source(source: &Value) -> Value {
    allow(&json!({"from": [{"source": source}]}))
}

fn operation(operation: &Value) -> Value {
    allow(&json!({"to": [{"operation": operation}]}))
}

fn condition(condition: &Value) -> Value {
    allow(&json!({"when": [condition]}))
}

#[test]
fn s_5_to_s_8_schema() {
    let many = |count: usize| (0..count).map(|_| json!({})).collect::<Vec<_>>();
    for (document, codes) in [
        (json!([]), &["schema-type"][..]),
        (policy(&json!([])), &["schema-type"]),
        (policy(&json!({"action": 1})), &["schema-type"]),
        (policy(&json!({"action": "allow"})), &["schema-enum"]),
        (policy(&json!({"extra": 1})), &["schema-unknown-field"]),
        (policy(&json!({"rules": {}})), &["schema-type"]),
        (policy(&json!({"rules": [null]})), &["schema-type"]),
        (policy(&json!({"rules": many(512)})), &[]),
        (policy(&json!({"rules": many(513)})), &["schema-max-items"]),
        (source(&json!({"principal": ["x"]})), &["schema-unknown-field"]),
        (operation(&json!({"ports": [9000]})), &["schema-type"]),
        (operation(&json!({"ports": "9000"})), &["schema-type"]),
        (allow(&json!({"from": many(513)})), &["schema-max-items"]),
        (condition(&json!({"values": ["x"]})), &["schema-required"]),
        // A schema refusal hides what admission would say.
        (operation(&json!({"ports": [9000, "x"]})), &["schema-type"]),
        (policy(&json!({"selector": {}, "targetRefs": [{"kind": "Service", "name": "a"}]})), &["selector-exclusive"]),
        (policy(&json!({"selector": {}, "targetRef": {"kind": "Service", "name": "a"}})), &["selector-exclusive"]),
        (policy(&json!({"selector": {"matchLabels": {"": "x"}}})), &["selector-empty-key"]),
        (policy(&json!({"selector": {"matchLabels": {"a": "x*"}}})), &["selector-wildcard"]),
        (policy(&json!({"selector": {"matchLabels": {"a*": "x"}}})), &["selector-wildcard"]),
        (policy(&json!({"selector": {"matchLabels": {"a": "x".repeat(64)}}})), &["schema-max-items"]),
        (policy(&json!({"targetRefs": [{"kind": "Pod", "name": "a"}]})), &["target-ref-kind"]),
        (policy(&json!({"targetRefs": [{"kind": "Service", "group": "core", "name": "a"}]})), &[]),
        (
            policy(&json!({"targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": ""}]})),
            &["target-ref-name"],
        ),
        (
            policy(&json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "b"}]})),
            &["target-ref-namespace"],
        ),
        (policy(&json!({"targetRefs": [{"kind": "Service"}]})), &["schema-required"]),
        (source(&json!({"serviceAccounts": ["a"], "principals": []})), &["sa-exclusive"]),
        (source(&json!({"notServiceAccounts": ["a"], "namespaces": ["b"]})), &["sa-exclusive"]),
    ] {
        assert_eq!(admission(&document), codes, "{document}");
    }
}

#[test]
fn s_9_to_s_17_admission() {
    for (document, codes) in [
        (policy(&json!({"action": "DENY"})), &["rules-required"][..]),
        (policy(&json!({"action": "DENY", "rules": []})), &["rules-required"]),
        (policy(&json!({"action": "AUDIT"})), &[]),
        (policy(&json!({})), &[]),
        (policy(&Value::Null), &[]),
        (policy(&json!({"action": "CUSTOM", "provider": {"name": "x"}})), &["rules-required"]),
        (policy(&json!({"action": "CUSTOM", "provider": {"name": ""}, "rules": [{}]})), &["provider-required"]),
        (policy(&json!({"action": "AUDIT", "provider": {"name": "x"}})), &["provider-forbidden"]),
        (
            policy(
                &json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{"from": [{"source": {"notNamespaces": ["a"]}}]}]}),
            ),
            &["custom-unsupported-field"],
        ),
        (
            policy(
                &json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{"when": [{"key": "request.auth.claims[a]", "values": ["a"]}]}]}),
            ),
            &["custom-unsupported-field"],
        ),
        (
            policy(
                &json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{"when": [{"key": "request.headers[a]", "values": ["a"]}]}]}),
            ),
            &[],
        ),
        (allow(&json!({"from": [{}]})), &["from-source-nil"]),
        (allow(&json!({"from": [{"source": null}]})), &["from-source-nil"]),
        (source(&json!({"principals": []})), &["from-source-empty"]),
        (operation(&json!({"ports": []})), &["to-operation-empty"]),
        (source(&json!({"namespaces": ["a", ""]})), &["empty-value"]),
        (condition(&json!({"key": "source.ip", "values": ["", "x"]})), &["empty-value"]),
        (operation(&json!({"ports": ["09000"], "notPorts": ["-1"]})), &["bad-port"]),
        (source(&json!({"notRemoteIpBlocks": ["fe80::1%eth0/64"], "ipBlocks": ["fe80::1%eth0"]})), &["bad-cidr"]),
        (source(&json!({"ipBlocks": ["example.org"]})), &["bad-ip"]),
        (source(&json!({"serviceAccounts": ["a/b/c"]})), &["sa-format"]),
        (source(&json!({"serviceAccounts": ["/b"]})), &["sa-format"]),
        (source(&json!({"serviceAccounts": ["b*"]})), &["sa-wildcard"]),
        (source(&json!({"serviceAccounts": vec!["a"; 17]})), &["sa-too-many"]),
        (source(&json!({"trustDomains": ["a/b"]})), &["td-slash"]),
        (source(&json!({"trustDomains": ["a*", "*a", "*"]})), &[]),
        (condition(&json!({"key": "source.trustDomain", "values": ["a/b"]})), &[]),
        (condition(&json!({"key": "source.trustDomain", "values": ["a*b"]})), &["bad-wildcard"]),
        (condition(&json!({"key": "", "values": ["x"]})), &["key-empty"]),
        (condition(&json!({"key": "source.ip", "values": []})), &["values-missing"]),
        (condition(&json!({"key": "source.unheard", "values": ["x"]})), &["unknown-attribute"]),
        (condition(&json!({"key": "destination.labels[a]", "values": ["x"]})), &["replaced-attribute"]),
        (condition(&json!({"key": "destination.user", "values": ["x"]})), &["deprecated-attribute"]),
        (condition(&json!({"key": "request.headers", "values": ["x"]})), &["bad-key-format"]),
        (condition(&json!({"key": "source.serviceAccount", "notValues": ["a/*"]})), &["sa-wildcard"]),
        (condition(&json!({"key": "destination.port", "notValues": ["1-2"]})), &["bad-port"]),
    ] {
        assert_eq!(admission(&document), codes, "{document}");
    }
}

#[test]
fn s_18_dry_run() {
    for (action, value, codes, trial) in [
        ("ALLOW", json!("true"), &[][..], true),
        ("DENY", json!("T"), &[], true),
        ("ALLOW", json!("0"), &[], false),
        ("ALLOW", json!("tRUE"), &["dry-run-value"], false),
        ("ALLOW", json!("yes"), &["dry-run-value"], false),
        ("AUDIT", json!("false"), &["dry-run-action"], false),
        ("AUDIT", json!("yes"), &["dry-run-action"], false),
    ] {
        // The empty source would be refused too, if that check were reached.
        let mut document = policy(
            &json!({"action": action, "rules": [{"from": [{"source": if codes.is_empty() { json!({"namespaces": ["a"]}) } else { json!({}) }}]}]}),
        );
        document["metadata"]["annotations"] = json!({"istio.io/dry-run": value});
        assert_eq!(admission(&document), codes, "{document}");
        assert_eq!(authorization_policy(&document, &Settings::default()).value.unwrap().trial, trial, "{document}");
    }
    let service = json!({"kind": "Service", "metadata": {"annotations": {"istio.io/dry-run": "true"}}});
    assert_eq!(dry_run_on_other_kind(&service).unwrap().code, Code::DryRunUnsupportedKind);
    assert_eq!(dry_run_on_other_kind(&json!({"metadata": {}})), None);
}

#[test]
fn s_20_s_21_warnings() {
    let deny = |rule: Value| policy(&json!({"action": "DENY", "rules": [rule]}));
    for (document, codes) in [
        (policy(&json!({"selector": {}})), &["selector-no-labels"][..]),
        (policy(&json!({"selector": {"matchLabels": {}}})), &["selector-no-labels"]),
        (deny(json!({"from": [{"source": {"requestPrincipals": ["*"]}}]})), &["deny-http-only"]),
        (deny(json!({"from": [{"source": {"requestPrincipals": ["*"], "notIpBlocks": ["10.0.0.1"]}}]})), &[]),
        (deny(json!({"from": [{"source": {"trustDomains": ["a"]}}]})), &["deny-http-only"]),
        (deny(json!({"to": [{"operation": {"methods": ["GET"]}}, {"operation": {"notPorts": ["1"]}}]})), &[]),
        (
            deny(json!({"from": [{"source": {"namespaces": ["a"]}}], "to": [{"operation": {"paths": ["/x"]}}]})),
            &["deny-http-only"],
        ),
        (deny(json!({"when": [{"key": "request.headers[x]", "values": ["a"]}]})), &[]),
        (deny(json!({})), &[]),
        (allow(&json!({"to": [{"operation": {"methods": ["GET"]}}]})), &[]),
    ] {
        assert_eq!(admission(&document), codes, "{document}");
    }
}

#[test]
fn s_23_peer_authentication() {
    let peer = |spec: Value| json!({"kind": "PeerAuthentication", "metadata": {"name": "p", "namespace": "foo"}, "spec": spec});
    let selector = json!({"matchLabels": {"a": "b"}});
    for (spec, codes) in [
        (json!({}), &[][..]),
        (json!({"mtls": {"mode": "STRICT"}}), &[]),
        (json!({"mtls": {"mode": "strict"}}), &["schema-enum"]),
        (json!({"mtls": "STRICT"}), &["schema-type"]),
        (json!({"selector": {}}), &["selector-no-labels"]),
        (json!({"portLevelMtls": {"80": {"mode": "DISABLE"}}}), &["port-level-needs-selector"]),
        (json!({"selector": selector, "portLevelMtls": {}}), &["port-level-empty"]),
        (json!({"selector": selector, "portLevelMtls": {"0": {"mode": "DISABLE"}}}), &["port-level-range"]),
        (json!({"selector": selector, "portLevelMtls": {"65536": {"mode": "DISABLE"}}}), &["port-level-range"]),
        (json!({"selector": selector, "portLevelMtls": {"65535": {"mode": "DISABLE"}}}), &[]),
        (json!({"selector": selector, "rules": []}), &["schema-unknown-field"]),
    ] {
        let document = peer(spec);
        let found = peer_authentication(&document, &Settings::default()).findings;
        assert_eq!(words(&found, |severity| severity != Severity::Advice), codes, "{document}");
    }
    let mut root = peer(json!({"selector": selector}));
    root["metadata"]["namespace"] = "istio-system".into();
    let found = peer_authentication(&root, &Settings::default()).findings;
    assert_eq!(words(&found, |_| true), ["TG0401"]);
    let mut trial = peer(json!({"mtls": {"mode": "STRICT"}}));
    trial["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    let found = peer_authentication(&trial, &Settings::default()).findings;
    assert_eq!(words(&found, |_| true), ["dry-run-unsupported-kind"]);
}

#[test]
fn s_102_s_103_advice() {
    let deny = |rule: Value| policy(&json!({"action": "DENY", "rules": [rule]}));
    let (sidecar, ambient) = (Profile::Sidecar, Profile::Ambient);
    for (document, profile, codes) in [
        (allow(&json!({})), sidecar, &[][..]),
        (policy(&json!({})), sidecar, &[]),
        (operation(&json!({"ports": ["1"], "methods": ["GET"]})), sidecar, &["TG0101", "TG0107"]),
        (policy(&json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}, {}]})), sidecar, &["TG0101"]),
        (deny(json!({"to": [{"operation": {"ports": ["1"], "methods": ["GET"]}}]})), sidecar, &["TG0102"]),
        (deny(json!({"to": [{"operation": {"methods": ["GET"]}}]})), sidecar, &["TG0102", "TG0104", "TG0105"]),
        (deny(json!({"to": [{"operation": {"methods": ["GET"]}}]})), ambient, &["TG0103", "TG0105"]),
        (deny(json!({})), sidecar, &["TG0104"]),
        (source(&json!({"trustDomains": ["a"], "namespaces": ["b"]})), ambient, &["TG0102", "TG0106"]),
        (source(&json!({"principals": ["spiffe://a/ns/b/sa/c"]})), sidecar, &["TG0201"]),
        (source(&json!({"notPrincipals": ["a*b"]})), sidecar, &["TG0202"]),
        (source(&json!({"principals": ["*a", "a*", "*"]})), sidecar, &[]),
        (source(&json!({"namespaces": ["a*b"]})), sidecar, &[]),
        (source(&json!({"namespaces": ["a*b"]})), ambient, &["TG0202"]),
        (source(&json!({"ipBlocks": ["fe80::1%eth0"]})), sidecar, &["TG0203"]),
        (source(&json!({"ipBlocks": ["::ffff:10.0.0.0/104"]})), sidecar, &["TG0203"]),
        (policy(&json!({"targetRefs": [{"kind": "Service", "name": "a"}], "rules": [{}]})), sidecar, &["TG0301"]),
        (policy(&json!({"action": "AUDIT", "rules": [{}]})), sidecar, &["TG0303"]),
        (policy(&json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]})), sidecar, &["TG0304"]),
        (policy(&json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]})), ambient, &["TG0305"]),
        (condition(&json!({"key": "connection.sni", "values": ["a"]})), sidecar, &["TG0105", "TG0304"]),
        (policy(&json!({"selector": {}})), ambient, &["TG0306"]),
    ] {
        assert_eq!(advice(&document, profile), codes, "{document} {profile:?}");
    }
    let mut trial = allow(&json!({}));
    trial["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    assert_eq!(advice(&trial, sidecar), ["TG0302"]);
}

#[test]
fn findings_point_to_their_field() {
    let document = policy(
        &json!({"action": "DENY", "rules": [{}, {"from": [{"source": {"notPrincipals": ["x", "spiffe://a"]}}], "to": [{"operation": {"ports": ["1"]}}]}]}),
    );
    let found = authorization_policy(&document, &Settings::default()).findings;
    let at = found.iter().find(|one| one.code == Code::PrincipalScheme).unwrap();
    assert_eq!(at.path.to_string(), "spec.rules[1].from[0].source.notPrincipals[1]");
    assert_eq!(document.pointer(&at.path.pointer()).unwrap(), "spiffe://a");
    assert!(found.iter().all(|one| one.message.len() <= 200 && !one.message.ends_with('.')), "{found:?}");
}

#[test]
fn trouble_never_panics_and_never_widens() {
    // Odd shapes at every place of a policy.
    let odd = [
        json!(null),
        json!(1),
        json!("x"),
        json!([]),
        json!({}),
        json!([null]),
        json!([1]),
        json!([[]]),
        json!([{}]),
        json!({"x": 1}),
    ];
    let places = [
        "/spec",
        "/spec/rules",
        "/spec/rules/0",
        "/spec/rules/0/from",
        "/spec/rules/0/from/0",
        "/spec/rules/0/from/0/source",
        "/spec/rules/0/from/0/source/namespaces",
        "/spec/rules/0/to",
        "/spec/rules/0/to/0/operation/ports",
        "/spec/rules/0/when",
        "/spec/rules/0/when/0",
        "/spec/rules/0/when/0/key",
        "/spec/rules/0/when/0/values",
        "/spec/selector",
        "/spec/selector/matchLabels",
        "/spec/action",
        "/metadata",
    ];
    let whole = policy(&json!({
        "selector": {"matchLabels": {"a": "b"}}, "action": "ALLOW",
        "rules": [{"from": [{"source": {"namespaces": ["a"]}}], "to": [{"operation": {"ports": ["1"]}}], "when": [{"key": "source.ip", "values": ["10.0.0.1"]}]}],
    }));
    for place in places {
        for value in &odd {
            let mut document = whole.clone();
            *document.pointer_mut(place).unwrap() = value.clone();
            for profile in [Profile::Sidecar, Profile::Ambient] {
                let parsed = authorization_policy(&document, &Settings { profile, ..Settings::default() });
                assert!(parsed.value.is_some() || !parsed.findings.is_empty(), "{document}");
            }
        }
    }
}
