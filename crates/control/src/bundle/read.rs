//! One text to documents and objects.

use std::ops::Range;

use api::yaml::{self, Document, Span};
use api::{Key, Object};
use serde_json::Value;

use super::{Bundle, Fault, Origin, Place, Problem, Read, Text};
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

pub(super) fn text(text: Text, namespace: &str, bundle: &mut Bundle) {
    let at = bundle.texts.len();
    let read = match decoded(text.bytes) {
        Ok(decoded) => {
            let documents = yaml::documents(&decoded);
            Read { name: text.name, text: decoded, documents }
        }
        Err(refusal) => {
            let place = Place { text: at, span: refusal.span };
            let message = refusal.message.to_owned();
            bundle.problems.push(Problem { fault: Fault::NotText, place, other: None, message });
            Read { name: text.name, text: refusal.lossy, documents: Vec::new() }
        }
    };
    let mut reader = Reader { at, namespace, read: &read, bundle };
    for (index, document) in read.documents.iter().enumerate() {
        reader.document(index, document);
    }
    bundle.texts.push(read);
}

/// Bytes that are no text.
struct NoText {
    lossy: String,
    span: Span,
    message: &'static str,
}

fn decoded(bytes: Vec<u8>) -> Result<String, NoText> {
    if let Some(zero) = bytes.iter().position(|byte| *byte == 0) {
        let lossy = String::from_utf8_lossy(&bytes).into_owned();
        let span = span_at(bytes.get(..zero).unwrap_or_default());
        return Err(NoText { lossy, span, message: "a zero byte: this is a binary file, not YAML" });
    }
    String::from_utf8(bytes).map_err(|error| {
        let bytes = error.as_bytes();
        let span = span_at(bytes.get(..error.utf8_error().valid_up_to()).unwrap_or_default());
        let message = "not UTF-8 from here on; save the file as UTF-8";
        NoText { lossy: String::from_utf8_lossy(bytes).into_owned(), span, message }
    })
}

/// The place after these bytes, in the text that has marks where bytes are no UTF-8: that text is shown, and it is longer.
fn span_at(before: &[u8]) -> Span {
    let before = String::from_utf8_lossy(before);
    let line = before.split('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Span { bytes: before.len()..before.len(), line, column }
}

struct Reader<'a> {
    at: usize,
    namespace: &'a str,
    read: &'a Read,
    bundle: &'a mut Bundle,
}

