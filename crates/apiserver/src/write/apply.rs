//! Server-side apply: one writer's whole intent for an object, which is made if it is not there.

use api::{Object, Status, managed};

use super::create::create;
use super::update::change;
use super::{Claim, Manner, Target, meta, now, rules, shown};
use crate::store::{Stage, Written};

/// Merges what a writer wants into the stored object; fields of others are conflicts unless `force`.
pub(crate) fn apply(
    stage: &mut Stage<'_>,
    manner: &Manner,
    target: &Target,
    mut config: Object,
    force: bool,
) -> Result<Written, Status> {
    meta::fit(target, &mut config)?;
    if config.name() != target.key.name {
        let (found, wanted) = (config.name(), &target.key.name);
        return Err(Status::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({wanted})"
        )));
    }
    let spoken = target.kind.api_version(&target.version);
    let by = manner.writer(&spoken).ok_or_else(|| Status::internal("an apply without a writer, which is a bug"))?;
    let old = stage.get(&target.key).cloned();
    if old.is_none() && target.subresource.is_some() {
        return Err(Status::not_found(&target.key));
    }
    let stored = old.as_ref().map(|old| shown(target, old));
    let object = managed::apply(rules::schema(target).as_deref(), stored.as_deref(), &config, &by, force, &now())?;
    let made = Manner { claim: Claim::Made, ..manner.clone() };
    match old {
        Some(old) => change(stage, &made, target, &old, object),
        None => create(stage, &made, target, object),
    }
}
