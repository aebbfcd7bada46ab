//! The emitter: block style, as `kubectl get -o yaml` prints, in the order of the value.

use std::fmt::Write as _;

use serde_json::Value;

use super::scalar::{self, Plain};

/// Longest key written in one line with its value: YAML readers look no further than 1024 characters for the colon.
const SIMPLE_KEY_BYTES_MAX: usize = 1000;

/// Writes a value as one YAML document without marker, ending in a line feed.
pub fn print(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => mapping(&mut out, fields, 0),
        Value::Array(items) if !items.is_empty() => list(&mut out, items, 0),
        other => {
            out.push_str(&inline(other));
            out.push('\n');
        }
    }
    out
}

/// Writes fields, the first of them where the cursor is.
fn mapping(out: &mut String, fields: &serde_json::Map<String, Value>, indent: usize) {
    for (index, (key, value)) in fields.iter().enumerate() {
        if index > 0 {
            pad(out, indent);
        }
        if key.len() > SIMPLE_KEY_BYTES_MAX {
            out.push_str("? ");
            out.push_str(&quoted(key));
            out.push('\n');
            pad(out, indent);
        } else {
            out.push_str(&text(key));
        }
        out.push(':');
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                out.push('\n');
                pad(out, indent.saturating_add(2));
                mapping(out, fields, indent.saturating_add(2));
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                pad(out, indent);
                list(out, items, indent);
            }
            other => scalar_after(out, other, indent),
        }
    }
}

/// Writes items, the first of them where the cursor is.
fn list(out: &mut String, items: &[Value], indent: usize) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            pad(out, indent);
        }
        out.push('-');
        match item {
            Value::Object(fields) if !fields.is_empty() => {
                out.push(' ');
                mapping(out, fields, indent.saturating_add(2));
            }
            Value::Array(items) if !items.is_empty() => {
                out.push(' ');
                list(out, items, indent.saturating_add(2));
            }
            other => scalar_after(out, other, indent),
        }
    }
}

/// Writes a blank and a scalar, or a literal block below.
fn scalar_after(out: &mut String, value: &Value, indent: usize) {
    out.push(' ');
    match value {
        Value::String(content) if fits_literal(content) => literal(out, content, indent.saturating_add(2)),
        other => {
            out.push_str(&inline(other));
            out.push('\n');
        }
    }
}

fn literal(out: &mut String, content: &str, indent: usize) {
    out.push_str(match content.strip_suffix('\n') {
        None => "|-\n",
        Some(rest) if rest.ends_with('\n') => "|+\n",
        Some(_) => "|\n",
    });
    for line in content.strip_suffix('\n').unwrap_or(content).split('\n') {
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
        out.push('\n');
    }
}

/// Whether a text reads better as a literal block, and can be one without loss.
fn fits_literal(content: &str) -> bool {
    content.contains('\n')
        && content.starts_with(|first: char| !first.is_whitespace())
        && content.split('\n').all(|line| !line.ends_with([' ', '\t']) && !line.starts_with('\t'))
        && content.chars().all(|character| character == '\n' || character == '\t' || is_printable(character))
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(content) => text(content),
        other => other.to_string(),
    }
}

fn text(content: &str) -> String {
    if is_plain(content) { content.to_owned() } else { quoted(content) }
}

fn quoted(content: &str) -> String {
    let mut out = String::from("\"");
    for character in content.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            printable if is_printable(printable) => out.push(printable),
            other => {
                let code = u32::from(other);
                let _infallible =
                    if code > 0xFFFF { write!(out, "\\U{code:08X}") } else { write!(out, "\\u{code:04X}") };
            }
        }
    }
    out.push('"');
    out
}

/// Whether a text can stand unquoted and still be that text to every YAML reader.
fn is_plain(content: &str) -> bool {
    let first = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '/' | '_' | '.' | '$' | '(' | '^' | '+')
    };
    let inner = |character: char| {
        first(character)
            || matches!(
                character,
                ' ' | '-' | ':' | '@' | '=' | ',' | ')' | '%' | ';' | '~' | '*' | '#' | '!' | '<' | '>' | '|' | '\''
            )
    };
    content.starts_with(first)
        && content.chars().all(inner)
        && !content.ends_with([' ', ':'])
        && !content.contains(": ")
        && !content.contains(" #")
        && !content.starts_with("...")
        && scalar::plain(content) == Plain::Value(Value::from(content))
        && !is_word_elsewhere(content)
}

/// Texts that other YAML readers take for dates or for numbers to the base of 60.
fn is_word_elsewhere(content: &str) -> bool {
    content.starts_with(|first: char| first.is_ascii_digit() || first == '+')
        && (content.bytes().all(|byte| byte.is_ascii_digit() || b":._+".contains(&byte)) && content.contains(':')
            || content.as_bytes().get(4) == Some(&b'-') && content.bytes().take(4).all(|byte| byte.is_ascii_digit()))
}

/// Printable in YAML, and no line break of any kind.
fn is_printable(character: char) -> bool {
    match character {
        '\u{2028}' | '\u{2029}' | '\u{FEFF}' => false,
        ' '..='~' | '\u{A0}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'.. => true,
        _ => false,
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}
