//! What comes of an item in one mesh: a case is asked of the engine, an assertion is proved or refuted by the exact cut.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::Objects;
use policy::ask::{Answer, Asker, Question, Unknown, Verdict};
use policy::space::RuleName;
use policy::{Peer, WorkloadId};

use super::prove;
use super::{Ask, Because, Case, Expect, Item, Who};

/// What came of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// In one word.
    pub result: Result,
    /// In sentences, the first one by itself enough.
    pub said: Vec<String>,
    /// The rules that match a connection of a case.
    pub touched: BTreeSet<RuleName>,
}

/// What came of an item, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Result {
    /// It is as expected; an assertion is proved for every connection.
    Passed,
    /// It is not as expected.
    Failed,
    /// It is not known: never a pass.
    Inconclusive,
}

impl Result {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl Judgement {
    pub(super) fn new(result: Result, said: impl Into<String>) -> Self {
        Self { result, said: vec![said.into()], touched: BTreeSet::new() }
    }
}

/// What items are judged by.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Answers questions about the mesh.
    pub asker: &'a Asker,
    /// The objects of the mesh, by which workloads are known.
    pub objects: &'a Objects,
    /// The namespace of names that have none.
    pub namespace: &'a str,
}

impl World<'_> {
    /// The workloads that a name means, at least one.
    pub(super) fn workloads(&self, name: &str) -> std::result::Result<Vec<WorkloadId>, String> {
        crate::names::workloads(name, self.namespace, self.objects)
    }
}

/// Judges an item.
pub fn judge(item: &Item, world: World<'_>) -> Judgement {
    let judged = match &item.ask {
        Ask::Case(case) => judge_case(case, world),
        Ask::Assertion(assertion) => prove::assertion(assertion, world),
    };
    judged.unwrap_or_else(|why| Judgement::new(Result::Failed, why))
}

/// A source that a case may mean.
struct Source {
    words: String,
    peer: Peer,
    addresses: Vec<Option<IpAddr>>,
}

fn judge_case(case: &Case, world: World<'_>) -> std::result::Result<Judgement, String> {
    let sources = sources(case, world)?;
    let destinations = world.workloads(&case.to)?;
    let mut judgement = Judgement { result: Result::Passed, said: Vec::new(), touched: BTreeSet::new() };
    for source in &sources {
        for destination in &destinations {
            for question in questions(case, source, destination, world.asker) {
                let answer = world.asker.ask(destination, &question);
                judgement.touched.extend(touched(&answer));
                if judgement.result == Result::Passed {
                    let several = sources.len() > 1 || destinations.len() > 1;
                    let which = several.then(|| format!("{} to {destination}", source.words));
                    match compare(case, &answer) {
                        Ok(why) => judgement.said = vec![why],
                        Err(said) => {
                            judgement.result = Result::Failed;
                            judgement.said = said;
                            judgement.said.extend(which.map(|which| format!("shown by {which}")));
                        }
                    }
                }
            }
        }
    }
    if judgement.said.is_empty() {
        let what = "the two ends have no address of the same family";
        return Ok(Judgement::new(Result::Failed, what));
    }
    Ok(judgement)
}

fn sources(case: &Case, world: World<'_>) -> std::result::Result<Vec<Source>, String> {
    let given = |otherwise: Vec<Option<IpAddr>>| case.from.address.map_or(otherwise, |address| vec![Some(address)]);
    let words = case.from.to_string();
    Ok(match &case.from.who {
        Who::Nobody => vec![Source { words, peer: Peer::Anonymous, addresses: given(vec![None]) }],
        Who::Identity(id) => vec![Source { words, peer: Peer::Attested(id.clone()), addresses: given(vec![None]) }],
        Who::Workload(name) => world
            .workloads(name)?
            .into_iter()
            .filter_map(|id| {
                let state = world.asker.snapshot().workload(&id)?;
                let peer = state.identity().cloned().map_or(Peer::Anonymous, Peer::Attested);
                let addresses = given(known(&state.workload().addresses));
                Some(Source { words: id.to_string(), peer, addresses })
            })
            .collect(),
    })
}

