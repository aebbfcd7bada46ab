//! Whether every connection has its record: the client's own log, the lines of `tap` and the kernel's counters, joined.
//!
//! The client uses each source port once, so a record is found by its port. Denials above a bound share records, which say how many
//! they stand for: of those the sums are compared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tidegate_bench::report::{Attempt, Attempts, Verdict};

use crate::cpu::Look;
use crate::mesh::{LOOK_AGAIN, PORT};
use crate::rows::{Way, row};
use crate::table::{head, line};
use crate::world::World;

const SERVER: &str = "server";
/// A port that no policy opens.
const CLOSED: u16 = 9009;
/// More than any client can make.
const FLOOD: u32 = 10_000_000;
/// After the last attempt until the last record: an attempt that was left half open is given up after some seconds.
const REST_MAX: Duration = Duration::from_secs(20);

/// What the kernel counted and what became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) kernel: u64,
    pub(crate) records: u64,
    pub(crate) folded: u64,
    pub(crate) lost: u64,
    pub(crate) open: u64,
}

impl Counted {
    fn adds_up(&self) -> bool {
        self.kernel == self.records + self.folded + self.lost + self.open
    }
}

/// Runs the three kinds of load.
pub(crate) fn run(tidegate: &Path, work: &Path, rate: u32, time: Duration) -> Result<()> {
    let world = World::make(tidegate, work, &[row("tidegate", Way::Pod(SERVER.to_owned()))])?;
    println!();
    head(&[
        "load",
        "attempts by the client",
        "a second",
        "counted by the kernel",
        "records",
        "folded",
        "lost",
        "open",
        "adds up",
        "told by `tap`",
        "missing there",
        "twice there",
        "others",
    ]);
    for (what, permitted, port, rate) in [
        (format!("let in, {rate} a second"), true, PORT, rate),
        (format!("refused, {rate} a second"), false, CLOSED, rate),
        ("refused, as fast as it goes".to_owned(), false, CLOSED, FLOOD),
    ] {
        one(&world, work, &what, permitted, port, rate, time)?;
    }
    Ok(())
}

fn one(world: &World, work: &Path, what: &str, permitted: bool, port: u16, rate: u32, time: Duration) -> Result<()> {
    let (log, told) = (work.join("attempts.jsonl"), work.join("tap.jsonl"));
    // What the harness opened itself to see that the server answers is over before `tap` listens.
    let before = at_rest(world, permitted, Counted::default(), 0)?;
    let tap = Tap::begin(world, &told)?;
    let cpu = Look::take(world.mesh.pid)?;
    let address = world.servers.get(SERVER).context("no server")?.address;
    let words = [
        "attempts",
        &format!("{address}:{port}"),
        "--rate",
        &rate.to_string(),
        "--secs",
        &time.as_secs_f64().to_string(),
        "--log",
        &log.to_string_lossy(),
    ];
    let report: Attempts = world.load.run(&world.client.netns, &words, time)?;
    let spent = Look::take(world.mesh.pid)?.since(&cpu);
    let after = at_rest(world, permitted, before, report.count)?;
    let tap = tap.end(after.records)?;
    let wanted = if permitted { Verdict::Allowed } else { Verdict::Refused };
    let joined = join(&attempts(&log)?, &tap, wanted, permitted);
    #[expect(clippy::cast_precision_loss, reason = "a count of attempts")]
    let per_second = report.count as f64 / report.seconds;
    let failed = report.failures.sum() - if permitted { 0 } else { report.failures.refused };
    if failed > 0 {
        eprintln!("{what}: not as they should be: {:?}", report.failures);
    }
    line(&[
        what.to_owned(),
        report.count.to_string(),
        format!("{per_second:.0}"),
        after.kernel.to_string(),
        after.records.to_string(),
        after.folded.to_string(),
        after.lost.to_string(),
        after.open.to_string(),
        if after.adds_up() { "yes" } else { "**no**" }.to_owned(),
        format!("{} in {} lines", joined.told, joined.lines),
        joined.missing.to_string(),
        joined.twice.to_string(),
        format!("{:.0} %", spent.others * 100.0),
    ]);
    Ok(())
}

/// The counters of the server's workload.
pub(crate) fn counted(world: &World, workload: &str, permitted: bool) -> Result<Counted> {
    let status = world.mesh.status()?;
    let rows = status.pointer("/mesh/workloads").and_then(Value::as_array).context("status lists no workloads")?;
    let row = rows
        .iter()
        .find(|row| row["name"] == workload)
        .with_context(|| format!("status does not list `{workload}`"))?;
    let of = |at: &str| row.pointer(at).and_then(Value::as_u64).with_context(|| format!("status has no `{at}`"));
    let (kernel, below) = if permitted { ("/accepted", "/permitted") } else { ("/refused", "") };
    let part = |name: &str| of(&format!("{below}/{name}"));
    let open = if permitted { part("open")? } else { 0 };
    Ok(Counted { kernel: of(kernel)?, records: part("records")?, folded: part("folded")?, lost: part("lost")?, open })
}

/// What was counted since `before`, once every attempt of the client's is over: nothing changes any more.
fn at_rest(world: &World, permitted: bool, before: Counted, attempts: u64) -> Result<Counted> {
    let begun = Instant::now();
    let mut last = None;
    loop {
        let now = counted(world, SERVER, permitted)?;
        let since = Counted {
            kernel: now.kernel - before.kernel,
            records: now.records - before.records,
            folded: now.folded - before.folded,
            lost: now.lost - before.lost,
            open: now.open,
        };
        let over = since.adds_up() && since.open == 0 && since.kernel >= attempts && last == Some(since);
        if over || begun.elapsed() > REST_MAX {
            return Ok(since);
        }
        last = Some(since);
        // Folded denials are written when their second is over.
        std::thread::sleep(LOOK_AGAIN * 20);
    }
}

