//! `completion`: what a shell offers on Tab. The scripts are small and ask the binary itself (`__complete`), so that they
//! never fall behind it, and so that names of workloads, policies and namespaces come from the mesh that runs.

mod live;
mod scripts;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};

use crate::args::{Arguments, DataDirArgument};
use crate::exit::Outcome;
use crate::print;

use words::Wanted;

/// `completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// The shell
    pub(crate) shell: Shell,
}

/// `__complete`, which the scripts call.
#[derive(Debug, Args)]
pub(crate) struct CompleteArguments {
    /// The words of the command line after `tidegate`, up to the cursor; the last one is to be completed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

/// The shells that have a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Prints the script of a shell.
pub(crate) fn run(arguments: &CompletionArguments) -> Outcome {
    print::out(format_args!(
        "{}",
        match arguments.shell {
            Shell::Bash => scripts::BASH,
            Shell::Zsh => scripts::ZSH,
            Shell::Fish => scripts::FISH,
        }
    ))
}

/// Prints what may stand for the last word, one a line, a tab before what is said about it. A last line `:files` leaves the
/// word to the shell. Nothing is said on standard error: the shell shows it in the middle of the line that is being typed.
pub(crate) fn complete(arguments: &CompleteArguments) -> Outcome {
    let words: Vec<String> = arguments.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut command = Arguments::command();
    command.build();
    let asked = words::ask(&command, &words);
    let mut lines = asked.offers;
    let mut files = false;
    match asked.wanted {
        Wanted::Nothing => {}
        Wanted::Files => files = true,
        Wanted::Names { kind, prefix } => {
            let data_dir =
                asked.data_dir.map(PathBuf::from).or_else(|| std::env::var_os("TIDEGATE_DATA_DIR").map(PathBuf::from));
            let names = live::names(&DataDirArgument { data_dir }, kind);
            lines.extend(names.into_iter().map(|name| (format!("{prefix}{name}"), String::new())));
        }
    }
    let mut text = String::new();
    for (word, about) in lines.iter().filter(|(word, _)| word.starts_with(&asked.begun)) {
        // A tab or a line break in a name would be taken for the end of it.
        let clean = |text: &str| text.replace(['\t', '\n', '\r'], " ");
        text.push_str(&clean(word));
        if !about.is_empty() {
            text.push('\t');
            text.push_str(&clean(about));
        }
        text.push('\n');
    }
    if files {
        text.push_str(":files\n");
    }
    print::out(format_args!("{text}"))
}
