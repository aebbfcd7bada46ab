//! A difference as Markdown, to be put below a pull request.

use std::fmt::Write;

use control::diff::Report;

use super::{DESTINATIONS_SHOWN_MAX, DiffArguments, REGIONS_SHOWN_MAX, headline, notes, relation, witness};

pub(super) fn of(arguments: &DiffArguments, reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let _infallible =
            writeln!(text, "### Policy diff: {} ({} profile)\n", relation(report.relation), report.profile.word());
        let _infallible = writeln!(text, "{}.\n", headline(report, &arguments.before, &arguments.after, ""));
        if !report.destinations.is_empty() {
            text.push_str("| | change | for instance | before | after |\n|---|---|---|---|---|\n");
        }
        let mut left_out = 0;
        for (index, changed) in report.destinations.iter().enumerate() {
            for (number, change) in changed.regions.iter().enumerate() {
                if index >= DESTINATIONS_SHOWN_MAX || number >= REGIONS_SHOWN_MAX {
                    left_out += 1;
                    continue;
                }
                let sign = if change.opens { "🟢" } else { "🔴" };
                let cells = [&change.sentence, &witness(change), &change.before.because(), &change.after.because()]
                    .map(|text| cell(text));
                let _infallible = writeln!(text, "| {sign} | {} |", cells.join(" | "));
            }
            if changed.regions.is_empty() {
                let _infallible = writeln!(
                    text,
                    "| ❔ | {} | | | |",
                    cell(&format!("{}: {}", changed.destination, relation(changed.relation)))
                );
            }
        }
        if left_out > 0 {
            let _infallible = writeln!(text, "\nand {left_out} more regions: `tidegate diff -o json` shows all");
        }
        for line in notes(report) {
            let _infallible = writeln!(text, "\n> **Note** {line}");
        }
        text.push('\n');
    }
    text
}

/// Text in a cell of a table: what users named cannot leave it, nor become a link or an image.
fn cell(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => shown.push(' '),
            '<' => shown.push_str("&lt;"),
            '&' => shown.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '!' | '@' | '~' => {
                shown.push('\\');
                shown.push(letter);
            }
            _ => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn names_stay_in_their_cell() {
        assert_eq!(cell("a|b\n<img src=x> ![x](y) `c`"), r"a\|b &lt;img src=x> \!\[x\](y) \`c\`");
    }
}
