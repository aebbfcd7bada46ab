//! Strategic merge patch: a merge patch whose lists merge by key, with directives.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Most elements of a list that merges by key, since each is looked for in the other list: 16 million comparisons.
const ELEMENTS_MAX: usize = 4096;

/// How a list merges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListRule {
    /// The patch's list replaces the other.
    Atomic,
    /// Mappings with the same value under this key are one element.
    Keyed(&'static str),
    /// Equal values are one element.
    Set,
}

/// The rule for the list `field` inside `parent` (the nearest field name above it).
///
/// One table for all built-in kinds: among them a pair of names never has two meanings.
fn list_rule(parent: &str, field: &str) -> ListRule {
    let in_container = matches!(parent, "containers" | "initContainers" | "ephemeralContainers");
    match (parent, field) {
        (_, "ports") if in_container => ListRule::Keyed("containerPort"),
        (_, "env") if in_container => ListRule::Keyed("name"),
        (_, "volumeMounts") if in_container => ListRule::Keyed("mountPath"),
        (_, "volumeDevices") if in_container => ListRule::Keyed("devicePath"),
        ("spec", "ports") => ListRule::Keyed("port"),
        ("", "imagePullSecrets" | "secrets")
        | (
            "spec",
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "volumes"
            | "imagePullSecrets"
            | "resourceClaims"
            | "schedulingGates",
        ) => ListRule::Keyed("name"),
        ("spec", "topologySpreadConstraints") => ListRule::Keyed("topologyKey"),
        ("spec", "podCIDRs") | ("metadata", "finalizers") => ListRule::Set,
        ("status", "conditions" | "addresses") => ListRule::Keyed("type"),
        ("spec", "hostAliases") | ("status", "podIPs" | "hostIPs") => ListRule::Keyed("ip"),
        ("metadata", "ownerReferences") => ListRule::Keyed("uid"),
        _ => ListRule::Atomic,
    }
}

/// Applies a strategic merge patch of a built-in kind.
pub fn strategic(document: &Value, patch: &Value) -> Result<Value, Status> {
    let empty = Map::new();
    let target = document.as_object().unwrap_or(&empty).clone();
    let changes = patch.as_object().unwrap_or(&empty);
    merge_mapping("", target, changes).map(Value::Object)
}

type Fields = Map<String, Value>;

fn merge_mapping(name: &str, mut target: Fields, patch: &Fields) -> Result<Fields, Status> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or("?")) {
        None | Some("merge") => {}
        Some("replace") => return Ok(patch.iter().filter(|(field, _)| *field != DIRECTIVE).map(own).collect()),
        Some("delete") => return Ok(Fields::new()),
        Some(other) => return Err(unknown_directive(other)),
    }
    // How lists stood before, for those whose order the patch sets.
    let lists = patch.keys().filter_map(|directive| directive.strip_prefix(SET_ORDER));
    let before: BTreeMap<&str, Value> = lists.filter_map(|list| Some((list, target.get(list)?.clone()))).collect();
    if let Some(kept) = patch.get(RETAIN_KEYS) {
        retain(&mut target, patch, kept)?;
    }
    for (field, change) in patch {
        if field == DIRECTIVE || field == RETAIN_KEYS || field.starts_with(SET_ORDER) {
            continue;
        }
        if let Some(list) = field.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut target, list, change)?;
            continue;
        }
        let merged = match (change, target.get(field)) {
            (Value::Null, _) => {
                target.shift_remove(field);
                continue;
            }
            (Value::Object(change), found) => {
                let found = found.and_then(Value::as_object).cloned().unwrap_or_default();
                Value::Object(merge_mapping(field, found, change)?)
            }
            (Value::Array(change), found) => {
                let found = found.and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
                Value::Array(merge_list(name, field, found, change)?)
            }
            (plain, _) => plain.clone(),
        };
        target.insert(field.clone(), merged);
    }
    for (directive, order) in patch {
        if let Some(field) = directive.strip_prefix(SET_ORDER)
            && let Some(Value::Array(items)) = target.get_mut(field)
        {
            let before = before.get(field).and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
            let order = order.as_array().filter(|order| order.len() <= ELEMENTS_MAX);
            let order =
                order.ok_or_else(|| malformed(directive, "must be a list of no more elements than the list has"))?;
            *items = in_order(list_rule(name, field), std::mem::take(items), order, before);
        }
    }
    Ok(target)
}

