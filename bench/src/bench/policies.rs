//! The connection rate by number of policies: a pod for each number, all measured in the same rounds.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tidegate_bench::stats::estimate;

use crate::How;
use crate::rows::{RAW, Row, Way, row};
use crate::sample::{self, Samples};
use crate::table::{self, head, line, with_interval};
use crate::world::World;

/// Measures pods that so many policies select, the one that lets the client in being the last.
pub(crate) fn run(tidegate: &Path, work: &Path, sizes: &[usize], how: &How) -> Result<()> {
    let pod = |size: &usize| row(&format!("tidegate-{size}"), Way::Pod(format!("server-{size}")));
    let rows: Vec<Row> = [row(RAW, Way::Raw)].into_iter().chain(sizes.iter().map(pod)).collect();
    let world = World::make(tidegate, work, &rows)?;
    for size in sizes {
        let begun = Instant::now();
        world.mesh.policies(&format!("server-{size}"), 1, *size)?;
        println!(
            "\n{size} policies that select `server-{size}` were applied in {:.1} s.",
            begun.elapsed().as_secs_f64()
        );
    }
    let metrics = how.metrics()?;
    let samples = sample::rounds(&world, &rows, &metrics, how.rounding()?, how.out.as_deref())?;
    table::print(&rows, &metrics, &samples);
    println!("\n### Rate by number of policies, as a ratio to that of the first number in the same round\n");
    head(&["metric", "row", "ratio [95 %]"]);
    for metric in &metrics {
        let Some((first, others)) = rows.get(1..).and_then(<[Row]>::split_first) else { continue };
        for other in others {
            line(&[metric.name.to_owned(), other.name.clone(), beside(&samples, metric.name, first, other)]);
        }
    }
    Ok(())
}

fn beside(samples: &Samples, metric: &'static str, first: &Row, other: &Row) -> String {
    let of = |row: &Row| samples.get(&(metric, row.name.clone())).map_or(&[][..], Vec::as_slice);
    let ratios: Vec<f64> = of(other).iter().zip(of(first)).map(|(other, first)| other.rate / first.rate).collect();
    with_interval(estimate(&ratios))
}
