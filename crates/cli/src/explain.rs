//! `explain`: one connection and everything that led to its verdict; or who reaches whom; or the story of a finding's code.

use std::net::IpAddr;

use clap::Args;
use control::explain::{self, Asked, Report, Setting};
use control::finding;
use policy::ask::Verdict;
use policy::record::parse_id;
use serde_json::json;

use crate::args::Format;
use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::sources::{self, SourceArguments, Sources};
use crate::verdicts::ProfileArgument;
use crate::why;

/// `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    sources: SourceArguments,
    /// Who opens the connection: a workload (`x`, `deploy/x`, `x.ns`, `ns/x`), a principal or `spiffe://..`, an address, or `outside`
    #[arg(long, value_name = "WORKLOAD", conflicts_with = "matrix")]
    from: Option<String>,
    /// The address that it comes from, where that is not known and matters
    #[arg(long, value_name = "ADDRESS", requires = "from")]
    from_address: Option<IpAddr>,
    /// Whose port it is: a workload, or its address
    #[arg(long, value_name = "WORKLOAD", conflicts_with = "matrix")]
    to: Option<String>,
    /// The address that it is sent to, where that is not known and matters
    #[arg(long, value_name = "ADDRESS", requires = "to")]
    to_address: Option<IpAddr>,
    /// The port that the workload listens on, which is not always that of its service
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The server name of its TLS handshake [default: none]
    #[arg(long, value_name = "NAME", conflicts_with = "matrix")]
    sni: Option<String>,
    /// Every workload to every workload on this port
    #[arg(long)]
    matrix: bool,
    /// Leave out the smallest edits
    #[arg(long)]
    no_edits: bool,
    /// Profile to explain in [default: that of the mesh settings]
    #[arg(long, value_enum, value_name = "PROFILE")]
    profile: Option<ProfileArgument>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Reads, asks and prints.
pub(crate) fn run(arguments: &ExplainArguments) -> Outcome {
    if let Some(story) = story(arguments) {
        return print::out(format_args!("{story}"));
    }
    if let Some(id) = decision(arguments) {
        return why::tell(&arguments.sources.how.place, id, arguments.output);
    }
    let lacking = |what| Failure::says(Exit::Usage, format!("{what} is missing; see `tidegate explain --help`"));
    let port = arguments.port.ok_or_else(|| lacking("--port"))?;
    let ends = match (&arguments.from, &arguments.to) {
        _ if arguments.matrix => None,
        (Some(from), Some(to)) => Some((from, to)),
        (None, _) => return Err(lacking("--from")),
        (_, None) => return Err(lacking("--to")),
    };
    let sources = sources::read(&arguments.sources)?;
    sources.tell_bad();
    match ends {
        None => matrix(arguments, port, &sources)?,
        Some((from, to)) => {
            let asked = Asked {
                from,
                from_address: arguments.from_address,
                to,
                to_address: arguments.to_address,
                port,
                sni: arguments.sni.clone(),
                namespace: &arguments.sources.how.namespace,
            };
            connection(arguments, &asked, &sources)?;
        }
    }
    let is_bad = sources.is_bad();
    // The process ends here: to hand back a large set object by object would only take time.
    std::mem::forget(sources);
    if is_bad { Err(Failure::silent(Exit::BadInput)) } else { Ok(()) }
}

/// `explain TG0201`: what a code means.
fn story(arguments: &ExplainArguments) -> Option<String> {
    match arguments.sources.files.as_slice() {
        [code] if arguments.from.is_none() && arguments.to.is_none() && !arguments.matrix => finding::story(code),
        _ => None,
    }
}

/// `explain 692bc1f200000007`: a decision that was made.
fn decision(arguments: &ExplainArguments) -> Option<u64> {
    match arguments.sources.files.as_slice() {
        [id] if arguments.from.is_none() && arguments.to.is_none() && !arguments.matrix => parse_id(id),
        _ => None,
    }
}

fn profiles(arguments: &ExplainArguments) -> Vec<Option<policy::Profile>> {
    arguments.profile.map_or_else(|| vec![None], ProfileArgument::profiles)
}

fn matrix(arguments: &ExplainArguments, port: u16, sources: &Sources) -> Outcome {
    let all: Vec<_> =
        profiles(arguments).into_iter().map(|profile| explain::matrix(sources.mesh(profile), port)).collect();
    match arguments.output {
        Format::Table => {
            print::out(format_args!("{}", all.iter().map(explain::Matrix::text).collect::<Vec<_>>().join("\n")))
        }
        Format::Json => {
            let matrices: Vec<_> = all.iter().map(explain::Matrix::value).collect();
            let whole = json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "Matrix", "matrices": matrices});
            print::out(format_args!("{whole:#}\n"))
        }
    }
}

fn connection(arguments: &ExplainArguments, asked: &Asked<'_>, sources: &Sources) -> Outcome {
    let mut reports: Vec<Report> = Vec::new();
    let mut shown = None;
    for profile in profiles(arguments) {
        let translated = sources.bundle.translate(profile, sources.config.as_ref());
        let ends = explain::ends(asked, &translated.mesh, sources.bundle.objects())
            // What could not be read may be what is missing.
            .map_err(|why| Failure::says(if sources.is_bad() { Exit::BadInput } else { Exit::Usage }, why))?;
        let mut report = explain::report(&sources.bundle, &translated.mesh, &translated.translator, &ends);
        if !arguments.no_edits {
            let setting = Setting {
                bundle: &sources.bundle,
                namespace: &arguments.sources.how.namespace,
                profile,
                config: sources.config.as_ref(),
            };
            let edit = |wanted: Verdict| {
                let there = report.answer.verdict == wanted;
                if there { None } else { explain::smallest(&setting, &translated.mesh, &ends, &wanted) }
            };
            (report.allows, report.denies) = (edit(Verdict::Allow), edit(Verdict::Deny));
        }
        reports.push(report);
        shown = Some(ends);
    }
    let Some(ends) = shown else { return Ok(()) };
    match arguments.output {
        Format::Table => print::out(format_args!("{}", explain::text(&ends, &reports))),
        Format::Json => print::out(format_args!("{:#}\n", explain::value(&ends, &reports))),
    }
}
