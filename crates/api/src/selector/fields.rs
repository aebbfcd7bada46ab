//! Field selectors, such as `metadata.name=x,status.phase!=Running`.

use crate::kinds::Kind;
use crate::object::Object;
use crate::status::Status;

/// Conditions on fields, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

/// Fields that can be selected by, beyond name and namespace.
const FIELDS: &[(&str, &str, &[&str])] = &[
    (
        "",
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
    ),
    (
        "",
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
    ("", "namespaces", &["status.phase"]),
    ("", "nodes", &["spec.unschedulable"]),
    ("", "secrets", &["type"]),
    ("", "services", &["spec.clusterIP", "spec.type"]),
    ("apps", "replicasets", &["status.replicas"]),
];

impl FieldSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads the text form for a kind; 400 if it names a field that cannot be selected by.
    pub fn parse(selector: &str, kind: &Kind) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for term in split(selector) {
            let parsed = parse_term(&term).ok_or_else(|| {
                Status::bad_request(format!(
                    "invalid field selector `{selector}`: can't understand `{term}`; write field=value"
                ))
            })?;
            let known = ["metadata.name", "metadata.namespace"].contains(&parsed.field.as_str())
                || FIELDS.iter().any(|(group, plural, fields)| {
                    *group == kind.group && *plural == kind.plural && fields.contains(&parsed.field.as_str())
                });
            if !known {
                return Err(Status::bad_request(format!(
                    "Unable to find \"{}, Resource={}\" that match label selector \"\", field selector \"{selector}\": field label not supported: {}",
                    if kind.group.is_empty() {
                        format!("/{}", kind.storage())
                    } else {
                        kind.api_version(kind.storage())
                    },
                    kind.plural,
                    parsed.field
                )));
            }
            terms.push(parsed);
        }
        Ok(Self { terms })
    }

    /// Whether it has no condition.
    pub const fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object meets every condition; an absent field counts as empty.
    pub fn matches(&self, object: &Object) -> bool {
        self.terms.iter().all(|term| (shown(object, &term.field) == term.value) == term.equal)
    }

    /// The one name it asks for, if it does: then no list has to be walked.
    pub fn name(&self) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == "metadata.name").map(|term| term.value.as_str())
    }
}

fn shown(object: &Object, field: &str) -> String {
    // Events name their component inside `source`.
    let pointer =
        if field == "source" { "/source/component".to_owned() } else { format!("/{}", field.replace('.', "/")) };
    match object.at(&pointer) {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null if field == "spec.hostNetwork" || field == "spec.unschedulable" => "false".to_owned(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Splits at commas; a backslash keeps the next character from its meaning.
fn split(selector: &str) -> Vec<String> {
    let (mut terms, mut term, mut escaped) = (Vec::new(), String::new(), false);
    for character in selector.chars() {
        if character == ',' && !escaped {
            terms.push(std::mem::take(&mut term));
        } else {
            term.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    terms.push(term);
    terms.retain(|term| !term.is_empty());
    terms
}

fn parse_term(term: &str) -> Option<Term> {
    let (field, value, equal) = match term.split_once('=')? {
        (field, value) if field.ends_with('!') => (field.trim_end_matches('!'), value, false),
        (field, value) => (field, value.strip_prefix('=').unwrap_or(value), true),
    };
    if field.is_empty() {
        return None;
    }
    let (mut unescaped, mut escaped) = (String::new(), false);
    for character in value.chars() {
        match (escaped, character) {
            (false, '\\') => escaped = true,
            (false, '=') => return None,
            (true, '\\' | ',' | '=') | (false, _) => {
                unescaped.push(character);
                escaped = false;
            }
            (true, _) => return None,
        }
    }
    (!escaped).then(|| Term { field: field.to_owned(), value: unescaped, equal })
}

#[cfg(test)]
mod tests {
    use super::FieldSelector;
    use crate::kinds::Kinds;
    use crate::object::Object;
    use serde_json::json;

    #[test]
    fn selects_by_known_fields() {
        let kinds = Kinds::builtin();
        let pods = kinds.by_resource("", "pods").unwrap();
        let pod = Object::new(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "foo"},
            "spec": {"nodeName": "n,1"}, "status": {"phase": "Running"}}))
        .unwrap();
        for (selector, expected) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=foo", true),
            ("metadata.name=b", false),
            ("metadata.name!=b", true),
            ("status.phase!=Running", false),
            ("status.podIP=", true),
            ("spec.nodeName=n\\,1", true),
            ("spec.hostNetwork=false", true),
        ] {
            assert_eq!(FieldSelector::parse(selector, pods).unwrap().matches(&pod), expected, "{selector}");
        }
        assert_eq!(FieldSelector::parse("metadata.name=a", pods).unwrap().name(), Some("a"));
        assert_eq!(FieldSelector::parse("metadata.name!=a", pods).unwrap().name(), None);
        for wrong in
            ["metadata.name", "=a", "metadata.name=a=b", "metadata.name=a\\x", "spec.image=x", "metadata.name=a\\"]
        {
            assert_eq!(FieldSelector::parse(wrong, pods).unwrap_err().code(), 400, "{wrong}");
        }
    }

    #[test]
    fn events_are_found_by_what_they_are_about() {
        let kinds = Kinds::builtin();
        let events = kinds.by_resource("", "events").unwrap();
        let event = Object::new(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a", "namespace": "foo"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "foo", "uid": "1"}, "source": {"component": "kubelet"}}))
        .unwrap();
        let about = "involvedObject.name=p,involvedObject.namespace=foo,involvedObject.kind=Pod,involvedObject.uid=1";
        assert!(FieldSelector::parse(about, events).unwrap().matches(&event));
        assert!(FieldSelector::parse("source=kubelet", events).unwrap().matches(&event));
        assert!(!FieldSelector::parse("involvedObject.uid=2", events).unwrap().matches(&event));
        let config_maps = kinds.by_resource("", "configmaps").unwrap();
        let status = FieldSelector::parse("involvedObject.name=p", config_maps).unwrap_err();
        assert!(status.message().contains("field label not supported: involvedObject.name"));
    }
}
