//! The entries of `metadata.managedFields`.

use serde_json::{Value, json};

use super::Writer;
use super::set::FieldSet;
use crate::object::{Object, text};
use crate::status::{Cause, Status};

/// Most entries of plain writers on one object (Kubernetes); the oldest are joined under the name below.
const UPDATE_ENTRIES_MAX: usize = 10;
/// Whose fields those are that the oldest writers had (Kubernetes).
const ANCIENT: &str = "ancient-changes";
/// Most appliers of one object: teams and tools that share one are a handful, and each entry may be as large as the object.
const APPLY_ENTRIES_MAX: usize = 64;

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";
const FORM: &str = "FieldsV1";

/// The fields that one writer has set in one way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) writer: String,
    /// By server-side apply.
    pub(super) applied: bool,
    pub(super) api_version: String,
    pub(super) part: String,
    pub(super) time: String,
    pub(super) set: FieldSet,
}

impl Entry {
    pub(super) fn new(by: &Writer<'_>, applied: bool) -> Self {
        Self {
            writer: by.name.to_owned(),
            applied,
            api_version: by.api_version.to_owned(),
            part: by.part.to_owned(),
            time: String::new(),
            set: FieldSet::default(),
        }
    }

    /// Whether the entry is that of a writer: an applier has one whatever version it speaks.
    pub(super) fn is_of(&self, by: &Writer<'_>, applied: bool) -> bool {
        self.applied == applied
            && self.writer == by.name
            && self.part == by.part
            && (applied || self.api_version == by.api_version)
    }

    /// The writer as conflicts name it.
    pub(super) fn shown(&self) -> String {
        let part = if self.part.is_empty() { String::new() } else { format!(" with subresource {:?}", self.part) };
        let version = if self.applied { String::new() } else { format!(" using {}", self.api_version) };
        format!("{:?}{part}{version}", self.writer)
    }
}

/// The entries of an object; none if they cannot be read.
pub(super) fn read(object: &Object) -> Option<Vec<Entry>> {
    object.items_at("/metadata/managedFields").iter().map(entry).collect()
}

fn entry(value: &Value) -> Option<Entry> {
    let applied = match text(value, "operation") {
        APPLY => true,
        UPDATE => false,
        _ => return None,
    };
    let set = match value.get("fieldsV1") {
        None | Some(Value::Null) => FieldSet::default(),
        Some(fields) => FieldSet::read(fields)?,
    };
    let of = |name| text(value, name).to_owned();
    Some(Entry {
        writer: of("manager"),
        applied,
        api_version: of("apiVersion"),
        part: of("subresource"),
        time: of("time"),
        set,
    })
}

/// Whether a client asks to forget who set what: a list with one empty entry.
pub(super) fn is_reset(object: &Object) -> bool {
    matches!(object.items_at("/metadata/managedFields"), [Value::Object(only)] if only.is_empty())
}

/// Puts the entries into an object: appliers first, then by time and name.
pub(super) fn write(object: &mut Object, mut entries: Vec<Entry>) -> Result<(), Status> {
    entries.retain(|entry| !entry.set.is_empty());
    join_oldest(&mut entries);
    let appliers = entries.iter().filter(|entry| entry.applied).count();
    if appliers > APPLY_ENTRIES_MAX {
        let name = object.name().to_owned();
        let cause = Cause::too_many("metadata.managedFields", appliers, APPLY_ENTRIES_MAX as u64);
        return Err(Status::invalid(object.group(), object.kind(), &name, vec![cause]));
    }
    entries.sort_by(|one, other| {
        let order = |entry: &Entry| {
            (!entry.applied, entry.time.clone(), entry.writer.clone(), entry.api_version.clone(), entry.part.clone())
        };
        order(one).cmp(&order(other))
    });
    if entries.is_empty() {
        object.remove("/metadata/managedFields");
    } else {
        let entries: Vec<Value> = entries.iter().map(value).collect();
        object.set("/metadata/managedFields", entries);
    }
    Ok(())
}

fn value(entry: &Entry) -> Value {
    let operation = if entry.applied { APPLY } else { UPDATE };
    let mut value = json!({
        "manager": entry.writer, "operation": operation, "apiVersion": entry.api_version, "time": entry.time,
        "fieldsType": FORM, "fieldsV1": entry.set.write(),
    });
    if let Some(fields) = value.as_object_mut() {
        if !entry.part.is_empty() {
            fields.insert("subresource".to_owned(), Value::from(entry.part.as_str()));
        }
        if entry.time.is_empty() {
            fields.shift_remove("time");
        }
    }
    value
}

fn join_oldest(entries: &mut Vec<Entry>) {
    let updates = entries.iter().filter(|entry| !entry.applied && entry.part.is_empty()).count();
    if updates <= UPDATE_ENTRIES_MAX {
        return;
    }
    let (mut plain, others): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|entry| !entry.applied && entry.part.is_empty());
    plain.sort_by(|one, other| one.time.cmp(&other.time));
    // One more than there are too many, for the joined ones take a place themselves.
    let kept = plain.split_off(updates.saturating_sub(UPDATE_ENTRIES_MAX).saturating_add(1));
    let mut joined: Vec<Entry> = Vec::new();
    for old in plain {
        match joined.iter_mut().find(|entry| entry.api_version == old.api_version) {
            Some(entry) => {
                entry.set = entry.set.union(&old.set);
                entry.time = old.time;
            }
            None => joined.push(Entry { writer: ANCIENT.to_owned(), ..old }),
        }
    }
    *entries = [others, joined, kept].concat();
}
