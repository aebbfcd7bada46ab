//! Sockets of connections that end, as the kernel tells it.
//!
//! Wire facts. Groups 1 (IPv4) and 3 (IPv6) of the family bring, for each TCP socket that had an owner once or would
//! have had one, an `inet_diag_msg` when it is freed, with `tcp_info` as attribute 2. The state in it is always "closed".
//! `tcpi_bytes_acked` counts an acknowledged FIN of ours as a byte, `tcpi_bytes_received` one of theirs. Half-open sockets
//! end unheard. The notice comes a moment after the socket is gone, from a queue of the kernel's.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use super::{HEADER, address};
use crate::Error;
use crate::netlink::{Protocol, Received, Reply, Socket, be16, ne32};

/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY`.
const GROUPS: [u8; 2] = [1, 3];
/// `INET_DIAG_INFO`.
const TCP_INFO: u16 = 2;
/// Where counts stand in `tcp_info`.
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
const DATA_SEGMENTS_IN: usize = 152;
const BYTES_SENT: usize = 200;
const BYTES_SENT_AGAIN: usize = 208;
/// Waiting notices take at most this much: some thousands, half a second of a reader that does not run.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// A connection that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// This end; mapped addresses are shown as IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Payload bytes that came. The kernel counts their FIN with them; it is taken off where both ends have finished, so
    /// the number is one too low where this end closed first and one too high where it reset after their FIN.
    pub bytes_received: u64,
    /// Payload bytes that the other end has confirmed.
    pub bytes_sent: u64,
    /// This end had closed, and the other has confirmed it. Otherwise one of them reset the connection.
    pub finished: bool,
}

/// The listener in one network namespace.
#[derive(Debug)]
pub struct Endings {
    socket: Socket,
}

impl Endings {
    /// Hears of the calling thread's network namespace from now on.
    pub fn listen() -> Result<Self, Error> {
        let socket = Socket::open(Protocol::SockDiag)?;
        socket.reserve_receive(QUEUE_BYTES)?;
        for group in GROUPS {
            socket.subscribe(group)?;
        }
        Ok(Self { socket })
    }

    /// Hands over one waiting notice, without blocking.
    pub fn read(&mut self, mut each: impl FnMut(Ended)) -> Result<Received, Error> {
        self.socket.notifications(|reply| {
            if let Some(ended) = ended(reply) {
                each(ended);
            }
        })
    }
}

impl AsFd for Endings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(crate) fn ended(reply: Reply<'_>) -> Option<Ended> {
    let header: &[u8; HEADER] = reply.payload.first_chunk()?;
    let family = *header.first()?;
    let info = reply.attributes(HEADER).find_kind(TCP_INFO)?;
    let count = |at: usize| info.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes);
    let sent = count(BYTES_SENT)?.saturating_sub(count(BYTES_SENT_AGAIN)?);
    let acked = count(BYTES_ACKED)?;
    let finished = acked > sent;
    let received = match ne32(info.get(DATA_SEGMENTS_IN..)?) {
        // What was counted is their FIN.
        0 => 0,
        _ => count(BYTES_RECEIVED)?.saturating_sub(u64::from(finished)),
    };
    Some(Ended {
        local: SocketAddr::new(address(family, header.get(8..24)?)?, be16(header.get(4..6)?)),
        remote: SocketAddr::new(address(family, header.get(24..40)?)?, be16(header.get(6..8)?)),
        bytes_received: received,
        bytes_sent: acked.min(sent),
        finished,
    })
}
