//! Every case of the conformance corpus and of our own beside it (`conformance/FORMAT.md`), in each profile that it names.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use control::corpus::{Case, Corpus, read};
use policy::finding::Code;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(name)
}

/// Every case of a folder, each with the name of its file.
fn cases(name: &str) -> Vec<(String, Case)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        let Corpus { cases, problems } = read(&fs::read_to_string(&path).unwrap());
        assert_eq!(problems, [], "{}", path.display());
        found.extend(cases.into_iter().map(|case| (path.display().to_string(), case)));
    }
    found
}

fn all_pass(cases: &[(String, Case)]) {
    let mut failures = Vec::new();
    for (file, case) in cases {
        for &profile in &case.profiles {
            for failure in case.judge(&case.answer(profile)) {
                let (id, line, profile) = (&case.id, failure.place.line, profile.word());
                failures.push(format!("{id} ({profile}) {file}:{line}: {}", failure.message));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_corpus() {
    let cases = cases("cases");
    assert_eq!(cases.len(), 140, "the corpus has 140 cases");
    assert_eq!(cases.iter().map(|(_, case)| case.profiles.len()).sum::<usize>(), 242, "in one profile or both");
    all_pass(&cases);
}

#[test]
fn our_own() {
    let cases = cases("own");
    assert!(cases.len() >= 20, "{} cases were found", cases.len());
    all_pass(&cases);
}

#[test]
fn ids_are_unique() {
    let cases = [cases("cases"), cases("own")].concat();
    let ids: BTreeSet<&str> = cases.iter().map(|(_, case)| case.id.as_str()).collect();
    assert_eq!(ids.len(), cases.len());
}

#[test]
fn every_error_code_of_the_format_exists() {
    let format = include_str!("conformance/FORMAT.md");
    let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    let (_, codes) = format.split_once("Error codes: ").unwrap();
    let (codes, _) = codes.split_once("## kind: transition").unwrap();
    let wanted: BTreeSet<&str> = codes.split('`').skip(1).step_by(2).collect();
    let missing: Vec<_> = wanted.difference(&words).collect();
    assert!(wanted.len() > 30 && missing.is_empty(), "{missing:?} of {wanted:?}");
}
