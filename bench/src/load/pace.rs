//! Connection attempts at a steady rate, each from a source port that is known beforehand, so that every one can be found again in
//! the records of what stood between: port, time and outcome go to a file.
//!
//! Each client owns a part of the ports and takes them in turn: at 10,000 attempts a second a port comes again after five seconds.

use std::io::{BufWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tidegate_bench::report::{Attempt, Attempts, Failures, Verdict};

/// Source ports that are used.
const PORTS: std::ops::Range<u16> = 10_240..65_000;
/// What a connection carries each way.
const MESSAGE: [u8; 16] = [7; 16];

/// A rate that the machine cannot make is given up this long after its time.
const LATE_MAX: Duration = Duration::from_secs(1);

/// What one client did.
#[derive(Debug, Default)]
struct Done {
    attempts: Vec<Attempt>,
    served: u64,
    failures: Failures,
}

/// Makes attempts and writes them to `log`, one JSON value a line.
pub(crate) fn run(target: SocketAddr, rate: u32, time: Duration, clients: u16, log: &Path) -> Result<Attempts> {
    if rate == 0 || clients == 0 {
        bail!("neither a rate nor a number of clients can be 0");
    }
    let gap = Duration::from_secs(1) * u32::from(clients) / rate;
    let share = (PORTS.end - PORTS.start) / clients;
    let begun = Instant::now();
    let done: Vec<Done> = std::thread::scope(|scope| {
        let client = |number: u16| {
            let first = PORTS.start + number * share;
            let start = begun + gap * u32::from(number) / u32::from(clients);
            scope.spawn(move || one(target, first..first + share, start, gap, begun + time))
        };
        let threads: Vec<_> = (0..clients).map(client).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut report = Attempts { seconds: begun.elapsed().as_secs_f64(), ..Attempts::default() };
    let file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
    let mut file = BufWriter::new(file);
    for client in done {
        report.count += u64::try_from(client.attempts.len())?;
        report.served += client.served;
        report.failures.add(&client.failures);
        for attempt in client.attempts {
            serde_json::to_writer(&mut file, &attempt)?;
            file.write_all(b"\n")?;
        }
    }
    file.flush()?;
    Ok(report)
}

fn one(target: SocketAddr, ports: std::ops::Range<u16>, start: Instant, gap: Duration, until: Instant) -> Done {
    let mut done = Done::default();
    let mut due = start;
    for port in ports.cycle() {
        // Paced: whoever is late goes on at once until it has caught up, so that all attempts are made that belong to the time.
        let now = Instant::now();
        if due >= until || now >= until + LATE_MAX {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(now));
        due += gap;
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let unix_ms = u64::try_from(unix_ms).unwrap_or(0);
        let mut log = |verdict| done.attempts.push(Attempt { port, unix_ms, verdict });
        match connect(target, port) {
            Ok(mut stream) => {
                log(Verdict::Allowed);
                let served = stream.write_all(&MESSAGE).and_then(|()| {
                    let mut back = [0; 16];
                    stream.read_exact(&mut back)?;
                    if back == MESSAGE { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
                });
                match served {
                    Ok(()) => done.served += 1,
                    Err(error) => done.failures.count(&error),
                }
            }
            // Never sent: it is no attempt that anybody else could have seen.
            Err(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => done.failures.no_port += 1,
            Err(error) => {
                log(if error == Errno::CONNREFUSED { Verdict::Refused } else { Verdict::Odd });
                done.failures.count(&error.into());
            }
        }
    }
    done
}

fn connect(target: SocketAddr, port: u16) -> Result<TcpStream, Errno> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
    rustix::net::connect(&socket, &target)?;
    Ok(TcpStream::from(socket))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::run;
    use crate::serve::tests::serving;
    use tidegate_bench::report::{Attempt, Verdict};

    #[test]
    fn every_attempt_is_in_the_log() {
        let [echo, ..] = serving();
        let log = std::env::temp_dir().join(format!("tidegate-load-test-{}", std::process::id()));
        let report = run(echo, 2000, Duration::from_millis(100), 4, &log).unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        let attempts: Vec<Attempt> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(attempts.len() as u64, report.count);
        assert!(report.count > 0 && report.count <= 200, "{report:?}");
        // Ports of others on this machine may be in the way: those are counted, not logged.
        assert_eq!(report.served + report.failures.sum() - report.failures.no_port, report.count);
        assert!(attempts.iter().all(|attempt| attempt.verdict == Verdict::Allowed));
        let ports: BTreeSet<u16> = attempts.iter().map(|attempt| attempt.port).collect();
        assert_eq!(ports.len(), attempts.len(), "no port twice in so short a time");
    }
}
