//! Throughput: bytes one way until the time is over, then a half-close; the other end says how many it counted.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tidegate_bench::report::{Bulk, Failures};

use crate::Way;

/// Bytes of one call.
const TURN_BYTES: usize = 256 * 1024;
/// Bytes of a count at the end of a stream.
const COUNT_BYTES: usize = 8;
/// A stream that stands still for so long is broken; what is on its way after the half-close has arrived by then, or is lost.
const STILL_MAX: Duration = Duration::from_secs(10);

/// Runs streams that begin together.
pub(crate) fn run(target: SocketAddr, streams: usize, time: Duration, way: Way) -> Bulk {
    let begun = Instant::now();
    let outcomes: Vec<io::Result<u64>> = std::thread::scope(|scope| {
        let one = || match way {
            Way::Up => up(target, begun + time),
            Way::Down => down(target, begun + time),
        };
        let threads: Vec<_> = (0..streams).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut report = Bulk { seconds: begun.elapsed().as_secs_f64(), ..Bulk::default() };
    let mut failures = Failures::default();
    for outcome in outcomes {
        match outcome {
            Ok(bytes) => report.bytes += bytes,
            Err(error) => failures.count(&error),
        }
    }
    report.failures = failures;
    report
}

fn up(target: SocketAddr, until: Instant) -> io::Result<u64> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(STILL_MAX))?;
    stream.set_write_timeout(Some(STILL_MAX))?;
    let turn = vec![0xa5; TURN_BYTES];
    let mut sent = 0_u64;
    loop {
        sent += u64::try_from(stream.write(&turn)?).unwrap_or(0);
        if Instant::now() >= until {
            break;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; COUNT_BYTES];
    stream.read_exact(&mut count)?;
    same(u64::from_le_bytes(count), sent)
}

fn down(target: SocketAddr, until: Instant) -> io::Result<u64> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(STILL_MAX))?;
    stream.set_write_timeout(Some(STILL_MAX))?;
    let mut turn = vec![0; TURN_BYTES];
    let mut received = Received::default();
    loop {
        let length = stream.read(&mut turn)?;
        if length == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        received.take(turn.get(..length).unwrap_or_default());
        if Instant::now() >= until {
            break;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    loop {
        match stream.read(&mut turn)? {
            0 => break,
            length => received.take(turn.get(..length).unwrap_or_default()),
        }
    }
    let (payload, count) = received.end()?;
    same(count, payload)
}

/// What came down, the last bytes kept: they are the count.
#[derive(Debug, Default)]
struct Received {
    total: u64,
    last: Vec<u8>,
}

impl Received {
    fn take(&mut self, bytes: &[u8]) {
        self.total += u64::try_from(bytes.len()).unwrap_or(0);
        let tail = bytes.get(bytes.len().saturating_sub(COUNT_BYTES)..).unwrap_or_default();
        self.last.extend_from_slice(tail);
        let surplus = self.last.len().saturating_sub(COUNT_BYTES);
        self.last.drain(..surplus);
    }

    /// The payload's length and the count that followed it.
    fn end(self) -> io::Result<(u64, u64)> {
        let early = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let count = <[u8; COUNT_BYTES]>::try_from(self.last.as_slice()).map_err(|_| early())?;
        let length = u64::try_from(COUNT_BYTES).unwrap_or(0);
        Ok((self.total.checked_sub(length).ok_or_else(early)?, u64::from_le_bytes(count)))
    }
}

fn same(one: u64, other: u64) -> io::Result<u64> {
    if one == other {
        return Ok(one);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("one end counted {one} bytes, the other {other}")))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::{Received, run};
    use crate::Way;
    use crate::serve::tests::serving;

    #[test]
    fn both_ends_count_the_same() {
        let [_, sink, source] = serving();
        for (target, way) in [(sink, Way::Up), (source, Way::Down)] {
            for streams in [1, 8] {
                let report = run(target, streams, Duration::from_millis(50), way);
                assert_eq!(report.failures.sum(), 0, "{way:?} {report:?}");
                assert!(report.bytes > 0, "{way:?} {report:?}");
            }
        }
    }

    #[test]
    fn counts_that_differ_are_seen_on_either_way() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let loser = std::thread::spawn(move || {
            // A sink that counted one more.
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&(all.len() as u64 + 1).to_le_bytes()).unwrap();
            drop(stream);
            // A source whose count is more than it sent.
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[0; 100]).unwrap();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&101_u64.to_le_bytes()).unwrap();
        });
        for way in [Way::Up, Way::Down] {
            let report = run(address, 1, Duration::ZERO, way);
            assert_eq!((report.failures.bytes, report.bytes), (1, 0), "{way:?} {report:?}");
        }
        loser.join().unwrap();
    }

    #[test]
    fn a_count_may_come_in_pieces() {
        let mut received = Received::default();
        let count = 3_u64.to_le_bytes();
        received.take(&[1, 2, 3, count[0], count[1]]);
        received.take(&count[2..3]);
        received.take(&count[3..]);
        assert_eq!(received.end().unwrap(), (3, 3));
        assert!(Received::default().end().is_err());
    }
}
