//! How long a mesh and a pod take to start, and to end.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;
use tidegate_bench::monotonic_ns;
use tidegate_bench::stats::quantile;

use crate::mesh::{self, Mesh, NAMESPACE, is_ready, pod_object};
use crate::program::checked;
use crate::table::{figure, head, line};
use crate::writes::milliseconds;

/// Starts meshes and pods, one after the other.
pub(crate) fn run(tidegate: &Path, work: &Path, times: usize) -> Result<()> {
    let (mut first, mut again, mut down) = (vec![], vec![], vec![]);
    for number in 0..times {
        let dir = work.join(format!("mesh-{number}"));
        let begun = Instant::now();
        checked(mesh::of(tidegate, &dir, &["up", "--detach"]))?;
        took(&mut first, begun);
        let mesh = Mesh::of_running(tidegate, &dir)?;
        let begun = Instant::now();
        checked(mesh.command(&["down"]))?;
        took(&mut down, begun);
        let begun = Instant::now();
        checked(mesh.command(&["up", "--detach"]))?;
        took(&mut again, begun);
    }
    let (start, end) = pods(tidegate, work, times)?;
    println!("\nMilliseconds, p50 / largest of {times}.\n");
    head(&["what", "ms"]);
    let rows = [
        ("first `up --detach` on a new directory, until it returns", &first),
        ("`up --detach` again on the same directory", &again),
        ("`down` of a mesh without pods", &down),
        ("a pod of the mesh: from the last byte of its object to Ready", &start),
        ("the same pod: from the last byte of its removal until it is gone", &end),
    ];
    for (what, samples) in rows {
        let at = |share| figure(quantile(samples, share).unwrap_or(f64::NAN));
        line(&[what.to_owned(), format!("{} / {}", at(0.5), at(1.0))]);
    }
    Ok(())
}

fn took(samples: &mut Vec<f64>, begun: Instant) {
    samples.push(begun.elapsed().as_secs_f64() * 1e3);
}

fn pods(tidegate: &Path, work: &Path, times: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let mesh = Mesh::up(tidegate, &work.join("mesh"))?;
    mesh.settle_in()?;
    let mut api = mesh.api()?;
    let (mut starts, mut ends) = (vec![], vec![]);
    let all = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    for number in 0..times {
        let name = format!("started-{number}");
        let reply = api.post(&all, &pod_object(NAMESPACE, &name, "started"))?;
        // The watch begins with what is there, so nothing is missed between.
        starts.push(milliseconds(when(&mesh, &all, &name, is_ready)?.saturating_sub(reply.sent_ns)));
        let reply = api.delete(&format!("{all}/{name}"))?;
        ends.push(milliseconds(gone(&mesh, &all, &name)?.saturating_sub(reply.sent_ns)));
    }
    Ok((starts, ends))
}

/// When a watch first shows a pod as wanted.
fn when(mesh: &Mesh, all: &str, name: &str, wanted: fn(&Value) -> bool) -> Result<u64> {
    let path = format!("{all}?watch=1&fieldSelector=metadata.name={name}");
    mesh.api()?.watch(&path, |event| wanted(&event["object"]))?;
    Ok(monotonic_ns())
}

fn gone(mesh: &Mesh, all: &str, name: &str) -> Result<u64> {
    // Listed first: a watch would not tell of what is gone already.
    let list = format!("{all}?fieldSelector=metadata.name={name}");
    let listed = mesh.api()?.get(&list)?;
    let there = listed["items"].as_array().is_some_and(|items| !items.is_empty());
    if there {
        let revision = listed["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let path = format!("{all}?watch=1&fieldSelector=metadata.name={name}&resourceVersion={revision}");
        mesh.api()?.watch(&path, |event| event["type"] == "DELETED")?;
    }
    Ok(monotonic_ns())
}
