//! The laws of the cut over generated meshes, with the evaluator that enforces as judge.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::compare::keys;
use super::ground::{DESTINATIONS, Ground, PEERS, PORTS, SERVER_NAMES, SOURCES};
use super::side::{Outcome, Role, Stages, authorizers, ground};
use super::term::Term;
use super::tree::{Cell, Tree};
use super::{
    Among, Bound, Fate, Proof, Region, Relation, Wanted, compare, compare_meshes, place, rules, search, search_each,
};
use crate::address::canonical;
use crate::compile::compile;
use crate::decide::{Answer, Connection};
use crate::identity::{Peer, SpiffeId};
use crate::matcher::{Names, Truth, View};
use crate::mesh::{Mesh, Profile, ProviderKind, Settings, Workload, WorkloadId};
use crate::parse::authorization_policy;
use crate::snapshot::Snapshot;

#[path = "../../tests/support/generate.rs"]
mod generate;

use generate::{Random, Wish, World};

const WORLDS: u64 = 600;
const CONNECTIONS: usize = 60;

fn worlds(law: u64) -> impl Iterator<Item = (u64, Random, World)> {
    (0..WORLDS).map(move |number| {
        let seed = (law << 44) + number;
        let mut random = Random(seed);
        let profile = if number % 3 == 0 { Profile::Ambient } else { Profile::Sidecar };
        let world = generate::world(&mut random, Wish { profile, admissible: number % 4 != 0, policies_max: 6 });
        (seed, random, world)
    })
}

fn snapshot(world: &World) -> Snapshot {
    compile(&world.mesh(), 1, None)
}

/// A name that hits patterns and their edges.
fn name(random: &mut Random) -> String {
    let count = 1 + random.below(4);
    let pieces =
        ["f", "o", "foo", "bar", "r", "ns", "sa", "td1", "old", "x", "sleep", "web", "cluster.local", "*", "é"];
    (0..count).map(|_| random.pick(&pieces)).collect()
}

/// A connection of which the cut speaks: nobody, or one identity.
fn connection(random: &mut Random, world: &World) -> Connection {
    let mut connection = generate::connection(random, world);
    let known = ["foo", "bar", "sleep", "web", "cluster.local", "td1", "old"];
    let any = |random: &mut Random| if random.percent(60) { random.pick(&known).to_owned() } else { name(random) };
    connection.peer = match random.below(4) {
        0 => Peer::Anonymous,
        1 => Peer::verified(&format!("spiffe://{}/ns/{}/sa/{}", any(random), any(random), any(random))),
        _ => Peer::Attested(SpiffeId::new(&any(random), &any(random), &any(random)).unwrap()),
    };
    if random.percent(30) {
        connection.sni = Some(name(random));
    }
    connection
}

/// The class of a connection in each dimension.
fn classes(ground: &Ground, connection: &Connection) -> [usize; 5] {
    let id = connection.peer.id();
    let own = id.map_or(0, |id| ground.attested(id).unwrap());
    let is_certificate = matches!(connection.peer, Peer::Verified(_)) && ground.has_verified();
    let (source, destination) = (canonical(connection.source), canonical(connection.destination));
    let name = connection.sni.as_deref().filter(|name| !name.is_empty());
    [
        if is_certificate { own + ground.identities.classes.len() } else { own },
        ground.sources.iter().position(|range| range.contains(&source)).unwrap(),
        ground.destinations.iter().position(|range| range.contains(&destination)).unwrap(),
        name.map_or(ground.server_names.classes.len(), |name| ground.server_names.class_of(name).unwrap()),
        ground.ports.iter().position(|range| range.contains(&connection.port)).unwrap(),
    ]
}

fn contains(ground: &Ground, cell: &Cell, classes: [usize; 5]) -> bool {
    [PEERS, SOURCES, DESTINATIONS, SERVER_NAMES, PORTS].into_iter().all(|at| {
        let members = ground.dimensions[at].classes(&cell[at]);
        members.contains(&classes[at])
    })
}

