//! Netlink sockets: request, dump, transaction, notifications.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{HEADER, Message, Reply, attributes, ne32, split};
use super::{ACK, DUMP};
use crate::Error;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: objects changed while they were listed; the list may have holes.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: the error does not quote the request.
const CAPPED: u16 = 0x100;
/// `NLMSGERR_ATTR_MSG`: the kernel's words.
const ERROR_TEXT: u16 = 1;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`, the `res_id` of a batch.
const NFTABLES: u16 = 10;
const SOL_NETLINK: libc::c_int = 270;

/// The kernel answers within the call that asked; five seconds without an answer is a broken kernel, and nobody may hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Netlink hands out at most 32 KiB per message by default, and never more than the reader's buffer if that is larger.
const RECEIVE_BYTES: usize = 64 * 1024;
/// A listing that is interrupted this often is a fight, not a race.
const DUMPS_MAX: usize = 16;

/// The netlink families in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, rules.
    Route,
    /// nftables and nflog.
    Netfilter,
    /// Lists of sockets.
    SockDiag,
}

/// What one wait for notifications brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Messages were handed to the caller.
    Messages,
    /// Nothing there.
    Nothing,
    /// The queue had run over: some are lost.
    Overrun,
}

/// A netlink socket of the network namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    protocol: Protocol,
    sequence: u32,
}

thread_local! {
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Where a datagram is read to. A pod has half a dozen sockets and few are read at a time: the room is the thread's.
struct Room(Vec<u8>);

impl Room {
    fn take() -> Self {
        let left = ROOM.try_with(Cell::take).unwrap_or_default();
        // It is in use if something is asked while an answer is looked at.
        Self(if left.is_empty() { vec![0; RECEIVE_BYTES] } else { left })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let room = std::mem::take(&mut self.0);
        // A thread that ends needs none any more.
        let _ended = ROOM.try_with(|left| left.set(room));
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace; it keeps that namespace wherever it is used later.
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let fail = |source: Errno| Error::NetlinkOpen { protocol, source: source.into() };
        let number = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(netlink::NETFILTER),
            Protocol::SockDiag => Some(netlink::SOCK_DIAG),
        };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, number)
            .map_err(fail)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(fail)?;
        sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_WITHIN)).map_err(fail)?;
        sockopt::set_socket_timeout(&fd, Timeout::Send, Some(ANSWER_WITHIN)).map_err(fail)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_option(&fd, option, 1).map_err(|source| Error::NetlinkOpen { protocol, source })?;
        }
        Ok(Self { fd, protocol, sequence: 1 })
    }

    /// Makes room for `bytes` of messages to be sent at once; as far as the right to do so reaches.
    pub fn reserve_send(&self, bytes: usize) -> Result<(), Error> {
        let forced = sockopt::set_socket_send_buffer_size_force(&self.fd, bytes);
        forced
            .or_else(|_| sockopt::set_socket_send_buffer_size(&self.fd, bytes))
            .map_err(|errno| self.failed("make room for a large transaction", errno))
    }

    /// Makes room for `bytes` of notifications that wait to be read; as far as the right to do so reaches.
    pub fn reserve_receive(&self, bytes: usize) -> Result<(), Error> {
        let forced = sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes);
        forced
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&self.fd, bytes))
            .map_err(|errno| self.failed("make room for notifications", errno))
    }

    /// Hears what the kernel tells a group of the family from now on; see [`Self::notifications`].
    pub fn subscribe(&self, group: u8) -> Result<(), Error> {
        set_option(&self.fd, libc::NETLINK_ADD_MEMBERSHIP, group.into()).map_err(|source| Error::Netlink {
            protocol: self.protocol,
            doing: "subscribe to notifications",
            source,
        })
    }

    /// Sends one message and waits until the kernel has confirmed it.
    pub fn request(&mut self, message: &Message) -> Result<(), Error> {
        self.query(message, |_| {})
    }

    /// Sends one message and hands over what the kernel answers before it confirms.
    pub fn query(&mut self, message: &Message, mut each: impl FnMut(Reply<'_>)) -> Result<(), Error> {
        let mut message = message.clone();
        message.add_flags(ACK);
        let sequence = self.send(&message)?;
        let mut room = Room::take();
        loop {
            let mut bytes = self.receive(&mut room, "wait for the answer")?;
            while let Some(reply) = split(&mut bytes) {
                if reply.sequence != sequence {
                    continue;
                }
                match reply.kind {
                    ERROR => return answer(&reply).map_err(|refusal| self.refused(None, refusal)),
                    _ => each(reply),
                }
            }
        }
    }

    /// Lists objects. Starts again if they changed meanwhile, so `each` is handed to `collect` only with whole lists.
    pub fn dump<T>(
        &mut self,
        message: &Message,
        mut each: impl FnMut(Reply<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMPS_MAX {
            let mut list = Vec::new();
            if self.dump_once(message, &mut |reply| each(reply, &mut list))? {
                return Ok(list);
            }
        }
        Err(self.failed("list objects that change all the time", Errno::INTR))
    }

    /// One transaction of nfnetlink: all messages take effect at once, or none does.
    pub fn batch(&mut self, messages: &[Message]) -> Result<(), Error> {
        let Some(last) = messages.len().checked_sub(1) else {
            return Ok(());
        };
        let first = self.take_sequences(messages.len() + 2);
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::length).sum::<usize>() + 64);
        batch_mark(BATCH_BEGIN).finish(first, &mut bytes);
        let mut sequence = first;
        for (index, message) in messages.iter().enumerate() {
            sequence = sequence.wrapping_add(1);
            if index == last {
                let mut message = message.clone();
                message.add_flags(ACK);
                message.finish(sequence, &mut bytes);
            } else {
                message.finish(sequence, &mut bytes);
            }
        }
        batch_mark(BATCH_END).finish(sequence.wrapping_add(1), &mut bytes);
        self.send_bytes(&bytes)?;
        self.batch_answer(first, messages)
    }

    /// Waits for a confirmation of the last message or the refusal of any; on refusal nothing has changed.
    fn batch_answer(&mut self, first: u32, messages: &[Message]) -> Result<(), Error> {
        let mut refused: Option<(usize, Refusal)> = None;
        let mut room = Room::take();
        loop {
            let mut bytes = self.receive(&mut room, "wait for the end of a transaction")?;
            while let Some(reply) = split(&mut bytes) {
                let index = reply.sequence.wrapping_sub(first);
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                if reply.kind != ERROR || index > messages.len() + 1 {
                    continue;
                }
                match answer(&reply) {
                    Err(refusal) => refused = refused.or(Some((index, refusal))),
                    // The confirmation of the last message arrives even if an earlier one was refused.
                    Ok(()) if index == messages.len() && refused.is_none() => return Ok(()),
                    Ok(()) => {}
                }
            }
            if let Some((index, refusal)) = refused {
                self.drain()?;
                let message = index.checked_sub(1).and_then(|at| messages.get(at).map(|message| (at, message.kind())));
                return Err(self.refused(message, refusal));
            }
        }
    }

    /// Sends without waiting for any answer.
    pub fn send(&mut self, message: &Message) -> Result<u32, Error> {
        let sequence = self.take_sequences(1);
        let mut bytes = Vec::with_capacity(message.length());
        message.finish(sequence, &mut bytes);
        self.send_bytes(&bytes)?;
        Ok(sequence)
    }

    /// Hands over the messages of one datagram that waits, without blocking.
    pub fn notifications(&mut self, mut each: impl FnMut(Reply<'_>)) -> Result<Received, Error> {
        match self.receive_with(&mut Room::take(), RecvFlags::DONTWAIT) {
            Ok(mut bytes) => {
                while let Some(reply) = split(&mut bytes) {
                    each(reply);
                }
                Ok(Received::Messages)
            }
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(Errno::NOBUFS) => Ok(Received::Overrun),
            Err(errno) => Err(self.failed("read notifications", errno)),
        }
    }

    /// `false`: interrupted, the list may have holes.
    fn dump_once(&mut self, message: &Message, each: &mut dyn FnMut(Reply<'_>)) -> Result<bool, Error> {
        let mut message = message.clone();
        message.add_flags(DUMP);
        let sequence = self.send(&message)?;
        let mut whole = true;
        let mut room = Room::take();
        loop {
            let mut bytes = self.receive(&mut room, "list objects")?;
            while let Some(reply) = split(&mut bytes) {
                if reply.sequence != sequence {
                    continue;
                }
                whole &= reply.flags & DUMP_INTERRUPTED == 0;
                match reply.kind {
                    DONE | ERROR => {
                        return answer(&reply).map(|()| whole).map_err(|refusal| self.refused(None, refusal));
                    }
                    _ => each(reply),
                }
            }
        }
    }

    /// Throws away what is left of an answer, so that the next request meets an empty queue.
    fn drain(&mut self) -> Result<(), Error> {
        let mut room = Room::take();
        loop {
            match self.receive_with(&mut room, RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::NOBUFS) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(self.failed("read the rest of an answer", errno)),
            }
        }
    }

    fn take_sequences(&mut self, count: usize) -> u32 {
        let first = self.sequence;
        // 0 is left out: the kernel's notifications carry it.
        self.sequence = first.checked_add(u32::try_from(count).unwrap_or(u32::MAX)).unwrap_or(1);
        first
    }

    fn send_bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()));
        match sent {
            Ok(_) => Ok(()),
            Err(errno) => Err(self.failed("send", errno)),
        }
    }

    fn receive<'r>(&self, room: &'r mut Room, doing: &'static str) -> Result<&'r [u8], Error> {
        self.receive_with(room, RecvFlags::empty()).map_err(|errno| self.failed(doing, errno))
    }

    /// Reads one datagram of the kernel; what other processes send is passed over.
    fn receive_with<'r>(&self, room: &'r mut Room, flags: RecvFlags) -> Result<&'r [u8], Errno> {
        let length = loop {
            let received = rustix::net::recvfrom(&self.fd, room.0.as_mut_slice(), flags);
            match received {
                Ok((_, length, Some(sender))) => {
                    if SocketAddrNetlink::try_from(sender)?.pid() == 0 {
                        break length;
                    }
                }
                Ok((_, _, None)) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        };
        Ok(room.0.get(..length).unwrap_or_default())
    }

    fn failed(&self, doing: &'static str, errno: Errno) -> Error {
        Error::Netlink { protocol: self.protocol, doing, source: errno.into() }
    }

    fn refused(&self, message: Option<(usize, u16)>, refusal: Refusal) -> Error {
        Error::NetlinkRefused { protocol: self.protocol, message, words: refusal.words, source: refusal.source }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) struct Refusal {
    pub(crate) words: String,
    pub(crate) source: io::Error,
}

/// Reads an error message; errno 0 is a confirmation. A `DONE` begins in the same way.
pub(crate) fn answer(reply: &Reply<'_>) -> Result<(), Refusal> {
    let errno = ne32(reply.payload).cast_signed();
    if errno == 0 {
        return Ok(());
    }
    // After the number: the header of the request and, unless capped, all of it. `DONE` quotes nothing.
    let quoted = match reply.kind {
        DONE => 0,
        _ if reply.flags & CAPPED != 0 => HEADER,
        _ => usize::try_from(ne32(reply.payload.get(4..).unwrap_or_default())).unwrap_or(HEADER),
    };
    let rest = reply.payload.get(4 + quoted.next_multiple_of(4)..);
    let words = attributes(rest.unwrap_or_default())
        .find_kind(ERROR_TEXT)
        .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    Err(Refusal { words, source: io::Error::from_raw_os_error(errno.wrapping_neg()) })
}

fn batch_mark(kind: u16) -> Message {
    let mut message = Message::new(kind, 0);
    let [high, low] = NFTABLES.to_be_bytes();
    message.header(&[0, 0, high, low]);
    message
}

fn set_option(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    #[expect(unsafe_code, reason = "rustix has no setter for netlink's options")]
    // SAFETY: `value` lives across the call and `length` is its size; the kernel only reads it.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), SOL_NETLINK, option, (&raw const value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
