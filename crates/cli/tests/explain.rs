//! `tidegate explain` as it is typed: exit codes, where its words go, git revisions, and diffs that `git apply` takes.
#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output};

const WORKLOADS: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\n---\n\
                         apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec: {serviceAccountName: client}\n---\n\
                         apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{name: tcp, port: 80}]}\n";

fn policy(ports: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\nspec:\n  rules:\n  - to:\n    - operation:\n        ports: [{ports}]\n"
    )
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("m")).unwrap();
    std::fs::write(dir.path().join("m/workloads.yaml"), WORKLOADS).unwrap();
    std::fs::write(dir.path().join("m/policy.yaml"), policy("\"80\"")).unwrap();
    dir
}

fn tidegate(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(dir).args(words).env("TIDEGATE_DATA_DIR", dir.join("no-mesh")).output().unwrap()
}

fn git(dir: &Path, words: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]).args(words);
    let output = command.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const ASK: [&str; 7] = ["explain", "--from", "client", "--to", "web", "--port", "81"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_edit_that_is_shown_is_one_that_can_be_applied() {
    let dir = folder();
    let words: Vec<&str> = ASK.into_iter().chain(["m", "-o", "json"]).collect();
    let before = tidegate(dir.path(), &words);
    assert_eq!(before.status.code(), Some(0), "{}", text(&before.stderr));
    let value: serde_json::Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!((value["kind"].as_str(), value["answers"][0]["verdict"].as_str()), (Some("Explanation"), Some("deny")));
    std::fs::write(dir.path().join("edit.diff"), value["answers"][0]["edits"]["allow"]["diff"].as_str().unwrap())
        .unwrap();
    git(dir.path(), &["init", "-q"]);
    git(dir.path(), &["apply", "edit.diff"]);
    let after = tidegate(dir.path(), &words[..words.len() - 2]);
    assert!(text(&after.stdout).starts_with("ALLOWED: "), "{}", text(&after.stdout));
    let again = std::fs::read_to_string(dir.path().join("m/policy.yaml")).unwrap();
    assert_eq!(again, policy("\"80\", \"81\""));
}

#[test]
fn a_revision_is_read_by_git_and_never_taken_for_an_option() {
    let dir = folder();
    git(dir.path(), &["init", "-q", "-b", "main"]);
    git(dir.path(), &["add", "."]);
    git(dir.path(), &["commit", "-q", "-m", "first"]);
    std::fs::write(dir.path().join("m/policy.yaml"), policy("\"81\"")).unwrap();
    for (source, code, beginning) in [
        ("main:m", 0, "DENIED: "),
        ("HEAD:", 0, "DENIED: "),
        ("m", 0, "ALLOWED: "),
        ("--output=x:m", 65, ""),
        ("nothing:m", 65, ""),
        ("main:nowhere", 65, ""),
    ] {
        let words: Vec<&str> = ASK.into_iter().chain(["--", source]).collect();
        let output = tidegate(dir.path(), &words);
        assert_eq!(output.status.code(), Some(code), "{source}: {}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with(beginning), "{source}: {}", text(&output.stdout));
        assert_eq!(text(&output.stderr).contains(source), code == 65, "{source}: {}", text(&output.stderr));
    }
    assert!(!dir.path().join("x").exists());
}

#[test]
fn what_is_wrong_has_its_exit_code_and_a_sentence() {
    let dir = folder();
    std::fs::write(dir.path().join("m/bad.yaml"), "a: [\n").unwrap();
    std::os::unix::fs::symlink("gone", dir.path().join("m/link.yaml")).unwrap();
    std::fs::write(dir.path().join("settings"), "tidegate: {profile: odd}\n").unwrap();
    let ask = |more: &[&'static str]| -> Vec<&'static str> { ASK.into_iter().chain(more.iter().copied()).collect() };
    for (words, code, said) in [
        (ask(&["m"]), 65, "m/bad.yaml:"),
        (ask(&["m"]), 65, "a broken link to `gone`"),
        (ask(&["m/policy.yaml"]), 64, "there are no workloads in what was read"),
        (ask(&["nowhere"]), 65, "nowhere: no such file or directory"),
        (ask(&[]), 64, "nothing to read"),
        (ask(&["live"]), 69, "no mesh runs"),
        (ask(&["m", "--mesh-config", "settings"]), 65, "tidegate.profile"),
        (vec!["explain", "m", "--to", "web", "--port", "1"], 64, "--from is missing"),
        (vec!["explain", "m"], 64, "--port is missing"),
    ] {
        let output = tidegate(dir.path(), &words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{words:?}: {}", text(&output.stderr));
    }
    // The good files are asked all the same.
    let output = tidegate(dir.path(), &ask(&["m"]));
    assert!(text(&output.stdout).starts_with("DENIED: "), "{}", text(&output.stdout));
}

#[test]
fn a_matrix_and_the_story_of_a_code() {
    let dir = folder();
    let matrix = text(&tidegate(dir.path(), &["explain", "--matrix", "--port", "80", "m"]).stdout);
    assert!(
        matrix.contains("  [1] default/client\n  [2] default/web\nfrom\\to [1] [2]\n    [1]   +   +\n"),
        "{matrix}"
    );
    let story = tidegate(dir.path(), &["explain", "TG0101"]);
    assert!(story.status.success() && text(&story.stdout).starts_with("TG0101"), "{}", text(&story.stdout));
}
