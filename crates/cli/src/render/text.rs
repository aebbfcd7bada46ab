//! For people, as rustc shows its findings.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level as Shape, Patch, Renderer, Snippet};
use control::analyze::{Diagnostic, Edit, Label};
use control::finding::Level;

use super::Shown;

/// Every finding with an excerpt of its text.
pub(crate) fn text(diagnostics: &[Diagnostic], texts: &[Shown<'_>], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut all = String::new();
    for diagnostic in diagnostics {
        all.push_str(&renderer.render(&groups(diagnostic, texts)));
        all.push_str("\n\n");
    }
    all
}

/// How many there are of each level, in one line; empty if there are none.
pub(crate) fn totals(diagnostics: &[Diagnostic], suppressed: usize) -> String {
    let mut parts = Vec::new();
    for level in [Level::Error, Level::Warning, Level::Note] {
        match diagnostics.iter().filter(|one| one.level == level).count() {
            0 => {}
            1 => parts.push(format!("1 {}", level.word())),
            many => parts.push(format!("{many} {}s", level.word())),
        }
    }
    if suppressed > 0 {
        parts.push(format!("{suppressed} allowed"));
    }
    parts.join(", ")
}

fn groups<'a>(diagnostic: &'a Diagnostic, texts: &'a [Shown<'a>]) -> Vec<Group<'a>> {
    let shape = match diagnostic.level {
        Level::Error => Shape::ERROR,
        Level::Warning => Shape::WARNING,
        Level::Note => Shape::NOTE,
    };
    let mut main = shape
        .primary_title(clean(&diagnostic.message))
        .id(diagnostic.entry.number)
        .elements(snippets(diagnostic, texts));
    for note in &diagnostic.notes {
        main = main.element(Shape::NOTE.message(clean(note)));
    }
    let Some(fix) = &diagnostic.fix else { return vec![main] };
    let first = fix.edits.first().and_then(|edit| texts.get(edit.text));
    let Some(shown) = first.filter(|_| fix.edits.len() <= EDITS_SHOWN_MAX) else {
        return vec![main.element(Shape::HELP.message(clean(&fix.says)))];
    };
    vec![main, Shape::HELP.secondary_title(clean(&fix.says)).element(patch(&fix.edits, shown))]
}

/// More edits than this are told in words only: nobody reads them in an excerpt.
const EDITS_SHOWN_MAX: usize = 8;

/// One excerpt for each text that has a label, the main one first.
fn snippets<'a>(
    diagnostic: &'a Diagnostic,
    texts: &'a [Shown<'a>],
) -> Vec<Snippet<'a, annotate_snippets::Annotation<'a>>> {
    let mut order: Vec<usize> = Vec::new();
    for label in &diagnostic.labels {
        if !order.contains(&label.text) {
            order.push(label.text);
        }
    }
    let mut all = Vec::new();
    for index in order {
        let Some(shown) = texts.get(index) else { continue };
        let labels: Vec<(usize, &Label)> =
            diagnostic.labels.iter().enumerate().filter(|(_, label)| label.text == index).collect();
        let places: Vec<Range<usize>> = labels.iter().map(|(_, label)| first_line(shown.text, &label.bytes)).collect();
        let (window, line) = window(shown.text, &places);
        let excerpt = shown.text.get(window.clone()).unwrap_or_default();
        let annotations = labels.iter().zip(&places).map(|((position, label), place)| {
            let kind = if *position == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let span = place.start - window.start..place.end - window.start;
            let annotation = kind.span(span);
            if label.says.is_empty() { annotation } else { annotation.label(clean(&label.says)) }
        });
        all.push(Snippet::source(excerpt).path(clean(shown.name)).line_start(line).annotations(annotations));
    }
    all
}

fn patch<'a>(edits: &'a [Edit], shown: &Shown<'a>) -> Snippet<'a, Patch<'a>> {
    let places: Vec<Range<usize>> = edits.iter().map(|edit| edit.bytes.clone()).collect();
    let (window, line) = window(shown.text, &places);
    let excerpt = shown.text.get(window.clone()).unwrap_or_default();
    let patches =
        edits.iter().filter(|edit| edit.bytes.start >= window.start && edit.bytes.end <= window.end).map(|edit| {
            Patch::new(edit.bytes.start - window.start..edit.bytes.end - window.start, edit.replacement.as_str())
        });
    Snippet::source(excerpt).path(clean(shown.name)).line_start(line).patches(patches)
}

/// The part of a place that is on its first line: a block of many lines is shown by its beginning.
fn first_line(text: &str, bytes: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(bytes.start);
    let end = text.floor_char_boundary(bytes.end).max(start);
    let inside = text.get(start..end).unwrap_or_default();
    start..inside.find('\n').map_or(end, |line| start + line)
}

/// The whole lines that hold all places, and the number of the first: an excerpt of a long text must not cost its length.
fn window(text: &str, places: &[Range<usize>]) -> (Range<usize>, usize) {
    let first = places.iter().map(|place| place.start).min().unwrap_or_default().min(text.len());
    let last = places.iter().map(|place| place.end).max().unwrap_or_default().clamp(first, text.len());
    let start = text.get(..first).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    let end = text.get(last..).and_then(|rest| rest.find('\n')).map_or(text.len(), |line| last + line + 1);
    let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
    (start..end, line)
}

/// Nothing that a manifest says may move the cursor of who reads about it.
fn clean(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            clean.extend(letter.escape_default());
        } else {
            clean.push(letter);
        }
    }
    clean
}
