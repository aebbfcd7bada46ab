//! What could be edited in a policy so that a connection is decided otherwise. These are guesses, to be tried: whether one has the
//! effect is for the engine to say.

use policy::ask::Answer;
use policy::decide::StageName;
use policy::explain::{FieldTrace, LeftOut, RuleTrace};
use policy::mesh::PolicyId;
use policy::spec::{Attribute, AuthorizationPolicy, Scope};
use policy::{Mesh, Peer};
use serde_json::{Map, Value, json};

use super::ends::Ends;
use crate::written;

/// A change of one policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// Which one.
    pub(super) policy: PolicyId,
    /// Its new `spec`.
    pub(super) spec: Value,
    /// What is done, in words.
    pub(super) says: String,
    /// Whether the policy is a new one.
    pub(super) new: bool,
}

/// What may be done to one list of values of a rule.
#[derive(Clone, Debug, PartialEq)]
enum Amend {
    Add {
        at: String,
        name: String,
        value: String,
    },
    Remove {
        at: String,
        name: String,
        value: String,
    },
    /// The whole list goes.
    Take {
        at: String,
        name: String,
    },
}

impl Amend {
    fn says(&self) -> String {
        match self {
            Self::Add { name, value, .. } => format!("add {value} to `{name}` of"),
            Self::Remove { name, value, .. } => format!("take {value} out of `{name}` of"),
            Self::Take { name, .. } => format!("take `{name}` out of"),
        }
    }
}

/// What is looked at to make a guess.
pub(super) struct Look<'a> {
    pub(super) answer: &'a Answer,
    pub(super) mesh: &'a Mesh,
    pub(super) ends: &'a Ends,
    /// The `spec` of a policy as it is written now.
    pub(super) spec: &'a dyn Fn(&PolicyId) -> Option<Value>,
}

/// Edits that may let the connection in.
pub(super) fn allowing(look: &Look<'_>) -> Vec<Change> {
    let blocking: Vec<&RuleTrace> = look.rules(StageName::Deny).filter(|rule| rule.matched != Some(false)).collect();
    if let Some(rule) = blocking.first() {
        return look.narrowed(rule);
    }
    let mut changes: Vec<Change> = look.rules(StageName::Allow).flat_map(|rule| look.extended(rule)).collect();
    for policy in look.applied(|policy| policy.action == policy::Action::Allow && !policy.trial) {
        changes.extend(look.appended(policy));
    }
    changes
}

/// Edits that may keep the connection out.
pub(super) fn denying(look: &Look<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(rule) = look.rules(StageName::Allow).find(|rule| rule.matched != Some(false)) {
        changes.extend(look.narrowed(rule));
    }
    for policy in look.applied(|policy| policy.action == policy::Action::Deny && !policy.trial) {
        changes.extend(look.appended(policy));
    }
    changes.extend(look.denied_anew());
    changes
}

