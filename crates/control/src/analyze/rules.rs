//! Rules that change nothing: what the exact cut proves of each, with the rules that hide it.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy::space::{self, Fate, RuleName};
use policy::spec::{Attribute, AuthorizationPolicy};
use policy::{Code as PolicyCode, PolicyId};

use super::{Diagnostic, Pass, View, http};
use crate::finding::Code;
use crate::translate::AUTHORIZATION_POLICIES;
use crate::written;

/// Rules named as the reason; the rest is counted.
const NAMED_MAX: usize = 3;

pub(super) fn fates(pass: &mut Pass<'_>) {
    let policies: BTreeMap<Arc<PolicyId>, Arc<AuthorizationPolicy>> =
        pass.mesh.policies.iter().map(|policy| (Arc::clone(&policy.id), Arc::clone(policy))).collect();
    let fates = space::rules_everywhere(&pass.admitted);
    let redundant: BTreeMap<&RuleName, &Vec<RuleName>> = fates
        .iter()
        .filter_map(|(name, fate)| match fate {
            Ok(Fate::Redundant { by }) => Some((name, by)),
            _ => None,
        })
        .collect();
    let mut told = Vec::new();
    for (name, fate) in &fates {
        // Where a bound was met nothing is known, and nothing is said.
        let Ok(fate) = fate else { continue };
        let found = match fate {
            Fate::Dead if !told_already(pass, name) => Some(dead(pass, name)),
            Fate::Shadowed { by } if sure(pass, &policies, name, by) => Some(hidden(pass, name, by, Code::Shadowed)),
            Fate::Redundant { by } if sure(pass, &policies, name, by) => {
                // Of two rules that say the same only the later one is too many.
                let twin =
                    by.iter().all(|other| redundant.get(other).is_some_and(|by| by.as_slice() == [name.clone()]));
                let later = by.iter().any(|other| other > name);
                (!twin || !later).then(|| hidden(pass, name, by, Code::Redundant))
            }
            _ => None,
        };
        told.extend(found);
    }
    pass.found.append(&mut told);
}

/// Whether it was said already, with its reason, that nothing matches.
fn told_already(pass: &Pass<'_>, name: &RuleName) -> bool {
    let view = View::of(pass, AUTHORIZATION_POLICIES, &name.policy.namespace, &name.policy.name);
    let path = format!("spec.rules[{}]", name.rule);
    let rule = view.node(&path).map(|node| node.span.bytes.clone()).unwrap_or_default();
    let of_clients = pass.found.iter().filter(|one| one.entry == Code::PlaintextClients.entry());
    if of_clients
        .filter_map(|one| one.labels.first())
        .any(|label| label.text == view.text && rule.contains(&label.bytes.start))
    {
        return true;
    }
    let findings = pass.translated.translator.findings_of(&view.key);
    findings.iter().any(|found| {
        let never = matches!(found.code, PolicyCode::RuleVoid | PolicyCode::RuleDead) && found.path.to_string() == path;
        let inside = matches!(found.code, PolicyCode::PrincipalScheme | PolicyCode::BlockNeverMatches)
            && found.path.to_string().starts_with(&path);
        never || inside || found.refuses()
    })
}

/// Where HTTP fields play a part, what is so on TCP is told only if the ports are known to carry it.
fn sure(
    pass: &Pass<'_>,
    policies: &BTreeMap<Arc<PolicyId>, Arc<AuthorizationPolicy>>,
    name: &RuleName,
    by: &[RuleName],
) -> bool {
    let on_tcp = |name: &RuleName| {
        let Some(policy) = policies.get(&name.policy) else { return false };
        let Some(rule) = policy.rules.get(name.rule) else { return false };
        let http = written::of_rule(name.rule, rule).iter().any(|field| field.field.attribute == Attribute::Http);
        let ports = http::ports(pass, policy, rule);
        !http || pass.ambient() || (!ports.tcp.is_empty() && !ports.other)
    };
    on_tcp(name) && by.iter().all(on_tcp)
}

fn dead(pass: &Pass<'_>, name: &RuleName) -> Diagnostic {
    let view = View::of(pass, AUTHORIZATION_POLICIES, &name.policy.namespace, &name.policy.name);
    let message = "no connection that comes to this rule can match it";
    let told =
        view.value_at(Diagnostic::new(Code::NeverMatches.entry(), message), &format!("spec.rules[{}]", name.rule), "");
    told.note(
        "proved for all connections: what the rule demands excludes itself, or STRICT mutual TLS refuses it before",
    )
}

fn hidden(pass: &Pass<'_>, name: &RuleName, by: &[RuleName], code: Code) -> Diagnostic {
    let view = View::of(pass, AUTHORIZATION_POLICIES, &name.policy.namespace, &name.policy.name);
    let (message, says) = match code {
        Code::Shadowed => ("every connection that this rule matches is decided before it", "this goes before it"),
        _ => ("this rule changes no decision: other rules match all that it matches", "this matches as much or more"),
    };
    let mut told = view.value_at(Diagnostic::new(code.entry(), message), &format!("spec.rules[{}]", name.rule), "");
    for other in by.iter().take(NAMED_MAX) {
        let place = View::of(pass, AUTHORIZATION_POLICIES, &other.policy.namespace, &other.policy.name);
        told = place.value_at(told, &format!("spec.rules[{}]", other.rule), says);
    }
    let named: Vec<String> =
        by.iter().take(NAMED_MAX).map(|other| format!("rule {} of `{}`", other.rule, other.policy)).collect();
    let more = by.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let verb = if code == Code::Shadowed { "hidden" } else { "covered" };
    told = told.note(format!("{verb} by {}{more}; proved for all connections", named.join(", ")));
    match code {
        Code::Shadowed => told.help("narrow the rule that goes before it, or remove this one"),
        _ => told.help("remove it, or narrow the wider rule if that one is the mistake"),
    }
}