impl Reader<'_> {
    fn document(&mut self, index: usize, document: &Document) {
        // What comes after a fatal problem follows from it.
        let first = document.problems.iter().position(|problem| problem.fatal).unwrap_or(document.problems.len());
        for problem in document.problems.iter().take(first + 1) {
            let fault = match (problem.fatal, &problem.other) {
                (true, _) => Fault::Syntax,
                (false, Some(_)) => Fault::DuplicateKey,
                (false, None) => Fault::Value,
            };
            let mut message = problem.message.clone();
            let written = self.read.text.get(document.range.clone()).unwrap_or_default();
            if problem.fatal && written.contains("{{") {
                message.push_str("; this looks like a template: render it first (`helm template .. | tidegate .. -`)");
            }
            let other = problem.other.clone().map(|span| Place { text: self.at, span });
            self.tell(fault, problem.span.clone(), other, message);
        }
        if !document.is_empty() && document.fatal().is_none() {
            let origin = Origin { text: self.at, document: index, prefix: String::new() };
            self.value(&document.value, origin, document, 0);
        }
    }

    /// An object, or a list of them.
    fn value(&mut self, value: &Value, origin: Origin, document: &Document, deep: usize) {
        let word = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (word("apiVersion"), word("kind"));
        if kind.is_empty() || api_version.is_empty() {
            return self.no_kind(value, &origin, document);
        }
        if kind.ends_with("List")
            && let Some(items) = value.get("items").and_then(Value::as_array)
        {
            if deep >= LISTS_DEEP_MAX {
                let message = format!("lists in lists, more than {LISTS_DEEP_MAX} deep; flatten them");
                return self.tell(Fault::Syntax, span(document, &origin.path("items")), None, message);
            }
            for (index, item) in items.iter().enumerate() {
                let prefix = origin.path(&format!("items[{index}]"));
                self.value(item, Origin { prefix, ..origin.clone() }, document, deep + 1);
            }
            return;
        }
        self.object(value, origin, document, (api_version, kind));
    }

    fn no_kind(&mut self, value: &Value, origin: &Origin, document: &Document) {
        let has = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
        let lacking = if has("kind") { "apiVersion" } else { "kind" };
        let place = span(document, &origin.prefix);
        if !value.is_object() || !["apiVersion", "kind", "metadata"].into_iter().any(has) {
            let message = "no Kubernetes object (neither `apiVersion` nor `kind`): left out".to_owned();
            return self.tell(Fault::NotAnObject, place, None, message);
        }
        // Settings of another program, which are no business of ours: they may well have one of the two words.
        let of_an_object = has("metadata") || (has("spec") && has("apiVersion"));
        let fault = if of_an_object { Fault::Incomplete } else { Fault::NotAnObject };
        let message = format!("an object without `{lacking}`: write it as text beside `metadata`");
        self.tell(fault, place, None, message);
    }

    fn object(&mut self, value: &Value, origin: Origin, document: &Document, (api_version, kind): (&str, &str)) {
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
            return self.tell(Fault::Version, span(document, &origin.path("apiVersion")), None, message);
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
                return self.tell(Fault::Incomplete, span(document, &origin.path("metadata.name")), None, message);
            }
            object.set("/metadata/name", made);
        }
        if namespaced && object.namespace().is_none() {
            object.set("/metadata/namespace", self.home(kind, object.name()));
        }
        let namespace = object.namespace().filter(|_| namespaced).map(str::to_owned);
        let key = Key { group: group.to_owned(), plural: plural.to_owned(), namespace, name: object.name().to_owned() };
        if let Some(earlier) = self.bundle.origins.get(&key) {
            let other = self.name_of(earlier);
            let message = format!("{kind} `{}` stands twice; the last one counts: remove one", shown(&key));
            self.tell(Fault::DuplicateObject, span(document, &origin.path("metadata.name")), other, message);
            self.bundle.keep_replaced(&key);
        }
        self.bundle.put(key, object, origin);
    }

    /// The namespace of an object that names none. The settings of a mesh are where they always are.
    fn home(&self, kind: &str, name: &str) -> String {
        let settings = kind == "ConfigMap" && name == mesh_config::NAME;
        if settings { mesh_config::NAMESPACE.to_owned() } else { self.namespace.to_owned() }
    }

    /// Where the name of an object read before stands.
    fn name_of(&self, origin: &Origin) -> Option<Place> {
        // The text that is being read is not put away yet.
        let read = self.bundle.texts.get(origin.text).unwrap_or(self.read);
        let document = read.documents.get(origin.document)?;
        Some(Place { text: origin.text, span: span(document, &origin.path("metadata.name")) })
    }

    fn tell(&mut self, fault: Fault, span: Span, other: Option<Place>, message: String) {
        self.bundle.problems.push(Problem { fault, place: Place { text: self.at, span }, other, message });
    }
}

fn joined(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn shown(key: &Key) -> String {
    key.namespace.as_ref().map_or_else(|| key.name.clone(), |namespace| format!("{namespace}/{}", key.name))
}

/// Where a field stands, or what would hold it.
fn span(document: &Document, path: &str) -> Span {
    let found = document.locate(path).map(|(key, node)| key.unwrap_or(&node.span).clone());
    let start: Range<usize> = document.range.start..document.range.start;
    found.unwrap_or(Span { bytes: start, line: 1, column: 1 })
}
