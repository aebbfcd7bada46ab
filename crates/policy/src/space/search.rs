//! Is there a connection with this verdict among those that a rule matches.

use std::collections::BTreeMap;

use super::bits::Bits;
use super::compare::keys;
use super::region::{Answers, Known, regions};
use super::side::{Outcome, Place, Role, Stages, authorizers, ground};
use super::term::{Term, terms};
use super::tree::{Cell, Tree};
use super::{Among, Bound, Proof, Wanted};
use crate::decide::Answer;

/// Products told of a refutation, of which one would do.
const REFUTED_TOLD_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Found {
    /// Not asked about.
    Elsewhere,
    Here(Outcome),
}

impl Found {
    fn is(&self, wanted: Wanted) -> bool {
        match (self, wanted) {
            (Self::Elsewhere, _)
            | (Self::Here(Outcome::Denied), Wanted::Permitted)
            | (Self::Here(Outcome::Permitted(0)), Wanted::Denied) => false,
            (Self::Here(Outcome::Permitted(_)), Wanted::Permitted) | (Self::Here(_), Wanted::Denied) => true,
        }
    }
}

pub(super) fn search(place: Place<'_>, wanted: Wanted, among: &Among, known: &Known<'_>) -> Proof {
    searched(place, wanted, among, known).unwrap_or_else(Proof::Inconclusive)
}

fn searched(place: Place<'_>, wanted: Wanted, among: &Among, known: &Known<'_>) -> Result<Proof, Bound> {
    let authorizers = authorizers(&[place])?;
    let mut rules = place.rules(&authorizers);
    rules.retain(|(role, _)| !matches!(role, Role::Audit | Role::TrialDeny | Role::TrialAllow));
    let acting = place.acting(&rules, 0);
    let mut all: Vec<Term<'_>> = acting.iter().map(|acting| acting.term.clone()).collect();
    all.extend(terms(&among.rule, None));
    let mut keys = keys(&acting);
    keys.resize(all.len(), usize::MAX);
    let stages = Stages::new(place, &acting, 0, authorizers.len()).widened(all.len());
    let asked = Bits::of(all.len(), acting.len()..all.len());
    let ground = ground(&[place], &all)?;
    let tree = Tree::build(&ground.dimensions, &keys, |live, certain| {
        if !live.meets(&asked) {
            return Some(Found::Elsewhere);
        }
        live.meets_within(&asked, certain).then(|| stages.outcome(live, certain)).flatten().map(Found::Here)
    })?;
    let (cells, _) = tree.cells(&ground.dimensions, REFUTED_TOLD_MAX, |found| found.is(wanted));
    if cells.is_empty() {
        let cells = tree.count(|found| *found != Found::Elsewhere);
        return Ok(if cells == 0 { Proof::Vacuous } else { Proof::Proved { cells } });
    }
    let mut by_outcome: BTreeMap<Found, Vec<Cell>> = BTreeMap::new();
    for (cell, found) in cells {
        by_outcome.entry(found).or_default().push(cell);
    }
    let mut found = Vec::new();
    for (outcome, cells) in by_outcome {
        let Found::Here(outcome) = outcome else { continue };
        let asked = if let Outcome::Permitted(asked) = outcome { asked } else { 0 };
        let answer = if wanted == Wanted::Permitted { Answer::Allow } else { Answer::Deny };
        let names = authorizers.iter().enumerate().filter(|(at, _)| asked >> at & 1 == 1);
        let answers: Answers = names.map(|(_, name)| (name.to_string(), answer)).collect();
        found.extend(regions(&ground, known, cells, &answers));
    }
    Ok(Proof::Refuted(found))
}
