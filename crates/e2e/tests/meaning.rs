//! What written policy means, sentence by sentence, as a user tries it with kubectl and connections between pods.
#![cfg(test)]

use e2e::world::{World, security};

const EVERYBODY: &str = "alice bob carol dave host";

#[test]
fn a_dry_run_is_stored_with_a_warning_and_not_enforced() {
    let world = World::new();
    let spec = "{action: DENY, rules: [{}]}";
    let trial = security("AuthorizationPolicy", "foo/trial", spec)
        .replace("namespace: foo}", "namespace: foo, annotations: {istio.io/dry-run: 'true'}}");
    let said = world.apply(&trial);
    assert!(said.contains("Warning") && said.contains("dry run"), "{said}");
    assert_eq!(world.who_gets(9000), EVERYBODY);
    assert_eq!(world.condition("authorizationpolicy", "trial", "Accepted"), "True Accepted");
    assert_eq!(world.condition("authorizationpolicy", "trial", "Enforced"), "False Trial");
    world.must("kubectl annotate authorizationpolicy trial istio.io/dry-run- >/dev/null");
    assert_eq!(world.who_gets(9000), "", "the annotation was what held it back");
}

#[test]
fn an_audit_policy_is_stored_with_a_warning_and_changes_nothing() {
    let world = World::new();
    let said = world.policy("foo/audit", "{action: AUDIT, rules: [{from: [{source: {namespaces: [nowhere]}}]}, {}]}");
    assert!(said.contains("Warning") && said.contains("AUDIT is not built yet"), "{said}");
    assert_eq!(world.who_gets(9000), EVERYBODY);
    let enforced = world.condition("authorizationpolicy", "audit", "Enforced");
    assert_eq!(enforced, "False UnsupportedValue");
}

#[test]
fn what_depends_on_bytes_is_refused_and_never_half_enforced() {
    let world = World::new();
    let sni = "{key: connection.sni, values: [a.example]}";
    let cases = [
        (
            "{action: CUSTOM, provider: {name: authz}, rules: [{to: [{operation: {ports: ['9000']}}]}]}".to_owned(),
            ["", EVERYBODY],
        ),
        (
            format!("{{action: DENY, rules: [{{to: [{{operation: {{ports: ['9000']}}}}], when: [{sni}]}}]}}"),
            ["", EVERYBODY],
        ),
        (
            format!(
                "{{action: ALLOW, rules: [{{to: [{{operation: {{ports: ['9000']}}}}], when: [{sni}]}}, {{to: [{{operation: {{ports: ['9001']}}}}]}}]}}"
            ),
            ["", EVERYBODY],
        ),
        // What is allowed whatever the bytes are needs none.
        (
            format!(
                "{{action: ALLOW, rules: [{{to: [{{operation: {{ports: ['9000']}}}}], when: [{sni}]}}, {{from: [{{source: {{principals: [cluster.local/ns/foo/sa/alice]}}}}]}}]}}"
            ),
            ["alice", "alice"],
        ),
    ];
    for (spec, [on_9000, on_9001]) in cases {
        let said = world.policy("foo/bytes", &spec);
        assert!(said.contains("Warning") && said.contains("NeedsProxyPath"), "{spec}: {said}");
        let enforced = world.condition("authorizationpolicy", "bytes", "Enforced");
        assert_eq!(enforced, "False NeedsProxyPath", "{spec}");
        assert_eq!(world.who_gets(9000), on_9000, "{spec}");
        assert_eq!(world.who_gets(9001), on_9001, "{spec}");
        world.forget("foo/bytes");
    }
}

#[test]
fn a_policy_with_target_references_applies_to_no_workload() {
    let world = World::new();
    let said = world.policy(
        "foo/gateway",
        "{action: DENY, targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}], rules: [{}]}",
    );
    assert!(said.contains("Warning") && said.contains("gateways"), "{said}");
    assert_eq!(world.condition("authorizationpolicy", "gateway", "Enforced"), "False NeedsProxyPath");
    assert_eq!(world.who_gets(9000), EVERYBODY);
}

