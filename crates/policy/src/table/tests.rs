use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Bound, ENTRIES_PER_POD_MAX, Entry, TooLarge, Verdict, VerdictTable, entries_at_most, table};
use crate::compile::compile;
use crate::decide::{Connection, Reason};
use crate::identity::Peer;
use crate::mesh::{Mesh, Profile, ProviderKind, SameNode, Settings, Workload, WorkloadId};
use crate::parse::{authorization_policy, peer_authentication};
use crate::snapshot::{Needs, Snapshot};

const ADDRESS: &str = "10.0.0.9";

fn workload(name: &str, account: &str, address: &str) -> Workload {
    Workload {
        id: WorkloadId::new("foo", name),
        labels: [("app".to_owned(), name.to_owned())].into(),
        service_account: account.to_owned(),
        addresses: vec![address.parse().unwrap(), format!("fd00::{}", address.replace("10.0.0.", "")).parse().unwrap()],
        in_mesh: true,
    }
}

/// `tcp-echo` at 10.0.0.9, `sleep` at 10.0.0.5, `legacy` outside the mesh at 10.0.0.6.
fn snapshot_with(settings: Settings, specs: &[(&str, Value)]) -> Snapshot {
    let mut legacy = workload("legacy", "legacy", "10.0.0.6");
    legacy.in_mesh = false;
    let workloads = vec![workload("tcp-echo", "tcp-echo", ADDRESS), workload("sleep", "sleep", "10.0.0.5"), legacy];
    compile(&mesh_with(settings, workloads, specs), 7, None)
}

fn mesh_with(settings: Settings, workloads: Vec<Workload>, specs: &[(&str, Value)]) -> Mesh {
    let mut mesh = Mesh { settings, workloads, ..Mesh::default() };
    for (index, (kind, spec)) in specs.iter().enumerate() {
        let document =
            json!({"kind": kind, "metadata": {"name": format!("p{index}"), "namespace": "foo"}, "spec": spec});
        if *kind == "PeerAuthentication" {
            mesh.peer_authentications
                .push(Arc::new(peer_authentication(&document, &mesh.settings).admitted().unwrap()));
        } else {
            mesh.policies.push(Arc::new(authorization_policy(&document, &mesh.settings).admitted().unwrap()));
        }
    }
    mesh
}

fn snapshot(specs: &[Value]) -> Snapshot {
    let specs: Vec<_> = specs.iter().map(|spec| ("AuthorizationPolicy", spec.clone())).collect();
    snapshot_with(Settings::default(), &specs)
}

fn tcp_echo() -> WorkloadId {
    WorkloadId::new("foo", "tcp-echo")
}

fn made(snapshot: &Snapshot) -> VerdictTable {
    table(snapshot, &tcp_echo(), ADDRESS.parse().unwrap()).unwrap()
}

fn entry(sources: (&str, &str), ports: (u16, u16), verdict: Verdict) -> Entry {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    Entry { sources: ip(sources.0)..=ip(sources.1), ports: ports.0..=ports.1, verdict }
}

const ALL: (&str, &str) = ("0.0.0.0", "255.255.255.255");

#[test]
fn no_policy_accepts_everything_without_entries() {
    assert_eq!(made(&snapshot(&[])), VerdictTable { fallback: Verdict::Accept, entries: vec![] });
}

