//! One English sentence on a policy: whom it lets, or keeps from, reaching what.

use std::fmt::Write;

use policy::spec::{
    Action, Attribute, AuthorizationPolicy, Entry, Match, Mode, PeerAuthentication, Rule, Scope, Value, Values,
};
use policy::{Labels, Settings};

/// More values than this are counted instead of listed.
const LISTED_MAX: usize = 6;
/// More rules than this are counted: the sentence stays one that is read.
const RULES_MAX: usize = 8;

/// What an AuthorizationPolicy says, without regard to TCP or profile: what becomes of it there, a trace tells.
pub fn of_policy(policy: &AuthorizationPolicy, settings: &Settings) -> String {
    let target = target(policy, settings);
    let mut clauses: Vec<String> =
        policy.rules.iter().take(RULES_MAX).map(|rule| clause(rule, policy, settings)).collect();
    if let Some(more) = policy.rules.len().checked_sub(RULES_MAX).filter(|more| *more > 0) {
        clauses.push(format!("{more} more rules"));
    }
    let verb = match (policy.action, policy.trial) {
        (Action::Allow, false) => "allows",
        (Action::Allow, true) => "would allow (a trial, not enforced)",
        (Action::Deny, false) => "denies",
        (Action::Deny, true) => "would deny (a trial, not enforced)",
        (Action::Audit, _) => "marks",
        (Action::Custom, _) => "asks an external authorizer about",
    };
    let reach = if policy.action == Action::Allow { "to reach" } else { "reaching" };
    let mut sentence = if clauses.is_empty() {
        format!("{verb} nobody {reach} {target}")
    } else {
        let clauses: Vec<String> =
            clauses.iter().map(|clause| clause.replace('\u{0}', &format!(" {reach} "))).collect();
        format!("{verb} {} of {target}", clauses.join("; and "))
    };
    if policy.action == Action::Allow && !policy.trial {
        sentence.push_str("; everything else to them is denied");
    }
    sentence
}

/// What a PeerAuthentication says.
pub fn of_peer_authentication(one: &PeerAuthentication, settings: &Settings) -> String {
    let root = one.id.namespace == settings.root_namespace;
    let target = selected(Some(&one.selector).filter(|labels| !labels.is_empty()), &one.id.namespace, root);
    let mode = |mode: Mode| match mode {
        Mode::Unset => "leaves mutual TLS as the level above has it",
        Mode::Disable => "terminates no mutual TLS",
        Mode::Permissive => "accepts mutual TLS and plaintext",
        Mode::Strict => "accepts mutual TLS only",
    };
    let ports: Vec<String> = one.ports.iter().map(|(port, at)| format!("; on port {port} {}", mode(*at))).collect();
    format!("{} for {target}{}", mode(one.mode), ports.concat())
}

fn target(policy: &AuthorizationPolicy, settings: &Settings) -> String {
    let root = policy.id.namespace == settings.root_namespace;
    match &policy.scope {
        Scope::Targets => "gateways (no workload)".to_owned(),
        Scope::All => selected(None, &policy.id.namespace, root),
        Scope::Labels(labels) => selected(Some(labels).filter(|labels| !labels.is_empty()), &policy.id.namespace, root),
    }
}

fn selected(labels: Option<&Labels>, namespace: &str, root: bool) -> String {
    let place = if root { "the mesh".to_owned() } else { namespace.to_owned() };
    match labels {
        None => format!("all workloads in {place}"),
        Some(labels) => {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("workloads with {} in {place}", labels.join(","))
        }
    }
}

/// `service account foo/sleep to reach ports 9000 and 9001`; a zero stands where the verb goes.
fn clause(rule: &Rule, policy: &AuthorizationPolicy, settings: &Settings) -> String {
    let who = if rule.from.is_empty() {
        "anyone".to_owned()
    } else {
        alternatives(&rule.from, |entry| source(entry, &policy.id.namespace, settings))
    };
    let what = if rule.to.is_empty() { "every port".to_owned() } else { alternatives(&rule.to, operation) };
    let when: Vec<String> = rule.when.iter().flat_map(|entry| &entry.matches).map(condition).collect();
    let when = if when.is_empty() { String::new() } else { format!(" (when {})", when.join(" and ")) };
    format!("{who}\u{0}{what}{when}")
}

fn alternatives(entries: &[Entry], words: impl Fn(&Entry) -> String) -> String {
    let all: Vec<String> = entries.iter().map(words).collect();
    all.join(", or ")
}

fn source(entry: &Entry, namespace: &str, settings: &Settings) -> String {
    let parts: Vec<String> = entry
        .matches
        .iter()
        .map(|found| {
            let words = |values: &Values| who(found.attribute, values, namespace, settings, &found.written);
            both(found, words, "anyone but")
        })
        .collect();
    parts.join(" that is also ")
}

fn both(found: &Match, words: impl Fn(&Values) -> String, but: &str) -> String {
    match (&found.wanted, &found.unwanted) {
        (Some(wanted), None) => words(wanted),
        (None, Some(unwanted)) => format!("{but} {}", words(unwanted)),
        (Some(wanted), Some(unwanted)) => format!("{} but not {}", words(wanted), words(unwanted)),
        (None, None) => String::new(),
    }
}