#[test]
fn strict_refuses_plaintext_from_outside_and_accepts_the_mesh() {
    let world = World::new();
    assert_eq!(world.who_gets(9000), EVERYBODY);
    world.peer_authentication("foo/default", "{mtls: {mode: STRICT}}");
    assert_eq!(world.who_gets(9000), "alice bob carol");
    assert!(world.condition("peerauthentication", "default", "Enforced").starts_with("True"));
    world.peer_authentication("foo/default", "{mtls: {mode: PERMISSIVE}}");
    assert_eq!(world.who_gets(9000), EVERYBODY);
    let one_port =
        "{selector: {matchLabels: {app: server}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {9001: {mode: STRICT}}}";
    world.peer_authentication("foo/server", one_port);
    assert_eq!([world.who_gets(9000), world.who_gets(9001)], [EVERYBODY, "alice bob carol"]);
}

#[test]
fn disable_drops_the_identity_before_deciding() {
    let world = World::new();
    world.policy(
        "foo/alice",
        "{action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/foo/sa/alice]}}]}]}",
    );
    assert_eq!(world.who_gets(9000), "alice");
    world.peer_authentication("foo/default", "{mtls: {mode: DISABLE}}");
    assert_eq!(world.who_gets(9000), "", "without mutual TLS nobody has shown who it is");
    let block =
        format!("{{action: ALLOW, rules: [{{from: [{{source: {{ipBlocks: [{}]}}}}]}}]}}", world.address("alice"));
    world.policy("foo/alice", &block);
    assert_eq!(world.who_gets(9000), "alice", "an address is no identity");
    world.must("kubectl delete peerauthentication default >/dev/null");
    assert_eq!(world.who_gets(9000), "alice");
}

#[test]
fn a_policy_reaches_what_it_selects_its_namespace_or_from_the_root_namespace_all() {
    let world = World::new();
    // carol's pod listens as well, so that a second namespace can be asked.
    let listen = |name: &str| format!("{} 9000", world.address(name));
    let (server, open) = (listen("server"), listen("open"));
    let both = [server.as_str(), open.as_str()];
    let deny = "action: DENY, rules: [{from: [{source: {namespaces: [foo, bar]}}]}]";
    let cases = [
        ("foo/selected", format!("{{selector: {{matchLabels: {{app: server}}}}, {deny}}}"), "no"),
        ("foo/other-label", format!("{{selector: {{matchLabels: {{app: alice}}}}, {deny}}}"), "yes"),
        ("foo/all-of-foo", format!("{{{deny}}}"), "no"),
        ("bar/all-of-bar", format!("{{{deny}}}"), "yes"),
        ("istio-system/mesh", format!("{{{deny}}}"), "no"),
        ("istio-system/mesh-selected", format!("{{selector: {{matchLabels: {{app: server}}}}, {deny}}}"), "no"),
        ("istio-system/mesh-other", format!("{{selector: {{matchLabels: {{app: nobody}}}}, {deny}}}"), "yes"),
    ];
    for (id, spec, expected) in cases {
        world.policy(id, &spec);
        let found = world.tries("carol", &both);
        assert_eq!(found, [expected, "yes"], "{id} {spec}; the second is outside the mesh and no policy protects it");
        world.forget(id);
    }
}

