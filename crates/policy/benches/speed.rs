//! How long things take: `cargo bench -p policy` prints figures (docs/benchmarks.md). They are measured, never asserted: on a busy machine a
//! clock proves nothing. Each figure is the shortest of several runs, which is what the machine's other work disturbs least.
//! `cargo bench -p policy -- decide` runs the sections of that name only: `decide`, `compile`, `table`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement reads the clock and its arguments, prints, and ends at the first surprise"
)]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::table::table;
use policy::{AuthorizationPolicy, Connection, Mesh, Peer, Settings, Workload, WorkloadId, parse};
use serde_json::{Value, json};

/// Runs of one measurement.
const RUNS: usize = 30;
/// Connections decided in one run.
const CONNECTIONS: u32 = 4096;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|one| !one.starts_with('-')).collect();
    let sections: [(&str, fn()); 3] = [("decide", decisions), ("compile", compilations), ("table", tables)];
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|one| name.contains(one.as_str())) {
            section();
        }
    }
}

/// The shortest of several runs.
fn shortest<T>(runs: usize, mut run: impl FnMut() -> T) -> (Duration, T) {
    let mut timed = || {
        let start = Instant::now();
        let result = run();
        (start.elapsed(), result)
    };
    let mut best = timed();
    for _ in 1..runs {
        let next = timed();
        best = if next.0 < best.0 { next } else { best };
    }
    best
}

fn say(what: &str, took: Duration, goal: Duration) {
    println!("{what:<80} {took:>12.3?}   goal {goal:?}");
}

fn decisions() {
    for (count, goal_ns) in [(10, 50), (100, 80), (1_000, 150), (10_000, 1_500)] {
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
        let (id, address) = (&mesh.workloads[0].id, mesh.workloads[0].addresses[0]);
        let connections: Vec<Connection> =
            (0..CONNECTIONS).map(|number| connection(number as usize, address)).collect();
        let (took, permitted) = shortest(RUNS, || {
            connections.iter().filter(|one| snapshot.decide(black_box(id), black_box(one)).is_permitted()).count()
        });
        let what = format!("{CONNECTIONS} decisions among {count} rules ({permitted} permitted)");
        say(&what, took, Duration::from_nanos(goal_ns) * CONNECTIONS);
        println!("  each {:.1} ns, goal {goal_ns} ns", took.as_secs_f64() * 1e9 / f64::from(CONNECTIONS));
    }
}

fn connection(number: usize, to: IpAddr) -> Connection {
    let mix = number.wrapping_mul(40_503);
    let source = format!("{}.{}.1.1", 20 + mix % 200, mix % 28).parse().unwrap();
    let peer = Peer::Attested(policy::SpiffeId::new("cluster.local", &format!("n{}", mix % 997), "s1").unwrap());
    Connection::new(source, peer, to, u16::try_from(1 + mix % 2000).unwrap())
}

fn compilations() {
    let spec = |number: usize| json!({"selector": {"matchLabels": {"app": format!("a{}", number % 500)}}, "rules": [{"from": [{"source": {"namespaces": ["foo"]}}], "to": [{"operation": {"ports": [(number % 60_000).to_string()]}}]}]});
    let policies = (0..10_000).map(|number| policy(&format!("p{number}"), &spec(number))).collect();
    let workloads = (0..500).map(|index| workload(index, &format!("a{index}"))).collect();
    let mut mesh = Mesh { workloads, policies, ..Mesh::default() };
    let (took, before) = shortest(RUNS, || policy::compile(&mesh, 1, None));
    say("compile 10,000 policies for 500 workloads", took, Duration::from_millis(200));
    mesh.policies[77] = policy("p77", &spec(78));
    let (took, after) = shortest(RUNS, || policy::compile(&mesh, 2, Some(&before)));
    say("one changed policy among 10,000", took, Duration::from_millis(20));
    let changed = mesh.workloads.iter().filter(|one| !after.same_table(&before, &one.id)).count();
    assert_eq!(changed, 2, "the workload that lost the policy and the one that got it");
}

fn tables() {
    for (what, spec) in largest() {
        let policies = vec![policy("big", &spec)];
        let mesh =
            Mesh { workloads: (0..250).map(|index| workload(index, "a")).collect(), policies, ..Mesh::default() };
        let (took, made) = shortest(3, || {
            let snapshot = policy::compile(&mesh, 1, None);
            table(&snapshot, &mesh.workloads[0].id, mesh.workloads[0].addresses[0])
        });
        let size = made.map_or_else(|_| "too large".to_owned(), |table| format!("{} entries", table.entries.len()));
        say(&format!("table: {what} ({size})"), took, Duration::from_secs(1));
    }
}

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
    let parsed = parse::authorization_policy(&document, &Settings::default());
    assert!(parsed.admissible(), "{:?}", parsed.findings.first());
    Arc::new(parsed.value.unwrap())
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
