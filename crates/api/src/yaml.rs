//! YAML: documents with the place of everything in them, and an emitter.
//!
//! Scalars mean what kubectl takes them for (YAML 1.1 words such as `on` and `yes` are booleans, `0644` is octal), so that a
//! file says the same here and there. Aliases are expanded within a budget; tags other than the core ones are ignored.

mod build;
mod parts;
mod print;
mod scalar;

use std::ops::Range;

use serde_json::Value;

pub use build::documents;
pub use parts::{Part, PartRead, joined, parts};
pub use print::print;

/// Longest input; several times what the API server takes in one request.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Deepest nesting, the depth at which JSON bodies are refused as well.
pub const DEPTH_MAX: usize = 120;
/// Most nodes that anchors and aliases of one input may copy: far above honest use, far below what hurts.
pub const ALIASED_NODES_MAX: usize = 100_000;
/// Most bytes of text that anchors and aliases of one input may copy.
pub const ALIASED_BYTES_MAX: usize = BYTES_MAX;

/// One document of a stream.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says; null if it is empty or could not be read.
    pub value: Value,
    /// Where everything stands; none if the document is empty or could not be read.
    pub root: Option<Node>,
    /// The document's part of the input, marker and comments included. The parts of all documents make up the input.
    pub range: Range<usize>,
    /// Comments in it, in order.
    pub comments: Vec<Comment>,
    /// What is wrong with it, in order.
    pub problems: Vec<Problem>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands, without trailing blank lines.
    pub span: Span,
    /// Whether it is written in flow style, `{..}` or `[..]`.
    pub flow: bool,
    /// What is in it.
    pub children: Children,
}

/// What is in a node.
#[derive(Clone, Debug)]
pub enum Children {
    /// Nothing: a scalar, or an alias whose contents stand elsewhere.
    None,
    /// Fields of a mapping in order, the last one first found where a key stands twice.
    Fields(Vec<Field>),
    /// Items of a list in order.
    Items(Vec<Node>),
}

/// A field of a mapping.
#[derive(Clone, Debug)]
pub struct Field {
    /// The key as it is understood.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub node: Node,
}

/// A part of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Bytes.
    pub bytes: Range<usize>,
    /// Line of the start, from 1.
    pub line: usize,
    /// Column of the start in characters, from 1.
    pub column: usize,
}

/// A comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// Text after the `#`, trimmed.
    pub text: String,
    /// Where it stands, the `#` included.
    pub span: Span,
}

/// Something that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is, and what to do.
    pub message: String,
    /// Where it is.
    pub span: Span,
    /// The other place, where there is one: the first of two equal keys.
    pub other: Option<Span>,
    /// Whether the document has no value because of it.
    pub fatal: bool,
}

impl Document {
    /// Whether nothing but comments stands in it.
    pub fn is_empty(&self) -> bool {
        self.value.is_null() && !self.problems.iter().any(|problem| problem.fatal)
    }

    /// The first problem because of which the document has no value.
    pub fn fatal(&self) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.fatal)
    }

    /// Key (none for list items) and value at a field path such as `spec.rules[0].to` or `metadata.labels[a.b/c]`.
    ///
    /// If the path leads nowhere, the deepest part of it that exists.
    pub fn locate(&self, path: &str) -> Option<(Option<&Span>, &Node)> {
        let mut found = (None, self.root.as_ref()?);
        for step in steps(path) {
            match found.1.child(&step) {
                Some(next) => found = next,
                None => break,
            }
        }
        Some(found)
    }

    /// The value at a field path, none if there is none.
    pub fn node(&self, path: &str) -> Option<&Node> {
        let root = self.root.as_ref()?;
        steps(path).iter().try_fold(root, |node, step| Some(node.child(step)?.1))
    }
}

impl Node {
    /// The value of a field.
    pub fn field(&self, key: &str) -> Option<&Field> {
        match &self.children {
            // The last of equal keys is the one that counts.
            Children::Fields(fields) => fields.iter().rev().find(|field| field.key == key),
            _ => None,
        }
    }

    /// The fields of a mapping, empty for anything else.
    pub fn fields(&self) -> &[Field] {
        match &self.children {
            Children::Fields(fields) => fields,
            _ => &[],
        }
    }

    /// The items of a list, empty for anything else.
    pub fn items(&self) -> &[Self] {
        match &self.children {
            Children::Items(items) => items,
            _ => &[],
        }
    }

    fn child(&self, step: &str) -> Option<(Option<&Span>, &Self)> {
        match &self.children {
            Children::None => None,
            Children::Fields(_) => self.field(step).map(|field| (Some(&field.key_span), &field.node)),
            Children::Items(items) => items.get(step.parse::<usize>().ok()?).map(|node| (None, node)),
        }
    }
}

/// The steps of a field path; what stands in brackets is one step whatever it holds.
pub fn steps(path: &str) -> Vec<String> {
    let (mut steps, mut step, mut bracket) = (Vec::new(), String::new(), false);
    for character in path.chars() {
        match (bracket, character) {
            (false, '.' | '[') | (true, ']') => {
                if !step.is_empty() {
                    steps.push(std::mem::take(&mut step));
                }
                bracket = character == '[';
            }
            _ => step.push(character),
        }
    }
    if !step.is_empty() {
        steps.push(step);
    }
    steps
}

#[cfg(test)]
mod tests;
