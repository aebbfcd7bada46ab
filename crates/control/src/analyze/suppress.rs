//! Findings that their author has seen and means: `# tidegate: allow TG0201` on the line of the finding, on a line of its own above
//! the item, or before the first line of a document for all of it; and codes that a run leaves out.
//!
//! What cannot be read and what an API server refuses cannot be allowed away. A suppression that hides nothing is told.

use std::collections::BTreeSet;
use std::ops::Range;

use api::yaml::{Comment, Document, Node, Span};

use super::diagnostic::{Diagnostic, Edit};
use crate::finding::{Code, Entry, Level, entry};

/// What a comment starts with.
const PREFIX: &str = "tidegate:";

/// One code that a comment allows, and where.
struct Allowed<'a> {
    entry: Entry,
    text: usize,
    bytes: Range<usize>,
    comment: &'a Comment,
    /// Whether the comment names other codes too, so that it cannot simply be removed.
    shared: bool,
    used: bool,
}

/// The suppressions of a set of texts.
#[derive(Default)]
pub(super) struct Suppressions<'a> {
    allowed: Vec<Allowed<'a>>,
    told: Vec<Diagnostic>,
}

impl<'a> Suppressions<'a> {
    /// Reads the comments of a document.
    pub(super) fn read(&mut self, text: usize, written: &str, document: &'a Document) {
        for comment in &document.comments {
            let Some(words) = comment.text.strip_prefix(PREFIX) else { continue };
            // What follows a dash is the author's reason.
            let words = words.split_once(" - ").map_or(words, |(codes, _)| codes);
            let mut words = words.split([' ', ',', '\t']).filter(|word| !word.is_empty());
            let verb = words.next().unwrap_or_default();
            let codes: Vec<&str> = words.collect();
            if verb != "allow" || codes.is_empty() {
                self.tell(text, comment, "a comment for Tidegate reads `tidegate: allow CODE`".to_owned());
                continue;
            }
            let bytes = reach(written, document, comment);
            for code in &codes {
                match entry(code) {
                    Some(entry) if entry.level == Level::Error => {
                        self.tell(
                            text,
                            comment,
                            format!("`{code}` cannot be allowed: an API server refuses it anyway"),
                        );
                    }
                    Some(entry) => {
                        let (bytes, shared) = (bytes.clone(), codes.len() > 1);
                        self.allowed.push(Allowed { entry, text, bytes, comment, shared, used: false });
                    }
                    None => {
                        self.tell(text, comment, format!("`{code}` is not a code; `tidegate explain CODE` knows them"));
                    }
                }
            }
        }
    }

    fn tell(&mut self, text: usize, comment: &Comment, message: String) {
        self.told.push(Diagnostic::new(Code::SuppressionUnknown.entry(), message).at(text, &comment.span, ""));
    }

    /// Whether a comment allows a finding.
    pub(super) fn hides(&mut self, diagnostic: &Diagnostic) -> bool {
        if diagnostic.level == Level::Error {
            return false;
        }
        let Some(place) = diagnostic.labels.first() else { return false };
        let mut hidden = false;
        let same = self.allowed.iter_mut().filter(|one| one.text == place.text && one.entry == diagnostic.entry);
        for one in same.filter(|one| one.bytes.contains(&place.bytes.start)) {
            one.used = true;
            hidden = true;
        }
        hidden
    }

    /// What is wrong with the suppressions themselves. Codes that the whole run allows are used by that.
    pub(super) fn remarks(self, by_run: &BTreeSet<&'static str>, texts: &[&str]) -> Vec<Diagnostic> {
        let mut told = self.told;
        for one in self.allowed.into_iter().filter(|one| !one.used && !by_run.contains(one.entry.number)) {
            let message = format!("`{}` is allowed here and not found", one.entry.word);
            let diagnostic =
                Diagnostic::new(Code::SuppressionUnused.entry(), message).at(one.text, &one.comment.span, "");
            let removal = texts.get(one.text).filter(|_| !one.shared).map(|text| removal(text, &one.comment.span));
            told.push(match removal {
                Some(bytes) => {
                    let edit = Edit { text: one.text, bytes, replacement: String::new() };
                    diagnostic.fix("remove the comment", vec![edit], true)
                }
                None => diagnostic.help("remove the code from the comment"),
            });
        }
        told
    }
}

/// What to remove with a comment: its whole line if nothing else stands there, else the blanks before it.
fn removal(text: &str, span: &Span) -> Range<usize> {
    let before = text.get(..span.bytes.start).unwrap_or_default();
    let kept = before.trim_end_matches([' ', '\t']);
    if kept.is_empty() || kept.ends_with('\n') {
        let rest = text.get(span.bytes.end..).unwrap_or_default();
        let line = rest.find('\n').map_or(rest.len(), |end| end + 1);
        return kept.len()..span.bytes.end + line;
    }
    kept.len()..span.bytes.end
}

