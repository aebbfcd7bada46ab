//! What objects of a kind must look like: unknown fields, defaults, shape and names. The rules themselves are the object model's.

use std::sync::Arc;

use api::kinds::{CRD_GROUP, CRD_PLURAL};
use api::schema::{Schema, unknown_fields};
use api::{Cause, Key, Kind, Kinds, Object, Status, defaults, validate};
use serde_json::Value;

use super::{Manner, Target, UnknownFields};

/// Looks for fields that the kind does not have, and takes them out.
pub(super) fn check_fields(
    manner: &Manner,
    target: &Target,
    object: &mut Object,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let Some(schema) = schema(target) else {
        return Ok(());
    };
    let removed = change(object, |value| schema.prune(value))?;
    if removed.is_empty() {
        return Ok(());
    }
    match manner.unknown_fields {
        UnknownFields::Refuse => {
            Err(Status::strict_decoding(&target.kind.kind, &target.version, &unknown_fields(&removed)))
        }
        UnknownFields::Warn => {
            warnings.extend(unknown_fields(&removed));
            Ok(())
        }
        UnknownFields::Drop => Ok(()),
    }
}

/// Fills in what the client may leave out.
pub(super) fn fill_in(target: &Target, object: &mut Object) -> Result<(), Status> {
    defaults::apply(object);
    match schema(target) {
        Some(schema) => change(object, |value| schema.default(value)),
        None => Ok(()),
    }
}

/// Checks the whole object before it is stored.
pub(super) fn check(target: &Target, kinds: &Kinds, old: Option<&Object>, object: &Object) -> Result<(), Status> {
    validate::validate(&target.kind, object, old)?;
    if is_definition(&target.key) && old.is_none() { check_claims(kinds, object) } else { Ok(()) }
}

/// Whether the key is that of a definition of further kinds.
pub(super) fn is_definition(key: &Key) -> bool {
    key.is(CRD_GROUP, CRD_PLURAL)
}

pub(super) fn schema(target: &Target) -> Option<Arc<Schema>> {
    target.kind.version(&target.version)?.schema.clone()
}

fn change<T>(object: &mut Object, change: impl FnOnce(&mut Value) -> T) -> Result<T, Status> {
    let mut value = std::mem::replace(object, Object::named("", "", None, "")).into_value();
    let result = change(&mut value);
    *object = Object::new(value)?;
    Ok(result)
}

/// A definition must not claim what is served already.
fn check_claims(kinds: &Kinds, definition: &Object) -> Result<(), Status> {
    let kind = Kind::from_crd(definition)?;
    let claimed = |field: &str, name: &str| {
        let cause = Cause::duplicate(field, &Value::from(name));
        Err(Status::invalid(CRD_GROUP, "CustomResourceDefinition", definition.name(), vec![cause]))
    };
    if kinds.by_resource(&kind.group, &kind.plural).is_some() {
        return claimed("spec.names.plural", &kind.plural);
    }
    if kinds.by_kind(&kind.group, &kind.kind).is_some() {
        return claimed("spec.names.kind", &kind.kind);
    }
    Ok(())
}
