//! `tidegate analyze` as it is called: what it prints in each format, how it ends, what it mends, and what bad input does to it.
#![cfg(test)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// One rule of every level, a multi-byte letter before them, and two files.
const POLICY: &str = "\
# größer
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: tcp-policy
  namespace: foo
spec:
  selector:
    matchLabels:
      app: tcp-echo
  action: ALLOW
  rules:
  - to:
    - operation:
        methods: [\"GET\"] # HTTP only
        ports: [\"9000\"]
  - from:
    - source:
        principals: [\"spiffe://cluster.local/ns/foo/sa/sleep\"]
";
const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: tcp-echo, namespace: foo}
spec: {selector: {app: tcp-echo}, ports: [{name: tcp, port: 9000}]}
";
const CLEAN: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ports, namespace: foo}
spec: {rules: [{to: [{operation: {ports: ['9000']}}]}]}
";

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn tidegate(folder: &Path, arguments: &[&str], input: Option<&[u8]>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("analyze").args(arguments).current_dir(folder).env_remove("NO_COLOR");
    command.env("TIDEGATE_DATA_DIR", folder.join("no-mesh"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end before it has read everything.
    drop(child.stdin.take().unwrap().write_all(input.unwrap_or_default()));
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn ends(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
}

#[test]
fn people_see_what_rustc_would_show() {
    let folder = folder(&[("policy.yaml", POLICY.as_bytes()), ("service.yaml", SERVICE.as_bytes())]);
    let output = tidegate(folder.path(), &["."], None);
    ends(&output, 79);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/analyze/shown.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &output.stdout).unwrap();
    }
    assert_eq!(stdout(&output), fs::read_to_string(&path).unwrap_or_default(), "UPDATE_EXPECT=1, then look");
    assert_eq!(stderr(&output), "1 policy in 2 texts: 2 warnings\n1 finding can be mended by `--fix`\n");
    assert!(!stdout(&output).contains('\x1b'), "no colour off a terminal");
    let coloured = tidegate(folder.path(), &["--color", "always", "."], None);
    assert!(stdout(&coloured).contains("\x1b["));
}

#[test]
fn machines_get_the_same_with_places_in_every_format() {
    let folder = folder(&[("a policy.yaml", POLICY.as_bytes()), ("service.yaml", SERVICE.as_bytes())]);
    let json: Value =
        serde_json::from_slice(&tidegate(folder.path(), &["-o", "json", "a policy.yaml", "service.yaml"], None).stdout)
            .unwrap();
    assert_eq!((json["apiVersion"].as_str(), json["kind"].as_str()), (Some("tidegate.io/v1alpha1"), Some("Analysis")));
    assert_eq!(json["summary"]["warnings"], 2);
    let first = &json["findings"][0];
    assert_eq!((first["code"].as_str(), first["level"].as_str()), (Some("TG0101"), Some("warning")));
    let place = &first["labels"][0];
    assert_eq!(
        (place["file"].as_str(), &place["line"], &place["column"]),
        (Some("a policy.yaml"), &15.into(), &9.into())
    );
    assert_eq!((&place["endLine"], &place["endColumn"]), (&15.into(), &16.into()));
    let edit = &first["fix"]["edits"][0];
    assert_eq!((&edit["line"], &edit["endLine"], edit["replacement"].as_str()), (&15.into(), &16.into(), Some("")));
    assert_eq!(json["findings"][1]["fix"]["safe"], true);

    let sarif: Value = serde_json::from_slice(
        &tidegate(folder.path(), &["-o", "sarif", "a policy.yaml", "service.yaml"], None).stdout,
    )
    .unwrap();
    let run = &sarif["runs"][0];
    assert_eq!((sarif["version"].as_str(), run["tool"]["driver"]["name"].as_str()), (Some("2.1.0"), Some("tidegate")));
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        let rule = &run["tool"]["driver"]["rules"][index];
        assert_eq!(rule["id"], result["ruleId"]);
        assert!(rule["fullDescription"]["text"].as_str().unwrap().contains("**Fix:**"));
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20policy.yaml");
        assert!(place["region"]["startLine"].as_u64().unwrap() >= 15);
        assert!(!result["fixes"][0]["artifactChanges"].as_array().unwrap().is_empty());
    }

    let github = stdout(&tidegate(folder.path(), &["-o", "github", "a policy.yaml", "service.yaml"], None));
    let lines: Vec<&str> = github.lines().collect();
    assert_eq!(lines.len(), 2, "{github}");
    assert!(
        lines[0]
            .starts_with("::warning file=a policy.yaml,line=15,endLine=15,col=9,endColumn=16,title=TG0101::HTTP field"),
        "{github}"
    );
    assert!(lines[0].contains("%0Anote: "), "{github}");
}

#[test]
fn people_are_told_once_and_machines_at_every_place() {
    let policy =
        |name: &str| CLEAN.replace("ports, ", &format!("{name}, ")).replace("ports: ['9000']", "methods: [GET]");
    let text = ["a", "b", "c", "d", "e"].map(policy).join("---\n");
    let folder = folder(&[("many.yaml", text.as_bytes())]);
    let count = |format: &str| stdout(&tidegate(folder.path(), &["-o", format, "many.yaml"], None));
    let json: Value = serde_json::from_str(&count("json")).unwrap();
    assert_eq!(json["findings"].as_array().unwrap().len(), 1, "{json}");
    let expected = [4, 9, 14, 19, 24];
    let sarif: Value = serde_json::from_str(&count("sarif")).unwrap();
    let line = |result: &Value| result["locations"][0]["physicalLocation"]["region"]["startLine"].as_u64().unwrap();
    let lines: Vec<u64> = sarif["runs"][0]["results"].as_array().unwrap().iter().map(line).collect();
    assert_eq!(lines, expected);
    let github = count("github");
    assert_eq!(github.lines().count(), expected.len(), "{github}");
    for line in expected {
        assert!(github.contains(&format!(",line={line},")), "{github}");
    }
}

#[test]
fn a_clean_set_says_nothing_and_ends_well() {
    let folder = folder(&[("clean.yaml", CLEAN.as_bytes())]);
    for arguments in [&["clean.yaml"][..], &["--profile", "ambient", "."], &["-"]] {
        let output = tidegate(folder.path(), arguments, Some(CLEAN.as_bytes()));
        ends(&output, 0);
        assert!(output.stdout.is_empty() && stderr(&output).contains("nothing to say"), "{}", stderr(&output));
    }
}

#[test]
fn what_can_only_have_been_meant_so_is_mended_once_and_in_place() {
    let text = POLICY
        .replace("ports: [\"9000\"]", "ports: [9000] # a number")
        .replace("        methods: [\"GET\"] # HTTP only\n", "");
    let folder = folder(&[("real.yaml", text.as_bytes()), ("service.yaml", SERVICE.as_bytes())]);
    fs::set_permissions(folder.path().join("real.yaml"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("real.yaml", folder.path().join("policy.yaml")).unwrap();
    let output = tidegate(folder.path(), &["--fix", "policy.yaml", "service.yaml"], None);
    ends(&output, 0);
    assert!(stderr(&output).contains("mended policy.yaml"), "{}", stderr(&output));
    let mended = fs::read_to_string(folder.path().join("real.yaml")).unwrap();
    assert_eq!(mended, text.replace("[9000]", "[\"9000\"]").replace("spiffe://", ""));
    assert!(folder.path().join("policy.yaml").is_symlink(), "what the link points to is changed, not the link");
    assert_eq!(fs::metadata(folder.path().join("real.yaml")).unwrap().permissions().mode() & 0o777, 0o640);
    let again = tidegate(folder.path(), &["--fix", "policy.yaml", "service.yaml"], None);
    ends(&again, 0);
    assert!(!stderr(&again).contains("mended"), "{}", stderr(&again));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside the files");
    let output = tidegate(folder.path(), &["--fix", "-"], Some(text.as_bytes()));
    ends(&output, 64);
    assert!(stderr(&output).contains("`--fix` changes files, and `-` is none"), "{}", stderr(&output));
}

#[test]
fn codes_are_allowed_by_flag_and_by_comment_and_refusals_are_not() {
    let folder = folder(&[("policy.yaml", POLICY.as_bytes()), ("service.yaml", SERVICE.as_bytes())]);
    let output = tidegate(folder.path(), &["--allow", "TG0101,tg0201", "."], None);
    ends(&output, 0);
    assert!(stderr(&output).contains("2 allowed"), "{}", stderr(&output));
    for (code, word) in
        [("TG4711", "is not a code"), ("TG0011", "cannot be allowed"), ("schema-type", "cannot be allowed")]
    {
        let output = tidegate(folder.path(), &["--allow", code, "."], None);
        ends(&output, 64);
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
    let allowed = POLICY.replace("# HTTP only", "# tidegate: allow TG0101 - an example");
    fs::write(folder.path().join("policy.yaml"), allowed).unwrap();
    let output = tidegate(folder.path(), &["."], None);
    ends(&output, 79);
    assert!(stderr(&output).contains("1 warning, 1 allowed"), "{}", stderr(&output));
}

/// A text in which each anchor repeats the one before it nine times.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        text.extend([format!("a{level}: &a{level} ["), below.trim_end_matches(", ").to_owned(), "]\n".to_owned()]);
    }
    text
}

#[test]
fn bad_input_is_one_error_with_its_place_and_the_rest_is_looked_at() {
    let twice = CLEAN.replace("spec: {", "spec: {action: ALLOW, action: ALLOW, ");
    let old = CLEAN.replace("/v1\n", "/v1alpha1\n");
    let bomb = bomb();
    let cases: &[(&str, &[u8], &str, &str)] = &[
        ("alias bomb", bomb.as_bytes(), "TG0002", "bad.yaml:"),
        ("duplicate key", twice.as_bytes(), "TG0003", "bad.yaml:4:23"),
        ("tab", b"kind: X\nspec:\n\ta: 1\n", "TG0002", "bad.yaml:3:2"),
        ("not UTF-8", b"kind: X\nname: \xff\xfe\n", "TG0001", "bad.yaml:2:7"),
        ("binary", b"\x7fELF\0\0\0", "TG0001", "bad.yaml:1:5"),
        ("unknown version", old.as_bytes(), "TG0005", "bad.yaml:1:1"),
        ("never closed", b"a: [1, 2\n", "TG0002", "bad.yaml:"),
        ("no kind", b"apiVersion: v1\nmetadata: {name: x}\n", "TG0004", "bad.yaml:1:1"),
    ];
    for (name, bytes, code, place) in cases {
        let folder =
            folder(&[("bad.yaml", bytes), ("policy.yaml", POLICY.as_bytes()), ("service.yaml", SERVICE.as_bytes())]);
        let output = tidegate(folder.path(), &["bad.yaml", "policy.yaml", "service.yaml"], None);
        ends(&output, 65);
        let text = stdout(&output);
        let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error[")).collect();
        assert_eq!(errors.len(), 1, "{name}: {text}");
        assert!(
            errors[0].starts_with(&format!("error[{code}]")) && text.contains(&format!("--> {place}")),
            "{name}: {text}"
        );
        assert!(
            text.contains("warning[TG0101]") && text.contains("warning[TG0201]"),
            "{name}: the rest goes on: {text}"
        );
    }
}

#[test]
fn what_is_not_there_or_too_long_is_told_by_name_and_the_rest_is_looked_at() {
    let folder = folder(&[("policy.yaml", POLICY.as_bytes()), ("service.yaml", SERVICE.as_bytes())]);
    symlink("nowhere", folder.path().join("broken.yaml")).unwrap();
    let long = fs::File::create(folder.path().join("long.yaml")).unwrap();
    long.set_len(17 * 1024 * 1024).unwrap();
    for (word, why) in [
        ("broken.yaml", "a broken link to `nowhere`"),
        ("missing.yaml", "no such file or directory"),
        ("long.yaml", "longer than 16777216 bytes"),
    ] {
        let output = tidegate(folder.path(), &[word, "policy.yaml", "service.yaml"], None);
        ends(&output, 65);
        let text = stdout(&output);
        assert!(text.contains(&format!("error[TG0001]: {word}: {why}")) && text.contains("warning[TG0101]"), "{text}");
    }
    let output = tidegate(folder.path(), &["-"], Some(b""));
    ends(&output, 65);
    assert!(stdout(&output).contains("standard input is empty"), "{}", stdout(&output));
    ends(&tidegate(folder.path(), &[], None), 64);
}

/// A text of 10 MB is read in reasonable time, and what is wrong in its last line is found there.
#[test]
fn ten_megabytes_are_read_to_the_end() {
    let line = "# a comment that somebody left here, as long as comments are\n";
    let text = format!("{}{POLICY}", line.repeat(10 * 1024 * 1024 / line.len()));
    let folder = folder(&[("long.yaml", text.as_bytes()), ("service.yaml", SERVICE.as_bytes())]);
    let output = tidegate(folder.path(), &["-o", "github", "."], None);
    ends(&output, 79);
    let last = format!("line={}", text.lines().count());
    assert!(stdout(&output).contains(&last), "{}", stdout(&output));
}

#[test]
fn nothing_that_a_manifest_says_moves_the_cursor() {
    let text = CLEAN.replace("'9000'", "\"9\\e[2J\"");
    let output = tidegate(tempfile::tempdir().unwrap().path(), &["-"], Some(text.as_bytes()));
    ends(&output, 79);
    assert!(!stdout(&output).contains('\x1b') && stdout(&output).contains("TG0030"), "{}", stdout(&output));
}