/// Every connection lies in exactly one cell, and the verdict there is its own.
#[test]
fn within_one_cell_all_connections_are_decided_alike() {
    let (mut permitted, mut all) = (0, 0);
    for (seed, mut random, world) in worlds(1) {
        let snapshot = snapshot(&world);
        let id = &world.workloads[0].id;
        let place = place(&snapshot, id);
        let names = authorizers(&[place]).unwrap();
        let acting = place.acting(&place.rules(&names), 0);
        let terms: Vec<Term<'_>> = acting.iter().map(|acting| acting.term.clone()).collect();
        let stages = Stages::new(place, &acting, 0, names.len());
        let ground = ground(&[place], &terms).unwrap();
        let tree =
            Tree::build(&ground.dimensions, &keys(&acting), |live, certain| stages.outcome(live, certain)).unwrap();
        let (cells, _) = tree.cells(&ground.dimensions, usize::MAX, |_| true);
        for _ in 0..CONNECTIONS {
            let connection = connection(&mut random, &world);
            let here = classes(&ground, &connection);
            let own: Vec<Outcome> =
                cells.iter().filter(|(cell, _)| contains(&ground, cell, here)).map(|(_, outcome)| *outcome).collect();
            let [outcome] = own.as_slice() else { panic!("seed {seed}: {own:?} for {connection:?}") };
            let allows = |at: usize| connection.answers.contains(&(names[at].to_string(), Answer::Allow));
            let expected = match outcome {
                Outcome::Denied => false,
                Outcome::Permitted(asked) => (0..names.len()).all(|at| asked >> at & 1 == 0 || allows(at)),
            };
            let decided = snapshot.decide(id, &connection).is_permitted();
            assert_eq!(decided, expected, "seed {seed}: {connection:?} {outcome:?}\n{}", json!(world.documents));
            all += 1;
            permitted += usize::from(decided);
        }
    }
    assert!(permitted > all / 5 && permitted < all * 4 / 5, "one-sided: {permitted} of {all}");
}

fn changed(random: &mut Random, world: &World) -> World {
    let mut after = world.clone();
    let wish = Wish { profile: world.settings.profile, admissible: true, policies_max: 6 };
    match random.below(3) {
        0 if !after.documents.is_empty() => {
            let at = random.below(after.documents.len());
            after.documents.remove(at);
        }
        1 => after.documents.push(generate::policy(random, 9, wish, &world.settings)),
        _ => after.documents = generate::world(random, wish).documents,
    }
    after
}

fn assert_witnesses(regions: &[Region], id: &WorkloadId, less: &Snapshot, more: &Snapshot, seed: u64) {
    for region in regions {
        let within = region.ports.iter().any(|range| range.contains(&region.witness.port))
            && region.sources.iter().any(|range| range.contains(&region.witness.source));
        assert!(within, "seed {seed}: {region:?}");
        assert!(more.decide(id, &region.witness).is_permitted(), "seed {seed}: {region:?}");
        assert!(!less.decide(id, &region.witness).is_permitted(), "seed {seed}: {region:?}");
    }
}

#[test]
fn a_comparison_agrees_with_every_connection_and_every_witness_is_one() {
    let mut relations = BTreeSet::new();
    for (seed, mut random, world) in worlds(2) {
        let other = changed(&mut random, &world);
        let (before, after) = (snapshot(&world), snapshot(&other));
        let id = &world.workloads[0].id;
        let comparison = compare(&before, &after, id);
        relations.insert(comparison.relation);
        assert_witnesses(&comparison.opened, id, &before, &after, seed);
        assert_witnesses(&comparison.closed, id, &after, &before, seed);
        for _ in 0..CONNECTIONS {
            let connection = connection(&mut random, &world);
            let (one, two) =
                (before.decide(id, &connection).is_permitted(), after.decide(id, &connection).is_permitted());
            let regions = if one { &comparison.closed } else { &comparison.opened };
            let may_hold = |region: &&Region| {
                region.ports.iter().any(|range| range.contains(&connection.port))
                    && region.sources.iter().any(|range| range.contains(&canonical(connection.source)))
                    && (region.destinations.is_empty()
                        || region.destinations.iter().any(|range| range.contains(&canonical(connection.destination))))
            };
            assert!(one == two || regions.iter().any(|region| may_hold(&region)), "seed {seed}: {connection:?}");
        }
        assert_eq!(compare(&before, &before, id).relation, Relation::Equivalent);
        let opposite = compare(&after, &before, id);
        assert_eq!((opposite.opened, opposite.closed), (comparison.closed, comparison.opened), "seed {seed}");
    }
    assert_eq!(relations.len(), 4, "{relations:?}");
}

