//! A second evaluator, written from the clauses alone and straight over the documents: no parsing step, no compiled form, no index,
//! no shared code. Slow, and meant to be read beside the specification.

use std::collections::BTreeSet;

use policy::{Answer, Connection, Peer, Profile, ProviderKind, SameNode, Settings, Workload};
use serde_json::Value;

use crate::values::{block, five, pattern, principal, readable, service_account, stars, trust_domain};

/// What the clauses say.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    pub(crate) reason: String,
    /// `namespace/name#rule` of the deciding rule; empty if none.
    pub(crate) rule: String,
    pub(crate) audit: bool,
    pub(crate) consulted: bool,
    pub(crate) shadow_allow: Option<(bool, String)>,
    pub(crate) shadow_deny: Option<(bool, String)>,
    /// S-72: would it pass if trials were enforced; nothing without trials.
    pub(crate) if_enforced: Option<bool>,
}

/// S-17: the keys of conditions that have a meaning, those with a bracket by what stands before it.
const KEYS: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
];
const BRACKETED: &[&str] = &["request.headers", "request.auth.claims", "experimental.envoy.filters."];

struct Scene<'a> {
    settings: &'a Settings,
    connection: &'a Connection,
    ambient: bool,
    /// Raw names that policies see.
    names: Vec<String>,
    /// As if no policy were a trial.
    trials_too: bool,
}

pub(crate) fn decide(
    documents: &[Value],
    settings: &Settings,
    workload: &Workload,
    connection: &Connection,
) -> Verdict {
    let ambient = settings.profile == Profile::Ambient;
    let mode = mode(documents, settings, workload, connection.port);
    let mut names: Vec<String> = match &connection.peer {
        Peer::Anonymous => vec![],
        Peer::Attested(id) => vec![id.uri().to_owned()],
        Peer::Verified(names) => names.iter().map(|name| name.raw().to_owned()).collect(),
    };
    if ambient {
        // S-51: the first name of the exact form, or nobody
        names.retain(|name| five(name).is_some());
        names.truncate(1);
    }
    let attested_only = matches!(connection.peer, Peer::Attested(_)) && settings.same_node == SameNode::Mtls;
    if mode == "STRICT" && (names.is_empty() || attested_only) {
        return Verdict { reason: "mtls-required".to_owned(), ..Verdict::default() };
    }
    if mode == "DISABLE" {
        names.clear();
    }
    let applying = applying(documents, settings, workload);
    let mut scene = Scene { settings, connection, ambient, names, trials_too: false };
    let mut verdict = scene.stages(&applying);
    if applying.iter().any(|one| is_trial(one) && (one["spec"]["action"] == "ALLOW" || one["spec"]["action"] == "DENY"))
    {
        scene.trials_too = true;
        let enforced = scene.stages(&applying).reason;
        verdict.if_enforced = Some(enforced == "allow-match" || enforced == "no-allow-policies");
    }
    verdict
}

fn namespace_of(document: &Value) -> &str {
    document["metadata"]["namespace"].as_str().unwrap()
}

fn labels_fit(selector: &Value, workload: &Workload) -> bool {
    let labels = selector["matchLabels"].as_object();
    labels.into_iter().flatten().all(|(key, value)| workload.labels.get(key).map(String::as_str) == value.as_str())
}

fn is_trial(document: &Value) -> bool {
    let written = document["metadata"]["annotations"]["istio.io/dry-run"].as_str();
    written.is_some_and(|text| ["1", "t", "T", "TRUE", "true", "True"].contains(&text)) // S-18
}

/// Section 3.
fn applying<'a>(documents: &'a [Value], settings: &Settings, workload: &Workload) -> Vec<&'a Value> {
    let ambient = settings.profile == Profile::Ambient;
    let applies = |document: &&Value| {
        let spec = &document["spec"];
        let namespace = namespace_of(document);
        let no_labels = spec["selector"].is_object() && spec["selector"]["matchLabels"].is_null();
        workload.in_mesh
            && document["kind"] == "AuthorizationPolicy"
            && (namespace == settings.root_namespace || namespace == workload.id.namespace) // S-24
            && spec["targetRefs"].is_null() // S-25
            && labels_fit(&spec["selector"], workload) // S-26
            && !(ambient && no_labels) // S-27
            && !(ambient && spec["action"] != "ALLOW" && spec["action"] != "DENY") // S-35
            && !(ambient && is_trial(document) && !settings.ambient_dry_run) // S-73
    };
    documents.iter().filter(applies).collect()
}

