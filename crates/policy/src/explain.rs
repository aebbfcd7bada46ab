//! The same evaluation with a recorder: which rules were looked at, and what a denied connection lacked.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::compile::Effect;
use crate::compile::rule::{Check, CompiledEntry};
use crate::decide::{Connection, Decision, Judge, Reason, Recorder, Seen, StageName};
use crate::matcher::{Names, Truth, View};
use crate::mesh::{PolicyId, WorkloadId};
use crate::record::Outcome;
use crate::ruleset::{Found, RuleAt, Stage};
use crate::snapshot::{Snapshot, WorkloadState};
use crate::spec::{Attribute, Entry, Match, Value, Values};

/// A decision with what led to it.
#[derive(Debug)]
pub struct Explanation {
    /// The decision itself, the same as without explanation.
    pub decision: Decision,
    /// Every rule that was looked at, in the order of evaluation.
    pub rules: Vec<RuleTrace>,
    /// For a denial for want of a match: what came closest.
    pub nearest: Option<NearestMiss>,
}

impl Explanation {
    /// As plain data.
    pub fn outcome(&self) -> Outcome {
        Outcome::of(&self.decision, self.nearest.clone())
    }
}

/// One rule that was looked at.
#[derive(Clone, Debug)]
pub struct RuleTrace {
    /// In which list of rules.
    pub stage: StageName,
    /// The policy.
    pub policy: Arc<PolicyId>,
    /// The rule, counted from 0.
    pub rule: usize,
    /// Did it match; `None` if that depends on bytes not seen.
    pub matched: Option<bool>,
    /// What became of it on TCP.
    pub effect: Effect,
    /// Every field that was compared.
    pub fields: Vec<FieldTrace>,
}

/// One field that was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTrace {
    /// For instance `from[0].source.namespaces`.
    pub field: String,
    /// What is looked at.
    pub attribute: Attribute,
    /// Its name as written: `namespaces`, or the key of a condition.
    pub written: Arc<str>,
    /// What the policy wants, in words.
    pub wanted: String,
    /// What the connection has.
    pub found: String,
    /// Did it match; `None` if that depends on bytes not seen, or if the field is not compared at all.
    pub matched: Option<bool>,
    /// Why the field, or a value of it, is left out of the comparison.
    pub left_out: Option<LeftOut>,
}

/// Why something that is written is not compared (S-41 to S-48).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOut {
    /// Only HTTP has it, and this is TCP.
    HttpOnly,
    /// The profile has no such field.
    Ignored,
    /// Nobody knows the key.
    UnknownKey,
    /// A value cannot be read.
    Unreadable,
}

/// What a denied connection lacked to be permitted by the rule that came closest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearestMiss {
    /// The ALLOW policy.
    pub policy: PolicyId,
    /// Its rule, counted from 0.
    pub rule: usize,
    /// The field, for instance `to[0].operation.ports`.
    pub field: String,
    /// What kept the rule from matching.
    pub lack: Lack,
}

/// What kept a rule from matching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lack {
    /// The connection has something else.
    Differs {
        /// What the field wants, in words.
        wanted: String,
        /// What the connection has.
        found: String,
    },
    /// The rule never matches on TCP, because of this field.
    Never,
}

impl fmt::Display for NearestMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, rule, field, lack } = self;
        match lack {
            Lack::Differs { wanted, found } => {
                write!(f, "{policy} rule {rule} wants {wanted}, found {found}")
            }
            Lack::Never => write!(f, "{policy} rule {rule} never matches on TCP because of `{field}`"),
        }
    }
}

/// A rule of a stage, and whether it matched.
type LookedAt<'a> = (StageName, &'a RuleAt, Truth);

struct Trace<'a> {
    looked_at: Vec<LookedAt<'a>>,
}

impl<'a> Recorder<'a> for Trace<'a> {
    fn find(&mut self, name: StageName, stage: &'a Stage, view: &View<'_>) -> Found<'a> {
        stage.find_all(view, |at, truth| self.looked_at.push((name, at, truth)))
    }
}

