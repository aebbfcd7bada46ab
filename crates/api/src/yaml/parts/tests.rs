//! Parts against the whole.

use proptest::prelude::{Just, Strategy, prop, prop_oneof, proptest};
use proptest::prop_assert_eq;

use super::{ALIASED_NODES_MAX, Part, PartRead, joined, parts};
use crate::yaml::{Document, documents};

/// What the parts say together, read from the last to the first, and how many there are.
fn apart(text: &str, bytes: usize) -> (usize, Option<Vec<Document>>) {
    let parts = parts(text, bytes);
    let mut read: Vec<PartRead> = parts.iter().rev().map(|part| part.read(text)).collect();
    read.reverse();
    (parts.len(), joined(text, read))
}

fn shown(documents: &[Document]) -> String {
    format!("{documents:#?}")
}

const WELL_FORMED: [(&str, usize); 15] = [
    ("a: 1\n---\nb: 2\n---\nc: 3\n", 3),
    ("---\na: 1\n---\n---\n--- \n---\t# nothing\n---", 6),
    ("# first\n\n# of the first\n---\n# in it\na: 1 # behind\n# after\n\n---\n# second\nb: 2\n# last\n", 3),
    ("a: 1\n...\n# between\n---\nb: 2\n...\n---\nc: 3\n...\n", 3),
    ("a: 1\n...\nb: 2\n---\nc: 3\n", 2),
    ("a: 1\r\n---\r\nb: 2\r\n# c\r\n---\r\n- ä\r\n", 3),
    ("a: 1\rb: 2\r\n---\nc: 3\rd: 4\n---\ne: 5\n", 3),
    ("a: &x 1\nb: *x\n---\na: &x [2]\nb: *x\n---\na: &x {k: v}\nb: {<<: *x}\n", 3),
    ("a: 1\na: 2\n---\nb: .inf\nb: 1\n---\n? [a]\n: b\n", 3),
    ("a: |\n  text\n  ---\n  more\n\n---\nb: >-\n  folded\n\n\n---\nc: 'quoted\n\n  twice'\n", 3),
    ("--- a\n--- |\n  b\n--- {c: d}\n--- !!str 5\n---\n----\n", 5),
    ("ä: ü # ö\n---\n\u{1F600}: é\n---\n- \"\\u00e4\"\n", 3),
    ("\u{feff}a: 1\n---\nb: 2\n", 2),
    ("a: 1\n...\n>\n---\nb: 2\n", 2),
    ("# nothing\n---\n# but comments\n---\n# here\n", 3),
];

#[test]
fn parts_say_what_the_whole_says() {
    for (text, most) in WELL_FORMED {
        let whole = documents(text);
        let is_bad = whole.iter().any(|document| document.fatal().is_some());
        for bytes in [1, 6, 12, text.len()] {
            let (count, said) = apart(text, bytes);
            assert!(if bytes == 1 { count == most } else { (1..=most).contains(&count) }, "{text:?}: {count} parts");
            match said {
                Some(said) => assert_eq!(shown(&said), shown(&whole), "{text:?} in {count} parts"),
                None => assert!(is_bad, "{text:?} in {count} parts"),
            }
        }
    }
}

#[test]
fn what_is_not_well_formed_is_told_by_the_whole_alone() {
    let copies = ALIASED_NODES_MAX / 200 * 2 / 3;
    let bomb = |name: &str| format!("a: &{name} [{}]\nb: [{}]\n", "1,".repeat(199), format!("*{name},").repeat(copies));
    let (one, two) = (bomb("a"), format!("{}---\n{}", bomb("a"), bomb("a")));
    assert!(documents(&one).iter().all(|document| document.fatal().is_none()));
    assert!(documents(&two).iter().any(|document| document.fatal().is_some()), "the budget is that of a text");
    for text in [
        "a: [\n---\nb: 2\n",
        "a: 1\n---\nb: }\n---\nc: 3\n",
        "a: 'open\n---\nb: 2\n---\nc: 'd'\n",
        "a: &x 1\n---\nb: *x\n",
        "a: 1\n\tb: 2\n---\nc: 3\n",
        &two,
    ] {
        let (count, said) = apart(text, 1);
        assert!(count > 1 && said.is_none(), "{text:?} in {count} parts");
    }
    // A directive is cut from no document.
    for text in
        ["%YAML 1.2\n---\na: 1\n---\nb: 2\n", "a: 1\n...\n%TAG ! tag:yaml.org,2002:\n---\nb: !str 5\n---\nc: 3\n"]
    {
        let (count, said) = apart(text, 1);
        assert_eq!((count, said.map(|said| shown(&said))), (1, Some(shown(&documents(text)))), "{text:?}");
    }
}

#[test]
fn parts_that_do_not_belong_together_are_not_joined() {
    let (text, other) = ("a: 1\n---\nb: 2\n---\nc: 3\n", "a: 1\n---\nb: 2\n");
    let read = |wanted: &[usize]| wanted.iter().map(|index| parts(text, 1)[*index].read(text)).collect::<Vec<_>>();
    assert!(joined(text, read(&[0, 1, 2])).is_some());
    for wanted in [&[][..], &[0], &[0, 1], &[0, 2], &[1, 2], &[1, 0, 2], &[0, 1, 1], &[0, 1, 2, 2]] {
        assert!(joined(text, read(wanted)).is_none(), "{wanted:?}");
    }
    assert!(joined(text, vec![Part::whole(other).read(other)]).is_none());
    assert!(parts("", 0).len() == 1 && joined("", vec![Part::whole("").read("")]).is_some_and(|all| all.is_empty()));
}

fn lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => Just("---".to_owned()),
        1 => Just("...".to_owned()),
        1 => Just("--- # c".to_owned()),
        1 => Just("%YAML 1.2".to_owned()),
        1 => Just("# c".to_owned()),
        6 => "( |  |- )?[a-c]: ([a-c]|1|&x y|\\*x|\\[a, b\\]|\\{a: b\\}|'q|\\||>|\"q\"|!!str 1)?( # c)?",
        1 => "[a-c:\\-\\[\\]{}&*#?|>'\"!%, \t]{0,12}",
    ];
    let end = prop_oneof![12 => Just("\n"), 2 => Just("\r\n"), 1 => Just("\r"), 1 => Just("")];
    prop::collection::vec((line, end), 0..24)
        .prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect::<String>())
}

proptest! {
    #[test]
    fn parts_of_any_text_say_what_the_whole_says_or_nothing(text in lines(), bytes in 0..40_usize) {
        let whole = documents(&text);
        let (count, said) = apart(&text, bytes);
        let is_bad = whole.iter().any(|document| document.fatal().is_some());
        // Only what is not well formed may be left to the whole.
        let said = said.map_or_else(|| if is_bad { shown(&whole) } else { String::new() }, |said| shown(&said));
        prop_assert_eq!(said, shown(&whole), "{:?} in {} parts", text, count);
    }
}
