//! Changing objects: whole or by patch, the object itself or one of its parts.

use std::sync::Arc;

use api::admission::Operation;
use api::{Cause, Object, Status};
use serde_json::json;

use super::{Claim, Manner, Target, delete, meta, namespaces, rules, shown, written};
use crate::store::{Stage, Written};

/// Puts `object` in place of the stored one, or its status in place of the stored status.
pub(crate) fn update(
    stage: &mut Stage<'_>,
    manner: &Manner,
    target: &Target,
    object: Object,
) -> Result<Written, Status> {
    let old = existing(stage, target)?;
    if !manner.system && !target.kind.builtin && object.revision() == 0 {
        let cause = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(Status::invalid(&target.kind.group, &target.kind.kind, &target.key.name, vec![cause]));
    }
    change(stage, manner, target, &old, object)
}

/// Changes the stored object by `alter`, which gets it in the version that the client speaks.
pub(crate) fn patch(
    stage: &mut Stage<'_>,
    manner: &Manner,
    target: &Target,
    alter: impl FnOnce(&Object) -> Result<Object, Status>,
) -> Result<Written, Status> {
    let old = existing(stage, target)?;
    let object = alter(&shown(target, &old))?;
    change(stage, manner, target, &old, object)
}

fn existing(stage: &Stage<'_>, target: &Target) -> Result<Arc<Object>, Status> {
    stage.get(&target.key).cloned().ok_or_else(|| Status::not_found(&target.key))
}

pub(super) fn change(
    stage: &mut Stage<'_>,
    manner: &Manner,
    target: &Target,
    old: &Arc<Object>,
    mut new: Object,
) -> Result<Written, Status> {
    let mut warnings = Vec::new();
    meta::fit(target, &mut new)?;
    if new.name() != target.key.name {
        let (found, wanted) = (new.name(), &target.key.name);
        return Err(Status::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({wanted})"
        )));
    }
    if new.revision() != 0 && new.revision() != old.revision() {
        return Err(Status::conflict(&target.key));
    }
    if !new.uid().is_empty() && new.uid() != old.uid() {
        let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", new.uid(), old.uid());
        return Err(Status::conflict_because(&target.key, &why));
    }
    rules::check_fields(manner, target, &mut new, &mut warnings)?;
    let spoken = target.kind.api_version(&target.version);
    let mut new = target.kind.convert(&new, target.kind.storage());
    let target = &Target { version: target.kind.storage().to_owned(), ..target.clone() };
    if target.subresource.as_deref() == Some("status") {
        let (status, noted) = (new.at("/status").clone(), new.at("/metadata/managedFields").clone());
        new = old.as_ref().clone();
        new.set("/status", status);
        if manner.claim == Claim::Made {
            new.set("/metadata/managedFields", noted);
        }
    } else if !manner.system && target.kind.has_status(&target.version) {
        meta::take_over(&mut new, old, "/status");
    }
    meta::keep(&mut new, old);
    if namespaces::is_namespace(&target.key) {
        namespaces::keep_label(&mut new);
        if target.subresource.as_deref() != Some("finalize") && !manner.system {
            meta::take_over(&mut new, old, "/spec");
        }
    }
    rules::fill_in(target, &mut new)?;
    manner.note(target, &spoken, Some(old), &mut new)?;
    let mut new = manner.admit(stage, target, Operation::Update, Some(old), new, &mut warnings)?;
    rules::fill_in(target, &mut new)?;
    rules::check(target, &manner.kinds(stage), Some(old), &new)?;
    if meta::same(&new, old) {
        // The answer still waits for whatever made the object what it is.
        return Ok(Written { revision: old.revision(), ..written(manner, stage, Arc::clone(old), warnings) });
    }
    meta::count_generation(&mut new, old, &target.kind);
    if manner.dry_run {
        return Ok(written(manner, stage, Arc::new(new), warnings));
    }
    let object = stage.put(&target.key, new);
    let removed = delete::finish(stage, &target.key, &object);
    Ok(Written { removed, ..written(manner, stage, object, warnings) })
}
