//! Changes of verdict along the sweep, to few disjoint rectangles.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::{Bound, ENTRIES_PER_POD_MAX, Entry, TooLarge, Verdict, VerdictTable};
use crate::address::{from_number, number};
use crate::space::last_address;

/// Port classes of one verdict side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) verdict: Verdict,
}

/// A rectangle that still grows.
#[derive(Clone, Copy)]
struct Open {
    last: usize,
    verdict: Verdict,
    since: u128,
}

struct Rectangle {
    run: Run,
    from: u128,
    to: u128,
}

/// Rectangles that still grow, by first port class, and those that are finished.
pub(super) struct Painter {
    // INVARIANT: once the first column is painted the open rectangles are disjoint and cover all port classes.
    open: BTreeMap<usize, Open>,
    finished: Vec<Rectangle>,
    counts: [usize; 3],
}

impl Painter {
    pub(super) fn new() -> Self {
        Self { open: BTreeMap::new(), finished: Vec::new(), counts: [0; 3] }
    }

    /// From this address on, these classes have this verdict.
    pub(super) fn paint(&mut self, from: u128, run: Run) -> Result<(), TooLarge> {
        self.split(run.first);
        self.split(run.last.saturating_add(1));
        let covered: Vec<usize> = self.open.range(run.first..=run.last).map(|(first, _)| *first).collect();
        for first in covered {
            if let Some(open) = self.open.remove(&first) {
                // What began at this very address never was.
                if let Some(to) = from.checked_sub(1).filter(|to| *to >= open.since) {
                    self.finish(first, open, to);
                }
            }
        }
        self.open.insert(run.first, Open { last: run.last, verdict: run.verdict, since: from });
        self.join(run.first);
        self.join(run.last.saturating_add(1));
        self.bounded()
    }

    /// Makes a rectangle begin at this class, if one covers it.
    fn split(&mut self, at: usize) {
        let Some((_, open)) = self.open.range_mut(..at).next_back().filter(|(_, open)| open.last >= at) else {
            return;
        };
        let rest = *open;
        open.last = at.saturating_sub(1);
        self.open.insert(at, rest);
    }

    /// Joins the rectangle that begins at this class to the one before it, if they are one.
    fn join(&mut self, at: usize) {
        let Some(second) = self.open.get(&at).copied() else {
            return;
        };
        let before = self.open.range_mut(..at).next_back();
        let Some((_, first)) = before.filter(|(_, open)| {
            open.last.saturating_add(1) == at && open.verdict == second.verdict && open.since == second.since
        }) else {
            return;
        };
        first.last = second.last;
        self.open.remove(&at);
    }

    fn finish(&mut self, first: usize, open: Open, to: u128) {
        if let Some(count) = self.counts.get_mut(position(open.verdict)) {
            *count += 1;
        }
        self.finished.push(Rectangle {
            run: Run { first, last: open.last, verdict: open.verdict },
            from: open.since,
            to,
        });
    }

    /// The entries there are whatever verdict becomes the fallback.
    pub(super) fn count(&self) -> usize {
        self.counts.iter().sum::<usize>() - self.counts.iter().max().copied().unwrap_or_default()
    }

    fn bounded(&self) -> Result<(), TooLarge> {
        let count = self.count();
        if count > ENTRIES_PER_POD_MAX { Err(TooLarge { count, bound: Bound::Entries }) } else { Ok(()) }
    }

    /// Closes what is open at the last address and leaves this verdict to the fallback, without one the most frequent.
    pub(super) fn table(
        mut self,
        like: IpAddr,
        classes: &[RangeInclusive<u16>],
        fallback: Option<Verdict>,
    ) -> Result<VerdictTable, TooLarge> {
        let last = number(last_address(like));
        for (first, open) in std::mem::take(&mut self.open) {
            self.finish(first, open, last);
        }
        self.bounded()?;
        let fallback = fallback.unwrap_or_else(|| self.fallback());
        let entry = |rectangle: &Rectangle| {
            let ports = *classes.get(rectangle.run.first)?.start()..=*classes.get(rectangle.run.last)?.end();
            let sources = from_number(rectangle.from, like)..=from_number(rectangle.to, like);
            Some(Entry { sources, ports, verdict: rectangle.run.verdict })
        };
        let mut entries: Vec<Entry> =
            self.finished.iter().filter(|rectangle| rectangle.run.verdict != fallback).filter_map(entry).collect();
        entries.sort_unstable_by_key(|entry| (*entry.ports.start(), *entry.sources.start()));
        Ok(VerdictTable { fallback, entries })
    }

    /// The most frequent verdict; of equally frequent ones the stricter.
    fn fallback(&self) -> Verdict {
        let count = |verdict: &Verdict| self.counts.get(position(*verdict)).copied().unwrap_or_default();
        [Verdict::Accept, Verdict::Proxy, Verdict::Reject].into_iter().max_by_key(count).unwrap_or(Verdict::Reject)
    }
}

fn position(verdict: Verdict) -> usize {
    match verdict {
        Verdict::Accept => 0,
        Verdict::Reject => 1,
        Verdict::Proxy => 2,
    }
}
