//! The command line as typed. What it means is resolved in `settings`; nothing here touches the system.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::analyze::AnalyzeArguments;
use crate::completion::{CompleteArguments, CompletionArguments};
use crate::conns::ConnsArguments;
use crate::diff::DiffArguments;
use crate::explain::ExplainArguments;
use crate::filter::FilterArguments;
use crate::image::ImageArguments;
use crate::man::ManArguments;
use crate::test::TestArguments;
use crate::why::WhyArguments;

/// L4 authorization for TCP, from Istio's AuthorizationPolicy: know what a policy does, and that it does it.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start the mesh of this machine and stay in the foreground (Ctrl-C ends it)
    #[command(after_help = "Examples:\n  tidegate up\n  tidegate up --detach && eval \"$(tidegate env)\"")]
    Up(UpArguments),
    /// End the mesh and remove everything it made on this machine; its objects are kept for the next `up`
    #[command(after_help = "Example:\n  tidegate down")]
    Down(DownArguments),
    /// Say whether the mesh runs, what it holds and what it enforces
    #[command(after_help = "Example:\n  tidegate status -o json")]
    Status(StatusArguments),
    /// Print a kubeconfig for the mesh
    #[command(
        after_help = "Example:\n  tidegate kubeconfig > kubeconfig && kubectl --kubeconfig kubeconfig get pods -A"
    )]
    Kubeconfig(ContextArguments),
    /// Print shell exports: KUBECONFIG, and a PATH with the `istioctl` link
    #[command(after_help = "Example:\n  eval \"$(tidegate env -n foo)\"")]
    Env(ContextArguments),
    /// Probe every kernel facility that a mesh needs; one line each, with a fix
    #[command(after_help = "Example:\n  tidegate check")]
    Check(CheckArguments),
    /// Write the sample manifests of the walkthroughs to DIR/samples
    #[command(after_help = "Example:\n  tidegate samples . && kubectl apply -f samples/sleep/sleep.yaml")]
    Samples(SamplesArguments),
    /// Join the workloads of a manifest to the mesh: manifests in, manifests out, offline
    #[command(
        visible_alias = "kube-inject",
        after_help = "Example:\n  tidegate inject -f samples/sleep/sleep.yaml | kubectl apply -n foo -f -"
    )]
    Inject(InjectArguments),
    /// Images that pods run from: import, list, remove; with and without a mesh that runs
    #[command(after_help = "Examples:\n  tidegate image import app.tar\n  tidegate image list")]
    Image(ImageArguments),
    /// Print decisions as they are made
    #[command(
        after_help = "Examples:\n  tidegate tap -n foo\n  tidegate tap --workload tcp-echo --port 9000 -o json\n  \
                            tidegate tap --verdict all\n  tidegate tap --recent"
    )]
    Tap(TapArguments),
    /// List the connections that are open, with their age and the policy that let them in; or close some
    #[command(
        after_help = "Examples:\n  tidegate conns\n  tidegate conns -n foo --port 9000 -o json\n  tidegate conns close --workload tcp-echo"
    )]
    Conns(ConnsArguments),
    /// Tell one decision that was made, whole, and what would turn it now
    #[command(after_help = "Examples:\n  tidegate why\n  tidegate why 692bc1f200000007")]
    Why(WhyArguments),
    /// Play the Istio task (or ASM's) on a throw-away mesh, step by step, and end
    #[command(after_help = "Example:\n  tidegate demo --asm")]
    Demo(DemoArguments),
    /// Say what policies mean and what they do not mean as they look: files, directories, standard input, git revisions, live
    #[command(after_help = "Examples:\n  tidegate analyze policies/\n  helm template . | tidegate analyze -\n  \
                            tidegate analyze --fix -o sarif policies/ > findings.sarif\n\n\
                            Exit: 0 clean (or notes only), 79 findings, 65 a part could not be read (the rest is looked at)")]
    Analyze(AnalyzeArguments),
    /// Explain one connection: the verdict, every policy, rule and field that led to it, and the smallest edit that would turn it
    #[command(
        after_help = "Examples:\n  tidegate explain --from sleep.foo --to tcp-echo.foo --port 9002 manifests/\n  \
                            tidegate explain --from deploy/web --to sts/db --port 5432 --profile both live\n  \
                            tidegate explain --from 10.1.2.3 --to foo/db --port 5432 main:deploy -o json\n  \
                            tidegate explain --matrix --port 5432 manifests/\n  \
                            tidegate explain TG0101\n  tidegate explain 692bc1f200000007\n\n\
                            Exit: 0 whatever the verdict, 64 an end is not there, 65 a part could not be read (the rest is asked)"
    )]
    Explain(ExplainArguments),
    /// Judge the engine by a corpus of cases, offline; the last line is `N passed, N failed`
    #[command(after_help = "Example:\n  tidegate conformance crates/control/tests/conformance\n\n\
                            Exit: 0 all passed, 79 some failed, 65 a file could not be read (the others are judged)")]
    Conformance(ConformanceArguments),
    /// Judge the tests of policies that stand in files (`kind: PolicyTest`, `kind: PolicyAssertion`)
    #[command(after_help = "Examples:\n  tidegate test tests/\n  tidegate test tests/ -o junit > report.xml\n  \
                            tidegate test tests/ --input live\n  tidegate test record manifests/ > tests.yaml\n\n\
                            Exit: 0 all passed, 79 some did not, 65 a file could not be read (the others are judged)")]
    Test(TestArguments),
    /// Compare two sets of policies: which connections the second permits that the first denies, and the other way round
    #[command(
        after_help = "Examples:\n  tidegate diff main:deploy deploy\n  tidegate diff live policies/ --exit-code\n  \
                            tidegate diff main:deploy deploy -o markdown > comment.md\n\n\
                            Exit: 0, with --exit-code 79 if there is a difference; 65 a set could not be read"
    )]
    Diff(DiffArguments),
    /// Print the script that lets a shell complete this command
    #[command(after_help = "Examples:\n  source <(tidegate completion bash)\n  tidegate completion fish | source")]
    Completion(CompletionArguments),
    /// Write the manual pages to a directory
    #[command(after_help = "Example:\n  tidegate man ~/.local/share/man/man1")]
    Man(ManArguments),
    /// Called by the scripts of `completion`
    #[command(name = "__complete", hide = true)]
    Complete(CompleteArguments),
}

