//! Where CPU time goes: `perf` samples the whole machine by its clock, which needs no counters of the processor, while a row is
//! measured; what each symbol costs a connection, beside raw. Programs of others are left out.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidegate_bench::report::Rounds;

use crate::cpu::own_threads;
use crate::program::checked;
use crate::rows::{Load, Metric, RAW, Row};
use crate::table::{figure, head, line};
use crate::world::World;

/// Samples a second and processor; no round number, so that it keeps no step with timers.
const RATE: u32 = 3989;
/// The thread that the idle processor is.
const IDLE: i32 = 0;
/// The client, which is not there before and not there after: known by its name.
const CLIENT: &str = "tidegate-load";

/// Microseconds a connection, by program and symbol.
type Costs = BTreeMap<(String, String), f64>;

/// What is to be printed.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    /// Symbols of this program only.
    pub(crate) program: Option<&'a str>,
    /// So many symbols.
    pub(crate) lines: usize,
}

/// Profiles raw and the other row, and prints what differs most.
pub(crate) fn run(
    tidegate: &Path,
    work: &Path,
    rows: &[Row],
    metric: &Metric,
    time: Duration,
    shown: &Shown<'_>,
) -> Result<()> {
    let world = World::make(tidegate, work, rows)?;
    let words = match metric.load {
        Load::Crr(clients) => ["crr", "--clients", &clients.to_string()].map(str::to_owned),
        Load::Rr(clients) => ["rr", "--clients", &clients.to_string()].map(str::to_owned),
        Load::Up(_) | Load::Down(_) => bail!("throughput is not profiled: choose crr1, crr64, rr1 or rr64"),
    };
    let mut costs = Vec::new();
    for row in rows {
        costs.push((row.name.clone(), costs_of(&world, row, &words, work, time)?));
    }
    let of = |name: &str| costs.iter().find(|(row, _)| row == name).map(|(_, costs)| costs.clone()).unwrap_or_default();
    let raw = of(RAW);
    for (name, own) in costs.iter().filter(|(name, _)| name != RAW) {
        print(name, own, &raw, metric, shown);
    }
    Ok(())
}

fn costs_of(world: &World, row: &Row, words: &[String; 3], work: &Path, time: Duration) -> Result<Costs> {
    let ends = world.ends(&row.name)?;
    let data = work.join("perf.data");
    let [mode, clients, number] = words;
    let secs = time.as_secs_f64().to_string();
    let load = world.load.command(&ends.netns, &[mode, &ends.target.to_string(), clients, number, "--secs", &secs]);
    let ours: HashSet<i32> = own_threads(world.mesh.pid);
    let mut perf = Command::new("perf");
    perf.args(["record", "-a", "-e", "cpu-clock", "-F", &RATE.to_string(), "-o"]).arg(&data).arg("--");
    perf.arg(load.get_program()).args(load.get_args());
    let output = checked(perf).context("perf (Debian: linux-perf) is needed")?;
    let report: Rounds = serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default())?;
    let mut perf = Command::new("perf");
    perf.args(["report", "--stdio", "--no-children", "-F", "sample,pid,sym", "-t", ";", "-i"]).arg(&data);
    perf.stderr(Stdio::null());
    let text = checked(perf)?.stdout;
    #[expect(clippy::cast_precision_loss, reason = "a count of one measurement")]
    let each = 1e6 / f64::from(RATE) / report.count as f64;
    let mut costs = Costs::new();
    for (samples, thread, program, symbol) in String::from_utf8_lossy(&text).lines().filter_map(parse) {
        let is_ours = if thread == IDLE { !is_idle(&symbol) } else { ours.contains(&thread) || program == CLIENT };
        if is_ours {
            *costs.entry((program, symbol)).or_default() += samples * each;
        }
    }
    Ok(costs)
}

/// `  12;  345:program;[k] symbol`. Threads of the kernel are many of a kind: they go by their first word.
fn parse(line: &str) -> Option<(f64, i32, String, String)> {
    let mut parts = line.splitn(3, ';').map(str::trim);
    let samples = parts.next()?.parse().ok()?;
    let (thread, program) = parts.next()?.split_once(':')?;
    let program = program.split(['/', ':']).next().unwrap_or(program).trim();
    Some((samples, thread.trim().parse().ok()?, program.to_owned(), parts.next()?.to_owned()))
}

/// Interrupts that come while the processor is idle are work; the rest of it is not.
fn is_idle(symbol: &str) -> bool {
    ["idle", "halt", "mwait", "cpuidle"].iter().any(|word| symbol.contains(word))
}

fn print(name: &str, own: &Costs, raw: &Costs, metric: &Metric, shown: &Shown<'_>) {
    let sum = |costs: &Costs, of: &dyn Fn(&str) -> bool| {
        costs.iter().filter(|((program, _), _)| of(program)).map(|(_, us)| us).sum::<f64>()
    };
    println!("\n### {}: CPU microseconds each, by program\n", metric.name);
    head(&["program", RAW, name, "more"]);
    let mut programs: Vec<&String> = own.keys().chain(raw.keys()).map(|(program, _)| program).collect();
    programs.sort();
    programs.dedup();
    let mut rows: Vec<(f64, [String; 4])> = programs
        .into_iter()
        .map(|program| {
            let (with, without) = (sum(own, &|one| one == program), sum(raw, &|one| one == program));
            (with - without, [program.clone(), figure(without), figure(with), figure(with - without)])
        })
        .collect();
    rows.push((
        f64::INFINITY,
        [
            "all".to_owned(),
            figure(sum(raw, &|_| true)),
            figure(sum(own, &|_| true)),
            figure(sum(own, &|_| true) - sum(raw, &|_| true)),
        ],
    ));
    biggest(rows, 12);
    println!("\n### {}: CPU microseconds each, by symbol\n", metric.name);
    head(&["symbol", RAW, name, "more"]);
    let mut symbols = BTreeMap::<&str, (f64, f64)>::new();
    let is_shown = |program: &String| shown.program.is_none_or(|only| only == program);
    for ((_, symbol), us) in own.iter().filter(|((program, _), _)| is_shown(program)) {
        symbols.entry(symbol).or_default().0 += us;
    }
    for ((_, symbol), us) in raw.iter().filter(|((program, _), _)| is_shown(program)) {
        symbols.entry(symbol).or_default().1 += us;
    }
    let rows = symbols.into_iter().map(|(symbol, (with, without))| {
        (with - without, [format!("`{symbol}`"), figure(without), figure(with), figure(with - without)])
    });
    biggest(rows.collect(), shown.lines);
}

fn biggest(mut rows: Vec<(f64, [String; 4])>, lines: usize) {
    rows.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    rows.iter().take(lines).for_each(|(_, cells)| line(cells));
}

#[cfg(test)]
mod tests {
    use super::{is_idle, parse};

    #[test]
    fn lines_of_perf_are_read() {
        let line = " 18   ;   4711:tidegate-load  ;[k] tcp_v4_rcv";
        assert_eq!(parse(line), Some((18.0, 4711, "tidegate-load".to_owned(), "[k] tcp_v4_rcv".to_owned())));
        assert_eq!(parse("1;16:kworker/1:2-eve;[k] x").unwrap().2, "kworker");
        assert_eq!(parse("# Samples: 4K of event 'cpu-clock'"), None);
        assert!(is_idle("[k] pv_native_safe_halt") && !is_idle("[k] net_rx_action"));
    }
}
