//! Where in its document each field of a policy stands.

use policy::spec::{AuthorizationPolicy, Match, Rule, Values};

/// One list of values of a policy.
#[derive(Debug, Clone)]
pub(crate) struct Written<'a> {
    /// Which rule.
    pub(crate) rule: usize,
    /// Where, such as `spec.rules[0].from[0].source.namespaces`.
    pub(crate) path: String,
    /// The attribute with both of its lists.
    pub(crate) field: &'a Match,
    /// The values of this list.
    pub(crate) values: &'a Values,
    /// Whether they must not match.
    pub(crate) negative: bool,
}

impl Written<'_> {
    /// The path of the field as its author sees it: for a condition, that of its key.
    pub(crate) fn named_at(&self) -> String {
        let condition = [".values", ".notValues"].into_iter().find_map(|end| {
            let entry = self.path.strip_suffix(end)?;
            entry.ends_with(']').then(|| format!("{entry}.key"))
        });
        condition.unwrap_or_else(|| self.path.clone())
    }
}

/// Every list of values of a policy.
pub(crate) fn fields(policy: &AuthorizationPolicy) -> Vec<Written<'_>> {
    policy.rules.iter().enumerate().flat_map(|(index, rule)| of_rule(index, rule)).collect()
}

/// Every list of values of a rule.
pub(crate) fn of_rule(index: usize, rule: &Rule) -> Vec<Written<'_>> {
    let mut all = Vec::new();
    let parts = [("from", ".source", &rule.from), ("to", ".operation", &rule.to), ("when", "", &rule.when)];
    for (list, inner, entries) in parts {
        for (position, entry) in entries.iter().enumerate() {
            let place = format!("spec.rules[{index}].{list}[{position}]{inner}");
            for field in &entry.matches {
                let (positive, negative) = names(field, list == "when");
                let lists = [(positive, &field.wanted, false), (negative, &field.unwanted, true)];
                all.extend(lists.into_iter().filter_map(|(name, values, negative)| {
                    let values = values.as_ref()?;
                    Some(Written { rule: index, path: format!("{place}.{name}"), field, values, negative })
                }));
            }
        }
    }
    all
}

/// How a field and its negative twin are written.
fn names(field: &Match, condition: bool) -> (String, String) {
    if condition {
        return ("values".to_owned(), "notValues".to_owned());
    }
    let written = field.written.as_ref();
    let positive =
        written.strip_prefix("not").map_or_else(|| written.to_owned(), |rest| recased(rest, char::to_ascii_lowercase));
    let negative = format!("not{}", recased(&positive, char::to_ascii_uppercase));
    (positive, negative)
}

fn recased(text: &str, case: fn(&char) -> char) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| case(&letter));
    first.into_iter().chain(letters).collect()
}
