//! What the author may have meant: the nearest of the names that are there.

use policy::Labels;

/// Names are compared up to this length: longer ones are no typing mistakes of one another, and the cost is quadratic.
const COMPARED_MAX: usize = 64;

/// The word that is nearest to the wanted one, if it is near enough to be a slip of the keyboard.
pub(crate) fn nearest_word<'a>(wanted: &str, there: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near_enough = (wanted.chars().count() / 3).clamp(1, 3);
    // Two letters in each other's place are one slip.
    let steps = |word: &str| if is_swapped(wanted, word) { 1 } else { distance(wanted, word) };
    let ranked = there.map(|word| (steps(word), word));
    ranked.min().filter(|(steps, _)| *steps <= near_enough).map(|(_, word)| word)
}

/// Whether one word is the other with two neighbouring letters exchanged.
fn is_swapped(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let differing: Vec<(&char, &char)> = one.iter().zip(&other).filter(|(one, other)| one != other).collect();
    let at = one.iter().zip(&other).position(|(one, other)| one != other);
    let neighbours = at.is_some_and(|at| one.get(at + 1) != other.get(at + 1));
    one.len() == other.len() && neighbours && matches!(differing.as_slice(), [(a, b), (c, d)] if a == d && b == c)
}

/// A sentence on the labels that come nearest to those of a selector; none if nothing is near.
pub(super) fn nearest_labels<'a>(
    selector: &Labels,
    there: impl Iterator<Item = (&'a str, &'a Labels)>,
) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for (name, labels) in there {
        let Some((cost, differing)) = compare(selector, labels) else { continue };
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, format!("pod `{name}` has {differing}")));
        }
    }
    best.map(|(_, sentence)| sentence)
}

/// How far labels are from a selector, and in what; none if they have little to do with one another.
fn compare(selector: &Labels, labels: &Labels) -> Option<(usize, String)> {
    let mut cost = 0;
    let mut equal = 0;
    let mut differing = Vec::new();
    for (key, wanted) in selector {
        match labels.get(key) {
            Some(found) if found == wanted => equal += 1,
            Some(found) => {
                cost += distance(wanted, found);
                differing.push(format!("{key}={found}"));
            }
            None => {
                let other = nearest_word(key, labels.keys().map(String::as_str));
                cost += wanted.chars().count().max(4);
                differing.push(match other {
                    Some(other) => format!("label {other} and not {key}"),
                    None => format!("no label {key}"),
                });
            }
        }
    }
    let one_slip =
        selector.len() == 1 && cost <= selector.values().map(|value| (value.len() / 3).clamp(1, 3)).sum::<usize>();
    let renamed_key = differing.iter().any(|text| text.starts_with("label "));
    (equal > 0 || one_slip || renamed_key).then(|| (cost, differing.join(" and ")))
}

/// How many letters have to be put in, taken out or replaced.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.chars().take(COMPARED_MAX).collect();
    let mut row: Vec<usize> = (0..=one.len()).collect();
    for (line, letter) in other.chars().take(COMPARED_MAX).enumerate() {
        let mut diagonal = std::mem::replace(row.first_mut().unwrap_or(&mut 0), line + 1);
        let mut left = line + 1;
        for (cell, own) in row.iter_mut().skip(1).zip(&one) {
            let replaced = diagonal + usize::from(*own != letter);
            diagonal = *cell;
            *cell = replaced.min(diagonal + 1).min(left + 1);
            left = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use policy::Labels;

    use super::{distance, nearest_labels, nearest_word};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn distances() {
        for (one, other, steps) in
            [("", "", 0), ("a", "", 1), ("", "abc", 3), ("kitten", "sitting", 3), ("tcp-echo", "tcp-ecco", 1)]
        {
            assert_eq!(distance(one, other), steps, "{one} {other}");
            assert_eq!(distance(other, one), steps, "{other} {one}");
        }
    }

    #[test]
    fn only_slips_are_near() {
        assert_eq!(nearest_word("payment", ["payments", "orders"].into_iter()), Some("payments"));
        assert_eq!(nearest_word("foo", ["bar", "default"].into_iter()), None);
        assert_eq!(nearest_word("foo", std::iter::empty()), None);
    }

    #[test]
    fn the_pod_that_was_meant() {
        let selector = labels(&[("app", "tcp-ecco")]);
        let there =
            [("sleep-1", labels(&[("app", "sleep")])), ("echo-1", labels(&[("app", "tcp-echo"), ("version", "v1")]))];
        assert_eq!(
            nearest_labels(&selector, there.iter().map(|(name, labels)| (*name, labels))).as_deref(),
            Some("pod `echo-1` has app=tcp-echo")
        );
        let two = labels(&[("app", "tcp-echo"), ("version", "v2")]);
        assert_eq!(
            nearest_labels(&two, there.iter().map(|(name, labels)| (*name, labels))).as_deref(),
            Some("pod `echo-1` has version=v1")
        );
        let key = labels(&[("ap", "tcp-echo")]);
        assert!(
            nearest_labels(&key, there.iter().map(|(name, labels)| (*name, labels)))
                .unwrap()
                .contains("has label app and not ap")
        );
        assert_eq!(
            nearest_labels(&labels(&[("tier", "database")]), there.iter().map(|(name, labels)| (*name, labels))),
            None
        );
    }
}