#[test]
fn allowed_ports_are_one_entry() {
    let snapshot = snapshot(&[json!({"rules": [{"to": [{"operation": {"ports": ["9000", "9001"]}}]}]})]);
    assert_eq!(
        made(&snapshot),
        VerdictTable { fallback: Verdict::Reject, entries: vec![entry(ALL, (9000, 9001), Verdict::Accept)] }
    );
    let v6 = table(&snapshot, &tcp_echo(), "fd00::9".parse().unwrap()).unwrap();
    assert_eq!(v6.entries, [entry(("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), (9000, 9001), Verdict::Accept)]);
}

#[test]
fn allow_nothing_and_void_rules_refuse_everything() {
    for spec in [json!({}), json!({"rules": [{"to": [{"operation": {"ports": ["9000"], "methods": ["GET"]}}]}]})] {
        assert_eq!(made(&snapshot(&[spec])), VerdictTable { fallback: Verdict::Reject, entries: vec![] });
    }
}

#[test]
fn a_denied_namespace_is_its_addresses() {
    let snapshot = snapshot(&[
        json!({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["foo"]}}], "to": [{"operation": {"ports": ["9000"]}}]}]}),
    ]);
    // The workload itself is of the namespace, too; the one outside the mesh has no identity.
    let denied = |address| entry((address, address), (9000, 9000), Verdict::Reject);
    assert_eq!(
        made(&snapshot),
        VerdictTable { fallback: Verdict::Accept, entries: vec![denied("10.0.0.5"), denied(ADDRESS)] }
    );
}

#[test]
fn blocks_reach_to_the_edges_of_the_address_space() {
    let snapshot = snapshot(&[
        json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ["0.0.0.0/1", "255.255.255.255"]}}]}]}),
    ]);
    let table = made(&snapshot);
    for (source, verdict) in [
        ("0.0.0.0", Verdict::Reject),
        ("127.255.255.255", Verdict::Reject),
        ("128.0.0.0", Verdict::Accept),
        ("255.255.255.254", Verdict::Accept),
        ("255.255.255.255", Verdict::Reject),
    ] {
        for port in [0, 1, 65535] {
            assert_eq!(table.verdict(source.parse().unwrap(), port), verdict, "{source} {port}");
        }
    }
}

#[test]
fn strict_accepts_attested_and_hands_others_to_the_proxy() {
    let strict = ("PeerAuthentication", json!({"mtls": {"mode": "STRICT"}}));
    let sleep: IpAddr = "10.0.0.5".parse().unwrap();
    for (same_node, attested) in [(SameNode::Attested, Verdict::Accept), (SameNode::Mtls, Verdict::Proxy)] {
        let snapshot = snapshot_with(Settings { same_node, ..Settings::default() }, std::slice::from_ref(&strict));
        let table = made(&snapshot);
        assert_eq!(table.verdict(sleep, 1), attested);
        assert_eq!(table.verdict("10.0.0.6".parse().unwrap(), 1), Verdict::Proxy, "outside the mesh");
        assert_eq!(table.verdict("192.0.2.1".parse().unwrap(), 1), Verdict::Proxy, "outside the cluster");
        assert_eq!(snapshot.needs_proxy(&tcp_echo()), [], "plaintext is refused without a proxy as well");
    }
}

#[test]
fn disable_drops_the_identity() {
    let specs = [
        (
            "PeerAuthentication",
            json!({"selector": {"matchLabels": {"app": "tcp-echo"}}, "mtls": {"mode": "PERMISSIVE"}, "portLevelMtls": {"9000": {"mode": "DISABLE"}}}),
        ),
        ("AuthorizationPolicy", json!({"rules": [{"from": [{"source": {"namespaces": ["foo"]}}]}]})),
    ];
    let sleep: IpAddr = "10.0.0.5".parse().unwrap();
    let verdicts = |profile| {
        let table = made(&snapshot_with(Settings { profile, ..Settings::default() }, &specs));
        [8999, 9000, 9001].map(|port| table.verdict(sleep, port))
    };
    assert_eq!(verdicts(Profile::Sidecar), [Verdict::Accept, Verdict::Reject, Verdict::Accept]); // S-81
    assert_eq!(verdicts(Profile::Ambient), [Verdict::Accept; 3]); // S-82
}

