//! `man`: the manual pages, made from the same definition as the help.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};

use crate::args::Arguments;
use crate::exit::Outcome;
use crate::print;

/// `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Directory that receives the pages; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Writes `tidegate.1` and one page for each verb.
pub(crate) fn run(arguments: &ManArguments) -> Outcome {
    let dir = &arguments.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("making `{}`", dir.display()))?;
    clap_mangen::generate_to(Arguments::command(), dir).with_context(|| format!("writing into `{}`", dir.display()))?;
    print::err(format_args!("read them: man -l {}", dir.join("tidegate.1").display()));
    Ok(())
}
