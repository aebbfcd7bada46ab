//! Workflow commands of GitHub Actions, one line a finding: they appear beside the lines of a pull request.

use control::analyze::Diagnostic;
use control::finding::Level;

use super::{Shown, end};

/// The findings as workflow commands.
pub(crate) fn github(diagnostics: &[Diagnostic], texts: &[Shown<'_>]) -> String {
    diagnostics.iter().flat_map(Diagnostic::each).map(|one| command(one, texts)).collect()
}

fn command(one: &Diagnostic, texts: &[Shown<'_>]) -> String {
    let word = match one.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "notice",
    };
    let mut properties = Vec::new();
    if let Some((label, shown)) = one.labels.first().and_then(|label| Some((label, texts.get(label.text)?))) {
        let (end_line, end_column) = end(label, shown);
        properties.push(format!("file={}", property(shown.name)));
        properties.push(format!("line={}", label.line));
        properties.push(format!("endLine={end_line}"));
        // Columns are only understood within one line.
        if end_line == label.line {
            properties.push(format!("col={}", label.column));
            properties.push(format!("endColumn={end_column}"));
        }
    }
    properties.push(format!("title={}", one.entry.number));
    let mut message = one.message.clone();
    for note in &one.notes {
        message = format!("{message}\nnote: {note}");
    }
    if let Some(fix) = &one.fix {
        message = format!("{message}\nhelp: {}", fix.says);
    }
    format!("::{word} {}::{}\n", properties.join(","), content(&message))
}

fn content(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    content(text).replace(':', "%3A").replace(',', "%2C")
}
