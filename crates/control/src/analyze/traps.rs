//! Written forms that mean something else than they look.

use policy::finding::{Code as PolicyCode, Finding};
use policy::spec::{Action, Attribute, AuthorizationPolicy, Entry, Rule};
use serde_json::Value;

use super::{Diagnostic, Edit, Pass, View, mend};
use crate::admission::nearest::nearest_word;
use crate::finding::{Code, Level};

pub(super) fn shapes<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy) {
    half_of_an_and(pass, view, policy);
    alternative_sources(pass, view, policy);
    empty_lists(pass, view);
    no_rules(pass, view, policy);
}

/// One rule with `from` only and the next without: one dash too many.
fn half_of_an_and<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy) {
    for (index, pair) in policy.rules.windows(2).enumerate() {
        let [one, other] = pair else { continue };
        let split = match (shape(one), shape(other)) {
            ((true, false, false), (false, true, _)) => Some(("from", "to")),
            ((true, false | true, false) | (false, true, false), (false, false, true)) => Some(("", "when")),
            _ => None,
        };
        let Some((first, second)) = split else { continue };
        let next = index + 1;
        let message = if (first, second) == ("from", "to") && policy.action == Action::Allow {
            "these are two rules: whoever `from` names reaches every port, and everybody reaches what `to` names"
                .to_owned()
        } else {
            format!("these are two rules, and either is enough: `{second}` does not narrow the rule before it")
        };
        let mut told = Diagnostic::new(Code::HalfOfAnd.entry(), message);
        // Several reasons to deny are often written one below the other, and so is "with a token, or to a public path".
        let token = one.from.iter().all(|source| only(source, |attribute| attribute == Attribute::Http));
        let meant = policy.action != Action::Allow || (first == "from" && token) || is_set_off(view, next);
        if meant {
            told = told.level(Level::Note);
        }
        told = view.at(told, &format!("spec.rules[{next}].{second}"), "the dash before this begins another rule");
        if !first.is_empty() {
            told = view.at(told, &format!("spec.rules[{index}].{first}"), "the rule before it ends here");
        }
        let item = view.node(&format!("spec.rules[{next}]"));
        let edit = item.and_then(|item| mend::dash(view.written, item));
        let says = "if both must hold, take out the dash, so that they are one rule";
        pass.found.push(match edit {
            Some(bytes) => told.fix(says, vec![Edit { text: view.text, bytes, replacement: " ".to_owned() }], false),
            None => told.help(says),
        });
    }
}

/// Whether a comment stands above a rule: then it was begun on purpose.
fn is_set_off(view: &View<'_>, rule: usize) -> bool {
    let Some(item) = view.node(&format!("spec.rules[{rule}]")) else { return false };
    let before = view.written.get(..item.span.bytes.start).unwrap_or_default();
    before.lines().rev().nth(1).is_some_and(|line| line.trim_start().starts_with('#'))
}

/// Whether a rule has sources, operations, conditions.
fn shape(rule: &Rule) -> (bool, bool, bool) {
    (!rule.from.is_empty(), !rule.to.is_empty(), !rule.when.is_empty())
}

/// Two sources, one with identities only and the other with addresses only.
fn alternative_sources<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy) {
    for (index, rule) in policy.rules.iter().enumerate() {
        for (position, pair) in rule.from.windows(2).enumerate() {
            let [one, other] = pair else { continue };
            let apart = (only(one, is_identity) && only(other, is_address))
                || (only(one, is_address) && only(other, is_identity));
            if policy.action != Action::Allow || !apart {
                continue;
            }
            let message =
                "these two sources are alternatives: the address alone is enough, and so is the identity alone";
            let mut told = Diagnostic::new(Code::AlternativeSources.entry(), message);
            for at in [position + 1, position] {
                told = view.at(told, &format!("spec.rules[{index}].from[{at}].source"), "");
            }
            pass.found.push(told.help("to demand both, write both lists below one `source`"));
        }
    }
}

fn only(entry: &Entry, is: fn(Attribute) -> bool) -> bool {
    !entry.matches.is_empty() && entry.matches.iter().all(|found| is(found.attribute))
}

fn is_identity(attribute: Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain
    )
}

fn is_address(attribute: Attribute) -> bool {
    matches!(attribute, Attribute::SourceIp | Attribute::RemoteIp)
}

