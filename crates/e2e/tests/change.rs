//! Whatever changes what policies mean is in force when kubectl returns, for new connections and for open ones.
#![cfg(test)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::running::Running;
use e2e::world::{World, security};

/// A connection of a client pod that stays open.
fn held(world: &World, client: &str, namespace: &str, port: u16) -> Running {
    let place = format!("{} {port}", world.address("server"));
    let mut open =
        Running::of(world.start(&format!("exec kubectl exec -i {client} -n {namespace} -c app -- nc {place}")));
    assert!(open.echoes("first"), "{client} to {place}");
    open
}

fn is_reset(open: &mut Running, whose: &str) {
    let (code, said) = open.ends();
    assert!(code == Some(1) && said.contains("onnection reset"), "{whose}: {code:?} {said}");
}

#[test]
fn labels_of_pods_decide_at_once_whom_a_policy_selects() {
    let world = World::new();
    world.policy(
        "foo/guarded",
        "{selector: {matchLabels: {guard: 'on'}}, action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]}",
    );
    for _ in 0..5 {
        assert!(world.gets("alice", 9000));
        let mut open = held(&world, "alice", "foo", 9000);
        world.must("kubectl label pod server guard=on >/dev/null");
        assert!(!world.gets("alice", 9000));
        is_reset(&mut open, "alice");
        world.must("kubectl label pod server guard=off --overwrite >/dev/null");
        assert!(world.gets("alice", 9000));
        world.must("kubectl label pod server guard- >/dev/null");
    }
}

#[test]
fn a_new_pod_of_an_allowed_account_is_let_in_and_its_successor_of_another_is_not() {
    let world = World::new();
    world.policy("foo/erin", "{selector: {matchLabels: {app: server}}, action: ALLOW, rules: [{from: [{source: {serviceAccounts: [erin]}}]}]}");
    let server = format!("{} 9000", world.address("server"));
    for (round, account) in ["erin", "bob", "erin", "bob"].into_iter().enumerate() {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: visitor, namespace: foo}}\nspec:\n  serviceAccountName: {account}\n  \
             terminationGracePeriodSeconds: 0\n  containers: [{{name: app, image: curlimages/curl, command: [sleep, infinity]}}]\n"
        );
        if round == 0 {
            world.must("kubectl create serviceaccount erin >/dev/null");
        }
        world.apply(&pod);
        let expected = if account == "erin" { "yes" } else { "no" };
        assert_eq!(world.tries("visitor", &[&server]), [expected], "round {round}");
        world.must("kubectl delete pod visitor >/dev/null");
        assert_eq!(world.who_gets(9000), "", "nobody else is erin");
    }
}

#[test]
fn a_namespace_takes_its_policies_and_pods_along() {
    let world = World::new();
    world.policy(
        "foo/bar",
        "{selector: {matchLabels: {app: server}}, action: ALLOW, rules: [{from: [{source: {namespaces: [bar]}}]}]}",
    );
    let mut open = held(&world, "carol", "bar", 9000);
    assert_eq!(world.who_gets(9000), "carol");
    world.must("kubectl delete namespace bar >/dev/null");
    let (code, said) = open.ends();
    assert_ne!(code, Some(0), "{said}");
    assert!(!world.gets("alice", 9000) && !world.host_gets(9000));
    world.must(
        "kubectl create namespace other >/dev/null; kubectl label namespace other istio-injection=enabled >/dev/null",
    );
    world.policy("other/deny", "{}");
    world.must("kubectl delete namespace other >/dev/null; kubectl create namespace other >/dev/null");
    assert_eq!(world.must("kubectl get authorizationpolicies -n other -o name"), "");
}

