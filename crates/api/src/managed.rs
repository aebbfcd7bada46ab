//! Who set which field: `metadata.managedFields`, and server-side apply, which is made of it.
//!
//! [`note`] belongs to every plain write of a client, [`apply`] makes the object of a server-side apply. What the mesh
//! itself writes claims no field: such fields are nobody's, so that nobody can be in conflict with it.

mod entries;
mod set;
mod walk;

use std::sync::LazyLock;

use serde_json::Value;

use crate::object::Object;
use crate::schema::{Node, Schema};
use crate::status::{Cause, Details, Status};
use entries::Entry;
use set::FieldSet;
use walk::{difference, drop_nulls, merged, remove, set_of, with_fields};

/// The annotation in which client-side apply keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The writer that passes from client-side to server-side apply without conflicts with itself.
const KUBECTL: &str = "kubectl";

/// What is never anybody's: what names the object, and what only the server writes.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Who writes, in which version, and which part of the object (empty for the object itself).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer<'a> {
    /// Its name: what it calls itself, or the beginning of its user agent.
    pub name: &'a str,
    /// The version in which it speaks, such as `apps/v1`.
    pub api_version: &'a str,
    /// The subresource that it writes, such as `status`.
    pub part: &'a str,
}

/// Notes in a new object, or in a changed one, who set what of it.
///
/// A client may set `managedFields` itself; what cannot be read of that is as it was before.
pub fn note(
    schema: Option<&Schema>,
    old: Option<&Object>,
    new: &mut Object,
    by: &Writer<'_>,
    now: &str,
) -> Result<(), Status> {
    let node = shape(schema);
    let before = old.and_then(entries::read).unwrap_or_default();
    let mut entries = match entries::read(new) {
        _ if !by.part.is_empty() => before,
        _ if entries::is_reset(new) => Vec::new(),
        Some(given) if !given.is_empty() => given,
        _ => before,
    };
    let nothing = Value::Object(serde_json::Map::new());
    let (was, is) = (old.map_or(nothing, |old| owned_part(old.value())), owned_part(new.value()));
    let mut found = difference(node, Some(&was), Some(&is));
    // A plain write leaves the status alone, and one of the status everything else.
    let of_status = by.part == "status";
    found.keep("status", of_status);
    let touched = found.added.union(&found.modified);
    for entry in entries.iter_mut().filter(|entry| !entry.is_of(by, false)) {
        entry.set = entry.set.difference(&touched).difference(&found.removed);
    }
    if !entries.iter().any(|entry| entry.is_of(by, false)) {
        entries.push(Entry::new(by, false));
    }
    for own in entries.iter_mut().filter(|entry| entry.is_of(by, false)) {
        let set = own.set.difference(&found.removed).union(&touched);
        if set != own.set || !touched.is_empty() {
            own.set = set;
            now.clone_into(&mut own.time);
        }
    }
    entries::write(new, entries)
}

/// The object that a server-side apply makes: what is stored, with what the applier wants, and without what it wanted
/// before and nobody else does. 409 with a cause for each field that is another's, unless forced.
pub fn apply(
    schema: Option<&Schema>,
    old: Option<&Object>,
    config: &Object,
    by: &Writer<'_>,
    force: bool,
    now: &str,
) -> Result<Object, Status> {
    let node = shape(schema);
    if !config.at("/metadata/managedFields").is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let mut wanted = config.value().clone();
    drop_nulls(&mut wanted);
    check_shape(schema, node, config, &wanted)?;
    // The status is applied by itself, and everything else without it.
    let of_status = by.part == "status";
    let set = set_of(node, &owned_part(&wanted)).within("status", of_status);
    let live = old.map_or_else(|| Value::Object(serde_json::Map::new()), |old| old.value().clone());
    let mut entries = old.and_then(entries::read).unwrap_or_default();
    let place = entries.iter().position(|entry| entry.is_of(by, true));
    let last = place.and_then(|at| entries.get(at)).map(|entry| entry.set.clone()).unwrap_or_default();

    let mut object = merged(node, &live, &wanted);
    prune(node, &mut object, &last, &set, &entries, place);
    let mut found = difference(node, Some(&owned_part(&live)), Some(&owned_part(&object)));
    found.keep("status", of_status);
    let touched = found.added.union(&found.modified);
    let mut conflicts = Vec::new();
    for (at, entry) in entries.iter().enumerate().filter(|(at, _)| Some(*at) != place) {
        let theirs = entry.set.intersection(&touched);
        if !theirs.is_empty() {
            conflicts.push((at, theirs));
        }
    }
    if !force {
        let excused = excused(node, old, by);
        let left: Vec<(String, FieldSet)> = conflicts
            .iter()
            .filter_map(|(at, theirs)| Some((entries.get(*at)?.shown(), theirs.difference(&excused))))
            .filter(|(_, theirs)| !theirs.is_empty())
            .collect();
        if !left.is_empty() {
            return Err(conflict(&left));
        }
    }
    for (at, entry) in entries.iter_mut().enumerate().filter(|(at, _)| Some(*at) != place) {
        if let Some((_, theirs)) = conflicts.iter().find(|(one, _)| *one == at) {
            entry.set = entry.set.difference(theirs);
        }
        entry.set = entry.set.difference(&found.removed);
    }
    let changed = !touched.is_empty() || !found.removed.is_empty() || set != last;
    let before = place.and_then(|at| entries.get(at)).map_or("", |entry| entry.time.as_str()).to_owned();
    let time = if changed { now.to_owned() } else { before };
    let own = Entry { time, set, ..Entry::new(by, true) };
    match place.and_then(|at| entries.get_mut(at)) {
        Some(entry) => *entry = own,
        None => entries.push(own),
    }
    let mut object = Object::new(object)?;
    keep_last_applied(old, &mut object, config, by);
    entries::write(&mut object, entries)?;
    Ok(object)
}

