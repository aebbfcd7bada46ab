//! One measurement, and interleaved rounds of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tidegate_bench::report::{Bulk, Failures, Rounds, Times};

use crate::cpu::{Look, Spent};
use crate::rows::{Load, Metric, Row};
use crate::world::World;

/// What one run of the load generator gave.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) row: String,
    pub(crate) metric: &'static str,
    pub(crate) round: usize,
    /// Connections or round trips a second, or Gbit/s.
    pub(crate) rate: f64,
    pub(crate) connect: Times,
    pub(crate) whole: Times,
    pub(crate) failures: Failures,
    /// CPU time of the whole machine but for others' programs: microseconds a connection or round trip, or milliseconds a GiB.
    pub(crate) cpu: f64,
    /// Share of the machine that others took.
    pub(crate) others: f64,
    /// Share that the host did not give.
    pub(crate) stolen: f64,
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounding {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
}

/// Samples by metric and row, a round after the other.
pub(crate) type Samples = BTreeMap<(&'static str, String), Vec<Sample>>;

/// Measures every metric of every row in each round; every other round goes through the rows backwards, so that nobody always comes
/// after the same. Each sample is added to `out`, one JSON value a line.
pub(crate) fn rounds(
    world: &World,
    rows: &[Row],
    metrics: &[Metric],
    how: Rounding,
    out: Option<&Path>,
) -> Result<Samples> {
    let open = |path: &Path| std::fs::OpenOptions::new().create(true).append(true).open(path);
    let mut out = out.map(|path| open(path).with_context(|| path.display().to_string())).transpose()?;
    let mut samples = Samples::new();
    for round in 0..how.rounds {
        for metric in metrics {
            let mut order: Vec<&Row> = rows.iter().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for row in order {
                let sample = one(world, row, metric, round, how.time)?;
                if let Some(out) = &mut out {
                    serde_json::to_writer(&mut *out, &sample)?;
                    out.write_all(b"\n")?;
                }
                samples.entry((metric.name, row.name.clone())).or_default().push(sample);
            }
        }
        eprintln!("round {} of {}", round + 1, how.rounds);
    }
    Ok(samples)
}

/// What was carried: how many, and the rest of the report.
struct Carried {
    /// Connections, round trips or GiB.
    units: f64,
    rate: f64,
    connect: Times,
    whole: Times,
    failures: Failures,
}

fn one(world: &World, row: &Row, metric: &Metric, round: usize, time: Duration) -> Result<Sample> {
    let before = Look::take(world.mesh.pid)?;
    let carried =
        carry(world, row, metric.load, time).with_context(|| format!("{} of row `{}`", metric.name, row.name))?;
    let Spent { ours_us, others, stolen } = Look::take(world.mesh.pid)?.since(&before);
    let is_bulk = matches!(metric.load, Load::Up(_) | Load::Down(_));
    // Microseconds each, or milliseconds a GiB.
    let cpu = ours_us / if is_bulk { 1e3 } else { 1.0 } / carried.units;
    let Carried { rate, connect, whole, failures, .. } = carried;
    Ok(Sample {
        row: row.name.clone(),
        metric: metric.name,
        round,
        rate,
        connect,
        whole,
        failures,
        cpu,
        others,
        stolen,
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of one measurement")]
fn carry(world: &World, row: &Row, load: Load, time: Duration) -> Result<Carried> {
    let ends = world.ends(&row.name)?;
    let target = |offset: u16| {
        let mut target = ends.target;
        target.set_port(target.port() + offset);
        target.to_string()
    };
    let secs = time.as_secs_f64().to_string();
    let rounds = |mode: &str, clients: usize| -> Result<Carried> {
        let words = [mode, &target(0), "--clients", &clients.to_string(), "--secs", &secs];
        let Rounds { count, failures, seconds, connect, whole } = world.load.run(&ends.netns, &words, time)?;
        Ok(Carried { units: count as f64, rate: count as f64 / seconds, connect, whole, failures })
    };
    let bulk = |way: &str, offset: u16, streams: usize| -> Result<Carried> {
        let words = ["bulk", &target(offset), "--streams", &streams.to_string(), "--secs", &secs, "--way", way];
        let Bulk { bytes, failures, seconds } = world.load.run(&ends.netns, &words, time)?;
        let (units, rate) = (bytes as f64 / f64::from(1 << 30), bytes as f64 * 8.0 / seconds / 1e9);
        Ok(Carried { units, rate, connect: Times::default(), whole: Times::default(), failures })
    };
    match load {
        Load::Crr(clients) => rounds("crr", clients),
        Load::Rr(clients) => rounds("rr", clients),
        Load::Up(streams) => bulk("up", 1, streams),
        Load::Down(streams) => bulk("down", 2, streams),
    }
}