#[test]
fn every_source_field_and_its_not_twin() {
    let world = World::new();
    let alice = world.address("alice").to_owned();
    let sources = [
        ("principals: [cluster.local/ns/foo/sa/alice]".to_owned(), "alice"),
        ("principals: ['*/sa/alice']".to_owned(), "alice"),
        ("principals: ['cluster.local/ns/foo/*']".to_owned(), "alice bob"),
        ("principals: ['*']".to_owned(), "alice bob carol"),
        ("principals: [spiffe://cluster.local/ns/foo/sa/alice]".to_owned(), ""),
        ("notPrincipals: [cluster.local/ns/foo/sa/alice]".to_owned(), "bob carol dave host"),
        ("namespaces: [foo]".to_owned(), "alice bob"),
        ("namespaces: [plain]".to_owned(), ""),
        ("notNamespaces: [foo]".to_owned(), "carol dave host"),
        ("serviceAccounts: [bob]".to_owned(), "bob"),
        ("serviceAccounts: [foo/alice, bar/carol]".to_owned(), "alice carol"),
        ("notServiceAccounts: [foo/alice]".to_owned(), "bob carol dave host"),
        (format!("ipBlocks: [{alice}/32]"), "alice"),
        (format!("notIpBlocks: [{alice}]"), "bob carol dave host"),
        (format!("ipBlocks: [0.0.0.0/0], notIpBlocks: [{alice}], namespaces: [foo]"), "bob"),
    ];
    for (source, expected) in sources {
        world.policy("foo/source", &format!("{{action: ALLOW, rules: [{{from: [{{source: {{{source}}}}}]}}]}}"));
        assert_eq!(world.who_gets(9000), expected, "ALLOW from {source}");
    }
}

#[test]
fn deny_comes_before_allow_and_allow_closes_what_it_does_not_name() {
    let world = World::new();
    let ports = |action: &str, ports: &str| {
        format!("{{action: {action}, rules: [{{to: [{{operation: {{ports: [{ports}]}}}}]}}]}}")
    };
    let open = |world: &World| [9000, 9001, 9002].map(|port| world.gets("alice", port));
    world.policy("foo/some", &ports("ALLOW", "'9000', '9001'"));
    assert_eq!(open(&world), [true, true, false]);
    world.policy("foo/but", &ports("DENY", "'9001'"));
    assert_eq!(open(&world), [true, false, false], "DENY overrides ALLOW");
    world.policy("foo/more", &ports("ALLOW", "'9001', '9002'"));
    assert_eq!(open(&world), [true, false, true], "ALLOW policies add up, and never undo a DENY");
    world.forget("foo/but");
    assert_eq!(open(&world), [true, true, true]);
    world.policy("foo/nothing", "{}");
    assert_eq!(open(&world), [true, true, true], "an ALLOW without rules adds nothing");
    world.policy("foo/but", &ports("DENY", "'9000'").replace("ports", "notPorts"));
    assert_eq!(open(&world), [true, false, false]);
    world.must("kubectl delete authorizationpolicy some more but >/dev/null");
    assert_eq!(open(&world), [false, false, false], "an ALLOW without rules allows nothing");
    world.forget("foo/nothing");
    assert_eq!(open(&world), [true, true, true]);
}

#[test]
fn http_only_fields_void_an_allow_rule_and_are_dropped_from_a_deny_rule() {
    let world = World::new();
    // S-39 to S-43, with what alice and carol then reach on 9000 and 9001.
    let cases = [
        ("ALLOW", "{to: [{operation: {ports: ['9000'], methods: [GET]}}]}", [false, false, false, false]),
        (
            "ALLOW",
            "{to: [{operation: {ports: ['9000'], paths: [/x]}}, {operation: {ports: ['9001']}}]}",
            [false, false, false, false],
        ),
        ("ALLOW", "{when: [{key: 'request.headers[a]', values: [b]}]}", [false, false, false, false]),
        ("ALLOW", "{from: [{source: {requestPrincipals: ['*']}}]}", [false, false, false, false]),
        ("DENY", "{to: [{operation: {ports: ['9000'], methods: [GET]}}]}", [false, true, false, true]),
        ("DENY", "{to: [{operation: {methods: [GET]}}]}", [false, false, false, false]),
        ("DENY", "{from: [{source: {namespaces: [bar], requestPrincipals: ['*']}}]}", [true, true, false, false]),
        (
            "DENY",
            "{to: [{operation: {ports: ['9001']}}], when: [{key: 'request.headers[a]', values: [b]}]}",
            [true, false, true, false],
        ),
    ];
    for (action, rule, expected) in cases {
        let said = world.policy("foo/http", &format!("{{action: {action}, rules: [{rule}]}}"));
        assert!(said.contains("Warning"), "{action} {rule}: {said}");
        let reached = [("alice", 9000), ("alice", 9001), ("carol", 9000), ("carol", 9001)]
            .map(|(who, port)| world.gets(who, port));
        assert_eq!(reached, expected, "{action} {rule}");
    }
}

