//! Open connections, their end, and the story of one decision: `conns`, `conns close`, `why`.
#![cfg(test)]

use e2e::running::Running;
use e2e::world::World;

/// A connection that stays open, through which a word has passed.
fn open(world: &World, client: &str, namespace: &str) -> Running {
    let place = format!("{} 9000", world.address("server"));
    let mut open =
        Running::of(world.start(&format!("exec kubectl exec -i {client} -n {namespace} -c app -- nc {place}")));
    assert!(open.echoes("first"), "{client}");
    open
}

/// The ids in the first column of `conns`.
fn ids(world: &World, filter: &str) -> Vec<String> {
    let table = world.must(&format!("tidegate conns {filter}"));
    table.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn open_connections_are_listed_with_age_and_policy_and_can_be_closed_one_by_one() {
    let world = World::new();
    let none = world.run("tidegate conns");
    assert!(none.status.success() && none.stdout.is_empty(), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("No open connections found."), "{none:?}");
    world.policy(
        "foo/two",
        "{selector: {matchLabels: {app: server}}, action: ALLOW, rules: [{from: [{source: {serviceAccounts: [alice]}}]}, \
         {from: [{source: {namespaces: [bar]}}]}]}",
    );
    let mut alice = open(&world, "alice", "foo");
    let mut carol = open(&world, "carol", "bar");
    let table = world.must("tidegate conns");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["ID", "AGE", "FROM", "TO", "POLICY", "RULE"]);
    for (line, words) in [
        (lines[1], ["foo/alice (account alice)", "foo/server:9000", "foo/two", "   0"]),
        (lines[2], ["bar/carol (account carol)", "foo/server:9000", "foo/two", "   1"]),
    ] {
        assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {line}");
    }
    for (filter, count) in [
        ("-n bar", 1),
        ("--workload server.foo", 2),
        ("--workload pod/alice", 1),
        ("--port 9001", 0),
        ("--from 10.0.0.1", 0),
    ] {
        let list = world.must(&format!("tidegate conns {filter} -o json"));
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{filter}: {list}");
    }

    let mut tap = Running::of(world.start("exec tidegate tap --verdict allowed -o json"));
    tap.until(&["from here on"]);
    let wanted = ids(&world, "--workload alice");
    assert_eq!(world.must(&format!("tidegate conns close {}", wanted[0])), "1 connection closed\n");
    assert!(alice.ends().1.contains("first"), "nc ends when its connection is reset");
    assert!(carol.echoes("second"), "no other connection is touched");
    let record = tap.until(&["alice"]);
    assert!(record.contains(r#""close":"closed""#), "{record}");
    assert_eq!(ids(&world, "").len(), 1);
    let again = world.run(&format!("tidegate conns close {}", wanted[0]));
    assert_eq!(again.status.code(), Some(1), "{again:?}");

    let why = world.must(&format!("tidegate why {}", wanted[0]));
    for word in ["allowed", "foo/two rule 0 allows it", "(attested)", "ended       closed", "as the mesh is now"] {
        assert!(why.contains(word), "{word}: {why}");
    }
    assert_eq!(world.must("tidegate conns close -n bar"), "1 connection closed\n");
    carol.ends();
    for (arguments, code) in [("close", 64), ("close 12", 64), ("close 0000000000000001", 1)] {
        let output = world.run(&format!("tidegate conns {arguments}"));
        assert_eq!(output.status.code(), Some(code), "{arguments}: {output:?}");
    }
}

#[test]
fn a_decision_is_told_whole_by_its_id_with_the_edit_that_would_turn_it() {
    let world = World::new();
    world.policy(
        "foo/only-alice",
        "{selector: {matchLabels: {app: server}}, action: ALLOW, rules: [{from: [{source: {serviceAccounts: [alice]}}]}]}",
    );
    let none = world.run("tidegate why");
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("nothing was denied"), "{none:?}");
    let mut tap = Running::of(world.start("exec tidegate tap"));
    tap.until(&["from here on"]);
    assert_eq!(world.tries("bob", &[&format!("{} 9000", world.address("server"))]), ["no"]);
    let line = tap.until(&["foo/bob"]);
    let id = line.rsplit_once('[').unwrap().1.trim_end_matches(']');
    for command in [format!("tidegate why {id}"), format!("tidegate explain {id}"), "tidegate why".to_owned()] {
        let why = world.must(&command);
        for word in [
            id,
            "verdict     denied",
            "nearest: foo/only-alice rule 0",
            "spiffe://cluster.local/ns/foo/sa/bob (attested)",
            "ended       refused",
            "as the mesh is now",
            "+",
        ] {
            assert!(why.contains(word), "{word}: {why}");
        }
    }
    let json: serde_json::Value = serde_json::from_str(&world.must(&format!("tidegate why {id} -o json"))).unwrap();
    assert_eq!((&json["id"], &json["nearest"]["policy"]["name"]), (&id.into(), &"only-alice".into()), "{json}");
    for (id, code) in [("12", 64), ("zzzzzzzzzzzzzzzz", 64), ("0000000000000001", 1)] {
        let output = world.run(&format!("tidegate why {id}"));
        assert_eq!(output.status.code(), Some(code), "{id}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(id), "{said}");
    }
}

#[test]
fn what_was_decided_before_is_told_as_soon_as_the_client_knows_it() {
    let world = World::new();
    world.policy(
        "foo/not-9001",
        "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {ports: ['9001']}}]}]}",
    );
    let server = world.address("server");
    for turn in 1..=10 {
        // One shell: nothing but the answer to the client lies between the connection and the question.
        let recent = world.must(&format!(
            "kubectl exec alice -n foo -c app -- sh -c 'nc -w 3 {server} 9001 </dev/null' >&2 || true; tidegate tap --recent"
        ));
        let denied = recent.lines().filter(|line| line.contains("foo/not-9001 rule 0 denies it")).count();
        assert_eq!((denied, recent.lines().count()), (turn, turn), "{recent}");
    }
    assert_eq!(world.tries("bob", &[&format!("{server} 9000")]), ["yes"]);
    let lines = |arguments: &str| world.must(&format!("tidegate tap --recent {arguments}")).lines().count();
    assert_eq!((lines("--port 9000"), lines("--workload alice"), lines("--workload bob")), (0, 10, 0));
}