#[test]
fn a_search_finds_what_there_is_and_nothing_else() {
    let (mut proved, mut refuted, mut vacuous) = (0, 0, 0);
    for (seed, mut random, world) in worlds(3) {
        let snapshot = snapshot(&world);
        let id = &world.workloads[0].id;
        let wish = Wish { profile: world.settings.profile, admissible: true, policies_max: 1 };
        let policy = authorization_policy(&generate::policy(&mut random, 0, wish, &world.settings), &world.settings);
        let policy = policy.value.unwrap();
        let Some(among) = policy.rules.iter().find_map(|rule| Among::new(rule, "foo", &world.settings).ok()) else {
            continue;
        };
        let asked_about = |connection: &Connection| {
            let verified = connection.peer.id();
            let view = View {
                source: connection.source.into(),
                destination: connection.destination.into(),
                port: connection.port,
                names: verified.map_or(Names::None, Names::One),
                server_name: Some(connection.sni.as_deref().unwrap_or_default()),
            };
            among.rule.truth(&view) == Truth::True
        };
        for wanted in [Wanted::Permitted, Wanted::Denied] {
            let proof = search(&snapshot, id, wanted, &among);
            let each = search_each(&snapshot, std::slice::from_ref(id), wanted, &among);
            assert_eq!(each, std::slice::from_ref(&proof), "seed {seed}");
            match &proof {
                Proof::Proved { .. } => proved += 1,
                Proof::Vacuous => vacuous += 1,
                Proof::Refuted(regions) => {
                    refuted += 1;
                    for region in regions {
                        assert!(asked_about(&region.witness), "seed {seed}: {region:?}");
                        let decided = snapshot.decide(id, &region.witness).is_permitted();
                        assert_eq!(decided, wanted == Wanted::Permitted, "seed {seed}: {region:?}");
                    }
                }
                Proof::Inconclusive(bound) => panic!("seed {seed}: {bound:?}"),
            }
            for _ in 0..CONNECTIONS {
                let connection = connection(&mut random, &world);
                let found = snapshot.decide(id, &connection).is_permitted() == (wanted == Wanted::Permitted);
                let unanswered = connection.answers.len() < 3;
                assert!(
                    !asked_about(&connection) || !found || unanswered || matches!(proof, Proof::Refuted(_)),
                    "seed {seed}: {connection:?}"
                );
            }
        }
    }
    assert!(proved > 20 && refuted > 20 && vacuous > 0, "one-sided: {proved} {refuted} {vacuous}");
}

