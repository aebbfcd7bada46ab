//! What is written into the status of policies, that it converges, and how records read as lines.
#![cfg(test)]

#[path = "golden/fixture.rs"]
mod fixture;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Change, Event, Object, Objects, Write};
use control::lines::{connections, proxy_log, tap_line, whole};
use control::status::{Progress, Report, Statuses};
use control::translate::Translator;
use policy::{Connection, Record, WorkloadId};
use serde_json::Value;

use fixture::{key, mesh, object, put};

const THEN: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-01-02T00:00:00Z";

fn report(generation: u64, all: &[(&str, Progress)]) -> Report {
    let workloads: BTreeMap<_, _> =
        all.iter().map(|(name, progress)| (WorkloadId::new("foo", *name), progress.clone())).collect();
    Report { generation, workloads }
}

fn everyone(generation: u64) -> Report {
    report(generation, &["sleep-1", "tcp-echo-1", "web-1"].map(|name| (name, Progress::Enforces(generation))))
}

fn reconcile(objects: &Objects, report: &Report, now: &str) -> Vec<Write> {
    let mut translator = Translator::default();
    let mesh = translator.mesh(objects);
    Statuses::default().reconcile(objects, &translator, &mesh, report, now)
}

/// Puts what was written into the objects, as the store would.
fn commit(objects: &mut Objects, writes: &[Write]) {
    for write in writes {
        let Write::PatchStatus { key, patch } = write else { panic!("{write:?}") };
        let mut new = objects.get(key).unwrap().as_ref().clone();
        new.set("/status", patch["status"].clone());
        objects.apply(&Event {
            revision: objects.revision() + 1,
            key: key.clone(),
            change: Change::Put { old: None, new: Arc::new(new) },
        });
    }
}

/// `type=status reason message` of each condition of an object.
fn conditions(object: &Object) -> Vec<String> {
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or("-").to_owned();
    let all = object.items_at("/status/conditions").iter();
    all.map(|one| {
        format!("{}={} {} {}", text(one, "type"), text(one, "status"), text(one, "reason"), text(one, "message"))
    })
    .collect()
}

/// The conditions of one policy after a round.
fn after(text: &str, report: &Report) -> Vec<String> {
    let mut objects = mesh();
    let policy = object(text);
    put(&mut objects, policy.clone());
    let writes = reconcile(&objects, report, NOW);
    commit(&mut objects, &writes);
    conditions(objects.get(&key(&policy)).unwrap())
}

fn written(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: {namespace}, generation: 3}}, spec: {spec}}}"
    )
}

const ACCEPTED: &str = "Accepted=True Accepted ";

#[test]
fn enforced_counts_the_proxies_concerned() {
    let all = "{rules: [{}]}";
    let lagging = report(
        7,
        &[("sleep-1", Progress::Enforces(7)), ("tcp-echo-1", Progress::Enforces(6)), ("web-1", Progress::Enforces(8))],
    );
    let failed =
        report(7, &[("sleep-1", Progress::Enforces(7)), ("web-1", Progress::Failed("no such table".to_owned()))]);
    for (spec, namespace, report, expected) in [
        (all, "foo", everyone(7), "Enforced=True Enforced 3/3 proxies"),
        (all, "istio-system", everyone(7), "Enforced=True Enforced 3/3 proxies; 1 selected pod is not in the mesh"),
        ("{selector: {matchLabels: {app: web}}}", "foo", everyone(7), "Enforced=True Enforced 1/1 proxies"),
        (
            "{selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "foo",
            everyone(7),
            "Enforced=True Enforced 1/1 proxies; port 8080 may carry HTTP and is enforced as TCP, where HTTP fields do not work",
        ),
        (all, "foo", lagging, "Enforced=False Pending 2/3 proxies"),
        (all, "foo", failed, "Enforced=False Failed 1/3 proxies; foo/web-1: no such table"),
        (all, "foo", report(7, &[]), "Enforced=False Pending 0/3 proxies"),
        (all, "bar", everyone(7), "Enforced=False NotInMesh 0/0 proxies: no pod that it selects is in the mesh"),
        (
            "{selector: {matchLabels: {app: nothing}}}",
            "foo",
            everyone(7),
            "Enforced=True NothingSelected 0/0 proxies: it selects no pod",
        ),
    ] {
        assert_eq!(after(&written("p", namespace, spec), &report), [ACCEPTED, expected], "{spec} in {namespace}");
    }
}

