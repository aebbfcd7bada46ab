//! Removing objects: at once, after a grace period, or when nothing holds them any more; and what hangs on them.

use std::collections::HashSet;
use std::sync::Arc;

use api::{Key, Object, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Manner, Target, namespaces, now, rules, shown, written};
use crate::resource::Selection;
use crate::store::{Stage, Written};

/// The finalizer of an object that waits for those that it owns.
const FOREGROUND: &str = "foregroundDeletion";
/// Seconds that a pod has to end if its spec does not say.
const GRACE_SECONDS: i64 = 30;
/// How deep a foreground deletion follows owners: deployment, replica set, pod, and room; also ends circles.
const OWNER_DEPTH_MAX: usize = 8;

/// What happens to the objects that name a removed one as their owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// A controller removes them afterwards.
    #[default]
    Background,
    /// They go first.
    Foreground,
    /// They stay, and have no such owner any more.
    Orphan,
}

/// How to remove an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) propagation: Propagation,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<u64>,
}

/// Removes an object, or begins to.
pub(crate) fn delete(
    stage: &mut Stage<'_>,
    manner: &Manner,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Written, Status> {
    let old = stage.get(&target.key).cloned().ok_or_else(|| Status::not_found(&target.key))?;
    check_preconditions(target, &old, options)?;
    let mut warnings = Vec::new();
    manner.admit_delete(stage, target, &old, &mut warnings)?;
    if namespaces::is_namespace(&target.key) {
        return delete_namespace(stage, manner, target, old, options, warnings);
    }
    if manner.dry_run {
        return Ok(written(manner, stage, old, warnings));
    }
    if options.propagation == Propagation::Orphan {
        orphan(stage, &old);
    }
    let holds = options.propagation == Propagation::Foreground && has_dependents(stage, &old);
    if holds {
        for (key, dependent) in below(stage, &old) {
            remove_tree(stage, &key, &dependent, OWNER_DEPTH_MAX);
        }
    }
    let holds = holds && has_dependents(stage, &old);
    let grace = grace_seconds(&target.key, &old, options.grace_seconds);
    let object = mark(stage, &target.key, old, grace, holds);
    if stage.get(&target.key).is_some() {
        return Ok(written(manner, stage, object, warnings));
    }
    Ok(Written { removed: true, ..written(manner, stage, last(stage, &object), warnings) })
}

/// What a removed object was, under the revision at which it went.
fn last(stage: &Stage<'_>, object: &Object) -> Arc<Object> {
    let mut object = object.clone();
    object.set("/metadata/resourceVersion", stage.revision().to_string());
    Arc::new(object)
}

/// Removes every selected object in one go; the answer is a list of what they were. `target` names none of them.
pub(crate) fn delete_selected(
    stage: &mut Stage<'_>,
    manner: &Manner,
    target: &Target,
    options: &DeleteOptions,
    selection: &Selection,
) -> Result<Written, Status> {
    let (mut items, mut warnings) = (Vec::new(), Vec::new());
    for object in selection.of_objects(stage.objects()) {
        let one = Target { key: target.kind.key(object.namespace(), object.name()), ..target.clone() };
        // One may have gone with another that owned it.
        if stage.get(&one.key).is_some() {
            let done = delete(stage, manner, &one, options)?;
            items.push(shown(target, &done.object).value().clone());
            warnings.extend(done.warnings);
        }
    }
    let list = Object::new(json!({
        "kind": target.kind.list_kind, "apiVersion": target.kind.api_version(&target.version),
        "metadata": {"resourceVersion": stage.revision().to_string()}, "items": items,
    }))?;
    Ok(written(manner, stage, Arc::new(list), warnings))
}

/// Removes an object that was only waiting for the change just made; true if it did.
pub(super) fn finish(stage: &mut Stage<'_>, key: &Key, object: &Object) -> bool {
    let held = object.finalizers().next().is_some()
        || object.at("/metadata/deletionGracePeriodSeconds").as_i64().unwrap_or(0) > 0
        || (namespaces::is_namespace(key) && !object.items_at("/spec/finalizers").is_empty());
    if !object.is_deleting() || held {
        return false;
    }
    remove(stage, key);
    true
}

/// Removes the object and then its owners that waited for nothing else.
fn remove(stage: &mut Stage<'_>, key: &Key) {
    let Some(old) = stage.get(key).cloned() else {
        return;
    };
    stage.remove(key);
    if rules::is_definition(key) {
        remove_defined(stage, &old);
    }
    for owner in old.owners() {
        let waiting = stage.objects().all().find(|(_, object)| object.uid() == owner.uid && object.is_deleting());
        let waiting = waiting.map(|(key, object)| (key, Arc::clone(object)));
        if let Some((owner_key, owner)) = waiting
            && owner.finalizers().any(|finalizer| finalizer == FOREGROUND)
            && !has_dependents(stage, &owner)
        {
            let mut owner = owner.as_ref().clone();
            set_finalizers(&mut owner, |finalizer| finalizer != FOREGROUND);
            let owner = stage.put(&owner_key, owner);
            finish(stage, &owner_key, &owner);
        }
    }
}

/// With a definition go all objects of its kind: nothing could show or remove them any more.
fn remove_defined(stage: &mut Stage<'_>, definition: &Object) {
    let (group, plural) = (definition.str_at("/spec/group"), definition.str_at("/spec/names/plural"));
    let keys: Vec<Key> = stage.objects().all().map(|(key, _)| key).filter(|key| key.is(group, plural)).collect();
    for key in keys {
        stage.remove(&key);
    }
}

fn remove_tree(stage: &mut Stage<'_>, key: &Key, object: &Arc<Object>, depth: usize) {
    if depth == 0 || stage.get(key).is_none() {
        return;
    }
    for (key, dependent) in below(stage, object) {
        remove_tree(stage, &key, &dependent, depth - 1);
    }
    let holds = has_dependents(stage, object);
    let grace = grace_seconds(key, object, None);
    mark(stage, key, Arc::clone(object), grace, holds);
}

/// Removes the object if nothing holds it, else marks it as being deleted.
fn mark(stage: &mut Stage<'_>, key: &Key, old: Arc<Object>, grace: i64, foreground: bool) -> Arc<Object> {
    if grace == 0 && !foreground && old.finalizers().next().is_none() {
        remove(stage, key);
        return old;
    }
    let before = old.at("/metadata/deletionGracePeriodSeconds").as_i64();
    let sooner = !old.is_deleting() || before.is_some_and(|before| grace < before);
    let adds = foreground && old.finalizers().all(|finalizer| finalizer != FOREGROUND);
    if !sooner && !adds {
        return old;
    }
    let mut object = old.as_ref().clone();
    if sooner {
        object.set("/metadata/deletionTimestamp", later(grace));
        object.set("/metadata/deletionGracePeriodSeconds", grace);
    }
    if adds {
        let mut finalizers = object.items_at("/metadata/finalizers").to_vec();
        finalizers.push(Value::from(FOREGROUND));
        object.set("/metadata/finalizers", finalizers);
    }
    stage.put(key, object)
}

fn later(seconds: i64) -> String {
    let time = Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    api::time::seconds(time)
}

/// Only pods get time to end, and only while something runs them.
fn grace_seconds(key: &Key, object: &Object, asked: Option<i64>) -> i64 {
    let over = matches!(object.str_at("/status/phase"), "Succeeded" | "Failed");
    if !key.is("", "pods") || over || object.str_at("/spec/nodeName").is_empty() {
        return 0;
    }
    let own = object.at("/spec/terminationGracePeriodSeconds").as_i64().unwrap_or(GRACE_SECONDS);
    asked.unwrap_or(own).max(0)
}

fn delete_namespace(
    stage: &mut Stage<'_>,
    manner: &Manner,
    target: &Target,
    old: Arc<Object>,
    options: &DeleteOptions,
    warnings: Vec<String>,
) -> Result<Written, Status> {
    if matches!(target.key.name.as_str(), "default" | "kube-node-lease" | "kube-system") {
        return Err(Status::forbidden(&target.key, "this namespace may not be deleted"));
    }
    let now_empty =
        options.grace_seconds == Some(0) && manner.system && namespaces::contents(stage, &target.key.name) == 0;
    if now_empty && old.finalizers().next().is_none() && !manner.dry_run {
        stage.remove(&target.key);
        return Ok(Written { removed: true, ..written(manner, stage, last(stage, &old), warnings) });
    }
    if old.is_deleting() {
        return Ok(written(manner, stage, old, warnings));
    }
    let mut object = old.as_ref().clone();
    object.set("/metadata/deletionTimestamp", now());
    object.set("/status/phase", "Terminating");
    if manner.dry_run {
        return Ok(written(manner, stage, Arc::new(object), warnings));
    }
    let object = stage.put(&target.key, object);
    let removed = finish(stage, &target.key, &object);
    Ok(Written { removed, ..written(manner, stage, object, warnings) })
}

fn check_preconditions(target: &Target, old: &Object, options: &DeleteOptions) -> Result<(), Status> {
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != old.uid()) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
        return Err(Status::conflict_because(&target.key, &why));
    }
    if let Some(revision) = options.revision.filter(|revision| *revision != old.revision()) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {}",
            old.revision()
        );
        return Err(Status::conflict_because(&target.key, &why));
    }
    Ok(())
}

