use clap::CommandFactory;

use super::{Kind, Wanted, ask};
use crate::args::Arguments;

/// What is offered for the last of these words, by those that begin with it; then what else is wanted.
fn offered(line: &str) -> (Vec<String>, Wanted) {
    let mut command = Arguments::command();
    command.build();
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let asked = ask(&command, &words);
    let begun = asked.begun;
    let words = asked.offers.into_iter().map(|(word, _)| word).filter(|word| word.starts_with(&begun)).collect();
    (words, asked.wanted)
}

#[test]
fn what_may_stand_at_the_cursor() {
    let names = |kind, prefix: &str| Wanted::Names { kind, prefix: prefix.to_owned() };
    let rows: &[(&str, &[&str], Wanted)] = &[
        ("kubec", &["kubeconfig"], Wanted::Nothing),
        ("status --ou", &["--output"], Wanted::Nothing),
        ("status -o ", &["table", "json"], Wanted::Nothing),
        ("status -o j", &["json"], Wanted::Nothing),
        ("status --output=t", &["--output=table"], Wanted::Nothing),
        // as bash cuts it
        ("status --output =", &["table", "json"], Wanted::Nothing),
        ("status --output = j", &["json"], Wanted::Nothing),
        ("env -n f", &[], names(Kind::Namespace, "")),
        ("env --namespace=f", &[], names(Kind::Namespace, "--namespace=")),
        ("tap --workload ", &[], names(Kind::Workload, "")),
        ("image rm ", &[], names(Kind::Image, "")),
        ("tap --workload sleep --port ", &[], Wanted::Nothing),
        ("inject -f ", &[], Wanted::Files),
        ("kube-inject -f ", &[], Wanted::Files),
        ("samples ", &[], Wanted::Files),
        ("completion ", &["bash", "zsh", "fish"], Wanted::Nothing),
        ("completion bash ", &[], Wanted::Nothing),
        ("status -- --ou", &[], Wanted::Nothing),
        ("__comp", &[], Wanted::Nothing),
        ("nonsense ", &[], Wanted::Nothing),
    ];
    for (line, words, wanted) in rows {
        let (found, other) = offered(line);
        assert_eq!(found, *words, "{line}");
        assert_eq!(other, *wanted, "{line}");
    }
    assert!(offered("").0.len() > 10, "every verb is offered");
}

#[test]
fn the_mesh_that_was_named_is_asked() {
    let mut command = Arguments::command();
    command.build();
    for line in
        ["tap --data-dir /x --workload ", "tap --data-dir=/x --workload ", "tap --workload a --data-dir = /x -n "]
    {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        assert_eq!(ask(&command, &words).data_dir.as_deref(), Some("/x"), "{line}");
    }
}
