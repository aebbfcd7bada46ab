//! What the policy core found, with places, and with what follows from it on the ports that the policy is for.

use policy::finding::{Code, Finding};
use policy::spec::{Action, Attribute, AuthorizationPolicy, Rule};

use super::diagnostic::Fold;
use super::http::{self, Ports};
use super::{Diagnostic, Edit, Pass, View, mend};
use crate::admission::nearest::nearest_word;
use crate::finding::{self, Level};
use crate::written::{self, Written};

/// Findings on a rule as a whole, in the order in which one of them speaks for the others.
const ON_RULES: [Code; 6] =
    [Code::RuleVoid, Code::RuleDead, Code::RuleWidened, Code::DenyHttpOnly, Code::DenyAllTcp, Code::ProfilesDisagree];
/// How messages go on when they say what to do.
const ADVICE: [&str; 9] =
    ["write ", "use ", "remove ", "add ", "split ", "leave ", "did you mean ", "one of ", "known here: "];

/// The findings on an AuthorizationPolicy.
pub(super) fn authorization<'a>(
    pass: &mut Pass<'a>,
    view: &View<'a>,
    policy: &AuthorizationPolicy,
    findings: &[Finding],
) {
    let on_rule = |index: usize| {
        let path = format!("spec.rules[{index}]");
        findings
            .iter()
            .filter(|found| ON_RULES.contains(&found.code) && found.path.to_string() == path)
            .collect::<Vec<_>>()
    };
    let mut last_void = None;
    let mut any_silent = false;
    for (index, rule) in policy.rules.iter().enumerate() {
        let found = on_rule(index);
        if found.is_empty() {
            continue;
        }
        let told = OneRule { pass, view, policy, rule, index }.diagnostic(&found);
        any_silent |= told.is_none();
        if let Some(told) = told {
            if told.entry == finding::of_policy(Code::RuleVoid) {
                last_void = Some(pass.found.len());
            }
            pass.found.push(told);
        }
    }
    for found in findings.iter().filter(|found| !is_on_rule(found) && !is_empty_value(found)) {
        match (found.code, last_void) {
            // It follows from the void rules, or, where those may well be about HTTP, does not.
            (Code::AllowsNothing, Some(at)) => {
                if let Some(void) = pass.found.get_mut(at) {
                    void.notes.push(
                        "no rule of this policy can match TCP: nothing but another ALLOW policy lets TCP in".to_owned(),
                    );
                }
            }
            (Code::AllowsNothing, None) if any_silent => {}
            _ => {
                let told = one(view, found);
                pass.found.push(told);
            }
        }
    }
}

/// Findings as they come.
pub(super) fn plain<'a>(pass: &mut Pass<'a>, view: &View<'a>, findings: &[Finding]) {
    pass.found.extend(findings.iter().map(|found| one(view, found)));
}

fn is_on_rule(found: &Finding) -> bool {
    ON_RULES.contains(&found.code) && matches!(found.path.steps(), [_, _, policy::finding::Step::Index(_)])
}

/// Whether a finding is about what is written, and not about what a rule is good for on the ports of a workload.
pub(super) fn is_of_the_document(found: &Finding) -> bool {
    !ON_RULES.contains(&found.code) && found.code != Code::AllowsNothing && !is_empty_value(found)
}

/// An empty string is no port and no address either, which needs no saying beside that it is empty.
fn is_empty_value(found: &Finding) -> bool {
    matches!(found.code, Code::BadPort | Code::BadIp) && found.message.starts_with("``")
}

/// A rule with findings on it as a whole.
struct OneRule<'p, 'a> {
    pass: &'p Pass<'a>,
    view: &'p View<'a>,
    policy: &'p AuthorizationPolicy,
    rule: &'p Rule,
    index: usize,
}