#[test]
fn what_needs_bytes_is_for_the_proxy_and_named() {
    let sni = json!({"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["9000"]}}], "when": [{"key": "connection.sni", "values": ["a"]}]}]});
    let custom = json!({"action": "CUSTOM", "provider": {"name": "ext"}, "rules": [{"to": [{"operation": {"ports": ["9001"]}}]}]});
    let mut settings = Settings::default();
    settings.providers.insert("ext".to_owned(), ProviderKind::Grpc);
    let snapshot = snapshot_with(settings, &[("AuthorizationPolicy", sni), ("AuthorizationPolicy", custom)]);
    let table = made(&snapshot);
    let source: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(
        [8999, 9000, 9001, 9002].map(|port| table.verdict(source, port)),
        [Verdict::Accept, Verdict::Proxy, Verdict::Proxy, Verdict::Accept]
    );
    let needs: Vec<_> =
        snapshot.needs_proxy(&tcp_echo()).into_iter().map(|one| (one.policy.to_string(), one.needs)).collect();
    assert_eq!(needs, [("foo/p0".to_owned(), Needs::ServerName), ("foo/p1".to_owned(), Needs::Authorizer)]);
    let connection = Connection::new(source, Peer::Anonymous, ADDRESS.parse().unwrap(), 9001);
    let decision = snapshot.decide_at_syn(&tcp_echo(), &connection);
    assert_eq!((decision.reason, decision.policy.unwrap().to_string()), (Reason::NeedsProxyPath, "foo/p1".to_owned()));
    assert!(decision.consulted, "the authorizer would have been asked");
}

#[test]
fn what_only_an_unknown_or_http_provider_would_say_needs_no_bytes() {
    let custom = json!({"action": "CUSTOM", "provider": {"name": "ext"}, "rules": [{"to": [{"operation": {"ports": ["9001"]}}]}]});
    let source: IpAddr = "192.0.2.1".parse().unwrap();
    let mut settings = Settings::default();
    for verdict in [Verdict::Reject, Verdict::Accept] {
        let snapshot = snapshot_with(settings.clone(), &[("AuthorizationPolicy", custom.clone())]);
        assert_eq!(made(&snapshot).verdict(source, 9001), verdict);
        assert_eq!(snapshot.needs_proxy(&tcp_echo()), []);
        settings.providers.insert("ext".to_owned(), ProviderKind::Http);
    }
}

#[test]
fn destination_address_is_part_of_the_table() {
    let snapshot = snapshot(&[
        json!({"action": "DENY", "rules": [{"when": [{"key": "destination.ip", "values": ["10.0.0.0/8"]}]}]}),
    ]);
    assert_eq!(made(&snapshot).fallback, Verdict::Reject);
    assert_eq!(table(&snapshot, &tcp_echo(), "fd00::9".parse().unwrap()).unwrap().fallback, Verdict::Accept);
}

#[test]
fn the_bound_holds_to_the_entry() {
    let addresses = |count: usize| {
        (0..count).map(|one| format!("11.{}.{}.{}", one >> 15, one >> 7 & 255, (one & 127) * 2)).collect::<Vec<_>>()
    };
    let with = |count: usize| {
        let snapshot = snapshot(&[json!({"rules": [{"from": [{"source": {"ipBlocks": addresses(count)}}]}]})]);
        table(&snapshot, &tcp_echo(), ADDRESS.parse().unwrap())
    };
    assert_eq!(with(ENTRIES_PER_POD_MAX).unwrap().entries.len(), ENTRIES_PER_POD_MAX);
    let refused = with(ENTRIES_PER_POD_MAX + 1).unwrap_err();
    assert_eq!(refused, TooLarge { count: ENTRIES_PER_POD_MAX + 1, bound: Bound::Entries });
    assert!(refused.to_string().contains("at least 16385 table entries, at most 16384 are allowed"), "{refused}");
}

#[test]
fn one_of_two_pods_with_the_same_identity_is_let_in_by_its_address() {
    let spec = json!({"action": "ALLOW", "rules": [{"from": [
        {"source": {"ipBlocks": ["10.0.0.5"], "principals": ["cluster.local/ns/foo/sa/sleep"]}}]}]});
    let mut mesh = Mesh {
        workloads: vec![
            workload("tcp-echo", "tcp-echo", ADDRESS),
            workload("sleep", "sleep", "10.0.0.5"),
            workload("sleep-2", "sleep", "10.0.0.6"),
            workload("sleep-3", "sleep", "10.0.0.8"),
        ],
        ..Mesh::default()
    };
    let document = json!({"kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "foo"}, "spec": spec});
    mesh.policies.push(Arc::new(authorization_policy(&document, &mesh.settings).admitted().unwrap()));
    let table = made(&compile(&mesh, 7, None));
    for (address, wanted) in
        [("10.0.0.5", Verdict::Accept), ("10.0.0.6", Verdict::Reject), ("10.0.0.8", Verdict::Reject)]
    {
        assert_eq!(table.verdict(address.parse().unwrap(), 9000), wanted, "{address}");
    }
}

/// Shapes in which one cause alone makes the entries.
#[test]
fn no_table_has_more_entries_than_is_reckoned_by_what_is_written() {
    const MANY: u8 = 50;
    let blocks: Vec<String> = (0..MANY).map(|number| format!("11.0.0.{}", 2 * number)).collect();
    let ports: Vec<String> = (0..MANY).map(|number| (9000 + 2 * u16::from(number)).to_string()).collect();
    let (by_block, to_ports) = (json!([{"source": {"ipBlocks": &blocks}}]), json!([{"operation": {"ports": ports}}]));
    let rule = |rule: Value| ("AuthorizationPolicy", json!({"rules": [rule]}));
    let denied = |rule: Value| ("AuthorizationPolicy", json!({"action": "DENY", "rules": [rule]}));
    let many = usize::from(MANY);
    for (specs, least) in [
        (vec![rule(json!({"from": by_block}))], many),
        (vec![rule(json!({"to": to_ports}))], many),
        (vec![rule(json!({"from": [{"source": {"namespaces": ["foo"]}}]}))], many),
        (vec![rule(json!({"from": by_block})), rule(json!({"to": to_ports}))], many * many),
        (vec![("PeerAuthentication", json!({"mtls": {"mode": "STRICT"}}))], many),
        (vec![rule(json!({"from": [{"source": {"notIpBlocks": blocks}}]}))], many),
        (vec![rule(json!({"from": [{"source": {"notNamespaces": ["foo"]}}]}))], many),
        (vec![rule(json!({})), denied(json!({"from": by_block}))], many),
        (vec![denied(json!({"from": by_block, "to": to_ports}))], many * many),
        (vec![rule(json!({"from": by_block, "when": [{"key": "connection.sni", "values": ["a"]}]}))], many),
    ] {
        let workloads =
            (0..MANY).map(|number| workload(&format!("w{number}"), "default", &format!("10.0.0.{}", 10 + 2 * number)));
        let mesh = mesh_with(Settings::default(), workloads.collect(), &specs);
        let (destination, snapshot) = (&mesh.workloads[0], compile(&mesh, 7, None));
        let entries = table(&snapshot, &destination.id, destination.addresses[0]).unwrap().entries.len();
        let at_most = entries_at_most(&mesh, destination);
        assert!((least..=at_most).contains(&entries), "{entries} entries, at most {at_most}: {specs:?}");
    }
}

#[test]
fn what_plainly_fits_is_known_to_fit() {
    let one = |number: usize| {
        let (block, port) = (format!("11.{}.{}.1", number >> 8, number & 255), (number + 1).to_string());
        let rule = json!({"from": [{"source": {"ipBlocks": [block]}}], "to": [{"operation": {"ports": [port]}}]});
        ("AuthorizationPolicy", json!({"rules": [rule]}))
    };
    let specs: Vec<_> = (0..ENTRIES_PER_POD_MAX).map(one).collect();
    let mesh = mesh_with(Settings::default(), vec![workload("tcp-echo", "tcp-echo", ADDRESS)], &specs);
    assert_eq!(entries_at_most(&mesh, &mesh.workloads[0]), ENTRIES_PER_POD_MAX);
}
