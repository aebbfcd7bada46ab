//! CPU time of the whole machine, and whose it was.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};

/// Of the clock in which the kernel tells CPU time (`USER_HZ`), the same on every Linux.
const TICK_US: f64 = 10_000.0;
/// The parent of all threads of the kernel.
const KERNEL: i32 = 2;

/// A look at the machine's CPU time, in ticks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    busy: u64,
    stolen: u64,
    total: u64,
    others: u64,
}

/// CPU time between two looks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// By everything but others' programs, in microseconds.
    pub(crate) ours_us: f64,
    /// Share of the machine that programs took which are neither ours nor the kernel's.
    pub(crate) others: f64,
    /// Share that the host of this machine did not give.
    pub(crate) stolen: f64,
}

impl Look {
    /// Looks now. Ours are the descendants of this process and of `daemon`, and these.
    pub(crate) fn take(daemon: i32) -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let numbers: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
        let busy = at(0) + at(1) + at(2) + at(5) + at(6);
        let others = others(&processes(), &[i32::try_from(std::process::id())?, daemon]);
        Ok(Self { busy, stolen: at(7), total: busy + at(3) + at(4) + at(7), others })
    }

    /// What was spent since an earlier look.
    pub(crate) fn since(&self, before: &Self) -> Spent {
        #[expect(clippy::cast_precision_loss, reason = "ticks of one measurement")]
        let difference = |pick: fn(&Self) -> u64| pick(self).saturating_sub(pick(before)) as f64;
        let total = difference(|look| look.total).max(1.0);
        Spent {
            ours_us: (difference(|look| look.busy) - difference(|look| look.others)).max(0.0) * TICK_US,
            others: difference(|look| look.others) / total,
            stolen: difference(|look| look.stolen) / total,
        }
    }
}

/// A process: its parent, and the CPU time of itself and of its children that have ended, in ticks.
#[derive(Debug, Clone, Copy)]
struct Process {
    parent: i32,
    ticks: u64,
}

fn processes() -> HashMap<i32, Process> {
    let entries = std::fs::read_dir("/proc").map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let pids = entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // One that has ended meanwhile is in its parent's count.
    pids.filter_map(|pid| Some((pid, parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// The name, in parentheses, may hold anything; the fields after it are counted from 3.
fn parse(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let ticks: i64 = (14..=17).map(|field| number(field).unwrap_or(0)).sum();
    Some(Process { parent: i32::try_from(number(4)?).ok()?, ticks: u64::try_from(ticks).ok()? })
}

/// The processes that are ours, or the kernel's.
fn known(processes: &HashMap<i32, Process>, ours: &[i32]) -> HashSet<i32> {
    let mut known: HashSet<i32> = ours.iter().copied().chain([KERNEL]).collect();
    loop {
        let more: Vec<i32> = processes
            .iter()
            .filter(|(pid, one)| known.contains(&one.parent) && !known.contains(*pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        known.extend(more);
    }
    known
}

fn others(processes: &HashMap<i32, Process>, ours: &[i32]) -> u64 {
    let known = known(processes, ours);
    processes.iter().filter(|(pid, _)| !known.contains(*pid)).map(|(_, one)| one.ticks).sum()
}

/// All threads of the processes that are ours (those below this process and `daemon`) or the kernel's.
pub(crate) fn own_threads(daemon: i32) -> HashSet<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(daemon);
    let threads = |pid: i32| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/task"));
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.parse().ok()).collect::<Vec<i32>>()
    };
    known(&processes(), &[own, daemon]).into_iter().flat_map(threads).collect()
}

/// Memory of processes, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) resident: u64,
    /// Resident, what is shared being divided among those who share it.
    pub(crate) share: u64,
    /// What is no file's: heap and stacks.
    pub(crate) own: u64,
    /// How many processes.
    pub(crate) processes: usize,
}

/// Memory of a process and all its descendants.
pub(crate) fn memory_below(root: i32) -> Memory {
    let processes = processes();
    let mut known = HashSet::from([root]);
    loop {
        let before = known.len();
        let more: Vec<i32> =
            processes.iter().filter(|(_, one)| known.contains(&one.parent)).map(|(pid, _)| *pid).collect();
        known.extend(more);
        if known.len() == before {
            break;
        }
    }
    let mut sum = Memory::default();
    for pid in known {
        let one = memory_of(pid);
        sum.resident += one.resident;
        sum.share += one.share;
        sum.own += one.own;
        sum.processes += 1;
    }
    sum
}

/// Memory of one process.
pub(crate) fn memory_of(pid: i32) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Memory { resident: of("Rss:"), share: of("Pss:"), own: of("Anonymous:"), processes: 1 }
}

#[cfg(test)]
mod tests {
    use super::{Look, others, parse, processes};
    use std::collections::HashMap;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "12 (a) b (c)) S 7 12 12 0 -1 4194560 100 0 0 0 5 6 7 8 20 0 1 0 1 1 1";
        let process = parse(stat).unwrap();
        assert_eq!((process.parent, process.ticks), (7, 26));
        assert!(parse("nothing").is_none());
    }

    #[test]
    fn ours_and_the_kernels_are_left_out_of_the_others() {
        let row = |pid, parent, ticks| {
            (pid, parse(&format!("{pid} (x) S {parent} 0 0 0 0 0 0 0 0 0 {ticks} 0 0 0")).unwrap())
        };
        let all: HashMap<_, _> =
            [row(1, 0, 1), row(2, 0, 10), row(3, 2, 100), row(7, 1, 1000), row(8, 7, 10_000), row(9, 1, 100_000)]
                .into();
        assert_eq!(others(&all, &[7]), 100_001);
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        assert!(processes().len() > 1);
        let look = Look::take(1).unwrap();
        assert!(look.total > 0 && look.busy <= look.total);
    }
}
