//! What the load generator and the harness share: figures from samples, what a run reports, one clock.

pub mod report;
pub mod stats;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the clock that all processes of a machine share and that nobody sets.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
