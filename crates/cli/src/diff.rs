//! `diff`: two sets of manifests; what connections the second permits that the first denies, and the other way round.

mod markdown;
mod value;

use std::fmt::Write;

use clap::{Args, ValueEnum};
use control::diff::{self, Change, Report};
use control::mesh_config;
use policy::space::Relation;
use policy::{Mesh, Profile};

use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::sources::{self, ReadArguments, Sources};
use crate::verdicts::{self, ProfileArgument};

/// Regions shown to people for one destination: more is not read, and `-o json` has them all.
const REGIONS_SHOWN_MAX: usize = 20;
/// Destinations shown to people, for the same reason.
const DESTINATIONS_SHOWN_MAX: usize = 50;

/// `diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// The set before: a file, a directory, `-` for standard input, `REV:PATH` of git, or `live`
    #[arg(value_name = "FILE|DIR|-|REV:PATH|live")]
    before: String,
    /// The set after
    #[arg(value_name = "FILE|DIR|-|REV:PATH|live")]
    after: String,
    /// Profile to compare in [default: that of the mesh settings]
    #[arg(long, value_enum, value_name = "PROFILE")]
    profile: Option<ProfileArgument>,
    /// Exit with 79 if there is a difference, or may be one
    #[arg(long)]
    exit_code: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    how: ReadArguments,
}

/// How a difference is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One JSON value
    Json,
    /// For a pull request
    Markdown,
}

/// Compares, and prints what differs.
pub(crate) fn run(arguments: &DiffArguments) -> Outcome {
    if arguments.before == "-" && arguments.after == "-" {
        return Err(Failure::says(Exit::Usage, "standard input can be one of the two sets, not both"));
    }
    let before = sources::read_files(std::slice::from_ref(&arguments.before), &arguments.how)?;
    let after = sources::read_files(std::slice::from_ref(&arguments.after), &arguments.how)?;
    // Of a set that cannot be read whole nothing is compared: what is missing in it would be a difference.
    let whole = [&before, &after].map(verdicts::must_be_whole);
    whole.into_iter().collect::<Outcome>()?;
    let profiles = arguments.profile.map_or_else(|| vec![None], ProfileArgument::profiles);
    let mut reports = Vec::new();
    for profile in profiles {
        let (before, after) = meshes(&before, &after, profile);
        reports.push(diff::report(&before, &after));
    }
    print::out(format_args!(
        "{}",
        match arguments.output {
            Format::Table => text(arguments, &reports),
            Format::Json => format!("{:#}\n", value::of(arguments, &reports)),
            Format::Markdown => markdown::of(arguments, &reports),
        }
    ))?;
    if let Some(wrong) = reports.iter().flat_map(|report| &report.wrong).next() {
        let what = format!("this is a mistake of tidegate: the engine decides the witness otherwise: {wrong}");
        return Err(Failure::says(Exit::Failure, what));
    }
    if arguments.exit_code && reports.iter().any(Report::differs) {
        return Err(Failure::silent(Exit::Negative));
    }
    Ok(())
}

/// The meshes of both sets. Policies are often compared alone with a whole mesh: a set that holds no workload, or no settings, is
/// compared as it would be among those of the other.
fn meshes(before: &Sources, after: &Sources, profile: Option<Profile>) -> (Mesh, Mesh) {
    let says = |sources: &Sources| {
        sources.config.is_some()
            || sources
                .bundle
                .objects()
                .find("", "configmaps", Some(mesh_config::NAMESPACE), mesh_config::NAME)
                .is_some()
    };
    let speaks = if says(after) || !says(before) { after } else { before };
    let common = speaks.config.clone().unwrap_or_else(|| mesh_config::of(speaks.bundle.objects()));
    // Two that each have settings keep them, but for the profile: verdicts of different profiles have nothing in common.
    let profile = profile.or(Some(common.settings.profile));
    let mesh = |sources: &Sources| {
        if says(sources) { sources.mesh(profile) } else { sources.bundle.mesh(profile, Some(&common)) }
    };
    let (mut one, mut other) = (mesh(before), mesh(after));
    match (one.workloads.is_empty(), other.workloads.is_empty()) {
        (true, false) => settle(&mut one, &other),
        (false, true) => settle(&mut other, &one),
        _ => {}
    }
    (one, other)
}

