//! Which rules change nothing, and what hides them: each rule is left out of each set of rules that match together.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::bits::Bits;
use super::side::{Acting, Place, Role, authorizers, ground};
use super::term::Term;
use super::tree::Tree;
use super::{Bound, Fate, RuleFate, RuleName};
use crate::ruleset::RuleAt;

/// How a rule comes to change nothing in one cell.
#[derive(Default)]
struct Seen {
    matched: bool,
    effective: bool,
    /// Some cell has nothing but earlier stages to hide it.
    only_earlier: bool,
    /// For each cell, the rules of which each alone would hide it; none where nothing would be permitted anyway.
    hiders: BTreeSet<Vec<usize>>,
}

/// What matters about a decision.
#[derive(PartialEq, Eq)]
struct Judgement {
    permitted: bool,
    asked: Vec<usize>,
    audited: bool,
}

/// The numbers of the rules that match together, by role.
type Matching = BTreeMap<Role, Vec<usize>>;

pub(super) fn fates(place: Place<'_>) -> Result<Vec<RuleFate>, Bound> {
    let authorizers = authorizers(&[place])?;
    let rules = place.rules(&authorizers);
    let acting = place.acting(&rules, 0);
    let numbers: HashMap<*const RuleAt, usize> =
        rules.iter().enumerate().map(|(number, (_, at))| (std::ptr::from_ref(*at), number)).collect();
    let number = |acting: &Acting<'_>| acting.rule.and_then(|at| numbers.get(&std::ptr::from_ref(at)).copied());
    // The terms of one rule are the same but for where they hold; the modes have one of their own.
    let keys: Vec<usize> = acting.iter().map(|acting| number(acting).unwrap_or(usize::MAX)).collect();
    let terms: Vec<Term<'_>> = acting.iter().map(|acting| acting.term.clone()).collect();
    let ground = ground(&[place], &terms)?;
    let strict = Bits::of(keys.len(), keys.iter().enumerate().filter(|(_, key)| **key == usize::MAX).map(|(at, _)| at));
    let tree = Tree::build(&ground.dimensions, &keys, |live, certain| {
        if live.meets_within(&strict, certain) {
            return Some(Vec::new());
        }
        live.without(certain).is_none().then(|| {
            let matching: BTreeSet<usize> = live.iter().filter_map(|term| keys.get(term).copied()).collect();
            matching.into_iter().collect::<Vec<usize>>()
        })
    })?;
    let default_deny = place.state.is_some_and(|state| state.ruleset.allow.policies > 0);
    let mut seen: Vec<Seen> = rules.iter().map(|_| Seen::default()).collect();
    let leaves: HashSet<&Vec<usize>> = tree.leaves().collect();
    for leaf in leaves {
        let mut matching = Matching::new();
        for number in leaf {
            if let Some((role, _)) = rules.get(*number) {
                matching.entry(*role).or_default().push(*number);
            }
        }
        look(&matching, default_deny, &mut seen);
    }
    let name = |number: usize| rules.get(number).map(|(_, at)| name_of(at));
    let mut fates: Vec<RuleFate> =
        rules.iter().zip(&seen).map(|((_, at), seen)| RuleFate { rule: name_of(at), fate: seen.fate(&name) }).collect();
    fates.sort_by(|a, b| a.rule.cmp(&b.rule));
    Ok(fates)
}

fn name_of(at: &RuleAt) -> RuleName {
    RuleName { policy: Arc::clone(at.policy.id()), rule: at.index }
}

/// What comes of these rules, as if `without` were not among them.
fn result(matching: &Matching, default_deny: bool, without: Option<Role>) -> Judgement {
    let any = |role: Role| without != Some(role) && matching.contains_key(&role);
    if any(Role::Bad) {
        return Judgement { permitted: false, asked: Vec::new(), audited: false };
    }
    let permitted = !any(Role::Deny) && (!default_deny || any(Role::Allow));
    let audited = any(Role::Audit);
    let asked = matching.keys().filter(|role| any(**role));
    let asked = asked.filter_map(|role| if let Role::Ask(provider) = role { Some(*provider) } else { None });
    // Whether a refused connection was also refused by an authorizer makes no difference, unless for the mark.
    let asked = if permitted || audited { asked.collect() } else { Vec::new() };
    Judgement { permitted, asked, audited }
}

fn look(matching: &Matching, default_deny: bool, seen: &mut [Seen]) {
    let whole = result(matching, default_deny, None);
    for (role, rules) in matching {
        let is_trial = matches!(role, Role::TrialDeny | Role::TrialAllow);
        let matters = rules.len() == 1 && (is_trial || result(matching, default_deny, Some(*role)) != whole);
        let earlier: &[Role] = match role {
            Role::Allow | Role::Ask(_) => &[Role::Bad, Role::Deny],
            Role::Deny | Role::Audit => &[Role::Bad],
            Role::Bad => &[Role::Deny],
            Role::TrialDeny | Role::TrialAllow | Role::Strict => &[],
        };
        let others: Vec<usize> = earlier.iter().filter_map(|role| matching.get(role)).flatten().copied().collect();
        for rule in rules {
            let Some(seen) = seen.get_mut(*rule) else { continue };
            seen.matched = true;
            if matters {
                seen.effective = true;
                continue;
            }
            let mut hiders: Vec<usize> = rules.iter().copied().filter(|other| other != rule).collect();
            seen.only_earlier |= hiders.is_empty() && !others.is_empty();
            hiders.extend(&others);
            hiders.sort_unstable();
            seen.hiders.insert(hiders);
        }
    }
}

impl Seen {
    fn fate(&self, name: &dyn Fn(usize) -> Option<RuleName>) -> Fate {
        if self.effective {
            return Fate::Effective;
        }
        if !self.matched {
            return Fate::Dead;
        }
        let mut by: Vec<RuleName> = cover(&self.hiders).into_iter().filter_map(name).collect();
        by.sort();
        match (by.is_empty(), self.only_earlier) {
            (true, _) => Fate::Idle,
            (false, true) => Fate::Shadowed { by },
            (false, false) => Fate::Redundant { by },
        }
    }
}

/// Few numbers with one of each set: the most frequent ones, and then none that can be left out.
fn cover(sets: &BTreeSet<Vec<usize>>) -> Vec<usize> {
    let mut open: Vec<&Vec<usize>> = sets.iter().filter(|set| !set.is_empty()).collect();
    let mut chosen: Vec<usize> = Vec::new();
    while !open.is_empty() {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for number in open.iter().copied().flatten() {
            *counts.entry(*number).or_default() += 1;
        }
        // Of equally frequent ones the first.
        let Some((best, _)) = counts.into_iter().rev().max_by_key(|(_, count)| *count) else { break };
        chosen.push(best);
        open.retain(|set| !set.contains(&best));
    }
    let mut at = 0;
    while at < chosen.len() {
        let rest: Vec<usize> =
            chosen.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, one)| *one).collect();
        if sets.iter().filter(|set| !set.is_empty()).all(|set| set.iter().any(|one| rest.contains(one))) {
            chosen = rest;
        } else {
            at += 1;
        }
    }
    chosen
}
