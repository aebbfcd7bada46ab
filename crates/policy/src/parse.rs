//! Documents to policies. A document is walked by hand so that every finding has a field path; nothing here fails, it finds.
//! Schema-level rules (S-5 to S-8) are repeated here so that files and the API server are refused alike.
//! What a rule means on TCP is told by `parse/meaning.rs`.

mod authorization;
mod condition;
mod meaning;
mod peer;
mod reader;
mod scope;
mod value;

#[cfg(test)]
mod tests;

pub use authorization::authorization_policy;
pub use peer::peer_authentication;

use serde_json::Value;

use crate::finding::{Code, FieldPath, Finding};

/// The annotation that makes a policy a trial (S-18).
pub const DRY_RUN: &str = "istio.io/dry-run";

/// The finding for an object of any other kind that carries the dry-run annotation (S-18).
pub fn dry_run_on_other_kind(document: &Value) -> Option<Finding> {
    document.get("metadata")?.get("annotations")?.get(DRY_RUN)?;
    Some(Finding::new(
        Code::DryRunUnsupportedKind,
        FieldPath::of("metadata.annotations").member(DRY_RUN),
        format!("dry run exists for AuthorizationPolicy only; remove the annotation `{DRY_RUN}`"),
    ))
}

/// Schema findings hide all others, and a wrong dry-run annotation hides what admission checks after it.
fn first_refusing_stage(findings: Vec<Finding>) -> Vec<Finding> {
    let is_dry_run = |code: Code| matches!(code, Code::DryRunValue | Code::DryRunAction | Code::DryRunUnsupportedKind);
    let schema = findings.iter().any(|finding| finding.code.severity() == crate::finding::Severity::Schema);
    let dry_run = findings.iter().any(|finding| is_dry_run(finding.code));
    let refused = findings.iter().any(Finding::refuses);
    findings
        .into_iter()
        .filter(|finding| {
            if schema {
                finding.code.severity() == crate::finding::Severity::Schema
            } else if dry_run {
                is_dry_run(finding.code)
            } else {
                !refused || finding.refuses()
            }
        })
        .collect()
}
