//! A YAML document changed so that it says another value: what does not change stays, byte for byte, comments included.
//!
//! The change is read back: a text that does not say exactly the value wanted is none at all.

use api::yaml::{Children, Document, Node, documents, print};
use serde_json::{Map, Value};

use crate::inject::edit::{Change, add_fields, after, dash, indented, splice};

/// The text with `document`, which is a part of it, saying `wanted`; none where that takes more than this module knows.
pub(crate) fn rewrite(text: &str, document: &Document, wanted: &Value) -> Option<String> {
    let mut changes = Vec::new();
    compare(text, document.root.as_ref()?, &document.value, wanted, &mut changes)?;
    let part = splice(text, document.range.clone(), changes)?;
    let read = documents(&part);
    let [again] = read.as_slice() else { return None };
    let says = again.problems.is_empty() && again.value == *wanted;
    says.then(|| [text.get(..document.range.start)?, &part, text.get(document.range.end..)?].concat().into()).flatten()
}

fn compare(text: &str, node: &Node, old: &Value, new: &Value, changes: &mut Vec<Change>) -> Option<()> {
    if old == new {
        return Some(());
    }
    match (old, new, &node.children) {
        (Value::Array(old), Value::Array(new), Children::Items(items)) if node.flow => {
            changes.push(Change { bytes: node.span.bytes.clone(), text: flow_list(text, items, old, new) });
            Some(())
        }
        _ if node.flow => {
            changes.push(Change { bytes: node.span.bytes.clone(), text: flow(new) });
            Some(())
        }
        (Value::Object(old), Value::Object(new), Children::Fields(_)) => fields(text, node, old, new, changes),
        (Value::Array(old), Value::Array(new), Children::Items(_)) => items(text, node, old, new, changes),
        (_, Value::Object(_) | Value::Array(_), _) => None,
        (_, scalar, Children::None) => {
            let bytes = node.span.bytes.clone();
            changes.push(Change { bytes, text: print(scalar).trim_end().to_owned() });
            Some(())
        }
        _ => None,
    }
}

fn fields(
    text: &str,
    node: &Node,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    changes: &mut Vec<Change>,
) -> Option<()> {
    for (key, before) in old {
        let field = node.field(key)?;
        if let Some(value) = new.get(key) {
            compare(text, &field.node, before, value, changes)?;
        } else {
            // The first field of a list item stands behind its dash, and cannot go alone.
            let start = line_start(text, field.key_span.bytes.start)?;
            changes.push(Change { bytes: start..after(text, &field.node)?, text: String::new() });
        }
    }
    add_fields(text, node, old, new, changes)
}

/// One run of items more, less, or other ones.
fn items(text: &str, node: &Node, old: &[Value], new: &[Value], changes: &mut Vec<Change>) -> Option<()> {
    let nodes = node.items();
    if old.len() == new.len() {
        for ((node, old), new) in nodes.iter().zip(old).zip(new) {
            compare(text, node, old, new, changes)?;
        }
        return Some(());
    }
    let front = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let back = back.min(old.len().min(new.len()) - front);
    let (_, column) = dash(text, nodes.first()?)?;
    let gone = nodes.get(front..old.len() - back)?;
    let come = new.get(front..new.len() - back)?;
    if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
        changes.push(Change { bytes: dash(text, first)?.0..after(text, last)?, text: String::new() });
    }
    if !come.is_empty() {
        let at = match nodes.get(front) {
            Some(next) => dash(text, next)?.0,
            None => after(text, node)?,
        };
        changes.push(Change::insertion(at, indented(&Value::Array(come.to_vec()), column)));
    }
    Some(())
}

/// The start of the line, if nothing but blanks stands before the place on it.
fn line_start(text: &str, at: usize) -> Option<usize> {
    let before = text.get(..at)?;
    let start = before.rfind('\n').map_or(0, |feed| feed + 1);
    before.get(start..)?.bytes().all(|byte| byte == b' ').then_some(start)
}

/// A list in flow style: items that stay are written as they were, and new ones as the first one is.
fn flow_list(text: &str, items: &[Node], old: &[Value], new: &[Value]) -> String {
    let written = |value: &Value| {
        let at = old.iter().position(|old| old == value)?;
        Some(text.get(items.get(at)?.span.bytes.clone())?.to_owned())
    };
    let quotes =
        items.first().is_some_and(|first| text.get(first.span.bytes.clone()).is_some_and(|text| text.starts_with('"')));
    let fresh = |value: &Value| if quotes { value.to_string() } else { flow(value) };
    let all: Vec<String> = new.iter().map(|value| written(value).unwrap_or_else(|| fresh(value))).collect();
    format!("[{}]", all.join(", "))
}

/// A value in flow style, which JSON is a part of.
fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{}: {}", word(key), flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => word(text),
        other => other.to_string(),
    }
}

/// A text bare where it can only be read as this text, in quotes otherwise.
fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    let bare = text.bytes().all(plain) && print(&Value::from(text)).trim_end() == text;
    if bare { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use api::yaml::documents;
    use serde_json::{Value, json};

    use super::rewrite;

    #[test]
    fn only_what_changes_changes() {
        let text = "# first\na: 1 # one\nlist:\n- x # the x\n- \"y\"\nflow: {p: [\"1\", \"2\"], q: z}\nnest:\n  deep:\n    k: v\n    l: w\n# last\n";
        for (pointer, wanted, old, new) in [
            ("/a", json!(2), "a: 1 # one", "a: 2 # one"),
            ("/list", json!(["x"]), "- \"y\"\n", ""),
            ("/list", json!(["y"]), "- x # the x\n", ""),
            ("/list", json!(["x", "y", "z"]), "- \"y\"\n", "- \"y\"\n- z\n"),
            ("/list", json!(["x", "w", "y"]), "- x # the x\n", "- x # the x\n- w\n"),
            ("/flow/p", json!(["1", "2", "3"]), "[\"1\", \"2\"]", "[\"1\", \"2\", \"3\"]"),
            ("/flow/p", json!(["2"]), "[\"1\", \"2\"]", "[\"2\"]"),
            ("/flow", json!({"q": "yes"}), "{p: [\"1\", \"2\"], q: z}", "{q: \"yes\"}"),
            ("/nest/deep", json!({"k": "v"}), "    l: w\n", ""),
            (
                "/nest/deep",
                json!({"k": "v", "l": "w", "m": {"p": ["o"]}}),
                "    l: w\n",
                "    l: w\n    m:\n      p:\n      - o\n",
            ),
        ] {
            let read = documents(text);
            let mut value = read[0].value.clone();
            *value.pointer_mut(pointer).unwrap() = wanted;
            let expected = text.replacen(old, new, 1);
            assert_eq!(rewrite(text, &read[0], &value).as_deref(), Some(expected.as_str()), "{pointer}");
        }
    }

    #[test]
    fn other_documents_stay_and_what_cannot_be_said_is_none() {
        let text = "a: &x [1]\nb: *x\n---\nc:\n- 1\n- 2\n---\nd: 3\n";
        let read = documents(text);
        let changed = rewrite(text, &read[1], &json!({"c": [2]}));
        assert_eq!(changed.as_deref(), Some("a: &x [1]\nb: *x\n---\nc:\n- 2\n---\nd: 3\n"));
        assert_eq!(rewrite(text, &read[0], &json!({"a": [2], "b": [1]})), None, "the alias would change too");
        assert_eq!(rewrite(text, &read[2], &Value::from("all")), None);
    }
}
