//! The writes that one look collects, and what all controllers need to make them.

use api::{Key, Object, Objects, Write};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{Cluster, Context};
use crate::events::{self, Happening, Source};

/// Who tells what controllers do.
const SOURCE: Source = Source { component: "tidegate", host: "" };

/// Letters of random names: those of Kubernetes, without vowels and look-alikes, so that no words come out.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters at the end of a pod's name.
const SUFFIX_LETTERS: usize = 5;

/// One look at the objects.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) objects: &'a Objects,
    pub(super) context: &'a Context,
    writes: Vec<Write>,
    random: u64,
}

impl<'a> Plan<'a> {
    pub(super) const fn new(objects: &'a Objects, context: &'a Context) -> Self {
        Self { objects, context, writes: Vec::new(), random: context.seed }
    }

    pub(super) fn into_writes(self) -> Vec<Write> {
        self.writes
    }

    pub(super) fn cluster(&self) -> &'a Cluster {
        &self.context.cluster
    }

    pub(super) fn now(&self) -> String {
        api::time::seconds(self.context.now)
    }

    pub(super) fn create(&mut self, object: Object) {
        self.writes.push(Write::Create(object));
    }

    pub(super) fn replace(&mut self, object: Object) {
        self.writes.push(Write::Replace(object));
    }

    pub(super) fn patch(&mut self, key: Key, patch: Value) {
        self.writes.push(Write::PatchMeta { key, patch });
    }

    /// Merges into the status, unless nothing would change.
    pub(super) fn patch_status(&mut self, key: Key, object: &Object, status: &Value) {
        let before = object.at("/status");
        let mut after = before.clone();
        api::patch::merge(&mut after, status);
        let same = *before == after || (before.is_null() && after == json!({}));
        if !same {
            self.writes.push(Write::PatchStatus { key, patch: json!({ "status": status }) });
        }
    }

    /// Asks for the end of an object, unless it is ending or asked for already.
    pub(super) fn delete(&mut self, key: Key, object: &Object) {
        let asked = |write: &Write| matches!(write, Write::Delete { key: other, .. } if *other == key);
        if !object.is_deleting() && !self.writes.iter().any(asked) {
            self.writes.push(Write::Delete { key, now: false });
        }
    }

    /// Tells what was done about an object.
    pub(super) fn event(&mut self, about: &Object, reason: &str, message: &str) {
        let what = Happening { kind: "Normal", reason, message };
        // Each at a moment of its own, however many one look tells.
        let nanoseconds = i64::try_from(self.writes.len()).unwrap_or(0);
        let now = self.context.now.saturating_add(SignedDuration::from_nanos(nanoseconds)).unwrap_or(self.context.now);
        let before = events::same(self.objects, about, what, SOURCE);
        self.writes.extend(events::telling(about, what, SOURCE, now, before));
    }

    /// Random letters for the end of a name.
    pub(super) fn suffix(&mut self) -> String {
        letters(self.next_random(), SUFFIX_LETTERS)
    }

    /// splitmix64: every call gives another number of the sequence that the seed begins.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A number as letters that suit names.
pub(super) fn letters(mut number: u64, count: usize) -> String {
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        let at = usize::try_from(number % 27).unwrap_or(0);
        text.push(char::from(LETTERS.get(at).copied().unwrap_or(b'b')));
        number /= 27;
    }
    text
}

/// A hash of a JSON value that the order of keys and explicit nulls do not change (FNV-1a, 64 bits).
pub(crate) fn hash(value: &Value) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325;
    feed(&mut state, value);
    state
}

