//! Names, labels and the rest of `metadata`: which are valid, with the texts of the real server.

use serde_json::Value;

use crate::kinds::Kind;
use crate::object::{Object, text};
use crate::status::Cause;

/// Longest DNS label (RFC 1123).
const LABEL_BYTES_MAX: usize = 63;
/// Longest DNS subdomain (RFC 1123).
const SUBDOMAIN_BYTES_MAX: usize = 253;
/// Most bytes of all annotations of one object, the real server's bound.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What is wrong with a DNS label, if anything.
pub fn label(name: &str) -> Option<String> {
    too_long(name, LABEL_BYTES_MAX).or_else(|| (!is_label(name)).then(|| LABEL.to_owned()))
}

/// What is wrong with a DNS label that must start with a letter, if anything.
pub fn label_1035(name: &str) -> Option<String> {
    let letter = name.starts_with(|first: char| first.is_ascii_lowercase());
    too_long(name, LABEL_BYTES_MAX).or_else(|| (!letter || !is_label(name)).then(|| LABEL_1035.to_owned()))
}

/// What is wrong with a DNS subdomain, if anything.
pub fn subdomain(name: &str) -> Option<String> {
    too_long(name, SUBDOMAIN_BYTES_MAX).or_else(|| (!name.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned()))
}

/// What is wrong with the key of a label or annotation, if anything.
pub fn qualified(name: &str) -> Option<String> {
    let local = match name.split_once('/') {
        None => name,
        Some((prefix, local)) => {
            if prefix.is_empty() {
                return Some("prefix part must be non-empty".to_owned());
            }
            if let Some(wrong) = subdomain(prefix) {
                return Some(format!("prefix part {wrong}"));
            }
            local
        }
    };
    if local.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if local.len() > LABEL_BYTES_MAX {
        return Some(format!("name part must be no more than {LABEL_BYTES_MAX} characters"));
    }
    (!is_word(local)).then(|| QUALIFIED.to_owned())
}

/// What is wrong with the value of a label, if anything.
pub fn label_value(value: &str) -> Option<String> {
    too_long(value, LABEL_BYTES_MAX).or_else(|| (!value.is_empty() && !is_word(value)).then(|| LABEL_VALUE.to_owned()))
}

/// Everything that is wrong with the `metadata` of an object of a kind.
pub fn metadata(kind: &Kind, object: &Object) -> Vec<Cause> {
    let mut causes = Vec::new();
    let rule: fn(&str) -> Option<String> = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "namespaces") => label,
        ("", "services") => label_1035,
        _ => subdomain,
    };
    let generate = object.str_at("/metadata/generateName");
    if object.name().is_empty() {
        if generate.is_empty() {
            causes.push(Cause::required("metadata.name", "name or generateName is required"));
        } else if let Some(wrong) = rule(&format!("{generate}a")) {
            causes.push(Cause::invalid("metadata.generateName", &Value::from(generate), &wrong));
        }
    } else if let Some(wrong) = rule(object.name()) {
        causes.push(Cause::invalid("metadata.name", &Value::from(object.name()), &wrong));
    }
    match (kind.namespaced, object.namespace()) {
        (true, None) => causes.push(Cause::required("metadata.namespace", "")),
        (true, Some(namespace)) => {
            if let Some(wrong) = label(namespace) {
                causes.push(Cause::invalid("metadata.namespace", &Value::from(namespace), &wrong));
            }
        }
        (false, None) => {}
        (false, Some(_)) => causes.push(Cause::forbidden("metadata.namespace", "not allowed on this type")),
    }
    labels("metadata.labels", object.at("/metadata/labels"), &mut causes);
    annotations(object, &mut causes);
    owners(object, &mut causes);
    for (index, finalizer) in object.finalizers().enumerate() {
        if let Some(wrong) = qualified(finalizer) {
            causes.push(Cause::invalid(&format!("metadata.finalizers[{index}]"), &Value::from(finalizer), &wrong));
        }
    }
    causes
}

/// Everything that is wrong with a mapping of labels at a field.
pub fn labels(field: &str, labels: &Value, causes: &mut Vec<Cause>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if let Some(wrong) = qualified(key) {
            causes.push(Cause::invalid(field, &Value::from(key.as_str()), &wrong));
        }
        if let Some(wrong) = value.as_str().and_then(label_value) {
            causes.push(Cause::invalid(field, value, &wrong));
        }
    }
}

