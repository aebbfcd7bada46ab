//! What `diff` and `test` claim about every connection, held against the engine on connections drawn at random: a relation or a
//! proof that a single connection contradicts would be worse than none.
#![cfg(test)]

use std::fmt::Write;
use std::net::IpAddr;

use control::bundle::{self, Text};
use control::diff::{self, Report};
use control::suite::{self, Result, World};
use policy::ask::Asker;
use policy::space::Relation;
use policy::{Connection, Mesh, Peer, Snapshot, SpiffeId, WorkloadId};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::{select, subsequence};

const APPS: &str = "
{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: foo}, spec: {template: {metadata: {labels: {app: a}},
  spec: {serviceAccountName: a, containers: [{name: c, image: i}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: b, namespace: foo}, spec: {template: {metadata: {labels: {app: b}},
  spec: {serviceAccountName: b, containers: [{name: c, image: i}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: foo}, spec: {selector: {app: a}, ports: [{name: tcp-x, port: 80}]}}
";
const IDENTITIES: [&str; 5] = [
    "td/ns/foo/sa/a",
    "cluster.local/ns/foo/sa/a",
    "cluster.local/ns/foo/sa/b",
    "cluster.local/ns/bar/sa/a",
    "cluster.local/ns/bar/sa/zz",
];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.255.255", "10.1.0.0", "192.168.0.1", "fd00::1"];
const PORTS: [u16; 7] = [0, 79, 80, 81, 443, 444, 65535];

/// One source or one operation as YAML in flow style.
fn source() -> impl Strategy<Value = String> {
    let field = select(&[
        "principals: ['cluster.local/ns/foo/sa/a']",
        "principals: ['*']",
        "principals: ['*/sa/a', 'td/*']",
        "notPrincipals: ['*']",
        "notPrincipals: [cluster.local/ns/foo/sa/b]",
        "namespaces: [foo]",
        "namespaces: ['b*']",
        "notNamespaces: [bar]",
        "serviceAccounts: [a]",
        "ipBlocks: [10.0.0.0/16]",
        "notIpBlocks: [10.0.0.0/8, 'fd00::/16']",
    ]);
    (field, select(&["", ", ipBlocks: ['0.0.0.0/0']", ", notIpBlocks: [10.0.0.1]"])).prop_filter_map(
        "a field stands once",
        |(one, more)| {
            let twice = one.to_lowercase().contains("ipblocks") && !more.is_empty();
            (!twice).then(|| format!("{{source: {{{one}{more}}}}}"))
        },
    )
}

fn operation() -> impl Strategy<Value = String> {
    select(&[
        "ports: ['80']",
        "ports: ['80', '443']",
        "notPorts: ['80']",
        "ports: ['81'], methods: [GET]",
        "methods: [GET]",
    ])
    .prop_map(|fields| format!("{{operation: {{{fields}}}}}"))
}

fn rule() -> impl Strategy<Value = String> {
    let list = |items: Vec<String>, name: &str| {
        if items.is_empty() { String::new() } else { format!("{name}: [{}], ", items.join(", ")) }
    };
    (proptest::collection::vec(source(), 0..3), proptest::collection::vec(operation(), 0..2))
        .prop_map(move |(from, to)| format!("{{{}{}}}", list(from, "from"), list(to, "to")))
}

fn one_policy() -> impl Strategy<Value = String> {
    let selector = select(&[
        "",
        "selector: {matchLabels: {app: a}}, ",
        "selector: {matchLabels: {app: b}}, ",
        "selector: {matchLabels: {app: a, tier: x}}, ",
    ]);
    let namespace = select(&["foo", "foo", "istio-system"]);
    let action = select(&["ALLOW", "ALLOW", "DENY"]);
    (namespace, selector, action, proptest::collection::vec(rule(), 1..3)).prop_map(
        |(namespace, selector, action, rules)| {
            format!("{namespace}}}, spec: {{{selector}action: {action}, rules: [{}]}}", rules.join(", "))
        },
    )
}

/// Policies that both sets take from.
fn pool() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(one_policy(), 1..5)
}

fn read(policies: &[String], ambient: bool) -> bundle::Bundle {
    let mut text = APPS.to_owned();
    for (index, policy) in policies.iter().enumerate() {
        let head = "---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy";
        writeln!(text, "{head}, metadata: {{name: p{index}, namespace: {policy}}}").unwrap();
    }
    if ambient {
        text.push_str("---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'tidegate: {profile: ambient}'}}\n");
    }
    let bundle = bundle::read(vec![Text { name: "t".to_owned(), bytes: text.into_bytes() }], "default");
    assert!(bundle.problems().is_empty(), "{:?}", bundle.problems());
    bundle
}

fn connection() -> impl Strategy<Value = Connection> {
    let peer = prop_oneof![
        Just(Peer::Anonymous),
        select(&IDENTITIES).prop_map(|id| Peer::Attested(SpiffeId::parse(&format!("spiffe://{id}")).unwrap())),
    ];
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    (peer, select(&ADDRESSES), select(&PORTS))
        .prop_map(move |(peer, source, port)| Connection::new(address(source), peer, address("10.9.9.9"), port))
}

fn permits(snapshot: &Snapshot, name: &str, connection: &Connection) -> bool {
    snapshot.decide(&WorkloadId::new("foo", name), connection).is_permitted()
}

fn compared(before: &Mesh, after: &Mesh) -> Report {
    let report = diff::report(before, after);
    assert!(report.wrong.is_empty(), "the engine decides a witness otherwise: {:?}", report.wrong);
    report
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_set_is_equivalent_to_itself(policies in pool(), ambient in any::<bool>()) {
        let mesh = read(&policies, ambient).mesh(None, None);
        let report = compared(&mesh, &mesh);
        prop_assert!(!report.differs(), "{:?}", report);
        // In another order, and with each rule written twice, it means the same.
        let other: Vec<String> = policies.iter().rev().cloned().collect();
        let report = compared(&mesh, &read(&other, ambient).mesh(None, None));
        prop_assert_eq!(report.relation, Relation::Equivalent);
    }

    #[test]
    fn no_connection_contradicts_the_relation_of_a_difference(
        (one, other) in pool().prop_flat_map(|pool| (subsequence(pool.clone(), 0..=pool.len()), subsequence(pool.clone(), 0..=pool.len()))),
        ambient in any::<bool>(),
        connections in proptest::collection::vec(connection(), 40),
    ) {
        let (before, after) = (read(&one, ambient).mesh(None, None), read(&other, ambient).mesh(None, None));
        let report = compared(&before, &after);
        let (old, new) = (policy::compile(&before, 1, None), policy::compile(&after, 2, None));
        for name in ["a", "b"] {
            let found = report.destinations.iter().find(|changed| changed.destination == format!("foo/{name}"));
            for connection in &connections {
                let (was, is) = (permits(&old, name, connection), permits(&new, name, connection));
                if was == is {
                    continue;
                }
                let fits = if is { Relation::MorePermissive } else { Relation::MoreRestrictive };
                prop_assert!(report.relation == fits || report.relation == Relation::Incomparable, "{:?}: {:?}", report.relation, connection);
                let regions = found.map_or(&[][..], |found| &found.regions);
                let covers = |change: &diff::Change| {
                    change.opens == is
                        && change.region.ports.iter().any(|ports| ports.contains(&connection.port))
                        && change.region.sources.iter().any(|range| range.contains(&connection.source))
                };
                prop_assert!(regions.iter().any(covers), "no region covers {:?}: {:#?}", connection, found);
            }
        }
    }

    #[test]
    fn no_connection_contradicts_what_an_assertion_is_said_to_be(
        policies in pool(),
        (expect, who, ports) in (select(&["allow", "deny"]), 0_usize..WHO.len(), 0_usize..PORT_LISTS.len()),
        connections in proptest::collection::vec(connection(), 60),
    ) {
        let bundle = read(&policies, false);
        let asker = Asker::new(bundle.mesh(None, None));
        let ((clients, is_meant), (list, has)) = (WHO[who], PORT_LISTS[ports]);
        let text = format!(
            "{{apiVersion: tidegate.io/v1alpha1, kind: PolicyAssertion, metadata: {{name: t}}, \
              spec: {{assertions: [{{expect: {expect}, to: [a, b]{clients}{list}}}]}}}}"
        );
        let suites = suite::read(&text);
        prop_assert_eq!(&suites.problems, &Vec::new());
        let judged = suite::judge(&suites.suites[0].items[0], World { asker: &asker, objects: bundle.objects(), namespace: "foo" });
        let meant = connections.iter().filter(|one| is_meant(one) && has(one.port));
        let mut contradicted = false;
        for connection in meant {
            contradicted |= ["a", "b"].iter().any(|name| permits(asker.snapshot(), name, connection) != (expect == "allow"));
        }
        match judged.result {
            Result::Passed => prop_assert!(!contradicted, "{}\n{:?}", text, judged),
            Result::Failed => {
                let shown = if expect == "allow" { ": denied; for instance " } else { ": allowed; for instance " };
                prop_assert!(judged.said[0].contains(shown), "{}\n{:?}", text, judged);
            }
            Result::Inconclusive => {
                prop_assert!(!contradicted, "what is refuted must be said to be: {}\n{:?}", text, judged);
                prop_assert!(policies.iter().any(|policy| policy.contains("methods")), "only HTTP is not known here: {:?}", judged);
            }
        }
    }
}

type Meant = fn(&Connection) -> bool;
type Has = fn(u16) -> bool;

fn namespace(connection: &Connection) -> Option<&str> {
    connection.peer.id().map(SpiffeId::namespace)
}

/// Clients of an assertion, and the same by hand.
const WHO: [(&str, Meant); 7] = [
    ("", |_| true),
    (", from: [{namespace: foo}]", |one| namespace(one) == Some("foo")),
    (", notFrom: [{namespace: foo}]", |one| namespace(one) != Some("foo")),
    (", notFrom: [{namespace: foo}, {ipBlock: 10.0.0.0/8}]", |one| {
        let ten = matches!(one.source, IpAddr::V4(v4) if v4.octets()[0] == 10);
        namespace(one) != Some("foo") && !ten
    }),
    (", from: [{identity: none}, {workload: a}]", |one| {
        one.peer.id().is_none_or(|id| id.principal() == "cluster.local/ns/foo/sa/a")
    }),
    (", from: [{identity: any}], notFrom: [{serviceAccount: bar/a}]", |one| {
        one.peer.id().is_some_and(|id| (id.namespace(), id.service_account()) != ("bar", "a"))
    }),
    (", from: [{ipBlock: 'fd00::/16'}]", |one| one.source.is_ipv6()),
];

/// Ports of an assertion, and the same by hand.
const PORT_LISTS: [(&str, Has); 5] = [
    ("", |_| true),
    (", ports: [80]", |port| port == 80),
    (", ports: [80-81, 443]", |port| [80, 81, 443].contains(&port)),
    (", notPorts: [80, 400-65535]", |port| port != 80 && port < 400),
    (", ports: [1-1000], notPorts: [79-81]", |port| (1..=1000).contains(&port) && !(79..=81).contains(&port)),
];

/// A search tells only some of the regions that refute; those that are asked about must be among them.
#[test]
fn a_refutation_on_one_port_is_found_among_many_on_others() {
    let rules: Vec<String> = (0..300)
        .map(|port| {
            let from = format!("from: [{{source: {{principals: [cluster.local/ns/foo/sa/s{port}]}}}}]");
            format!("{{{from}, to: [{{operation: {{ports: ['{}']}}}}]}}", 1000 + port * 2)
        })
        .collect();
    let bundle = read(
        &[format!("foo}}, spec: {{selector: {{matchLabels: {{app: a}}}}, rules: [{}]}}", rules.join(", "))],
        false,
    );
    let asker = Asker::new(bundle.mesh(None, None));
    for (ports, result) in [
        ("[1598]", Result::Failed),
        ("[1000]", Result::Failed),
        ("[1599]", Result::Passed),
        ("[1598-1599]", Result::Failed),
        ("[1599-65535]", Result::Passed),
        ("[0-999]", Result::Passed),
    ] {
        let text = format!(
            "{{apiVersion: tidegate.io/v1alpha1, kind: PolicyAssertion, metadata: {{name: t}}, \
              spec: {{assertions: [{{expect: deny, to: [a], ports: {ports}}}]}}}}"
        );
        let item = &suite::read(&text).suites[0].items[0];
        let judged = suite::judge(item, World { asker: &asker, objects: bundle.objects(), namespace: "foo" });
        assert_eq!(judged.result, result, "{ports}: {judged:?}");
    }
}
