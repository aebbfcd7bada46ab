//! A policy as read, printed as a document: what was read is all that was written, but for what targets name.

use policy::AuthorizationPolicy;
use policy::spec::{Entry, Match, Scope, Values};
use serde_json::{Map, Value, json};

pub(crate) fn policy(policy: &AuthorizationPolicy) -> Value {
    let mut spec = json!({"action": policy.action.word()});
    match &policy.scope {
        Scope::All => {}
        Scope::Labels(labels) => spec["selector"] = json!({"matchLabels": labels}),
        Scope::Targets => spec["targetRefs"] = json!([{"kind": "Service", "name": "x"}]),
    }
    if let Some(provider) = &policy.provider {
        spec["provider"] = json!({"name": provider});
    }
    let entries = |entries: &[Entry], inner: &str| -> Value {
        entries
            .iter()
            .map(|entry| if inner.is_empty() { condition(entry) } else { json!({inner: fields(entry)}) })
            .collect()
    };
    let rules = policy.rules.iter().map(|rule| {
        json!({
            "from": entries(&rule.from, "source"),
            "to": entries(&rule.to, "operation"),
            "when": entries(&rule.when, ""),
        })
    });
    spec["rules"] = rules.collect();
    let mut metadata = json!({"name": policy.id.name, "namespace": policy.id.namespace});
    if policy.trial {
        metadata["annotations"] = json!({"istio.io/dry-run": "true"});
    }
    json!({"metadata": metadata, "spec": spec})
}

fn texts(values: Option<&Values>) -> Value {
    values.into_iter().flatten().map(|value| Value::from(value.text())).collect()
}

fn fields(entry: &Entry) -> Map<String, Value> {
    let mut fields = Map::new();
    for Match { written, wanted, unwanted, .. } in &entry.matches {
        let positive = written
            .strip_prefix("not")
            .map_or_else(|| written.to_string(), |rest| first(rest, char::to_ascii_lowercase));
        fields.insert(format!("not{}", first(&positive, char::to_ascii_uppercase)), texts(unwanted.as_ref()));
        fields.insert(positive, texts(wanted.as_ref()));
    }
    fields
}

fn first(text: &str, case: fn(&char) -> char) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| case(&letter));
    first.into_iter().chain(letters).collect()
}

fn condition(entry: &Entry) -> Value {
    entry.matches.first().map_or_else(
        || json!({"key": "source.ip"}), // bypassed admission without values
        |found| json!({"key": *found.written, "values": texts(found.wanted.as_ref()), "notValues": texts(found.unwanted.as_ref())}),
    )
}