impl Look<'_> {
    fn rules(&self, stage: StageName) -> impl Iterator<Item = &RuleTrace> {
        self.answer.telling().explanation.rules.iter().filter(move |rule| rule.stage == stage)
    }

    fn policy(&self, id: &PolicyId) -> Option<&AuthorizationPolicy> {
        self.mesh.policies.iter().find(|policy| *policy.id == *id).map(AsRef::as_ref)
    }

    /// Policies that reach the destination and are wanted.
    fn applied(&self, wanted: impl Fn(&AuthorizationPolicy) -> bool) -> impl Iterator<Item = &AuthorizationPolicy> {
        let labels = self.mesh.workloads.first().map(|workload| &workload.labels);
        let reaches = move |policy: &AuthorizationPolicy| match labels {
            Some(labels) => policy.scope.selects(labels),
            None => policy.scope == Scope::All,
        };
        self.mesh.policies.iter().map(AsRef::as_ref).filter(move |policy| wanted(policy) && reaches(policy))
    }

    fn change(&self, id: &PolicyId, says: String, edit: impl FnOnce(&mut Value) -> Option<()>) -> Option<Change> {
        let mut spec = (self.spec)(id)?;
        edit(&mut spec)?;
        Some(Change { policy: id.clone(), spec, says, new: false })
    }

    /// An ALLOW rule that does not match, with what it lacks: values added, values that exclude taken out, fields of HTTP taken
    /// out. Where a field wants and excludes values, either of the two may be enough.
    fn extended(&self, trace: &RuleTrace) -> Vec<Change> {
        let edits = self.lacks(trace);
        let only =
            |drop: fn(&Amend) -> bool| -> Vec<Amend> { edits.iter().filter(|one| !drop(one)).cloned().collect() };
        let mut ways =
            vec![only(|one| matches!(one, Amend::Add { .. })), only(|one| matches!(one, Amend::Remove { .. }))];
        ways.push(edits);
        ways.dedup();
        ways.into_iter().filter(|edits| !edits.is_empty()).filter_map(|edits| self.amended(trace, edits)).collect()
    }

    fn lacks(&self, trace: &RuleTrace) -> Vec<Amend> {
        let rule = self.policy(&trace.policy).and_then(|policy| policy.rules.get(trace.rule));
        let lacking = lacking(&trace.fields);
        let mut edits = Vec::new();
        for one in rule.into_iter().flat_map(|rule| written::of_rule(trace.rule, rule)) {
            let is_it = |field: &&FieldTrace| {
                one.path.contains(&format!(".{}", entry(&field.field))) && field.written == one.field.written
            };
            let Some(field) = lacking.iter().find(is_it) else { continue };
            let (at, name) = (pointer(one.path.trim_start_matches("spec.")), last(&one.path).to_owned());
            if field.left_out == Some(LeftOut::HttpOnly) {
                edits.push(Amend::Take { at, name: field.written.to_string() });
                continue;
            }
            let Some(own) = self.own(one.field.attribute) else { continue };
            match (one.negative, one.values.iter().find(|value| is_own(value, Some(&own)))) {
                (false, None) => edits.push(Amend::Add { at, name, value: own }),
                (true, Some(value)) => edits.push(Amend::Remove { at, name, value: value.text().to_owned() }),
                _ => {}
            }
        }
        edits
    }

    fn amended(&self, trace: &RuleTrace, edits: Vec<Amend>) -> Option<Change> {
        let done: Vec<String> = edits.iter().map(Amend::says).collect();
        let says = format!("{} rule {} of {}", done.join(", "), trace.rule, trace.policy);
        self.change(&trace.policy, says, |spec| {
            for edit in edits {
                match edit {
                    Amend::Add { at, value, .. } => spec.pointer_mut(&at)?.as_array_mut()?.push(Value::from(value)),
                    Amend::Remove { at, value, .. } => take_value(spec, &at, &value)?,
                    Amend::Take { at, .. } => take(spec, &at)?,
                }
            }
            // A rule of which nothing is left would match everything, which nobody asked for.
            tidy(spec.pointer_mut(&format!("/rules/{}", trace.rule))?)
        })
    }

    /// A rule that matches, narrowed so that it does not.
    fn narrowed(&self, trace: &RuleTrace) -> Vec<Change> {
        let Some(rule) = self.policy(&trace.policy).and_then(|policy| policy.rules.get(trace.rule)) else {
            return Vec::new();
        };
        let of = format!("rule {} of {}", trace.rule, trace.policy);
        let mut changes = Vec::new();
        for one in written::of_rule(trace.rule, rule).into_iter().filter(|one| !one.negative) {
            let own = self.own(one.field.attribute);
            let Some(value) = one.values.iter().find(|value| is_own(value, own.as_deref())) else { continue };
            if one.values.iter().count() < 2 {
                continue;
            }
            let says = format!("take {} out of `{}` of {of}", value.text(), last(&one.path));
            let at = pointer(one.path.trim_start_matches("spec."));
            changes.extend(self.change(&trace.policy, says, |spec| take_value(spec, &at, value.text())));
        }
        let rule_at = format!("/rules/{}", trace.rule);
        for (list, inner, field, own) in [
            ("from", "source", "notPrincipals", self.own(Attribute::Principal)),
            ("to", "operation", "notPorts", self.own(Attribute::Port)),
        ] {
            let Some(own) = own else { continue };
            let says = format!("except {own} by `{field}` from {of}");
            changes.extend(
                self.change(&trace.policy, says, |spec| except(spec.pointer_mut(&rule_at)?, list, inner, field, &own)),
            );
        }
        let says = format!("take out {of}");
        changes.extend(self.change(&trace.policy, says, |spec| {
            let rules = spec.pointer_mut("/rules")?.as_array_mut()?;
            (rules.len() > 1).then(|| rules.remove(trace.rule)).map(drop)
        }));
        changes
    }

    /// A policy with a further rule for exactly this connection.
    fn appended(&self, policy: &AuthorizationPolicy) -> Option<Change> {
        let rule = self.rule()?;
        let says = format!("add a rule for this connection to {}", policy.id);
        self.change(&policy.id, says, |spec| {
            if spec.is_null() {
                *spec = Value::Object(Map::new());
            }
            let rules = spec.as_object_mut()?.entry("rules").or_insert_with(|| json!([]));
            if rules.is_null() {
                *rules = json!([]);
            }
            rules.as_array_mut()?.push(rule);
            Some(())
        })
    }

    /// A new policy that denies exactly this connection.
    fn denied_anew(&self) -> Option<Change> {
        let workload = self.mesh.workloads.first()?;
        let id =
            PolicyId::new(&self.ends.to.namespace, format!("deny-to-{}-{}", workload.id.name, self.ends.question.port));
        if self.policy(&id).is_some() {
            return None;
        }
        let mut spec = Map::new();
        if !workload.labels.is_empty() {
            // What a rollout or a version changes does not tell whom the policy is for.
            let lasting = |key: &str| !matches!(key, "pod-template-hash" | "version") && !key.contains("istio.io/");
            let labels: Map<String, Value> = workload
                .labels
                .iter()
                .filter(|(key, _)| lasting(key))
                .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
                .collect();
            spec.insert("selector".to_owned(), json!({ "matchLabels": labels }));
        }
        spec.insert("action".to_owned(), Value::from("DENY"));
        spec.insert("rules".to_owned(), json!([self.rule()?]));
        let says = format!("add the policy {id}");
        Some(Change { policy: id, spec: Value::Object(spec), says, new: true })
    }

    /// The rule that says this connection.
    fn rule(&self) -> Option<Value> {
        let port = self.ends.question.port.to_string();
        let mut rule = Map::new();
        if let Some(principal) = self.own(Attribute::Principal) {
            rule.insert("from".to_owned(), json!([{"source": {"principals": [principal]}}]));
        } else {
            let address = self.own(Attribute::SourceIp)?;
            rule.insert("from".to_owned(), json!([{"source": {"ipBlocks": [address]}}]));
        }
        rule.insert("to".to_owned(), json!([{"operation": {"ports": [port]}}]));
        Some(Value::Object(rule))
    }

    /// What the connection has for an attribute, as a policy would write it.
    fn own(&self, attribute: Attribute) -> Option<String> {
        let question = &self.ends.question;
        let id = match &question.peer {
            Peer::Anonymous => None,
            peer => peer.id(),
        };
        match attribute {
            Attribute::Principal => id.map(|id| id.principal().to_owned()),
            Attribute::Namespace => id.map(|id| id.namespace().to_owned()),
            Attribute::ServiceAccount => id.map(|id| format!("{}/{}", id.namespace(), id.service_account())),
            Attribute::TrustDomain => id.map(|id| id.trust_domain().to_owned()),
            Attribute::SourceIp | Attribute::RemoteIp => question.source.map(|address| address.to_string()),
            Attribute::DestinationIp => question.destination.map(|address| address.to_string()),
            Attribute::Port => Some(question.port.to_string()),
            Attribute::ServerName => question.sni.clone(),
            Attribute::Metadata | Attribute::Http | Attribute::Request | Attribute::Unknown => None,
        }
    }
}

