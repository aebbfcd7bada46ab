//! What is said of a live verdict on a port that carries or may carry HTTP in the sidecar profile (S-84, S-85): it was given to the
//! connection as TCP, and Istio would give one to each request. Said only where the two can differ. It changes no verdict.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::compile::compile_policy;
use crate::decide::{Connection, Reason, Seen, StageName};
use crate::explain::Explanation;
use crate::mesh::{ProviderKind, Settings, WorkloadId};
use crate::port::{self, Carries};
use crate::record::Outcome;
use crate::ruleset::{Reach, Ruleset};
use crate::snapshot::{Snapshot, WorkloadState};
use crate::spec::Attribute;

/// What the requests of a connection would meet where the verdict is Istio's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// What the port carries: never TCP.
    pub carries: Carries,
    /// What each request would get.
    pub verdict: OnRequest,
    /// Attributes of requests that decide, as policies write them, and policies with external authorizers; empty if none do.
    pub by: Vec<String>,
}

/// The verdict on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRequest {
    /// Every request is permitted.
    Allow,
    /// Every request is denied.
    Deny,
    /// One request may be permitted and another denied.
    Depends,
}

impl OnRequest {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Depends => "depends",
        }
    }
}

/// For instance `judged as TCP, and the port may carry HTTP, where each request depends on methods`.
impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let carries = if self.carries == Carries::Http { "carries" } else { "may carry" };
        write!(f, "judged as TCP, and the port {carries} HTTP, where each request ")?;
        match self.verdict {
            OnRequest::Allow => f.write_str("is allowed"),
            OnRequest::Deny => f.write_str("is denied"),
            OnRequest::Depends => write!(f, "depends on {}", self.by.join(", ")),
        }
    }
}

impl Snapshot {
    /// What the kernel path enforces at the first SYN, with all that a record says of it.
    pub fn outcome_at_syn(&self, destination: &WorkloadId, connection: &Connection) -> Outcome {
        let mut outcome = self.outcome_as_tcp(destination, connection);
        outcome.http = self.on_requests(destination, connection, &outcome);
        outcome
    }

    /// What requests on a connection would meet that got this outcome; `None` where it is the same, or the port carries TCP.
    fn on_requests(&self, destination: &WorkloadId, connection: &Connection, outcome: &Outcome) -> Option<Requests> {
        let state = self.workloads.get(destination)?;
        let ruleset = state.ruleset.on_requests(&self.settings)?;
        let carries = port::class(&self.services, &self.settings, &state.workload, connection.port).carries;
        if carries == Carries::Tcp {
            return None;
        }
        let state = WorkloadState {
            workload: Arc::clone(&state.workload),
            identity: state.identity.clone(),
            ruleset,
            mtls: state.mtls.clone(),
        };
        let explanation = self.explain_state(&state, connection, Seen::Syn);
        let permitted = explanation.decision.is_permitted();
        if explanation.decision.reason != Reason::NeedsProxyPath {
            let verdict = if permitted { OnRequest::Allow } else { OnRequest::Deny };
            return (permitted != outcome.permitted).then_some(Requests { carries, verdict, by: Vec::new() });
        }
        let (fields, authorizers) = undecided(&explanation);
        // What TCP waits for as well is no difference.
        if fields.is_empty() && outcome.reason == Reason::NeedsProxyPath {
            return None;
        }
        let by: Vec<String> = fields.into_iter().chain(authorizers).collect();
        (!by.is_empty()).then_some(Requests { carries, verdict: OnRequest::Depends, by })
    }
}

/// What decides that only a request tells: attributes, and policies whose authorizer would be asked.
fn undecided(explanation: &Explanation) -> (BTreeSet<String>, BTreeSet<String>) {
    let allowed = explanation.rules.iter().any(|rule| rule.stage == StageName::Allow && rule.matched == Some(true));
    let (mut fields, mut authorizers) = (BTreeSet::new(), BTreeSet::new());
    for rule in &explanation.rules {
        let counts = match rule.stage {
            StageName::Custom | StageName::Deny => true,
            StageName::Allow => !allowed,
            StageName::Audit | StageName::TrialDeny | StageName::TrialAllow => false,
        };
        if counts && rule.matched.is_none() {
            let of_requests = rule.fields.iter().filter(|field| field.attribute == Attribute::Request);
            fields.extend(of_requests.filter(|field| field.matched.is_none()).map(|field| field.written.to_string()));
        }
        if rule.stage == StageName::Custom && rule.matched == Some(true) {
            authorizers.insert(format!("the external authorizer of {}", rule.policy));
        }
    }
    (fields, authorizers)
}

impl Ruleset {
    /// The rules as an HTTP engine reads them; `None` where they say the same to it. Made when it is first asked for, which is
    /// never on the way of a verdict, and kept as long as the rules are.
    fn on_requests(&self, settings: &Settings) -> Option<Arc<Self>> {
        let made = self.http.get_or_init(|| {
            // S-74: on HTTP, providers of both kinds are asked.
            let ignored = self.custom.iter().any(|custom| custom.reach == Reach::Ignored);
            if !ignored && !self.specs().any(port::looks_at_requests) {
                return None;
            }
            let mut settings = settings.clone();
            settings.providers.values_mut().for_each(|provider| *provider = ProviderKind::Grpc);
            let policies = self.policies.iter().map(|policy| {
                if port::looks_at_requests(&policy.spec) {
                    Arc::new(compile_policy(&Arc::new(port::with_requests(&policy.spec)), &settings))
                } else {
                    Arc::clone(policy)
                }
            });
            Some(Arc::new(Self::new(&policies.collect::<Vec<_>>(), &settings)))
        });
        made.clone()
    }
}

#[cfg(test)]
mod tests;
