//! Objects that are no policies, by the schemas of the API server: fields that Kubernetes does not know, values of another type,
//! words that a field does not take. Kinds that are not known here are passed over, and so is what a server has stored already.
//!
//! Of policies the core says more (`policy::parse`); only their `metadata` is looked at here.

use std::sync::LazyLock;

use api::schema::{Elsewhere, Fault, Schema, Wrong};
use api::yaml::Document;
use api::{Kinds, crds};
use policy::finding::Code as PolicyCode;
use serde_json::Value;

use super::diagnostic::Fold;
use super::{Diagnostic, Edit, Pass, mend};
use crate::admission::nearest::nearest_word;
use crate::finding::{self, Code};
use crate::inject::WORKLOADS;
use crate::translate::{AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS, SECURITY_GROUP};

/// Lists in lists deeper than this are not read either.
const LISTS_DEEP_MAX: usize = 4;
/// Names of fields that a help lists; more are no help.
const LISTED_MAX: usize = 8;
/// What templates and tools leave to be filled in later, anywhere in a text.
const PLACEHOLDERS: [&str; 5] = ["$", "<", "{", "__", "ENC["];
/// What they put at both ends of it.
const ENDS: [char; 2] = ['%', '@'];
/// Fields of versions before those whose schemas are here: an old cluster has them. Place and name.
const ONCE_KNOWN: [(&str, &str); 5] = [
    ("metadata", "clusterName"),
    ("metadata", "initializers"),
    ("spec", "topologyKeys"),
    ("spec", "ipFamily"),
    ("resourceClaims", "source"),
];
/// The field that sops adds to what it encrypts, and takes out again.
const SOPS: &str = "sops";

/// The kinds that a mesh serves, with those of Istio.
static KINDS: LazyLock<Kinds> = LazyLock::new(|| Kinds::with_crds(&crds::istio()));

pub(super) fn findings(pass: &mut Pass<'_>) {
    // A running server has stored what it has, by schemas that may be newer than these.
    if pass.whole {
        return;
    }
    for (text, read) in pass.bundle.texts().iter().enumerate() {
        for document in &read.documents {
            let one = One { text, written: &read.text, document };
            one.value(&document.value, "", 0, &mut pass.found);
        }
    }
}

/// One document.
struct One<'a> {
    text: usize,
    written: &'a str,
    document: &'a Document,
}

