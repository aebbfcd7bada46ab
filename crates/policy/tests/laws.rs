//! The laws of the policy core, over generated meshes, policies and connections. `TIDEGATE_POLICY_SCALE` multiplies the number of worlds.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the scale comes from the environment")]

#[path = "support/generate.rs"]
mod generate;
#[path = "support/print.rs"]
mod print;
#[path = "support/worlds.rs"]
mod worlds;

use std::net::IpAddr;

use generate::{Random, Wish, World};
use policy::table::{entries_at_most, table};
use policy::{Answer, Connection, Peer, Reason, Snapshot, Verdict, VerdictTable, WorkloadId};
use serde_json::{Value, json};
use worlds::{SIDECAR, WORLDS, assert_disjoint, scale, worlds};

fn snapshot(world: &World) -> Snapshot {
    policy::compile(&world.mesh(), 1, None)
}

fn permits(snapshot: &Snapshot, destination: &WorkloadId, connection: &Connection) -> bool {
    snapshot.decide(destination, connection).is_permitted()
}

/// For many connections: what is permitted after is permitted before.
fn assert_shrinks(random: &mut Random, before: &World, after: &World, law: &str) {
    let (one, two) = (snapshot(before), snapshot(after));
    for _ in 0..40 {
        let connection = generate::connection(random, before);
        let id = &before.workloads[0].id;
        assert!(
            !permits(&two, id, &connection) || permits(&one, id, &connection),
            "{law}: {connection:?}\n{}",
            json!(after.documents)
        );
    }
}

fn assert_same(random: &mut Random, before: &World, after: &World, law: &str) {
    let (one, two) = (snapshot(before), snapshot(after));
    for _ in 0..40 {
        let connection = generate::connection(random, before);
        let id = &before.workloads[0].id;
        assert_eq!(
            permits(&one, id, &connection),
            permits(&two, id, &connection),
            "{law}: {connection:?}\n{}",
            json!(after.documents)
        );
    }
}

#[test]
fn table_is_decide_for_every_cell() {
    let mut seen = [0_u64; 3];
    let mut cells = 0_u64;
    for (seed, mut random, world) in worlds(1) {
        let snapshot = snapshot(&world);
        let destination = &world.workloads[0];
        let at_most = entries_at_most(&world.mesh(), destination);
        for address in &destination.addresses {
            let table = table(&snapshot, &destination.id, *address).unwrap();
            assert_disjoint(&table);
            assert!(table.entries.len() <= at_most, "seed {seed}: {} entries, at most {at_most}", table.entries.len());
            let cut = snapshot.cut(&destination.id, *address).unwrap();
            for sources in &cut.sources {
                for ports in &cut.ports {
                    let within = *ports.start()
                        + u16::try_from(random.below(usize::from(ports.end() - ports.start()) + 1)).unwrap();
                    for (source, port) in
                        [(*sources.start(), *ports.start()), (*sources.end(), *ports.end()), (*sources.start(), within)]
                    {
                        if source.to_canonical() != source {
                            continue; // no peer has such an address (S-57)
                        }
                        cells += 1;
                        let verdict = assert_cell(&snapshot, &table, &destination.id, source, *address, port, seed);
                        seen[verdict as usize] += 1;
                    }
                }
            }
            for _ in 0..30 {
                let source = generate::address(&mut random);
                if source.to_canonical().is_ipv4() == address.is_ipv4() {
                    assert_cell(
                        &snapshot,
                        &table,
                        &destination.id,
                        source,
                        *address,
                        generate::port(&mut random),
                        seed,
                    );
                }
            }
        }
    }
    assert!(cells > 20_000 && seen.iter().all(|count| *count > cells / 100), "one-sided: {seen:?} of {cells}");
}

fn assert_cell(
    snapshot: &Snapshot,
    table: &VerdictTable,
    destination: &WorkloadId,
    source: IpAddr,
    address: IpAddr,
    port: u16,
    seed: u64,
) -> Verdict {
    let peer = snapshot.at(source).peer();
    let mut connection = Connection::new(source, peer, address, port);
    let decision = snapshot.decide_at_syn(destination, &connection);
    let wanted = match decision.reason {
        Reason::NeedsProxyPath | Reason::MtlsRequired => Verdict::Proxy,
        _ if decision.is_permitted() => Verdict::Accept,
        _ => Verdict::Reject,
    };
    let found = table.verdict(source, port);
    assert_eq!(found, wanted, "seed {seed}: {source} to {address}:{port}, {:?}", decision.reason);
    assert_eq!(found == Verdict::Accept, decision.is_permitted());
    // Whatever the bytes are, they do not change what the kernel decided without them.
    for sni in [None, Some("a.example"), Some("b.example"), Some("x")] {
        for answer in [Answer::Allow, Answer::Deny] {
            connection.sni = sni.map(str::to_owned);
            connection.answers = vec![("grpc".to_owned(), answer)];
            let permitted = snapshot.decide(destination, &connection).is_permitted();
            match found {
                Verdict::Accept => assert!(permitted, "seed {seed}: {connection:?}"),
                Verdict::Reject => assert!(!permitted, "seed {seed}: {connection:?}"),
                Verdict::Proxy => {}
            }
        }
    }
    found
}

