//! Writes to policies: how long until the kernel does what they say, and what a write costs that changes nothing.
//!
//! A client of its own probes each pod every 0.1 ms; the switch is over when the last of them has met the new verdict. That is an
//! upper bound: a probe lasts, and the probes take CPU time from what they watch. The clock of both is the machine's.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tidegate_bench::report::{Changed, Verdict};
use tidegate_bench::stats::quantile;

use crate::api::{Api, Reply};
use crate::cpu::Look;
use crate::mesh::{CLIENT, NAMESPACE, match_name, matching_rules, policies_path};
use crate::program::Running;
use crate::records::{Counted, counted};
use crate::table::{figure, head, line};
use crate::world::World;

/// The app whose pods are switched.
const APP: &str = "server";
/// A switch takes milliseconds; one that takes longer than the server holds a reply is broken.
const SWITCH_MAX: Duration = Duration::from_secs(10);
/// An account that nobody has.
const NOBODY: &str = "nobody";

/// One write, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Write {
    /// From the last byte until the last probe met the new verdict; none of a write that changes nothing.
    switched: Option<f64>,
    /// From the last byte to the answer.
    answered: f64,
    commit: f64,
    store: f64,
    settle: f64,
}

impl Write {
    fn of(reply: &Reply, switched_ns: Option<u64>) -> Self {
        let timing = reply.timing.unwrap_or(crate::api::Timing { store: f64::NAN, commit: f64::NAN, settle: f64::NAN });
        let since = |at: u64| milliseconds(at.saturating_sub(reply.sent_ns));
        Self {
            switched: switched_ns.map(since),
            answered: since(reply.read_ns),
            commit: timing.commit,
            store: timing.store,
            settle: timing.settle,
        }
    }
}

/// Nanoseconds in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "times of one measurement")]
pub(crate) fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Measures by number of policies.
pub(crate) fn run(tidegate: &Path, work: &Path, sizes: &[usize], pods: usize, times: usize) -> Result<()> {
    let mut world = World::make(tidegate, work, &[])?;
    let names: Vec<String> = (0..pods.max(1)).map(|number| format!("{APP}-{number}")).collect();
    for name in &names {
        world.pod(NAMESPACE, name, APP)?;
    }
    let mut there = 1;
    for size in sizes {
        let begun = Instant::now();
        world.mesh.policies(APP, there, *size)?;
        there = there.max(*size);
        let took = begun.elapsed().as_secs_f64();
        println!("\n{size} policies that select {} pod(s) are there after {took:.1} s more.", names.len());
        let before = Look::take(world.mesh.pid)?;
        let mut rows = vec![(format!("switch, {size} policies"), switches(&world, &names, times)?)];
        let mut api = world.mesh.api()?;
        for (what, kind) in [("no-op: the same again", Kind::Same), ("stored, means nothing", Kind::Annotation)] {
            rows.push((format!("{what}, {size} policies"), idle(&mut api, kind, times)?));
        }
        let others = Look::take(world.mesh.pid)?.since(&before).others * 100.0;
        println!("Milliseconds, p50 / p99 of {times} writes each; others took {others:.0} % of the machine.\n");
        print(&rows);
    }
    records(&world, &names[0])
}

/// What became of the records of the probes.
fn records(world: &World, pod: &str) -> Result<()> {
    println!();
    head(&["records of the probes at the first pod", "counted by the kernel", "records", "folded", "lost", "open"]);
    for (what, permitted) in [("let in", true), ("refused", false)] {
        let Counted { kernel, records, folded, lost, open } = counted(world, pod, permitted)?;
        let figures = [kernel, records, folded, lost, open].map(|figure| figure.to_string());
        line(&[&[what.to_owned()], figures.as_slice()].concat());
    }
    Ok(())
}