/// Takes away what the applier wanted last time, does not want now, and nobody else has set.
fn prune(node: &Node, object: &mut Value, last: &FieldSet, set: &FieldSet, entries: &[Entry], place: Option<usize>) {
    if last.is_empty() {
        return;
    }
    let others = entries.iter().enumerate().filter(|(at, _)| Some(*at) != place);
    let owned = others.fold(set.clone(), |all, (_, entry)| all.union(&entry.set));
    let there = with_fields(node, &set_of(node, &owned_part(object)));
    let gone = with_fields(node, last).intersection(&there).difference(&with_fields(node, &owned));
    remove(node, object, &gone);
}

/// What a client may own: everything but what names the object and what only the server writes.
fn owned_part(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(fields) = &mut value {
        fields.shift_remove("apiVersion");
        fields.shift_remove("kind");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|name, _| !UNOWNED.contains(&name.as_str()));
            if metadata.is_empty() {
                fields.shift_remove("metadata");
            }
        }
    }
    value
}

fn shape(schema: Option<&Schema>) -> &Node {
    static FREE: LazyLock<Node> = LazyLock::new(Node::free);
    schema.map_or(&*FREE, Schema::root)
}

/// What the shape does not allow makes no set of fields: the texts, and the status 500, are the real server's.
fn check_shape(schema: Option<&Schema>, node: &Node, config: &Object, wanted: &Value) -> Result<(), Status> {
    let mut faults: Vec<String> = Vec::new();
    if let Some(schema) = schema {
        let unknown = schema.prune(&mut wanted.clone());
        faults.extend(unknown.iter().map(|path| format!(".{path}: field not declared in schema")));
    }
    faults.extend(walk::fault(node, wanted, ""));
    let why = match faults.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let (name, version, kind) = (config.name(), config.api_version(), config.kind());
    let name = config.namespace().map_or_else(|| format!("/{name}"), |namespace| format!("{namespace}/{name}"));
    let message = format!("failed to create typed patch object ({name}; {version}, Kind={kind}): {why}");
    Err(Status::failure(500, "", message))
}

/// The fields that kubectl's client-side apply set last and that are still as it set them: its server-side apply takes
/// them over without a conflict.
fn excused(node: &Node, old: Option<&Object>, by: &Writer<'_>) -> FieldSet {
    let last = old.filter(|_| by.name == KUBECTL).and_then(|old| Some((old, old.annotation(LAST_APPLIED)?)));
    let Some((old, text)) = last else { return FieldSet::default() };
    let Ok(last) = serde_json::from_str::<Value>(text) else { return FieldSet::default() };
    let (last, live) = (owned_part(&last), owned_part(old.value()));
    let found = difference(node, Some(&last), Some(&live));
    set_of(node, &last).difference(&found.modified).difference(&found.added).difference(&found.removed)
}

/// Client-side apply after a server-side one of kubectl's must see what was applied.
fn keep_last_applied(old: Option<&Object>, object: &mut Object, config: &Object, by: &Writer<'_>) {
    if by.name != KUBECTL || old.is_none_or(|old| old.annotation(LAST_APPLIED).is_none()) {
        return;
    }
    let mut applied = config.clone();
    applied.remove(&pointer_of_last_applied());
    object.set(&pointer_of_last_applied(), format!("{}\n", applied.value()));
}

fn pointer_of_last_applied() -> String {
    format!("/metadata/annotations/{}", LAST_APPLIED.replace('/', "~1"))
}

fn conflict(conflicts: &[(String, FieldSet)]) -> Status {
    let fields: Vec<(&str, String)> = conflicts
        .iter()
        .flat_map(|(writer, theirs)| theirs.paths().into_iter().map(move |path| (writer.as_str(), path)))
        .collect();
    let causes = fields
        .iter()
        .map(|(writer, path)| Cause::field("FieldManagerConflict", format!("conflict with {writer}"), path))
        .collect();
    let message = match fields.as_slice() {
        [(writer, path)] => format!("Apply failed with 1 conflict: conflict with {writer}: {path}"),
        many => {
            let mut lines = Vec::new();
            for (writer, theirs) in conflicts {
                lines.push(format!("conflicts with {writer}:"));
                lines.extend(theirs.paths().iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Status::failure(409, "Conflict", message).about(Details::default()).with_causes(causes)
}

#[cfg(test)]
mod tests;
