//! Results as text: for people, as JSON, as JUnit XML, as TAP.

use std::fmt::Write;

use control::suite::{Ask, Result};
use serde_json::{Value, json};

use super::Done;
use super::coverage::Coverage;

/// The version of the JSON.
const API_VERSION: &str = "tidegate.io/v1alpha1";

/// How many of each.
struct Counts {
    passed: usize,
    failed: usize,
    inconclusive: usize,
}

impl Counts {
    fn of(done: &[Done<'_>]) -> Self {
        let count = |result| done.iter().filter(|one| one.judgement.result == result).count();
        Self { passed: count(Result::Passed), failed: count(Result::Failed), inconclusive: count(Result::Inconclusive) }
    }
}

impl Done<'_> {
    fn name(&self) -> String {
        format!("{}: {} ({})", self.suite.name, self.item.name, self.profile.word())
    }

    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.item.span.line)
    }
}

/// What failed first, with the explanation; the last line has the counts.
pub(super) fn table(done: &[Done<'_>], coverage: Option<&Coverage>, verbose: bool) -> String {
    let mut text = String::new();
    let shown = |result: Result| done.iter().filter(move |one| one.judgement.result == result);
    for one in shown(Result::Failed).chain(shown(Result::Inconclusive)) {
        let word = if one.judgement.result == Result::Failed { "FAILED" } else { "INCONCLUSIVE" };
        let _infallible = writeln!(text, "{word} {}: {}", one.place(), one.name());
        for line in &one.judgement.said {
            let _infallible = writeln!(text, "  {line}");
        }
        if let Some(trace) = &one.trace {
            let _infallible = writeln!(text, "  trace: {trace}");
        }
    }
    if verbose {
        for one in shown(Result::Passed) {
            let _infallible = writeln!(text, "ok {}: {}", one.place(), one.name());
            for line in &one.judgement.said {
                let _infallible = writeln!(text, "  {line}");
            }
        }
    }
    if let Some(coverage) = coverage {
        for one in &coverage.untouched {
            let at = if one.file.is_empty() { String::new() } else { format!("{}:{}: ", one.file, one.line) };
            let _infallible = writeln!(text, "untested {at}{} rule {}", one.rule.policy, one.rule.rule);
        }
        let touched = coverage.rules - coverage.untouched.len();
        let _infallible = writeln!(text, "{touched} of {} rules are touched by a case", coverage.rules);
    }
    let Counts { passed, failed, inconclusive } = Counts::of(done);
    let unknown = if inconclusive > 0 { format!(", {inconclusive} inconclusive") } else { String::new() };
    let _infallible = writeln!(text, "{passed} passed, {failed} failed{unknown}");
    text
}

/// One object.
pub(super) fn json(done: &[Done<'_>], coverage: Option<&Coverage>) -> String {
    let results: Vec<Value> = done
        .iter()
        .map(|one| {
            let kind = if matches!(one.item.ask, Ask::Case(_)) { "case" } else { "assertion" };
            json!({"file": one.file.display().to_string(), "line": one.item.span.line, "suite": one.suite.name,
                   "name": one.item.name, "kind": kind, "profile": one.profile.word(),
                   "result": one.judgement.result.word(), "said": one.judgement.said})
        })
        .collect();
    let Counts { passed, failed, inconclusive } = Counts::of(done);
    let mut report = json!({"apiVersion": API_VERSION, "kind": "PolicyTestReport", "passed": passed, "failed": failed,
                            "inconclusive": inconclusive, "results": results});
    if let (Some(coverage), Some(report)) = (coverage, report.as_object_mut()) {
        let rule = |one: &super::coverage::Untouched| json!({"policy": one.rule.policy.to_string(), "rule": one.rule.rule, "file": one.file, "line": one.line});
        let untouched: Vec<Value> = coverage.untouched.iter().map(rule).collect();
        report.insert("coverage".to_owned(), json!({"rules": coverage.rules, "untouched": untouched}));
    }
    format!("{report:#}\n")
}

/// JUnit's XML as CI systems read it: an element `testsuite` for each suite, in one `testsuites`.
pub(super) fn junit(done: &[Done<'_>]) -> String {
    let Counts { passed, failed, inconclusive } = Counts::of(done);
    let (tests, wrong) = (passed + failed + inconclusive, failed + inconclusive);
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"tidegate test\" tests=\"{tests}\" failures=\"{wrong}\">\n"
    );
    for suite in done.chunk_by(|one, other| std::ptr::eq(one.suite, other.suite)) {
        let Some(first) = suite.first() else { continue };
        let (file, name) = (xml(&first.file.display().to_string()), xml(&first.suite.name));
        let wrong = suite.iter().filter(|one| one.judgement.result != Result::Passed).count();
        let tests = suite.len();
        let _infallible =
            writeln!(text, "  <testsuite name=\"{name}\" file=\"{file}\" tests=\"{tests}\" failures=\"{wrong}\">");
        for one in suite {
            let item = xml(&format!("{} ({})", one.item.name, one.profile.word()));
            let line = one.item.span.line;
            let _infallible =
                write!(text, "    <testcase classname=\"{name}\" name=\"{item}\" file=\"{file}\" line=\"{line}\"");
            if one.judgement.result == Result::Passed {
                text.push_str("/>\n");
                continue;
            }
            let message = xml(one.judgement.said.first().map_or("", String::as_str));
            let (kind, said) = (one.judgement.result.word(), xml(&one.judgement.said.join("\n")));
            let _infallible = writeln!(
                text,
                ">\n      <failure type=\"{kind}\" message=\"{message}\">{said}</failure>\n    </testcase>"
            );
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

/// Text in XML 1.0, which has no word for most control characters.
fn xml(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars() {
        match letter {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\n' => shown.push_str("&#10;"),
            '\u{fffe}' | '\u{ffff}' => shown.push('\u{fffd}'),
            control if control.is_control() => shown.push('\u{fffd}'),
            other => shown.push(other),
        }
    }
    shown
}

/// TAP version 14.
pub(super) fn tap(done: &[Done<'_>]) -> String {
    let mut text = format!("TAP version 14\n1..{}\n", done.len());
    for (number, one) in (1..).zip(done) {
        let not = if one.judgement.result == Result::Passed { "" } else { "not " };
        // A sign that would begin a directive, and what would escape it.
        let name = one.name().replace('\\', "\\\\").replace('#', "\\#").replace(['\n', '\r'], " ");
        let _infallible = writeln!(text, "{not}ok {number} - {name}");
        if one.judgement.result != Result::Passed {
            let block = json!({"message": one.judgement.said.first(), "severity": one.judgement.result.word(),
                               "at": {"file": one.file.display().to_string(), "line": one.item.span.line},
                               "said": one.judgement.said});
            // JSON is YAML; on one line nothing in it can end the block.
            let _infallible = writeln!(text, "  ---\n  {block}\n  ...");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::xml;

    #[test]
    fn no_name_leaves_its_attribute() {
        assert_eq!(xml("a\"<b>&\u{1}\n"), "a&quot;&lt;b&gt;&amp;\u{fffd}&#10;");
    }
}