#[test]
fn a_pod_outside_the_mesh_has_an_address_and_a_name_and_nothing_else() {
    let world = World::new();
    let open = format!("{} 9000", world.address("open"));
    assert_eq!(world.tries("dave", &["server.foo 9000", "server.foo.svc.cluster.local 9001"]), ["yes", "yes"], "DNS");
    // No identity as source.
    world.policy("foo/from-plain", "{action: ALLOW, rules: [{from: [{source: {namespaces: [plain]}}]}]}");
    assert!(!world.gets("dave", 9000), "no identity, so no namespace");
    world.forget("foo/from-plain");
    world.policy("foo/not-from-foo", "{action: DENY, rules: [{from: [{source: {namespaces: [plain]}}]}]}");
    assert!(world.gets("dave", 9000));
    world.forget("foo/not-from-foo");
    // No table as destination.
    let said = world.policy("plain/deny", "{selector: {matchLabels: {app: open}}, action: DENY, rules: [{}]}");
    assert!(said.contains("Warning") && said.contains("plain/open") && said.contains("not in the mesh"), "{said}");
    assert_eq!(world.tries("alice", &[&open]), ["yes"]);
    assert_eq!(world.condition("authorizationpolicy", "plain/deny", "Enforced"), "False NotInMesh");
    let said =
        world.peer_authentication("plain/default", "{selector: {matchLabels: {app: open}}, mtls: {mode: STRICT}}");
    assert!(said.contains("Warning") && said.contains("not in the mesh"), "{said}");
    assert_eq!(world.tries("dave", &[&open]), ["yes"]);
}

#[test]
fn a_pod_is_not_judged_by_its_own_address_and_is_judged_as_itself_through_a_vip() {
    let world = World::new();
    world.policy(
        "foo/not-itself",
        "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/foo/sa/server]}}]}]}",
    );
    let own = format!("{} 9000", world.address("server"));
    // By its longer name: the short one is the pod's own as well, in its `/etc/hosts`.
    let places = ["127.0.0.1 9000", "::1 9000", own.as_str(), "server.foo 9000"];
    assert_eq!(world.tries("server", &places), ["yes", "yes", "yes", "no"]);
    assert_eq!(world.tries("alice", &["server 9000"]), ["yes"], "the VIP serves others");
    world.forget("foo/not-itself");
    assert_eq!(world.tries("server", &places), ["yes"; 4]);
}

/// A name and a user that Istio's own proxy has exempt nobody here: the verdict stands outside the pod.
#[test]
fn a_container_called_as_the_proxy_and_its_user_gain_no_exemption() {
    let world = World::new();
    let pod = |name: &str, container: &str, labels: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: plain, labels: {{{labels}}}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             securityContext: {{runAsUser: 1337, runAsGroup: 1337}}\n  containers: [{{name: {container}, image: curlimages/curl, command: [sleep, infinity]}}]\n"
        )
    };
    world.apply(&pod("posing", "istio-proxy", "app: posing"));
    world.apply(&pod("member", "app", "sidecar.istio.io/inject: 'true'"));
    world.must("kubectl wait --for=condition=Ready pod/posing pod/member -n plain --timeout=20s >/dev/null");
    let place = format!("{} 9000", world.address("server"));
    let tries = |name: &str, container: &str| {
        let exec = format!(
            "kubectl exec {name} -c {container} -n plain -- sh -c 'id -u; echo x | nc -w 3 {place} 2>&1' || true"
        );
        world.must(&exec).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (name, container) in [("posing", "istio-proxy"), ("member", "app")] {
        assert_eq!(tries(name, container), ["1337", "hello x"], "{name}");
    }
    world.policy("foo/closed", "{}");
    for (name, container) in [("posing", "istio-proxy"), ("member", "app")] {
        let said = tries(name, container);
        assert!(said.len() == 2 && said[0] == "1337" && said[1].ends_with("Connection refused"), "{name}: {said:?}");
    }
}