fn annotations(object: &Object, causes: &mut Vec<Cause>) {
    let mut bytes = 0_usize;
    for (key, value) in object.annotations() {
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
        // The real server compares annotation keys in lower case: upper case is allowed in prefixes.
        if let Some(wrong) = qualified(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &Value::from(key), &wrong));
        }
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX as u64));
    }
}

fn owners(object: &Object, causes: &mut Vec<Cause>) {
    let mut controllers = 0;
    for (index, owner) in object.items_at("/metadata/ownerReferences").iter().enumerate() {
        for (name, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, name).is_empty() {
                let field = format!("metadata.ownerReferences[{index}].{name}");
                causes.push(Cause::invalid(&field, &Value::from(""), detail));
            }
        }
        controllers += usize::from(owner.get("controller").and_then(Value::as_bool).unwrap_or(false));
    }
    if controllers > 1 {
        let detail = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", object.at("/metadata/ownerReferences"), detail));
    }
}

fn too_long(name: &str, bytes: usize) -> Option<String> {
    (name.len() > bytes).then(|| format!("must be no more than {bytes} characters"))
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    framed(name, inner, |byte| inner(byte) || byte == b'-')
}

fn is_word(name: &str) -> bool {
    framed(name, |byte| byte.is_ascii_alphanumeric(), |byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn framed(name: &str, ends: impl Fn(u8) -> bool, all: impl Fn(u8) -> bool) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|&byte| ends(byte))
        && bytes.last().is_some_and(|&byte| ends(byte))
        && bytes.iter().all(|&byte| all(byte))
}

#[cfg(test)]
mod tests {
    use super::{label, label_1035, label_value, metadata, qualified, subdomain};
    use crate::kinds::Kinds;
    use crate::object::Object;
    use serde_json::{Value, json};

    #[test]
    fn names_are_judged_as_dns_does() {
        let long = "a".repeat(64);
        for (name, is_label, is_1035, is_subdomain) in [
            ("foo", true, true, true),
            ("1foo", true, false, true),
            ("foo-1", true, true, true),
            ("foo.bar", false, false, true),
            ("foo..bar", false, false, false),
            (".foo", false, false, false),
            ("-foo", false, false, false),
            ("foo-", false, false, false),
            ("Foo", false, false, false),
            ("f\u{f6}\u{f6}", false, false, false),
            ("foo\n", false, false, false),
            ("", false, false, false),
            (long.as_str(), false, false, true),
        ] {
            assert_eq!(label(name).is_none(), is_label, "label {name}");
            assert_eq!(label_1035(name).is_none(), is_1035, "1035 {name}");
            assert_eq!(subdomain(name).is_none(), is_subdomain, "subdomain {name}");
        }
        assert!(subdomain(&["a"; 128].join(".")).is_some(), "255 bytes");
    }

    #[test]
    fn label_keys_and_values() {
        for good in ["app", "a.b/c", "App_1.x", "istio.io/dry-run"] {
            assert_eq!(qualified(good), None, "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.B/c", "-a", "a-", "a b"] {
            assert!(qualified(bad).is_some(), "{bad}");
        }
        assert_eq!((label_value(""), label_value("v1.2_x")), (None, None));
        for bad in ["*", "a/b", "-a", "a b"] {
            assert!(label_value(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn metadata_names_every_wrong_field() {
        let kinds = Kinds::builtin();
        let pod = kinds.by_resource("", "pods").unwrap();
        let fields = |metadata: Value| {
            let object = Object::new(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})).unwrap();
            super::metadata(pod, &object).into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(json!({"name": "a", "namespace": "b", "labels": {"app": "x"}})), Vec::<String>::new());
        assert_eq!(fields(json!({"generateName": "a-", "namespace": "b"})), Vec::<String>::new());
        assert_eq!(fields(json!({})), vec!["metadata.name", "metadata.namespace"]);
        assert_eq!(fields(json!({"generateName": "A-", "namespace": "b"})), vec!["metadata.generateName"]);
        assert_eq!(
            fields(json!({"name": "A", "namespace": "b.c", "labels": {"a b": "*"}, "annotations": {"": "x"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a"}], "finalizers": ["-"]})),
            vec![
                "metadata.name",
                "metadata.namespace",
                "metadata.labels",
                "metadata.labels",
                "metadata.annotations",
                "metadata.ownerReferences[0].uid",
                "metadata.finalizers[0]"
            ]
        );
        let namespace = kinds.by_resource("", "namespaces").unwrap();
        let object = Object::named("v1", "Namespace", Some("x"), "a.b");
        assert_eq!(metadata(namespace, &object).len(), 2);
    }
}
