//! `tidegate conformance` as it is called: what it prints, where, and how it ends.
#![cfg(test)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use e2e::mesh::{binary, told};
use e2e::workspace_root;
use serde_json::{Value, json};

fn corpus() -> PathBuf {
    workspace_root().join("crates/control/tests/conformance")
}

fn conformance(folder: &Path, more: &[&str]) -> Output {
    Command::new(binary()).arg("conformance").arg(folder).args(more).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn ends(output: &Output, code: i32, last: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", told(output));
    assert_eq!(stdout(output).lines().last(), Some(last), "{}", told(output));
}

#[test]
fn the_corpus_passes() {
    let output = conformance(&corpus(), &[]);
    ends(&output, 0, "140 passed, 0 failed");
    assert!(output.stderr.is_empty(), "{}", told(&output));
    assert_eq!(conformance(&corpus().join("own"), &[]).status.code(), Some(0));
}

/// One expectation of the seeds turned around.
fn one_wrong() -> String {
    let seeds = fs::read_to_string(corpus().join("cases/seeds.yaml")).unwrap();
    let wrong = seeds.replacen("verdict: allow", "verdict: deny", 1);
    assert_ne!(seeds, wrong);
    wrong
}

#[test]
fn a_wrong_expectation_is_named_first_with_its_place_and_what_was_found() {
    let folder = folder(&[("a.yaml", one_wrong().as_bytes())]);
    let output = conformance(folder.path(), &[]);
    ends(&output, 79, "4 passed, 1 failed");
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("FAILED seed-01 (") && lines[0].contains("a.yaml:5)"), "{text}");
    assert!(lines[1].contains("a.yaml:") && lines[1].ends_with("verdict: expected deny, found allow"), "{text}");
    assert_eq!(lines.len(), 4, "once for each profile: {text}");

    let output = conformance(folder.path(), &["-o", "json"]);
    assert_eq!(output.status.code(), Some(79));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!([&report["passed"], &report["failed"]], [4, 1]);
    assert_eq!(report["failures"][1]["profile"], "ambient");
}

#[test]
fn what_cannot_be_read_is_one_error_a_file_and_the_others_still_run() {
    let good = fs::read(corpus().join("cases/seeds.yaml")).unwrap();
    let folder = folder(&[
        ("a.yaml", b"cases: [\n  {id: x"),
        ("b.yaml", &good),
        ("c.yaml", b"format: 1\ncases:\n- {id: one, profile: [none]}\n- {id: two, connections: 3}\n"),
        ("d.yaml", b"cases: []\n# \xff\n"),
        ("e.yaml", b""),
        ("f.txt", b"not looked at"),
    ]);
    let output = conformance(folder.path(), &[]);
    ends(&output, 65, "5 passed, 0 failed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = stderr.lines().collect();
    assert_eq!(errors.len(), 4, "{stderr}");
    for (error, words) in errors.iter().zip(["a.yaml:2:", "c.yaml:3:", "d.yaml: line 2: not UTF-8", "e.yaml:1:1: "]) {
        assert!(error.starts_with("error: ") && error.contains(words), "`{words}` in {error}");
    }
    assert_eq!(conformance(folder.path(), &["--answers", "-o", "json"]).status.code(), Some(65));
}

#[test]
fn links_to_folders_and_files_that_are_none_do_not_hold_it_up() {
    let seeds = fs::read(corpus().join("cases/seeds.yaml")).unwrap();
    let folder = folder(&[("seeds.yaml", &seeds)]);
    symlink(".", folder.path().join("loop")).unwrap();
    symlink("nowhere", folder.path().join("broken.yaml")).unwrap();
    symlink("/dev/zero", folder.path().join("endless.yaml")).unwrap();
    let output = conformance(folder.path(), &[]);
    ends(&output, 65, "5 passed, 0 failed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(
        stderr.contains("broken.yaml: No such file") && stderr.contains("endless.yaml: not a regular file"),
        "{stderr}"
    );
}

#[test]
fn a_folder_without_cases_and_wrong_arguments_are_told() {
    let empty = folder(&[]);
    for path in [empty.path().to_path_buf(), empty.path().join("missing")] {
        let output = conformance(&path, &[]);
        ends(&output, 65, "0 passed, 0 failed");
        assert!(String::from_utf8_lossy(&output.stderr).contains(path.to_str().unwrap()), "{}", told(&output));
    }
    for more in [&["--answers"][..], &["--frobnicate"], &["-o", "yaml"]] {
        assert_eq!(conformance(&corpus(), more).status.code(), Some(64), "{more:?}");
    }
    assert_eq!(Command::new(binary()).arg("conformance").output().unwrap().status.code(), Some(64));
}

fn answers(folder: &Path) -> Vec<Value> {
    let output = conformance(folder, &["--answers", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A corpus file without what it expects.
fn stripped(text: &str) -> String {
    let mut lines = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if inside.is_some_and(|expect| indent > expect) {
            continue;
        }
        inside = (line.trim_start() == "expect:").then_some(indent);
        if inside.is_none() {
            lines.push(line);
        }
    }
    lines.join("\n")
}

#[test]
fn the_answers_are_the_same_without_expectations() {
    let with = answers(&corpus());
    assert_eq!(with.len(), 242, "one for each case and profile");
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(corpus().join("cases")).unwrap() {
        let path = entry.unwrap().path();
        let text = stripped(&fs::read_to_string(&path).unwrap());
        assert!(
            [" verdict: ", " established: ", " valid: "].iter().all(|field| !text.contains(field)),
            "{}",
            path.display()
        );
        fs::write(folder.path().join(path.file_name().unwrap()), text).unwrap();
    }
    assert_eq!(answers(folder.path()), with);
    let nothing = conformance(folder.path(), &[]);
    ends(&nothing, 79, "0 passed, 140 failed");
}

#[test]
fn the_answers_have_the_agreed_shape() {
    let all = answers(&corpus());
    let of = |id: &str, profile: &str| all.iter().find(|one| one["id"] == id && one["profile"] == profile).unwrap();
    assert_eq!(
        of("seed-02", "ambient")["connections"][0],
        json!({"verdict": "allow", "reason": "allow-match", "policy": "foo/tcp-policy", "rule": 0, "audit": false,
               "custom": "not-consulted", "dryRun": {"allow": "absent", "deny": "absent"}})
    );
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for one in &all {
        if one["kind"] == "validation" {
            assert_eq!(names(one), ["id", "profile", "kind", "valid", "errors", "warnings"]);
            continue;
        }
        assert_eq!(names(one), ["id", "profile", "kind", "connections"]);
        for connection in one["connections"].as_array().unwrap() {
            if one["kind"] == "transition" {
                assert_eq!(names(connection), ["before", "after", "established"]);
                continue;
            }
            assert_eq!(names(connection), ["verdict", "reason", "policy", "rule", "audit", "custom", "dryRun"]);
            for trial in ["allow", "deny"].map(|action| &connection["dryRun"][action]) {
                assert!(trial == "absent" || names(trial) == ["result", "policy", "rule"], "{trial}");
            }
        }
    }
    for kind in ["evaluation", "validation", "transition"] {
        assert!(all.iter().any(|one| one["kind"] == kind), "{kind}");
    }
}