#[test]
fn a_service_follows_its_selector_its_ports_and_its_endpoints_at_once() {
    let world = World::new();
    let vip = world.must("kubectl get service server -o jsonpath='{.spec.clusterIP}'");
    let places = [format!("{vip} 9000"), "server 9000".to_owned(), format!("{vip} 80")];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let try_all = || world.tries("alice", &places).join(" ");
    let patch =
        |patch: &str| drop(world.must(&format!("kubectl patch service server --type merge -p '{patch}' >/dev/null")));
    assert_eq!(try_all(), "yes yes no");
    patch(r#"{"spec":{"selector":{"app":"nobody"}}}"#);
    let begun = Instant::now();
    assert_eq!(try_all(), "no no no", "a VIP without endpoints is reset");
    assert!(begun.elapsed() < Duration::from_secs(3), "at once, not by a time-out");
    patch(r#"{"spec":{"selector":{"app":"server"}}}"#);
    assert_eq!(try_all(), "yes yes no");
    // The port that policies see is that of the pod: 9000 of the Service now leads to 9002.
    world.policy("foo/no-9002", "{action: DENY, rules: [{to: [{operation: {ports: ['9002']}}]}]}");
    patch(
        r#"{"spec":{"ports":[{"name":"tcp-a","port":9000,"targetPort":9002},{"name":"tcp-c","port":80,"targetPort":9000}]}}"#,
    );
    assert_eq!(try_all(), "no no yes");
    world.forget("foo/no-9002");
    assert_eq!(try_all(), "yes yes yes");
    world.must("kubectl delete pod server >/dev/null");
    assert_eq!(try_all(), "no no no", "its only endpoint is gone");
}

#[test]
fn a_deployment_scaled_to_none_and_back_serves_as_soon_as_it_is_ready() {
    let world = World::new();
    world.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: foo}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: web}}\n  \
         template:\n    metadata: {labels: {app: web}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers: [{name: app, image: istio/tcp-echo-server, args: ['9000', hello]}]\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: foo}\nspec: {selector: {app: web}, ports: [{name: tcp, port: 9000}]}\n",
    );
    for _ in 0..3 {
        world.must("kubectl rollout status deployment web --timeout=20s >/dev/null");
        assert_eq!(world.tries("alice", &["web 9000"]), ["yes"]);
        world.must("kubectl scale deployment web --replicas=0 >/dev/null; kubectl wait --for=delete pod -l app=web --timeout=20s >/dev/null");
        assert_eq!(world.tries("alice", &["web 9000"]), ["no"]);
        world.must("kubectl scale deployment web --replicas=1 >/dev/null");
    }
}

#[test]
fn the_trust_domain_in_the_mesh_settings_changes_who_is_who() {
    let world = World::new();
    world
        .policy("foo/td", "{action: ALLOW, rules: [{from: [{source: {principals: [tide.example/ns/foo/sa/alice]}}]}]}");
    assert_eq!(world.who_gets(9000), "");
    let settings = |domain: &str| {
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: 'trustDomain: {domain}'}}\n"
        );
        world.apply(&map);
    };
    settings("tide.example");
    assert_eq!(world.who_gets(9000), "alice");
    let mut open = held(&world, "alice", "foo", 9000);
    settings("ebb.example");
    assert_eq!(world.who_gets(9000), "");
    is_reset(&mut open, "alice");
    world.must("kubectl delete configmap istio -n istio-system >/dev/null");
    assert_eq!(world.who_gets(9000), "");
}