#[test]
fn what_is_not_enforced_says_why() {
    for (spec, reason) in [
        ("{action: AUDIT, rules: [{}]}", "UnsupportedValue"),
        ("{action: CUSTOM, provider: {name: x}, rules: [{}]}", "NeedsProxyPath"),
        ("{rules: [{when: [{key: connection.sni, values: [a]}]}]}", "NeedsProxyPath"),
        ("{targetRefs: [{kind: Service, name: x}], rules: [{}]}", "NeedsProxyPath"),
    ] {
        let found = after(&written("p", "foo", spec), &everyone(1));
        assert!(found[1].starts_with(&format!("Enforced=False {reason} ")), "{spec}: {found:?}");
        assert_eq!(found[0], ACCEPTED, "{spec}");
    }
    let trial =
        written("p", "foo", "{rules: [{}]}").replace("generation: 3", "annotations: {istio.io/dry-run: 'true'}");
    assert!(after(&trial, &everyone(1))[1].starts_with("Enforced=False Trial "));
    // It came past admission somehow.
    let bad = after(&written("p", "foo", "{action: DENY}"), &everyone(1));
    assert!(bad[0].starts_with("Accepted=False Invalid spec.rules: "), "{bad:?}");
    assert!(bad[1].starts_with("Enforced=False Invalid "), "{bad:?}");
}

#[test]
fn peer_authentication_likewise() {
    let one = |namespace: &str, spec: &str| {
        let text = format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: p, namespace: {namespace}}}, spec: {spec}}}"
        );
        after(&text, &everyone(1))[1].clone()
    };
    assert_eq!(one("foo", "{mtls: {mode: STRICT}}"), "Enforced=True Enforced 3/3 proxies");
    assert_eq!(one("foo", "{selector: {matchLabels: {app: web}}}"), "Enforced=True Enforced 1/1 proxies");
    assert!(one("istio-system", "{selector: {matchLabels: {app: web}}}").starts_with("Enforced=False Ignored "));
}

#[test]
fn nothing_is_written_when_nothing_changed_and_times_change_with_the_status_only() {
    let mut objects = mesh();
    let policy = object(&written("p", "foo", "{rules: [{}]}"));
    put(&mut objects, policy.clone());
    let first = reconcile(&objects, &report(7, &[]), THEN);
    assert_eq!(first.len(), 1);
    commit(&mut objects, &first);
    assert_eq!(reconcile(&objects, &report(7, &[]), NOW), [], "it converges");

    let at = |objects: &Objects, index: usize, field: &str| {
        objects.get(&key(&policy)).unwrap().at(&format!("/status/conditions/{index}/{field}")).clone()
    };
    let more = report(7, &[("sleep-1", Progress::Enforces(7))]);
    let second = reconcile(&objects, &more, NOW);
    commit(&mut objects, &second);
    assert_eq!(at(&objects, 1, "message"), "1/3 proxies");
    assert_eq!(at(&objects, 1, "lastTransitionTime"), THEN, "it is still not enforced");

    let third = reconcile(&objects, &everyone(7), NOW);
    commit(&mut objects, &third);
    assert_eq!(
        (at(&objects, 1, "status"), at(&objects, 1, "lastTransitionTime")),
        (Value::from("True"), Value::from(NOW))
    );
    assert_eq!(
        (at(&objects, 0, "lastTransitionTime"), at(&objects, 0, "observedGeneration")),
        (Value::from(THEN), Value::from(3))
    );
    assert_eq!(reconcile(&objects, &everyone(9), NOW), [], "a new generation in force is no news");
}