/// Where a mesh keeps what must last.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataDirArgument {
    /// Directory of the mesh: objects, keys, kubeconfig, logs [default: ~/.local/share/tidegate]
    #[arg(long, value_name = "DIR", env = "TIDEGATE_DATA_DIR", hide_env_values = true)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Return when the mesh is ready and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Port of the API server on 127.0.0.1 [default: the port of last time, or a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Set by `--detach` for its child: the readiness line goes to standard output, which is then closed.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

/// `down`.
#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Remove the data directory as well: objects, keys and logs are lost
    #[arg(long)]
    pub(crate) purge: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// `env` and `kubeconfig`.
#[derive(Debug, Args)]
pub(crate) struct ContextArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Namespace of the kubeconfig's context
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Accepted as by every verb; the facilities are the machine's, not a mesh's.
    #[command(flatten)]
    pub(crate) _place: DataDirArgument,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// `samples`.
#[derive(Debug, Args)]
pub(crate) struct SamplesArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Directory that receives `samples/`
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}

/// `inject`, `kube-inject`.
#[derive(Debug, Args)]
pub(crate) struct InjectArguments {
    /// Manifest to read; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) filename: String,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Revision to write into the label `istio.io/rev`
    #[arg(short, long, default_value = "default")]
    pub(crate) revision: String,
}

/// `tap`.
#[derive(Debug, Args)]
pub(crate) struct TapArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    #[command(flatten)]
    pub(crate) filter: FilterArguments,
    /// Denials are told at once, connections that were let in when they are over
    #[arg(long, value_enum, default_value_t = Verdicts::Denied)]
    pub(crate) verdict: Verdicts,
    /// Print what was decided before, as far as it is kept (of each workload the last 200 of each verdict), and end
    #[arg(long)]
    pub(crate) recent: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Play the ASM text instead of the Istio task
    #[arg(long)]
    pub(crate) asm: bool,
    /// Wait for Enter before each step
    #[arg(long)]
    pub(crate) step: bool,
}

/// `conformance`.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArguments {
    /// Directory whose *.yaml files are read, or those of its folder `cases` if it has one
    pub(crate) dir: PathBuf,
    /// Print what the engine computes instead of judging it; needs no expectation in the files
    #[arg(long)]
    pub(crate) answers: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Which decisions `tap` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verdicts {
    /// What was refused
    Denied,
    /// What was let in
    Allowed,
    /// Both
    All,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON value; streams are one JSON value a line
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Arguments, Parser};

    /// The words of a command line as a shell would cut it, up to whatever the shell itself acts on.
    fn words(line: &str) -> Vec<String> {
        let command = line.split(['|', '>', ')', ';', '&']).next().unwrap();
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for letter in command.chars() {
            match (letter, quote) {
                ('"' | '\'', None) => quote = Some(letter),
                (_, Some(open)) if letter == open => quote = None,
                (' ', None) => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
                _ => word.push(letter),
            }
        }
        words.extend(Some(word).filter(|word| !word.is_empty()));
        words
    }

    #[test]
    fn every_verb_shows_examples_that_are_legal() {
        for verb in Arguments::command().get_subcommands_mut().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name().to_owned();
            let help = verb.render_long_help().to_string();
            let examples = help.split_once("Example").unwrap_or_else(|| panic!("`{name} --help` has no Example")).1;
            let mut found = 0;
            for line in examples.lines().skip(1).take_while(|line| line.starts_with("  ")) {
                let Some(at) = line.find("tidegate ") else { continue };
                let line = line.split_at(at).1;
                let parsed = Arguments::try_parse_from(words(line));
                assert!(parsed.is_ok(), "the example `{line}` of `{name}` does not parse: {}", parsed.unwrap_err());
                found += usize::from(line.starts_with(&format!("tidegate {name}")));
            }
            assert!(found > 0, "`{name} --help` shows no `tidegate {name} ..`");
        }
    }
}
