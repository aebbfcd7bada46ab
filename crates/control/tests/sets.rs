//! What sets of manifests are said to do, by the pages that they are written after or by their own comments, decided by the engine
//! that enforces: `decisions.txt` of folders of `tests/analyze`, one connection a line, `SOURCE -> WORKLOAD PORT VERDICT`.
//!
//! A source is `namespace/account`, a peer name with its scheme, or `plaintext`, each with `@ADDRESS` behind it where that matters.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use control::bundle::{Bundle, DEFAULT_NAMESPACE, Text, read};
use policy::ask::{Asker, Question, Verdict};
use policy::{Peer, Profile, SpiffeId, WorkloadId};

/// Fewer decisions than this mean that files are no longer found.
const DECISIONS_MIN: usize = 110;

/// Folders of the sets, in order.
fn sets() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/analyze");
    let mut sets: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    sets.sort();
    sets
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn bundle(set: &Path) -> Bundle {
    let mut files: Vec<PathBuf> = fs::read_dir(set).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "{} has no manifests", set.display());
    let texts = files.iter().map(|file| Text { name: name(file), bytes: fs::read(file).unwrap() }).collect();
    read(texts, DEFAULT_NAMESPACE)
}

/// What the engine says of a line, and what the line says.
fn decided(line: &str, asker: &Asker) -> (String, String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [source, "->", workload, port, expected @ ..] = words.as_slice() else { panic!("cannot read `{line}`") };
    let (who, address) = source.split_once('@').map_or((*source, None), |(who, at)| (who, Some(at)));
    let peer = if who == "plaintext" {
        Peer::Anonymous
    } else if who.starts_with("spiffe://") {
        Peer::verified(who)
    } else {
        let (namespace, account) = who.split_once('/').unwrap();
        Peer::Attested(SpiffeId::new("cluster.local", namespace, account).unwrap())
    };
    let (namespace, name) = workload.split_once('/').unwrap();
    let source = address.map(|address| address.parse().unwrap());
    let question = Question { source, ..Question::new(peer, port.parse().unwrap()) };
    let verdict = match asker.ask(&WorkloadId::new(namespace, name), &question).verdict {
        Verdict::Depends(on) => {
            format!("depends: {}", on.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        plain => plain.word().to_owned(),
    };
    (verdict, expected.join(" "))
}

#[test]
fn sets_do_what_is_said_of_them() {
    let mut count = 0;
    for set in sets() {
        let Ok(decisions) = fs::read_to_string(set.join("decisions.txt")) else { continue };
        let ambient = fs::read_to_string(set.join("profile")).is_ok_and(|profile| profile.trim() == "ambient");
        let asker = Asker::new(bundle(&set).mesh(ambient.then_some(Profile::Ambient), None));
        for line in decisions.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (verdict, expected) = decided(line, &asker);
            assert_eq!(verdict, expected, "{}: {line}", name(&set));
            count += 1;
        }
    }
    assert!(count >= DECISIONS_MIN, "only {count} decisions");
}
