//! Two snapshots, one destination: where their verdicts differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::region::{Answers, Known, regions};
use super::side::{Acting, Outcome, Place, Role, Stages, authorizers, ground, of_both};
use super::term::Term;
use super::tree::{Cell, Tree};
use super::{Bound, Comparison, Relation};
use crate::decide::Answer;

/// Products in which a difference is told: more is nothing that anybody reads, and each costs some ten microseconds.
pub(super) const CELLS_TOLD_MAX: usize = 500;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Change {
    /// The same, or no connection at all.
    None,
    Differs(Outcome, Outcome),
}

impl Comparison {
    pub(super) fn equivalent() -> Self {
        Self { relation: Relation::Equivalent, opened: Vec::new(), closed: Vec::new(), more: false }
    }

    fn inconclusive(bound: Bound) -> Self {
        Self { relation: Relation::Inconclusive(bound), opened: Vec::new(), closed: Vec::new(), more: false }
    }
}

impl Outcome {
    /// Does the other permit what this one does not, for some answers.
    fn is_opened_by(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::Denied) => false,
            (Self::Denied, Self::Permitted(_)) => true,
            (Self::Permitted(asked), Self::Permitted(still)) => asked & !still != 0,
        }
    }

    fn asked(self) -> u64 {
        if let Self::Permitted(asked) = self { asked } else { 0 }
    }
}

pub(super) fn compare(before: Place<'_>, after: Place<'_>, known: &Known<'_>) -> Comparison {
    compared(before, after, known).unwrap_or_else(Comparison::inconclusive)
}

fn compared(before: Place<'_>, after: Place<'_>, known: &Known<'_>) -> Result<Comparison, Bound> {
    let authorizers = authorizers(&[before, after])?;
    let acting = of_both(before, after, &authorizers);
    let stages = [(before, 0), (after, 1)].map(|(place, at)| Stages::new(place, &acting, at, authorizers.len()));
    let [one, two] = &stages;
    let differing = super::bits::Bits::of(
        acting.len(),
        acting.iter().enumerate().filter(|(_, acting)| acting.roles[0] != acting.roles[1]).map(|(at, _)| at),
    );
    if one.agrees_with(two) && differing.is_none() {
        return Ok(Comparison::equivalent());
    }
    let terms: Vec<Term<'_>> = acting.iter().map(|acting| acting.term.clone()).collect();
    let ground = ground(&[before, after], &terms)?;
    let tree = Tree::build(&ground.dimensions, &keys(&acting), |live, certain| {
        if one.agrees_with(two) && !live.meets(&differing) {
            return Some(Change::None);
        }
        let (one, two) = (one.outcome(live, certain)?, two.outcome(live, certain)?);
        Some(if one == two { Change::None } else { Change::Differs(one, two) })
    })?;
    let (cells, more) = tree.cells(&ground.dimensions, CELLS_TOLD_MAX, |change| *change != Change::None);
    let mut by_change: BTreeMap<Change, Vec<Cell>> = BTreeMap::new();
    for (cell, change) in cells {
        by_change.entry(change).or_default().push(cell);
    }
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for (change, cells) in by_change {
        let Change::Differs(one, two) = change else { continue };
        for (less, more, found) in [(one, two, &mut opened), (two, one, &mut closed)] {
            if less.is_opened_by(more) {
                let answers = answers(&authorizers, more.asked(), less.asked());
                found.extend(regions(&ground, known, cells.clone(), &answers));
            }
        }
    }
    let changes = || {
        tree.leaves().filter_map(|leaf| if let Change::Differs(one, two) = leaf { Some((*one, *two)) } else { None })
    };
    let gained = changes().any(|(one, two)| one.is_opened_by(two));
    let lost = changes().any(|(one, two)| two.is_opened_by(one));
    let relation = match (gained, lost) {
        (false, false) => Relation::Equivalent,
        (false, true) => Relation::MoreRestrictive,
        (true, false) => Relation::MorePermissive,
        (true, true) => Relation::Incomparable,
    };
    Ok(Comparison { relation, opened, closed, more })
}

/// Terms that do the same are told apart by where they hold alone.
pub(super) fn keys(acting: &[Acting<'_>]) -> Vec<usize> {
    let mut seen: Vec<[Option<Role>; 2]> = Vec::new();
    let mut key = |roles: [Option<Role>; 2]| {
        seen.iter().position(|one| *one == roles).unwrap_or_else(|| {
            seen.push(roles);
            seen.len() - 1
        })
    };
    acting.iter().map(|acting| key(acting.roles)).collect()
}

/// Answers with which those that are asked permit, and one of the others would have refused.
fn answers(authorizers: &[Arc<str>], asked: u64, others: u64) -> Answers {
    let named =
        |bits: u64| authorizers.iter().enumerate().filter(move |(at, _)| bits >> at & 1 == 1).map(|(_, name)| name);
    let mut answers: Answers = named(asked).map(|name| (name.to_string(), Answer::Allow)).collect();
    answers.extend(named(others & !asked).map(|name| (name.to_string(), Answer::Deny)));
    answers
}
