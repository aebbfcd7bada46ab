//! Connections and round trips: `crr` and `rr`.
//!
//! `crr` closes first, so its ends wait in `TIME_WAIT` on the client's side. The namespace it runs in is told to use those ports
//! again after a second (`tcp_tw_reuse`) and to have many (`ip_local_port_range`); where that is not enough, attempts that
//! found no port are counted apart.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tidegate_bench::report::{Failures, Rounds, Times};
use tidegate_bench::stats::quantile_us;

/// After a failure, so that a refused client does not spin.
const PAUSE: Duration = Duration::from_micros(200);
/// A first packet that was dropped is sent again after 1 s and after 2 s more: an attempt that all this did not help is one that hangs.
const CONNECT_MAX: Duration = Duration::from_secs(4);
/// What a connection carries each way.
const MESSAGE_BYTES: usize = 16;
/// Samples that a client makes room for beforehand.
const ROOM: usize = 1 << 16;

/// What one client saw.
#[derive(Debug, Default)]
struct Seen {
    connects: Vec<u32>,
    wholes: Vec<u32>,
    failures: Failures,
}

/// Connect, send, receive, close.
pub(crate) fn crr(target: SocketAddr, clients: usize, time: Duration) -> Result<Rounds> {
    many(clients, time, |client, until| {
        let mut seen = Seen { connects: Vec::with_capacity(ROOM), wholes: Vec::with_capacity(ROOM), ..Seen::default() };
        let mut number = 0_u64;
        loop {
            number += 1;
            let mut message = [0; MESSAGE_BYTES];
            message[..8].copy_from_slice(&number.to_le_bytes());
            message[8..].copy_from_slice(&client.to_le_bytes());
            match connection(target, &message) {
                Ok((connect, whole)) => {
                    seen.connects.push(connect);
                    seen.wholes.push(whole);
                }
                Err(error) => {
                    seen.failures.count(&error);
                    std::thread::sleep(PAUSE);
                }
            }
            if Instant::now() >= until {
                return seen;
            }
        }
    })
}

fn connection(target: SocketAddr, message: &[u8; MESSAGE_BYTES]) -> io::Result<(u32, u32)> {
    let begun = Instant::now();
    let mut stream = connected(target)?;
    let connect = nanoseconds(begun.elapsed());
    stream.write_all(message)?;
    let mut back = [0; MESSAGE_BYTES];
    stream.read_exact(&mut back)?;
    drop(stream);
    if back != *message {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok((connect, nanoseconds(begun.elapsed())))
}

/// As `TcpStream::connect`, but given up after a time: what the socket is given for sending is what connect has as well.
fn connected(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_MAX))?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) => Ok(TcpStream::from(socket)),
        Err(Errno::INPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
    }
}

/// One byte there and back.
pub(crate) fn rr(target: SocketAddr, clients: usize, time: Duration) -> Result<Rounds> {
    many(clients, time, |_, until| {
        let mut seen = Seen { wholes: Vec::with_capacity(ROOM), ..Seen::default() };
        let mut ping = || -> io::Result<()> {
            let mut stream = TcpStream::connect(target)?;
            stream.set_nodelay(true)?;
            let mut number = 0_u8;
            loop {
                let begun = Instant::now();
                number = number.wrapping_add(1);
                let mut back = [0];
                stream.write_all(&[number])?;
                stream.read_exact(&mut back)?;
                if back != [number] {
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                }
                seen.wholes.push(nanoseconds(begun.elapsed()));
                if Instant::now() >= until {
                    return Ok(());
                }
            }
        };
        if let Err(error) = ping() {
            seen.failures.count(&error);
        }
        seen
    })
}

fn nanoseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}

/// Runs clients that begin together, and adds up what they saw.
fn many(clients: usize, time: Duration, client: impl Fn(u64, Instant) -> Seen + Sync) -> Result<Rounds> {
    let start = Barrier::new(clients + 1);
    let (client, start) = (&client, &start);
    let (seconds, seen) = std::thread::scope(|scope| -> Result<_> {
        let mut threads = Vec::with_capacity(clients);
        for number in 0..clients {
            let number = u64::try_from(number)?;
            // Small stacks: a thousand clients fit.
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            threads.push(thread.spawn_scoped(scope, move || {
                start.wait();
                client(number, Instant::now() + time)
            })?);
        }
        start.wait();
        let begun = Instant::now();
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let seen: Vec<Seen> = joined.collect();
        Ok((begun.elapsed().as_secs_f64(), seen))
    })?;
    let mut report = Rounds { seconds, ..Rounds::default() };
    let (mut connects, mut wholes) = (Vec::new(), Vec::new());
    for one in seen {
        report.failures.add(&one.failures);
        connects.extend(one.connects);
        wholes.extend(one.wholes);
    }
    report.count = u64::try_from(wholes.len())?;
    report.connect = times(&mut connects);
    report.whole = times(&mut wholes);
    Ok(report)
}

fn times(samples: &mut [u32]) -> Times {
    let mut at = |share| quantile_us(samples, share).unwrap_or(0.0);
    Times { p50_us: at(0.5), p99_us: at(0.99) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::{connection, crr, rr};
    use crate::serve::tests::serving;

    #[test]
    fn what_is_sent_comes_back() {
        let [echo, ..] = serving();
        let report = crr(echo, 4, Duration::from_millis(100)).unwrap();
        assert!(report.count > 0 && report.failures.sum() == 0, "{report:?}");
        assert!(report.connect.p50_us > 0.0 && report.connect.p50_us <= report.whole.p50_us, "{report:?}");
        let report = rr(echo, 2, Duration::from_millis(50)).unwrap();
        assert!(report.count > 0 && report.failures.sum() == 0, "{report:?}");
    }

    #[test]
    fn other_bytes_are_no_success() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let liar = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(&[9; 16]).unwrap();
        });
        let error = connection(address, &[1; 16]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        liar.join().unwrap();
    }

    #[test]
    fn a_refusal_is_counted_as_one() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let report = crr(closed, 1, Duration::from_millis(5)).unwrap();
        assert_eq!((report.count, report.failures.refused), (0, report.failures.sum()));
        assert!(report.failures.refused > 0, "{report:?}");
    }
}
