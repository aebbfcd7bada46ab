//! How long things take: `POLICY_TIMED=1 cargo test --release -p policy --test speed -- --nocapture --test-threads 1` prints figures and
//! asserts limits. Without it nothing is asserted about time: on a busy machine a clock proves nothing.
#![cfg(test)]
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a measurement reads the clock")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::table::table;
use policy::{AuthorizationPolicy, Connection, Mesh, Peer, Settings, Workload, WorkloadId, parse};
use serde_json::{Value, json};

/// The largest object that a store takes.
const OBJECT_BYTES_MAX: usize = 1_500_000;

fn workload(index: usize, app: &str) -> Workload {
    Workload {
        id: WorkloadId::new("foo", format!("w{index}")),
        labels: [("app".to_owned(), app.to_owned())].into(),
        service_account: format!("sa{}", index % 50),
        addresses: vec![format!("10.0.{}.{}", index / 256, index % 256).parse().unwrap()],
        in_mesh: true,
    }
}

fn policy(name: &str, spec: &Value) -> Arc<AuthorizationPolicy> {
    let document = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "foo"}, "spec": spec});
    let size = document.to_string().len();
    assert!(size <= OBJECT_BYTES_MAX, "{name} has {size} bytes");
    let parsed = parse::authorization_policy(&document, &Settings::default());
    assert!(parsed.admissible(), "{:?}", parsed.findings.first());
    Arc::new(parsed.value.unwrap())
}

fn is_timed() -> bool {
    std::env::var_os("POLICY_TIMED").is_some()
}

fn timed<T>(what: &str, limit: Duration, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    let took = start.elapsed();
    println!("{what}: {took:?} (limit {limit:?})");
    assert!(!is_timed() || took <= limit, "{what} took {took:?}, the limit is {limit:?}");
    result
}

fn block(number: usize) -> String {
    format!("{}.{}.{}.{}", 11 + (number >> 23 & 127), number >> 15 & 255, number >> 7 & 255, (number & 127) * 2)
}

/// Policies near the largest size, each hard in its own way.
fn largest() -> Vec<(&'static str, Value)> {
    let ports = |range: std::ops::Range<usize>, step: usize| {
        range.step_by(step).map(|port| port.to_string()).collect::<Vec<_>>()
    };
    let blocks = |range: std::ops::Range<usize>| range.map(block).collect::<Vec<_>>();
    let rules = |count: usize, rule: &dyn Fn(usize) -> Value| (0..count).map(rule).collect::<Vec<_>>();
    vec![
        ("every port", json!({"rules": [{"to": [{"operation": {"ports": ports(0..65536, 1)}}]}]})),
        ("every other port", json!({"rules": [{"to": [{"operation": {"ports": ports(0..30000, 2)}}]}]})),
        ("16,000 addresses", json!({"rules": [{"from": [{"source": {"ipBlocks": blocks(0..16_000)}}]}]})),
        ("80,000 addresses", json!({"rules": [{"from": [{"source": {"ipBlocks": blocks(0..80_000)}}]}]})),
        (
            "512 rules of 60 ports and 60 addresses",
            json!({"rules": rules(512, &|rule| json!({
                "from": [{"source": {"ipBlocks": blocks(rule * 60..rule * 60 + 60)}}],
                "to": [{"operation": {"ports": (0..60).map(|port| (rule * 7919 + port * 1031).rem_euclid(65536).to_string()).collect::<Vec<_>>()}}],
            }))}),
        ),
        (
            "512 rules of overlapping blocks, all hidden by one that denies all",
            json!({"action": "DENY", "rules": rules(512, &|rule| if rule == 0 { json!({}) } else { json!({
                "from": [{"source": {"ipBlocks": blocks(rule * 80..rule * 80 + 80)}}],
                "to": [{"operation": {"notPorts": [rule.to_string()]}}],
            })})}),
        ),
        (
            "wide rules over thousands of port classes",
            json!({"rules": rules(30, &|rule| if rule == 0 { json!({"from": [{"source": {"ipBlocks": ["9.9.9.9"]}}], "to": [{"operation": {"ports": ports(0..65536, 2)}}]}) } else { json!({
                "from": [{"source": {"ipBlocks": blocks(rule * 1500..rule * 1500 + 1500)}}],
                "to": [{"operation": {"notPorts": ["1"]}}],
            })})}),
        ),
        (
            "the same, all hidden by a rule that denies all",
            json!({"action": "DENY", "rules": rules(30, &|rule| match rule {
                0 => json!({"to": [{"operation": {"ports": ports(0..65536, 2)}}]}),
                1 => json!({}),
                _ => json!({
                    "from": [{"source": {"ipBlocks": blocks(rule * 1500..rule * 1500 + 1500)}}],
                    "to": [{"operation": {"notPorts": ["1"]}}],
                }),
            })}),
        ),
        (
            "512 rules of principals",
            json!({"rules": rules(512, &|rule| json!({
                "from": [{"source": {"principals": (0..60).map(|one| format!("*/ns/foo{rule}/sa/a{one}")).collect::<Vec<_>>()}}],
                "to": [{"operation": {"ports": [rule.to_string()]}}],
            }))}),
        ),
        (
            "512 rules of 60 sources with addresses and namespaces",
            json!({"rules": rules(512, &|rule| json!({
                "from": (0..18).map(|one| json!({"source": {"namespaces": [format!("n{one}*x")], "ipBlocks": blocks(rule * 20 + one..rule * 20 + one + 1)}})).collect::<Vec<_>>(),
                "to": [{"operation": {"ports": [rule.to_string()]}}],
            }))}),
        ),
    ]
}