fn who(attribute: Attribute, values: &Values, namespace: &str, settings: &Settings, written: &str) -> String {
    let texts: Vec<&str> = values.iter().map(Value::text).collect();
    match attribute {
        Attribute::Principal if texts == ["*"] => "anyone with an identity".to_owned(),
        Attribute::Principal => {
            let accounts: Option<Vec<String>> = texts.iter().map(|text| account(text, settings)).collect();
            match accounts {
                Some(accounts) => counted("service account", "service accounts", &accounts),
                None => counted("principal", "principals", &quoted(&texts)),
            }
        }
        Attribute::Namespace => counted("namespace", "namespaces", &owned(&texts)),
        Attribute::ServiceAccount => {
            let full =
                |text: &&str| if text.contains('/') { (*text).to_owned() } else { format!("{namespace}/{text}") };
            counted("service account", "service accounts", &texts.iter().map(full).collect::<Vec<_>>())
        }
        Attribute::TrustDomain => counted("trust domain", "trust domains", &owned(&texts)),
        Attribute::SourceIp | Attribute::RemoteIp => counted("address", "addresses", &owned(&texts)),
        _ => format!("requests with {written} {}", listed(&quoted(&texts))),
    }
}

/// `foo/sleep`, if that is all that the principal says.
fn account(principal: &str, settings: &Settings) -> Option<String> {
    match principal.split('/').collect::<Vec<_>>().as_slice() {
        [domain, "ns", namespace, "sa", name]
            if (*domain == "cluster.local" || *domain == settings.trust_domain) && !principal.contains('*') =>
        {
            Some(format!("{namespace}/{name}"))
        }
        _ => None,
    }
}

fn operation(entry: &Entry) -> String {
    let ports = entry.matches.iter().find(|found| found.attribute == Attribute::Port);
    let mut words = ports.map_or_else(
        || "every port".to_owned(),
        |found| {
            let words =
                |values: &Values| counted("port", "ports", &owned(&values.iter().map(Value::text).collect::<Vec<_>>()));
            both(found, words, "every port but")
        },
    );
    for found in entry.matches.iter().filter(|found| found.attribute != Attribute::Port) {
        let more = both(found, |values| listed(&quoted(&values.iter().map(Value::text).collect::<Vec<_>>())), "not");
        let _infallible = write!(words, " with {} {more}", found.written);
    }
    words
}

fn condition(found: &Match) -> String {
    let words = |values: &Values| listed(&quoted(&values.iter().map(Value::text).collect::<Vec<_>>()));
    format!("{} is {}", found.written, both(found, words, "not"))
}

fn counted(one: &str, more: &str, texts: &[String]) -> String {
    format!("{} {}", if texts.len() == 1 { one } else { more }, listed(texts))
}

/// `a, b and c`, or how many.
fn listed(texts: &[String]) -> String {
    match texts.split_last() {
        _ if texts.len() > LISTED_MAX => format!("({} of them)", texts.len()),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn quoted(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| format!("`{text}`")).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use policy::Settings;
    use serde_json::Value;

    use super::{of_peer_authentication, of_policy};

    fn document(kind: &str, namespace: &str, spec: &str) -> Value {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
        );
        api::yaml::documents(&text).remove(0).value
    }

    #[test]
    fn policies_in_words() {
        for (namespace, spec, expected) in [
            (
                "foo",
                "{selector: {matchLabels: {app: tcp-echo}}, rules: [{from: [{source: {principals: [cluster.local/ns/foo/sa/sleep]}}], to: [{operation: {ports: [\"9000\", \"9001\"]}}]}]}",
                "allows service account foo/sleep to reach ports 9000 and 9001 of workloads with app=tcp-echo in foo; everything else to them is denied",
            ),
            ("foo", "{}", "allows nobody to reach all workloads in foo; everything else to them is denied"),
            (
                "foo",
                "{rules: [{}]}",
                "allows anyone to reach every port of all workloads in foo; everything else to them is denied",
            ),
            (
                "istio-system",
                "{action: DENY, rules: [{from: [{source: {notNamespaces: [a, b], ipBlocks: [10.0.0.0/8]}}]}]}",
                "denies anyone but namespaces a and b that is also address 10.0.0.0/8 reaching every port of all workloads in the mesh",
            ),
            (
                "foo",
                "{action: DENY, rules: [{to: [{operation: {notPorts: [\"1\"], methods: [GET]}}], when: [{key: connection.sni, notValues: [x]}]}]}",
                "denies anyone reaching every port but port 1 with methods `GET` (when connection.sni is not `x`) of all workloads in foo",
            ),
            (
                "foo",
                "{rules: [{from: [{source: {serviceAccounts: [a, b/c]}}, {source: {principals: [\"*\"]}}]}]}",
                "allows service accounts foo/a and b/c, or anyone with an identity to reach every port of all workloads in foo; everything else to them is denied",
            ),
        ] {
            let settings = Settings::default();
            let policy =
                policy::parse::authorization_policy(&document("AuthorizationPolicy", namespace, spec), &settings)
                    .value
                    .unwrap();
            assert_eq!(of_policy(&policy, &settings), expected, "{spec}");
        }
    }

    #[test]
    fn modes_in_words() {
        let settings = Settings::default();
        let spec = "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {9000: {mode: DISABLE}}}";
        let one =
            policy::parse::peer_authentication(&document("PeerAuthentication", "foo", spec), &settings).value.unwrap();
        assert_eq!(
            of_peer_authentication(&one, &settings),
            "accepts mutual TLS only for workloads with app=a in foo; on port 9000 terminates no mutual TLS"
        );
    }
}
