//! Answers against expectations. Only fields that an expectation has are compared.

use std::collections::BTreeSet;

use policy::Profile;
use policy::decide::StageName;
use serde_json::Value;

use super::answer::{Answered, One};
use super::read::member;
use super::{Case, Matter, Place};

/// A difference between what a case expects and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The profile.
    pub profile: Profile,
    /// The case's place, or that of its connection.
    pub place: Place,
    /// What was expected and what was found.
    pub message: String,
}

/// The fields of an expectation about a connection.
const FIELDS: [&str; 9] = ["verdict", "reason", "policy", "rule", "audit", "custom", "before", "after", "established"];

impl Case {
    /// Judges an answer; nothing is wrong if the list is empty.
    pub fn judge(&self, answered: &Answered) -> Vec<Failure> {
        let mut judge = Judge { case: self, profile: answered.profile, compared: 0, failures: Vec::new() };
        for refused in &answered.refused {
            judge.fail(self.place, format!("{refused}; if that is meant, the case says `bypassValidation: true`"));
        }
        match &self.matter {
            Matter::Evaluation { connections, .. } | Matter::Transition { connections, .. } => {
                for (index, (asked, one)) in connections.iter().zip(&answered.connections).enumerate() {
                    if let Some(expect) = expected(&asked.expect, answered.profile) {
                        judge.connection(index, asked.place, expect, one);
                    }
                }
            }
            Matter::Validation { .. } => {
                if let Some(expect) = expected(&self.expect, answered.profile) {
                    judge.validation(expect, answered);
                }
            }
        }
        if judge.compared == 0 && judge.failures.is_empty() {
            judge.fail(self.place, "nothing is expected, so nothing can be judged".to_owned());
        }
        judge.failures
    }
}

/// The expectation for a profile.
fn expected(expect: &Value, profile: Profile) -> Option<&Value> {
    let by_profile = [Profile::Sidecar, Profile::Ambient].iter().any(|one| expect.get(one.word()).is_some());
    if by_profile { member(expect, profile.word()) } else { Some(expect) }
}

struct Judge<'c> {
    case: &'c Case,
    profile: Profile,
    /// How many fields were compared.
    compared: usize,
    failures: Vec<Failure>,
}

impl Judge<'_> {
    fn fail(&mut self, place: Place, message: String) {
        self.failures.push(Failure { profile: self.profile, place, message });
    }

    fn compare(&mut self, place: Place, what: &str, wanted: &Value, found: &Value) {
        self.compared += 1;
        if wanted != found {
            self.fail(place, format!("{what}: expected {}, found {}", shown(wanted), shown(found)));
        }
    }

    fn connection(&mut self, index: usize, place: Place, expect: &Value, one: &One) {
        for field in FIELDS {
            let Some(wanted) = member(expect, field) else { continue };
            let found = one.value.get(field).unwrap_or(&Value::Null);
            let stages = [StageName::Allow, StageName::Deny];
            if !self.is_open(field, wanted, found, one, &stages) {
                self.compare(place, &format!("connection {index}: {field}"), wanted, found);
            }
        }
        let Some(trials) = member(expect, "dryRun") else { return };
        for (action, stage) in [("allow", StageName::TrialAllow), ("deny", StageName::TrialDeny)] {
            let Some(wanted) = member(trials, action) else { continue };
            let found = one.value.get("dryRun").and_then(|all| all.get(action)).unwrap_or(&Value::Null);
            let what = format!("connection {index}: dryRun.{action}");
            if !wanted.is_object() || !found.is_object() {
                self.compare(place, &what, wanted, found);
                continue;
            }
            for field in ["result", "policy", "rule"] {
                let Some(wanted) = member(wanted, field) else { continue };
                let found = found.get(field).unwrap_or(&Value::Null);
                if !self.is_open(field, wanted, found, one, &[stage]) {
                    self.compare(place, &format!("{what}.{field}"), wanted, found);
                }
            }
        }
    }

    /// Does the ambient profile leave the field open (S-34): it reports any matching policy, and no rule.
    fn is_open(&mut self, field: &str, wanted: &Value, found: &Value, one: &One, stages: &[StageName]) -> bool {
        if self.profile == Profile::Sidecar || found.is_null() {
            return false;
        }
        let matches = |policy: &str| one.matching.iter().any(|(stage, name)| stages.contains(stage) && name == policy);
        let open = field == "rule" || (field == "policy" && wanted.as_str().is_some_and(matches));
        self.compared += usize::from(open);
        open
    }

    fn validation(&mut self, expect: &Value, answered: &Answered) {
        let place = self.case.place;
        let set = |value: &Value, name: &str| -> BTreeSet<String> {
            let codes = member(value, name).and_then(Value::as_array).into_iter().flatten();
            codes.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let Some(valid) = member(expect, "valid") else {
            if member(expect, "errors").is_some() || member(expect, "warnings").is_some() {
                self.fail(place, "the expectation needs `valid`".to_owned());
            }
            return;
        };
        self.compare(place, "valid", valid, answered.value.get("valid").unwrap_or(&Value::Null));
        for name in ["errors", "warnings"] {
            let (wanted, found) = (set(expect, name), set(&answered.value, name));
            // A list that is left out is empty, but for the errors of an object that is refused: there are some.
            if wanted != found && !(name == "errors" && valid == false && member(expect, name).is_none()) {
                self.fail(place, format!("{name}: expected {}, found {}", listed(&wanted), listed(&found)));
            }
        }
        if member(expect, "stage").is_some_and(|stage| stage == "schema") && !answered.by_schema {
            self.fail(place, "stage: expected schema, found admission".to_owned());
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "nothing".to_owned(),
        other => other.to_string(),
    }
}

fn listed(codes: &BTreeSet<String>) -> String {
    if codes.is_empty() { "none".to_owned() } else { codes.iter().map(String::as_str).collect::<Vec<_>>().join(", ") }
}
