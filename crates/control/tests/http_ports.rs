//! Ports that carry HTTP, or may: what a port is follows from its services (S-84 to S-86), and offline a verdict there is allow,
//! deny, or depends on HTTP, with the attributes named.
#![cfg(test)]

use control::bundle::{DEFAULT_NAMESPACE, Text, read};
use policy::ask::{Answer, Asker, Question, Verdict};
use policy::{Peer, Profile, SpiffeId, WorkloadId};

const WORKLOADS: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {}\n---\n\
                         apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec: {serviceAccountName: client}\n";

fn service(name: &str, created: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}{created}}}\nspec: {{selector: {{app: web}}, ports: [{ports}]}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn asker(text: &str, profile: Profile, config: &str) -> Asker {
    let text = Text { name: "a.yaml".to_owned(), bytes: format!("{WORKLOADS}{text}").into_bytes() };
    let bundle = read(vec![text], DEFAULT_NAMESPACE);
    assert_eq!(bundle.problems(), []);
    let config = control::mesh_config::of_text(config);
    Asker::new(bundle.mesh(Some(profile), Some(&config)))
}

fn ask(asker: &Asker, port: u16) -> Answer {
    let peer = Peer::Attested(SpiffeId::new("cluster.local", "default", "client").unwrap());
    let (web, question) = (WorkloadId::new("default", "web"), Question::new(peer, port));
    let answer = asker.ask(&web, &question);
    assert_eq!(asker.verdict(&web, &question), answer.verdict, "the short way and the long one");
    answer
}

/// `allow`, `deny`, or `depends: ` and on what.
fn shown(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allow | Verdict::Deny => verdict.word().to_owned(),
        Verdict::Depends(on) => {
            let on: Vec<String> = on.iter().map(ToString::to_string).collect();
            format!("depends: {}", on.join(", "))
        }
    }
}

#[test]
fn s_84_a_port_is_what_the_oldest_service_declares() {
    let at = |time: &str| format!(", creationTimestamp: \"{time}\"");
    let (old, young) = (at("2024-01-01T00:00:00Z"), at("2025-01-01T00:00:00Z"));
    for (services, port, class) in [
        (String::new(), 80, "detected"),
        (service("s", "", "{port: 80}"), 80, "detected"),
        (service("s", "", "{port: 80, name: http}"), 80, "http"),
        (service("s", "", "{port: 80, name: HTTP-web}"), 80, "http"),
        (service("s", "", "{port: 80, name: http2-web}"), 80, "http"),
        (service("s", "", "{port: 80, name: grpc}"), 80, "http"),
        (service("s", "", "{port: 80, name: grpc-web-x}"), 80, "http"),
        (service("s", "", "{port: 80, name: httpx}"), 80, "detected"),
        (service("s", "", "{port: 80, name: tcp}"), 80, "tcp"),
        (service("s", "", "{port: 80, name: tcp-other}"), 80, "tcp"),
        (service("s", "", "{port: 443, name: https}"), 443, "tcp"),
        (service("s", "", "{port: 443, name: tls-x}"), 443, "tcp"),
        (service("s", "", "{port: 5432, name: postgres}"), 5432, "detected"),
        (service("s", "", "{port: 3306, name: db}"), 3306, "tcp"),
        (service("s", "", "{port: 53}"), 53, "tcp"),
        (service("s", "", "{port: 25, targetPort: 2525}"), 2525, "tcp"),
        (service("s", "", "{port: 2525, targetPort: 25}"), 25, "detected"),
        (service("s", "", "{port: 3306, name: http}"), 3306, "http"),
        (service("s", "", "{port: 6379, name: redis}"), 6379, "tcp"),
        (service("s", "", "{port: 80, name: http, appProtocol: tcp}"), 80, "tcp"),
        (service("s", "", "{port: 80, name: tcp, appProtocol: http}"), 80, "http"),
        (service("s", "", "{port: 80, appProtocol: kubernetes.io/h2c}"), 80, "http"),
        (service("s", "", "{port: 80, appProtocol: kubernetes.io/ws}"), 80, "http"),
        (service("s", "", "{port: 80, appProtocol: kubernetes.io/wss}"), 80, "tcp"),
        (service("s", "", "{port: 80, name: tcp, appProtocol: example.com/odd}"), 80, "detected"),
        (service("s", "", "{port: 80, targetPort: 8080, name: http}"), 8080, "http"),
        (service("s", "", "{port: 80, targetPort: 8080, name: http}"), 80, "detected"),
        (service("s", "", "{port: 80, name: tcp, protocol: UDP}"), 80, "detected"),
        (service("a", &young, "{port: 80, name: http}") + &service("b", &old, "{port: 80, name: tcp}"), 80, "tcp"),
        (service("a", &old, "{port: 80, name: http}") + &service("b", &young, "{port: 80, name: tcp}"), 80, "http"),
        (service("b", "", "{port: 80, name: http}") + &service("a", "", "{port: 80, name: tcp}"), 80, "tcp"),
    ] {
        let found =
            |profile| asker(&services, profile, "").class_of(&WorkloadId::new("default", "web"), port).carries.word();
        assert_eq!(found(Profile::Sidecar), class, "{services}");
        assert_eq!(found(Profile::Ambient), "tcp", "S-86: {services}");
    }
}

