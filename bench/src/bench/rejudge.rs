//! Open connections that a write no longer permits: how long until the last of them is reset.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use tidegate_bench::report::Held;
use tidegate_bench::stats::quantile;

use crate::cpu::Look;
use crate::mesh::{CLIENT, NAMESPACE};
use crate::program::Running;
use crate::table::{figure, head, line};
use crate::world::{World, until_served};
use crate::writes::{admit, milliseconds};

const APP: &str = "server";

/// Opens so many connections, takes their permit away, waits for their end; again and again.
pub(crate) fn run(tidegate: &Path, work: &Path, counts: &[usize], times: usize) -> Result<()> {
    let mut world = World::make(tidegate, work, &[])?;
    let ends = world.pod(NAMESPACE, APP, APP)?;
    let mut api = world.mesh.api()?;
    println!("\nMilliseconds from the last byte of the write, p50 / largest of {times}.\n");
    head(&["open connections", "first reset", "last reset", "last reset less commit", "answer", "commit", "others"]);
    for count in counts {
        let before = Look::take(world.mesh.pid)?;
        let (mut first, mut last, mut less, mut answers, mut commits) = (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..times {
            let words = ["hold", &ends.target.to_string(), "--count", &count.to_string()];
            let mut holding = Running::start(world.load.command(&ends.netns, &words))?;
            let _input = holding.take_input();
            let held: Held = holding.next()?;
            if held.failures.sum() > 0 {
                bail!("not all connections could be opened: {held:?}");
            }
            let reply = admit(&mut api, APP, "nobody")?;
            let ended: Held = holding.next()?;
            if ended.ended != held.open {
                bail!("{} of {} connections were reset", ended.ended, held.open);
            }
            let since = |at: u64| milliseconds(at.saturating_sub(reply.sent_ns));
            let commit = reply.timing.map_or(f64::NAN, |timing| timing.commit);
            first.push(since(ended.first_ns));
            last.push(since(ended.last_ns));
            less.push(since(ended.last_ns) - commit);
            answers.push(since(reply.read_ns));
            commits.push(commit);
            admit(&mut api, APP, CLIENT)?;
            until_served(&ends)?;
        }
        let spent = Look::take(world.mesh.pid)?.since(&before);
        let cell = |all: &[f64]| {
            let at = |share| figure(quantile(all, share).unwrap_or(f64::NAN));
            format!("{} / {}", at(0.5), at(1.0))
        };
        let cells = [&first, &last, &less, &answers, &commits].map(|all| cell(all));
        let mut row = vec![count.to_string()];
        row.extend(cells);
        row.push(format!("{:.0} %", spent.others * 100.0));
        line(&row);
    }
    Ok(())
}

/// How long a mesh may take to come to rest after its last write.
pub(crate) const REST: Duration = Duration::from_secs(1);
