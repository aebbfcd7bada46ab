//! One versioned JSON object.

use control::analyze::{Diagnostic, Edit, Label};
use control::finding::Level;
use serde_json::{Value, json as object};

use super::{Shown, end, position};

/// The findings as one object.
pub(crate) fn json(diagnostics: &[Diagnostic], texts: &[Shown<'_>], suppressed: usize) -> Value {
    let findings: Vec<Value> = diagnostics.iter().map(|one| finding(one, texts)).collect();
    object!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "Analysis",
        "summary": summary(diagnostics, suppressed), "findings": findings,
    })
}

/// How many there are of each level.
fn summary(diagnostics: &[Diagnostic], suppressed: usize) -> Value {
    let count = |level: Level| diagnostics.iter().filter(|one| one.level == level).count();
    object!({
        "errors": count(Level::Error), "warnings": count(Level::Warning), "notes": count(Level::Note),
        "allowed": suppressed,
    })
}

fn finding(one: &Diagnostic, texts: &[Shown<'_>]) -> Value {
    let labels: Vec<Value> = one.labels.iter().map(|label| place(label, texts)).collect();
    let fix = one.fix.as_ref().map(|fix| {
        let edits: Vec<Value> = fix.edits.iter().map(|change| edit(change, texts)).collect();
        object!({"help": fix.says, "safe": fix.safe, "edits": edits})
    });
    object!({
        "code": one.entry.number, "word": one.entry.word, "level": one.level.word(), "message": one.message,
        "labels": labels, "notes": one.notes, "fix": fix,
    })
}

fn place(label: &Label, texts: &[Shown<'_>]) -> Value {
    let Some(shown) = texts.get(label.text) else { return Value::Null };
    let (end_line, end_column) = end(label, shown);
    object!({
        "file": shown.name, "line": label.line, "column": label.column, "endLine": end_line, "endColumn": end_column,
        "says": label.says,
    })
}

fn edit(edit: &Edit, texts: &[Shown<'_>]) -> Value {
    let Some(shown) = texts.get(edit.text) else { return Value::Null };
    let (from, to) = (position(shown.text, edit.bytes.start), position(shown.text, edit.bytes.end));
    object!({
        "file": shown.name, "line": from.0, "column": from.1, "endLine": to.0, "endColumn": to.1,
        "replacement": edit.replacement,
    })
}