impl Snapshot {
    /// Decides a connection whose bytes were seen, and says how.
    pub fn explain(&self, destination: &WorkloadId, connection: &Connection) -> Explanation {
        self.explain_seen(destination, connection, Seen::Bytes)
    }

    /// Decides what the kernel path enforces at the first SYN, and says how.
    pub fn explain_at_syn(&self, destination: &WorkloadId, connection: &Connection) -> Explanation {
        self.explain_seen(destination, connection, Seen::Syn)
    }

    /// Decides what the kernel path enforces at the first SYN, as plain data. Rules are looked at one by one only where there is no
    /// rule that fails in one comparison alone: what it costs to tell of a connection hardly grows with their number.
    pub fn outcome_as_tcp(&self, destination: &WorkloadId, connection: &Connection) -> Outcome {
        let decision = self.decide_at_syn(destination, connection);
        let missed = self.workloads.get(destination).filter(|_| decision.reason == Reason::AllowNoMatch);
        let nearest = missed.and_then(|state| {
            let judge = Judge { settings: &self.settings, generation: self.generation, seen: Seen::Syn, connection };
            nearest(&state.ruleset.allow, &judge.view_at(state))
        });
        Outcome::of(&decision, nearest)
    }

    fn explain_seen(&self, destination: &WorkloadId, connection: &Connection, seen: Seen) -> Explanation {
        if let Some(state) = self.workloads.get(destination) {
            return self.explain_state(state, connection, seen);
        }
        let decision = self.decide(destination, connection);
        Explanation { decision, rules: Vec::new(), nearest: None }
    }

    pub(crate) fn explain_state(&self, state: &WorkloadState, connection: &Connection, seen: Seen) -> Explanation {
        let (decision, looked_at, view) = self.trace(state, connection, seen);
        let is_missed = decision.reason == Reason::AllowNoMatch;
        let nearest = is_missed.then(|| nearest(&state.ruleset.allow, &view)).flatten();
        let rules = looked_at.iter().map(|(stage, at, truth)| rule_trace(*stage, at, *truth, &view)).collect();
        Explanation { decision, rules, nearest }
    }

    /// The decision, every rule that was looked at, and what the rules saw.
    fn trace<'a>(
        &'a self,
        state: &'a WorkloadState,
        connection: &'a Connection,
        seen: Seen,
    ) -> (Decision, Vec<LookedAt<'a>>, View<'a>) {
        let mut trace = Trace { looked_at: Vec::new() };
        let judge = Judge { settings: &self.settings, generation: self.generation, seen, connection };
        let decision = judge.judge(state, &mut trace);
        (decision, trace.looked_at, judge.view_at(state))
    }
}

fn as_matched(truth: Truth) -> Option<bool> {
    match truth {
        Truth::False => Some(false),
        Truth::Unknown => None,
        Truth::True => Some(true),
    }
}

fn rule_trace(stage: StageName, at: &RuleAt, truth: Truth, view: &View<'_>) -> RuleTrace {
    let fields = parts(at).flat_map(|part| part.fields().map(move |(written, check)| part.trace(written, check, view)));
    RuleTrace {
        stage,
        policy: Arc::clone(at.policy.id()),
        rule: at.index,
        matched: as_matched(truth),
        effect: at.rule().map_or(Effect::Effective, |rule| rule.effect.clone()),
        fields: fields.collect(),
    }
}

/// One entry of a rule, written and compiled.
#[derive(Clone, Copy)]
struct Part<'a> {
    list: List,
    index: usize,
    written: &'a Entry,
    compiled: &'a CompiledEntry,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    From,
    To,
    When,
}

