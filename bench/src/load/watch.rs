//! What a new connection to a target meets, asked again and again: each change of the verdict, with the time.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use rustix::net::sockopt;
use tidegate_bench::monotonic_ns;
use tidegate_bench::report::{Changed, Verdict};

/// A refusal is a reset, which is at once; whatever takes longer is neither accepted nor refused.
const ANSWER_MAX: Duration = Duration::from_millis(200);

/// Between two probes. A probe that follows the other keeps a CPU busy and the records of it another: then what is measured
/// waits for the measurement. This adds as much to a switch at most, and half of it on average.
const PAUSE: Duration = Duration::from_micros(100);

/// Probes every target on a thread of its own until the process is ended.
pub(crate) fn run(targets: &[SocketAddr]) -> Result<()> {
    std::thread::scope(|scope| {
        let watch = |(number, target): (usize, &SocketAddr)| {
            let target = *target;
            scope.spawn(move || one(number, target))
        };
        let threads: Vec<_> = targets.iter().enumerate().map(watch).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn one(number: usize, target: SocketAddr) -> Result<()> {
    let mut last = None;
    loop {
        let verdict = probe(target)?;
        let at_ns = monotonic_ns();
        if last != Some(verdict) {
            // Standard output is written line by line.
            crate::tell(&Changed { target: number, verdict, at_ns })?;
            last = Some(verdict);
        }
        std::thread::sleep(PAUSE); // timer: the resolution of the measurement
    }
}

fn probe(target: SocketAddr) -> Result<Verdict> {
    match TcpStream::connect_timeout(&target, ANSWER_MAX) {
        Ok(stream) => {
            // Ends in a reset, so that no port waits in TIME_WAIT.
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            Ok(Verdict::Allowed)
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(Verdict::Refused),
        Err(_) => Ok(Verdict::Odd),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{Verdict, probe};

    #[test]
    fn verdicts_of_loopback() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(address).unwrap(), Verdict::Allowed);
        drop(listener);
        assert_eq!(probe(address).unwrap(), Verdict::Refused);
    }
}