#[test]
fn deny_overrides() {
    let mut overridden = 0_u64;
    for (seed, mut random, world) in worlds(11) {
        let whole = snapshot(&world);
        let id = &world.workloads[0].id;
        let denies: Vec<Snapshot> = world
            .documents
            .iter()
            .filter(|one| one["spec"]["action"] == "DENY")
            .map(|one| snapshot(&World { documents: vec![one.clone()], ..world.clone() }))
            .collect();
        for _ in 0..10 {
            let connection = generate::connection(&mut random, &world);
            // A mode that drops the identity is another connection to a DENY rule.
            if world.documents.iter().any(|one| one["spec"]["mtls"].is_object()) {
                break;
            }
            if denies.iter().any(|alone| !permits(alone, id, &connection)) {
                overridden += 1;
                assert!(!permits(&whole, id, &connection), "seed {seed}: {connection:?}");
            }
        }
    }
    assert!(overridden > WORLDS / 4, "only {overridden} connections met a DENY");
}

#[test]
fn default_deny_exactly_where_an_enforced_allow_policy_applies() {
    let mut seen = [0_u64; 2];
    for (seed, mut random, world) in worlds(12) {
        let whole = snapshot(&world);
        let id = &world.workloads[0].id;
        let peers = world.documents.iter().filter(|one| one["kind"] == "PeerAuthentication").cloned();
        let peers: Vec<Value> = peers.collect();
        let applies = |policy: &Value, connection: &Connection| {
            let mut open = policy.clone();
            open["spec"]["rules"] = json!([{}]);
            let alone = World { documents: [peers.clone(), vec![open]].concat(), ..world.clone() };
            snapshot(&alone).decide(id, connection).reason == Reason::AllowMatch
        };
        for _ in 0..3 {
            let connection = generate::connection(&mut random, &world);
            let default_deny = match whole.decide(id, &connection).reason {
                Reason::AllowMatch | Reason::AllowNoMatch => true,
                Reason::NoAllowPolicies => false,
                _ => continue,
            };
            seen[usize::from(default_deny)] += 1;
            let mut allows = world.documents.iter().filter(|one| one["spec"]["action"] == "ALLOW");
            assert_eq!(allows.any(|one| applies(one, &connection)), default_deny, "seed {seed}");
        }
    }
    assert!(seen.iter().all(|count| *count > WORLDS / 4), "{seen:?}");
}

#[test]
fn printing_what_was_read_and_reading_it_again_changes_nothing() {
    for (seed, _, world) in worlds(13) {
        for document in world.documents.iter().filter(|one| one["spec"]["mtls"].is_null()) {
            let read = |document: &Value| policy::parse::authorization_policy(document, &world.settings).value.unwrap();
            let once = read(document);
            assert_eq!(read(&print::policy(&once)), once, "seed {seed}: {document}");
        }
    }
}

#[test]
fn adding_a_deny_never_permits() {
    for (_, mut random, world) in worlds(2) {
        let mut more = world.clone();
        let mut deny =
            generate::policy(&mut random, 99, Wish { profile: world.settings.profile, ..SIDECAR }, &world.settings);
        if deny["spec"]["rules"].as_array().is_some_and(|rules| !rules.is_empty()) && deny["spec"]["provider"].is_null()
        {
            deny["spec"]["action"] = "DENY".into();
            more.documents.push(deny);
        }
        assert_shrinks(&mut random, &world, &more, "a DENY was added");
    }
}

#[test]
fn adding_an_allow_rule_to_a_policy_never_removes() {
    for (_, mut random, world) in worlds(3) {
        let mut more = world.clone();
        let donor =
            generate::policy(&mut random, 99, Wish { profile: world.settings.profile, ..SIDECAR }, &world.settings);
        let rules = donor["spec"]["rules"].as_array().unwrap().clone();
        if donor["spec"]["provider"].is_null()
            && let Some(allow) = more.documents.iter_mut().find(|one| one["spec"]["action"] == "ALLOW")
        {
            allow["spec"]["rules"].as_array_mut().unwrap().extend(rules);
        }
        assert_shrinks(&mut random, &more, &world, "an ALLOW rule was removed");
    }
}

