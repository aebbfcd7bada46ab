//! What one run of the load generator reports: one JSON value on a line.

use serde::{Deserialize, Serialize};

/// Two quantiles, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Times {
    /// Half are not slower.
    pub p50_us: f64,
    /// 99 of 100 are not slower.
    pub p99_us: f64,
}

/// Connections that did not do what they should, by why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Refused when they were opened.
    pub refused: u64,
    /// Reset or ended early.
    pub reset: u64,
    /// No source port was free: the figure says more about the load generator than about what is measured.
    pub no_port: u64,
    /// Other bytes came back than were sent, or another number of them.
    pub bytes: u64,
    /// Neither established nor refused within seconds, or stood still for as long.
    pub timed_out: u64,
    /// Anything else.
    pub other: u64,
}

impl Failures {
    /// All of them.
    pub fn sum(&self) -> u64 {
        self.refused + self.reset + self.no_port + self.bytes + self.timed_out + self.other
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        self.refused += other.refused;
        self.reset += other.reset;
        self.no_port += other.no_port;
        self.bytes += other.bytes;
        self.timed_out += other.timed_out;
        self.other += other.other;
    }

    /// Counts an error.
    pub fn count(&mut self, error: &std::io::Error) {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionRefused => self.refused += 1,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => self.reset += 1,
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => self.no_port += 1,
            ErrorKind::InvalidData => self.bytes += 1,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => self.timed_out += 1,
            _ => self.other += 1,
        }
    }
}

/// `crr` and `rr`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Rounds {
    /// Connections, or round trips, that succeeded.
    pub count: u64,
    /// Those that did not.
    pub failures: Failures,
    /// How long it took.
    pub seconds: f64,
    /// From the first call to the established connection; `crr` only.
    pub connect: Times,
    /// The whole of it.
    pub whole: Times,
}

/// `bulk`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Bulk {
    /// Bytes that the receiver counted.
    pub bytes: u64,
    /// Streams whose two ends counted differently, or that broke.
    pub failures: Failures,
    /// From the first byte until the last stream was closed in good order.
    pub seconds: f64,
}

/// `hold`: first when all are open, again when all were ended by others.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Held {
    /// Connections open at first.
    pub open: u64,
    /// Those that could not be opened.
    pub failures: Failures,
    /// Connections that others ended since.
    pub ended: u64,
    /// When the first was, on the machine's monotonic clock.
    pub first_ns: u64,
    /// When the last was.
    pub last_ns: u64,
}

/// What a probe met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The connection was established.
    Allowed,
    /// It was refused at once.
    Refused,
    /// Neither.
    Odd,
}

/// `watch`: a verdict that differs from the probe before.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Changed {
    /// Which of the watched targets.
    pub target: usize,
    /// What it is now.
    pub verdict: Verdict,
    /// When the probe that met it was over, on the machine's monotonic clock.
    pub at_ns: u64,
}

/// `attempts`: one connection attempt, as the client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its source port.
    pub port: u16,
    /// When it was begun, milliseconds since 1970.
    pub unix_ms: u64,
    /// Whether it was established.
    pub verdict: Verdict,
}

/// `attempts`, when they are over.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// How many were made.
    pub count: u64,
    /// Of those: established, answered and closed in good order.
    pub served: u64,
    /// The others.
    pub failures: Failures,
    /// How long it took.
    pub seconds: f64,
}
