//! What is said about sets of manifests as people write them: each folder of `tests/analyze` against its `expected.txt`;
//! `UPDATE_EXPECT=1` writes it anew. A file `profile` names the profile, sidecar if there is none; with a file `live`
//! the set is all there is, as a running mesh is.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use control::analyze::{Options, Report, analyze, apply, fixed};
use control::bundle::{self, Bundle, Text};
use control::finding::table;
use policy::Profile;

/// Sets that the folder must hold at least, and those among them of which nothing at all may be said.
const SETS_MIN: usize = 60;
const CLEAN_MIN: usize = 35;
/// Codes that no file can show: what only a write to a running mesh is told (`tests/admission.rs`).
const NOT_IN_FILES: [&str; 3] = ["TG0507", "TG0508", "TG0509"];

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/analyze");
    let mut all: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn texts(folder: &Path) -> Vec<Text> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| Text { name: name(path), bytes: fs::read(path).unwrap() }).collect()
}

fn options(folder: &Path) -> Options {
    let ambient = fs::read_to_string(folder.join("profile")).is_ok_and(|text| text.trim() == "ambient");
    let profile = Some(if ambient { Profile::Ambient } else { Profile::Sidecar });
    Options { profile, whole: folder.join("live").exists(), ..Options::default() }
}

fn told(report: &Report, bundle: &Bundle) -> String {
    let mut text = String::new();
    for one in &report.diagnostics {
        let mut labels = one.labels.iter();
        let place = |label: &control::analyze::Label| {
            format!("{}:{}:{}", bundle.texts()[label.text].name, label.line, label.column)
        };
        let first = labels.next().expect("whatever is said of a file has a place in it");
        let says = if first.says.is_empty() { String::new() } else { format!(" ({})", first.says) };
        writeln!(text, "{} {} {}: {}{says}", one.level.word(), one.entry.number, place(first), one.message).unwrap();
        for label in labels {
            writeln!(text, "  at {}: {}", place(label), label.says).unwrap();
        }
        for note in &one.notes {
            writeln!(text, "  note: {note}").unwrap();
        }
        let Some(fix) = &one.fix else { continue };
        writeln!(text, "  help{}: {}", if fix.safe { " (safe)" } else { "" }, fix.says).unwrap();
        for index in 0..bundle.texts().len() {
            let before = &bundle.texts()[index].text;
            let Some(after) = apply(before, fix.edits.iter().filter(|edit| edit.text == index)) else { continue };
            let (old, new) = (before.lines().collect::<Vec<_>>(), after.lines().collect::<Vec<_>>());
            let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
            let end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
            let end = end.min(old.len().min(new.len()) - start);
            old[start..old.len() - end].iter().for_each(|line| writeln!(text, "    -{line}").unwrap());
            new[start..new.len() - end].iter().for_each(|line| writeln!(text, "    +{line}").unwrap());
        }
    }
    if report.allowed > 0 {
        writeln!(text, "{} allowed", report.allowed).unwrap();
    }
    if text.is_empty() { "nothing\n".to_owned() } else { text }
}

#[test]
fn sets_as_people_write_them() {
    let (mut shown, mut clean, mut wrong) = (BTreeSet::new(), 0, Vec::new());
    for folder in folders() {
        let bundle = bundle::read(texts(&folder), "default");
        let report = analyze(&bundle, &options(&folder));
        shown.extend(report.diagnostics.iter().map(|one| one.entry.number));
        clean += usize::from(report.diagnostics.is_empty());
        let (text, path) = (told(&report, &bundle), folder.join("expected.txt"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, &text).unwrap();
        }
        if text != fs::read_to_string(&path).unwrap_or_default() {
            wrong.push(format!("{}:\n{text}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1, then look at the difference:\n{}", wrong.join("\n"));
    assert!(folders().len() >= SETS_MIN && clean >= CLEAN_MIN, "{} sets, {clean} clean", folders().len());
    let missing: Vec<_> = table()
        .map(|entry| entry.number)
        .filter(|code| !shown.contains(code) && !NOT_IN_FILES.contains(code))
        .collect();
    assert!(missing.is_empty(), "no set shows {missing:?}");
}

/// Nothing in a file may make the look fail, a fix must leave something that reads as well, and mending once is enough.
#[test]
fn fixes_are_made_once_and_break_nothing() {
    let mut mended = 0;
    for folder in folders() {
        let (before, options) = (texts(&folder), options(&folder));
        let mut now = before.clone();
        for _ in 0..4 {
            let bundle = bundle::read(now.clone(), "default");
            let report = analyze(&bundle, &options);
            let next: Vec<Option<String>> = bundle
                .texts()
                .iter()
                .enumerate()
                .map(|(index, read)| fixed(&read.text, index, &report.diagnostics))
                .collect();
            if next.iter().all(Option::is_none) {
                break;
            }
            for (text, next) in now.iter_mut().zip(next) {
                text.bytes = next.map_or_else(|| text.bytes.clone(), String::into_bytes);
            }
        }
        let bundle = bundle::read(now.clone(), "default");
        let report = analyze(&bundle, &options);
        let left = report.diagnostics.iter().any(|one| one.fix.as_ref().is_some_and(|fix| fix.safe));
        assert!(!left, "{} can be mended forever", folder.display());
        if now != before {
            mended += 1;
            let first = bundle::read(before.clone(), "default");
            assert!(bundle.problems().len() <= first.problems().len(), "{}", folder.display());
            let comments = |texts: &[Text]| {
                let all =
                    texts.iter().map(|text| String::from_utf8_lossy(&text.bytes).into_owned()).collect::<String>();
                all.matches("# ").count() - all.matches("# tidegate").count()
            };
            assert_eq!(comments(&before), comments(&now), "{}: a comment was lost", folder.display());
        }
    }
    assert!(mended >= 4, "{mended}");
}
