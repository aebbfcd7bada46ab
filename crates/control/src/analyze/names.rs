//! Names that Kubernetes refuses, by the rules of its API server.

use api::{Key, names};

use super::{Diagnostic, Pass, View};
use crate::finding::Code;

/// What templates and instructions leave to be filled in.
const PLACEHOLDERS: [char; 4] = ['$', '<', '{', '%'];

/// What is wrong with a name or a namespace: the field, and the words of the server.
pub(super) fn wrong(key: &Key) -> Option<(&'static str, String)> {
    let name = match (key.group.as_str(), key.plural.as_str()) {
        ("", "namespaces") => names::label(&key.name),
        ("", "services") => names::label_1035(&key.name),
        _ => names::subdomain(&key.name),
    };
    let namespace = || Some(("metadata.namespace", key.namespace.as_deref().and_then(names::label)?));
    name.map(|words| ("metadata.name", words)).or_else(namespace)
}

/// Tells of every object that is written out; the pods that templates stand for have names of ours.
pub(super) fn refused(pass: &mut Pass<'_>) {
    let bundle = pass.bundle;
    let kept = bundle.objects().all().map(|(key, object)| {
        let origin = bundle.origin(&key);
        View::at_origin(bundle, key, Some(object), origin)
    });
    let replaced = bundle
        .replaced()
        .iter()
        .map(|one| View::at_origin(bundle, one.key.clone(), Some(&one.object), Some(&one.origin)));
    let told: Vec<Diagnostic> = kept.chain(replaced).filter_map(|view| one(&view)).collect();
    pass.found.extend(told);
}

fn one(view: &View<'_>) -> Option<Diagnostic> {
    let (field, words) = wrong(&view.key)?;
    view.node("kind")?;
    let generated = field == "metadata.name" && view.node(field).is_none();
    let field = if generated { "metadata.generateName" } else { field };
    // A namespace that was given with the command has no place here.
    view.node(field)?;
    let is_namespace = field == "metadata.namespace";
    let written = if is_namespace { view.key.namespace.as_deref().unwrap_or_default() } else { &view.key.name };
    let what = if is_namespace { "namespace" } else { "name" };
    let message = format!("an API server refuses the {what} `{written}`");
    let told = view.value_at(Diagnostic::new(Code::NameRefused.entry(), message), field, "").note(words);
    let placeholder = written.contains(PLACEHOLDERS);
    Some(told.help(if placeholder {
        "this looks like a placeholder: fill it in first, and analyze what comes out"
    } else {
        "write a name of lower case letters, digits and `-`"
    }))
}