impl OneRule<'_, '_> {
    /// One diagnostic for all findings; none where the rule is for ports on which it means what it says.
    fn diagnostic(&self, found: &[&Finding]) -> Option<Diagnostic> {
        let ports = http::ports(self.pass, self.policy, self.rule);
        let mut weighed: Vec<(Level, usize, &Finding)> = found
            .iter()
            .filter_map(|found| {
                let rank = ON_RULES.iter().position(|code| *code == found.code)?;
                Some((self.level(found.code, &ports)?, rank, *found))
            })
            .collect();
        weighed.sort_by_key(|(level, rank, _)| (*level, *rank));
        let ((level, _, main), rest) = weighed.split_first()?;
        let mut told = match main.code {
            Code::RuleVoid | Code::RuleWidened | Code::RuleDead | Code::DenyHttpOnly => self.on_fields(main, &ports),
            _ => self.view.at(Diagnostic::new(finding::of_policy(main.code), &main.message), &self.path(), ""),
        };
        // Each says what the other says.
        let repeated = |code: Code| {
            matches!(main.code, Code::RuleWidened | Code::DenyHttpOnly | Code::RuleDead)
                && matches!(code, Code::RuleWidened | Code::DenyHttpOnly)
        };
        for (.., other) in rest.iter().filter(|(.., other)| !repeated(other.code)) {
            told = told.note(other.message.clone());
        }
        if *level == Level::Note && ports.unknown() {
            told.fold = Fold::Unsure;
        }
        Some(told.level(*level))
    }

    /// How much a finding weighs on these ports; none if it is not so there.
    fn level(&self, code: Code, ports: &Ports) -> Option<Level> {
        let usual = finding::of_policy(code).level;
        let by_http = self.offending().iter().any(|field| field.field.attribute == Attribute::Http);
        match code {
            Code::DenyAllTcp if self.rule.from.is_empty() && self.rule.to.is_empty() && self.rule.when.is_empty() => {
                Some(Level::Note) // It is written in so many words.
            }
            // What a gateway does is not told apart by profile.
            Code::ProfilesDisagree if http::is_gateway(self.policy) => None,
            // The finding on the field itself says it better.
            Code::RuleWidened if self.pass.ambient() && !by_http && self.only_trust_domains() => None,
            Code::DenyHttpOnly if ports.tcp.is_empty() && ports.other => Some(Level::Note),
            Code::DenyHttpOnly => Some(usual),
            _ if self.pass.ambient() || !by_http => Some(usual),
            _ if ports.unknown() => Some(Level::Note),
            // Who restricts HTTP on all ports at once may well mean that TCP is not let in.
            Code::RuleVoid if !ports.named && ports.other => None,
            _ => (!ports.tcp.is_empty()).then_some(usual),
        }
    }

    fn on_fields(&self, found: &Finding, ports: &Ports) -> Diagnostic {
        let fields = self.offending();
        let entry = finding::of_policy(found.code);
        let Some(first) = fields.first() else {
            return self.view.at(Diagnostic::new(entry, &found.message), &self.path(), "");
        };
        let action = self.policy.action.word();
        let names = listed(&fields);
        let message = match found.code {
            Code::RuleVoid => format!("{names} makes this {action} rule void on TCP"),
            Code::RuleDead => format!("{names} is dropped on TCP, and nothing is left of this {action} rule"),
            _ => format!("{names} is dropped on TCP, so that this {action} rule matches more than it says"),
        };
        let mut told = self.view.at(Diagnostic::new(entry, message), &first.named_at(), why(first));
        let written = written::of_rule(self.index, self.rule);
        let of_ports = written.iter().filter(|field| field.field.attribute == Attribute::Port && !field.negative);
        for field in of_ports {
            let says = match found.code {
                Code::RuleVoid | Code::RuleDead if self.policy.action == Action::Allow => {
                    "so these ports are not opened"
                }
                Code::RuleDead => "so these ports are not closed",
                _ if self.policy.action == Action::Deny => "so every connection to these ports is denied",
                _ => "so every connection to these ports is matched",
            };
            told = self.view.at(told, &field.path, says);
        }
        if found.code == Code::RuleVoid {
            told = self.view.also(told, "spec.action", "the whole rule is dropped because the action is ALLOW");
        }
        told = self.consequence(told, found.code, ports);
        self.mended(told, found.code, &fields)
    }