#[test]
fn conditions_of_others_stay_and_objects_that_go_are_left_alone() {
    let mut objects = mesh();
    let mut policy = object(&written("p", "foo", "{rules: [{}]}"));
    policy.set("/status", serde_json::json!({ "conditions": [{ "type": "Theirs", "status": "True" }] }));
    put(&mut objects, policy.clone());
    let writes = reconcile(&objects, &everyone(1), NOW);
    commit(&mut objects, &writes);
    assert_eq!(conditions(objects.get(&key(&policy)).unwrap()).len(), 3);
    assert_eq!(conditions(objects.get(&key(&policy)).unwrap())[0], "Theirs=True - -");
    policy.set("/metadata/deletionTimestamp", NOW);
    put(&mut objects, policy);
    assert_eq!(reconcile(&objects, &everyone(1), NOW), []);
}

#[test]
fn text_of_policies_cannot_break_a_line() {
    let evil = "{rules: [{from: [{source: {principals: [\"a\\nb\\e[2Jc\"]}}]}]}";
    let one = record(&[evil], "10.0.0.2", 9000);
    for line in [tap_line(&one), proxy_log(&one)] {
        assert!(line.contains("2Jc") && !line.chars().any(char::is_control), "{line:?}");
    }
}

/// The record of a connection from `sleep` to `tcp-echo`, as the data plane would write it.
fn record(policies: &[&str], from: &str, port: u16) -> Record {
    let mut objects = mesh();
    for (index, spec) in policies.iter().enumerate() {
        put(&mut objects, object(&written(&format!("p{index}"), "foo", spec)));
    }
    let snapshot = policy::compile(&Translator::default().mesh(&objects), 42, None);
    let destination = WorkloadId::new("foo", "tcp-echo-1");
    let source = from.parse().unwrap();
    let end = snapshot.at(source);
    let connection = Connection::new(source, end.peer(), "10.0.0.1".parse().unwrap(), port);
    let there = snapshot.workload(&destination).unwrap();
    Record {
        id: 0x1234,
        opened_unix_ms: 1_767_225_600_123,
        source: policy::record::End {
            workload: end.workload.clone(),
            identity: end.peer().id().cloned(),
            address: source,
            port: 40000,
        },
        destination: policy::record::End {
            workload: Some(destination.clone()),
            identity: there.identity().cloned(),
            address: connection.destination,
            port,
        },
        outcome: snapshot.outcome_at_syn(&destination, &connection),
        count: 1,
        bytes_received: Some(10),
        bytes_sent: None,
        duration_us: None,
        close: None,
    }
}

#[test]
fn the_id_of_a_record_is_written_as_it_is_shown_and_read_back() {
    let one = Record { id: 0xfedc_ba98_7654_3210, ..record(&[], "10.0.0.2", 9000) };
    let json = serde_json::to_value(&one).unwrap();
    assert_eq!(json["id"], "fedcba9876543210");
    assert_eq!(serde_json::from_slice::<Record>(json.to_string().as_bytes()).unwrap(), one);
    for wrong in [serde_json::json!(12), serde_json::json!("12")] {
        let mut json = json.clone();
        json["id"] = wrong;
        assert!(serde_json::from_value::<Record>(json).is_err());
    }
}

