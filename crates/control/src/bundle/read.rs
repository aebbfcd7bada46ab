//! Documents to objects, and what is wrong with them. What depends on other documents is left to [`super::pieces`].

use std::ops::Range;

use api::yaml::{Document, Span};
use api::{Key, Object};
use serde_json::Value;

use super::{Fault, join};
use crate::inject::WORKLOADS;
use crate::mesh_config;
use crate::translate::{AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS, SECURITY_GROUP};

/// Lists in lists deeper than this are nobody's: kubectl makes them one deep.
const LISTS_DEEP_MAX: usize = 4;

/// A kind that is looked at: group, kind, plural, versions, whether it lives in namespaces.
type Known = (&'static str, &'static str, &'static str, &'static [&'static str], bool);

/// Besides those that make pods.
const KINDS: [Known; 6] = [
    ("", "Namespace", "namespaces", &["v1"], false),
    ("", "Service", "services", &["v1"], true),
    ("", "ServiceAccount", "serviceaccounts", &["v1"], true),
    ("", "ConfigMap", "configmaps", &["v1"], true),
    (SECURITY_GROUP, "AuthorizationPolicy", AUTHORIZATION_POLICIES, &["v1", "v1beta1"], true),
    (SECURITY_GROUP, "PeerAuthentication", PEER_AUTHENTICATIONS, &["v1", "v1beta1"], true),
];

/// What was found in a document.
#[derive(Debug)]
pub(super) enum Found {
    /// Something wrong.
    Problem {
        fault: Fault,
        span: Span,
        /// The other place, where two do not go together.
        other: Option<Span>,
        message: String,
    },
    /// An object.
    Object {
        key: Key,
        kind: &'static str,
        object: Object,
        /// Its path in the document.
        prefix: String,
    },
}

/// Everything in a document of a text.
pub(super) fn document(text: &str, document: &Document, namespace: &str) -> Vec<Found> {
    let mut reader = Reader { namespace, text, found: Vec::new() };
    reader.document(document);
    reader.found
}

struct Reader<'a> {
    namespace: &'a str,
    text: &'a str,
    found: Vec<Found>,
}

impl Reader<'_> {
    fn document(&mut self, document: &Document) {
        // What comes after a fatal problem follows from it.
        let first = document.problems.iter().position(|problem| problem.fatal).unwrap_or(document.problems.len());
        for problem in document.problems.iter().take(first + 1) {
            let fault = match (problem.fatal, &problem.other) {
                (true, _) => Fault::Syntax,
                (false, Some(_)) => Fault::DuplicateKey,
                (false, None) => Fault::Value,
            };
            let mut message = problem.message.clone();
            let written = self.text.get(document.range.clone()).unwrap_or_default();
            if problem.fatal && written.contains("{{") {
                message.push_str("; this looks like a template: render it first (`helm template .. | tidegate .. -`)");
            }
            let (span, other) = (problem.span.clone(), problem.other.clone());
            self.found.push(Found::Problem { fault, span, other, message });
        }
        if !document.is_empty() && document.fatal().is_none() {
            self.value(&document.value, String::new(), document, 0);
        }
    }

    /// An object, or a list of them.
    fn value(&mut self, value: &Value, prefix: String, document: &Document, deep: usize) {
        let word = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (word("apiVersion"), word("kind"));
        if kind.is_empty() || api_version.is_empty() {
            return self.no_kind(value, &prefix, document);
        }
        if kind.ends_with("List")
            && let Some(items) = value.get("items").and_then(Value::as_array)
        {
            if deep >= LISTS_DEEP_MAX {
                let message = format!("lists in lists, more than {LISTS_DEEP_MAX} deep; flatten them");
                return self.tell(Fault::Syntax, span(document, &join(&prefix, "items")), message);
            }
            for (index, item) in items.iter().enumerate() {
                self.value(item, join(&prefix, &format!("items[{index}]")), document, deep + 1);
            }
            return;
        }
        self.object(value, prefix, document, (api_version, kind));
    }

    fn no_kind(&mut self, value: &Value, prefix: &str, document: &Document) {
        let has = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
        let lacking = if has("kind") { "apiVersion" } else { "kind" };
        let place = span(document, prefix);
        if !value.is_object() || !["apiVersion", "kind", "metadata"].into_iter().any(has) {
            let message = "no Kubernetes object (neither `apiVersion` nor `kind`): left out".to_owned();
            return self.tell(Fault::NotAnObject, place, message);
        }
        // Settings of another program, which are no business of ours: they may well have one of the two words.
        let of_an_object = has("metadata") || (has("spec") && has("apiVersion"));
        let fault = if of_an_object { Fault::Incomplete } else { Fault::NotAnObject };
        let message = format!("an object without `{lacking}`: write it as text beside `metadata`");
        self.tell(fault, place, message);
    }

    fn object(&mut self, value: &Value, prefix: String, document: &Document, (api_version, kind): (&str, &str)) {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let pods = |(group, kind, plural, _): &(&'static str, &'static str, &'static str, &'static str)| -> Known {
            (group, kind, plural, &["v1"], true)
        };
        let mut all = WORKLOADS.iter().map(pods).chain(KINDS);
        let Some((group, kind, plural, versions, namespaced)) = all.find(|known| known.0 == group && known.1 == kind)
        else {
            return;
        };
        if !versions.contains(&version) {
            let served: Vec<String> = versions.iter().map(|version| format!("`{}`", joined(group, version))).collect();
            let message = format!("{kind} has no version `{api_version}`; write {}", served.join(" or "));
            return self.tell(Fault::Version, span(document, &join(&prefix, "apiVersion")), message);
        }
        let Ok(mut object) = Object::new(value.clone()) else { return };
        if object.name().is_empty() {
            let made = object.str_at("/metadata/generateName").trim_end_matches('-').to_owned();
            if made.is_empty() {
                let message = match object.at("/metadata/name") {
                    Value::Bool(_) | Value::Number(_) => {
                        format!("the name of this {kind} is no text: put it in quotes")
                    }
                    _ => format!("{kind} without a name: write `metadata.name`"),
                };
                return self.tell(Fault::Incomplete, span(document, &join(&prefix, "metadata.name")), message);
            }
            object.set("/metadata/name", made);
        }
        if namespaced && object.namespace().is_none() {
            object.set("/metadata/namespace", self.home(kind, object.name()));
        }
        let namespace = object.namespace().filter(|_| namespaced).map(str::to_owned);
        let key = Key { group: group.to_owned(), plural: plural.to_owned(), namespace, name: object.name().to_owned() };
        self.found.push(Found::Object { key, kind, object, prefix });
    }

    /// The namespace of an object that names none. The settings of a mesh are where they always are.
    fn home(&self, kind: &str, name: &str) -> String {
        let settings = kind == "ConfigMap" && name == mesh_config::NAME;
        if settings { mesh_config::NAMESPACE.to_owned() } else { self.namespace.to_owned() }
    }

    fn tell(&mut self, fault: Fault, span: Span, message: String) {
        self.found.push(Found::Problem { fault, span, other: None, message });
    }
}

fn joined(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Where a field stands, or what would hold it.
pub(super) fn span(document: &Document, path: &str) -> Span {
    let found = document.locate(path).map(|(key, node)| key.unwrap_or(&node.span).clone());
    let start: Range<usize> = document.range.start..document.range.start;
    found.unwrap_or(Span { bytes: start, line: 1, column: 1 })
}