/// `tidegate tap`, writing to a file.
#[derive(Debug)]
struct Tap {
    child: Child,
    file: PathBuf,
}

impl Tap {
    /// Returns once it listens.
    fn begin(world: &World, file: &Path) -> Result<Self> {
        let mut command = world.mesh.command(&["tap", "--verdict", "all", "-o", "json"]);
        command.stdin(Stdio::null()).stdout(File::create(file)?).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting tap")?;
        let said = child.stderr.take().context("tap has no standard error")?;
        let mut line = String::new();
        let read = BufReader::new(said).read_line(&mut line);
        let tap = Self { child, file: file.to_owned() };
        if read? == 0 {
            bail!("tap ended early");
        }
        Ok(tap)
    }

    /// Ends it once it has told so many records, or tells nothing more; what it told.
    fn end(self, records: u64) -> Result<Vec<Value>> {
        let (mut last, mut still) = (0, Instant::now());
        loop {
            let length = std::fs::metadata(&self.file)?.len();
            if length != last {
                (last, still) = (length, Instant::now());
            }
            let lines = BufReader::new(File::open(&self.file)?).lines().count();
            let is_quiet = still.elapsed() > LOOK_AGAIN * 100;
            if is_quiet || u64::try_from(lines)? >= records && still.elapsed() > LOOK_AGAIN * 20 {
                break;
            }
            std::thread::sleep(LOOK_AGAIN * 5);
        }
        let file = BufReader::new(File::open(&self.file)?);
        file.lines().map(|line| serde_json::from_str(&line?).context("a line of tap")).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn attempts(log: &Path) -> Result<Vec<Attempt>> {
    let file = BufReader::new(File::open(log).with_context(|| log.display().to_string())?);
    file.lines().map(|line| serde_json::from_str(&line?).context("a line of the client's log")).collect()
}

/// What the client saw beside what was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Joined {
    lines: usize,
    /// Connections that the lines stand for.
    told: u64,
    /// Attempts that no line tells of.
    missing: u64,
    /// Lines beyond the first for an attempt, and lines for none.
    twice: u64,
}

fn join(attempts: &[Attempt], records: &[Value], wanted: Verdict, permitted: bool) -> Joined {
    let mut ports = BTreeMap::<u64, (u64, u64)>::new();
    for attempt in attempts.iter().filter(|attempt| attempt.verdict == wanted) {
        ports.entry(u64::from(attempt.port)).or_default().0 += 1;
    }
    let mut joined = Joined::default();
    let mut folded = 0;
    for record in records.iter().filter(|record| record["permitted"] == permitted) {
        let count = record["count"].as_u64().unwrap_or(0);
        joined.lines += 1;
        joined.told += count;
        if count == 1 {
            ports.entry(record["source"]["port"].as_u64().unwrap_or(0)).or_default().1 += 1;
        } else {
            folded += count;
        }
    }
    let missing: u64 = ports.values().map(|(made, told)| made.saturating_sub(*told)).sum();
    joined.twice = ports.values().map(|(made, told)| told.saturating_sub(*made)).sum();
    // A record that stands for many names none of them: it makes up for as many as it says.
    joined.missing = missing.saturating_sub(folded);
    joined.twice += folded.saturating_sub(missing);
    joined
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidegate_bench::report::{Attempt, Verdict};

    use super::{Counted, Joined, join};

    fn attempt(port: u16, verdict: Verdict) -> Attempt {
        Attempt { port, unix_ms: 0, verdict }
    }

    fn record(port: u16, count: u64, permitted: bool) -> Value {
        json!({"permitted": permitted, "count": count, "source": {"port": port}})
    }

    #[test]
    fn each_attempt_has_one_record() {
        let attempts = [attempt(1, Verdict::Allowed), attempt(2, Verdict::Allowed), attempt(3, Verdict::Odd)];
        let told = |records: &[Value]| join(&attempts, records, Verdict::Allowed, true);
        let both = [record(1, 1, true), record(2, 1, true)];
        assert_eq!(told(&both), Joined { lines: 2, told: 2, missing: 0, twice: 0 });
        assert_eq!(told(&both[..1]), Joined { lines: 1, told: 1, missing: 1, twice: 0 });
        let one_twice = [record(1, 1, true), record(1, 1, true), record(9, 1, false)];
        assert_eq!(told(&one_twice), Joined { lines: 2, told: 2, missing: 1, twice: 1 });
    }

    #[test]
    fn a_record_of_many_makes_up_for_as_many() {
        let attempts: Vec<Attempt> = (0..10).map(|port| attempt(port, Verdict::Refused)).collect();
        let told = |records: &[Value]| join(&attempts, records, Verdict::Refused, false);
        assert_eq!(
            told(&[record(0, 1, false), record(1, 9, false)]),
            Joined { lines: 2, told: 10, missing: 0, twice: 0 }
        );
        assert_eq!(
            told(&[record(0, 1, false), record(1, 7, false)]),
            Joined { lines: 2, told: 8, missing: 2, twice: 0 }
        );
        assert_eq!(told(&[record(1, 11, false)]), Joined { lines: 1, told: 11, missing: 0, twice: 1 });
    }

    #[test]
    fn sums_are_exact() {
        let counted = Counted { kernel: 10, records: 3, folded: 4, lost: 2, open: 1 };
        assert!(counted.adds_up());
        assert!(!Counted { lost: 1, ..counted }.adds_up());
    }
}
