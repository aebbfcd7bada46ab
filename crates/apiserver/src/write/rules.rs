//! What objects of a kind must look like: unknown fields, defaults, schema and names. The rules themselves are the object model's.

use api::{Object, Status, names};

use super::{Manner, Target};

#[expect(clippy::unnecessary_wraps, reason = "the object model's schemas will refuse")]
/// Looks for fields that the kind does not have, and takes them out.
pub(super) fn check_fields(
    _manner: &Manner,
    _target: &Target,
    _object: &mut Object,
    _warnings: &mut Vec<String>,
) -> Result<(), Status> {
    Ok(())
}

/// Fills in what the client may leave out.
pub(super) fn fill_in(_target: &Target, _old: Option<&Object>, _object: &mut Object) {}

/// Checks the whole object before it is stored.
pub(super) fn check(target: &Target, _old: Option<&Object>, object: &Object) -> Result<(), Status> {
    let causes = names::metadata(&target.kind, object);
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(&target.kind.group, &target.kind.kind, object.name(), causes))
    }
}
