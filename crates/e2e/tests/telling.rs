//! What the mesh tells, and that it holds when nobody is there to tell: denials, streams, a killed daemon.
#![cfg(test)]

use std::fs;

use e2e::mesh::{Mesh, kubectls, told};
use e2e::running::Running;
use e2e::world::World;

const NOT_9001: &str = "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {ports: ['9002']}}]}, \
                        {from: [{source: {namespaces: [foo]}}], to: [{operation: {ports: ['9001']}}]}]}";

fn tap(world: &World, arguments: &str) -> Running {
    let mut tap = Running::of(world.start(&format!("exec tidegate tap {arguments}")));
    tap.until(&["from here on"]);
    tap
}

/// Lines of a stream that are about a port of the server, once the stream has told of another denial after them.
fn lines_about<'a>(stream: &'a Running, what: &str) -> Vec<&'a String> {
    stream.said().iter().filter(|line| line.contains(what)).collect()
}

#[test]
fn a_denial_is_told_once_everywhere_with_who_whom_port_policy_rule_and_reason() {
    let mesh = Mesh::down();
    let mut up = Running::of(mesh.foreground());
    up.until(&["Denied connections are told below"]);
    let world = World::in_mesh(mesh);
    world.policy("foo/not-9001", NOT_9001);
    let mut table = tap(&world, "");
    let mut json = tap(&world, "-o json");
    let mut by_port = tap(&world, "--port 9002");
    let mut by_namespace = tap(&world, "-n bar");
    let mut by_workload = tap(&world, "--workload bob");
    let mut follow = Running::of(world.start("exec kubectl logs server -c istio-proxy -f"));
    for (who, port, answer) in
        [("alice", 9001, "no"), ("bob", 9001, "no"), ("carol", 9001, "yes"), ("carol", 9002, "no")]
    {
        let place = format!("{} {port}", world.address("server"));
        assert_eq!(world.tries(who, &[&place]), [answer], "{who} to {place}");
    }
    // The last one told: what was to be told before it has been told, and nothing of it twice.
    let last = ["bar/carol", "9002"];
    let words = ["foo/alice", "foo/server:9001", "denied", "foo/not-9001", "rule 1"];
    for (stream, name) in [(&mut table, "tap"), (&mut up, "up")] {
        stream.until(&last);
        let lines = lines_about(stream, "alice (account alice)");
        assert_eq!(lines.len(), 1, "{name}: {:?}", stream.said());
        assert!(words.iter().all(|word| lines[0].contains(word)), "{name}: {}", lines[0]);
        assert_eq!(lines_about(stream, "denied").len(), 3, "{name}: {:?}", stream.said());
    }
    let line = json.until(&["\"carol\"", "9002"]);
    let records: Vec<serde_json::Value> =
        lines_about(&json, "{").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 3, "{line}");
    let first = &records[0];
    assert_eq!(first["source"]["workload"]["name"], "alice", "{first}");
    assert_eq!(first["destination"]["port"], 9001, "{first}");
    assert_eq!((&first["policy"]["name"], &first["rule"]), (&"not-9001".into(), &1.into()), "{first}");
    assert_eq!((&first["permitted"], &first["count"]), (&false.into(), &1.into()), "{first}");
    by_port.until(&last);
    assert_eq!(lines_about(&by_port, "denied").len(), 1, "{:?}", by_port.said());
    by_namespace.until(&last);
    assert_eq!(lines_about(&by_namespace, "denied").len(), 1, "{:?}", by_namespace.said());
    by_workload.until(&["foo/bob"]);
    assert_eq!(lines_about(&by_workload, "denied").len(), 1, "{:?}", by_workload.said());
    follow.until(&["9002"]);
    let log = world.must("kubectl logs server -c istio-proxy");
    // What was let in is told when it is over, which may be later.
    let denied: Vec<_> = log.lines().filter(|line| line.contains("verdict=denied")).collect();
    assert_eq!(denied, lines_about(&follow, "verdict=denied"), "the log is what was followed");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("alice")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for word in [
        "rbac_access_denied_matched_policy[ns[foo]-policy[not-9001]-rule[1]]",
        ":9001",
        "src.identity=spiffe://cluster.local/ns/foo/sa/alice",
    ] {
        assert!(lines[0].contains(word), "{word}: {log}");
    }
    let status = world.must("tidegate status -o json");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let count = |name: &str| status["mesh"]["counters"][name].as_u64().unwrap();
    assert_eq!(count("refused"), 3, "{status}");
    assert_eq!(count("refused"), count("records") + count("folded") + count("lost"), "{status}");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(up.id()).unwrap()).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert_eq!(up.ends().0, Some(0), "Ctrl-C ends the mesh");
}

