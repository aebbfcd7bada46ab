//! Texts in pieces that can be read at the same time, and what was read put together.
//!
//! Nothing is started here: who reads has processors, or has not. Pieces that do not fit together are read again as one text.

use api::Key;
use api::yaml::{self, Document, Part, PartRead, Span};

use super::read::{self, Found};
use super::{Bundle, Fault, Origin, Place, Problem, Read, Text};

/// A piece of a text.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    /// Which text.
    index: usize,
    text: &'a str,
    part: Part,
    namespace: &'a str,
}

/// What was read of a piece.
#[derive(Debug)]
pub struct PieceRead {
    /// Which text it is a piece of.
    pub(super) text: usize,
    part: PartRead,
    /// What stands in each of its documents.
    found: Vec<Vec<Found>>,
}

impl Piece<'_> {
    /// Reads it.
    pub fn read(&self) -> PieceRead {
        let part = self.part.read(self.text);
        let found = part.documents.iter().map(|document| read::document(self.text, document, self.namespace)).collect();
        PieceRead { text: self.index, part, found }
    }
}

/// A text, or what is wrong with its bytes.
pub(super) struct Decoded {
    name: String,
    text: Result<String, NoText>,
}

/// Bytes that are no text.
struct NoText {
    lossy: String,
    span: Span,
    message: &'static str,
}

fn decoded(bytes: Vec<u8>) -> Result<String, NoText> {
    if let Some(zero) = bytes.iter().position(|byte| *byte == 0) {
        let lossy = String::from_utf8_lossy(&bytes).into_owned();
        let span = span_at(bytes.get(..zero).unwrap_or_default());
        return Err(NoText { lossy, span, message: "a zero byte: this is a binary file, not YAML" });
    }
    String::from_utf8(bytes).map_err(|error| {
        let bytes = error.as_bytes();
        let span = span_at(bytes.get(..error.utf8_error().valid_up_to()).unwrap_or_default());
        let message = "not UTF-8 from here on; save the file as UTF-8";
        NoText { lossy: String::from_utf8_lossy(bytes).into_owned(), span, message }
    })
}

/// The place after these bytes, in the text that has marks where bytes are no UTF-8: that text is shown, and it is longer.
fn span_at(before: &[u8]) -> Span {
    let before = String::from_utf8_lossy(before);
    let line = before.split('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Span { bytes: before.len()..before.len(), line, column }
}

impl Decoded {
    pub(super) fn new(text: Text) -> Self {
        Self { name: text.name, text: decoded(text.bytes) }
    }
}

/// The pieces of all texts, each about this long, in order.
pub(super) fn cut<'a>(texts: &'a [Decoded], namespace: &'a str, bytes: usize) -> Vec<Piece<'a>> {
    let of_text = |(index, decoded): (usize, &'a Decoded)| {
        let text = decoded.text.as_deref().ok()?;
        let parts = yaml::parts(text, bytes).into_iter();
        Some(parts.map(move |part| Piece { index, text, part, namespace }))
    };
    texts.iter().enumerate().filter_map(of_text).flatten().collect()
}

/// Puts what was read of the next text into the bundle.
pub(super) fn join(decoded: Decoded, pieces: Vec<PieceRead>, namespace: &str, bundle: &mut Bundle) {
    let index = bundle.texts.len();
    let name = decoded.name;
    let text = match decoded.text {
        Ok(text) => text,
        Err(refusal) => {
            let place = Place { text: index, span: refusal.span };
            let message = refusal.message.to_owned();
            bundle.problems.push(Problem { fault: Fault::NotText, place, other: None, message });
            bundle.texts.push(Read { name, text: refusal.lossy, documents: Vec::new() });
            return;
        }
    };
    let (documents, found) = fitted(&text, pieces).unwrap_or_else(|| {
        let PieceRead { part, found, .. } = Piece { index, text: &text, part: Part::whole(&text), namespace }.read();
        (part.documents, found)
    });
    bundle.texts.push(Read { name, text, documents });
    for (document, found) in found.into_iter().enumerate() {
        for one in found {
            put(bundle, (index, document), one);
        }
    }
}

/// The documents of a text, and what stands in each; none where the pieces do not fit together.
fn fitted(text: &str, pieces: Vec<PieceRead>) -> Option<(Vec<Document>, Vec<Vec<Found>>)> {
    let (parts, found): (Vec<_>, Vec<_>) = pieces.into_iter().map(|piece| (piece.part, piece.found)).unzip();
    Some((yaml::joined(text, parts)?, found.into_iter().flatten().collect()))
}

/// Puts in what was found in a document of a text.
fn put(bundle: &mut Bundle, (text, document): (usize, usize), found: Found) {
    let place = |span: Span| Place { text, span };
    match found {
        Found::Problem { fault, span, other, message } => {
            bundle.problems.push(Problem { fault, place: place(span), other: other.map(place), message });
        }
        Found::Object { key, kind, object, prefix } => {
            let origin = Origin { text, document, prefix };
            if let Some(earlier) = bundle.origins.get(&key) {
                let message = format!("{kind} `{}` stands twice; the last one counts: remove one", shown(&key));
                let (other, own) = (name_of(bundle, earlier), name_of(bundle, &origin));
                let fault = Fault::DuplicateObject;
                bundle.problems.extend(own.map(|place| Problem { fault, place, other, message }));
                bundle.keep_replaced(&key);
            }
            bundle.put(key, object, origin);
        }
    }
}

/// Where the name of an object stands.
fn name_of(bundle: &Bundle, origin: &Origin) -> Option<Place> {
    let document = bundle.texts.get(origin.text)?.documents.get(origin.document)?;
    Some(Place { text: origin.text, span: read::span(document, &origin.path("metadata.name")) })
}

fn shown(key: &Key) -> String {
    key.namespace.as_ref().map_or_else(|| key.name.clone(), |namespace| format!("{namespace}/{}", key.name))
}

#[cfg(test)]
mod tests;
