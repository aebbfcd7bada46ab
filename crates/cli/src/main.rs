//! The binary `tidegate`: arguments in, one command run, one exit code out.
//!
//! Deliberately not here: what the commands do (one file per command), and anything that decides or enforces.
mod analyze;
mod args;
mod check;
mod client;
mod completion;
mod conformance;
mod conns;
mod contents;
mod context;
mod daemon;
mod demo;
mod diff;
mod down;
mod exit;
mod explain;
mod filter;
mod image;
mod inject;
mod kubectl;
mod log;
mod man;
mod mesh;
mod print;
mod render;
mod rights;
mod samples;
mod settings;
mod sources;
mod status;
mod tap;
mod test;
mod up;
mod verdicts;
mod why;

use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use args::{Arguments, Verb};
use exit::{Exit, Failure, Outcome};

fn main() -> ExitCode {
    // An applet or a part of a pod first: they start often, and know nothing of the command line below.
    if let Some(code) = local::entry(std::env::args_os()) {
        return code;
    }
    if let Some(code) = rights::entry(std::env::args_os()) {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

fn run() -> Outcome {
    let words: Vec<_> = std::env::args_os().collect();
    let called = words.first().map(Path::new).and_then(Path::file_name);
    if called.is_some_and(|name| name == "istioctl") {
        return inject::istioctl(words);
    }
    let verb = words.get(1).and_then(|word| word.to_str()).map(str::to_owned);
    match Arguments::try_parse_from(words) {
        Ok(arguments) => dispatch(arguments.verb),
        Err(error) => {
            let known = verb.filter(|verb| Arguments::command().find_subcommand(verb).is_some());
            misuse(&error, &known.map_or_else(|| "tidegate".to_owned(), |verb| format!("tidegate {verb}")))
        }
    }
}

fn dispatch(verb: Verb) -> Outcome {
    match verb {
        Verb::Up(arguments) => up::run(&arguments),
        Verb::Down(arguments) => down::run(&arguments),
        Verb::Status(arguments) => status::run(&arguments),
        Verb::Kubeconfig(arguments) => context::kubeconfig(&arguments),
        Verb::Env(arguments) => context::env(&arguments),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Samples(arguments) => samples::run(&arguments),
        Verb::Inject(arguments) => inject::run(&arguments),
        Verb::Tap(arguments) => tap::run(&arguments),
        Verb::Conns(arguments) => conns::run(&arguments),
        Verb::Why(arguments) => why::run(&arguments),
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Analyze(arguments) => analyze::run(&arguments),
        Verb::Explain(arguments) => explain::run(&arguments),
        Verb::Conformance(arguments) => conformance::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Diff(arguments) => diff::run(&arguments),
        Verb::Image(arguments) => image::run(&arguments),
        Verb::Completion(arguments) => completion::run(&arguments),
        Verb::Man(arguments) => man::run(&arguments),
        Verb::Complete(arguments) => completion::complete(&arguments),
    }
}

/// Help goes to standard output and is no error; anything else is a usage error of the command that was called so.
fn misuse(error: &clap::Error, called: &str) -> Outcome {
    if !error.use_stderr() {
        return print::out(format_args!("{}", error.render()));
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        print::err(format_args!("{}", error.render().to_string().trim_end()));
        return Err(Failure::silent(Exit::Usage));
    }
    let text = error.render().to_string().replace("try '--help'", &format!("try '{called} --help'"));
    Err(Failure::says(Exit::Usage, text.trim_start_matches("error: ").trim_end()))
}