/// The record of the next connection of a client to a port, as `tap -o json` tells it.
fn record_of(tap: &mut Running, client: &str, port: u16) -> serde_json::Value {
    let line = tap.until(&[&format!("\"name\":\"{client}\""), &format!("\"port\":{port}}}")]);
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_verdict_on_a_port_that_may_carry_http_says_what_requests_would_meet() {
    let world = World::new();
    let warnings = world.policy(
        "foo/get",
        "{selector: {matchLabels: {app: server}}, rules: [{to: [{operation: {ports: ['9002'], methods: [GET]}}]}, \
         {to: [{operation: {ports: ['9000']}}]}]}",
    );
    assert!(warnings.contains("never matches TCP, because `methods`"), "{warnings}");
    let (mut people, mut machines) = (tap(&world, ""), tap(&world, "--verdict all -o json"));
    let server = world.address("server").to_owned();
    let tries = |client: &str, port: u16| world.tries(client, &[&format!("{server} {port}")]).concat();

    // No service has this port: it may carry HTTP. On the others a service says TCP, or no rule is about HTTP.
    assert_eq!(["alice", "bob"].map(|client| tries(client, 9002)), ["no", "no"]);
    assert_eq!((tries("alice", 9001), tries("alice", 9000)), ("no".to_owned(), "yes".to_owned()));
    let line = people.until(&["foo/alice", ":9002", "denied"]);
    let said = "judged as TCP, and the port may carry HTTP, where each request depends on methods";
    assert!(line.contains(said), "{line}");
    let record = record_of(&mut machines, "alice", 9002);
    let http = serde_json::json!({"carries": "detected", "verdict": "depends", "by": ["methods"]});
    assert_eq!(record["http"], http, "{record}");
    let line = people.until(&["foo/alice", ":9001", "denied"]);
    assert!(!line.contains("HTTP, where"), "{line}");
    for (port, permitted) in [(9001, false), (9000, true)] {
        let record = record_of(&mut machines, "alice", port);
        assert_eq!((&record["permitted"], record.get("http")), (&permitted.into(), None), "{record}");
    }
    let log = world.must("kubectl logs server -c istio-proxy");
    let said = "http.carries=detected http.verdict=depends http.by=\"methods\"";
    assert_eq!(log.lines().filter(|line| line.contains(said) && line.contains(":9002 ")).count(), 2, "{log}");

    // What a service declares counts from the moment it is there.
    for (name, expected) in [("http-web", Some("http")), ("tcp-web", None)] {
        world.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: foo}}\nspec: {{selector: {{app: server}}, \
             ports: [{{name: {name}, port: 9002}}]}}\n"
        ));
        assert_eq!(tries("carol", 9002), "no");
        let record = record_of(&mut machines, "carol", 9002);
        assert_eq!(record["http"]["carries"].as_str(), expected, "{record}");
    }

    // A connection that was let in: the address that counts for HTTP may be another than the peer's.
    world.must("kubectl delete service web >/dev/null");
    world.forget("foo/get");
    world.policy("foo/elsewhere", "{action: DENY, rules: [{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}]}");
    assert_eq!(tries("bob", 9002), "yes");
    let record = record_of(&mut machines, "bob", 9002);
    assert_eq!((&record["permitted"], &record["http"]["by"]), (&true.into(), &serde_json::json!(["remoteIpBlocks"])));
}

