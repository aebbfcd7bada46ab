//! Making objects.

use std::sync::Arc;

use api::admission::Operation;
use api::{Object, Status, defaults};

use super::{Manner, Target, meta, namespaces, rules, written};
use crate::store::{Stage, Written};

/// Stores a new object; the target has no name, the object has one or asks for one.
pub(crate) fn create(
    stage: &mut Stage<'_>,
    manner: &Manner,
    target: &Target,
    mut object: Object,
) -> Result<Written, Status> {
    let mut warnings = Vec::new();
    meta::fit(target, &mut object)?;
    rules::check_fields(manner, target, &mut object, &mut warnings)?;
    meta::birth(&mut object, &target.kind)?;
    if !manner.system && target.kind.has_status(&target.version) && target.key.plural != "nodes" {
        object.remove("/status");
    }
    let spoken = target.kind.api_version(&target.version);
    let mut object = target.kind.convert(&object, target.kind.storage());
    let key = target.kind.key(target.key.namespace.as_deref(), object.name());
    let target = Target { key, version: target.kind.storage().to_owned(), ..target.clone() };
    namespaces::check_open(stage, &target.key)?;
    if namespaces::is_namespace(&target.key) {
        namespaces::keep_label(&mut object);
    }
    if stage.get(&target.key).is_some() {
        return Err(Status::already_exists(&target.key));
    }
    rules::fill_in(&target, &mut object)?;
    manner.note(&target, &spoken, None, &mut object)?;
    defaults::on_create(&mut object);
    let mut object = manner.admit(stage, &target, Operation::Create, None, object, &mut warnings)?;
    rules::fill_in(&target, &mut object)?;
    rules::check(&target, &manner.kinds(stage), None, &object)?;
    if manner.dry_run {
        return Ok(Written { created: true, ..written(manner, stage, Arc::new(object), warnings) });
    }
    let object = stage.put(&target.key, object);
    Ok(Written { created: true, ..written(manner, stage, object, warnings) })
}