/// Lists that are there and hold nothing.
fn empty_lists<'a>(pass: &mut Pass<'a>, view: &View<'a>) {
    let Some(object) = view.object else { return };
    for (index, rule) in object.items_at("/spec/rules").iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        for name in ["from", "to", "when"] {
            if is_empty(rule.get(name)) {
                let means = match name {
                    "from" => ": the rule is for everybody",
                    "to" => ": the rule is for every port",
                    _ => "",
                };
                empty_list(pass, view, &format!("{path}.{name}"), means);
            }
            let entries = rule.get(name).and_then(Value::as_array).into_iter().flatten().enumerate();
            for (position, entry) in entries {
                let inner = if name == "from" { "source" } else { "operation" };
                let Some(fields) = entry.get(inner).and_then(Value::as_object) else { continue };
                for (field, _) in fields.iter().filter(|(_, value)| is_empty(Some(value))) {
                    let path = format!("{path}.{name}[{position}].{inner}.{field}");
                    empty_list(pass, view, &path, "");
                }
            }
        }
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    value.is_some_and(|value| value.is_null() || value.as_array().is_some_and(Vec::is_empty))
}

fn empty_list<'a>(pass: &mut Pass<'a>, view: &View<'a>, path: &str, means: &str) {
    let name = path.rsplit('.').next().unwrap_or_default();
    let message = format!("an empty `{name}` restricts nothing, as if it were not written{means}");
    let told = view.at(Diagnostic::new(Code::EmptyMeansAny.entry(), message), path, "");
    let help = format!("if that is meant, leave `{name}` out; otherwise fill it");
    pass.found.push(match view.removed(path) {
        Some(edit) => told.fix(help, vec![edit], false),
        None => told.help(help),
    });
}

/// An ALLOW policy whose rules are there and empty, or whose name says that it allows.
fn no_rules<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy) {
    if policy.action != Action::Allow || !policy.rules.is_empty() {
        return;
    }
    let name = policy.id.name.to_ascii_lowercase();
    let denies = ["deny", "nothing", "none", "block", "default", "baseline", "lock", "zero"];
    let promises = name.contains("allow") && !denies.iter().any(|word| name.contains(word));
    let written = view.object.is_some_and(|object| object.at("/spec").get("rules").is_some());
    let meant = denies.iter().any(|word| name.contains(word));
    if !promises && (!written || meant) {
        return;
    }
    let message = "an ALLOW policy without rules allows nothing: every connection to what it selects is refused unless another policy allows it";
    let told = Diagnostic::new(Code::NoRulesMeansNone.entry(), message);
    let path = if written { "spec.rules" } else { "metadata.name" };
    pass.found.push(
        view.at(told, path, "").help(
            "to allow everything, write `rules: [{}]`; to allow nothing, leave `rules` out and say so in the name",
        ),
    );
}

/// What is left of a rule where unknown fields are dropped instead of refused.
pub(super) fn pruned<'a>(pass: &mut Pass<'a>, view: &View<'a>, findings: &[Finding]) {
    let unknown: Vec<&Finding> = findings.iter().filter(|found| found.code == PolicyCode::SchemaUnknownField).collect();
    let Some(object) = view.object.filter(|_| !unknown.is_empty()) else { return };
    let mut left = object.value().clone();
    for found in &unknown {
        remove(&mut left, &found.path.pointer());
    }
    let parsed = policy::parse::authorization_policy(&left, &pass.mesh.settings);
    let Some(policy) = parsed.value.as_ref().filter(|_| parsed.admissible()) else { return };
    let mut told_rules = Vec::new();
    for found in &unknown {
        let path = found.path.to_string();
        if let Some(name) =
            path.strip_prefix("spec.").filter(|name| nearest_word(name, ["selector"].into_iter()).is_some())
        {
            let message = format!(
                "where unknown fields are dropped (`--validate=false`, older tools), `{name}` goes and the policy is for the whole namespace"
            );
            pass.found.push(view.at(Diagnostic::new(Code::PrunedWidens.entry(), message), &path, ""));
        }
        let Some(index) = rule_of(found).filter(|index| !told_rules.contains(index)) else { continue };
        let Some(rule) = policy.rules.get(index) else { continue };
        told_rules.push(index);
        let what = if shape(rule) == (false, false, false) {
            "what is left is `{}`, which matches every connection"
        } else {
            "what is left of the rule restricts less"
        };
        let name = path.rsplit('.').next().unwrap_or_default();
        let message =
            format!("where unknown fields are dropped (`--validate=false`, older tools), `{name}` goes and {what}");
        pass.found.push(view.at(Diagnostic::new(Code::PrunedWidens.entry(), message), &path, ""));
    }
}

/// The rule that a finding is in.
fn rule_of(found: &Finding) -> Option<usize> {
    match found.path.steps() {
        [_, _, policy::finding::Step::Index(index), ..] => Some(*index),
        _ => None,
    }
}

fn remove(value: &mut Value, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    let name = name.replace("~1", "/").replace("~0", "~");
    if let Some(fields) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
        drop(fields.shift_remove(&name));
    }
}
