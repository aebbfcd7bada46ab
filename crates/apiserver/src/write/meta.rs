//! Metadata that only the server writes, and how a body has to fit the path it is sent to.

use api::{Kind, Object, Status};
use serde_json::Value;

use super::Target;

/// Letters of generated names: no vowels, so no words, and nothing that looks like something else.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Random letters of a generated name, as Kubernetes has it.
const NAME_SUFFIX_LETTERS: usize = 5;
/// The part of a generated name that the client gives is cut so that all of it stays within a label.
const NAME_PREFIX_LETTERS_MAX: usize = 58;

/// Fields of `metadata` that an update takes over from the stored object.
const KEPT: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName", "generation"];

/// Checks that kind, version and namespace of a body fit the path, and fills in what is left out.
pub(super) fn fit(target: &Target, object: &mut Object) -> Result<(), Status> {
    let expected = target.kind.api_version(&target.version);
    if object.api_version().is_empty() && object.kind().is_empty() {
        object.set("/apiVersion", expected.as_str());
        object.set("/kind", target.kind.kind.as_str());
    }
    if object.api_version() != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({expected})",
            object.api_version()
        )));
    }
    if object.kind() != target.kind.kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({}) does not match the expected kind ({})",
            object.kind(),
            target.kind.kind
        )));
    }
    match (object.namespace(), target.key.namespace.as_deref()) {
        (Some(given), Some(wanted)) if given != wanted => {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        (_, None) => {
            object.remove("/metadata/namespace");
        }
        (_, Some(wanted)) => object.set("/metadata/namespace", wanted),
    }
    Ok(())
}

/// Gives a new object its name if the client asks for one, and what only the server writes.
pub(super) fn birth(object: &mut Object, kind: &Kind) -> Result<(), Status> {
    for pointer in [
        "/metadata/resourceVersion",
        "/metadata/selfLink",
        "/metadata/deletionTimestamp",
        "/metadata/deletionGracePeriodSeconds",
    ] {
        object.remove(pointer);
    }
    if object.name().is_empty() && !object.str_at("/metadata/generateName").is_empty() {
        let prefix: String = object.str_at("/metadata/generateName").chars().take(NAME_PREFIX_LETTERS_MAX).collect();
        object.set("/metadata/name", format!("{prefix}{}", name_suffix()?));
    }
    object.set("/metadata/uid", uid()?);
    object.set("/metadata/creationTimestamp", super::now());
    if has_generation(kind) {
        object.set("/metadata/generation", 1);
    } else {
        object.remove("/metadata/generation");
    }
    Ok(())
}

/// Takes over from the stored object what an update cannot change.
pub(super) fn keep(new: &mut Object, old: &Object) {
    for name in KEPT {
        take_over(new, old, &format!("/metadata/{name}"));
    }
    new.remove("/metadata/selfLink");
}

/// Makes a field what it is in the stored object.
pub(super) fn take_over(new: &mut Object, old: &Object, pointer: &str) {
    match old.at(pointer) {
        Value::Null => {
            new.remove(pointer);
        }
        value => new.set(pointer, value.clone()),
    }
}

/// Counts the generation up if anything but metadata and status changed.
pub(super) fn count_generation(new: &mut Object, old: &Object, kind: &Kind) {
    let differs = |a: &Object, b: &Object| {
        let wishes =
            |(name, _): &(&String, &Value)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status");
        a.fields().iter().filter(wishes).any(|(name, value)| b.fields().get(name) != Some(value))
    };
    if has_generation(kind) && (differs(new, old) || differs(old, new)) {
        new.set("/metadata/generation", old.generation() + 1);
    }
}

/// Whether an update would change nothing.
pub(super) fn same(new: &Object, old: &Object) -> bool {
    let differs =
        |(name, value): (&String, &Value)| name != "resourceVersion" && old.at("/metadata").get(name) != Some(value);
    let empty = serde_json::Map::new();
    let count = |object: &Object| {
        object
            .at("/metadata")
            .as_object()
            .map_or(0, |metadata| metadata.keys().filter(|name| *name != "resourceVersion").count())
    };
    let metadata = new.at("/metadata").as_object().unwrap_or(&empty);
    count(new) == count(old)
        && !metadata.iter().any(differs)
        && new.fields().len() == old.fields().len()
        && new.fields().iter().all(|(name, value)| name == "metadata" || old.fields().get(name) == Some(value))
}

fn has_generation(kind: &Kind) -> bool {
    !kind.builtin
        || matches!(kind.group.as_str(), "apps" | "batch" | "apiextensions.k8s.io" | "networking.k8s.io")
        || kind.plural == "pods"
}

fn random<const N: usize>() -> Result<[u8; N], Status> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Status::internal("the system gives no random bytes"))?;
    Ok(bytes)
}

fn name_suffix() -> Result<String, Status> {
    let letters = random::<NAME_SUFFIX_LETTERS>()?;
    Ok(letters
        .iter()
        .filter_map(|byte| NAME_LETTERS.get(usize::from(*byte) % NAME_LETTERS.len()))
        .map(|byte| char::from(*byte))
        .collect())
}

/// A random UUID.
fn uid() -> Result<String, Status> {
    let bits = u128::from_be_bytes(random()?) & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let mut uid = String::with_capacity(36);
    for (at, letter) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            uid.push('-');
        }
        uid.push(letter);
    }
    Ok(uid)
}

#[cfg(test)]
mod tests {
    use super::{same, uid};
    use api::Object;
    use serde_json::json;

    #[test]
    fn uids_are_random_and_of_version_4() {
        let (a, b) = (uid().unwrap(), uid().unwrap());
        assert_ne!(a, b);
        for uid in [a, b] {
            assert_eq!(uid.len(), 36);
            assert_eq!(uid.as_bytes()[14], b'4');
            assert!(b"89ab".contains(&uid.as_bytes()[19]), "{uid}");
        }
    }

    #[test]
    fn sameness_looks_past_the_resource_version_only() {
        let object = |value| Object::new(value).unwrap();
        let old = object(json!({"metadata": {"name": "a", "resourceVersion": "1"}, "data": {"x": "1"}}));
        for (new, expected) in [
            (json!({"data": {"x": "1"}, "metadata": {"resourceVersion": "2", "name": "a"}}), true),
            (json!({"data": {"x": "1"}, "metadata": {"name": "a"}}), true),
            (json!({"data": {"x": "2"}, "metadata": {"name": "a"}}), false),
            (json!({"data": {"x": "1"}, "metadata": {"name": "a", "labels": {"b": "c"}}}), false),
            (json!({"data": {"x": "1"}, "more": 1, "metadata": {"name": "a"}}), false),
            (json!({"metadata": {"name": "a"}}), false),
            (json!({"data": {"x": "1"}, "metadata": {}}), false),
        ] {
            assert_eq!(same(&object(new.clone()), &old), expected, "{new}");
        }
    }
}
