//! Manifests in, manifests out: what `tidegate inject` and `kube-inject -f` do to a text.
//!
//! Documents that are not workloads, and workloads that are left alone, come out as they went in. Each document ends with
//! `---`. Doing it twice is the same as doing it once, byte for byte.

use api::yaml::{Document, documents, print};
use serde_json::Value;

use super::{Error, Options, Outcome, Owner, Skip, edit, inject_pod, rules};

/// A manifest with the sidecar in its workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injection {
    /// The manifest; nothing but YAML (or JSON, where the document was JSON).
    pub text: String,
    /// What to tell on the side, one line each.
    pub messages: Vec<String>,
}

/// A kind that makes pods: its API group, kind, plural, and where in it the pod is.
pub(crate) type HasPods = (&'static str, &'static str, &'static str, &'static str);

/// Every kind that makes pods.
pub(crate) const WORKLOADS: [HasPods; 8] = [
    ("", "Pod", "pods", ""),
    ("", "ReplicationController", "replicationcontrollers", "/spec/template"),
    ("apps", "Deployment", "deployments", "/spec/template"),
    ("apps", "ReplicaSet", "replicasets", "/spec/template"),
    ("apps", "StatefulSet", "statefulsets", "/spec/template"),
    ("apps", "DaemonSet", "daemonsets", "/spec/template"),
    ("batch", "Job", "jobs", "/spec/template"),
    ("batch", "CronJob", "cronjobs", "/spec/jobTemplate/spec/template"),
];

/// Injects every workload of a manifest: a stream of YAML or JSON documents, lists among them.
pub fn inject_manifest(text: &str, options: &Options) -> Result<Injection, Error> {
    let mut out = Injection::default();
    let read = documents(text);
    if read.is_empty() && !text.trim().is_empty() {
        // Nothing but comments.
        text.clone_into(&mut out.text);
    }
    for document in read {
        if let Some(problem) = document.fatal() {
            return Err(Error::Syntax(format!(
                "line {}, column {}: {}",
                problem.span.line, problem.span.column, problem.message
            )));
        }
        for problem in &document.problems {
            out.messages.push(format!("line {}: {}", problem.span.line, problem.message));
        }
        let mut value = document.value.clone();
        object(&mut value, options, &mut out.messages)?;
        if let Some(body) = body(text, &document, &value) {
            out.text.push_str(&body);
            if !body.ends_with('\n') {
                out.text.push('\n');
            }
            // Comments with nothing after them belong to the document that follows.
            if !document.is_empty() {
                out.text.push_str("---\n");
            }
        }
    }
    Ok(out)
}

/// Injects an object, or each of a list.
fn object(value: &mut Value, options: &Options, messages: &mut Vec<String>) -> Result<(), Error> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind.ends_with("List")
        && let Some(items) = value.get_mut("items").and_then(Value::as_array_mut)
    {
        return items.iter_mut().try_for_each(|item| object(item, options, messages));
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let Some((.., plural, path)) = WORKLOADS.iter().find(|(of, name, ..)| *of == group && *name == kind) else {
        return Ok(());
    };
    let metadata = |field: &str| value.get("metadata").and_then(|all| all.get(field)).and_then(Value::as_str);
    let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_default().to_owned();
    let namespace = metadata("namespace").map(str::to_owned);
    let shown = format!("{}/{name}", kind.to_ascii_lowercase());
    if namespace.as_deref().is_some_and(rules::is_system) {
        messages.push(format!("{shown}: not injected: {}", Skip::SystemNamespace));
        return Ok(());
    }
    let owner = Owner { name, api_version, plural: (*plural).to_owned(), namespace };
    let pod = value.pointer_mut(path).filter(|pod| pod.is_object());
    let pod = pod
        .ok_or_else(|| Error::NoPod { object: shown.clone(), path: path.trim_start_matches('/').replace('/', ".") })?;
    match inject_pod(pod, &shown, &owner, options)? {
        Outcome::Injected(notes) => messages.extend(notes.iter().map(|note| format!("{shown}: {note}"))),
        Outcome::Skipped(skip) => messages.push(format!("{shown}: not injected: {skip}")),
    }
    Ok(())
}

/// The text of a document that now says `value`; none if there is nothing in it.
fn body(text: &str, document: &Document, value: &Value) -> Option<String> {
    let written = text.get(document.range.clone()).unwrap_or_default();
    let bare = without_marker(written);
    if bare.trim().is_empty() || document.is_empty() && document.comments.is_empty() {
        return None;
    }
    // Directives stand before the marker of their document, which they lose in a stream: the value is all that counts then.
    let directives = marker(written).is_some_and(|(before, _)| before.lines().any(|line| line.starts_with('%')));
    if directives {
        return Some(print(value));
    }
    if *value == document.value {
        return Some(bare);
    }
    if serde_json::from_str::<Value>(&bare).is_ok() {
        // Pretty printing of a value cannot fail; if it did, YAML says the same.
        return Some(serde_json::to_string_pretty(value).unwrap_or_else(|_| print(value)));
    }
    let edited = document
        .root
        .as_ref()
        .and_then(|root| edit::add(text, document.range.clone(), root, &document.value, value))
        .filter(|edited| says(edited, value));
    Some(edited.map_or_else(|| print(value), |edited| without_marker(&edited)))
}

/// Whether a text reads as exactly this value.
fn says(text: &str, value: &Value) -> bool {
    let read = documents(text);
    let mut filled = read.iter().filter(|document| !document.is_empty() || document.fatal().is_some());
    filled.next().is_some_and(|document| document.fatal().is_none() && document.value == *value)
        && filled.next().is_none()
}

/// A document without the marker it starts with: the one before it ends with a marker already.
fn without_marker(written: &str) -> String {
    let bare = match marker(written) {
        Some((before, after)) => {
            let line = after.trim_start_matches([' ', '\t', '\r']);
            format!("{before}{}", line.strip_prefix('\n').unwrap_or(line))
        }
        None => written.to_owned(),
    };
    bare.trim_start_matches('\u{feff}').trim_start_matches(['\r', '\n']).to_owned()
}

/// What stands before and after the marker that starts a document: it comes first but for comments, directives and blank lines.
fn marker(written: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    for line in written.split_inclusive('\n') {
        let content = line.trim_start_matches('\u{feff}');
        if let Some(rest) = content.strip_prefix("---")
            && (rest.is_empty() || rest.starts_with(char::is_whitespace))
        {
            return Some((written.get(..at)?, written.get(at + line.len() - rest.len()..)?));
        }
        let skipped = content.trim();
        if !(skipped.is_empty() || skipped.starts_with(['#', '%'])) {
            return None;
        }
        at += line.len();
    }
    None
}