impl One<'_> {
    /// An object, or a list of them.
    fn value(&self, value: &Value, prefix: &str, deep: usize, found: &mut Vec<Diagnostic>) {
        let word = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (word("apiVersion"), word("kind"));
        if let Some(items) = value.get("items").and_then(Value::as_array).filter(|_| kind.ends_with("List")) {
            for (index, item) in items.iter().enumerate().filter(|_| deep < LISTS_DEEP_MAX) {
                self.value(item, &joined(prefix, &format!("items[{index}]")), deep + 1, found);
            }
            return;
        }
        let metadata = |field: &str| value.pointer(&format!("/metadata/{field}")).is_some_and(Value::is_string);
        if metadata("uid") || metadata("resourceVersion") {
            return;
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let known = KINDS.by_kind(group, kind).and_then(|kind| kind.version(version)?.schema.clone());
        let (schema, path) = match (known, WORKLOADS.iter().find(|known| known.0 == group && known.1 == kind)) {
            (Some(schema), _) => (schema, String::new()),
            (None, Some((.., path))) => (Schema::pod_template(), path.trim_start_matches('/').replace('/', ".")),
            (None, None) => return,
        };
        let plural = KINDS.by_kind(group, kind).map(|kind| kind.plural.as_str()).unwrap_or_default();
        let policy = group == SECURITY_GROUP && [AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS].contains(&plural);
        let Some(part) = at(value, &path) else { return };
        let encrypted = value.get(SOPS).is_some_and(Value::is_object);
        for fault in schema.faults(part) {
            let told_elsewhere = policy && (!fault.path.starts_with("metadata") || is_of_the_core(&fault));
            if told_elsewhere || (encrypted && fault.path == SOPS) {
                continue;
            }
            let place = joined(prefix, &joined(&path, &fault.path));
            let mut told = self.diagnostic(&fault, &place, kind, at(part, &fault.path));
            if let Some(one) = told.as_mut().filter(|one| policy && one.entry == Code::FieldUnknown.entry()) {
                // As of any other field of a policy.
                one.entry = finding::of_policy(PolicyCode::SchemaUnknownField);
                (one.level, one.fold) = (one.entry.level, Fold::Never);
            }
            found.extend(told);
        }
    }

    fn diagnostic(&self, fault: &Fault, place: &str, kind: &str, value: Option<&Value>) -> Option<Diagnostic> {
        match &fault.wrong {
            Wrong::Unknown { field, known, elsewhere } => {
                // `$patch` and the like are words of kustomize and of strategic patches.
                let silent = field.starts_with('$') || is_once_known(&fault.path, field);
                (!silent).then(|| self.unknown(place, (kind, field), known, elsewhere.as_ref()))
            }
            Wrong::Type { wanted, .. } => {
                let text = value.and_then(Value::as_str).unwrap_or_default();
                (!is_placeholder(text)).then(|| self.wrong_type(place, wanted, value))
            }
            Wrong::Word { found, known } => (!is_placeholder(found)).then(|| {
                let message = format!("`{found}` is none of the words that this field takes");
                let told = self.at(Diagnostic::new(finding::of_policy(PolicyCode::SchemaEnum), message), place, false);
                let meant = known.iter().find(|known| known.eq_ignore_ascii_case(found));
                let edit = meant.and_then(|word| mend::scalar(self.written, self.document.node(place)?, word));
                match (meant, edit) {
                    (Some(word), Some(edit)) => told.fix(format!("write `{word}`"), vec![self.edit(edit)], true),
                    _ => told.help(format!("one of {}", known.join(", "))),
                }
            }),
        }
    }

    fn unknown(
        &self,
        place: &str,
        (kind, field): (&str, &str),
        known: &[String],
        elsewhere: Option<&Elsewhere>,
    ) -> Diagnostic {
        let message = format!("unknown field `{field}` in this {kind}: kubectl refuses it, and other tools drop it");
        let mut told = self.at(Diagnostic::new(Code::FieldUnknown.entry(), message), place, true);
        told.fold = Fold::Same;
        let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-'], "");
        let same = known.iter().find(|known| plain(known) == plain(field)).map(String::as_str);
        // What is known nearby under this very name is meant rather than another name.
        if let Some(elsewhere) = elsewhere.filter(|_| same.is_none()) {
            return told.help(match elsewhere {
                Elsewhere::Above => format!("`{field}` belongs one level up: take out some of its indentation"),
                Elsewhere::Below(holder) => format!("`{field}` belongs below `{holder}`"),
                Elsewhere::Beside(holder) => format!("`{field}` belongs below the `{holder}` beside this mapping"),
            });
        }
        let near = same.or_else(|| nearest_word(field, known.iter().map(String::as_str)));
        match (near, self.document.locate(place).and_then(|(key, _)| key)) {
            (Some(near), Some(key)) if self.written.get(key.bytes.clone()) == Some(field) => {
                let edit = Edit { text: self.text, bytes: key.bytes.clone(), replacement: near.to_owned() };
                told.fix(format!("did you mean `{near}`"), vec![edit], false)
            }
            (Some(near), _) => told.help(format!("did you mean `{near}`")),
            (None, _) if known.len() <= LISTED_MAX => told.help(format!("known here: {}", known.join(", "))),
            (None, _) => told,
        }
    }

    fn wrong_type(&self, place: &str, wanted: &str, value: Option<&Value>) -> Diagnostic {
        let value = value.unwrap_or(&Value::Null);
        let (wanted, found) = (with_article(wanted), with_article(kind_of(value)));
        let message = format!("{wanted} is wanted, {found} was found");
        let told = self.at(Diagnostic::new(finding::of_policy(PolicyCode::SchemaType), message), place, false);
        let node = self.document.node(place);
        let edit = match value {
            Value::Bool(_) | Value::Number(_) if wanted == "a string" => {
                node.and_then(|node| mend::quoted(self.written, node))
            }
            Value::String(text) if is_plain(&wanted, text) => {
                node.and_then(|node| mend::unquoted(self.written, node, text))
            }
            _ => None,
        };
        match edit {
            Some(edit) if wanted == "a string" => {
                told.fix(format!("quote it: {}", edit.1), vec![self.edit(edit)], true)
            }
            Some(edit) => told.fix("take the quotes off", vec![self.edit(edit)], true),
            None if wanted == "base64 text" => told.help("write the plain text below `stringData`, or encode it"),
            None => told,
        }
    }

    /// Adds the place: of the key where a field should not be there, of the value where it is the value that is wrong.
    fn at(&self, told: Diagnostic, place: &str, of_key: bool) -> Diagnostic {
        match self.document.locate(place) {
            Some((Some(key), _)) if of_key => told.at(self.text, key, ""),
            // What is merged or repeated by an alias has no place of its own: the deepest part that has one.
            Some((_, node)) => told.at(self.text, &node.span, ""),
            None => told,
        }
    }

    fn edit(&self, (bytes, replacement): (std::ops::Range<usize>, String)) -> Edit {
        Edit { text: self.text, bytes, replacement }
    }
}

/// The core reads these itself, and says what they mean.
fn is_of_the_core(fault: &Fault) -> bool {
    fault.path.starts_with("metadata.annotations[istio.io/dry-run]")
}

fn is_once_known(path: &str, field: &str) -> bool {
    let holder = path.strip_suffix(field).map(|rest| rest.trim_end_matches('.')).unwrap_or_default();
    let holder = holder.split('[').next().unwrap_or_default().rsplit('.').next().unwrap_or_default();
    ONCE_KNOWN.contains(&(holder, field))
}

/// Whether a text stands for a value that comes later: with a sign of a template in it or around it, or in capital letters only.
fn is_placeholder(text: &str) -> bool {
    let capitals = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    let shouted = text.len() > 1 && text.bytes().all(capitals) && text.bytes().any(|byte| byte.is_ascii_uppercase());
    let wrapped = ENDS.into_iter().any(|end| text.len() > 2 && text.starts_with(end) && text.ends_with(end));
    shouted || wrapped || PLACEHOLDERS.iter().any(|sign| text.contains(sign))
}

/// Whether a text without its quotes would be of that type.
fn is_plain(wanted: &str, text: &str) -> bool {
    match wanted {
        "an integer" => text.parse::<i64>().is_ok_and(|number| number.to_string() == text),
        "a boolean" => matches!(text, "true" | "false"),
        _ => false,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn with_article(name: &str) -> String {
    match name {
        "array" => "a list".to_owned(),
        "object" | "integer" | "integer or string" | "RFC 3339 time" => format!("an {name}"),
        "base64 text" | "null" => name.to_owned(),
        _ => format!("a {name}"),
    }
}

/// The value at a path as faults have it.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    api::yaml::steps(path).iter().try_fold(value, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        other => other.get(step.as_str()),
    })
}

fn joined(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) | (path, "") => path.to_owned(),
        (prefix, path) if path.starts_with('[') => format!("{prefix}{path}"),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}
