//! Which rules of the judged policies match the connection of a case.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use policy::space::RuleName;

use super::{Done, World};

/// Rules and what is known of them.
pub(super) struct Coverage {
    /// How many rules there are.
    pub(super) rules: usize,
    /// Those that no case touches, each with its place.
    pub(super) untouched: Vec<Untouched>,
}

/// A rule that no case touches.
pub(super) struct Untouched {
    pub(super) rule: RuleName,
    pub(super) file: String,
    pub(super) line: usize,
}

/// Over all sets of manifests. Assertions touch nothing: they speak of verdicts, whichever rule gives them.
pub(super) fn of(worlds: &[Option<Rc<World>>], done: &[Done<'_>]) -> Coverage {
    let touched: BTreeSet<&RuleName> = done.iter().flat_map(|one| &one.judgement.touched).collect();
    let mut all: BTreeMap<RuleName, (String, usize)> = BTreeMap::new();
    for world in worlds.iter().flatten() {
        let bundle = &world.sources.bundle;
        for policy in &world.sources.mesh(None).policies {
            let key = api::Key::namespaced(
                control::translate::SECURITY_GROUP,
                control::translate::AUTHORIZATION_POLICIES,
                &policy.id.namespace,
                &policy.id.name,
            );
            for rule in 0..policy.rules.len() {
                let place = bundle.value_place(&key, &format!("spec.rules[{rule}]"));
                let file =
                    place.as_ref().and_then(|place| bundle.texts().get(place.text)).map(|text| text.name.clone());
                let line = place.map_or(0, |place| place.span.line);
                all.insert(
                    RuleName { policy: std::sync::Arc::clone(&policy.id), rule },
                    (file.unwrap_or_default(), line),
                );
            }
        }
    }
    let rules = all.len();
    let untouched = all.into_iter().filter(|(rule, _)| !touched.contains(rule));
    let untouched = untouched.map(|(rule, (file, line))| Untouched { rule, file, line }).collect();
    Coverage { rules, untouched }
}