const HTTP: &str = "{port: 80, name: http}";
const TCP: &str = "{port: 80, name: tcp}";
const DETECTED: &str = "{port: 80, name: odd}";
const CLIENT: &str = "from: [{source: {principals: [\"*/sa/client\"]}}]";
const OTHER: &str = "from: [{source: {principals: [\"*/sa/other\"]}}]";
const GET: &str = "to: [{operation: {methods: [GET]}}]";
const DEPENDS: &str = "depends: HTTP (`methods`)";
const MAYBE: &str = "depends: HTTP (`methods`), whether it is HTTP";

fn deny(rule: &str) -> String {
    format!("{{action: DENY, rules: [{{{rule}}}]}}")
}

fn allow(rule: &str) -> String {
    format!("{{rules: [{{{rule}}}]}}")
}

/// What is answered on a port, and what is enforced there.
fn on_port(ports: &str, policies: &[String], answered: &str, enforced: &str) {
    let text: String = policies.iter().enumerate().map(|(index, spec)| policy(&format!("p{index}"), spec)).collect();
    let text = service("s", "", ports) + &text;
    let answer = ask(&asker(&text, Profile::Sidecar, ""), 80);
    assert_eq!(shown(&answer.verdict), answered, "{text}");
    let tcp = match &answer.tcp.verdict {
        Verdict::Depends(_) => "deny",
        known => known.word(),
    };
    assert_eq!(tcp, enforced, "{text}");
    let ambient = ask(&asker(&text, Profile::Ambient, ""), 80);
    assert!(ambient.http.is_none() && !ambient.verdict.depends_on_http(), "S-86: {text}");
}

/// S-41 and S-85.
#[test]
fn s_85_an_allow_rule_is_void_on_tcp_and_may_match_a_request() {
    for (ports, policies, answered, enforced) in [
        (HTTP, vec![allow(GET)], DEPENDS, "deny"),
        (TCP, vec![allow(GET)], "deny", "deny"),
        (DETECTED, vec![allow(GET)], MAYBE, "deny"),
        (HTTP, vec![allow(&format!("{CLIENT}, {GET}"))], DEPENDS, "deny"),
        (HTTP, vec![allow(&format!("{OTHER}, {GET}"))], "deny", "deny"),
        (DETECTED, vec![allow(&format!("{OTHER}, {GET}"))], "deny", "deny"),
        (HTTP, vec![allow("to: [{operation: {ports: [\"81\"], methods: [GET]}}]")], "deny", "deny"),
        (HTTP, vec![allow("to: [{operation: {ports: [\"80\"], methods: [GET]}}]")], DEPENDS, "deny"),
        (HTTP, vec![allow("to: [{operation: {methods: [GET]}}, {operation: {ports: [\"80\"]}}]")], "allow", "deny"),
        (
            DETECTED,
            vec![allow("to: [{operation: {methods: [GET]}}, {operation: {ports: [\"80\"]}}]")],
            "depends: whether it is HTTP",
            "deny",
        ),
        (HTTP, vec![allow(GET), allow(CLIENT)], "allow", "allow"),
        (DETECTED, vec![allow(GET), allow(CLIENT)], "allow", "allow"),
    ] {
        on_port(ports, &policies, answered, enforced);
    }
}

/// S-42 and S-85.
#[test]
fn s_85_a_deny_rule_is_widened_on_tcp_and_may_miss_a_request() {
    for (ports, policies, answered, enforced) in [
        (HTTP, vec![deny(GET)], DEPENDS, "deny"),
        (TCP, vec![deny(GET)], "deny", "deny"),
        (DETECTED, vec![deny(GET)], MAYBE, "deny"),
        (HTTP, vec![deny(&format!("{OTHER}, {GET}"))], "allow", "allow"),
        (HTTP, vec![deny(&format!("{CLIENT}, {GET}"))], DEPENDS, "deny"),
        (HTTP, vec![deny("to: [{operation: {ports: [\"81\"], methods: [GET]}}]")], "allow", "allow"),
        (HTTP, vec![deny("to: [{operation: {methods: [GET]}}, {operation: {ports: [\"81\"]}}]")], DEPENDS, "deny"),
        (HTTP, vec![deny(CLIENT), allow(GET)], "deny", "deny"),
        (HTTP, vec![deny(GET), allow(CLIENT)], DEPENDS, "deny"),
        (HTTP, vec![deny(GET), allow(OTHER)], "deny", "deny"),
    ] {
        on_port(ports, &policies, answered, enforced);
    }
}

