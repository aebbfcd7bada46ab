//! Two explanations of one question become one: what they agree on, and nothing where they do not.

use crate::explain::{Explanation, FieldTrace, RuleTrace};

/// What stands where the two found something else.
const UNKNOWN: &str = "not known";

pub(super) fn merge(mut one: Explanation, other: Explanation) -> Explanation {
    // The longer one went on where the other ended.
    let (mut rules, rest) =
        if one.rules.len() >= other.rules.len() { (one.rules, other.rules) } else { (other.rules, one.rules) };
    for other in rest {
        let same =
            |rule: &&mut RuleTrace| rule.stage == other.stage && rule.policy == other.policy && rule.rule == other.rule;
        match rules.iter_mut().find(same) {
            Some(rule) => rule_with(rule, other),
            None => rules.push(other),
        }
    }
    one.rules = rules;
    if one.nearest != other.nearest {
        one.nearest = one.nearest.or(other.nearest);
    }
    one
}

fn rule_with(rule: &mut RuleTrace, other: RuleTrace) {
    if rule.matched != other.matched {
        rule.matched = None;
    }
    for other in other.fields {
        if let Some(field) = rule.fields.iter_mut().find(|field| field.field == other.field) {
            field_with(field, &other);
        }
    }
}

fn field_with(field: &mut FieldTrace, other: &FieldTrace) {
    if field.matched != other.matched {
        field.matched = None;
    }
    if field.found != other.found {
        UNKNOWN.clone_into(&mut field.found);
    }
}
