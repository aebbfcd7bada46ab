//! Memory of a mesh. The part that enforces on the node shares one process with the API server and the controllers, so it cannot
//! be told apart: it takes no more than the daemon's own memory. What is told is the daemon and everything below it.

use std::path::Path;

use anyhow::Result;

use crate::cpu::{Memory, memory_below, memory_of};
use crate::mesh::{Mesh, NAMESPACE};
use crate::rejudge::REST;
use crate::table::{head, line};

/// Measures an idle mesh, then with two pods, then with many policies that select one of them.
pub(crate) fn run(tidegate: &Path, work: &Path, policies: usize) -> Result<()> {
    let mesh = Mesh::up(tidegate, &work.join("mesh"))?;
    println!(
        "\nMiB. RSS of the daemon, and what of that is its own (heap, stacks) and not a file's; PSS of it and of all processes \
         below it, which share the pages of one binary.\n"
    );
    head(&["mesh", "daemon RSS", "of that its own", "daemon PSS", "all processes PSS", "processes"]);
    told("idle, no pods", &mesh);
    mesh.settle_in()?;
    let mut api = mesh.api()?;
    mesh.pod(&mut api, NAMESPACE, "server", "server")?;
    mesh.policies("server", 0, 1)?;
    told("2 pods in it, 1 policy", &mesh);
    if policies > 1 {
        mesh.policies("server", 1, policies)?;
        told(&format!("2 pods in it, {policies} policies"), &mesh);
    }
    Ok(())
}

fn told(what: &str, mesh: &Mesh) {
    // What follows from the last write is over, and so is what ends by itself.
    std::thread::sleep(REST);
    let (daemon, all) = (memory_of(mesh.pid), memory_below(mesh.pid));
    #[expect(clippy::cast_precision_loss, reason = "memory of processes")]
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    let Memory { resident, share, own, .. } = daemon;
    line(&[what.to_owned(), mib(resident), mib(own), mib(share), mib(all.share), all.processes.to_string()]);
}
