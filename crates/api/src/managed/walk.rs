//! Walking values along their shape: which fields there are, what differs, what two make together, what is taken away.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::{FieldSet, Step, keys_text};
use crate::schema::{ListKeys, Node};

/// The value of a key that an element may leave out.
const KEY_DEFAULTS: [(&str, &str); 1] = [("protocol", "TCP")];

/// What one change does to an object.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Difference {
    /// Leaves only what lies in a field, or only what does not.
    pub(super) fn keep(&mut self, field: &str, inside: bool) {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            *set = set.within(field, inside);
        }
    }
}

/// How a value comes apart.
enum Parts<'a> {
    /// It does not: it is set as a whole.
    Whole,
    Fields(&'a Map<String, Value>),
    Elements(Vec<(Step, &'a Value)>),
}

fn parts<'a>(node: &Node, value: &'a Value) -> Parts<'a> {
    match value {
        Value::Object(fields) if !node.is_atomic() => Parts::Fields(fields),
        Value::Array(items) if *node.list_keys() != ListKeys::Atomic => match elements(node, items) {
            Some(elements) => Parts::Elements(elements),
            None => Parts::Whole,
        },
        _ => Parts::Whole,
    }
}

/// The elements of a list with what tells them apart; none if one has no such thing.
fn elements<'a>(node: &Node, items: &'a [Value]) -> Option<Vec<(Step, &'a Value)>> {
    items.iter().map(|item| Some((step_of(node, item)?, item))).collect()
}

fn step_of(node: &Node, item: &Value) -> Option<Step> {
    match node.list_keys() {
        ListKeys::Atomic => None,
        ListKeys::Set => Some(Step::Value(item.to_string())),
        ListKeys::Map(names) => {
            let mut keys = BTreeMap::new();
            for name in names {
                let given = item.get(name).filter(|value| !value.is_null()).cloned();
                let default = || KEY_DEFAULTS.iter().find(|(key, _)| key == name).map(|(_, value)| Value::from(*value));
                keys.insert(
                    name.clone(),
                    given.or_else(|| node.item().field(name).0.default_value()).or_else(default)?,
                );
            }
            Some(Step::Keys(keys_text(keys.into_iter().collect())))
        }
    }
}

/// Why a list that merges by keys cannot: an element without one, or one that stands twice.
pub(super) fn fault(node: &Node, value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(fields) => {
            fields.iter().find_map(|(name, child)| fault(node.field(name).0, child, &format!("{path}.{name}")))
        }
        Value::Array(items) => {
            let keys = node.list_keys();
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let mut place = format!("{path}[{index}]");
                if *keys != ListKeys::Atomic {
                    let Some(step) = step_of(node, item) else {
                        return Some(format!("{path}: element {index} omits a key that tells elements apart"));
                    };
                    place = format!("{path}{step}");
                    if !seen.insert(step.clone()) {
                        return Some(format!("{path}: duplicate entries for key {step}"));
                    }
                }
                if let Some(found) = fault(node.item(), item, &place) {
                    return Some(found);
                }
            }
            None
        }
        _ => None,
    }
}

/// Every field of a value.
pub(super) fn set_of(node: &Node, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match parts(node, value) {
        Parts::Whole => {}
        Parts::Fields(fields) => {
            for (name, child) in fields {
                let (child_node, is_declared) = node.field(name);
                let whole = match parts(child_node, child) {
                    Parts::Whole => true,
                    Parts::Fields(fields) => fields.is_empty(),
                    Parts::Elements(_) => false,
                };
                set.put(Step::field(name), whole || !is_declared, set_of(child_node, child));
            }
        }
        Parts::Elements(elements) => {
            for (step, item) in elements {
                set.put(step, true, set_of(node.item(), item));
            }
        }
    }
    set
}

/// The same set with every declared field in it that something is in.
pub(super) fn with_fields(node: &Node, set: &FieldSet) -> FieldSet {
    let mut all = FieldSet::default();
    for (step, branch) in set.iter() {
        let (child, is_declared) = match step {
            Step::Field(name) => node.field(name),
            _ => (node.item(), false),
        };
        let named = is_declared && !branch.below.is_empty();
        all.put(step.clone(), branch.itself || named, with_fields(child, &branch.below));
    }
    all
}

/// What differs between two values.
pub(super) fn difference(node: &Node, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut found = Difference::default();
    differ(node, old, new, &mut Vec::new(), &mut found);
    found
}

