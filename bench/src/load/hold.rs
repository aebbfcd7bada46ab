//! Connections that are opened and held, and when others end them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use tidegate_bench::monotonic_ns;
use tidegate_bench::report::{Failures, Held};

use crate::tell;

/// The event of standard input; connections count from 0.
const INPUT: u64 = u64::MAX;
/// Events at a time.
const READY_MAX: usize = 256;

/// Opens connections, tells that they are open, then waits for their end.
pub(crate) fn run(target: SocketAddr, count: usize) -> Result<()> {
    let mut report = Held::default();
    let mut held = Vec::with_capacity(count);
    let mut failures = Failures::default();
    for _ in 0..count {
        match open(target) {
            Ok(stream) => held.push(stream),
            Err(error) => failures.count(&error),
        }
    }
    report.open = u64::try_from(held.len())?;
    report.failures = failures;
    tell(&report)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let input = std::io::stdin();
    // A file or /dev/null cannot be waited for, and never ends.
    let pipe = epoll::add(&epoll, &input, EventData::new_u64(INPUT), EventFlags::IN);
    pipe.context("standard input must be a pipe: its end ends the connections")?;
    for (number, stream) in (0_u64..).zip(&held) {
        epoll::add(&epoll, stream, EventData::new_u64(number), EventFlags::RDHUP)?;
    }
    let mut ready = Vec::with_capacity(READY_MAX);
    while report.ended < report.open {
        ready.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), None)?;
        let now = monotonic_ns();
        for event in &ready {
            if event.data.u64() == INPUT {
                return tell(&report);
            }
            let stream = usize::try_from(event.data.u64()).ok().and_then(|number| held.get(number));
            epoll::delete(&epoll, stream.context("an event of no connection")?)?;
            report.ended += 1;
            report.last_ns = now;
            if report.first_ns == 0 {
                report.first_ns = now;
            }
        }
    }
    tell(&report)
}

/// Opens a connection that was accepted, not only queued: a byte went there and back.
fn open(target: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target)?;
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}
