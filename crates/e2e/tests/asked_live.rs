//! Questions to the mesh that runs: what `test` and `diff` answer is what connections then do, and names complete.
#![cfg(test)]

use e2e::mesh::told;
use e2e::world::World;

const ONE_PORT: &str = "{selector: {matchLabels: {app: server}}, rules: [{from: [{source: {namespaces: [foo]}}], \
                        to: [{operation: {ports: ['9000']}}]}]}";

const CASES: &str = "apiVersion: tidegate.io/v1alpha1
kind: PolicyTest
metadata: {name: live}
spec:
  namespace: foo
  cases:
  - {from: alice, to: server, port: 9000, expect: allow, because: 'foo/one-port[0]'}
  - {from: pod/alice, to: server.foo, port: 9001, expect: deny, because: allow-no-match}
  - {from: bar/carol, to: server, port: 9000, expect: deny}
  - {from: dave.plain, to: server, port: 9000, expect: deny}
";

#[test]
fn questions_are_answered_by_the_mesh_that_runs() {
    let world = World::new();
    world.policy("foo/one-port", ONE_PORT);

    std::fs::write(world.mesh.work_dir().join("live.yaml"), CASES).unwrap();
    assert_eq!(world.must("tidegate test live.yaml --input live"), "4 passed, 0 failed\n");
    for (who, port, answer) in
        [("alice", 9000, "yes"), ("alice", 9001, "no"), ("carol", 9000, "no"), ("dave", 9000, "no")]
    {
        let place = format!("{} {port}", world.address("server"));
        assert_eq!(world.tries(who, &[&place]), [answer], "{who} to {place}");
    }
    let recorded =
        world.must("tidegate test record live --port 9000 > recorded.yaml; tidegate test recorded.yaml --input live");
    assert!(recorded.ends_with(" passed, 0 failed\n") && !recorded.starts_with('0'), "{recorded}");

    let same = world.run("kubectl get authorizationpolicy one-port -o yaml | tidegate diff live - --exit-code");
    assert_eq!(same.status.code(), Some(0), "{}", told(&same));
    let more = world.run(
        "kubectl get authorizationpolicy one-port -o yaml | sed 's/9000/9001/' | tidegate diff live - --exit-code",
    );
    let said = String::from_utf8_lossy(&more.stdout).into_owned();
    assert_eq!(more.status.code(), Some(79), "{}", told(&more));
    assert!(said.contains("from any workload of namespace foo to foo/server, port 9001: denied → allowed"), "{said}");

    assert_eq!(world.must("tidegate __complete -- tap --workload s"), "server.foo\n");
    assert_eq!(world.must("tidegate __complete -- env -n b"), "bar\n");
    assert_eq!(world.must("tidegate __complete -- tap --workload=al"), "--workload=alice.foo\n");
}