#[test]
fn records_read_as_lines() {
    let allow = "{selector: {matchLabels: {app: tcp-echo}}, rules: [{to: [{operation: {ports: ['9000', '9001']}}]}]}";
    let deny = "{action: DENY, rules: [{from: [{source: {namespaces: [foo]}}]}]}";
    let mut text = String::new();
    let mut folded = record(&[allow], "10.0.0.2", 9002);
    folded.count = 12;
    let closed =
        Record { close: Some(policy::Close::Finished), bytes_sent: Some(16), ..record(&[allow], "10.0.0.2", 9000) };
    for one in [
        record(&[], "10.0.0.2", 9002),
        closed,
        folded,
        record(&[allow, deny], "10.0.0.2", 9000),
        record(&[allow], "10.0.0.4", 9002),
        record(&[allow], "192.0.2.7", 9002),
        record(&["{}"], "10.0.0.2", 9002),
        // No service has this port: it may carry HTTP, and then requests decide.
        record(&["{rules: [{to: [{operation: {ports: ['9002'], methods: [GET], paths: [/a]}}]}]}"], "10.0.0.2", 9002),
    ] {
        for line in [tap_line(&one), proxy_log(&one)] {
            assert!(!line.contains('\n'));
            text.push_str(&line);
            text.push('\n');
        }
        text.push('\n');
    }
    let open = Record { duration_us: Some(83_000_000), ..record(&[allow], "10.0.0.2", 9000) };
    let young = Record { duration_us: Some(7_400), id: 0x1235, ..record(&[], "192.0.2.7", 9002) };
    text.push_str(&connections(&[open.clone(), young]));
    let over = Record { close: Some(policy::Close::Reset), bytes_sent: Some(16), ..open.clone() };
    let denied = Record { close: Some(policy::Close::Refused), ..record(&[allow], "10.0.0.2", 9002) };
    text.extend(["\n", &tap_line(&over), "\n"]);
    for one in [&open, &over, &denied] {
        text.extend(["\n", &whole(one), "\n"]);
    }
    // With trials: told in a line where it differs, and always where everything is told.
    for if_enforced in [false, true] {
        let mut one = record(&[allow], "10.0.0.2", 9000);
        one.outcome.if_enforced = Some(if_enforced);
        text.extend(["\n", &tap_line(&one), "\n", &proxy_log(&one), "\n", &whole(&one), "\n"]);
    }
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lines.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        text == std::fs::read_to_string(&path).unwrap_or_default(),
        "{} differs; UPDATE_EXPECT=1, then look",
        path.display()
    );
}

#[test]
fn what_is_remembered_changes_no_write() {
    let (mut statuses, mut translator) = (Statuses::default(), Translator::default());
    let mut objects = mesh();
    let policy = |name: &str, namespace: &str, spec: &str| object(&written(name, namespace, spec));
    for (name, namespace) in [("b", "foo"), ("d", "foo"), ("a", "istio-system"), ("c", "bar")] {
        put(&mut objects, policy(name, namespace, "{rules: [{}]}"));
    }
    put(
        &mut objects,
        object("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: foo}}"),
    );
    let lagging = report(7, &[("sleep-1", Progress::Enforces(7)), ("web-1", Progress::Enforces(6))]);
    let failed = report(7, &[("web-1", Progress::Failed("no such table".to_owned()))]);
    let reports = [everyone(7), lagging, failed, everyone(8), everyone(9)];
    let mut written = 0;
    for step in 0..12 {
        match step {
            2 => {
                let mut tampered = objects
                    .find("security.istio.io", "authorizationpolicies", Some("foo"), "d")
                    .unwrap()
                    .as_ref()
                    .clone();
                tampered.set("/status/conditions", Value::Array(Vec::new()));
                put(&mut objects, tampered);
            }
            4 => put(&mut objects, policy("d", "foo", "{action: AUDIT, rules: [{}]}")),
            6 => {
                let gone = policy("b", "foo", "{}");
                let old = Arc::clone(objects.get(&key(&gone)).unwrap());
                let revision = objects.revision() + 1;
                objects.apply(&Event { revision, key: key(&gone), change: Change::Deleted { old } });
                put(&mut objects, policy("c", "foo", "{rules: [{}]}"));
            }
            8 => {
                let mut pod = objects.find("", "pods", Some("foo"), "web-1").unwrap().as_ref().clone();
                pod.set("/metadata/labels/app", "other");
                put(&mut objects, pod);
                put(&mut objects, policy("e", "foo", "{selector: {matchLabels: {app: other}}, rules: [{}]}"));
            }
            _ => {}
        }
        let report = &reports[step * reports.len() / 12];
        let mesh = translator.mesh(&objects);
        let writes = statuses.reconcile(&objects, &translator, &mesh, report, NOW);
        let anew = reconcile(&objects, report, NOW);
        assert_eq!(format!("{writes:?}"), format!("{anew:?}"), "step {step}");
        commit(&mut objects, &writes);
        written += writes.len();
        assert!(reconcile(&objects, report, NOW).is_empty(), "step {step}: it converges");
    }
    assert!(written > 15, "{written}");
}
