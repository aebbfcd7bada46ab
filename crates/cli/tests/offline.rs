//! `test` and `diff` as they are called: what they print, what they end with. The expected texts are in `offline/expected`;
//! `UPDATE_EXPECT=1` writes them anew.
#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline")
}

fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(words).current_dir(folder).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn tidegate(folder: &Path, words: &[&str]) -> Output {
    command(folder, words).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Runs in the shop and compares standard output with a golden.
fn golden(name: &str, words: &[&str], code: i32) -> String {
    let output = tidegate(&root().join("shop"), words);
    let (found, said) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{words:?}\n{found}\n{said}");
    assert_eq!(said, "", "{words:?}");
    let path = root().join("expected").join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{words:?}: if this is right, run it with UPDATE_EXPECT=1");
    found
}

#[test]
fn tests_that_pass_say_so_and_no_more() {
    let found = golden("test-pass.txt", &["test", "tests.yaml"], 0);
    assert!(found.ends_with("passed, 0 failed\n"), "{found}");
    golden("test-verbose.txt", &["test", "tests.yaml", "-v", "--coverage"], 0);
}

#[test]
fn what_fails_comes_first_with_its_explanation() {
    golden("test-fail.txt", &["test", "wrong.yaml", "-v"], 79);
    let tap = golden("test-fail.tap", &["test", "wrong.yaml", "-o", "tap"], 79);
    let report: Value =
        serde_json::from_str(&golden("test-fail.json", &["test", "wrong.yaml", "-o", "json", "--coverage"], 79))
            .unwrap();
    let results = report["results"].as_array().unwrap();
    assert_eq!(tap.lines().nth(1), Some(format!("1..{}", results.len()).as_str()));
    let count = |word: &str| results.iter().filter(|one| one["result"] == word).count();
    assert_eq!(report["failed"], count("failed"));
    assert_eq!(report["inconclusive"], count("inconclusive"));
    assert!(count("inconclusive") > 0 && count("passed") > 0, "each result is shown: {report:#}");
}

#[test]
fn junit_is_xml_that_a_parser_reads() {
    let report = golden("test-fail.xml", &["test", "wrong.yaml", "-o", "junit"], 79);
    let script = "import sys, xml.etree.ElementTree as tree\n\
                  root = tree.fromstring(sys.stdin.read())\n\
                  print(root.tag, root.get('tests'), root.get('failures'), len(root.findall('.//testcase')), len(root.findall('.//failure')))";
    let mut python =
        Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), report.as_bytes()).unwrap();
    let said = text(python.wait_with_output().unwrap().stdout);
    assert_eq!(said, "testsuites 10 9 10 9\n");
}

#[test]
fn what_was_recorded_passes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let manifests = root().join("shop/manifests");
    let recorded = tidegate(folder, &["test", "record", manifests.to_str().unwrap()]);
    assert_eq!((recorded.status.code(), text(recorded.stderr).as_str()), (Some(0), ""));
    fs::write(folder.join("recorded.yaml"), recorded.stdout).unwrap();
    let judged = tidegate(folder, &["test"]);
    let said = text(judged.stdout);
    assert_eq!(judged.status.code(), Some(0), "{said}");
    assert!(said.lines().last().unwrap().ends_with(" passed, 0 failed"), "{said}");

    // What was recorded is a test of other manifests as well.
    let after = root().join("shop/after");
    let apps = manifests.join("apps.yaml");
    let changed = tidegate(folder, &["test", "--input", after.to_str().unwrap(), "--input", apps.to_str().unwrap()]);
    let said = text(changed.stdout);
    assert_eq!(changed.status.code(), Some(79), "{said}");
    assert!(said.contains("expected allow"), "{said}");
}