/// Section 12.
fn mode(documents: &[Value], settings: &Settings, workload: &Workload, port: u16) -> String {
    if !workload.in_mesh {
        return "PERMISSIVE".to_owned();
    }
    let oldest = |namespace: &str, labelled: bool| {
        let level = documents.iter().filter(|document| {
            document["kind"] == "PeerAuthentication"
                && namespace_of(document) == namespace
                && document["spec"]["selector"]["matchLabels"].is_object() == labelled
                && labels_fit(&document["spec"]["selector"], workload)
        });
        level.min_by_key(|document| {
            let text = |name: &str| document["metadata"][name].as_str().unwrap().to_owned();
            (text("creationTimestamp"), text("name"))
        })
    };
    let mut inherited = "PERMISSIVE";
    for namespace in [settings.root_namespace.as_str(), workload.id.namespace.as_str()] {
        let level =
            oldest(namespace, false).map_or("UNSET", |document| document["spec"]["mtls"]["mode"].as_str().unwrap());
        if level != "UNSET" {
            inherited = level;
        }
    }
    let ambient = settings.profile == Profile::Ambient;
    let mut effective = inherited;
    if workload.id.namespace != settings.root_namespace
        && let Some(own) = oldest(&workload.id.namespace, true)
    {
        let own_mode = own["spec"]["mtls"]["mode"].as_str().unwrap();
        if own_mode != "UNSET" {
            effective = own_mode;
        }
        let ports = &own["spec"]["portLevelMtls"];
        let at_port = ports[port.to_string()]["mode"].as_str().unwrap_or("UNSET");
        let any_permissive = ports.as_object().into_iter().flatten().any(|(_, mode)| mode["mode"] == "PERMISSIVE");
        let stays_strict =
            ambient && inherited == "STRICT" && own_mode == "UNSET" && at_port == "DISABLE" && !any_permissive;
        if at_port != "UNSET" && !stays_strict {
            effective = at_port;
        }
    }
    if ambient && effective == "DISABLE" { "PERMISSIVE".to_owned() } else { effective.to_owned() }
}