/// Whether a value says what the connection has; `09000` is 9000.
fn is_own(value: &policy::spec::Value, own: Option<&str>) -> bool {
    own.is_some_and(|own| value.text() == own || value.port().is_some_and(|port| port.to_string() == own))
}

/// Of sources and operations the entry that lacks least, of conditions every one; and whatever of HTTP makes the rule void.
fn lacking(fields: &[FieldTrace]) -> Vec<FieldTrace> {
    let mut found: Vec<FieldTrace> =
        fields.iter().filter(|field| field.left_out == Some(LeftOut::HttpOnly)).cloned().collect();
    let failed = |field: &&FieldTrace| field.matched == Some(false);
    for list in ["from[", "to["] {
        let mut entries: Vec<&str> =
            fields.iter().map(|field| entry(&field.field)).filter(|at| at.starts_with(list)).collect();
        entries.dedup();
        let of = |at: &str| -> Vec<FieldTrace> {
            fields.iter().filter(|field| entry(&field.field) == at).filter(failed).cloned().collect()
        };
        found.extend(entries.into_iter().map(of).min_by_key(Vec::len).unwrap_or_default());
    }
    found.extend(fields.iter().filter(|field| field.field.starts_with("when[")).filter(failed).cloned());
    found
}

/// `from[0]` of `from[0].source.namespaces`.
fn entry(field: &str) -> &str {
    field.split_once('.').map_or(field, |(entry, _)| entry)
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// `rules[0].to` as a JSON pointer. No key on the way holds a dot or a bracket.
pub(super) fn pointer(path: &str) -> String {
    let steps = path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty());
    steps.flat_map(|step| ["/", step]).collect()
}

