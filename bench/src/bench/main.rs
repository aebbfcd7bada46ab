//! The harness: `bench/run` calls it. What it measures and how to read it: `bench/README.md`.

mod api;
mod cpu;
mod facts;
mod memory;
mod mesh;
mod policies;
mod profile;
mod program;
mod proxies;
mod raw;
mod records;
mod rejudge;
mod rows;
mod sample;
mod start;
mod table;
mod world;
mod writes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use rows::{METRICS, Metric, RAW, Row, rows};
use sample::Rounding;
use world::World;

/// Measures a running mesh; prints Markdown.
#[derive(Debug, Parser)]
#[command(name = "bench/run")]
struct Arguments {
    /// The binary to be measured
    #[arg(long, global = true, value_name = "FILE", default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// An empty directory of this run's own
    #[arg(long, global = true, value_name = "DIR", default_value = "/tmp/tidegate-bench")]
    work: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Connections, round trips, throughput, CPU: each row beside raw TCP (the default)
    Rows {
        /// Rows by name, comma-separated; `all` is every row there is
        #[arg(long, value_delimiter = ',', default_value = rows::USUAL_ROWS)]
        rows: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Connections by number of policies that select the pod
    Policies {
        #[arg(long, value_delimiter = ',', default_value = "1,100,10000")]
        sizes: Vec<usize>,
        #[command(flatten)]
        how: How,
    },
    /// From the last byte of a write until the last pod has switched, by number of policies; writes that change nothing
    Writes {
        #[arg(long, value_delimiter = ',', default_value = "1,100,10000")]
        sizes: Vec<usize>,
        /// Pods that a write concerns
        #[arg(long, default_value_t = 1)]
        pods: usize,
        /// Writes of each kind
        #[arg(long, default_value_t = 200)]
        times: usize,
    },
    /// From the last byte of a write until the last of so many open connections is reset
    Rejudge {
        #[arg(long, value_delimiter = ',', default_value = "100,1000")]
        counts: Vec<usize>,
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// Memory of the idle mesh, and of one with many policies
    Memory {
        /// Policies at the end
        #[arg(long, default_value_t = 10_000)]
        policies: usize,
    },
    /// Start of a mesh and of a pod; size of the binary
    Start {
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// Every connection has its record: the client's log joined with `tap` and the counters
    Records {
        /// Attempts a second
        #[arg(long, default_value_t = 10_000)]
        rate: u32,
        #[arg(long, default_value_t = 5.0)]
        secs: f64,
    },
    /// What CPU time of a connection goes into, by symbol, beside raw TCP; needs `perf`
    Profile {
        #[arg(long, default_value = "tidegate")]
        row: String,
        #[arg(long, default_value = "crr64")]
        metric: String,
        #[arg(long, default_value_t = 2.0)]
        secs: f64,
        /// Symbols of this program or thread only, for instance `observe`
        #[arg(long)]
        program: Option<String>,
        /// Symbols at most
        #[arg(long, default_value_t = 40)]
        lines: usize,
    },
}

/// Metrics and rounds.
#[derive(Debug, Args)]
struct How {
    /// Metrics by name, comma-separated
    #[arg(long, value_delimiter = ',', default_value = rows::USUAL_METRICS)]
    metrics: Vec<String>,
    /// Paired rounds; below six there is no 95 % interval
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 1.0)]
    secs: f64,
    /// Adds every single sample to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl How {
    fn rounding(&self) -> Result<Rounding> {
        Ok(Rounding { rounds: self.rounds, time: seconds(self.secs)? })
    }

    fn metrics(&self) -> Result<Vec<Metric>> {
        self.metrics.iter().map(|name| metric(name)).collect()
    }
}

fn main() -> Result<()> {
    let Arguments { tidegate, work, what } = Arguments::parse();
    let tidegate = std::fs::canonicalize(&tidegate).with_context(|| format!("`{}`", tidegate.display()))?;
    std::fs::create_dir_all(&work).with_context(|| format!("`{}`", work.display()))?;
    facts::print(&tidegate)?;
    let (tidegate, work) = (tidegate.as_path(), work.as_path());
    match what {
        What::Rows { rows, how } => {
            let rows = chosen(&rows)?;
            measure(tidegate, work, &rows, &how)
        }
        What::Policies { sizes, how } => policies::run(tidegate, work, &sizes, &how),
        What::Writes { sizes, pods, times } => writes::run(tidegate, work, &sizes, pods, times),
        What::Rejudge { counts, times } => rejudge::run(tidegate, work, &counts, times),
        What::Memory { policies } => memory::run(tidegate, work, policies),
        What::Start { times } => start::run(tidegate, work, times),
        What::Records { rate, secs } => records::run(tidegate, work, rate, seconds(secs)?),
        What::Profile { row, metric: name, secs, program, lines } => {
            let rows = chosen(&[row])?;
            profile::run(
                tidegate,
                work,
                &rows,
                &metric(&name)?,
                seconds(secs)?,
                &profile::Shown { program: program.as_deref(), lines },
            )
        }
    }
}

/// Makes the world of these rows, measures and prints.
fn measure(tidegate: &Path, work: &Path, rows: &[Row], how: &How) -> Result<()> {
    let world = World::make(tidegate, work, rows)?;
    facts::print_proxies(rows)?;
    let metrics = how.metrics()?;
    let samples = sample::rounds(&world, rows, &metrics, how.rounding()?, how.out.as_deref())?;
    table::print(rows, &metrics, &samples);
    Ok(())
}

/// Rows by name; raw is always the first.
fn chosen(names: &[String]) -> Result<Vec<Row>> {
    let all = rows();
    if names.iter().any(|name| name == "all") {
        return Ok(all);
    }
    let known: Vec<&str> = all.iter().map(|row| row.name.as_str()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no row `{unknown}`; rows: {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|row| row.name == RAW || names.contains(&row.name)).collect())
}

fn metric(name: &str) -> Result<Metric> {
    let found = METRICS.iter().find(|metric| metric.name == name).copied();
    let known = || METRICS.iter().map(|metric| metric.name).collect::<Vec<_>>().join(", ");
    found.with_context(|| format!("there is no metric `{name}`; metrics: {}", known()))
}

fn seconds(given: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(given).with_context(|| format!("`{given}` is no number of seconds"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Arguments, chosen, metric};
    use crate::rows::{USUAL_METRICS, USUAL_ROWS, rows};

    #[test]
    fn what_a_run_that_names_nothing_measures_is_there() {
        Arguments::command().debug_assert();
        let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(chosen(&names(USUAL_ROWS)).unwrap().len(), names(USUAL_ROWS).len());
        assert!(names(USUAL_METRICS).iter().all(|name| metric(name).is_ok()));
        assert_eq!(chosen(&["all".to_owned()]).unwrap().len(), rows().len());
        assert!(chosen(&["none".to_owned()]).is_err());
        let chosen = chosen(&["haproxy".to_owned()]).unwrap();
        assert_eq!(chosen.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["raw", "haproxy"]);
    }
}