/// The bytes in which a comment allows findings.
fn reach(text: &str, document: &Document, comment: &Comment) -> Range<usize> {
    let at = comment.span.bytes.start;
    let line = text.get(..at).unwrap_or_default().rfind('\n').map_or(0, |end| end + 1);
    let own_line = text.get(line..at).unwrap_or_default().trim().is_empty();
    let Some(root) = &document.root else { return document.range.clone() };
    if own_line && comment.span.bytes.end <= root.span.bytes.start {
        return document.range.clone();
    }
    if own_line {
        return below(root, comment.span.bytes.end).unwrap_or(at..at);
    }
    let rest = text.get(at..).unwrap_or_default();
    let end = at + rest.find('\n').unwrap_or(rest.len());
    // A field or item that begins on the line is meant with all that is in it.
    let item = (line..at).find_map(|start| starting(root, start));
    line..item.map_or(end, |item| item.max(end))
}

/// The first field or item that begins below a place, as a whole.
fn below(node: &Node, from: usize) -> Option<Range<usize>> {
    let fields = node.fields().iter().map(|field| (field.key_span.bytes.start..field.node.span.bytes.end, &field.node));
    let items = node.items().iter().map(|item| (item.span.bytes.clone(), item));
    for (range, inner) in fields.chain(items) {
        let range = range.start..range.end.max(range.start);
        if range.start >= from {
            return Some(range);
        }
        if range.end > from {
            return below(inner, from);
        }
    }
    None
}

/// Where the item of a list ends that begins at this byte; fields are as long as their line, since `rules:` begins everything.
fn starting(node: &Node, at: usize) -> Option<usize> {
    if !node.span.bytes.contains(&at) {
        return None;
    }
    let item = node.items().iter().find(|item| item.span.bytes.start == at && !item.fields().is_empty());
    item.map(|item| item.span.bytes.end).or_else(|| {
        let fields = node.fields().iter().map(|field| &field.node);
        fields.chain(node.items()).find_map(|inner| starting(inner, at))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Suppressions;
    use crate::analyze::diagnostic::{Diagnostic, fixed};
    use crate::finding::entry;

    const TEXT: &str = "\
# tidegate: allow TG0202 - stars are meant
kind: X
spec:
  # tidegate: allow TG0104, TG0101
  rules:
  - to: 1
  - from: 2 # tidegate: allow TG0201
  other: 3 # tidegate: allow TG0503
  more: 4 # tidegate: alow TG0503
  last: 5 # tidegate: allow TG4711 rules-required
";

    fn at(code: &str, place: &str) -> Diagnostic {
        let start = TEXT.find(place).unwrap();
        let span = api::yaml::Span { bytes: start..start + 1, line: 1, column: 1 };
        Diagnostic::new(entry(code).unwrap(), "m").at(0, &span, "")
    }

    #[test]
    fn comments_hide_what_they_name_where_they_stand() {
        let documents = api::yaml::documents(TEXT);
        let mut suppressions = Suppressions::default();
        suppressions.read(0, TEXT, &documents[0]);
        for (code, place, hidden) in [
            ("TG0202", "last", true),
            ("TG0202", "kind", true),
            ("TG0104", "rules", true),
            ("TG0101", "to: 1", true),
            ("TG0101", "from: 2", true),
            ("TG0101", "other", false),
            ("TG0201", "from: 2", true),
            ("TG0201", "to: 1", false),
            ("TG0503", "more", false),
        ] {
            assert_eq!(suppressions.hides(&at(code, place)), hidden, "{code} at {place}");
        }
        let told = suppressions.remarks(&BTreeSet::new(), &[TEXT]);
        let words: Vec<_> = told.iter().map(|one| (one.entry.number, one.labels[0].line)).collect();
        assert_eq!(words, [("TG0007", 9), ("TG0007", 10), ("TG0007", 10), ("TG0008", 8)]);
        let text = fixed(TEXT, 0, &told).unwrap();
        assert!(text.contains("  other: 3\n"), "{text}");
    }

    #[test]
    fn a_code_that_the_run_allows_is_used() {
        let documents = api::yaml::documents(TEXT);
        let mut suppressions = Suppressions::default();
        suppressions.read(0, TEXT, &documents[0]);
        let all = BTreeSet::from(["TG0202", "TG0104", "TG0101", "TG0201", "TG0503"]);
        assert!(suppressions.remarks(&all, &[TEXT]).iter().all(|one| one.entry.number == "TG0007"));
    }
}
