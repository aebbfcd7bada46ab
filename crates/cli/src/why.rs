//! `why`: one decision that was made, whole, and what would turn it now.

use anyhow::Context;
use clap::{Args, Parser};
use http::StatusCode;
use http_body_util::BodyExt;
use policy::Reason;
use policy::record::{End, Record, parse_id};

use crate::args::{Arguments, DataDirArgument, Format, Verb};
use crate::exit::{Exit, ExitWith, Failure, Outcome};
use crate::settings::Place;
use crate::{client, conns, explain, print};

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArguments {
    #[command(flatten)]
    place: DataDirArgument,
    /// The id of a decision, as `tap`, `conns` and `kubectl logs -c istio-proxy` show it [default: the last denial]
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Prints the record, then what the mesh as it is now says of the same connection.
pub(crate) fn run(arguments: &WhyArguments) -> Outcome {
    let Some(id) = &arguments.id else {
        let place = Place::resolve(&arguments.place)?;
        let record = client::runtime()?.block_on(last_denial(&place))?;
        return print(&place, &record, arguments.output);
    };
    let id = parse_id(id).ok_or_else(|| Failure::says(Exit::Usage, conns::wrong_id(id)))?;
    tell(&arguments.place, id, arguments.output)
}

/// The same for whoever has read the id.
pub(crate) fn tell(place: &DataDirArgument, id: u64, output: Format) -> Outcome {
    let place = Place::resolve(place)?;
    let record = client::runtime()?.block_on(record(&place, id))?;
    print(&place, &record, output)
}

fn print(place: &Place, record: &Record, output: Format) -> Outcome {
    match output {
        Format::Json => {
            let value = serde_json::to_value(record).context("writing the record")?;
            print::out(format_args!("{value:#}\n"))
        }
        Format::Table => {
            // `explain` tells what a mesh decides that reads all; this one refuses what it would have to read for.
            let where_it_is_judged = match record.outcome.reason {
                Reason::NeedsProxyPath => "in a mesh that sees those bytes",
                _ => "as the mesh is now",
            };
            print::out(format_args!(
                "{}\n\nThe same connection, {where_it_is_judged}:\n",
                control::lines::whole(record)
            ))?;
            explain_now(place, record)
        }
    }
}

async fn record(place: &Place, id: u64) -> Result<Record, Failure> {
    let path = format!("/tidegate/v1/records/{id:016x}");
    let server = client::server(place).exit_with(Exit::Unreachable)?;
    let response = client::ask(&server, &path).await.exit_with(Exit::Unreachable)?;
    if response.status() == StatusCode::NOT_FOUND {
        let what = format!(
            "no decision {id:016x} is kept: of each workload the mesh keeps the last ones of each verdict, until it ends; \
             `tidegate tap -o json` keeps them all"
        );
        return Err(Failure::says(Exit::Failure, what));
    }
    if !response.status().is_success() {
        return Err(Failure::new(Exit::Unreachable, client::refusal(response, &path).await));
    }
    let body = response.into_body().collect().await.context("reading the record").exit_with(Exit::Unreachable)?;
    read(&body.to_bytes())
}

async fn last_denial(place: &Place) -> Result<Record, Failure> {
    let answer = client::get(place, "/tidegate/v1/tap/recent?verdict=denied").await.exit_with(Exit::Unreachable)?;
    let body = answer.into_body().collect().await.context("reading the records").exit_with(Exit::Unreachable)?;
    let bytes = body.to_bytes();
    let last = bytes.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    read(last.ok_or_else(|| {
        let what =
            "nothing was denied since the mesh is up; give the id of a decision: `tidegate tap --recent --verdict all`";
        Failure::says(Exit::Failure, what.to_owned())
    })?)
}

fn read(json: &[u8]) -> Result<Record, Failure> {
    serde_json::from_slice(json).context("reading the record; are both of one version?").exit_with(Exit::Failure)
}

/// What `explain` says of it: the trace, and the smallest edit that would turn the verdict.
fn explain_now(place: &Place, record: &Record) -> Outcome {
    let Some(to) = &record.destination.workload else { return Ok(()) };
    let (from, to) = (named(&record.source), format!("{}/{}", to.namespace, to.name));
    let (port, data_dir) = (record.destination.port.to_string(), place.data_dir.to_string_lossy());
    let words = ["tidegate", "explain", "--from", &from, "--to", &to, "--port", &port, "--data-dir", &data_dir, "live"];
    match Arguments::try_parse_from(words).context("asking for an explanation")?.verb {
        Verb::Explain(arguments) => explain::run(&arguments),
        _ => Ok(()),
    }
}

fn named(end: &End) -> String {
    end.workload.as_ref().map_or_else(|| end.address.to_string(), |id| format!("{}/{}", id.namespace, id.name))
}