fn take(spec: &mut Value, at: &str) -> Option<()> {
    let (parent, key) = at.rsplit_once('/')?;
    spec.pointer_mut(parent)?.as_object_mut()?.shift_remove(key).map(drop)
}

/// A value less; a list of which nothing is left goes whole.
fn take_value(spec: &mut Value, at: &str, text: &str) -> Option<()> {
    let list = spec.pointer_mut(at)?.as_array_mut()?;
    list.retain(|value| value.as_str() != Some(text));
    if list.is_empty() { take(spec, at) } else { Some(()) }
}

/// Takes out what became empty; none if nothing is left of the rule.
fn tidy(rule: &mut Value) -> Option<()> {
    let rule = rule.as_object_mut()?;
    for (list, inner) in [("from", "source"), ("to", "operation")] {
        let Some(entries) = rule.get_mut(list).and_then(Value::as_array_mut) else { continue };
        entries.retain(|entry| entry.get(inner).and_then(Value::as_object).is_none_or(|fields| !fields.is_empty()));
        if entries.is_empty() {
            rule.shift_remove(list);
        }
    }
    if let Some(conditions) = rule.get_mut("when").and_then(Value::as_array_mut) {
        conditions.retain(|one| one.get("values").is_some() || one.get("notValues").is_some());
        if conditions.is_empty() {
            rule.shift_remove("when");
        }
    }
    (!rule.is_empty()).then_some(())
}

/// A negative value in every entry of a list.
fn except(rule: &mut Value, list: &str, inner: &str, field: &str, own: &str) -> Option<()> {
    let entries = rule.as_object_mut()?.entry(list).or_insert_with(|| json!([{ (inner): {} }])).as_array_mut()?;
    for entry in entries {
        let fields = entry.get_mut(inner)?.as_object_mut()?;
        fields.entry(field).or_insert_with(|| json!([])).as_array_mut()?.push(Value::from(own));
    }
    Some(())
}
