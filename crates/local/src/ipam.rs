//! Pod addresses: an address that was given back rests before it is given out again.
//!
//! Tables elsewhere may still know a freed address as its former holder, so it becomes free only when whoever keeps
//! those tables has proven it gone, or after [`REST`]. Addresses are handed out in turn: the one that was freed
//! longest ago comes back last. Time is passed in; nothing here reads a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Error;

/// How long a freed address rests unless it is proven gone: longer than any table load or socket dump takes, and what
/// kernel-path rules ask for.
pub const REST: Duration = Duration::from_mins(1);

/// The pool of numbers of one range: 1 to `size`.
#[derive(Debug)]
pub struct Pool {
    size: u32,
    used: BTreeSet<u32>,
    /// Number → when it is free again.
    resting: BTreeMap<u32, Duration>,
    /// In use, but already known nowhere: needs no rest when it is given back.
    gone: BTreeSet<u32>,
    last: u32,
}

impl Pool {
    /// A pool of which `used` are held already.
    pub fn new(size: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let used: BTreeSet<u32> = used.into_iter().collect();
        // Start after the highest in use: numbers freed before a restart rest longest.
        let last = used.last().copied().unwrap_or(0);
        Self { size, used, resting: BTreeMap::new(), gone: BTreeSet::new(), last }
    }

    /// Takes a free number.
    pub fn allocate(&mut self, now: Duration) -> Result<u32, Error> {
        self.resting.retain(|_, free_at| *free_at > now);
        let free = |number: &u32| !self.used.contains(number) && !self.resting.contains_key(number);
        let after = self.last.saturating_add(1)..=self.size;
        let before = 1..=self.last.min(self.size);
        let Some(number) = after.chain(before).find(free) else {
            return Err(Error::NoFreeAddress {
                size: self.size,
                used: self.used.len(),
                resting: self.resting.len(),
                free_in: self.resting.values().min().map(|free_at| free_at.saturating_sub(now)),
            });
        };
        self.used.insert(number);
        self.last = number;
        Ok(number)
    }

    /// Gives a number back: it rests. Nothing happens if it was not in use.
    pub fn release(&mut self, number: u32, now: Duration) {
        if self.used.remove(&number) && !self.gone.remove(&number) {
            self.resting.insert(number, now.saturating_add(REST));
        }
    }

    /// Ends the rest of a number that no table and no socket knows any more, or spares it if it is still to be given
    /// back.
    pub fn proven_gone(&mut self, number: u32) {
        self.resting.remove(&number);
        if self.used.contains(&number) {
            self.gone.insert(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_pool_of_two_under_churn_never_reuses_an_address_that_rests() {
        let mut pool = Pool::new(2, []);
        assert_eq!(pool.allocate(at(0)).unwrap(), 1);
        assert_eq!(pool.allocate(at(0)).unwrap(), 2);
        let error = pool.allocate(at(0)).unwrap_err().to_string();
        assert_eq!(error, "all 2 pod addresses are taken: 2 in use, 0 resting after use; delete pods or wait");
        pool.release(1, at(10));
        let error = pool.allocate(at(69)).unwrap_err().to_string();
        assert!(error.contains("1 in use, 1 resting after use (the next is free in 2 s)"), "{error}");
        assert_eq!(pool.allocate(at(70)).unwrap(), 1);
        for round in 0..100 {
            let number = 1 + round % 2;
            pool.release(number, at(80));
            assert!(pool.allocate(at(80)).is_err());
            pool.proven_gone(number);
            assert_eq!(pool.allocate(at(80)).unwrap(), number);
        }
    }

    #[test]
    fn addresses_are_given_out_in_turn_and_held_ones_are_known_after_a_restart() {
        let mut pool = Pool::new(4, [2]);
        assert_eq!(pool.allocate(at(0)).unwrap(), 3);
        pool.release(3, at(0));
        pool.proven_gone(3);
        assert_eq!(pool.allocate(at(0)).unwrap(), 4, "not 3 again");
        assert_eq!(pool.allocate(at(0)).unwrap(), 1);
        assert_eq!(pool.allocate(at(0)).unwrap(), 3);
        assert!(pool.allocate(at(0)).is_err());
    }

    #[test]
    fn proof_frees_nothing_that_is_in_use_but_spares_its_rest() {
        let mut pool = Pool::new(1, [1]);
        pool.proven_gone(1);
        assert!(pool.allocate(at(0)).is_err(), "still in use");
        pool.release(1, at(0));
        assert_eq!(pool.allocate(at(0)).unwrap(), 1);
        pool.release(1, at(0));
        assert!(pool.allocate(at(0)).is_err(), "a proof holds once");
        pool.proven_gone(1);
        pool.release(1, at(0));
        assert_eq!(pool.allocate(at(0)).unwrap(), 1, "what is free cannot be released");
    }
}
