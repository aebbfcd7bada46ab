//! `status`: whether the mesh runs, what it holds and what it enforces.

use anyhow::Context;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::args::{Format, StatusArguments};
use crate::client;
use crate::daemon;
use crate::exit::{Exit, ExitWith, Failure, Outcome};
use crate::print;
use crate::settings::Place;

/// Prints the state; exit code 69 when no mesh runs here.
pub(crate) fn run(arguments: &StatusArguments) -> Outcome {
    let place = Place::resolve(&arguments.place)?;
    let daemon = daemon::running(&place)?;
    let mut status = json!({
        "apiVersion": "tidegate.io/v1alpha1",
        "kind": "MeshStatus",
        "id": place.id,
        "dataDir": place.data_dir,
        "running": daemon.is_some(),
    });
    if let (Some(daemon), Some(fields)) = (&daemon, status.as_object_mut()) {
        fields.insert("pid".to_owned(), json!(daemon.pid));
        fields.insert("version".to_owned(), json!(daemon.version));
        fields.insert("apiServer".to_owned(), json!(format!("https://127.0.0.1:{}", daemon.port)));
        fields.insert("mesh".to_owned(), ask(&place)?);
    }
    match arguments.output {
        Format::Json => print::out(format_args!("{status:#}\n"))?,
        Format::Table => print::out(format_args!("{}", table(&status)))?,
    }
    match daemon {
        Some(_) => Ok(()),
        None => Err(Failure::says(
            Exit::Unreachable,
            format!("no mesh runs in `{}`; start it: {}", place.data_dir.display(), place.command("up")),
        )),
    }
}

fn ask(place: &Place) -> Result<Value, Failure> {
    let runtime = client::runtime()?;
    runtime.block_on(async {
        let response = client::get(place, "/tidegate/v1/status").await.exit_with(Exit::Unreachable)?;
        let body = response.into_body().collect().await.context("reading the status").exit_with(Exit::Unreachable)?;
        serde_json::from_slice(&body.to_bytes()).context("reading the status").exit_with(Exit::Failure)
    })
}

fn table(status: &Value) -> String {
    let word = |pointer: &str| match status.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    };
    let mut lines = vec![format!("mesh        {} in {}", word("/id"), word("/dataDir"))];
    if status.get("running") == Some(&Value::Bool(true)) {
        lines.push(format!(
            "daemon      pid {}, version {}, API server {}",
            word("/pid"),
            word("/version"),
            word("/apiServer")
        ));
        lines.push(format!(
            "enforced    generation {} (revision {})",
            word("/mesh/generation"),
            word("/mesh/revision")
        ));
        lines.push(format!(
            "records     {} told, {} folded, {} lost, of {} refused",
            word("/mesh/counters/records"),
            word("/mesh/counters/folded"),
            word("/mesh/counters/lost"),
            word("/mesh/counters/refused"),
        ));
        lines.push(format!(
            "            {} told, {} folded, {} lost, {} open, of {} let in",
            word("/mesh/counters/permitted/records"),
            word("/mesh/counters/permitted/folded"),
            word("/mesh/counters/permitted/lost"),
            word("/mesh/counters/permitted/open"),
            word("/mesh/counters/accepted"),
        ));
        lines.push("not judged  UDP, SCTP".to_owned());
        let rows = status.pointer("/mesh/workloads").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        lines.extend(rows.iter().map(workload_line));
    } else {
        lines.push("not running".to_owned());
    }
    lines.join("\n") + "\n"
}

fn workload_line(row: &Value) -> String {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    format!("workload    {}/{} {}: {}", text("namespace"), text("name"), text("address"), text("state"))
}
