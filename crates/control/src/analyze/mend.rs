//! Edits of YAML by place, so that comments and layout stay.

use std::ops::Range;

use api::yaml::{Children, Node};

/// What to put in the place of a scalar, quoted as it is; none if it is no scalar that stands there as written.
pub(super) fn scalar(text: &str, node: &Node, instead: &str) -> Option<(Range<usize>, String)> {
    let written = text.get(node.span.bytes.clone())?;
    let plain = instead.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./:@".contains(letter));
    if !matches!(node.children, Children::None) || written.starts_with(['*', '&', '!', '|', '>']) || !plain {
        return None;
    }
    let replacement = match written.chars().next() {
        Some(quote @ ('"' | '\'')) => format!("{quote}{instead}{quote}"),
        // A number without quotes would be no text.
        _ if instead.parse::<f64>().is_ok() => format!("\"{instead}\""),
        _ => instead.to_owned(),
    };
    Some((node.span.bytes.clone(), replacement))
}

/// A scalar put in quotes as it is written.
pub(super) fn quoted(text: &str, node: &Node) -> Option<(Range<usize>, String)> {
    let written = text.get(node.span.bytes.clone())?;
    let plain =
        !written.is_empty() && written.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
    let is_scalar = matches!(node.children, Children::None) && plain;
    is_scalar.then(|| (node.span.bytes.clone(), format!("\"{written}\"")))
}

/// A scalar that stands in quotes as just this text, without them.
pub(super) fn unquoted(text: &str, node: &Node, plain: &str) -> Option<(Range<usize>, String)> {
    let written = text.get(node.span.bytes.clone())?;
    let quoted = ['"', '\''].into_iter().any(|quote| written == format!("{quote}{plain}{quote}"));
    (matches!(node.children, Children::None) && quoted).then(|| (node.span.bytes.clone(), plain.to_owned()))
}

/// The lines of a field of a block mapping that keeps another field; none where whole lines will not do.
pub(super) fn without_field(text: &str, mapping: &Node, name: &str) -> Option<Range<usize>> {
    if mapping.flow || mapping.fields().len() < 2 {
        return None;
    }
    let field = mapping.field(name)?;
    let start = text.get(..field.key_span.bytes.start)?.rfind('\n').map_or(0, |end| end + 1);
    // Behind the dash of a list item, the next field would have to move up.
    if !text.get(start..field.key_span.bytes.start)?.trim().is_empty() {
        return None;
    }
    let end = field.node.span.bytes.end.max(field.key_span.bytes.end);
    let rest = text.get(end..)?;
    Some(start..end + rest.find('\n').map_or(rest.len(), |line| line + 1))
}

/// The dash before an item of a block list, to be put out so that the item becomes part of the one before.
pub(super) fn dash(text: &str, item: &Node) -> Option<Range<usize>> {
    let before = text.get(..item.span.bytes.start)?;
    let dash = before.trim_end_matches(' ').strip_suffix('-')?;
    let line = dash.rsplit('\n').next()?;
    (line.trim().is_empty() && !item.flow).then(|| dash.len()..dash.len() + 1)
}