/// Each attribute by the name that is written.
#[test]
fn s_85_attributes_are_named() {
    for (ports, policies, answered, enforced) in [
        (
            HTTP,
            vec![allow("to: [{operation: {paths: [/a], hosts: [b]}}]")],
            "depends: HTTP (`hosts`), HTTP (`paths`)",
            "deny",
        ),
        (HTTP, vec![allow("to: [{operation: {notPaths: [/a]}}]")], "depends: HTTP (`notPaths`)", "deny"),
        (
            HTTP,
            vec![allow("from: [{source: {requestPrincipals: [\"*\"]}}]")],
            "depends: HTTP (`requestPrincipals`)",
            "deny",
        ),
        (
            HTTP,
            vec![allow("when: [{key: \"request.headers[x]\", values: [a]}]")],
            "depends: HTTP (`request.headers[x]`)",
            "deny",
        ),
        (
            HTTP,
            vec![allow("from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]")],
            "depends: HTTP (`remoteIpBlocks`)",
            "deny",
        ),
        (TCP, vec![allow("from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]")], "depends: the source's address", "deny"),
    ] {
        on_port(ports, &policies, answered, enforced);
    }
}

/// Marks among them, which change nothing.
#[test]
fn s_85_what_has_nothing_to_do_with_http_is_the_same_everywhere() {
    for (ports, policies, answered, enforced) in [
        (HTTP, vec![], "allow", "allow"),
        (HTTP, vec![allow(CLIENT)], "allow", "allow"),
        (DETECTED, vec![allow(OTHER)], "deny", "deny"),
        (DETECTED, vec![deny("")], "deny", "deny"),
        (HTTP, vec!["{}".to_owned()], "deny", "deny"),
        (HTTP, vec!["{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}".to_owned()], "allow", "allow"),
    ] {
        on_port(ports, &policies, answered, enforced);
    }
}

#[test]
fn s_74_on_http_authorizers_of_both_kinds_are_asked() {
    let custom =
        policy("p", "{action: CUSTOM, provider: {name: ext}, rules: [{to: [{operation: {ports: [\"80\"]}}]}]}");
    for (ports, provider, expected) in [
        ("{port: 80, name: http}", "envoyExtAuthzHttp", "depends: the external authorizer that `default/p` asks"),
        ("{port: 80, name: tcp}", "envoyExtAuthzHttp", "allow"),
        ("{port: 80, name: http}", "envoyExtAuthzGrpc", "depends: the external authorizer that `default/p` asks"),
        ("{port: 80, name: tcp}", "envoyExtAuthzGrpc", "depends: the external authorizer that `default/p` asks"),
    ] {
        let config = format!("extensionProviders: [{{name: ext, {provider}: {{}}}}]");
        let answer = ask(&asker(&(service("s", "", ports) + &custom), Profile::Sidecar, &config), 80);
        assert_eq!(shown(&answer.verdict), expected, "{ports} {provider}");
    }
}

#[test]
fn an_address_that_is_not_known_is_said_to_matter_only_where_it_does() {
    let cases = [
        ("from: [{source: {ipBlocks: [10.0.0.0/8]}}]", "depends: the source's address"),
        ("from: [{source: {ipBlocks: [0.0.0.0/0, \"::/0\"]}}]", "allow"),
        ("from: [{source: {ipBlocks: [0.0.0.0/0]}}]", "depends: the source's address"),
        ("from: [{source: {notIpBlocks: [0.0.0.0/0, \"::/0\"]}}]", "deny"),
        ("when: [{key: destination.ip, values: [10.0.0.0/8]}]", "depends: the destination's address"),
        ("from: [{source: {ipBlocks: [10.0.0.0/8]}}], to: [{operation: {ports: [\"81\"]}}]", "deny"),
        (
            "from: [{source: {ipBlocks: [10.0.0.0/8]}}], when: [{key: destination.ip, values: [10.1.0.0/16]}]",
            "depends: the source's address, the destination's address",
        ),
    ];
    for (rule, expected) in cases {
        let text = service("s", "", "{port: 80, name: tcp}") + &policy("p", &format!("{{rules: [{{{rule}}}]}}"));
        for profile in [Profile::Sidecar, Profile::Ambient] {
            let answer = ask(&asker(&text, profile, ""), 80);
            assert_eq!(shown(&answer.verdict), expected, "{rule}");
            let unknown = answer.tcp.explanation.rules.iter().any(|rule| rule.matched.is_none());
            assert_eq!(unknown, matches!(answer.verdict, Verdict::Depends(_)), "{rule}");
        }
    }
}
