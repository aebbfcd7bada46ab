//! The house rules that a machine can check: who may import whom, file lengths, module docs, no leftovers.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use e2e::workspace_root;

/// Lines a source file may have: beyond it a reader no longer holds the file in the head (house rule 1).
const LINES_MAX: usize = 500;

/// Who may import whom: the arrows of ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("policy", &[]),
    ("api", &[]),
    ("linux", &[]),
    ("apiserver", &["api"]),
    ("control", &["api", "policy"]),
    ("dataplane", &["linux", "policy"]),
    ("local", &["api", "linux"]),
    ("cli", &["api", "apiserver", "control", "dataplane", "linux", "local", "policy"]),
    ("e2e", &["control", "linux"]),
];

fn files_below(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') && name != ".ci" || name == "target" {
            continue;
        }
        if path.is_dir() {
            files_below(&path, wanted, found);
        } else if wanted(&path) {
            found.push(path);
        }
    }
}

fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let is_rust = |path: &Path| path.extension().is_some_and(|e| e == "rs");
    files_below(&workspace_root().join("crates"), &is_rust, &mut found);
    assert!(found.len() > 5, "the walk must find the sources");
    found
}

/// The workspace crates named in one section of a manifest.
fn own_dependencies(manifest: &str, crates: &BTreeSet<String>) -> BTreeSet<String> {
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]"
            && let Some(name) = line.split(['.', ' ', '=']).next()
            && crates.contains(name)
        {
            found.insert(name.to_owned());
        }
    }
    found
}

#[test]
fn imports_follow_the_arrows() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let crates: BTreeSet<String> = arrows.keys().map(|&name| name.to_owned()).collect();
    for entry in fs::read_dir(workspace_root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let allowed = arrows.get(name.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("crate `{name}` has no row in ARROWS and in ARCHITECTURE.md"));
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for dependency in own_dependencies(&manifest, &crates) {
            assert!(allowed.contains(&dependency.as_str()), "`{name}` must not import `{dependency}`");
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_hold() {
    let mut faults = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.display();
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{shown}: {lines} lines, the limit is {LINES_MAX}"));
        }
        // The tests of a module belong to it and are described by it.
        if !text.starts_with("//!") && !path.ends_with("tests.rs") {
            faults.push(format!("{shown}: does not begin with module docs (`//!`)"));
        }
        if path.ends_with("mod.rs") {
            faults.push(format!("{shown}: `foo.rs` + `foo/`, never `mod.rs`"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_is_left_for_later_in_comments() {
    // Written in two halves, else this file would find itself.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X:"].concat()];
    let mut faults = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                faults.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_test_and_no_product_code_sleeps() {
    let words = [["thread::", "sleep("].concat(), ["sleep(", "Duration"].concat()];
    let mut faults = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let excused = line.contains("// timer:");
            if !excused && words.iter().any(|word| line.contains(word.as_str())) {
                faults.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "a timer that is not a wait for a condition says so (`// timer: why`):\n{}",
        faults.join("\n")
    );
}

#[test]
fn every_promise_names_tests_that_exist() {
    let promises = fs::read_to_string(workspace_root().join("GUARANTEES.md")).unwrap();
    let sources: String = rust_files().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let rows = promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let mut named = 0;
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        for name in tests.split(", ").map(|name| name.trim_matches('`')) {
            assert!(sources.contains(&format!("fn {name}(")), "`{name}` is promised and does not exist: {row}");
            named += 1;
        }
    }
    assert!(named > 40, "the table must be read");
}