fn dependents(stage: &Stage<'_>, owner: &Object) -> Vec<(Key, Arc<Object>)> {
    let hangs = |object: &Object| object.owners().any(|one| one.uid == owner.uid());
    stage.objects().all().filter(|(_, object)| hangs(object)).map(|(key, object)| (key, Arc::clone(object))).collect()
}

/// What hangs on the object and has to go before it. What the object hangs on itself, directly or around some corners, is
/// left out: each would wait for the other for ever.
fn below(stage: &Stage<'_>, owner: &Object) -> Vec<(Key, Arc<Object>)> {
    let mut dependents = dependents(stage, owner);
    if !dependents.is_empty() {
        let above = above(stage, owner);
        dependents.retain(|(_, dependent)| !above.contains(dependent.uid()));
    }
    dependents
}

fn has_dependents(stage: &Stage<'_>, owner: &Object) -> bool {
    !below(stage, owner).is_empty()
}

/// The uids of an object and of all that it hangs on.
fn above(stage: &Stage<'_>, object: &Object) -> HashSet<String> {
    let mut found = HashSet::from([object.uid().to_owned()]);
    let mut next: Vec<String> = object.owners().map(|owner| owner.uid.to_owned()).collect();
    while let Some(uid) = next.pop() {
        if !found.insert(uid.clone()) {
            continue;
        }
        let owner = stage.objects().all().find(|(_, one)| one.uid() == uid);
        next.extend(owner.into_iter().flat_map(|(_, one)| one.owners().map(|owner| owner.uid.to_owned())));
    }
    found
}

fn orphan(stage: &mut Stage<'_>, owner: &Object) {
    for (key, dependent) in dependents(stage, owner) {
        let mut dependent = dependent.as_ref().clone();
        let mut owners = dependent.items_at("/metadata/ownerReferences").to_vec();
        owners.retain(|one| one.get("uid").and_then(Value::as_str) != Some(owner.uid()));
        if owners.is_empty() {
            dependent.remove("/metadata/ownerReferences");
        } else {
            dependent.set("/metadata/ownerReferences", owners);
        }
        stage.put(&key, dependent);
    }
}

fn set_finalizers(object: &mut Object, keep: impl Fn(&str) -> bool) {
    let left: Vec<String> = object.finalizers().filter(|finalizer| keep(finalizer)).map(str::to_owned).collect();
    if left.is_empty() {
        object.remove("/metadata/finalizers");
    } else {
        object.set("/metadata/finalizers", json!(left));
    }
}
