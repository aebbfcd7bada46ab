//! Findings as text for people, as JSON, as SARIF and as annotations of GitHub. Pure: findings and texts in, text out.

mod github;
mod json;
mod sarif;
mod text;

pub(crate) use github::github;
pub(crate) use json::json;
pub(crate) use sarif::sarif;
pub(crate) use text::{text, totals};

use control::analyze::Label;

/// A text and the name it is shown under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
}

/// Where a label ends: line and column of the first character after it, both from 1.
fn end(label: &Label, shown: &Shown<'_>) -> (usize, usize) {
    let inside = shown.text.get(label.bytes.clone()).unwrap_or_default();
    match inside.rsplit_once('\n') {
        Some((before, last)) => (label.line + before.matches('\n').count() + 1, last.chars().count() + 1),
        None => (label.line, label.column + inside.chars().count()),
    }
}

/// Line and column of a byte, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    (line, before.rsplit('\n').next().unwrap_or_default().chars().count() + 1)
}
