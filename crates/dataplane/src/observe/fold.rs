//! How many records one pod may cause: repeated SYNs are one attempt, and above a bound a second's equal denials are one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::Attempt;

/// A refused pod in a reconnect loop tries some hundred times a second; more single records than this help nobody.
const RECORDS_PER_SECOND: usize = 200;
/// Different denials (source, port) that are told apart in one second of one pod: a scan of a thousand ports.
const FOLDS_MAX: usize = 1024;
/// Attempts remembered to recognise a repeated SYN: the first repetition comes after one second.
const ATTEMPTS_MAX: usize = 4096;
const WINDOW: Duration = Duration::from_secs(1);

/// What becomes of one logged refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It gets a record of its own.
    Own,
    /// It is a repetition of an attempt, or counted on a record that is written when the second is over.
    Folded,
    /// There is no room to tell it apart: lost, and counted as such.
    Lost,
}

/// Refusals that share a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fold {
    /// The first of them.
    pub(super) attempt: Attempt,
    /// The generation in the text it came with.
    pub(super) generation: u64,
    /// How many.
    pub(super) count: u64,
}

/// The refusals of one pod in the current second.
#[derive(Debug)]
pub(super) struct Window {
    began: Instant,
    records: usize,
    folds: HashMap<(IpAddr, IpAddr, u16, u64), Fold>,
    /// Of this window and of the one before.
    attempts: [HashSet<Attempt>; 2],
}

impl Window {
    pub(super) fn begin(now: Instant) -> Self {
        Self { began: now, records: 0, folds: HashMap::new(), attempts: [HashSet::new(), HashSet::new()] }
    }

    /// Sorts one refusal.
    pub(super) fn sort(&mut self, attempt: Attempt, generation: u64) -> Fate {
        let [now, before] = &mut self.attempts;
        if now.contains(&attempt) || before.contains(&attempt) {
            return Fate::Folded;
        }
        if now.len() < ATTEMPTS_MAX {
            now.insert(attempt);
        }
        let key = (attempt.source.ip(), attempt.destination.ip(), attempt.destination.port(), generation);
        if let Some(fold) = self.folds.get_mut(&key) {
            fold.count += 1;
            return Fate::Folded;
        }
        if self.records < RECORDS_PER_SECOND {
            self.records += 1;
            return Fate::Own;
        }
        if self.folds.len() >= FOLDS_MAX {
            return Fate::Lost;
        }
        self.folds.insert(key, Fold { attempt, generation, count: 1 });
        Fate::Folded
    }

    /// When the current second is over, if something waits for that.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.folds.is_empty()).then(|| self.began + WINDOW)
    }

    /// Hands out the folded records and begins a new second, if the old one is over or `now` is `None`.
    pub(super) fn turn(&mut self, now: Option<Instant>) -> Vec<Fold> {
        let at = now.unwrap_or_else(Instant::now);
        let over = at.saturating_duration_since(self.began) >= WINDOW;
        if now.is_some() && !over {
            return Vec::new();
        }
        if over {
            self.began = at;
            self.records = 0;
            self.attempts.swap(0, 1);
            self.attempts[0].clear();
        }
        self.folds.drain().map(|(_, fold)| fold).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{ATTEMPTS_MAX, Attempt, FOLDS_MAX, Fate, RECORDS_PER_SECOND, WINDOW, Window};

    fn attempt(source_port: u16, port: u16, sequence: u32) -> Attempt {
        Attempt { source: ([10, 0, 0, 1], source_port).into(), destination: ([10, 0, 0, 2], port).into(), sequence }
    }

    #[test]
    fn a_repeated_syn_is_the_same_attempt_for_two_windows() {
        let start = Instant::now();
        let mut window = Window::begin(start);
        assert_eq!(window.sort(attempt(1, 80, 5), 1), Fate::Own);
        assert_eq!(window.sort(attempt(1, 80, 5), 1), Fate::Folded);
        assert_eq!(window.sort(attempt(1, 80, 6), 1), Fate::Own, "another sequence number is another attempt");
        window.turn(Some(start + WINDOW));
        assert_eq!(window.sort(attempt(1, 80, 5), 1), Fate::Folded);
        window.turn(Some(start + 2 * WINDOW));
        window.turn(Some(start + 3 * WINDOW));
        assert_eq!(window.sort(attempt(1, 80, 5), 1), Fate::Own);
    }

    #[test]
    fn above_the_bound_equal_denials_share_a_record_and_each_is_counted() {
        let start = Instant::now();
        let mut window = Window::begin(start);
        let mut fates = [0; 3];
        let total = 10_000_u32;
        for n in 0..total {
            fates[window.sort(attempt(u16::try_from(n).unwrap(), 80, n), 1) as usize] += 1;
        }
        let [own, folded, lost] = fates;
        assert_eq!((own, lost), (RECORDS_PER_SECOND, 0));
        assert_eq!(window.due(), Some(start + WINDOW));
        assert!(window.turn(Some(start + WINDOW / 2)).is_empty());
        let folds = window.turn(Some(start + WINDOW));
        assert_eq!(folds.len(), 1);
        assert_eq!(folds[0].count, u64::try_from(folded).unwrap());
        assert_eq!(own + folded, usize::try_from(total).unwrap());
        assert_eq!(window.due(), None);
    }

    #[test]
    fn what_cannot_be_told_apart_is_lost_and_memory_stays_bounded() {
        let mut window = Window::begin(Instant::now());
        let mut lost = 0;
        for n in 0..60_000_u32 {
            let port = u16::try_from(n).unwrap();
            lost += usize::from(window.sort(attempt(1, port, n), 1) == Fate::Lost);
        }
        assert_eq!(lost, 60_000 - RECORDS_PER_SECOND - FOLDS_MAX);
        assert!(window.attempts[0].len() <= ATTEMPTS_MAX);
    }

    #[test]
    fn a_flush_on_demand_does_not_open_the_bound_again() {
        let start = Instant::now();
        let mut window = Window::begin(start);
        for n in 0..1000_u32 {
            window.sort(attempt(u16::try_from(n).unwrap(), 80, n), 1);
        }
        assert_eq!(window.turn(None).len(), 1);
        assert_eq!(window.sort(attempt(2000, 80, 2000), 1), Fate::Folded);
        assert_eq!(window.turn(Some(start + Duration::from_secs(2))).len(), 1);
    }
}