fn parts(at: &RuleAt) -> impl Iterator<Item = Part<'_>> {
    let lists = at.policy.spec.rules.get(at.index).zip(at.rule()).into_iter().flat_map(|(written, compiled)| {
        [
            (List::From, &written.from, &compiled.from),
            (List::To, &written.to, &compiled.to),
            (List::When, &written.when, &compiled.when),
        ]
    });
    lists.flat_map(|(list, written, compiled)| {
        let entries = written.iter().zip(compiled).enumerate();
        entries.map(move |(index, (written, compiled))| Part { list, index, written, compiled })
    })
}

impl<'a> Part<'a> {
    /// Every field as it is written, and what it is compared by, if it is.
    fn fields(self) -> impl Iterator<Item = (&'a Match, Option<&'a Check>)> {
        let check = move |position| self.compiled.checks.iter().find(|check| check.written == position);
        self.written.matches.iter().enumerate().map(move |(position, written)| (written, check(position)))
    }

    /// The fields that were compared and did not match.
    fn failed(self, view: &View<'_>) -> impl Iterator<Item = (&'a Match, Option<&'a Check>)> {
        self.fields().filter(|(_, check)| check.is_some_and(|check| check.truth(view) != Truth::True))
    }

    fn trace(self, written: &Match, check: Option<&Check>, view: &View<'_>) -> FieldTrace {
        let index = self.index;
        FieldTrace {
            field: match self.list {
                List::From => format!("from[{index}].source.{}", written.written),
                List::To => format!("to[{index}].operation.{}", written.written),
                List::When => format!("when[{index}]"),
            },
            attribute: written.attribute,
            written: Arc::clone(&written.written),
            wanted: in_words(written.attribute, written.wanted.as_ref(), written.unwanted.as_ref()),
            found: found(written.attribute, view),
            matched: check.map(|check| check.truth(view)).and_then(as_matched),
            left_out: left_out(written, check),
        }
    }
}

fn left_out(written: &Match, check: Option<&Check>) -> Option<LeftOut> {
    let values = [&written.wanted, &written.unwanted].into_iter().flatten().flatten();
    let unreadable = || values.into_iter().any(|value| matches!(value, Value::Unreadable(_)));
    match (written.attribute, check) {
        (Attribute::Unknown, _) => Some(LeftOut::UnknownKey),
        (_, Some(_)) => unreadable().then_some(LeftOut::Unreadable),
        (Attribute::TrustDomain, None) => Some(LeftOut::Ignored), // S-45
        (_, None) if unreadable() => Some(LeftOut::Unreadable),
        (_, None) => Some(LeftOut::HttpOnly),
    }
}

/// The ALLOW rule with the fewest failed comparisons, of several the first; an effective one before one that can never match.
fn nearest(allow: &Stage, view: &View<'_>) -> Option<NearestMiss> {
    // None is nearer than one, and mostly there is one.
    let found = allow.near(view).find(|at| shortfall(at, view) == Some(1)).or_else(|| {
        let all = allow.rules.iter().filter_map(|at| Some((shortfall(at, view)?, at)));
        all.min_by_key(|(short, _)| *short).map(|(_, at)| at)
    });
    found.and_then(|at| miss(at, view))
}

/// The comparisons of a rule that failed. Of sources and operations one must match, of conditions all.
fn lacking<'a>(at: &'a RuleAt, view: &View<'_>) -> impl Iterator<Item = (Part<'a>, &'a Match, Option<&'a Check>)> {
    let of = move |list| parts(at).filter(move |part| part.list == list);
    let best = |list| of(list).min_by_key(|part| part.failed(view).count());
    let entries = best(List::From).into_iter().chain(best(List::To)).chain(of(List::When));
    entries.flat_map(move |part| part.failed(view).map(move |(written, check)| (part, written, check)))
}

/// How many comparisons of a rule failed, none if that is not what kept it from matching. A rule without effect counts as
/// one failure more than its comparisons.
fn shortfall(at: &RuleAt, view: &View<'_>) -> Option<usize> {
    let failed = lacking(at, view).count();
    match at.rule()?.effect {
        Effect::Void(_) | Effect::Dead(_) => Some(failed + 1),
        Effect::Effective | Effect::Widened(_) => Some(failed).filter(|failed| *failed > 0),
    }
}

