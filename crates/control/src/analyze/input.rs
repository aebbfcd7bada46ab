//! What cannot be read, and settings that cannot be meant.

use super::{Diagnostic, Pass, View};
use crate::bundle::{Fault, Place};
use crate::finding::{Code, Level};
use crate::mesh_config;

/// What git puts where two sides disagree.
const MERGE_MARKS: [&str; 3] = ["<<<<<<<", "=======", ">>>>>>>"];

pub(super) fn problems(pass: &mut Pass<'_>) {
    for problem in pass.bundle.problems() {
        let (code, level) = match problem.fault {
            Fault::NotText => (Code::NotText, Level::Error),
            Fault::Syntax | Fault::Value => (Code::NotYaml, Level::Error),
            Fault::DuplicateKey => (Code::DuplicateKey, Level::Error),
            Fault::Incomplete => (Code::NotAnObject, Level::Error),
            // Values and the like lie beside manifests everywhere.
            Fault::NotAnObject => (Code::NotAnObject, Level::Note),
            Fault::Version => (Code::VersionUnknown, Level::Error),
            Fault::DuplicateObject => (Code::DuplicateObject, Level::Warning),
        };
        let text = pass.bundle.texts().get(problem.place.text).map_or("", |read| read.text.as_str());
        let unmerged = unmerged(text, problem.place.span.line).filter(|_| problem.fault == Fault::Syntax);
        let (message, help) = match &unmerged {
            Some(message) => (message.as_str(), Some("choose one of the two sides, and take the marks out")),
            None => split(&problem.message),
        };
        let mut one = placed(Diagnostic::new(code.entry(), message).level(level), &problem.place, "");
        if let Some(other) = &problem.other {
            one = placed(one, other, "the first one");
        }
        pass.found.push(match help {
            Some(help) => one.help(help),
            None => one,
        });
    }
}

/// Where a merge was left undone at or right above a line: the marks are no YAML, and what a parser says of them helps nobody.
fn unmerged(text: &str, line: usize) -> Option<String> {
    let mark = |line: &str| MERGE_MARKS.into_iter().find(|mark| line.starts_with(mark));
    let mut near = text.lines().enumerate().skip(line.saturating_sub(2)).take(2);
    near.find_map(|(index, line)| {
        Some(format!("a merge was left undone: line {} begins with `{}`", index + 1, mark(line)?))
    })
}

/// Messages say what is so and then what to do.
fn split(message: &str) -> (&str, Option<&str>) {
    match message.rsplit_once("; ") {
        Some((what, help)) => (what, Some(help)),
        None => (message, None),
    }
}

fn placed(one: Diagnostic, place: &Place, says: &str) -> Diagnostic {
    one.at(place.text, &place.span, says)
}

/// Settings of the mesh that cannot be read. Those that mean nothing here are Istio's own, and nobody's mistake.
pub(super) fn settings(pass: &mut Pass<'_>) {
    let view = View::of(pass, "configmaps", mesh_config::NAMESPACE, mesh_config::NAME);
    for finding in pass.translated.config.findings.iter().filter(|finding| finding.bad) {
        let one = Diagnostic::new(Code::SettingBad.entry(), format!("{}: {}", finding.path, finding.message));
        pass.found.push(view.at(one, &format!("data.{}", mesh_config::KEY), ""));
    }
}