fn print(rows: &[(String, Vec<Write>)]) {
    head(&[
        "write",
        "last byte to last pod switched",
        "… less commit",
        "last byte to answer",
        "… less commit",
        "commit",
        "store, commit included",
        "settle",
    ]);
    for (name, writes) in rows {
        let cell = |pick: fn(&Write) -> f64| {
            let all: Vec<f64> = writes.iter().map(pick).collect();
            let at = |share| figure(quantile(&all, share).unwrap_or(f64::NAN));
            format!("{} / {}", at(0.5), at(0.99))
        };
        line(&[
            name.clone(),
            cell(|one| one.switched.unwrap_or(f64::NAN)),
            cell(|one| one.switched.unwrap_or(f64::NAN) - one.commit),
            cell(|one| one.answered),
            cell(|one| one.answered - one.commit),
            cell(|one| one.commit),
            cell(|one| one.store),
            cell(|one| one.settle),
        ]);
    }
}

/// Turns the policy that lets the client in, off and on.
fn switches(world: &World, pods: &[String], times: usize) -> Result<Vec<Write>> {
    let mut watch = Watch::begin(world, pods)?;
    watch.until(Verdict::Allowed)?;
    let mut api = world.mesh.api()?;
    let mut writes = Vec::with_capacity(times);
    for number in 0..times {
        let (account, wanted) = if number % 2 == 0 { (NOBODY, Verdict::Refused) } else { (CLIENT, Verdict::Allowed) };
        let reply = admit(&mut api, APP, account)?;
        writes.push(Write::of(&reply, Some(watch.until(wanted)?)));
    }
    if times % 2 == 1 {
        admit(&mut api, APP, CLIENT)?;
    }
    Ok(writes)
}

/// Changes whom the last policy of an app lets in.
pub(crate) fn admit(api: &mut Api, app: &str, account: &str) -> Result<Reply> {
    api.patch(&path(app), &json!({"spec": {"rules": matching_rules(account)}}))
}

fn path(app: &str) -> String {
    format!("{}/{}", policies_path(), match_name(app))
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Same,
    Annotation,
}

fn idle(api: &mut Api, kind: Kind, times: usize) -> Result<Vec<Write>> {
    let patch = |number: usize| -> Value {
        match kind {
            Kind::Same => json!({"spec": {"rules": matching_rules(CLIENT)}}),
            Kind::Annotation => json!({"metadata": {"annotations": {"bench": number.to_string()}}}),
        }
    };
    (0..times).map(|number| Ok(Write::of(&api.patch(&path(APP), &patch(number))?, None))).collect()
}

/// Probes of pods.
struct Watch {
    changes: mpsc::Receiver<Changed>,
    now: Vec<Option<Changed>>,
    _running: Running,
}

impl Watch {
    fn begin(world: &World, pods: &[String]) -> Result<Self> {
        let target =
            |name: &String| world.servers.get(name).map(|pod| format!("{}:{}", pod.address, crate::mesh::PORT));
        let targets: Vec<String> = pods.iter().filter_map(target).collect();
        let words: Vec<&str> = ["watch"].into_iter().chain(targets.iter().map(String::as_str)).collect();
        let mut running = Running::start(world.load.command(&world.client.netns, &words))?;
        let output = running.take_output()?;
        let (sender, changes) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = std::io::BufRead::lines(output).map_while(Result::ok);
            for change in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                // Nobody listens any more: the watch is over.
                if sender.send(change).is_err() {
                    return;
                }
            }
        });
        Ok(Self { changes, now: vec![None; targets.len()], _running: running })
    }

    /// Waits until every pod has this verdict; when the last one got it.
    fn until(&mut self, wanted: Verdict) -> Result<u64> {
        while !self.now.iter().all(|one| one.is_some_and(|one| one.verdict == wanted)) {
            match self.changes.recv_timeout(SWITCH_MAX) {
                Ok(change) => *self.now.get_mut(change.target).context("a target that is none")? = Some(change),
                Err(_) => bail!("not every pod is {wanted:?}: {:?}", self.now),
            }
        }
        self.now.iter().flatten().map(|one| one.at_ns).max().context("no pod is watched")
    }
}