/// Files, words, exit code, and what standard error begins with.
#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_judged() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let suite = |name: &str, inputs: &str| {
        format!(
            "apiVersion: tidegate.io/v1alpha1\nkind: PolicyTest\nmetadata: {{name: {name}}}\nspec:\n  inputs: [{inputs}]\n  \
                 cases:\n  - {{from: {{address: 10.0.0.1}}, to: a, port: 1, expect: allow}}\n"
        )
    };
    write("pod.yml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b}]}\n");
    write("good.yaml", &suite("good", "pod.yml"));
    write("missing.yaml", &suite("missing", "'*.json'"));
    write("refused.yaml", &suite("refused", "pod.yml, policy.yml"));
    write(
        "policy.yml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  rules:\n  - to: [{operation: {ports: [http]}}]\n",
    );
    write("unknown.yaml", &suite("unknown", "pod.yml").replace("expect", "expects"));
    write("settings.yaml", &suite("settings", "pod.yml").replace("  inputs", "  meshConfig: none.yaml\n  inputs"));
    write("other.yaml", "kind: ConfigMap\n");
    let rows: &[(&[&str], &str)] = &[
        (&["good.yaml", "missing.yaml"], "error: missing.yaml:1: `inputs`: `*.json` matches no manifest below `.`\n"),
        (
            &["good.yaml", "refused.yaml"],
            "error: policy.yml:6:31: no API server takes this: spec.rules[0].to[0].operation.ports[0]: ",
        ),
        (
            &["good.yaml", "unknown.yaml"],
            "error: unknown.yaml:7:49: unknown field `expects`; did you mean `expect`?\nerror: unknown.yaml:7:5: `expect` is missing\n",
        ),
        (&["good.yaml", "settings.yaml"], "error: --mesh-config none.yaml: "),
        (&["good.yaml", "nothing.yaml"], "error: nothing.yaml: No such file or directory"),
        (&["good.yaml", "--input", "live", "--data-dir", "none"], "error: no mesh runs in "),
    ];
    for (words, wanted) in rows {
        let output = tidegate(dir.path(), &[&["test"], *words].concat());
        let (found, said) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(65), "{words:?} {found} {said}");
        assert!(said.starts_with(wanted), "{words:?}: {said}");
        let judged = if words.contains(&"live") { "0 passed" } else { "1 passed" };
        assert_eq!(found, format!("{judged}, 0 failed\n"), "{words:?}");
    }
    let output = tidegate(dir.path(), &["test", "other.yaml"]);
    assert_eq!(output.status.code(), Some(65));
    assert!(text(output.stderr).starts_with("error: other.yaml: there is no PolicyTest"));
}

#[test]
fn a_change_is_judged_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let shop = root().join("shop");
    fs::create_dir(dir.path().join("manifests")).unwrap();
    for file in ["manifests/apps.yaml", "manifests/policies.yaml", "tests.yaml"] {
        fs::copy(shop.join(file), dir.path().join(file)).unwrap();
    }
    let mut child =
        command(dir.path(), &["test", "--watch"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (to, lines) = mpsc::channel();
    let from = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || from.lines().map_while(Result::ok).for_each(|line| drop(to.send(line))));
    let next = || loop {
        let line = lines.recv_timeout(Duration::from_secs(30)).expect("a result is printed after each change");
        if line.contains(" passed, ") {
            return line;
        }
    };
    assert!(next().ends_with(" 0 failed"));
    fs::copy(shop.join("after/policies.yaml"), dir.path().join("manifests/policies.yaml")).unwrap();
    assert!(!next().ends_with(" 0 failed"));
    // As editors do it: another file takes the place of the old one.
    fs::copy(shop.join("manifests/policies.yaml"), dir.path().join("new")).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("manifests/policies.yaml")).unwrap();
    assert!(next().ends_with(" 0 failed"));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn a_difference_is_shown_whole_and_with_its_witness() {
    let found = golden("diff.txt", &["diff", "manifests", "after"], 0);
    assert!(found.contains("denied → allowed") && found.contains("allowed → denied"), "{found}");
    golden("diff.md", &["diff", "manifests", "after", "-o", "markdown", "--profile", "both"], 0);
    let value: Value =
        serde_json::from_str(&golden("diff.json", &["diff", "manifests", "after", "-o", "json"], 0)).unwrap();
    let report = &value["profiles"][0];
    assert_eq!((report["relation"].as_str(), report["differs"].as_bool()), (Some("incomparable"), Some(true)));
    for (side, before, after) in [("opened", "deny", "allow"), ("closed", "allow", "deny")] {
        let regions = report["destinations"][0][side].as_array().unwrap();
        assert!(!regions.is_empty(), "{report:#}");
        for region in regions {
            assert_eq!((&region["before"]["verdict"], &region["after"]["verdict"]), (&before.into(), &after.into()));
        }
    }
}

