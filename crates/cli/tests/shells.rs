//! The completion scripts in the shells they are for, and the manual pages.
#![cfg(test)]

use std::path::Path;
use std::process::Command;

/// The folder of the binary under test: the shells find it on their PATH.
fn bin() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap()
}

/// What a script prints on standard output in an empty home, line by line; it must end well. `None` without that shell.
fn run(shell: &str, script: &str) -> Option<Vec<String>> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("a file.yaml"), "").unwrap();
    let mut command = Command::new(shell);
    command.args(if shell == "bash" { &["--norc", "-c"] } else { &["-c"][..] }).arg(script);
    command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", bin().display())).env("HOME", home.path());
    command.env("TIDEGATE_DATA_DIR", home.path().join("mesh")).env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
    let output = match command.current_dir(home.path()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && shell != "bash" => return None,
        output => output.unwrap(),
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{shell}: {:?} {said}", output.status);
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn bash_completes() {
    let ask = |words: &str| {
        let script = format!(
            r#"source <(tidegate completion bash); complete -p tidegate >/dev/null || exit 1
               COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _tidegate; printf '%s\n' "${{COMPREPLY[@]}}""#
        );
        run("bash", &script).unwrap()
    };
    assert_eq!(ask("tidegate kubec"), ["kubeconfig"]);
    assert_eq!(ask("tidegate status -o ''"), ["table", "json"]);
    assert_eq!(ask("tidegate status --output = j"), ["json"]);
    assert_eq!(ask("tidegate inject -f a"), ["a file.yaml"]);
    assert_eq!(ask("tidegate tap --workload ''"), [""], "no mesh runs: no names, and no word about it");
}

#[test]
fn zsh_completes() {
    // Outside an editor zsh has no completion system: what it would be given is printed instead.
    let ask = |words: &str| {
        let script = format!(
            r#"compadd() {{ print -l -- "${{@[5,-1]}}" }}; _files() {{ print -- FILES }}
               compdef() {{ print -- "$@" }}; source <(tidegate completion zsh)
               words=({words}); CURRENT=$#words; _tidegate"#
        );
        run("zsh", &script)
    };
    let Some(found) = ask("tidegate kubec") else { return };
    assert_eq!(found, ["_tidegate tidegate", "kubeconfig"]);
    assert_eq!(ask("tidegate status -o ''").unwrap(), ["_tidegate tidegate", "table", "json"]);
    assert_eq!(ask("tidegate inject -f ''").unwrap(), ["_tidegate tidegate", "FILES"]);
}

#[test]
fn fish_completes() {
    let ask = |line: &str| run("fish", &format!("tidegate completion fish | source; complete -C '{line}'"));
    let Some(found) = ask("tidegate kubec") else { return };
    assert_eq!(found, ["kubeconfig\tPrint a kubeconfig for the mesh"]);
    assert_eq!(
        ask("tidegate status --output=j").unwrap(),
        ["--output=json\tOne JSON value; streams are one JSON value a line"]
    );
    assert!(ask("tidegate inject -f a").unwrap().iter().any(|line| line.starts_with("a file.yaml")));
}

#[test]
fn every_verb_has_a_manual_page() {
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("man/man1");
    let tidegate = |words: &[&str]| Command::new(env!("CARGO_BIN_EXE_tidegate")).args(words).output().unwrap();
    assert!(tidegate(&["man", pages.to_str().unwrap()]).status.success());
    let help = String::from_utf8(tidegate(&["--help"]).stdout).unwrap();
    let verbs = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let verbs = verbs
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    let mut seen = 0;
    for verb in verbs.filter(|verb| *verb != "help") {
        let page = std::fs::read_to_string(pages.join(format!("tidegate-{verb}.1"))).unwrap();
        assert!(page.contains("Example"), "{verb}");
        seen += 1;
    }
    assert!(seen > 10, "{help}");
    let first = std::fs::read_to_string(pages.join("tidegate.1")).unwrap();
    assert!(first.contains("tidegate\\-kubeconfig(1)"), "{first}");

    std::fs::write(home.path().join("file"), "").unwrap();
    let output = tidegate(&["man", home.path().join("file").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: making `"));
}
