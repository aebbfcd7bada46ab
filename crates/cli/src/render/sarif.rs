//! SARIF 2.1.0, which code hosts show beside the lines of a change.

use std::collections::BTreeMap;

use control::analyze::{Diagnostic, Label};
use control::finding::{Entry, Level};
use serde_json::{Value, json as object};

use super::{Shown, end, position};

const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// The findings as one SARIF log.
pub(crate) fn sarif(diagnostics: &[Diagnostic], texts: &[Shown<'_>]) -> Value {
    let used: BTreeMap<&str, Entry> = diagnostics.iter().map(|one| (one.entry.number, one.entry)).collect();
    let index: BTreeMap<&str, usize> = used.keys().enumerate().map(|(index, number)| (*number, index)).collect();
    let rules: Vec<Value> = used.values().map(rule).collect();
    let each = diagnostics.iter().flat_map(Diagnostic::each);
    let results: Vec<Value> = each.map(|one| result(one, texts, index.get(one.entry.number))).collect();
    object!({
        "$schema": SCHEMA, "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "tidegate", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rule(entry: &Entry) -> Value {
    object!({
        "id": entry.number, "name": entry.word,
        "shortDescription": {"text": entry.summary},
        "fullDescription": {"text": entry.story()},
        "help": {"text": entry.story(), "markdown": entry.story()},
        "defaultConfiguration": {"level": level(entry.level)},
    })
}

fn result(one: &Diagnostic, texts: &[Shown<'_>], index: Option<&usize>) -> Value {
    let mut message = one.message.clone();
    for note in &one.notes {
        message = format!("{message}\nnote: {note}");
    }
    if let Some(fix) = &one.fix {
        message = format!("{message}\nhelp: {}", fix.says);
    }
    let mut places = one.labels.iter().map(|label| location(label, texts));
    let mut result = object!({
        "ruleId": one.entry.number, "ruleIndex": index, "level": level(one.level),
        "message": {"text": message},
        "locations": places.next().into_iter().collect::<Vec<_>>(),
        "relatedLocations": places.collect::<Vec<_>>(),
    });
    let edits = one.fix.iter().flat_map(|fix| &fix.edits).filter_map(|edit| {
        let shown = texts.get(edit.text)?;
        let (from, to) = (position(shown.text, edit.bytes.start), position(shown.text, edit.bytes.end));
        let region = object!({"startLine": from.0, "startColumn": from.1, "endLine": to.0, "endColumn": to.1});
        let replacement = object!({"deletedRegion": region, "insertedContent": {"text": edit.replacement}});
        Some(object!({"artifactLocation": {"uri": uri(shown.name)}, "replacements": [replacement]}))
    });
    let changes: Vec<Value> = edits.collect();
    if let Some(fix) = one.fix.as_ref().filter(|_| !changes.is_empty()) {
        result["fixes"] = object!([{"description": {"text": fix.says}, "artifactChanges": changes}]);
    }
    result
}

fn location(label: &Label, texts: &[Shown<'_>]) -> Value {
    let Some(shown) = texts.get(label.text) else { return object!({}) };
    let (end_line, end_column) = end(label, shown);
    let region = object!({
        "startLine": label.line, "startColumn": label.column, "endLine": end_line, "endColumn": end_column,
    });
    let place = object!({"artifactLocation": {"uri": uri(shown.name)}, "region": region});
    if label.says.is_empty() {
        object!({"physicalLocation": place})
    } else {
        object!({"physicalLocation": place, "message": {"text": label.says}})
    }
}

fn level(level: Level) -> &'static str {
    level.word()
}

/// A name as a relative reference (RFC 3986): what is not plainly allowed is escaped.
fn uri(name: &str) -> String {
    let mut all = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            all.push(char::from(byte));
        } else {
            all.extend(['%', hexadecimal(byte >> 4), hexadecimal(byte & 15)]);
        }
    }
    all
}

fn hexadecimal(digit: u8) -> char {
    char::from_digit(digit.into(), 16).unwrap_or_default().to_ascii_uppercase()
}
