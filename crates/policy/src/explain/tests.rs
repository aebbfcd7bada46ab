use std::sync::Arc;

use serde_json::{Value, json};

use super::{Explanation, Lack};
use crate::compile::{Effect, compile};
use crate::decide::{Connection, StageName};
use crate::identity::{Peer, SpiffeId};
use crate::mesh::{Mesh, Settings, Workload, WorkloadId};
use crate::parse::authorization_policy;
use crate::record::{Close, End, Record};

fn explain(rules: &Value, peer: Peer, port: u16) -> Explanation {
    let settings = Settings::default();
    let id = WorkloadId::new("foo", "tcp-echo");
    let document = json!({"metadata": {"name": "tcp-policy", "namespace": "foo"}, "spec": {"rules": rules}});
    let workload = Workload {
        id: id.clone(),
        labels: [].into(),
        service_account: "tcp-echo".to_owned(),
        addresses: vec!["10.0.0.9".parse().unwrap()],
        in_mesh: true,
    };
    let policies = vec![Arc::new(authorization_policy(&document, &settings).admitted().unwrap())];
    let snapshot = compile(&Mesh { settings, workloads: vec![workload], policies, ..Mesh::default() }, 3, None);
    snapshot.explain(&id, &Connection::new("10.0.0.5".parse().unwrap(), peer, "10.0.0.9".parse().unwrap(), port))
}

fn sleep() -> Peer {
    Peer::Attested(SpiffeId::new("cluster.local", "foo", "sleep").unwrap())
}

#[test]
fn reasons_in_words() {
    let ports = json!([{"to": [{"operation": {"ports": ["9000", "9001"]}}]}]);
    let both = json!([
        {"from": [{"source": {"namespaces": ["bar"]}}, {"source": {"principals": ["*/sa/web"], "namespaces": ["foo"]}}], "to": [{"operation": {"ports": ["9000"]}}]},
        {"to": [{"operation": {"ports": ["9009"], "notPorts": ["1", "2"]}}], "when": [{"key": "source.ip", "notValues": ["10.0.0.0/8"]}]},
    ]);
    let void = json!([{"to": [{"operation": {"ports": ["9000"], "methods": ["GET"]}}]}]);
    for (rules, peer, port, because) in [
        (&ports, sleep(), 9000, "foo/tcp-policy rule 0 allows it"),
        (
            &ports,
            sleep(),
            9002,
            "no ALLOW policy matches; nearest: foo/tcp-policy rule 0 wants port 9000 or 9001, found 9002",
        ),
        (
            &both,
            sleep(),
            9000,
            "no ALLOW policy matches; nearest: foo/tcp-policy rule 0 wants namespace bar, found foo",
        ),
        (
            &both,
            Peer::Anonymous,
            9000,
            "no ALLOW policy matches; nearest: foo/tcp-policy rule 0 wants namespace bar, found no identity",
        ),
        (
            &both,
            sleep(),
            9009,
            "no ALLOW policy matches; nearest: foo/tcp-policy rule 1 wants source address other than 10.0.0.0/8, found 10.0.0.5",
        ),
        (
            &void,
            sleep(),
            9000,
            "no ALLOW policy matches; nearest: foo/tcp-policy rule 0 never matches on TCP because of `methods`",
        ),
        (&json!([]), sleep(), 9000, "ALLOW policies apply and have no rule that can match"),
    ] {
        assert_eq!(explain(rules, peer, port).outcome().because(), because);
    }
}

