//! `conns`: the connections that are open, and their end.

use std::collections::HashSet;

use anyhow::Context;
use clap::{Args, Subcommand};
use http_body_util::BodyExt;
use policy::record::{Record, parse_id};
use serde_json::{Value, json};

use crate::args::{DataDirArgument, Format};
use crate::client;
use crate::exit::{Exit, ExitWith, Failure, Outcome};
use crate::filter::FilterArguments;
use crate::print;
use crate::settings::Place;

/// `conns`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConnsArguments {
    #[command(subcommand)]
    verb: Option<ConnsVerb>,
    #[command(flatten)]
    place: DataDirArgument,
    #[command(flatten)]
    filter: FilterArguments,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// What is done with open connections.
#[derive(Debug, Subcommand)]
enum ConnsVerb {
    /// Reset open connections: those with these ids, or all that the filters let through
    #[command(
        after_help = "Examples:\n  tidegate conns close 692bc1f200000007\n  tidegate conns close --workload tcp-echo --port 9000"
    )]
    Close(CloseArguments),
}

/// `conns close`.
#[derive(Debug, Args)]
struct CloseArguments {
    #[command(flatten)]
    place: DataDirArgument,
    /// Ids, as `conns` shows them
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArguments,
}

/// Lists or closes.
pub(crate) fn run(arguments: &ConnsArguments) -> Outcome {
    let runtime = client::runtime()?;
    match &arguments.verb {
        Some(ConnsVerb::Close(close)) => runtime.block_on(self::close(close)),
        None => {
            let place = Place::resolve(&arguments.place)?;
            let mut open = runtime.block_on(open(&place))?;
            open.retain(|record| arguments.filter.admits(record));
            match arguments.output {
                Format::Json => {
                    let list = json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "ConnectionList", "items": open});
                    print::out(format_args!("{list:#}\n"))
                }
                Format::Table if open.is_empty() => {
                    print::err(format_args!("No open connections found."));
                    Ok(())
                }
                Format::Table => print::out(format_args!("{}", control::lines::connections(&open))),
            }
        }
    }
}

async fn open(place: &Place) -> Result<Vec<Record>, Failure> {
    let response = client::get(place, "/tidegate/v1/conns").await.exit_with(Exit::Unreachable)?;
    let body = response.into_body().collect().await.context("reading the connections").exit_with(Exit::Unreachable)?;
    let read = serde_json::from_slice(&body.to_bytes());
    read.context("reading the connections; are both of one version?").exit_with(Exit::Failure)
}

async fn close(arguments: &CloseArguments) -> Outcome {
    if arguments.ids.is_empty() && arguments.filter.is_empty() {
        let what = "which ones? give ids, as `tidegate conns` shows them, or a filter such as --workload";
        return Err(Failure::says(Exit::Usage, what));
    }
    let mut wanted = HashSet::new();
    for id in &arguments.ids {
        let known = parse_id(id).ok_or_else(|| Failure::says(Exit::Usage, wrong_id(id)))?;
        wanted.insert(known);
    }
    let place = Place::resolve(&arguments.place)?;
    let open = open(&place).await?;
    let meant =
        |record: &&Record| (arguments.ids.is_empty() || wanted.contains(&record.id)) && arguments.filter.admits(record);
    let ids: Vec<u64> = open.iter().filter(meant).map(|record| record.id).collect();
    if ids.is_empty() {
        return Err(Failure::says(Exit::Failure, "no open connection is meant by that; see `tidegate conns`"));
    }
    let body = serde_json::to_vec(&ids).context("writing the ids")?;
    let answer = client::post(&place, "/tidegate/v1/conns/close", body).await.exit_with(Exit::Unreachable)?;
    let answer = answer.into_body().collect().await.context("reading the answer").exit_with(Exit::Unreachable)?;
    let answer: Value = serde_json::from_slice(&answer.to_bytes()).context("reading the answer")?;
    let closed = answer.get("closed").and_then(Value::as_u64).unwrap_or_default();
    let plural = if closed == 1 { "" } else { "s" };
    print::out(format_args!("{closed} connection{plural} closed\n"))
}

/// What is said of an id that is none.
pub(crate) fn wrong_id(id: &str) -> String {
    format!("`{id}` is no id: one has 16 hexadecimal digits, as `tidegate tap` and `tidegate conns` show it")
}
