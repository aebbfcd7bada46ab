//! A finding with its places in the text, ready to be shown in any form, and with the edits that would mend it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use api::yaml::Span;

use crate::finding::{Code, Entry, Level};

/// Places of findings that are told once; the others are counted.
const ALIKE_MAX: usize = 2;

/// One finding with its places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its line of the table.
    pub entry: Entry,
    /// How much it weighs here; contexts lower the level of the table.
    pub level: Level,
    /// What is so.
    pub message: String,
    /// Where, the main place first; never empty but for an input that has no text.
    pub labels: Vec<Label>,
    /// What follows from it.
    pub notes: Vec<String>,
    /// What to do about it.
    pub fix: Option<Fix>,
    /// With which others it is told as one.
    pub(crate) fold: Fold,
    /// All that this one stands for, itself among them; empty if it stands for itself only.
    pub(crate) alike: Vec<Self>,
}

/// Which findings of one code are told as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fold {
    /// None: each has its own story.
    Never,
    /// It is so only on ports that carry TCP, and nothing says what these carry: so are all others of that kind.
    Unsure,
    /// Those with the same words: one slip in many objects.
    Same,
}

/// A place with words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Which text, by its index.
    pub text: usize,
    /// Bytes of the text.
    pub bytes: Range<usize>,
    /// Line of the start, from 1.
    pub line: usize,
    /// Column of the start in characters, from 1.
    pub column: usize,
    /// What is at this place; may be empty.
    pub says: String,
}

/// How to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// What to do, in words.
    pub says: String,
    /// The same as edits of texts; none where it takes a decision of the author.
    pub edits: Vec<Edit>,
    /// Whether `--fix` may do it: what is written can only have been meant so.
    pub safe: bool,
}

/// A change of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Which text, by its index.
    pub text: usize,
    /// The bytes that go.
    pub bytes: Range<usize>,
    /// What comes in their place.
    pub replacement: String,
}

impl Diagnostic {
    /// One without places yet.
    pub(crate) fn new(entry: Entry, message: impl Into<String>) -> Self {
        let (labels, notes) = (Vec::new(), Vec::new());
        Self {
            entry,
            level: entry.level,
            message: message.into(),
            labels,
            notes,
            fix: None,
            fold: Fold::Never,
            alike: Vec::new(),
        }
    }

    /// One on an input that could not be read at all.
    pub fn unreadable(name: &str, why: &str) -> Self {
        Self::new(Code::NotText.entry(), format!("{name}: {why}"))
    }

    /// What it stands for, each with its own place: what machines are given, which show findings beside their lines.
    pub fn each(&self) -> &[Self] {
        if self.alike.is_empty() { std::slice::from_ref(self) } else { &self.alike }
    }

    pub(crate) fn at(mut self, text: usize, span: &Span, says: impl Into<String>) -> Self {
        self.labels.push(Label {
            text,
            bytes: span.bytes.clone(),
            line: span.line,
            column: span.column,
            says: says.into(),
        });
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub(crate) fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// What to do, in words only.
    pub(crate) fn help(mut self, says: impl Into<String>) -> Self {
        self.fix = Some(Fix { says: says.into(), edits: Vec::new(), safe: false });
        self
    }

    pub(crate) fn fix(mut self, says: impl Into<String>, edits: Vec<Edit>, safe: bool) -> Self {
        let safe = safe && !edits.is_empty();
        self.fix = Some(Fix { says: says.into(), edits, safe });
        self
    }

    /// Says how many others it stands for.
    fn count_alike(&mut self) {
        let Some(count) = self.alike.len().checked_sub(1) else { return };
        if self.fold == Fold::Same {
            let places = if count == 1 { "place" } else { "places" };
            return self.notes.push(format!("the same stands at {count} more {places} of this set"));
        }
        self.notes.truncate(1);
        let rules = if count == 1 { "rule" } else { "rules" };
        self.notes.push(format!("the same is so of {count} more {rules} of this set"));
        let says = "give the Services of these workloads too: then each rule is judged by what its ports carry";
        self.fix = Some(Fix { says: says.to_owned(), edits: Vec::new(), safe: false });
    }

    /// The order in which findings are shown: what is worth most first, then by place.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let place = |one: &Self| one.labels.first().map(|label| (label.text, label.bytes.start));
        let key = |one: &Self| (one.level, one.entry.worth, place(one), one.entry.number);
        key(self).cmp(&key(other)).then_with(|| self.message.cmp(&other.message))
    }
}

/// Of what is told many times alike, the first one with the places of the next ones: told of each, it would hide what is known.
pub(crate) fn folded(all: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(all.len());
    let mut first_of: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for one in all {
        let words = match one.fold {
            Fold::Never => {
                kept.push(one);
                continue;
            }
            Fold::Unsure => String::new(),
            Fold::Same => one.message.clone(),
        };
        let at = *first_of.entry((one.entry.number, words)).or_insert(kept.len());
        let Some(first) = kept.get_mut(at) else {
            kept.push(one);
            continue;
        };
        if first.alike.is_empty() {
            first.alike.push(first.clone());
        }
        first.alike.push(one.clone());
        if first.alike.len() <= 1 + ALIKE_MAX {
            first.labels.extend(one.labels.into_iter().next());
        }
    }
    kept.iter_mut().for_each(Diagnostic::count_alike);
    kept
}

/// A text after the safe fixes of these diagnostics; none if there is nothing to do. Of edits that overlap the first one is
/// made, and the next look may make the other.
pub fn fixed(text: &str, index: usize, diagnostics: &[Diagnostic]) -> Option<String> {
    let fixes = diagnostics.iter().filter_map(|diagnostic| diagnostic.fix.as_ref()).filter(|fix| fix.safe);
    apply(text, fixes.flat_map(|fix| &fix.edits).filter(|edit| edit.text == index))
}

/// A text after edits, those that overlap an earlier one left out; none if that changes nothing.
pub fn apply<'e>(text: &str, edits: impl IntoIterator<Item = &'e Edit>) -> Option<String> {
    let mut edits: Vec<&'e Edit> = edits.into_iter().collect();
    edits.sort_by_key(|edit| (edit.bytes.start, edit.bytes.end));
    edits.dedup();
    let mut result = String::with_capacity(text.len());
    let mut done = 0;
    for edit in edits.into_iter().filter(|edit| edit.bytes.end <= text.len()) {
        if edit.bytes.start < done {
            continue;
        }
        result.push_str(text.get(done..edit.bytes.start)?);
        result.push_str(&edit.replacement);
        done = edit.bytes.end;
    }
    result.push_str(text.get(done..)?);
    (result != text).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::{Edit, apply};

    fn edit(bytes: std::ops::Range<usize>, replacement: &str) -> Edit {
        Edit { text: 0, bytes, replacement: replacement.to_owned() }
    }

    #[test]
    fn edits() {
        for (edits, expected) in [
            (vec![], None),
            (vec![edit(0..1, "A")], Some("Abcä")),
            (vec![edit(2..3, ""), edit(0..0, ">")], Some(">abä")),
            (vec![edit(0..2, "x"), edit(1..3, "y")], Some("xcä")),
            (vec![edit(0..1, "z"), edit(0..1, "z")], Some("zbcä")),
            (vec![edit(0..1, "a")], None),
            (vec![edit(9..10, "never")], None),
            (vec![edit(4..4, "inside a character")], None),
        ] {
            assert_eq!(apply("abcä", edits.iter()).as_deref(), expected, "{edits:?}");
        }
    }
}