fn merge_list(parent: &str, field: &str, target: &[Value], patch: &[Value]) -> Result<Vec<Value>, Status> {
    let rule = list_rule(parent, field);
    if rule != ListRule::Atomic && target.len().saturating_add(patch.len()) > ELEMENTS_MAX {
        return Err(malformed(
            field,
            &format!("has more than {ELEMENTS_MAX} elements; replace it by a JSON merge patch"),
        ));
    }
    let key = match rule {
        ListRule::Atomic => return Ok(patch.to_vec()),
        ListRule::Set => {
            let mut merged = target.to_vec();
            for value in patch {
                if !merged.contains(value) {
                    merged.push(value.clone());
                }
            }
            return Ok(in_order(rule, merged, patch, target));
        }
        ListRule::Keyed(key) => key,
    };
    // An element that is only `$patch: replace` speaks of the whole list.
    let whole =
        |item: &&Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("replace") && item.get(key).is_none();
    let mut merged = if patch.iter().any(|item| whole(&item)) { Vec::new() } else { target.to_vec() };
    for item in patch.iter().filter(|item| !whole(item)) {
        let Some(fields) = item.as_object() else {
            return Err(malformed(field, "must hold mappings only"));
        };
        let id = fields.get(key).ok_or_else(|| malformed(field, &format!("has an element without `{key}`")))?;
        if fields.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
            merged.retain(|old| old.get(key) != Some(id));
            continue;
        }
        let at = merged.iter().position(|old| old.get(key) == Some(id));
        let old = at.and_then(|at| merged.get(at)).and_then(Value::as_object).cloned().unwrap_or_default();
        let new = Value::Object(merge_mapping(field, old, fields)?);
        match at.and_then(|at| merged.get_mut(at)) {
            Some(place) => *place = new,
            None => merged.push(new),
        }
    }
    // Without a word about their order, what the patch names stands in the patch's.
    Ok(in_order(rule, merged, patch, target))
}

fn retain(target: &mut Fields, patch: &Fields, kept: &Value) -> Result<(), Status> {
    let listed = kept.as_array().ok_or_else(|| malformed(RETAIN_KEYS, "must be a list of field names"))?;
    let names: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    if let Some((stray, _)) = patch
        .iter()
        .find(|(field, value)| !field.starts_with('$') && !value.is_null() && !names.contains(field.as_str()))
    {
        return Err(Status::unprocessable(format!(
            "the patch sets `{stray}`, which its `{RETAIN_KEYS}` does not list; list it or leave it out"
        )));
    }
    target.retain(|field, _| names.contains(field.as_str()));
    Ok(())
}

fn delete_primitives(target: &mut Fields, list: &str, values: &Value) -> Result<(), Status> {
    let values = values.as_array().ok_or_else(|| malformed(&format!("{DELETE_PRIMITIVES}{list}"), "must be a list"))?;
    if let Some(Value::Array(items)) = target.get_mut(list) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Puts the elements the client knows into its order; the others keep their places relative to one another and, where
/// that is possible, to the elements that stood after them `before`. New ones stand first.
fn in_order(rule: ListRule, items: Vec<Value>, order: &[Value], before: &[Value]) -> Vec<Value> {
    let id = |item: &Value| match rule {
        ListRule::Keyed(key) => item.get(key).unwrap_or(&Value::Null).to_string(),
        ListRule::Set | ListRule::Atomic => item.to_string(),
    };
    if rule == ListRule::Atomic {
        return items;
    }
    let places = |items: &[Value]| -> BTreeMap<String, usize> {
        items.iter().enumerate().rev().map(|(place, item)| (id(item), place)).collect()
    };
    let (wanted, before) = (places(order), places(before));
    let (mut known, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| wanted.contains_key(&id(item)));
    known.sort_by_cached_key(|item| wanted.get(&id(item)).copied());
    let mut from = 0;
    for other in others {
        let place = before.get(&id(&other));
        let later = known.iter().skip(from).position(|item| before.get(&id(item)) > place);
        let at = later.map_or(known.len(), |offset| from.saturating_add(offset));
        known.insert(at, other);
        from = at.saturating_add(1);
    }
    known
}

fn own((field, value): (&String, &Value)) -> (String, Value) {
    (field.clone(), value.clone())
}

fn malformed(field: &str, why: &str) -> Status {
    Status::bad_request(format!("strategic merge patch: `{field}` {why}"))
}

fn unknown_directive(directive: &str) -> Status {
    Status::bad_request(format!(
        "strategic merge patch: unknown {DIRECTIVE} directive `{directive}`; use merge, replace or delete"
    ))
}
