//! An object whose owners are all gone goes too.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use api::{Key, Kinds, Object, Objects};

use super::Changed;
use super::plan::Plan;

static BUILTIN: LazyLock<Kinds> = LazyLock::new(Kinds::builtin);

/// Looks at what changed; at everything if something is gone, as anything may have been owned by it.
pub(super) fn collect(plan: &mut Plan<'_>, changed: &Changed) {
    let objects = plan.objects;
    let gone = changed.keys.iter().any(|key| objects.get(key).is_none());
    let orphans: Vec<(Key, Arc<Object>)> = if changed.everything || gone {
        let alive: BTreeSet<&str> = objects.all().map(|(_, object)| object.uid()).collect();
        let orphan = |object: &Object| is_orphan(object, |owner| alive.contains(owner.uid));
        objects.all().filter(|(_, object)| orphan(object)).map(|(key, object)| (key, Arc::clone(object))).collect()
    } else {
        let changed = changed.keys.iter().filter_map(|key| Some((key.clone(), Arc::clone(objects.get(key)?))));
        changed.filter(|(_, object)| is_orphan(object, |owner| is_alive(objects, object, owner))).collect()
    };
    for (key, object) in orphans {
        plan.delete(key, &object);
    }
}

fn is_orphan(object: &Object, alive: impl Fn(&api::object::Owner<'_>) -> bool) -> bool {
    let mut owners = object.owners().peekable();
    owners.peek().is_some() && !owners.any(|owner| alive(&owner))
}

/// Owners of kinds that are not built in are looked for when something is gone.
fn is_alive(objects: &Objects, object: &Object, owner: &api::object::Owner<'_>) -> bool {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let Some(kind) = BUILTIN.by_kind(group, owner.kind) else { return true };
    let namespace = object.namespace().filter(|_| kind.namespaced);
    objects.find(&kind.group, &kind.plural, namespace, owner.name).is_some_and(|found| found.uid() == owner.uid)
}
