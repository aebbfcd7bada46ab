//! What the table of types does not say: how lists and mappings merge (`lists.txt`), and words for people (`words.txt`).
//!
//! `lists.txt`: `Type: atomic`, or `Type.field: rule strategy`. The rule is that of server-side apply: `atomic`, `set`,
//! the keys that tell elements apart, or `-` for the default. The strategy is that of strategic merge patches, with its
//! key. `words.txt`: `Type`, `Type.field`, or `.field` for that field of any type.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// How a value merges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) together: Together,
    /// `x-kubernetes-patch-strategy`, empty if there is none.
    pub(crate) strategy: &'static str,
    /// `x-kubernetes-patch-merge-key`, empty if there is none.
    pub(crate) merge_key: &'static str,
}

/// How server-side apply takes a value apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Together {
    /// Mappings by field, lists not at all.
    #[default]
    Default,
    /// Not at all.
    Atomic,
    /// A list by its values.
    Set,
    /// A list by keys of its elements.
    Keys(Vec<&'static str>),
}

static RULES: LazyLock<BTreeMap<&'static str, Rule>> =
    LazyLock::new(|| include_str!("lists.txt").lines().filter_map(rule).collect());
static WORDS: LazyLock<BTreeMap<&'static str, &'static str>> =
    LazyLock::new(|| include_str!("words.txt").lines().filter_map(|line| line.split_once(": ")).collect());

fn rule(line: &'static str) -> Option<(&'static str, Rule)> {
    let (name, rest) = line.split_once(": ")?;
    let (together, patch) = rest.split_once(' ').unwrap_or((rest, ""));
    let (strategy, merge_key) = patch.split_once('=').unwrap_or((patch, ""));
    let together = match together {
        "-" => Together::Default,
        "atomic" => Together::Atomic,
        "set" => Together::Set,
        keys => Together::Keys(keys.split(',').collect()),
    };
    Some((name, Rule { together, strategy, merge_key }))
}

/// The rule of a type.
pub(crate) fn of_type(name: &str) -> Rule {
    RULES.get(name).cloned().unwrap_or_default()
}

/// The rule of a field of a type.
pub(crate) fn of_field(of: &str, field: &str) -> Rule {
    RULES.get(format!("{of}.{field}").as_str()).cloned().unwrap_or_default()
}

/// What a type is, in words.
pub(crate) fn words(of: &str) -> &'static str {
    WORDS.get(of).copied().unwrap_or_default()
}

/// What a field of a type is, in words.
pub(crate) fn field_words(of: &str, field: &str) -> &'static str {
    let own = WORDS.get(format!("{of}.{field}").as_str());
    own.or_else(|| WORDS.get(format!(".{field}").as_str())).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{RULES, Together, WORDS, field_words, words};
    use crate::types::{FieldKind, Shape, table};

    fn place(name: &str) -> (&str, &str) {
        name.split_once('.').unwrap_or((name, ""))
    }

    fn has(of: &str, field: &str) -> bool {
        table().fields(of).iter().any(|one| match (one.name, &one.kind) {
            ("@", FieldKind::Type(inlined)) => has(inlined, field),
            (name, _) => name == field,
        })
    }

    #[test]
    fn every_rule_is_about_a_field_and_every_key_is_one_of_its_elements() {
        assert_eq!(RULES.len(), include_str!("lists.txt").lines().count());
        for (name, rule) in RULES.iter() {
            let (of, field) = place(name);
            assert!(!table().fields(of).is_empty(), "{name}");
            let Some(field) = table().fields(of).iter().find(|one| one.name == field) else {
                assert!(field.is_empty() && rule.together == Together::Atomic, "{name}");
                continue;
            };
            let keys = match &rule.together {
                Together::Keys(keys) => keys.clone(),
                _ => Vec::new(),
            };
            for key in keys.iter().chain(Some(&rule.merge_key).filter(|key| !key.is_empty())) {
                let FieldKind::Type(element) = field.kind else { panic!("{name}: elements have no keys") };
                assert!(has(element, key) && field.shape == Shape::List, "{name}: {key}");
            }
        }
    }

    #[test]
    fn every_kind_and_every_field_has_words_and_every_word_is_used() {
        let mut used = std::collections::BTreeSet::new();
        for (name, fields) in table().all() {
            used.insert(name.to_owned());
            for field in fields.iter().filter(|field| field.name != "@") {
                let found = field_words(name, field.name);
                assert!(found.ends_with('.'), "{name}.{} has no words", field.name);
                used.extend([format!("{name}.{}", field.name), format!(".{}", field.name)]);
            }
        }
        for root in table().roots() {
            assert!(words(root).ends_with('.'), "{root} has no words");
        }
        used.extend(["IntOrString", "Quantity", "Time", ".apiVersion", ".kind"].map(str::to_owned));
        let unused: Vec<_> = WORDS.keys().filter(|name| !used.contains(**name)).collect();
        assert!(unused.is_empty(), "{unused:?}");
        assert_eq!(WORDS.len(), include_str!("words.txt").lines().count(), "each place has its words once");
    }
}
