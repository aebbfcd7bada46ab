//! What the engine answers to a case, in the words of the format.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy::decide::{ShadowVerdict, StageName};
use policy::finding::Finding;
use policy::{
    Connection, Mesh, PolicyId, Profile, Reason, Settings, Severity, Snapshot, Workload, WorkloadId, parse, transition,
};
use serde_json::{Value, json};

use super::{Asked, Case, Matter};

/// The engine's answer to one case in one profile.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The profile.
    pub profile: Profile,
    /// `{id, profile, kind, connections: [..]}`, or `{id, profile, kind, valid, errors, warnings}`.
    pub value: Value,
    /// What is said about each connection.
    pub(super) connections: Vec<One>,
    /// Objects of the case that admission refuses, and why, unless that is meant.
    pub(super) refused: Vec<String>,
    /// Was a document refused before admission, by the schema.
    pub(super) by_schema: bool,
}

/// What is said about one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct One {
    pub(super) value: Value,
    /// Every rule that matches, by stage: what the ambient profile may report is any of them (S-34).
    pub(super) matching: BTreeSet<(StageName, String)>,
}

impl Case {
    /// Asks the engine.
    pub fn answer(&self, profile: Profile) -> Answered {
        let settings = Settings { profile, ..self.settings.clone() };
        let mut answered = Answered {
            profile,
            value: json!({"id": self.id, "profile": profile.word(), "kind": self.kind()}),
            connections: Vec::new(),
            refused: Vec::new(),
            by_schema: false,
        };
        let mut compile = |policies: &[Value], workload: &Workload, generation| {
            let (mesh, refused) = mesh(&settings, workload, policies);
            if !self.bypass {
                answered.refused.extend(refused);
            }
            policy::compile(&mesh, generation, None)
        };
        match &self.matter {
            Matter::Evaluation { policies, workload, connections } => {
                let snapshot = compile(policies, workload, 1);
                let evaluate = |asked: &Asked| evaluated(&snapshot, &workload.id, &asked.connection);
                answered.connections = connections.iter().map(evaluate).collect();
            }
            Matter::Transition { before, after, workload, connections } => {
                let (before, after) = (compile(before, workload, 1), compile(after, workload, 2));
                let change = |asked: &Asked| changed(&before, &after, &workload.id, &asked.connection);
                answered.connections = connections.iter().map(change).collect();
            }
            Matter::Validation { policies } => {
                let findings: Vec<Finding> = policies.iter().flat_map(|one| findings(one, &settings)).collect();
                answered.by_schema = findings.iter().any(|one| one.code.severity() == Severity::Schema);
                let codes = |wanted: &dyn Fn(&&Finding) -> bool| -> BTreeSet<&str> {
                    findings.iter().filter(wanted).map(|one| one.code.word()).collect()
                };
                let errors = codes(&|one| one.refuses());
                let warnings = codes(&|one| one.code.severity() == Severity::Warning);
                put(&mut answered.value, "valid", errors.is_empty());
                put(&mut answered.value, "errors", errors.into_iter().collect::<Vec<_>>());
                put(&mut answered.value, "warnings", warnings.into_iter().collect::<Vec<_>>());
                return answered;
            }
        }
        let values: Vec<Value> = answered.connections.iter().map(|one| one.value.clone()).collect();
        put(&mut answered.value, "connections", values);
        answered
    }

    fn kind(&self) -> &'static str {
        match self.matter {
            Matter::Evaluation { .. } => "evaluation",
            Matter::Validation { .. } => "validation",
            Matter::Transition { .. } => "transition",
        }
    }
}

fn put(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value.into());
    }
}

/// A mesh of one workload with these objects as they are once all are applied (the last of a name counts), and which of them
/// admission refuses. They are compiled all the same: a case that does not mean it fails by it, and the answers of one that does
/// are those of the engine.
fn mesh(settings: &Settings, workload: &Workload, objects: &[Value]) -> (Mesh, Vec<String>) {
    let mut mesh = Mesh { settings: settings.clone(), workloads: vec![workload.clone()], ..Mesh::default() };
    let mut refused = Vec::new();
    for object in objects {
        let findings = match object.get("kind").and_then(Value::as_str) {
            Some("AuthorizationPolicy") => {
                let parsed = parse::authorization_policy(object, settings);
                if let Some(policy) = parsed.value {
                    mesh.policies.retain(|other| other.id != policy.id);
                    mesh.policies.push(Arc::new(policy));
                }
                parsed.findings
            }
            Some("PeerAuthentication") => {
                let parsed = parse::peer_authentication(object, settings);
                if let Some(peer) = parsed.value {
                    mesh.peer_authentications.retain(|other| other.id != peer.id);
                    mesh.peer_authentications.push(Arc::new(peer));
                }
                parsed.findings
            }
            _ => findings(object, settings),
        };
        let why = |one: Finding| format!("admission refuses {}: {} ({})", name(object), one.message, one.code.word());
        refused.extend(findings.into_iter().filter(Finding::refuses).map(why));
    }
    (mesh, refused)
}

/// `kind namespace/name` of an object, as far as it has them.
fn name(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

/// What admission says about an object.
fn findings(object: &Value, settings: &Settings) -> Vec<Finding> {
    match object.get("kind").and_then(Value::as_str) {
        Some("AuthorizationPolicy") => parse::authorization_policy(object, settings).findings,
        Some("PeerAuthentication") => parse::peer_authentication(object, settings).findings,
        _ => parse::dry_run_on_other_kind(object).into_iter().collect(),
    }
}

fn word(snapshot: &Snapshot, workload: &WorkloadId, connection: &Connection) -> &'static str {
    if snapshot.decide(workload, connection).is_permitted() { "allow" } else { "deny" }
}

fn evaluated(snapshot: &Snapshot, workload: &WorkloadId, connection: &Connection) -> One {
    let decision = snapshot.decide(workload, connection);
    let explanation = snapshot.explain(workload, connection);
    let matching = explanation.rules.iter().filter(|rule| rule.matched == Some(true));
    // What refuses for want of mutual TLS is no policy, and none was consulted (S-79).
    let decided_by_policy = decision.reason != Reason::MtlsRequired;
    let value = json!({
        "verdict": if decision.is_permitted() { "allow" } else { "deny" },
        "reason": decision.reason.word(),
        "policy": decision.policy.as_deref().filter(|_| decided_by_policy).map(PolicyId::to_string),
        "rule": decision.rule.filter(|_| decided_by_policy),
        "audit": decision.audit.is_some(),
        "custom": if decision.consulted { "consulted" } else { "not-consulted" },
        "dryRun": {"allow": shadow(decision.shadow.allow.as_ref()), "deny": shadow(decision.shadow.deny.as_ref())},
    });
    One { value, matching: matching.map(|rule| (rule.stage, rule.policy.to_string())).collect() }
}

fn shadow(verdict: Option<&ShadowVerdict>) -> Value {
    let Some(ShadowVerdict { allowed, matched }) = verdict else {
        return Value::from("absent");
    };
    json!({
        "result": if *allowed { "allowed" } else { "denied" },
        "policy": matched.as_ref().map(|(policy, _)| policy.to_string()),
        "rule": matched.as_ref().map(|(_, rule)| rule),
    })
}

fn changed(before: &Snapshot, after: &Snapshot, workload: &WorkloadId, connection: &Connection) -> One {
    let value = json!({
        "before": word(before, workload, connection),
        "after": word(after, workload, connection),
        "established": transition::istio(before, after, workload, connection).word(),
    });
    One { value, matching: BTreeSet::new() }
}