impl Scene<'_> {
    /// Section 4, 10 and 11.
    fn stages(&self, policies: &[&Value]) -> Verdict {
        let mut verdict = Verdict::default();
        let of = |action: &str, trial: bool| -> Vec<&Value> {
            let enforced_too = self.trials_too && (action == "ALLOW" || action == "DENY"); // S-18
            let is_trial = |one: &Value| !enforced_too && is_trial(one);
            policies.iter().copied().filter(|one| one["spec"]["action"] == action && is_trial(one) == trial).collect()
        };
        if let Some((reason, rule)) = self.custom(&of("CUSTOM", false), &mut verdict.consulted) {
            return Verdict { reason, rule, ..verdict };
        }
        verdict.audit = self.first(&of("AUDIT", false)).is_some();
        let trial_deny = of("DENY", true);
        if !trial_deny.is_empty() {
            let found = self.first(&trial_deny);
            verdict.shadow_deny = Some((found.is_none(), found.unwrap_or_default()));
        }
        if let Some(rule) = self.first(&of("DENY", false)) {
            return Verdict { reason: "deny-match".to_owned(), rule, ..verdict };
        }
        let trial_allow = of("ALLOW", true);
        if !trial_allow.is_empty() {
            let found = self.first(&trial_allow);
            verdict.shadow_allow = Some((found.is_some(), found.unwrap_or_default()));
        }
        let allow = of("ALLOW", false);
        let (reason, rule) = match self.first(&allow) {
            _ if allow.is_empty() => ("no-allow-policies", String::new()),
            Some(rule) => ("allow-match", rule),
            None => ("allow-no-match", String::new()),
        };
        Verdict { reason: reason.to_owned(), rule, ..verdict }
    }

    fn custom(&self, policies: &[&Value], consulted: &mut bool) -> Option<(String, String)> {
        let provider = |one: &Value| one["spec"]["provider"]["name"].as_str().unwrap().to_owned();
        let providers: BTreeSet<String> = policies.iter().map(|one| provider(one)).collect();
        let several = providers.len() > 1 && !self.settings.multiple_custom_providers;
        let bad = |name: &String| several || !self.settings.providers.contains_key(name);
        let of = |wanted: &dyn Fn(&String) -> bool| -> Vec<&Value> {
            policies.iter().copied().filter(|one| wanted(&provider(one))).collect()
        };
        if let Some(rule) = self.first(&of(&bad)) {
            return Some(("custom-bad-provider".to_owned(), rule));
        }
        let mut unanswered = None;
        for name in providers.iter().filter(|name| !bad(name) && self.settings.providers[*name] == ProviderKind::Grpc) {
            let Some(rule) = self.first(&of(&|one| one == name)) else { continue };
            *consulted = true;
            match self.connection.answers.iter().find(|(provider, _)| provider == name) {
                Some((_, Answer::Allow)) => {}
                Some((_, Answer::Deny)) => return Some(("custom-denied".to_owned(), rule)),
                None => unanswered = Some(("unanswered".to_owned(), rule)),
            }
        }
        unanswered
    }

    /// The matching rule with the smallest key (S-34), as `namespace/name#index`.
    fn first(&self, policies: &[&Value]) -> Option<String> {
        let mut matching = BTreeSet::new();
        for policy in policies {
            for (index, rule) in policy["spec"]["rules"].as_array().into_iter().flatten().enumerate() {
                if self.rule(policy, rule) {
                    let (namespace, name) = (namespace_of(policy), policy["metadata"]["name"].as_str().unwrap());
                    matching.insert((
                        format!("ns[{namespace}]-policy[{name}]-rule[{index}]"),
                        format!("{namespace}/{name}#{index}"),
                    ));
                }
            }
        }
        matching.into_iter().next().map(|(_, rule)| rule)
    }

    fn rule(&self, policy: &Value, rule: &Value) -> bool {
        let allow = policy["spec"]["action"] == "ALLOW";
        let mut conditions = rule["when"].as_array().into_iter().flatten();
        let unheard = |key: &str| !KEYS.contains(&key) && !BRACKETED.iter().any(|start| key.starts_with(start));
        if !self.ambient && conditions.any(|condition| unheard(condition["key"].as_str().unwrap())) {
            return false; // S-47, with or without values
        }
        if Self::fields(rule).any(|(name, field)| self.voids(&name, field, allow)) {
            return false;
        }
        let list = |name: &str, inner: &str| -> Vec<Value> {
            rule[name]
                .as_array()
                .into_iter()
                .flatten()
                .map(|entry| if inner.is_empty() { entry.clone() } else { entry[inner].clone() })
                .collect()
        };
        let (from, to) = (list("from", "source"), list("to", "operation"));
        (from.is_empty() || from.iter().any(|source| self.all(policy, source)))
            && (to.is_empty() || to.iter().any(|operation| self.all(policy, operation)))
            && list("when", "").iter().all(|condition| self.condition(policy, condition))
    }

    /// Every used field as its name (a condition by its key, in `<>`) and its values.
    fn fields(rule: &Value) -> impl Iterator<Item = (String, &Value)> {
        let entries = [("from", "source"), ("to", "operation")].into_iter().flat_map(move |(name, inner)| {
            rule[name]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(move |entry| entry[inner].as_object().into_iter().flatten())
        });
        let conditions = rule["when"].as_array().into_iter().flatten().flat_map(|condition| {
            let key = format!("<{}>", condition["key"].as_str().unwrap());
            ["values", "notValues"].into_iter().map(move |name| (key.clone(), &condition[name]))
        });
        let used = |(_, values): &(String, &Value)| values.as_array().is_some_and(|values| !values.is_empty());
        entries.map(|(name, values)| (positive(name), values)).chain(conditions).filter(used)
    }

    /// S-41, S-47.
    fn voids(&self, name: &str, values: &Value, allow: bool) -> bool {
        let http = self.is_http(name);
        let unreadable = values.as_array().unwrap().iter().any(|value| !readable(name, value.as_str().unwrap()));
        (allow && http) || (allow && !self.ambient && unreadable)
    }

    /// S-39, S-44.
    fn is_http(&self, name: &str) -> bool {
        let always = ["hosts", "methods", "paths", "requestPrincipals"].contains(&name)
            || name.starts_with("<request.")
            || (name.starts_with("<experimental.") && !name.ends_with("]>")); // it says nothing: as what only HTTP has (P1)
        let l4_conditions =
            ["<source.ip>", "<source.namespace>", "<source.principal>", "<destination.ip>", "<destination.port>"];
        let in_ambient = name == "remoteIpBlocks" || (name.starts_with('<') && !l4_conditions.contains(&name));
        always || (self.ambient && in_ambient)
    }

    /// Does the field exist at all for TCP in this profile.
    fn is_dropped(&self, name: &str) -> bool {
        self.is_http(name) || (self.ambient && name == "trustDomains") // S-42, S-43, S-45
    }

    /// S-37 over the fields of one source or operation.
    fn all(&self, policy: &Value, entry: &Value) -> bool {
        let mut left = 0;
        for (name, values) in entry.as_object().into_iter().flatten() {
            let values = usable(&positive(name), values);
            if values.is_empty() || self.is_dropped(&positive(name)) {
                continue;
            }
            left += 1;
            let any = values.iter().any(|value| self.matches(policy, &positive(name), value));
            if any == name.starts_with("not") {
                return false;
            }
        }
        left > 0 || !self.ambient // S-42, S-43
    }

    fn condition(&self, policy: &Value, condition: &Value) -> bool {
        let key = format!("<{}>", condition["key"].as_str().unwrap());
        let mut left = 0;
        if !self.is_dropped(&key) {
            for name in ["values", "notValues"] {
                let values = usable(&key, &condition[name]);
                if values.is_empty() {
                    continue;
                }
                left += 1;
                if values.iter().any(|value| self.matches(policy, &key, value)) == (name == "notValues") {
                    return false;
                }
            }
        }
        left > 0 || !self.ambient
    }

    /// Section 8: does one value match.
    fn matches(&self, policy: &Value, name: &str, value: &str) -> bool {
        let any_name = |test: &dyn Fn(&str) -> bool| self.names.iter().any(|name| test(name));
        match name {
            "principals" | "<source.principal>" => {
                self.principals(value).iter().any(|value| any_name(&|name| principal(value, name)))
            }
            "namespaces" | "<source.namespace>" if self.ambient => {
                any_name(&|name| pattern(value, five(name).unwrap().1))
            }
            "namespaces" | "<source.namespace>" => any_name(&|name| stars(&format!("*/ns/{value}/*"), name, false)),
            "serviceAccounts" | "<source.serviceAccount>" => {
                let own = namespace_of(policy);
                let (namespace, account) = value.split_once('/').unwrap_or((own, value));
                any_name(&|name| service_account(namespace, account, name, self.ambient))
            }
            "trustDomains" | "<source.trustDomain>" => {
                self.trust_domains(value).iter().any(|value| any_name(&|name| trust_domain(value, name)))
            }
            "ipBlocks" | "<source.ip>" | "remoteIpBlocks" | "<remote.ip>" => block(value, self.connection.source),
            "<destination.ip>" => block(value, self.connection.destination),
            "ports" | "<destination.port>" => value.parse::<u32>().unwrap() == u32::from(self.connection.port),
            "<connection.sni>" => {
                self.connection.sni.as_deref().is_some_and(|name| !name.is_empty() && pattern(value, name))
            }
            _ => false, // S-61
        }
    }

    /// Section 9.
    fn principals(&self, value: &str) -> Vec<String> {
        let parts: Vec<&str> = value.split('/').collect();
        if self.ambient || parts.len() != 5 || parts[0] == "*" {
            return vec![value.to_owned()];
        }
        let members = self.members();
        let affix = |one: &str, other: &str| match (one.strip_prefix('*'), one.strip_suffix('*')) {
            (Some(end), _) => other.ends_with(end),
            (_, Some(start)) => other.starts_with(start),
            _ => false,
        };
        let domain = parts[0];
        if domain != "cluster.local"
            && !members.iter().any(|member| domain == member || affix(domain, member) || affix(member, domain))
        {
            return vec![value.to_owned()];
        }
        let replaced = members.iter().map(|member| {
            if domain.strip_prefix('*').is_some_and(|end| member.ends_with(end)) {
                value.to_owned()
            } else {
                [&[member.as_str()], &parts[1..]].concat().join("/")
            }
        });
        replaced.collect()
    }

    fn trust_domains(&self, value: &str) -> Vec<String> {
        let members = self.members();
        if members.iter().any(|member| member == value) { members } else { vec![value.to_owned()] }
    }

    fn members(&self) -> Vec<String> {
        [std::slice::from_ref(&self.settings.trust_domain), &self.settings.trust_domain_aliases].concat()
    }
}

/// `notPorts` speaks of `ports`.
fn positive(name: &str) -> String {
    match name.strip_prefix("not") {
        Some(rest) => {
            let (first, rest) = rest.split_at(1);
            first.to_lowercase() + rest
        }
        None => name.to_owned(),
    }
}

fn usable(name: &str, values: &Value) -> Vec<String> {
    let texts = values.as_array().into_iter().flatten().map(|value| value.as_str().unwrap().to_owned());
    texts.filter(|value| readable(name, value)).collect()
}