/// Puts policies among the workloads of another mesh.
fn settle(policies: &mut Mesh, there: &Mesh) {
    policies.workloads.clone_from(&there.workloads);
    policies.services.clone_from(&there.services);
    policies.namespaces.extend(there.namespaces.iter().cloned());
}

fn text(arguments: &DiffArguments, reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let several = reports.len() > 1;
        let profile = if several { format!(" ({} profile)", report.profile.word()) } else { String::new() };
        let _infallible = writeln!(text, "{}", headline(report, &arguments.before, &arguments.after, &profile));
        for changed in report.destinations.iter().take(DESTINATIONS_SHOWN_MAX) {
            let _infallible = writeln!(text, "\n{}: {}", changed.destination, relation(changed.relation));
            for change in changed.regions.iter().take(REGIONS_SHOWN_MAX) {
                let sign = if change.opens { '+' } else { '-' };
                let _infallible = writeln!(text, "{sign} {}", change.sentence);
                let _infallible = writeln!(text, "    for instance {}", witness(change));
                let _infallible = writeln!(text, "    before: {}", change.before.because());
                let _infallible = writeln!(text, "    after:  {}", change.after.because());
            }
            more(&mut text, changed.regions.len(), REGIONS_SHOWN_MAX, "regions");
        }
        more(&mut text, report.destinations.len(), DESTINATIONS_SHOWN_MAX, "destinations");
        for line in notes(report) {
            let _infallible = writeln!(text, "\nnote: {line}");
        }
    }
    text
}

fn more(text: &mut String, there: usize, shown: usize, what: &str) {
    if there > shown {
        let _infallible = writeln!(text, "  and {} more {what}: -o json shows all", there - shown);
    }
}

/// `dir is more permissive than main:dir`.
fn headline(report: &Report, before: &str, after: &str, profile: &str) -> String {
    match report.relation {
        Relation::Equivalent => {
            format!("`{before}` and `{after}` are equivalent{profile}: every TCP connection is decided alike")
        }
        Relation::MoreRestrictive => {
            format!("`{after}` is more restrictive than `{before}`{profile}: it denies more and permits nothing new")
        }
        Relation::MorePermissive => {
            format!("`{after}` is more permissive than `{before}`{profile}: it permits more and denies nothing new")
        }
        Relation::Incomparable => {
            format!("`{before}` and `{after}` are incomparable{profile}: each permits something that the other denies")
        }
        Relation::Inconclusive(bound) => {
            format!(
                "`{before}` and `{after}`{profile}: inconclusive: {bound}; what is shown differs, and there may be more"
            )
        }
    }
}

fn relation(relation: Relation) -> String {
    match relation {
        Relation::Inconclusive(bound) => format!("inconclusive: {bound}"),
        other => other.to_string(),
    }
}

/// What a reader must know beside the regions.
fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if !report.http.is_empty() {
        let names: Vec<String> = report.http.iter().map(ToString::to_string).collect();
        notes.push(format!(
            "HTTP attributes changed in {}: compared is what counts on TCP; on ports that carry HTTP more may differ",
            names.join(", ")
        ));
    }
    for (side, workloads) in [("first", &report.only_before), ("second", &report.only_after)] {
        if !workloads.is_empty() {
            let names: Vec<String> = workloads.iter().map(ToString::to_string).collect();
            notes.push(format!("only in the {side} set, and judged by the policies of both: {}", names.join(", ")));
        }
    }
    for changed in report.destinations.iter().filter(|changed| changed.more) {
        notes.push(format!("{}: it differs in more regions than are told", changed.destination));
    }
    notes
}

/// The connection that shows it: `cluster.local/ns/foo/sa/sleep at 10.0.0.1 to 10.0.0.2:9000`.
fn witness(change: &Change) -> String {
    diff::connection_in_words(&change.region.witness)
}