#[test]
fn the_exit_code_tells_a_difference() {
    let dir = tempfile::tempdir().unwrap();
    let policy = |name: &str, rules: &str| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: foo}}\nspec:\n  rules:\n{rules}\n"
        );
        fs::write(dir.path().join(name), text).unwrap();
    };
    policy("one.yaml", "  - to: [{operation: {ports: ['80', '81']}}]");
    policy("same.yaml", "  - to: [{operation: {ports: ['81']}}]\n  - to: [{operation: {ports: ['0080']}}]");
    policy("less.yaml", "  - to: [{operation: {ports: ['80']}}]");
    policy("get.yaml", "  - to: [{operation: {ports: ['80', '81']}}]\n  - to: [{operation: {methods: [GET]}}]");
    policy("bad.yaml", "  - to: [{operation: {ports: ['80', x]}}]");
    let run = |words: &[&str]| {
        let output = tidegate(dir.path(), &[&["diff"], words].concat());
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, said, _) = run(&["one.yaml", "same.yaml", "--exit-code"]);
    assert_eq!(
        (code, said.as_str()),
        (0, "`one.yaml` and `same.yaml` are equivalent: every TCP connection is decided alike\n")
    );
    let (code, said, _) = run(&["one.yaml", "less.yaml", "--exit-code"]);
    assert!(said.starts_with("`less.yaml` is more restrictive than `one.yaml`: "), "{said}");
    assert_eq!(code, 79);
    let (code, said, _) = run(&["less.yaml", "one.yaml"]);
    assert!(said.starts_with("`one.yaml` is more permissive than `less.yaml`: "), "{said}");
    assert_eq!(code, 0, "without --exit-code a difference is no failure");
    let (code, said, _) = run(&["one.yaml", "get.yaml", "--exit-code"]);
    assert!(
        said.starts_with("`one.yaml` and `get.yaml` are equivalent")
            && said.contains("\nnote: HTTP attributes changed in foo/p: "),
        "{said}"
    );
    assert_eq!(code, 79, "what HTTP changes is not known to be nothing");
    let (code, said, _) = run(&["one.yaml", "get.yaml", "--exit-code", "--profile", "ambient"]);
    assert_eq!((code, said.contains("note")), (0, false), "{said}");
    let (code, said, errors) = run(&["bad.yaml", "none.yaml"]);
    assert_eq!((code, said.as_str()), (65, ""));
    assert!(
        errors.contains("error: bad.yaml:6:37: no API server takes this")
            && errors.contains("error: none.yaml: no such file"),
        "{errors}"
    );
    let (code, _, errors) = run(&["-", "-"]);
    assert_eq!(code, 64, "{errors}");
}

#[test]
fn a_revision_of_git_is_compared_with_the_files_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]).args(words);
        assert!(git.current_dir(dir.path()).output().unwrap().status.success(), "{words:?}");
    };
    let shop = root().join("shop");
    let file = dir.path().join("policies.yaml");
    fs::copy(shop.join("manifests/policies.yaml"), &file).unwrap();
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "before"]);
    assert_eq!(tidegate(dir.path(), &["diff", "main:", ".", "--exit-code"]).status.code(), Some(0));
    fs::copy(shop.join("after/policies.yaml"), &file).unwrap();
    let output = tidegate(dir.path(), &["diff", "main:policies.yaml", "policies.yaml", "--exit-code"]);
    assert_eq!(output.status.code(), Some(79));
    assert!(text(output.stdout).starts_with("`main:policies.yaml` and `policies.yaml` are incomparable"));
}