#[test]
fn every_rule_and_field_is_told() {
    let rules = json!([
        {"from": [{"source": {"namespaces": ["foo"], "ipBlocks": ["10.0.0.0/8"]}}], "to": [{"operation": {"ports": ["1"]}}]},
        {},
        {"when": [{"key": "destination.port", "values": ["9000"]}]},
    ]);
    let explanation = explain(&rules, sleep(), 9000);
    let told: Vec<_> =
        explanation.rules.iter().map(|rule| (rule.stage, rule.rule, rule.matched, rule.fields.len())).collect();
    assert_eq!(
        told,
        [
            (StageName::Allow, 0, Some(false), 3),
            (StageName::Allow, 1, Some(true), 0),
            (StageName::Allow, 2, Some(true), 1)
        ]
    );
    let fields: Vec<_> = explanation.rules[0]
        .fields
        .iter()
        .map(|field| (field.field.as_str(), field.found.as_str(), field.matched))
        .collect();
    assert_eq!(
        fields,
        [
            ("from[0].source.namespaces", "foo", Some(true)),
            ("from[0].source.ipBlocks", "10.0.0.5", Some(true)),
            ("to[0].operation.ports", "9000", Some(false)),
        ]
    );
    assert_eq!(explanation.rules[2].fields[0].field, "when[0]");
    assert_eq!(explanation.rules[2].effect, Effect::Effective);
    assert_eq!(explanation.decision.rule, Some(1));
}

#[test]
fn a_record_is_plain_data_and_a_sentence() {
    let explanation = explain(&json!([{"to": [{"operation": {"ports": ["9000"]}}]}]), sleep(), 9002);
    let end = |workload: Option<WorkloadId>, address: &str, port| End {
        workload,
        identity: None,
        address: address.parse().unwrap(),
        port,
    };
    let source = end(Some(WorkloadId::new("foo", "sleep")), "10.0.0.5", 40000);
    let destination = end(None, "10.0.0.9", 9002);
    let mut record = Record::opened(1, 2, source, destination, explanation.outcome());
    assert_eq!(record.close, Some(Close::Refused));
    let sentence = "foo/sleep → 10.0.0.9:9002 denied: no ALLOW policy matches; nearest: foo/tcp-policy rule 0 wants port 9000, found 9002";
    assert_eq!(record.sentence(), sentence);
    record.count = 3;
    assert!(record.sentence().contains(" denied 3 times: "));
    let text = serde_json::to_string(&record).unwrap();
    assert!(text.contains(r#""reason":"allow-no-match""#) && text.contains(r#""generation":3"#), "{text}");
    let read: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(read, record);
    let Lack::Differs { wanted, found } = read.outcome.nearest.unwrap().lack else { panic!("the rule can match") };
    assert_eq!((wanted.as_str(), found.as_str()), ("port 9000", "9002"));
}

/// Of the rules that fail in the fewest comparisons the first, whatever it fails in.
#[test]
fn the_nearest_rule_is_found_by_port_by_source_and_among_those_that_never_match() {
    let rule =
        |from: Value, ports: &[&str]| json!({"from": [{"source": from}], "to": [{"operation": {"ports": ports}}]});
    let far = || rule(json!({"ipBlocks": ["192.0.2.1"], "namespaces": ["bar"]}), &["1"]);
    let two = || rule(json!({"namespaces": ["bar"]}), &["1"]);
    let other_port = || rule(json!({"namespaces": ["foo"], "ipBlocks": ["10.0.0.0/24"]}), &["1"]);
    let other_source = || rule(json!({"ipBlocks": ["192.0.2.1"]}), &["9002"]);
    let any_port = || json!({"from": [{"source": {"namespaces": ["bar"]}}]});
    let never = || json!({"to": [{"operation": {"ports": ["9002"], "methods": ["GET"]}}]});
    for (rules, wanted) in [
        (vec![far(), two(), other_port(), other_source()], 2),
        (vec![far(), two(), other_source(), other_port()], 2),
        (vec![far(), any_port(), other_source()], 1),
        (vec![far(), never(), other_port()], 1),
        (vec![far(), two(), far()], 1),
        (vec![far(), far()], 0),
    ] {
        let explanation = explain(&Value::Array(rules.clone()), sleep(), 9002);
        assert_eq!(explanation.nearest.unwrap().rule, wanted, "{rules:?}");
    }
}