/// A rule changes a verdict if and only if the set without it is not equivalent.
#[test]
fn a_rule_is_effective_where_leaving_it_out_makes_a_difference() {
    let mut seen = [0; 5];
    for (seed, _, world) in worlds(4) {
        let before = snapshot(&world);
        let id = &world.workloads[0].id;
        let roles = place(&before, id).rules(&authorizers(&[place(&before, id)]).unwrap());
        for found in rules(&before, id).unwrap() {
            let at =
                |policy: &Arc<crate::PolicyId>, rule: usize| *found.rule.policy == **policy && found.rule.rule == rule;
            let role = roles.iter().find(|(_, one)| at(one.policy.id(), one.index)).unwrap().0;
            seen[match &found.fate {
                Fate::Effective => 0,
                Fate::Dead => 1,
                Fate::Shadowed { .. } => 2,
                Fate::Redundant { .. } => 3,
                Fate::Idle => 4,
            }] += 1;
            if let Fate::Shadowed { by } | Fate::Redundant { by } = &found.fate {
                assert!(!by.is_empty() && !by.contains(&found.rule), "seed {seed}");
            }
            if matches!(role, Role::Audit | Role::TrialDeny | Role::TrialAllow) {
                continue;
            }
            let mut without = world.mesh();
            for policy in &mut without.policies {
                if policy.id == found.rule.policy {
                    Arc::make_mut(policy).rules.remove(found.rule.rule);
                }
            }
            let relation = compare(&before, &compile(&without, 2, None), id).relation;
            let audited = roles.iter().any(|(role, _)| *role == Role::Audit);
            let makes_difference = relation != Relation::Equivalent;
            if audited && matches!(role, Role::Bad | Role::Ask(_)) {
                // What is refused by an authorizer is not marked: that is a difference, too.
                assert!(!makes_difference || found.fate == Fate::Effective, "seed {seed}: {found:?}");
            } else {
                let documents = json!(world.documents);
                assert_eq!(
                    found.fate == Fate::Effective,
                    makes_difference,
                    "seed {seed}: {found:?} {relation:?}\n{documents}"
                );
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 10), "one-sided: {seen:?}");
}

fn workload(namespace: &str, name: &str) -> Workload {
    Workload {
        id: WorkloadId::new(namespace, name),
        labels: [("app".to_owned(), name.to_owned())].into(),
        service_account: name.to_owned(),
        addresses: Vec::new(),
        in_mesh: true,
    }
}

fn mesh(specs: &[Value]) -> Mesh {
    let mut mesh = Mesh { workloads: vec![workload("foo", "tcp-echo"), workload("bar", "sleep")], ..Mesh::default() };
    mesh.settings.providers.insert("ext".to_owned(), ProviderKind::Grpc);
    for (index, spec) in specs.iter().enumerate() {
        let document = json!({"kind": "AuthorizationPolicy", "metadata": {"name": format!("p{index}"), "namespace": "foo"}, "spec": spec});
        mesh.policies.push(Arc::new(authorization_policy(&document, &mesh.settings).admitted().unwrap()));
    }
    mesh
}

fn ports(ports: &[&str]) -> Value {
    json!([{"operation": {"ports": ports}}])
}

/// What opens and what closes, in words.
fn told(before: &[Value], after: &[Value]) -> (Vec<String>, Vec<String>) {
    let (before, after) = (compile(&mesh(before), 1, None), compile(&mesh(after), 2, None));
    let comparison = compare(&before, &after, &WorkloadId::new("foo", "tcp-echo"));
    let words = |regions: Vec<Region>| regions.iter().map(ToString::to_string).collect();
    (words(comparison.opened), words(comparison.closed))
}

#[test]
fn regions_in_words() {
    let namespace = |name: &str| json!([{"source": {"namespaces": [name]}}]);
    let two = json!({"rules": [{"to": ports(&["9000", "9001"])}]});
    for (before, after, opened, closed) in [
        (vec![], vec![two.clone()], vec![], vec!["from everyone, ports 1–8999 and 9002–65535"]),
        (
            vec![two.clone()],
            vec![two, json!({"rules": [{"from": namespace("foo")}]})],
            vec!["from any workload of namespace foo, ports 1–8999 and 9002–65535"],
            vec![],
        ),
        (
            vec![],
            vec![
                json!({"action": "DENY", "rules": [{"from": [{"source": {"notPrincipals": ["cluster.local/ns/bar/sa/sleep"]}}], "to": ports(&["9000"])}]}),
            ],
            vec![],
            vec!["from everyone but identity cluster.local/ns/bar/sa/sleep, port 9000"],
        ),
        (
            vec![json!({})],
            vec![
                json!({"rules": [{"from": [{"source": {"namespaces": ["f*"], "notNamespaces": ["foo"], "ipBlocks": ["10.0.0.0/8"]}}], "when": [{"key": "connection.sni", "values": ["*.example"]}]}]}),
            ],
            vec!["from any workload of namespaces `f*` but foo at 10.0.0.0/8, any port, with server names `*.example`"],
            vec![],
        ),
        (
            vec![],
            vec![json!({"action": "DENY", "rules": [{"from": [{"source": {"notPrincipals": ["*"]}}]}]})],
            vec![],
            vec!["from clients without identity, any port"],
        ),
        (
            vec![],
            vec![json!({"action": "CUSTOM", "provider": {"name": "ext"}, "rules": [{"to": ports(&["1"])}]})],
            vec![],
            vec!["from everyone, port 1, if authorizer ext refuses it"],
        ),
        (
            vec![json!({})],
            vec![json!({"rules": [{"from": [{"source": {"serviceAccounts": ["bar/sleep", "foo/x"]}}]}]})],
            vec!["from service account bar/sleep and service account foo/x, any port"],
            vec![],
        ),
    ] {
        let expected = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(told(&before, &after), (expected(opened), expected(closed)), "{after:?}");
    }
}

#[test]
fn patterns_that_explode_are_inconclusive_and_never_proved() {
    let many: Vec<String> =
        (0..40).map(|at| format!("*{}*{}*", char::from(b'a' + at % 26), char::from(b'a' + at / 2))).collect();
    let rules: Vec<Value> = many
        .iter()
        .map(|pattern| json!({"from": [{"source": {"namespaces": [pattern]}}], "to": ports(&["1"])}))
        .collect();
    let before = compile(&mesh(&[json!({"rules": rules})]), 1, None);
    let after = compile(&mesh(&[json!({"rules": rules.get(1..)})]), 2, None);
    let id = WorkloadId::new("foo", "tcp-echo");
    assert_eq!(compare(&before, &after, &id).relation, Relation::Inconclusive(Bound::Classes));
    assert_eq!(super::rules(&before, &id), Err(Bound::Classes));
    let rule = mesh(&[json!({"rules": [{"to": ports(&["1"])}]})]).policies[0].rules[0].clone();
    let among = Among::new(&rule, "foo", &Settings::default()).unwrap();
    assert_eq!(search(&before, &id, Wanted::Permitted, &among), Proof::Inconclusive(Bound::Classes));
}

#[test]
fn what_is_not_told_is_said_to_be_there() {
    let with = |count: usize, port: &str| {
        let rule = |at: usize| json!({"from": [{"source": {"ipBlocks": [format!("10.{}.{}.0/24", at / 200, at % 200)], "namespaces": [format!("n{at}")]}}], "to": ports(&[port])});
        let rules: Vec<Value> = (0..count).map(rule).collect();
        let specs: Vec<Value> = rules.chunks(500).map(|rules| json!({"rules": rules})).collect();
        compile(&mesh(&specs), 1, None)
    };
    let id = WorkloadId::new("foo", "tcp-echo");
    let few = compare(&with(20, "1"), &with(20, "2"), &id);
    assert_eq!((few.relation, few.more, few.opened.len(), few.closed.len()), (Relation::Incomparable, false, 20, 20));
    let many = compare(&with(510, "1"), &with(510, "2"), &id);
    assert_eq!((many.relation, many.more), (Relation::Incomparable, true));
    assert!(!many.opened.is_empty() || !many.closed.is_empty());
}

#[test]
fn policies_without_workloads_are_compared_for_every_kind_of_workload() {
    let with = |specs: &[Value]| Mesh { workloads: Vec::new(), ..mesh(specs) };
    let select =
        |app: &str, port: &str| json!({"selector": {"matchLabels": {"app": app}}, "rules": [{"to": ports(&[port])}]});
    let before = with(&[select("a", "1"), select("b", "2")]);
    let after = with(&[select("a", "1"), select("b", "3")]);
    let difference = compare_meshes(&before, &after);
    let told: Vec<(String, Relation)> =
        difference.destinations.iter().map(|(at, comparison)| (at.to_string(), comparison.relation)).collect();
    assert_eq!(told, [("any workload of namespace foo with app=b".to_owned(), Relation::Incomparable)]);
    assert_eq!(difference.relation, Relation::Incomparable);
    let super::Destination::Labelled { example, .. } = &difference.destinations[0].0 else { panic!() };
    assert_witnesses(&difference.destinations[0].1.opened, &example.id, &difference.before, &difference.after, 0);
    assert_eq!(compare_meshes(&before, &before).relation, Relation::Equivalent);
    // A workload that comes is no change of policy.
    let grown = Mesh { workloads: vec![workload("foo", "a")], ..before.clone() };
    let difference = compare_meshes(&before, &grown);
    assert_eq!((difference.relation, difference.only_after), (Relation::Equivalent, vec![WorkloadId::new("foo", "a")]));
    let everywhere = super::rules_everywhere(&with(&[select("a", "1"), json!({"action": "DENY", "rules": [{}]})]));
    let fates: Vec<_> = everywhere.into_iter().map(|(name, fate)| (name.to_string(), fate.unwrap())).collect();
    assert_eq!(fates[0].0, "foo/p0 rule 0");
    assert!(matches!(&fates[0].1, Fate::Shadowed { by } if by.len() == 1 && by[0].to_string() == "foo/p1 rule 0"));
    assert_eq!(fates[1].1, Fate::Effective);
}