fn differ(node: &Node, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Step>, found: &mut Difference) {
    let (old, new) = (old.filter(|value| !value.is_null()), new.filter(|value| !value.is_null()));
    if old.is_none() && new.is_none() {
        return;
    }
    match (old.map(|value| parts(node, value)), new.map(|value| parts(node, value))) {
        (Some(Parts::Fields(before)), Some(Parts::Fields(now))) if !(before.is_empty() && now.is_empty()) => {
            fields(node, Some(before), Some(now), path, found);
        }
        (Some(Parts::Fields(before)), None) if !before.is_empty() => fields(node, Some(before), None, path, found),
        (None, Some(Parts::Fields(now))) if !now.is_empty() => fields(node, None, Some(now), path, found),
        (Some(Parts::Elements(before)), Some(Parts::Elements(now))) if !(before.is_empty() && now.is_empty()) => {
            items(node, before, now, path, found);
        }
        (Some(Parts::Elements(before)), None) if !before.is_empty() => items(node, before, Vec::new(), path, found),
        (None, Some(Parts::Elements(now))) if !now.is_empty() => items(node, Vec::new(), now, path, found),
        _ => {
            if old.is_some() && new.is_some() && old != new {
                found.modified.insert(path);
            }
        }
    }
    if old.is_none() {
        found.added.insert(path);
    } else if new.is_none() {
        found.removed.insert(path);
    }
}

fn fields(
    node: &Node,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    path: &mut Vec<Step>,
    found: &mut Difference,
) {
    let (nothing, empty, no_items) = (Map::new(), Value::Object(Map::new()), Value::Array(Vec::new()));
    let (before, now) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for name in names {
        let child = node.field(name).0;
        let empty =
            if before.get(name).or_else(|| now.get(name)).is_some_and(Value::is_array) { &no_items } else { &empty };
        let always = |is: bool| (is && child.is_always_there()).then_some(empty);
        let one = before.get(name).or_else(|| always(old.is_some()));
        let other = now.get(name).or_else(|| always(new.is_some()));
        path.push(Step::field(name));
        differ(child, one, other, path, found);
        path.pop();
    }
}

fn items(
    node: &Node,
    old: Vec<(Step, &Value)>,
    new: Vec<(Step, &Value)>,
    path: &mut Vec<Step>,
    found: &mut Difference,
) {
    let (before, now): (BTreeMap<_, _>, BTreeMap<_, _>) = (old.into_iter().collect(), new.into_iter().collect());
    let steps: BTreeSet<&Step> = before.keys().chain(now.keys()).collect();
    for step in steps {
        path.push(step.clone());
        differ(node.item(), before.get(step).copied(), now.get(step).copied(), path, found);
        path.pop();
    }
}

/// What two values make together: the second one counts where both say something.
pub(super) fn merged(node: &Node, live: &Value, config: &Value) -> Value {
    match (parts(node, live), parts(node, config)) {
        (Parts::Fields(before), Parts::Fields(changes)) => {
            let mut all = before.clone();
            for (name, change) in changes {
                let child = match before.get(name) {
                    Some(before) => merged(node.field(name).0, before, change),
                    None => change.clone(),
                };
                all.insert(name.clone(), child);
            }
            Value::Object(all)
        }
        (Parts::Elements(before), Parts::Elements(changes)) => Value::Array(merged_items(node, &before, &changes)),
        _ => config.clone(),
    }
}

/// The elements of both lists: those of the second in its order, the others where they stood among them.
fn merged_items(node: &Node, live: &[(Step, &Value)], config: &[(Step, &Value)]) -> Vec<Value> {
    let before: BTreeMap<&Step, &Value> = live.iter().rev().map(|(step, item)| (step, *item)).collect();
    let wanted: BTreeSet<&Step> = config.iter().map(|(step, _)| step).collect();
    let mut all = Vec::new();
    let mut rest = config.iter();
    let mut told: BTreeSet<&Step> = BTreeSet::new();
    let tell = |(step, item): &(Step, &Value), all: &mut Vec<Value>| {
        all.push(before.get(step).map_or_else(|| (*item).clone(), |old| merged(node.item(), old, item)));
    };
    for (step, item) in live {
        if !wanted.contains(step) {
            all.push((*item).clone());
            continue;
        }
        while !told.contains(step)
            && let Some(next) = rest.next()
        {
            told.insert(&next.0);
            tell(next, &mut all);
        }
    }
    for next in rest {
        tell(next, &mut all);
    }
    all
}

/// Takes the places of a set out of a value; what is empty afterwards goes too.
pub(super) fn remove(node: &Node, value: &mut Value, set: &FieldSet) {
    match value {
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in names {
                let Some(branch) = set.get(&Step::field(&name)) else { continue };
                let child_node = node.field(&name).0;
                let Some(child) = fields.get_mut(&name) else { continue };
                // Of a free mapping only what was named goes: other keys may be there that nobody is noted for.
                let stays = child_node.is_free_mapping() && child.is_object() && !branch.below.is_empty();
                if !branch.itself || stays {
                    remove(child_node, child, &branch.below);
                }
                if branch.itself && !stays || is_empty(child) {
                    fields.shift_remove(&name);
                }
            }
        }
        Value::Array(items) => {
            items.retain_mut(|item| {
                let Some(branch) = step_of(node, item).and_then(|step| set.get(&step)) else { return true };
                if !branch.itself {
                    remove(node.item(), item, &branch.below);
                }
                !branch.itself
            });
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Takes away fields that are null: they are not set.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, child| !child.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