    fn consequence(&self, told: Diagnostic, code: Code, ports: &Ports) -> Diagnostic {
        if ports.unknown() && code != Code::DenyHttpOnly && !self.pass.ambient() {
            return told.note("this is so on ports that carry TCP; no Service in this set says what the ports carry");
        }
        let whom = self.selected();
        match (code, self.policy.action) {
            (Code::RuleVoid, _) => {
                told.note(format!("TCP to {} of {whom} is refused unless another ALLOW rule matches", ports.in_words()))
            }
            (Code::RuleWidened | Code::DenyHttpOnly, Action::Deny) if !ports.tcp.is_empty() => {
                told.note(format!("TCP to {} of {whom} is refused", ports.in_words()))
            }
            _ => told,
        }
    }

    fn mended(&self, told: Diagnostic, code: Code, fields: &[Written<'_>]) -> Diagnostic {
        if code == Code::RuleVoid {
            let edits: Option<Vec<Edit>> = fields.iter().map(|field| self.view.removed(&field.path)).collect();
            return match edits {
                Some(edits) => told.fix("to allow TCP, take the field out", edits, false),
                None if fields.iter().any(|field| field.field.attribute != Attribute::Http) => {
                    told.help("write the rule with ports, namespaces, principals or `ipBlocks`, which ambient looks at")
                }
                None => {
                    told.help("to allow TCP, write a rule of its own for the ports that carry it, without HTTP fields")
                }
            };
        }
        let has_ports =
            self.rule.to.iter().flat_map(|entry| &entry.matches).any(|one| one.attribute == Attribute::Port);
        match code {
            Code::RuleDead => told.help("write the rule with ports, namespaces, principals or addresses"),
            _ if has_ports => told.help("if these ports carry TCP, write the rule with TCP fields only"),
            _ => told.help("add `ports` with the ports that carry HTTP"),
        }
    }

    /// The fields that mean nothing on TCP, in the order of the document.
    fn offending(&self) -> Vec<Written<'_>> {
        let ambient = self.pass.ambient();
        let mut all = written::of_rule(self.index, self.rule);
        all.retain(|one| {
            let condition = one.path.ends_with(".values") || one.path.ends_with(".notValues");
            match one.field.attribute {
                Attribute::Http | Attribute::Unknown => true,
                Attribute::RemoteIp | Attribute::ServerName | Attribute::Metadata | Attribute::TrustDomain => ambient,
                Attribute::ServiceAccount => ambient && condition,
                _ => false,
            }
        });
        all
    }

    fn only_trust_domains(&self) -> bool {
        self.offending().iter().all(|field| field.field.attribute == Attribute::TrustDomain)
    }

    fn selected(&self) -> String {
        match &self.policy.scope {
            policy::spec::Scope::Labels(labels) if !labels.is_empty() => {
                let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("`{}`", pairs.join(","))
            }
            _ => format!("namespace {}", self.policy.id.namespace),
        }
    }

    fn path(&self) -> String {
        format!("spec.rules[{}]", self.index)
    }
}