#[test]
fn a_policy_resets_exactly_the_open_connections_that_it_forbids() {
    let world = World::new();
    let mut alice = held(&world, "alice", "foo", 9000);
    let mut alice_too = held(&world, "alice", "foo", 9001);
    let mut bob = held(&world, "bob", "foo", 9000);
    let mut dave = held(&world, "dave", "plain", 9000);
    let mut dave_too = held(&world, "dave", "plain", 9001);
    let mut from_host = [9000, 9001].map(|port| TcpStream::connect(world.server(port)).unwrap());
    let mut say = |index: usize| -> Result<String, std::io::ErrorKind> {
        let stream = &mut from_host[index];
        let mut answer = [0; 64];
        stream
            .write_all(b"x\n")
            .and_then(|()| stream.read(&mut answer))
            .map_err(|error| error.kind())
            .map(|length| String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    assert_eq!([say(0), say(1)], [Ok("hello x\n".to_owned()), Ok("hello x\n".to_owned())]);
    let only_bob = "{action: DENY, rules: [{from: [{source: {notServiceAccounts: [foo/bob]}}], to: [{operation: {ports: ['9000']}}]}]}";
    world.policy("foo/only-bob", only_bob);
    is_reset(&mut alice, "alice");
    is_reset(&mut dave, "dave, outside the mesh");
    assert_eq!(say(0), Err(std::io::ErrorKind::ConnectionReset), "the host");
    assert_eq!(say(1), Ok("hello x\n".to_owned()), "the host on a port that stays permitted");
    for round in 0..3 {
        let line = format!("round{round}");
        assert!(
            bob.echoes(&line) && alice_too.echoes(&line) && dave_too.echoes(&line),
            "what is permitted is left alone"
        );
    }
    world.policy("foo/nobody", "{}");
    is_reset(&mut bob, "bob");
    is_reset(&mut alice_too, "alice on 9001");
    is_reset(&mut dave_too, "dave on 9001");
    assert_eq!(say(1), Err(std::io::ErrorKind::ConnectionReset), "the host on 9001");
}

#[test]
fn half_close_and_servers_that_speak_first_work_through_the_mesh() {
    let world = World::new();
    let program = "import socket,hashlib
s=socket.create_server((\"\",7000),backlog=9)
print(\"listening\",flush=True)
while True:
  c,_=s.accept()
  c.sendall(b\"banner\\n\")
  h=hashlib.sha256(); n=0
  while True:
    b=c.recv(65536)
    if not b: break
    h.update(b); n+=len(b)
  c.sendall((\"%d %s\\n\"%(n,h.hexdigest())).encode())
  c.close()";
    std::fs::write(world.mesh.work_dir().join("first.py"), program).unwrap();
    world.must("kubectl exec -i bob -c app -- sh -c 'cat >/tmp/first.py' <first.py");
    let mut server = Running::of(world.start("exec kubectl exec bob -c app -- python3 /tmp/first.py"));
    server.until(&["listening"]);
    world.policy("foo/first", "{selector: {matchLabels: {app: bob}}, action: ALLOW, rules: [{from: [{source: {principals: ['*/sa/alice']}}], to: [{operation: {ports: ['7000']}}]}]}");
    let bob = world.address("bob");
    let script =
        "head -c 1048576 /dev/urandom >/tmp/sent; echo banner; echo 1048576 $(sha256sum </tmp/sent | cut -d\" \" -f1)";
    let expected = world.must(&format!("kubectl exec alice -c app -- sh -c '{script}'"));
    let received = world.must(&format!("kubectl exec alice -c app -- sh -c 'nc {bob} 7000 </tmp/sent'"));
    assert_eq!(received, expected, "all of it arrived, and was answered after the client had closed its side");
    let mut waiting = Running::of(world.start(&format!("exec kubectl exec -i alice -c app -- nc {bob} 7000")));
    assert_eq!(waiting.until(&[""]), "banner", "before the client has said a word");
    waiting.end_input();
    let (code, said) = waiting.ends();
    assert!(code == Some(0) && said.contains("\n0 "), "{code:?} {said}");
}

#[test]
fn each_of_sixty_flips_is_in_force_when_kubectl_returns() {
    let world = World::new();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for flip in 0..60 {
        // Xorshift: the same sequence each time, so that a failure can be told again.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let deny = !seed.is_multiple_of(3);
        let port = if deny { 9000 } else { 9001 };
        world.policy("foo/flip", &format!("{{action: DENY, rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}"));
        assert_eq!(world.gets("alice", 9000), !deny, "flip {flip}");
    }
}

#[test]
fn writes_at_the_same_time_are_each_in_force_when_they_are_answered() {
    let world = World::new();
    let ports = [9000, 9001, 9002];
    let server = world.address("server");
    let script = |port: u16| {
        let spec = format!("{{action: DENY, rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}");
        let file = world.mesh.work_dir().join(format!("p{port}.yaml"));
        std::fs::write(file, security("AuthorizationPolicy", &format!("foo/p{port}"), &spec)).unwrap();
        let probe = format!("kubectl exec alice -c app -- sh -c 'echo x | nc -w 3 {server} {port}' >/dev/null 2>&1");
        format!(
            "for flip in 1 2 3 4 5 6 7 8 9 10; do
               kubectl apply -f p{port}.yaml >/dev/null
               {probe} && echo \"{port}: flip $flip is not in force\"
               kubectl delete -f p{port}.yaml >/dev/null
               {probe} || echo \"{port}: the end of flip $flip is not in force\"
             done
             echo done {port}"
        )
    };
    let all = ports.map(|port| Running::of(world.start(&script(port))));
    for (mut one, port) in all.into_iter().zip(ports) {
        let said = one.until_within(&[&format!("done {port}")], Duration::from_mins(2));
        assert_eq!(one.said(), [said], "{port}");
    }
}

#[test]
fn a_policy_too_large_is_refused_with_the_count_and_the_largest_delays_nobody() {
    let world = World::new();
    let server = "{name: app, image: istio/tcp-echo-server, args: ['9000', hello]}";
    world.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: second, namespace: foo, labels: {{app: second}}}}\nspec: {{containers: [{server}]}}\n"
    ));
    world.must("kubectl wait --for=condition=Ready pod/second --timeout=20s >/dev/null");
    let second = world.must("kubectl get pod second -o jsonpath={.status.podIP}");
    let large = |blocks: u32, ports: u32| {
        // No two blocks and no two ports touch, so that nothing can be merged.
        let blocks: Vec<_> = (0..blocks).map(|n| format!("'172.31.{}.{}'", n / 64, n % 64 * 4)).collect();
        let ports: Vec<_> = (0..ports).map(|n| format!("'{}'", 10_000 + 2 * n)).collect();
        let (blocks, ports) = (blocks.join(", "), ports.join(", "));
        let rules = format!(
            "[{{from: [{{source: {{ipBlocks: [{blocks}]}}}}], to: [{{operation: {{ports: [{ports}]}}}}]}}, {{to: [{{operation: {{ports: ['9000']}}}}]}}]"
        );
        let spec = format!("{{selector: {{matchLabels: {{app: server}}}}, action: ALLOW, rules: {rules}}}");
        security("AuthorizationPolicy", "foo/large", &spec)
    };
    let said = world.refused(&large(130, 128));
    assert!(said.contains("at least 16") && said.contains("at most 16384"), "{said}");
    assert_eq!(world.must("kubectl get authorizationpolicies -o name"), "", "nothing is stored");
    assert_eq!([9000, 9001].map(|port| world.gets("alice", port)), [true, true], "and nothing has changed");
    // Other connections are made all the while; each ends in time or `nc` says that it did not.
    let others =
        format!("while ! read -t 0.01 line; do echo x | nc -w 1 {second} 9000 || echo failed; done; echo over");
    let mut others = Running::of(world.start(&format!("exec kubectl exec -i bob -c app -- bash -c '{others}'")));
    others.until(&["hello x"]);
    let begun = Instant::now();
    world.apply(&large(127, 128));
    let took = begun.elapsed();
    others.send("enough");
    others.until(&["over"]);
    assert!(!others.said().iter().any(|line| line.contains("failed")), "{:?}", others.said());
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!([9000, 9001].map(|port| world.gets("alice", port)), [true, false], "it is in force");
    assert_eq!(world.condition("authorizationpolicy", "large", "Enforced"), "True Enforced");
}

#[test]
fn a_change_is_published_once_and_a_status_not_at_all() {
    let world = World::new();
    let generation = || -> u64 {
        let status: serde_json::Value = serde_json::from_str(&world.must("tidegate status -o json")).unwrap();
        status["mesh"]["generation"].as_u64().unwrap()
    };
    let mut before = generation();
    let mut once = |what: &str, command: &str| {
        world.must(command);
        let now = generation();
        assert_eq!(now, before + 1, "{what}");
        before = now;
    };
    let policy = "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{}]}";
    let manifest = security("AuthorizationPolicy", "foo/counted", policy);
    once("a policy", &format!("kubectl apply -f - >/dev/null <<'EOF'\n{manifest}\nEOF"));
    once("a label of a pod", "kubectl label pod server counted=yes >/dev/null");
    once("a policy goes", "kubectl delete authorizationpolicy counted -n foo >/dev/null");
    world.must("kubectl create configmap of-no-meaning --from-literal=a=b >/dev/null");
    assert_eq!(generation(), before, "a config map that is not the mesh's settings");
}
