//! Questions about what is live: the same answer as what is enforced, through the data directory and through a kubeconfig.
#![cfg(test)]

use e2e::world::World;

#[test]
fn explain_answers_what_the_mesh_does() {
    let world = World::new();
    world.policy(
        "foo/only-9000",
        "{selector: {matchLabels: {app: server}}, rules: [{from: [{source: {namespaces: [foo]}}], to: [{operation: {ports: ['9000']}}]}]}",
    );
    let server = world.address("server").to_owned();
    for (client, name, port, answer, word) in [
        ("alice", "foo/alice", 9000, "yes", "ALLOWED: "),
        ("alice", "foo/alice", 9001, "no", "DENIED: "),
        ("carol", "bar/carol", 9000, "no", "DENIED: "),
    ] {
        assert_eq!(world.tries(client, &[&format!("{server} {port}")]), [answer], "{client} {port}");
        for source in ["live", "live --kubeconfig \"$KUBECONFIG\""] {
            let said = world.must(&format!("tidegate explain --from {name} --to foo/server --port {port} {source}"));
            assert!(said.starts_with(word), "{source}: {said}");
        }
    }
    // What the policy's author would edit is the object as it is stored.
    let said = world.must("tidegate explain --from foo/alice --to foo/server --port 9001 live");
    assert!(said.contains("+++ b/live/authorizationpolicies\n") && said.contains("9001"), "{said}");
}
