//! What objects of a kind must look like: unknown fields, defaults, shape and names. The rules themselves are the object model's.

use std::sync::Arc;

use api::kinds::{CRD_GROUP, CRD_PLURAL};
use api::schema::{Schema, unknown_fields};
use api::{Cause, Key, Kind, Kinds, Object, Status, names};
use serde_json::{Value, json};

use super::{Manner, Target, UnknownFields, now};

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
pub(super) fn fill_in(target: &Target, old: Option<&Object>, object: &mut Object) -> Result<(), Status> {
    if let Some(schema) = schema(target) {
        change(object, |value| schema.default(value))?;
    }
    if is_definition(&target.key) && old.is_none() {
        establish(object);
    }
    Ok(())
}

/// Checks the whole object before it is stored.
pub(super) fn check(target: &Target, kinds: &Kinds, old: Option<&Object>, object: &Object) -> Result<(), Status> {
    let mut causes = names::metadata(&target.kind, object);
    if let Some(schema) = schema(target) {
        causes.extend(schema.validate(object.value()));
    }
    if !causes.is_empty() {
        return Err(Status::invalid(&target.kind.group, &target.kind.kind, object.name(), causes));
    }
    if is_definition(&target.key) { check_definition(kinds, old, object) } else { Ok(()) }
}

/// Whether the key is that of a definition of further kinds.
pub(super) fn is_definition(key: &Key) -> bool {
    key.is(CRD_GROUP, CRD_PLURAL)
}

fn schema(target: &Target) -> Option<Arc<Schema>> {
    let Kind { builtin, kind, .. } = target.kind.as_ref();
    if *builtin {
        Schema::builtin(&target.kind.api_version(&target.version), kind)
    } else {
        target.kind.version(&target.version)?.schema.clone()
    }
}

fn change<T>(object: &mut Object, change: impl FnOnce(&mut Value) -> T) -> Result<T, Status> {
    let mut value = std::mem::replace(object, Object::named("", "", None, "")).into_value();
    let result = change(&mut value);
    *object = Object::new(value)?;
    Ok(result)
}

/// A definition must be one that can be served, and must not claim what is served already.
fn check_definition(kinds: &Kinds, old: Option<&Object>, definition: &Object) -> Result<(), Status> {
    let kind = Kind::from_crd(definition)?;
    if old.is_some() {
        return Ok(());
    }
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

/// The status of a definition, whose kind is served as soon as it is stored.
fn establish(definition: &mut Object) {
    let condition = |name: &str, reason: &str, message: &str| json!({"type": name, "status": "True", "lastTransitionTime": now(), "reason": reason, "message": message});
    let versions: Vec<&Value> = definition
        .items_at("/spec/versions")
        .iter()
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
        .filter_map(|version| version.get("name"))
        .collect();
    let status = json!({
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "acceptedNames": definition.at("/spec/names"),
        "storedVersions": versions,
    });
    definition.set("/status", status);
}
