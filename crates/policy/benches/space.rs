//! What knowing costs: `cargo bench -p policy --bench space` prints figures (docs/benchmarks.md). They are measured, never asserted.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement reads the clock, prints, and ends at the first surprise"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::space::{Among, Fate, Wanted, compare_meshes, rules_everywhere, search_each};
use policy::{Mesh, Settings, Workload, WorkloadId, parse};
use serde_json::{Value, json};

const NAMESPACES: usize = 20;
const WORKLOADS: usize = 500;

fn main() {
    for count in [100, 300, 1_000, 3_000] {
        println!("{count} policies over {WORKLOADS} workloads, each selected by some of them");
        measure(&selective(count, 0), &selective(count, 1), &selective(count, count));
    }
    for count in [100, 300, 1_000] {
        println!("{count} policies, all of which apply to all of {WORKLOADS} workloads");
        measure(&broad(count, 0), &broad(count, 1), &broad(count, count));
    }
}

fn measure(mesh: &Mesh, one_changed: &Mesh, all_changed: &Mesh) {
    let fates = timed("what each rule is good for", Duration::from_secs(1), || rules_everywhere(mesh));
    let unknown = fates.iter().filter(|(_, fate)| fate.is_err()).count();
    let effective = fates.iter().filter(|(_, fate)| *fate == Ok(Fate::Effective)).count();
    println!("    {} rules, {effective} effective, {unknown} not known", fates.len());
    for (what, other) in [("diff, one policy changed", one_changed), ("diff, every policy changed", all_changed)] {
        let difference = timed(what, Duration::from_secs(5), || compare_meshes(mesh, other));
        let regions: usize = difference
            .destinations
            .iter()
            .map(|(_, comparison)| comparison.opened.len() + comparison.closed.len())
            .sum();
        println!("    {:?}: {} destinations, {regions} regions", difference.relation, difference.destinations.len());
    }
    let document = document(
        "among",
        &json!({"rules": [{"from": [{"source": {"notNamespaces": ["ns1"]}}], "to": [{"operation": {"ports": ["7"]}}]}]}),
    );
    let rule = parse::authorization_policy(&document, &Settings::default()).value.unwrap().rules.remove(0);
    let among = Among::new(&rule, "foo", &Settings::default()).unwrap();
    let snapshot = policy::compile(mesh, 1, None);
    let all: Vec<WorkloadId> = mesh.workloads.iter().map(|one| one.id.clone()).collect();
    timed("an assertion about every workload", Duration::from_secs(5), || {
        search_each(&snapshot, &all, Wanted::Permitted, &among)
    });
}

fn timed<T>(what: &str, goal: Duration, run: impl Fn() -> T) -> T {
    let once = || {
        let start = Instant::now();
        let result = run();
        (start.elapsed(), result)
    };
    let best = [once(), once(), once()].into_iter().min_by_key(|(took, _)| *took).unwrap();
    println!("  {what:<60} {:>12.3?}   goal {goal:?}", best.0);
    best.1
}

fn workload(index: usize) -> Workload {
    Workload {
        id: WorkloadId::new(format!("ns{}", index % NAMESPACES), format!("w{index}")),
        labels: [
            ("app".to_owned(), format!("a{}", index / NAMESPACES)),
            ("tier".to_owned(), format!("t{}", index % 3)),
        ]
        .into(),
        service_account: format!("sa{}", index % 50),
        addresses: vec![format!("10.0.{}.{}", index / 256, index % 256).parse().unwrap()],
        in_mesh: true,
    }
}

fn document(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "istio-system"}, "spec": spec})
}

fn mesh(policies: impl Iterator<Item = Value>) -> Mesh {
    let policies = policies.map(|document| {
        let parsed = parse::authorization_policy(&document, &Settings::default());
        assert!(parsed.admissible(), "{:?}", parsed.findings.first());
        Arc::new(parsed.value.unwrap())
    });
    Mesh { workloads: (0..WORKLOADS).map(workload).collect(), policies: policies.collect(), ..Mesh::default() }
}

fn spec(number: usize, is_changed: bool) -> Value {
    let mix = number.wrapping_mul(2_654_435_761) >> 7;
    let port = 1 + mix % 40 + usize::from(is_changed);
    let source = match mix / 64 % 6 {
        0 => json!({"namespaces": [format!("ns{}", mix % NAMESPACES), format!("ns{}", mix / 3 % NAMESPACES)]}),
        1 => json!({"principals": [format!("cluster.local/ns/ns{}/sa/sa{}", mix % NAMESPACES, mix / 5 % 50)]}),
        2 => json!({"ipBlocks": [format!("10.{}.0.0/16", mix % 200)]}),
        3 => json!({"serviceAccounts": [format!("ns{}/sa{}", mix % NAMESPACES, mix / 5 % 50), "other/sa"]}),
        4 => json!({"notNamespaces": [format!("ns{}", mix % NAMESPACES)]}),
        _ => json!({"principals": [format!("*/sa/sa{}", mix % 50)], "notIpBlocks": ["10.9.0.0/16"]}),
    };
    let action = if mix.is_multiple_of(5) { "DENY" } else { "ALLOW" };
    json!({"action": action, "rules": [
        {"from": [{"source": source}], "to": [{"operation": {"ports": [port.to_string(), (port + 100).to_string()]}}]},
        {"from": [{"source": {"namespaces": [format!("ns{}", mix / 7 % NAMESPACES)]}}], "to": [{"operation": {"ports": [(port + 200).to_string()]}}]},
    ]})
}

/// The first of them are changed.
fn selective(count: usize, changed: usize) -> Mesh {
    mesh((0..count).map(|number| {
        let mut spec = spec(number, number < changed);
        let app = format!("a{}", number / NAMESPACES % (WORKLOADS / NAMESPACES));
        spec["selector"] = json!({"matchLabels": if number % 4 == 0 { json!({"app": app, "tier": "t1"}) } else { json!({"app": app}) }});
        let mut document = document(&format!("p{number}"), &spec);
        document["metadata"]["namespace"] = json!(format!("ns{}", number % NAMESPACES));
        document
    }))
}

fn broad(count: usize, changed: usize) -> Mesh {
    mesh((0..count).map(|number| document(&format!("p{number}"), &spec(number, number < changed))))
}
