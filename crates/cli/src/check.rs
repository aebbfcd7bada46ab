//! `check`: every kernel facility that a mesh needs, probed before use; one line each, with a fix.

use linux::probe::{Probe, Trouble};
use serde_json::json;

use crate::args::{CheckArguments, Format};
use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::rights::{self, Trial};

/// Prints what was probed; exit code 79 when something is missing.
pub(crate) fn run(arguments: &CheckArguments) -> Outcome {
    // Another user's trials are made where that user's mesh would be, or show why there is no such place.
    let probes = match rights::trial()? {
        Trial::AsRoot => linux::probe::all(),
        Trial::Apart => [vec![Probe::of_user_namespace(Ok(()))], linux::probe::all()].concat(),
        Trial::Refused(error) => vec![Probe::of_user_namespace(Err(error))],
    };
    let missing = probes.iter().filter(|probe| !probe.is_ok() && !probe.is_limit).count();
    match arguments.output {
        Format::Json => {
            let row = |probe: &Probe| {
                let trouble = probe.trouble.as_ref();
                json!({"what": probe.what, "ok": probe.is_ok(), "answer": trouble.map(|trouble| &trouble.answer), "fix": trouble.map(|trouble| trouble.fix), "limit": probe.is_limit})
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
                        let word = if probe.is_limit { "limited" } else { "MISSING" };
                        print::out(format_args!("{word}  {}: {answer}\n         fix: {fix}\n", probe.what))?;
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