fn listed(fields: &[Written<'_>]) -> String {
    let mut names: Vec<String> = Vec::new();
    for field in fields {
        let name = format!(
            "`{}`",
            field.path.rsplit('.').next().filter(|name| !name.ends_with("alues")).unwrap_or(&field.field.written)
        );
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let kind = if fields.iter().all(|field| field.field.attribute == Attribute::Http) { "HTTP field" } else { "field" };
    format!("{kind} {}", names.join(", "))
}

/// Why a field means nothing on TCP.
fn why(field: &Written<'_>) -> &'static str {
    match (field.field.attribute, field.field.written.as_ref()) {
        (Attribute::Http, name) => match name.trim_start_matches("not").to_ascii_lowercase().as_str() {
            "methods" => "only HTTP requests have a method",
            "paths" => "only HTTP requests have a path",
            "hosts" => "only HTTP requests have a host",
            "requestprincipals" => "only HTTP requests carry a token",
            name if name.starts_with("request.auth") => "only HTTP requests carry a token",
            _ => "only HTTP requests have headers",
        },
        (Attribute::TrustDomain, _) => "passed over in the ambient profile",
        _ => "not looked at in the ambient profile",
    }
}

/// One finding at its path.
fn one(view: &View<'_>, found: &Finding) -> Diagnostic {
    let path = found.path.to_string();
    let (message, help) = split(&found.message);
    let mut told = Diagnostic::new(finding::of_policy(found.code), message);
    told = view.value_at(told, &path, "");
    if found.code == Code::SchemaUnknownField {
        told.labels.clear();
        told = view.at(told, &path, "");
    }
    if let Some((says, edit, safe)) = mended(view, found, &path) {
        return told.fix(says, vec![edit], safe);
    }
    match help {
        Some(help) => told.help(help),
        None => told,
    }
}

/// A message and what it advises.
fn split(message: &str) -> (&str, Option<&str>) {
    match message.rsplit_once("; ") {
        Some((what, help)) if ADVICE.iter().any(|start| help.starts_with(start)) => (what, Some(help)),
        _ => (message, None),
    }
}

/// The edit that mends a finding, and whether it can only have been meant so.
fn mended(view: &View<'_>, found: &Finding, path: &str) -> Option<(String, Edit, bool)> {
    let node = view.node(path)?;
    let written = view.written.get(node.span.bytes.clone())?;
    let edit = |(bytes, replacement)| Edit { text: view.text, bytes, replacement };
    match found.code {
        Code::SchemaType => {
            let quoted = mend::quoted(view.written, node).filter(|_| found.message.starts_with("a string"))?;
            Some((format!("quote it: {}", quoted.1), edit(quoted), true))
        }
        Code::DryRunValue => {
            let quoted = mend::quoted(view.written, node).filter(|_| matches!(written, "true" | "false"))?;
            Some((format!("quote it: {}", quoted.1), edit(quoted), true))
        }
        Code::SchemaEnum => {
            let word = written.trim_matches(['"', '\'']).to_ascii_uppercase();
            let known = found.message.rsplit_once("one of ")?.1.split(", ").any(|known| known == word);
            let replaced = mend::scalar(view.written, node, &word).filter(|_| known)?;
            Some((format!("write `{word}`"), edit(replaced), true))
        }
        Code::SchemaUnknownField => {
            let (name, known) = (path.rsplit('.').next()?, found.message.rsplit_once("known here: ")?.1);
            let near = nearest_word(name, known.split(", "))?;
            let key = view.span(path)?;
            let change = Edit { text: view.text, bytes: key.bytes.clone(), replacement: near.to_owned() };
            Some((format!("did you mean `{near}`"), change, false))
        }
        Code::PrincipalScheme => {
            let without = written.trim_matches(['"', '\'']).replacen("spiffe://", "", 1);
            Some((format!("write `{without}`"), edit(mend::scalar(view.written, node, &without)?), true))
        }
        Code::BlockNeverMatches => {
            let plain = written.trim_matches(['"', '\'']).to_ascii_lowercase();
            let address = plain.strip_prefix("::ffff:")?.split('/').next()?.parse::<std::net::Ipv4Addr>().ok()?;
            let bits = plain.split_once('/').map_or(Some(128), |(_, bits)| bits.parse::<u8>().ok())?.checked_sub(96)?;
            let instead = if bits == 32 { address.to_string() } else { format!("{address}/{bits}") };
            Some((format!("write `{instead}`"), edit(mend::scalar(view.written, node, &instead)?), false))
        }
        _ => None,
    }
}