/// What kept a rule from matching, in words.
fn miss(at: &RuleAt, view: &View<'_>) -> Option<NearestMiss> {
    let (field, lack) = match &at.rule()?.effect {
        Effect::Void(by) => (by.to_string(), Lack::Never),
        Effect::Dead(dropped) => (dropped.first().map(ToString::to_string).unwrap_or_default(), Lack::Never),
        Effect::Effective | Effect::Widened(_) => {
            let (part, written, check) = lacking(at, view).next()?;
            let FieldTrace { field, wanted, found, .. } = part.trace(written, check, view);
            (field, Lack::Differs { wanted, found })
        }
    };
    Some(NearestMiss { policy: PolicyId::clone(at.policy.id()), rule: at.index, field, lack })
}

/// `port 9000 or 9001`, `not namespace bar`.
fn in_words(attribute: Attribute, wanted: Option<&Values>, unwanted: Option<&Values>) -> String {
    let what = noun(attribute);
    let list = |values: &Values, last: &str| {
        /// More values than this are counted instead of listed: the sentence stays one line.
        const LISTED_MAX: usize = 4;
        let texts: Vec<&str> = values.iter().map(Value::text).collect();
        match texts.split_last() {
            Some((end, rest)) if !rest.is_empty() && texts.len() <= LISTED_MAX => {
                format!("{} {last} {end}", rest.join(", "))
            }
            Some((end, [])) => (*end).to_owned(),
            _ => format!("one of {} values", texts.len()),
        }
    };
    match (wanted, unwanted) {
        (Some(wanted), None) => format!("{what} {}", list(wanted, "or")),
        (None, Some(unwanted)) => format!("{what} other than {}", list(unwanted, "and")),
        (Some(wanted), Some(unwanted)) => format!("{what} {} but not {}", list(wanted, "or"), list(unwanted, "or")),
        (None, None) => what.to_owned(),
    }
}

fn noun(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Principal => "principal",
        Attribute::Namespace => "namespace",
        Attribute::ServiceAccount => "service account",
        Attribute::TrustDomain => "trust domain",
        Attribute::SourceIp | Attribute::RemoteIp => "source address",
        Attribute::DestinationIp => "destination address",
        Attribute::Port => "port",
        Attribute::ServerName => "server name",
        Attribute::Metadata => "filter metadata",
        Attribute::Http | Attribute::Request => "HTTP attribute",
        Attribute::Unknown => "unknown attribute",
    }
}

fn found(attribute: Attribute, view: &View<'_>) -> String {
    let identity = |part: fn(&crate::identity::SpiffeId) -> &str| match view.names {
        Names::None => "no identity".to_owned(),
        Names::One(id) => part(id).to_owned(),
        Names::Many(names) => {
            let names: Vec<&str> = names.iter().map(|name| name.id().map_or_else(|| name.raw(), part)).collect();
            names.join(", ")
        }
    };
    match attribute {
        Attribute::Principal => identity(crate::identity::SpiffeId::principal),
        Attribute::Namespace => identity(crate::identity::SpiffeId::namespace),
        Attribute::ServiceAccount => identity(|id| id.principal()),
        Attribute::TrustDomain => identity(crate::identity::SpiffeId::trust_domain),
        Attribute::SourceIp | Attribute::RemoteIp => view.source.to_string(),
        Attribute::DestinationIp => view.destination.to_string(),
        Attribute::Port => view.port.to_string(),
        Attribute::ServerName => match view.server_name {
            None => "not yet known".to_owned(),
            Some("") => "none".to_owned(),
            Some(name) => name.to_owned(),
        },
        Attribute::Request => "known when the request comes".to_owned(),
        Attribute::Metadata | Attribute::Http | Attribute::Unknown => "none".to_owned(),
    }
}
