//! An explanation as one versioned JSON object.

use policy::ask::{Told, Verdict};
use policy::compile::Effect;
use policy::explain::{FieldTrace, LeftOut, RuleTrace};
use policy::{Peer, PeerName};
use serde_json::{Value, json};

use super::{Ends, PolicyReport, Proposal, Report, verdict_sentence};

/// Everything.
pub fn value(ends: &Ends, reports: &[Report]) -> Value {
    let question = &ends.question;
    let identity = match &question.peer {
        Peer::Anonymous => Value::Null,
        Peer::Attested(id) => Value::from(id.uri()),
        Peer::Verified(names) => names.iter().map(PeerName::raw).collect(),
    };
    json!({
        "apiVersion": "tidegate.io/v1alpha1",
        "kind": "Explanation",
        "from": {"shown": ends.from, "identity": identity, "address": question.source},
        "to": {"namespace": ends.to.namespace, "name": ends.to.name, "address": question.destination, "port": question.port},
        "serverName": question.sni,
        "answers": reports.iter().map(|report| one(ends, report)).collect::<Vec<_>>(),
    })
}

fn one(ends: &Ends, report: &Report) -> Value {
    let answer = &report.answer;
    let telling = answer.telling();
    let decision = &telling.explanation.decision;
    json!({
        "profile": report.profile.word(),
        "verdict": answer.verdict.word(),
        "dependsOn": depends_on(&answer.verdict),
        "sentence": verdict_sentence(ends, report),
        "reason": decision.reason.word(),
        "policy": decision.policy.as_ref().map(ToString::to_string),
        "rule": decision.rule,
        "port": {"carries": answer.class.carries.word(), "service": answer.class.service, "said": answer.class.said},
        "tcp": told(&answer.tcp),
        "http": answer.http.as_ref().map(told),
        "policies": report.policies.iter().map(policy).collect::<Vec<_>>(),
        "nearest": telling.explanation.nearest,
        "notes": report.notes,
        "edits": {"allow": proposal(report.allows.as_ref()), "deny": proposal(report.denies.as_ref())},
    })
}

fn depends_on(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Allow | Verdict::Deny => Vec::new(),
        Verdict::Depends(on) => on.iter().map(ToString::to_string).collect(),
    }
}

fn told(told: &Told) -> Value {
    json!({"verdict": told.verdict.word(), "dependsOn": depends_on(&told.verdict),
           "reason": told.explanation.decision.reason.word(), "because": told.explanation.outcome().because()})
}

fn policy(report: &PolicyReport) -> Value {
    json!({
        "policy": report.id.to_string(),
        "action": report.action.word(),
        "trial": report.trial,
        "sentence": report.sentence,
        "file": report.place.as_ref().map(|(name, _)| name),
        "line": report.place.as_ref().map(|(_, line)| line),
        "reached": report.reached,
        "refused": report.refused,
        "rules": report.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn rule(trace: &RuleTrace) -> Value {
    let (effect, because): (&str, Vec<&str>) = match &trace.effect {
        Effect::Effective => ("effective", Vec::new()),
        Effect::Widened(dropped) => ("widened", dropped.iter().map(AsRef::as_ref).collect()),
        Effect::Void(by) => ("void", vec![by]),
        Effect::Dead(dropped) => ("dead", dropped.iter().map(AsRef::as_ref).collect()),
    };
    json!({"rule": trace.rule, "matched": trace.matched, "effect": effect, "effectBecauseOf": because,
           "fields": trace.fields.iter().map(field).collect::<Vec<_>>()})
}

fn field(trace: &FieldTrace) -> Value {
    let left_out = trace.left_out.map(|why| match why {
        LeftOut::HttpOnly => "http-only",
        LeftOut::Ignored => "ignored",
        LeftOut::UnknownKey => "unknown-key",
        LeftOut::Unreadable => "unreadable",
    });
    json!({"field": trace.field, "wanted": trace.wanted, "found": trace.found, "matched": trace.matched,
           "leftOut": left_out})
}

fn proposal(proposal: Option<&Proposal>) -> Value {
    proposal.map_or(Value::Null, |proposal| json!({"says": proposal.says, "diff": proposal.diff}))
}
