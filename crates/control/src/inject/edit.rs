//! Additions to a YAML text: what stands there stays, byte for byte, comments included.
//!
//! Only additions in block style are known here. Whatever else would have to change is left to the caller, who prints the
//! document anew; and who checks, in any case, that the text reads as the value it should have.

use std::ops::Range;

use api::yaml::{Children, Node, print};
use serde_json::{Map, Value};

/// Text in the place of other text; an insertion takes the place of none.
pub(crate) struct Change {
    pub(crate) bytes: Range<usize>,
    pub(crate) text: String,
}

impl Change {
    pub(crate) fn insertion(at: usize, text: String) -> Self {
        Self { bytes: at..at, text }
    }
}

/// The part `range` of `text`, changed so that it says `new` instead of `old`; none if that takes more than additions.
pub(super) fn add(text: &str, range: Range<usize>, root: &Node, old: &Value, new: &Value) -> Option<String> {
    let mut insertions = Vec::new();
    compare(text, root, old, new, &mut insertions)?;
    splice(text, range, insertions)
}

/// The part `range` of `text` with these changes; what goes in begins a line.
pub(crate) fn splice(text: &str, range: Range<usize>, mut changes: Vec<Change>) -> Option<String> {
    // Stable, so that at one place the inner addition stays before the outer one.
    changes.sort_by_key(|change| (change.bytes.start, change.bytes.end));
    let mut part = String::new();
    let mut from = range.start;
    for change in changes {
        part.push_str(text.get(from..change.bytes.start)?);
        if change.bytes.is_empty() && !part.is_empty() && !part.ends_with('\n') {
            part.push('\n');
        }
        part.push_str(&change.text);
        from = change.bytes.end;
    }
    part.push_str(text.get(from..range.end)?);
    Some(part)
}

fn compare(text: &str, node: &Node, old: &Value, new: &Value, insertions: &mut Vec<Change>) -> Option<()> {
    if old == new {
        return Some(());
    }
    if node.flow {
        return None;
    }
    match (old, new, &node.children) {
        (Value::Object(old), Value::Object(new), Children::Fields(_)) => fields(text, node, old, new, insertions),
        (Value::Array(old), Value::Array(new), Children::Items(items)) if old.len() == new.len() => {
            for ((node, old), new) in items.iter().zip(old).zip(new) {
                compare(text, node, old, new, insertions)?;
            }
            (items.len() == old.len()).then_some(())
        }
        (Value::Array(old), Value::Array(new), Children::Items(_)) => items(text, node, old, new, insertions),
        _ => None,
    }
}

fn fields(
    text: &str,
    node: &Node,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    insertions: &mut Vec<Change>,
) -> Option<()> {
    for (key, before) in old {
        let after = new.get(key)?;
        if before != after {
            compare(text, &node.field(key)?.node, before, after, insertions)?;
        }
    }
    add_fields(text, node, old, new, insertions)
}

/// The fields that are new go in behind the ones there are.
pub(crate) fn add_fields(
    text: &str,
    node: &Node,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    changes: &mut Vec<Change>,
) -> Option<()> {
    let added: Map<String, Value> = new
        .iter()
        .filter(|(key, _)| !old.contains_key(*key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if !added.is_empty() {
        let column = node.span.column.saturating_sub(1);
        changes.push(Change::insertion(after(text, node)?, indented(&Value::Object(added), column)));
    }
    Some(())
}

fn items(text: &str, node: &Node, old: &[Value], new: &[Value], insertions: &mut Vec<Change>) -> Option<()> {
    let more = new.len().checked_sub(old.len())?;
    let start = (0..=more).find(|start| new.get(*start..start + old.len()) == Some(old))?;
    let (front, back) = (new.get(..start)?, new.get(start + old.len()..)?);
    let (line, column) = dash(text, node.items().first()?)?;
    if !front.is_empty() {
        insertions.push(Change::insertion(line, indented(&Value::Array(front.to_vec()), column)));
    }
    if !back.is_empty() {
        insertions.push(Change::insertion(after(text, node)?, indented(&Value::Array(back.to_vec()), column)));
    }
    Some(())
}

/// The start of the line with the dash of an item, and the column of the dash, from 0; none if more than blanks stand before it.
pub(crate) fn dash(text: &str, item: &Node) -> Option<(usize, usize)> {
    let before = text.get(..item.span.bytes.start)?.trim_end_matches(' ').strip_suffix('-')?;
    let line = before.rfind('\n').map_or(0, |at| at + 1);
    before.get(line..)?.bytes().all(|byte| byte == b' ').then_some((line, before.len() - line))
}

/// The end of the line on which a node ends, its line feed included.
pub(crate) fn after(text: &str, node: &Node) -> Option<usize> {
    let end = node.span.bytes.end;
    if text.get(..end)?.ends_with('\n') {
        return Some(end);
    }
    Some(text.get(end..)?.find('\n').map_or(text.len(), |at| end + at + 1))
}

/// A value printed at a column, from 0.
pub(crate) fn indented(value: &Value, column: usize) -> String {
    let mut out = String::new();
    for line in print(value).lines() {
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', column));
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}
