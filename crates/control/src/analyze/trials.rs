//! Trials that have nothing left to try.

use policy::parse::DRY_RUN;
use policy::spec::AuthorizationPolicy;

use super::{Diagnostic, Pass, View};
use crate::finding::Code;
use crate::translate::AUTHORIZATION_POLICIES;

pub(super) fn leftovers<'a>(pass: &mut Pass<'a>, view: &View<'a>, policy: &AuthorizationPolicy) {
    let path = format!("metadata.annotations[{DRY_RUN}]");
    let written = view.object.and_then(|object| object.annotation(DRY_RUN));
    if written.is_some() && !policy.trial {
        let message = "the annotation says that this is no trial, as if it were not there";
        let told = view.at(Diagnostic::new(Code::TrialLeftover.entry(), message), &path, "");
        pass.found.push(match annotation_removed(view) {
            Some(edit) => told.fix("remove the annotation", vec![edit], true),
            None => told.help("remove the annotation"),
        });
    }
    let same = pass.mesh.policies.iter().find(|other| {
        policy.trial
            && !other.trial
            && other.id != policy.id
            && other.id.namespace == policy.id.namespace
            && (&other.scope, other.action, &other.rules) == (&policy.scope, policy.action, &policy.rules)
    });
    let Some(same) = same else { return };
    let message = format!("this trial says what policy `{}` enforces already", same.id.name);
    let mut told = view.at(Diagnostic::new(Code::TrialLeftover.entry(), message), &path, "");
    let other = View::of(pass, AUTHORIZATION_POLICIES, &same.id.namespace, &same.id.name);
    told = other.at(told, "metadata.name", "this one is enforced");
    pass.found.push(told.help("remove the trial"));
}

/// The edit that takes the annotation out, with `annotations` if it is the only one.
fn annotation_removed(view: &View<'_>) -> Option<super::Edit> {
    let only = view.node("metadata.annotations")?.fields().len() == 1;
    if only {
        return view.removed("metadata.annotations");
    }
    let mapping = view.node("metadata.annotations")?;
    let bytes = super::mend::without_field(view.written, mapping, DRY_RUN)?;
    Some(super::Edit { text: view.text, bytes, replacement: String::new() })
}
