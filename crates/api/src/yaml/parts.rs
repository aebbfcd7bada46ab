//! One text in parts of whole documents, which can be read apart and at the same time.
//!
//! What comes out is what [`documents`](super::documents) says of the whole, or nothing: parts are joined only where each was read
//! without a syntax error and ended where the next one begins. Nothing is guessed about a text that is not well formed.

use std::ops::Range;

use super::{ALIASED_BYTES_MAX, ALIASED_NODES_MAX, BYTES_MAX, Comment, Document, build};

/// A part of a text, which begins where a document does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    range: Range<usize>,
    /// The line it begins in, from 1.
    line: usize,
}

/// What was read of a part.
#[derive(Debug)]
pub struct PartRead {
    part: Part,
    /// Its documents, with places in the whole text.
    pub documents: Vec<Document>,
    /// Comments that belong to the first document of the next part.
    comments: Vec<Comment>,
    aliased_nodes: usize,
    aliased_bytes: usize,
    /// The byte and line at which the next part has to begin.
    next: Option<(usize, usize)>,
}

/// Cuts a text before `---` into parts that are about this long; into one where it cannot be cut.
pub fn parts(text: &str, bytes: usize) -> Vec<Part> {
    if text.len() <= bytes || text.len() > BYTES_MAX || has_directives(text) {
        return vec![Part::whole(text)];
    }
    let (mut parts, mut start, mut line) = (Vec::new(), 0_usize, 1_usize);
    while let Some(end) = marker(text, start.saturating_add(bytes.max(1))) {
        parts.push(Part { range: start..end, line });
        line = line.saturating_add(lines(text.as_bytes().get(start..end).unwrap_or_default()));
        start = end;
    }
    parts.push(Part { range: start..text.len(), line });
    parts
}

/// The documents of a text whose parts, in their order, these are; none where only the text as a whole tells what they are.
pub fn joined(text: &str, parts: Vec<PartRead>) -> Option<Vec<Document>> {
    let is_whole = matches!(parts.as_slice(), [one] if one.part == Part::whole(text));
    if !is_whole && !fit(text, &parts) {
        return None;
    }
    let (mut all, mut comments) = (Vec::<Document>::new(), Vec::new());
    for mut part in parts {
        if let Some(first) = part.documents.first_mut() {
            first.comments.splice(0..0, std::mem::take(&mut comments));
        }
        comments.append(&mut part.comments);
        all.append(&mut part.documents);
    }
    if let Some(last) = all.last_mut() {
        last.comments.append(&mut comments);
    }
    // As in a text that is read as a whole, what stands before the first document belongs to it.
    if let Some(first) = all.first_mut() {
        first.range.start = 0;
    }
    Some(all)
}

/// Whether every part is free of syntax errors and ends where the next one begins, and the text begins and ends with them.
fn fit(text: &str, parts: &[PartRead]) -> bool {
    let sum = |cost: fn(&PartRead) -> usize| parts.iter().map(cost).fold(0_usize, usize::saturating_add);
    // Copies have one budget for the whole text.
    if sum(|part| part.aliased_nodes) > ALIASED_NODES_MAX || sum(|part| part.aliased_bytes) > ALIASED_BYTES_MAX {
        return false;
    }
    let sound = |part: &PartRead| part.documents.iter().all(|document| document.fatal().is_none());
    let mut place = Some((0, 1));
    for read in parts {
        if place != Some((read.part.range.start, read.part.line)) || !sound(read) {
            return false;
        }
        place = read.next;
    }
    place.is_none() && parts.last().is_some_and(|last| last.part.range.end == text.len())
}

impl Part {
    /// All of a text.
    pub fn whole(text: &str) -> Self {
        Self { range: 0..text.len(), line: 1 }
    }

    /// Reads the part, which is one of this text.
    pub fn read(&self, text: &str) -> PartRead {
        let part = self.clone();
        if text.len() > BYTES_MAX {
            let documents = super::documents(text);
            return PartRead { part, documents, comments: Vec::new(), aliased_nodes: 0, aliased_bytes: 0, next: None };
        }
        let build::Reading { documents, comments, aliased_nodes, aliased_bytes, next } =
            build::read(text, &self.range, self.line);
        PartRead { part, documents, comments, aliased_nodes, aliased_bytes, next }
    }
}

/// Whether a line begins with `%`: directives stand before the marker of their document, and would be cut off from it.
fn has_directives(text: &str) -> bool {
    let before = |at: usize| at.checked_sub(1).and_then(|at| text.as_bytes().get(at));
    text.match_indices('%').any(|(at, _)| before(at).is_none_or(|byte| matches!(byte, b'\n' | b'\r')))
}

/// The first `---` from here on that begins a line and is a word of its own.
fn marker(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut from = from;
    loop {
        let found = bytes.get(from..)?.windows(4).position(|four| four == b"\n---")?;
        let at = from.saturating_add(found).saturating_add(1);
        match bytes.get(at.saturating_add(3)) {
            None | Some(b' ' | b'\t' | b'\n' | b'\r') => return Some(at),
            Some(_) => from = at,
        }
    }
}

/// How many lines end in these bytes; a carriage return alone ends one.
fn lines(bytes: &[u8]) -> usize {
    let ends = |(at, byte): (usize, &u8)| match byte {
        b'\n' => true,
        b'\r' => bytes.get(at.saturating_add(1)) != Some(&b'\n'),
        _ => false,
    };
    bytes.iter().enumerate().filter(|one| ends(*one)).count()
}

#[cfg(test)]
mod tests;
