//! `tap`: decisions as they are made, until interrupted; or those of before, as far as they are kept.

use anyhow::Context;
use http_body_util::BodyExt;
use policy::record::Record;

use crate::args::{Format, TapArguments, Verdicts};
use crate::client;
use crate::exit::{Exit, ExitWith, Failure, Outcome};
use crate::print;
use crate::settings::Place;

/// Longest line of the stream: a record with its nearest miss stays far below.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// Prints one line per decision that the filters let through.
pub(crate) fn run(arguments: &TapArguments) -> Outcome {
    let place = Place::resolve(&arguments.place)?;
    let runtime = client::runtime()?;
    runtime.block_on(async {
        let verdict = match arguments.verdict {
            Verdicts::Denied => "denied",
            Verdicts::Allowed => "allowed",
            Verdicts::All => "all",
        };
        let path = if arguments.recent { "/tidegate/v1/tap/recent" } else { "/tidegate/v1/tap" };
        let path = format!("{path}?verdict={verdict}");
        let mut body = client::get(&place, &path).await.exit_with(Exit::Unreachable)?.into_body();
        if !arguments.recent {
            // The mesh listens for this command by now: whoever waits for this line misses no decision after it.
            print::err(format_args!("Decisions from here on (Ctrl-C ends this; `--recent` prints those of before):"));
        }
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the mesh ended the stream").exit_with(Exit::Unreachable)?;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
            print_lines(&mut pending, arguments)?;
        }
        Ok(())
    })
}

fn print_lines(pending: &mut Vec<u8>, arguments: &TapArguments) -> Outcome {
    if pending.len() > LINE_BYTES_MAX {
        return Err(Failure::says(Exit::Failure, format!("a record longer than {LINE_BYTES_MAX} bytes")));
    }
    while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = pending.drain(..=end).collect();
        let record: Record = serde_json::from_slice(&line).context("reading a record; are both of one version?")?;
        if !arguments.filter.admits(&record) {
            continue;
        }
        match arguments.output {
            Format::Json => print::out(format_args!("{}", String::from_utf8_lossy(&line)))?,
            Format::Table => print::out(format_args!("{}\n", control::lines::tap_line(&record)))?,
        }
    }
    Ok(())
}
