//! What pieces say together is what the texts say one after another.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use super::{Piece, PieceRead};
use crate::bundle::{Bundle, DEFAULT_NAMESPACE, Text, cut, read, read_with};

/// Fewer sets than this mean that files are no longer found.
const SETS_MIN: usize = 60;

/// Reads pieces.
type AllRead = fn(&[Piece<'_>]) -> Vec<PieceRead>;

/// Every second piece on another thread.
fn on_two_threads(pieces: &[Piece<'_>]) -> Vec<PieceRead> {
    let every_second = |first: usize| pieces.iter().skip(first).step_by(2).map(Piece::read).collect();
    let (even, odd): (Vec<PieceRead>, Vec<PieceRead>) = thread::scope(|scope| {
        let other = scope.spawn(|| every_second(1));
        (every_second(0), other.join().unwrap())
    });
    let (mut even, mut odd) = (even.into_iter(), odd.into_iter());
    (0..pieces.len()).filter_map(|index| if index % 2 == 0 { even.next() } else { odd.next() }).collect()
}

fn shown(bundle: &Bundle) -> String {
    format!("{bundle:#?}")
}

/// Asserts that pieces of several lengths say what the texts do, and gives what that is.
fn same(texts: &[Text]) -> Bundle {
    let one_by_one = read(texts.to_vec(), DEFAULT_NAMESPACE);
    let names: Vec<&str> = texts.iter().map(|text| text.name.as_str()).collect();
    for bytes in [1, 300] {
        let apart = cut(texts.to_vec(), DEFAULT_NAMESPACE, bytes, on_two_threads);
        assert_eq!(shown(&apart), shown(&one_by_one), "{names:?} in pieces of {bytes} bytes");
    }
    assert_eq!(shown(&read_with(texts.to_vec(), DEFAULT_NAMESPACE, on_two_threads)), shown(&one_by_one), "{names:?}");
    one_by_one
}

fn sets() -> Vec<Vec<Text>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/analyze");
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all
    };
    let text = |path: &PathBuf| Text { name: path.display().to_string(), bytes: fs::read(path).unwrap() };
    let is_manifest = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
    entries(&root).iter().map(|set| entries(set).iter().filter(is_manifest).map(text).collect()).collect()
}

#[test]
fn pieces_of_sets_as_people_write_them_say_what_the_texts_say() {
    let sets = sets();
    assert!(sets.len() >= SETS_MIN && sets.iter().all(|set| !set.is_empty()), "{} sets", sets.len());
    for set in &sets {
        same(set);
        // As `helm template` and `kustomize build` print them.
        let bytes = set.iter().flat_map(|text| [b"---\n", text.bytes.as_slice()].concat()).collect();
        same(&[Text { name: "-".to_owned(), bytes }]);
    }
    // All of them at once: objects of one name in many texts.
    let bundle = same(&sets.concat());
    assert!(bundle.replaced().len() > 10 && bundle.problems().len() > 10 && bundle.objects().len() > 100);
}

#[test]
fn pieces_of_bad_input_say_what_the_texts_say() {
    let good = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
    let bomb = format!("---\na: &a [{}]\nb: [{}]\n", "1,".repeat(199), "*a,".repeat(400));
    let list = "---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {kind: Pod}\n";
    let bad: [&[u8]; 12] = [
        b"",
        b"\n",
        b"kind: A\n---\n\xff\xfe\n---\nkind: B\n",
        b"kind: A\n---\n\0\n",
        b"a: 1\n---\n\tb: [\n---\nkind: {{ .Values.kind }}: x\n",
        b"%YAML 1.2\n---\nkind: Pod\n---\nkind: Pod\n",
        b"kind: Pod\n# a\n---\n# b\napiVersion: v1\n---\nreplicas: 3\n---\n- 1\n",
        b"apiVersion: v1\nkind: Pod\nmetadata: {name: a, name: b}\n---\napiVersion: v9\nkind: Pod\nmetadata: {name: c}\n",
        b"a: &x 1\n---\nb: *x\n",
        b"a: 1\r---\rb: 2\r\n---\r\nkind: Pod\r\n",
        bomb.as_bytes(),
        list.as_bytes(),
    ];
    let texts = |before: &str, after: &str| -> Vec<Text> {
        let bytes = |bad: &[u8]| [before.as_bytes(), bad, after.as_bytes()].concat();
        bad.iter().enumerate().map(|(index, bad)| Text { name: index.to_string(), bytes: bytes(bad) }).collect()
    };
    for (before, after) in [("", ""), (good, ""), ("", good), (good, good)] {
        let all = texts(before, after);
        for text in &all {
            same(std::slice::from_ref(text));
        }
        assert!(same(&all).problems().len() > 10);
    }
    let twice = Text { name: "bombs".to_owned(), bytes: bomb.repeat(2).into_bytes() };
    assert_eq!(same(&[twice]).problems().iter().filter(|problem| problem.fault.is_bad()).count(), 1);
}

#[test]
fn pieces_that_come_back_wrong_are_read_again() {
    let texts: Vec<Text> = sets().concat();
    let whole = shown(&read(texts.clone(), DEFAULT_NAMESPACE));
    let wrong: [AllRead; 3] = [
        |_| Vec::new(),
        |pieces| pieces.iter().skip(1).map(Piece::read).collect(),
        |pieces| pieces.iter().rev().map(Piece::read).collect(),
    ];
    for all in wrong {
        assert_eq!(shown(&cut(texts.clone(), DEFAULT_NAMESPACE, 1, all)), whole);
    }
}