#[test]
fn order_and_duplicates_do_not_matter() {
    for (_, mut random, world) in worlds(4) {
        let mut other = world.clone();
        for index in (1..other.documents.len()).rev() {
            other.documents.swap(index, random.below(index + 1));
        }
        for document in &mut other.documents {
            if let Some(rules) = document["spec"]["rules"].as_array_mut() {
                rules.reverse();
                rules.extend(rules.first().cloned());
            }
        }
        let mut copies: Vec<Value> =
            other.documents.iter().filter(|one| one["kind"] == "AuthorizationPolicy").take(2).cloned().collect();
        for (index, copy) in copies.iter_mut().enumerate() {
            copy["metadata"]["name"] = format!("copy{index}").into();
        }
        // A CUSTOM policy of another provider would be one provider more; the copies keep theirs.
        other.documents.extend(copies);
        assert_same(&mut random, &world, &other, "order and duplicates");
    }
}

#[test]
fn trials_change_no_verdict() {
    for (_, mut random, world) in worlds(5) {
        let mut without = world.clone();
        without.documents.retain(|one| one["metadata"]["annotations"]["istio.io/dry-run"] != "true");
        assert_same(&mut random, &world, &without, "trials");
    }
}

#[test]
fn other_namespaces_change_nothing() {
    for (_, mut random, world) in worlds(6) {
        let home = world.workloads[0].id.namespace.clone();
        let mut without = world.clone();
        without.documents.retain(|one| {
            one["metadata"]["namespace"] == home.as_str() || one["metadata"]["namespace"] == "istio-system"
        });
        assert_same(&mut random, &world, &without, "policies of other namespaces");
    }
}

#[test]
fn mapped_peers_are_ipv4() {
    for (_, mut random, world) in worlds(7) {
        let snapshot = snapshot(&world);
        for _ in 0..40 {
            let mut connection = generate::connection(&mut random, &world);
            let reason = snapshot.decide(&world.workloads[0].id, &connection).reason;
            for address in [&mut connection.source, &mut connection.destination] {
                if let IpAddr::V4(v4) = *address {
                    *address = v4.to_ipv6_mapped().into();
                }
            }
            assert_eq!(snapshot.decide(&world.workloads[0].id, &connection).reason, reason, "{connection:?}");
        }
    }
}

#[test]
fn a_defect_only_shrinks() {
    // P1: an L4 field that is replaced by one which only HTTP has, in objects that pass admission, in the sidecar profile.
    for number in 0..WORLDS * scale() {
        let mut random = Random((8 << 40) + number);
        let world = generate::world(&mut random, SIDECAR);
        let mut broken = world.clone();
        let rules = broken.documents.iter_mut().filter_map(|one| one["spec"]["rules"].as_array_mut()).flatten();
        for rule in rules.filter(|_| random.percent(50)).collect::<Vec<_>>() {
            for (list, inner, http) in [("from", "source", "requestPrincipals"), ("to", "operation", "methods")] {
                let entry = rule[list].as_array_mut().and_then(|entries| entries.first_mut());
                if let Some(fields) = entry.and_then(|entry| entry[inner].as_object_mut()) {
                    let first = fields.keys().next().unwrap().clone();
                    fields.remove(&first);
                    fields.insert(http.to_owned(), json!(["GET"]));
                }
            }
        }
        assert_shrinks(&mut random, &world, &broken, "a field was broken");
    }
}

#[test]
fn unknown_is_refused_and_outside_the_mesh_is_open() {
    let mut world = generate::world(&mut Random(1), SIDECAR);
    world.workloads[0].in_mesh = false;
    let snapshot = snapshot(&world);
    let address = world.workloads[0].addresses[0];
    let connection = Connection::new(address, Peer::Anonymous, address, 80);
    let stranger = WorkloadId::new("foo", "stranger");
    let decision = snapshot.decide(&stranger, &connection);
    assert_eq!(decision.verdict.unwrap_err().reason, Reason::UnknownWorkload);
    assert_eq!(table(&snapshot, &stranger, address).unwrap(), VerdictTable::refusing());
    assert_eq!(table(&snapshot, &world.workloads[0].id, address).unwrap(), VerdictTable::open());
    assert!(snapshot.decide(&world.workloads[0].id, &connection).is_permitted());
    assert_eq!(snapshot.at(address).peer(), Peer::Anonymous);
}

#[test]
fn a_workload_of_the_root_namespace_gets_its_policies_once() {
    // S-24
    for (seed, _, mut world) in worlds(10).take(40) {
        world.workloads[0].id.namespace = "istio-system".to_owned();
        let snapshot = snapshot(&world);
        let policies: Vec<_> = snapshot.workload(&world.workloads[0].id).unwrap().policies().collect();
        let distinct: std::collections::BTreeSet<_> = policies.iter().collect();
        assert_eq!(distinct.len(), policies.len(), "seed {seed}");
    }
}

#[test]
fn an_address_of_two_workloads_has_no_identity() {
    let mut world = generate::world(&mut Random(2), SIDECAR);
    for workload in &mut world.workloads {
        workload.in_mesh = true;
    }
    let address = world.workloads[1].addresses[0];
    assert_ne!(snapshot(&world).at(address).peer(), Peer::Anonymous);
    world.workloads[2].addresses.push(address);
    assert_eq!(snapshot(&world).at(address).peer(), Peer::Anonymous);
}