fn feed(state: &mut u64, value: &Value) {
    let mut bytes = |bytes: &[u8]| {
        for byte in bytes {
            *state = (*state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match value {
        Value::Array(items) => {
            bytes(b"[");
            for item in items {
                feed(state, item);
                feed(state, &Value::Null);
            }
        }
        Value::Object(fields) => {
            bytes(b"{");
            let mut sorted: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            sorted.sort_by_key(|(key, _)| *key);
            for (key, value) in sorted {
                feed(state, &Value::from(key.as_str()));
                feed(state, value);
            }
        }
        leaf => bytes(format!("{leaf};").as_bytes()),
    }
}

/// The key of a namespaced object.
pub(super) fn key(group: &str, plural: &str, object: &Object) -> Key {
    Key::namespaced(group, plural, object.namespace().unwrap_or_default(), object.name())
}

/// An `ownerReferences` list that names `owner` as the controller.
pub(super) fn owned_by(owner: &Object) -> Value {
    json!([{
        "apiVersion": owner.api_version(), "kind": owner.kind(), "name": owner.name(), "uid": owner.uid(),
        "controller": true, "blockOwnerDeletion": true,
    }])
}

/// Whether `owner` is the controller of `object`.
pub(super) fn controls(owner: &Object, object: &Object) -> bool {
    object.controller().is_some_and(|controller| controller.uid == owner.uid())
}

/// A list of conditions with `wanted` in it. Times stay those of the old one as far as it says the same.
pub(super) fn with_condition(conditions: &mut Vec<Value>, wanted: &Value, now: &str) {
    let field = |condition: &Value, name: &str| condition.get(name).cloned().unwrap_or_default();
    let same =
        |condition: &Value, names: &[&str]| names.iter().all(|name| field(condition, name) == field(wanted, name));
    let place = conditions.iter().position(|condition| same(condition, &["type"]));
    let old = place.and_then(|at| conditions.get(at)).cloned();
    let mut new = wanted.clone();
    let mut stamp = |name: &str, keep: bool| {
        let kept = old.as_ref().filter(|_| keep).map(|old| field(old, name)).filter(Value::is_string);
        if let Some(fields) = new.as_object_mut() {
            fields.insert(name.to_owned(), kept.unwrap_or_else(|| Value::from(now)));
        }
    };
    let agrees = |names: &[&str]| old.as_ref().is_some_and(|old| same(old, names));
    stamp("lastUpdateTime", agrees(&["status", "reason", "message"]));
    stamp("lastTransitionTime", agrees(&["status"]));
    match place.and_then(|at| conditions.get_mut(at)) {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
}

/// Whether the pod's condition `Ready` holds.
pub(super) fn is_ready(pod: &Object) -> bool {
    pod.items_at("/status/conditions").iter().any(|condition| {
        let text = |name: &str| condition.get(name).and_then(Value::as_str);
        text("type") == Some("Ready") && text("status") == Some("True")
    })
}

/// Whether the pod has run to its end.
pub(super) fn is_over(pod: &Object) -> bool {
    matches!(pod.str_at("/status/phase"), "Succeeded" | "Failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_template_is_that_of_its_meaning() {
        let one = json!({"a": {"x": 1, "y": [1, 2]}, "b": null});
        assert_eq!(hash(&one), hash(&json!({"a": {"y": [1, 2], "x": 1}})));
        for other in [json!({"a": {"x": 1, "y": [2, 1]}}), json!({"a": {"x": "1", "y": [1, 2]}}), json!({})] {
            assert_ne!(hash(&one), hash(&other), "{other}");
        }
        assert_ne!(hash(&json!([[1], 2])), hash(&json!([[1, 2]])));
    }

    #[test]
    fn a_condition_keeps_its_times_while_it_says_the_same() {
        let condition = |status: &str, reason: &str| json!({"type": "Available", "status": status, "reason": reason});
        let mut list = Vec::new();
        with_condition(&mut list, &condition("True", "A"), "t1");
        with_condition(&mut list, &condition("True", "A"), "t2");
        assert_eq!((list.len(), &list[0]["lastUpdateTime"]), (1, &json!("t1")));
        with_condition(&mut list, &condition("True", "B"), "t3");
        assert_eq!((&list[0]["lastUpdateTime"], &list[0]["lastTransitionTime"]), (&json!("t3"), &json!("t1")));
        with_condition(&mut list, &condition("False", "B"), "t4");
        assert_eq!(list[0]["lastTransitionTime"], json!("t4"));
    }
}
