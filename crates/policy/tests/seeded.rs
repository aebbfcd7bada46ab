//! Known bug classes of this field, one line each (`seeded/NN-name.patch`), and whether the tests of this crate catch them.
//! `./check` sees that every patch still applies; `./check --long` applies each to a copy and runs the tests there
//! (`cargo test -p policy --test seeded -- --ignored --nocapture` prints which test caught which, as in docs/seeded-bugs.md).
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the patches are files, and the tests of a copy are run by cargo")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The issue asks for this many.
const BUGS_MIN: usize = 25;

struct Bug {
    name: String,
    /// The file in this crate, its text, and its text with the bug.
    file: PathBuf,
    sound: String,
    broken: String,
}

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn bugs() -> Vec<Bug> {
    let entries = fs::read_dir(crate_folder().join("tests/seeded")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths.iter().map(|path| bug(path)).collect()
}

/// A patch of one hunk, found by what it replaces and not by line numbers.
fn bug(path: &Path) -> Bug {
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    let text = fs::read_to_string(path).unwrap();
    let file = text.lines().find_map(|line| line.strip_prefix("--- a/")).unwrap();
    let side = |other: char| -> String {
        let lines = text.lines().skip_while(|line| !line.starts_with("@@")).skip(1);
        let lines: Vec<&str> = lines.filter(|line| !line.starts_with(other)).map(|line| line.split_at(1).1).collect();
        lines.join("\n") + "\n"
    };
    let (from, to) = (side('+'), side('-'));
    let sound = fs::read_to_string(crate_folder().join(file)).unwrap();
    assert_eq!(sound.matches(&from).count(), 1, "{name} no longer applies to {file}: make it anew");
    Bug { broken: sound.replacen(&from, &to, 1), name, file: file.into(), sound }
}

#[test]
fn every_seeded_bug_still_applies() {
    let bugs = bugs();
    let names: BTreeSet<&str> = bugs.iter().map(|bug| bug.name.as_str()).collect();
    assert!(names.len() >= BUGS_MIN && bugs.iter().all(|bug| bug.sound != bug.broken));
    let table = fs::read_to_string(crate_folder().join("../../docs/seeded-bugs.md")).unwrap();
    for name in names {
        assert!(table.contains(&format!("| {name} |")), "docs/seeded-bugs.md does not tell which test catches {name}");
    }
}

#[test]
#[ignore = "compiles and tests a copy of the crate for every bug: several minutes, in ./check --long"]
fn each_seeded_bug_is_caught() {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("seeded");
    let folder = copy.join("crates/policy");
    copy_workspace(&copy, &folder);
    let sound = failing(&copy);
    assert_eq!(sound.as_deref(), Ok(&[] as &[String]), "without a bug every test passes");
    let mut missed = Vec::new();
    for bug in bugs() {
        let file = folder.join(&bug.file);
        fs::write(&file, &bug.broken).unwrap();
        match failing(&copy) {
            Ok(failing) if failing.is_empty() => missed.push(format!("{}: no test fails", bug.name)),
            Ok(failing) => println!("| {} | {} |", bug.name, failing.join(", ")),
            Err(said) => missed.push(format!("{}: does not compile: {said}", bug.name)),
        }
        fs::write(&file, &bug.sound).unwrap();
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// This crate alone in a workspace of its own, with the same locked dependencies.
fn copy_workspace(copy: &Path, folder: &Path) {
    let root = crate_folder().join("../..");
    fs::create_dir_all(folder).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let manifest = manifest.replacen("members = [\"crates/*\"]", "members = [\"crates/policy\"]", 1);
    fs::write(copy.join("Cargo.toml"), manifest).unwrap();
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock")).unwrap();
    for name in ["Cargo.toml", "clippy.toml", "src", "tests", "benches"] {
        copy_all(&crate_folder().join(name), &folder.join(name));
    }
}

fn copy_all(from: &Path, to: &Path) {
    if !from.is_dir() {
        // An unchanged file keeps its time, so that a second run compiles less.
        if fs::read(from).ok() != fs::read(to).ok() {
            fs::copy(from, to).unwrap();
        }
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy_all(&entry.path(), &to.join(entry.file_name()));
    }
}

/// The tests that fail in the copy, or what the compiler says. The quick ones first: the others run if those notice nothing.
fn failing(copy: &Path) -> Result<Vec<String>, String> {
    let quick = failing_of(copy, &["--lib"])?;
    if quick.is_empty() {
        failing_of(copy, &["--test", "laws", "--test", "changes", "--test", "oracle"])
    } else {
        Ok(quick)
    }
}

fn failing_of(copy: &Path, which: &[&str]) -> Result<Vec<String>, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--offline", "--no-fail-fast", "-p", "policy"]).args(which);
    cargo.current_dir(copy).env("CARGO_TARGET_DIR", copy.join("target")).env("CARGO_PROFILE_DEV_DEBUG", "0");
    let output = cargo.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if err.contains("could not compile") || !out.contains("test result:") {
        return Err(err.lines().filter(|line| line.starts_with("error")).collect::<Vec<_>>().join("; "));
    }
    let failed = out.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    Ok(failed.map(|name| name.rsplit("::").next().unwrap_or(name).to_owned()).collect())
}