/// The addresses, or one that is not known.
fn known(addresses: &[IpAddr]) -> Vec<Option<IpAddr>> {
    if addresses.is_empty() { vec![None] } else { addresses.iter().copied().map(Some).collect() }
}

/// The questions of a case about two workloads: one for each pair of addresses of one family.
fn questions(case: &Case, source: &Source, destination: &WorkloadId, asker: &Asker) -> Vec<Question> {
    let state = asker.snapshot().workload(destination);
    let own = state.map(|state| known(&state.workload().addresses)).unwrap_or_default();
    let destinations = case.address.map_or(own, |address| vec![Some(address)]);
    let answers: Vec<_> = case.authorizers.iter().map(|(name, answer)| (name.clone(), *answer)).collect();
    let mut questions = Vec::new();
    for from in &source.addresses {
        for to in &destinations {
            if from.zip(*to).is_some_and(|(from, to)| from.is_ipv4() != to.is_ipv4()) {
                continue;
            }
            questions.push(Question {
                source: *from,
                destination: *to,
                sni: case.server_name.clone(),
                answers: answers.clone(),
                ..Question::new(source.peer.clone(), case.port)
            });
        }
    }
    questions
}

/// Why it is as expected, or why it is not.
fn compare(case: &Case, answer: &Answer) -> std::result::Result<String, Vec<String>> {
    let outcome = answer.telling().explanation.outcome();
    let because = outcome.because();
    let expected = case.expect.word();
    let as_expected = match &answer.verdict {
        Verdict::Allow => case.expect == Expect::Allow,
        Verdict::Deny => case.expect == Expect::Deny,
        // Only of HTTP a case cannot say more than it says.
        Verdict::Depends(_) => case.expect == Expect::Depends && answer.verdict.depends_on_http(),
    };
    if !as_expected {
        return Err(match &answer.verdict {
            Verdict::Depends(on) => vec![format!("expected {expected}, but it depends on {}", listed(on))]
                .into_iter()
                .chain(on.iter().filter_map(help))
                .collect(),
            verdict => vec![format!("expected {expected}, got {}: {because}", verdict.word())],
        });
    }
    let wrong = match &case.because {
        None => false,
        Some(Because::Reason(reason)) => outcome.reason != *reason,
        Some(Because::Policy(policy, rule)) => {
            outcome.policy.as_ref().is_none_or(|decided| decided.to_string() != *policy)
                || rule.is_some_and(|rule| outcome.rule != Some(rule))
        }
    };
    match &case.because {
        Some(wanted) if wrong => {
            let verdict = answer.verdict.word();
            Err(vec![format!("it is `{verdict}` as expected, but not because of {wanted}: {because}")])
        }
        _ => Ok(match &answer.verdict {
            Verdict::Depends(on) => format!("it depends on {}", listed(on)),
            Verdict::Allow | Verdict::Deny => because,
        }),
    }
}

fn listed(on: &BTreeSet<Unknown>) -> String {
    on.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// How a case says what its verdict depends on.
fn help(unknown: &Unknown) -> Option<String> {
    match unknown {
        Unknown::SourceAddress => Some("say it: from: {workload: .., address: ..}".to_owned()),
        Unknown::DestinationAddress => Some("say it: to: {workload: .., address: ..}".to_owned()),
        Unknown::Authorizer(_) => Some("say its answer: authorizers: {PROVIDER: allow}".to_owned()),
        Unknown::Request(_) | Unknown::Protocol => None,
    }
}

fn touched(answer: &Answer) -> impl Iterator<Item = RuleName> + '_ {
    let told = [Some(&answer.tcp), answer.http.as_ref()].into_iter().flatten();
    // A rule that a request decides is looked at by the case as well.
    let rules = told.flat_map(|told| &told.explanation.rules).filter(|rule| rule.matched != Some(false));
    rules.map(|rule| RuleName { policy: std::sync::Arc::clone(&rule.policy), rule: rule.rule })
}
