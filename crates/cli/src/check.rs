//! `check`: every kernel facility that a mesh needs, probed before use; one line each, with a fix.

use linux::probe::{Probe, Trouble};
use serde_json::json;

use crate::args::{CheckArguments, Format};
use crate::exit::{Exit, Failure, Outcome};
use crate::print;

/// Prints what was probed; exit code 79 when something is missing.
pub(crate) fn run(arguments: &CheckArguments) -> Outcome {
    let probes = linux::probe::all();
    let missing = probes.iter().filter(|probe| !probe.is_ok()).count();
    match arguments.output {
        Format::Json => {
            let row = |probe: &Probe| {
                let trouble = probe.trouble.as_ref();
                json!({"what": probe.what, "ok": probe.is_ok(), "answer": trouble.map(|trouble| &trouble.answer), "fix": trouble.map(|trouble| trouble.fix)})
            };
            let rows: Vec<_> = probes.iter().map(row).collect();
            print::out(format_args!(
                "{}\n",
                json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "Check", "probes": rows})
            ))?;
        }
        Format::Table => {
            for probe in &probes {
                match &probe.trouble {
                    None => print::out(format_args!("ok       {}\n", probe.what))?,
                    Some(Trouble { answer, fix }) => {
                        print::out(format_args!("MISSING  {}: {answer}\n         fix: {fix}\n", probe.what))?;
                    }
                }
            }
        }
    }
    if missing == 0 {
        return Ok(());
    }
    Err(Failure::says(Exit::Negative, format!("{missing} of {} facilities are missing", probes.len())))
}