#[test]
fn a_flood_of_denials_adds_up() {
    let world = World::new();
    world.policy("foo/not-9001", NOT_9001);
    let server = world.address("server");
    let flood =
        format!("i=0; while [ $i -lt 300 ]; do exec 3<>/dev/tcp/{server}/9001; i=$((i+1)); done 2>/dev/null; echo $i");
    let both =
        format!("kubectl exec alice -c app -- bash -c '{flood}' & kubectl exec bob -c app -- bash -c '{flood}'; wait");
    assert_eq!(world.must(&both), "300\n300\n");
    let status = world.must("tidegate status -o json");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let count = |name: &str| status["mesh"]["counters"][name].as_u64().unwrap();
    assert_eq!(count("refused"), 600, "{status}");
    assert_eq!(count("refused"), count("records") + count("folded") + count("lost"), "{status}");
    assert!(count("folded") > 0, "a flood is folded: {status}");

    let mut allowed = tap(&world, "--verdict allowed -o json");
    assert_eq!(world.tries("carol", &[&format!("{server} 9001")]), ["yes"]);
    let line = allowed.until(&["carol"]);
    assert!(line.contains(r#""permitted":true"#) && line.contains(r#""close":""#), "{line}");
    let log = world.must("kubectl logs server -c istio-proxy");
    assert!(log.lines().any(|line| line.contains("verdict=allowed") && line.contains(":9001 ")), "{log}");
}

/// What a hammering pod does: each round tries the forbidden port by VIP and by address, and the permitted one.
const HAMMER: &str = r#"n=0; echo begun; while [ $n -lt 300 ]; do n=$((n+1));
out=$(echo x | nc -w 1 VIP 9000 2>/dev/null; echo x | nc -w 1 ADDRESS 9000 2>/dev/null); [ -z "$out" ] || echo "THROUGH $n $out";
if echo x | nc -w 1 ADDRESS 9001 >/dev/null 2>&1; then echo "open $n"; else echo "shut $n"; fi; read -t 0.02 <> <(:); done; echo hammered; exec sleep infinity"#;

#[test]
fn a_killed_daemon_leaves_every_verdict_in_force_until_the_next_takes_over() {
    let world = World::new();
    world.policy(
        "foo/deny-9000",
        "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]}",
    );
    world.policy("foo/only-alice", "{selector: {matchLabels: {app: server}}, action: ALLOW, rules: [{from: [{source: {serviceAccounts: [alice]}}]}]}");
    let vip = world.must("kubectl get service server -o jsonpath='{.spec.clusterIP}'");
    let hammer = HAMMER.replace("VIP", &vip).replace("ADDRESS", world.address("server")).replace('\n', " ");
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hammer", "namespace": "foo"},
        "spec": {"serviceAccountName": "alice", "terminationGracePeriodSeconds": 0,
                 "containers": [{"name": "app", "image": "curlimages/curl", "command": ["bash", "-c", hammer]}]},
    });
    world.apply(&pod.to_string());
    Running::of(world.start("exec kubectl logs hammer -c app -f")).until(&["open 20"]);
    let logs = world.mesh.data_dir();
    let mut on_disk = Running::of(
        world.start(&format!("exec tail -q -n +1 -F $(grep -rl 'open 20' {} --include=*.log)", logs.display())),
    );
    on_disk.until(&["open 20"]);
    world.mesh.kill_9_daemon();
    // Eighty rounds without a daemon: permitted connections are made, forbidden ones are not.
    on_disk.until_within(&["open 100"], std::time::Duration::from_mins(1));
    let so_far: Vec<_> =
        on_disk.said().iter().filter(|line| line.contains("THROUGH") || line.contains("shut")).collect();
    assert!(so_far.is_empty(), "{so_far:?}");
    let output = world.mesh.tidegate(&["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
    let mut again = Running::of(world.start("exec kubectl logs hammer -c app -f"));
    again.until_within(&["hammered"], std::time::Duration::from_mins(1));
    let through = world.run(&format!("grep -r THROUGH {}", logs.display()));
    assert_eq!(String::from_utf8_lossy(&through.stdout), "", "in any life of the pod");
    // Addresses were given out anew: whoever has alice's old one is not alice.
    let mut world = world;
    world.must(
        "for n in foo bar plain; do kubectl wait --for=condition=Ready pod --all -n $n --timeout=30s >/dev/null; done",
    );
    world.look_up();
    assert_eq!([world.who_gets(9000), world.who_gets(9001)], ["", "alice"]);
}

#[test]
fn bytes_and_exit_codes_come_through_exec_on_every_wire() {
    let world = World::new();
    world.must("head -c 1048576 /dev/urandom >sent");
    let wires = [("1.37", ""), ("1.37", "export KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false;"), ("1.20", "")];
    for (version, setting) in wires {
        let kubectl = kubectls().into_iter().find(|kubectl| kubectl.version == version).unwrap();
        let run =
            |script: &str| world.mesh.bash(&kubectl, &format!("eval \"$(tidegate env -n foo)\"; {setting} {script}"));
        let sums = run(
            "kubectl exec -i alice -c app -- sh -c 'tee /tmp/got | sha256sum >&2; sha256sum </tmp/got >&2; cat /tmp/got' <sent >got",
        );
        assert!(sums.status.success(), "{version} {setting}: {}", told(&sums));
        assert!(
            fs::read(world.mesh.work_dir().join("sent")).unwrap()
                == fs::read(world.mesh.work_dir().join("got")).unwrap(),
            "{version} {setting}"
        );
        let local = world.must("sha256sum <sent");
        assert_eq!(String::from_utf8_lossy(&sums.stderr), format!("{local}{local}"), "{version} {setting}");
        for code in [0, 1, 42, 255] {
            let output = run(&format!("kubectl exec alice -c app -- sh -c 'echo out; echo err >&2; exit {code}'"));
            assert_eq!(output.status.code(), Some(code), "{version} {setting}: {}", told(&output));
            assert_eq!(output.stdout, b"out\n", "{version} {setting}: {}", told(&output));
            assert!(output.stderr.starts_with(b"err\n"), "{version} {setting}: {}", told(&output));
        }
        let typed = run(
            "script -qec \"kubectl exec -it alice -c app -- sh -c 'test -t 0 && test -t 1 && stty size && exit 7'\" /dev/null </dev/null",
        );
        assert_eq!(typed.status.code(), Some(7), "{version} {setting}: {}", told(&typed));
    }
}

#[test]
fn streams_show_what_happens_while_they_are_read() {
    let world = World::new();
    world.must("kubectl run teller --image=busybox --restart=Never --command -- sh -c 'mkfifo /tmp/fifo; echo one; read line </tmp/fifo; echo \"two $line\"' >/dev/null");
    let mut log = Running::of(world.start("kubectl exec teller -- true; exec kubectl logs teller -f"));
    log.until(&["one"]);
    world.must("kubectl exec teller -c teller -- sh -c 'echo said >/tmp/fifo'");
    log.until(&["two said"]);
    assert_eq!(log.ends().0, Some(0), "the log ends with its container");
    let mut watch = Running::of(world.start("exec kubectl get authorizationpolicies -w --output-watch-events"));
    world.policy("foo/seen", "{action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}]}");
    watch.until(&["ADDED", "seen", "DENY"]);
    world.policy("foo/seen", "{action: ALLOW, rules: [{to: [{operation: {ports: ['1']}}]}]}");
    watch.until(&["MODIFIED", "seen", "ALLOW"]);
    let mut gone =
        Running::of(world.start("exec kubectl wait --for=delete authorizationpolicy/seen pod/bob --timeout=15s"));
    world.forget("foo/seen");
    watch.until(&["DELETED", "seen"]);
    world.must("kubectl delete pod bob >/dev/null");
    let (code, said) = gone.ends();
    assert_eq!(code, Some(0), "{said}");
}