#[test]
fn the_largest_policies_become_tables_or_are_refused_within_a_second() {
    // Without optimization all of them would take half a minute.
    let shapes = if cfg!(debug_assertions) { 4 } else { usize::MAX };
    for (what, spec) in largest().into_iter().take(shapes) {
        let policy = policy("big", &spec);
        let mesh = Mesh {
            workloads: (0..250).map(|index| workload(index, "a")).collect(),
            policies: vec![policy],
            ..Mesh::default()
        };
        let made = timed(what, Duration::from_secs(1), || {
            let snapshot = policy::compile(&mesh, 1, None);
            table(&snapshot, &mesh.workloads[0].id, mesh.workloads[0].addresses[0])
        });
        match made {
            Ok(table) => println!("  {} entries", table.entries.len()),
            Err(too_large) => println!("  {too_large}"),
        }
    }
}

fn matcher_rules(count: usize) -> Value {
    // As in the prototype: 1 to 3 ports, 0 to 3 blocks, 0 to 3 principals of which some are patterns.
    let rule = |number: usize| {
        let mix = number.wrapping_mul(2_654_435_761) >> 7;
        let ports: Vec<String> = (0..=mix % 3).map(|port| (1 + (mix / 3 + port * 977) % 2000).to_string()).collect();
        let mut source = serde_json::Map::new();
        let blocks: Vec<String> =
            (0..mix / 5 % 4).map(|one| format!("{}.{}.0.0/16", 20 + mix % 200, one * 7)).collect();
        let principals: Vec<String> = (0..mix / 11 % 4)
            .map(|one| match (mix + one) % 10 {
                0 => format!("*/sa/s{}", mix % 997),
                1 => format!("cluster.local/ns/n{}/*", mix % 997),
                _ => format!("cluster.local/ns/n{}/sa/s{one}", mix % 997),
            })
            .collect();
        for (name, list) in [("ipBlocks", blocks), ("principals", principals)] {
            if !list.is_empty() {
                source.insert(name.to_owned(), json!(list));
            }
        }
        let mut rule = json!({"to": [{"operation": {"ports": ports}}]});
        if !source.is_empty() {
            rule["from"] = json!([{"source": source}]);
        }
        rule
    };
    (0..count).map(rule).collect()
}

#[test]
fn decisions_among_many_rules() {
    for (count, limit_ns) in [(10, 50), (100, 80), (1_000, 150), (10_000, 1_500)] {
        let rules = matcher_rules(count);
        let policies: Vec<_> = rules
            .as_array()
            .unwrap()
            .chunks(500)
            .enumerate()
            .map(|(index, chunk)| policy(&format!("p{index}"), &json!({"rules": chunk})))
            .collect();
        let mesh = Mesh { workloads: vec![workload(0, "a")], policies, ..Mesh::default() };
        let snapshot = policy::compile(&mesh, 1, None);
        let connections: Vec<Connection> = (0..4096_usize)
            .map(|number| {
                let mix = number.wrapping_mul(40_503);
                let source = format!("{}.{}.1.1", 20 + mix % 200, mix % 28).parse().unwrap();
                let peer =
                    Peer::Attested(policy::SpiffeId::new("cluster.local", &format!("n{}", mix % 997), "s1").unwrap());
                Connection::new(source, peer, mesh.workloads[0].addresses[0], u16::try_from(1 + mix % 2000).unwrap())
            })
            .collect();
        let rounds = if cfg!(debug_assertions) { 1 } else { 50 };
        let mut permitted = BTreeSet::new();
        let start = Instant::now();
        for _ in 0..rounds {
            for connection in &connections {
                if snapshot.decide(&mesh.workloads[0].id, connection).is_permitted() {
                    permitted.insert(connection.port);
                }
            }
        }
        let each = start.elapsed() / (rounds * 4096);
        println!("a decision among {count} rules: {each:?}, {} ports reached", permitted.len());
        assert!(!is_timed() || each <= Duration::from_nanos(limit_ns), "{count} rules: {each:?}");
    }
}

#[test]
fn compiling_ten_thousand_policies() {
    let spec = |number: usize| json!({"selector": {"matchLabels": {"app": format!("a{}", number % 500)}}, "rules": [{"from": [{"source": {"namespaces": ["foo"]}}], "to": [{"operation": {"ports": [(number % 60_000).to_string()]}}]}]});
    let policies = (0..10_000).map(|number| policy(&format!("p{number}"), &spec(number))).collect();
    let workloads = (0..500).map(|index| workload(index, &format!("a{index}"))).collect();
    let mut mesh = Mesh { workloads, policies, ..Mesh::default() };
    let before = timed("10,000 policies", Duration::from_millis(200), || policy::compile(&mesh, 1, None));
    mesh.policies[77] = policy("p77", &spec(78));
    let after = timed("one changed policy among 10,000", Duration::from_millis(20), || {
        policy::compile(&mesh, 2, Some(&before))
    });
    let changed = mesh.workloads.iter().filter(|one| !after.same_table(&before, &one.id)).count();
    assert_eq!(changed, 2, "the workload that lost the policy and the one that got it");
}
