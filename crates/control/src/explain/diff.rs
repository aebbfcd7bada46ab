//! Unified diffs of two texts of which little differs.

use std::fmt::Write;
use std::ops::Range;

/// Lines shown around a change.
const CONTEXT: usize = 3;
/// Lines that differ are compared one by one up to this many; beyond it all of them are shown as changed. The cost is quadratic.
const COMPARED_MAX: usize = 500;

/// How large a change is: lines first, then bytes.
pub(super) fn size(old: &str, new: &str) -> usize {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let changed = changes(&old, &new);
    let lines: usize = changed.iter().map(|(old, new)| old.len().max(new.len())).sum();
    let bytes = |lines: &[&str], range: &Range<usize>| -> usize {
        lines.get(range.clone()).unwrap_or_default().iter().map(|line| line.len()).sum()
    };
    let length: usize = changed.iter().map(|(gone, come)| bytes(&old, gone) + bytes(&new, come)).sum();
    lines.saturating_mul(1 << 20).saturating_add(length)
}

/// The diff, as `patch` takes it. A text that was not there comes whole.
pub(super) fn unified(name: &str, old: Option<&str>, new: &str) -> String {
    let before: Vec<&str> = old.unwrap_or_default().split_inclusive('\n').collect();
    let after: Vec<&str> = new.split_inclusive('\n').collect();
    let mut text = String::new();
    let from = if old.is_some() { format!("a/{name}") } else { "/dev/null".to_owned() };
    let _infallible = writeln!(text, "--- {from}\n+++ b/{name}");
    for hunk in hunks(&changes(&before, &after)) {
        hunk_text(&hunk, &before, &after, &mut text);
    }
    text
}

type Changed = (Range<usize>, Range<usize>);

/// Changes that are near one another belong together.
fn hunks(changes: &[Changed]) -> Vec<Vec<Changed>> {
    let mut hunks: Vec<Vec<Changed>> = Vec::new();
    for change in changes {
        match hunks.last_mut() {
            Some(open) if open.last().is_some_and(|last| change.0.start <= last.0.end + 2 * CONTEXT) => {
                open.push(change.clone());
            }
            _ => hunks.push(vec![change.clone()]),
        }
    }
    hunks
}

fn hunk_text(hunk: &[Changed], before: &[&str], after: &[&str], text: &mut String) {
    let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { return };
    let lead = first.0.start.min(CONTEXT);
    let tail = (before.len() - last.0.end).min(CONTEXT);
    let (old, new) = (first.0.start - lead..last.0.end + tail, first.1.start - lead..last.1.end + tail);
    // An empty range is numbered by the line before it.
    let start = |range: &Range<usize>| if range.is_empty() { range.start } else { range.start + 1 };
    let _infallible = writeln!(text, "@@ -{},{} +{},{} @@", start(&old), old.len(), start(&new), new.len());
    let mut put = |sign: char, lines: &[&str], range: Range<usize>| {
        for line in lines.get(range).unwrap_or_default() {
            let _infallible = write!(text, "{sign}{line}");
            if !line.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    let mut at = old.start;
    for (gone, come) in hunk {
        put(' ', before, at..gone.start);
        put('-', before, gone.clone());
        put('+', after, come.clone());
        at = gone.end;
    }
    put(' ', before, at..old.end);
}

/// The runs of lines that differ.
fn changes(before: &[&str], after: &[&str]) -> Vec<Changed> {
    let front = before.iter().zip(after).take_while(|(one, other)| one == other).count();
    let back = before.iter().rev().zip(after.iter().rev()).take_while(|(one, other)| one == other).count();
    let back = back.min(before.len().min(after.len()) - front);
    let (old, new) = (front..before.len() - back, front..after.len() - back);
    if old.is_empty() && new.is_empty() {
        return Vec::new();
    }
    if old.len() > COMPARED_MAX || new.len() > COMPARED_MAX {
        return vec![(old, new)];
    }
    let (one, other) = (before.get(old).unwrap_or_default(), after.get(new).unwrap_or_default());
    let common = common(one, other);
    let mut found: Vec<Changed> = Vec::new();
    let (mut x, mut y) = (0, 0);
    for (next_x, next_y) in common.into_iter().chain([(one.len(), other.len())]) {
        if next_x > x || next_y > y {
            found.push((front + x..front + next_x, front + y..front + next_y));
        }
        (x, y) = (next_x + 1, next_y + 1);
    }
    found
}

/// A longest common subsequence, as pairs of positions.
fn common(one: &[&str], other: &[&str]) -> Vec<(usize, usize)> {
    let width = other.len() + 1;
    let mut longest = vec![0_usize; (one.len() + 1) * width];
    let at = |x: usize, y: usize| x * width + y;
    for (x, line) in one.iter().enumerate().rev() {
        for (y, with) in other.iter().enumerate().rev() {
            let read = |index: usize| longest.get(index).copied().unwrap_or_default();
            let best =
                if line == with { read(at(x + 1, y + 1)) + 1 } else { read(at(x + 1, y)).max(read(at(x, y + 1))) };
            if let Some(cell) = longest.get_mut(at(x, y)) {
                *cell = best;
            }
        }
    }
    let read = |x: usize, y: usize| longest.get(at(x, y)).copied().unwrap_or_default();
    let (mut x, mut y, mut pairs) = (0, 0, Vec::new());
    while let (Some(line), Some(with)) = (one.get(x), other.get(y)) {
        if line == with {
            pairs.push((x, y));
            (x, y) = (x + 1, y + 1);
        } else if read(x + 1, y) >= read(x, y + 1) {
            x += 1;
        } else {
            y += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::{size, unified};

    #[test]
    fn diffs_are_what_patch_takes() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n";
        let new = "1\n2\nthree\n4\n5\n6\n7\n8\n9\n10\n11\n13\n14\n15\n";
        let expected = "--- a/f\n+++ b/f\n@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+three\n 4\n 5\n 6\n@@ -9,6 +9,6 @@\n 9\n 10\n 11\n-12\n 13\n 14\n+15\n";
        assert_eq!(unified("f", Some(old), new), expected);
        assert_eq!(unified("f", None, "a\nb\n"), "--- /dev/null\n+++ b/f\n@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(
            unified("f", Some("a"), "b"),
            "--- a/f\n+++ b/f\n@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n"
        );
        assert!(size(old, new) > size("a\n", "bcd\n"));
        assert!(size("a\n", "a\nb\n") < size("a\n", "c\n"));
    }
}
