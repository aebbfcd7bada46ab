//! One connection, explained: who asks for what, what is answered in a profile and why, and the smallest edit that would turn the
//! answer. Everything is decided by `policy::ask`; here are names, order and words.

mod candidates;
mod diff;
mod edits;
mod ends;
mod matrix;
mod text;
mod value;

use std::sync::Arc;

use api::Key;
use policy::ask::{Answer, Asker};
use policy::decide::StageName;
use policy::explain::RuleTrace;
use policy::mesh::PolicyId;
use policy::spec::{Action, AuthorizationPolicy};
use policy::{Mesh, Profile};

use crate::bundle::Bundle;
use crate::sentence;
use crate::translate::{AUTHORIZATION_POLICIES, SECURITY_GROUP, Translator};

pub use edits::{Proposal, Setting, smallest};
pub use ends::{Asked, Ends, ends};
pub use matrix::{Matrix, matrix};
pub use text::{sentence as verdict_sentence, text};
pub use value::value;

/// What is answered in one profile.
#[derive(Debug)]
pub struct Report {
    /// The profile.
    pub profile: Profile,
    /// The answer, with its trace.
    pub answer: Answer,
    /// Every policy that applies to the destination, in the order of evaluation.
    pub policies: Vec<PolicyReport>,
    /// What else a reader should know.
    pub notes: Vec<String>,
    /// The smallest edit that allows, where it is not allowed.
    pub allows: Option<Proposal>,
    /// The smallest edit that denies, where it is not denied.
    pub denies: Option<Proposal>,
}

/// One policy that applies.
#[derive(Debug)]
pub struct PolicyReport {
    /// Which one.
    pub id: Arc<PolicyId>,
    /// What it does.
    pub action: Action,
    /// Whether it is a trial.
    pub trial: bool,
    /// What it says, in one sentence.
    pub sentence: String,
    /// Where it stands: name of the text, and line.
    pub place: Option<(String, usize)>,
    /// Its rules that were looked at, in the order of the document.
    pub rules: Vec<RuleTrace>,
    /// Whether its rules were looked at: what comes before may have decided already.
    pub reached: bool,
    /// What an API server would refuse it for.
    pub refused: Option<String>,
}

/// Answers a question in the profile of the mesh. The edits are left to [`smallest`].
pub fn report(bundle: &Bundle, mesh: &Mesh, translator: &Translator, ends: &Ends) -> Report {
    let asker = Asker::new(around(mesh, ends));
    let answer = asker.ask(&ends.to, &ends.question);
    let mut report = Report {
        profile: mesh.settings.profile,
        policies: policies(bundle, mesh, translator, ends, &asker, &answer),
        answer,
        notes: Vec::new(),
        allows: None,
        denies: None,
    };
    report.notes = notes(mesh, ends, &report);
    report
}

/// The part of a mesh that a connection depends on: its destination, and the policies that may reach it.
pub(crate) fn around(mesh: &Mesh, ends: &Ends) -> Mesh {
    let near = |namespace: &str| namespace == ends.to.namespace || namespace == mesh.settings.root_namespace;
    Mesh {
        settings: mesh.settings.clone(),
        namespaces: mesh.namespaces.clone(),
        workloads: mesh.workloads.iter().filter(|workload| workload.id == ends.to).cloned().collect(),
        services: mesh.services.iter().filter(|service| service.namespace == ends.to.namespace).cloned().collect(),
        policies: mesh.policies.iter().filter(|policy| near(&policy.id.namespace)).cloned().collect(),
        peer_authentications: mesh.peer_authentications.iter().filter(|one| near(&one.id.namespace)).cloned().collect(),
    }
}

/// S-31: the stage in which a policy is looked at.
fn stage(policy: &AuthorizationPolicy) -> StageName {
    match (policy.action, policy.trial) {
        (Action::Custom, _) => StageName::Custom,
        (Action::Audit, _) => StageName::Audit,
        (Action::Deny, true) => StageName::TrialDeny,
        (Action::Deny, false) => StageName::Deny,
        (Action::Allow, true) => StageName::TrialAllow,
        (Action::Allow, false) => StageName::Allow,
    }
}

fn policies(
    bundle: &Bundle,
    mesh: &Mesh,
    translator: &Translator,
    ends: &Ends,
    asker: &Asker,
    answer: &Answer,
) -> Vec<PolicyReport> {
    let Some(state) = asker.snapshot().workload(&ends.to) else { return Vec::new() };
    let traces = &answer.telling().explanation.rules;
    let last = traces.iter().map(|rule| rule.stage).max();
    let applied: Vec<&Arc<PolicyId>> = state.policies().collect();
    let mut found: Vec<(StageName, PolicyReport)> = mesh
        .policies
        .iter()
        .filter(|policy| applied.contains(&&policy.id))
        .map(|policy| {
            let key = key(&policy.id);
            let place = bundle
                .place(&key, "metadata.name")
                .and_then(|place| Some((bundle.texts().get(place.text)?.name.clone(), place.span.line)));
            let mut rules: Vec<RuleTrace> = traces.iter().filter(|rule| rule.policy == policy.id).cloned().collect();
            rules.sort_by_key(|rule| rule.rule);
            let refusal = translator.findings_of(&key).iter().find(|finding| finding.refuses());
            let at = stage(policy);
            let report = PolicyReport {
                id: Arc::clone(&policy.id),
                action: policy.action,
                trial: policy.trial,
                sentence: sentence::of_policy(policy, &mesh.settings),
                place,
                reached: !rules.is_empty() || policy.rules.is_empty() && last.is_none_or(|last| at <= last),
                rules,
                refused: refusal.map(ToString::to_string),
            };
            (at, report)
        })
        .collect();
    found.sort_by(|(a, one), (b, other)| (a, &one.id).cmp(&(b, &other.id)));
    found.into_iter().map(|(_, report)| report).collect()
}

/// The key of a policy.
pub(crate) fn key(id: &PolicyId) -> Key {
    Key::namespaced(SECURITY_GROUP, AUTHORIZATION_POLICIES, &id.namespace, &id.name)
}

fn notes(mesh: &Mesh, ends: &Ends, report: &Report) -> Vec<String> {
    let mut notes = ends.notes.clone();
    let destination = mesh.workloads.iter().find(|workload| workload.id == ends.to);
    if destination.is_some_and(|workload| !workload.in_mesh) {
        notes.push(format!("{} is not in the mesh: nothing is enforced there, so everything is allowed", ends.to));
    }
    let telling = report.answer.telling();
    let looks_at_names = telling
        .explanation
        .rules
        .iter()
        .flat_map(|rule| &rule.fields)
        .any(|field| field.attribute == policy::spec::Attribute::ServerName);
    if looks_at_names && ends.question.sni.is_none() {
        notes.push("the connection is taken to bring no server name: --sni gives one".to_owned());
    }
    if looks_at_names {
        notes.push("on this machine's mesh what needs the server name is refused (reason needs-proxy-path)".to_owned());
    }
    let shadow = &telling.explanation.decision.shadow;
    if let Some(if_enforced) = shadow.if_enforced {
        let word = if if_enforced { "allowed" } else { "denied" };
        notes.push(format!("with the trials enforced it would be {word}"));
    }
    if let Some((policy, rule)) = &telling.explanation.decision.audit {
        notes.push(format!("AUDIT {policy} rule {rule} marks it"));
    }
    notes
}
