//! Packets that a log expression of nftables hands out.
//!
//! Wire facts. `NFNL_SUBSYS_ULOG << 8`: kind 0 carries a packet, kind 1 configures a group; `nfgenmsg` names the group as
//! its resource id. A group has one listener, which is gone when its socket is closed. The kernel collects up to the
//! group's threshold of packets, or for its timeout, into one datagram and numbers packets if asked; what a full queue
//! loses shows as a gap in the numbers. Logging to a group without a listener is free and silent.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::Error;
use crate::netlink::{Message, Protocol, Received, Reply, Socket, be32};

const SUBSYSTEM: u16 = 4 << 8;
const CONFIGURE: u16 = SUBSYSTEM + 1;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const FLAG_NUMBERED: u16 = 1;

/// Collected for at most this long, in hundredths of a second: what a terminal shows may not lag behind.
const COLLECT_FOR: u32 = 1;
/// Collected at most this many: 64 packets of 200 bytes stay below the kernel's buffer for them.
const COLLECT_PACKETS: u32 = 64;
/// The kernel's buffer for one datagram; its largest allowed value is 128 KiB.
const COLLECT_BYTES: u32 = 32 * 1024;
/// Waiting datagrams take at most this much: about 20,000 packets, two seconds of a reader that does not run.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// A process that was killed keeps its sockets until the kernel has taken it down, which others may notice before.
const WAIT_FOR_LAST: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(2);

/// One packet.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'a> {
    /// Its number in the group; the next packet has the next number.
    pub number: u32,
    /// The text of the log expression.
    pub prefix: &'a str,
    /// The packet from its IP header on, cut off where the expression says.
    pub packet: &'a [u8],
}

/// The listener of one group in one network namespace.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

impl Listener {
    /// Listens to a group of the calling thread's network namespace; packets are cut off after `bytes_max`. While another
    /// listener has the group, waits for up to a second for it to go.
    pub fn open(group: u16, bytes_max: u32) -> Result<Self, Error> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        socket.reserve_receive(QUEUE_BYTES)?;
        let [high, low] = group.to_be_bytes();
        let mut bind = Message::new(CONFIGURE, 0);
        let [a, b, c, d] = bytes_max.to_be_bytes();
        bind.header(&[0, 0, high, low])
            .u8(1, COMMAND_BIND)
            .bytes(2, &[a, b, c, d, COPY_PACKET, 0])
            .be32(3, COLLECT_BYTES)
            .be32(4, COLLECT_FOR)
            .be32(5, COLLECT_PACKETS)
            .be16(6, FLAG_NUMBERED);
        let last = Instant::now() + WAIT_FOR_LAST;
        loop {
            match socket.request(&bind) {
                Err(error) if error.errno() == Some(libc::EPERM) && Instant::now() < last => {
                    std::thread::sleep(ASK_AGAIN); // timer: nothing tells when a socket of another process is gone
                }
                bound => return bound.map(|()| Self { socket }),
            }
        }
    }

    /// Hands over the packets of one datagram that waits, without blocking.
    pub fn read(&mut self, mut each: impl FnMut(Logged<'_>)) -> Result<Received, Error> {
        self.socket.notifications(|reply| {
            if let Some(logged) = logged(reply) {
                each(logged);
            }
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(crate) fn logged(reply: Reply<'_>) -> Option<Logged<'_>> {
    if reply.kind != SUBSYSTEM {
        return None;
    }
    let attributes = reply.attributes(4);
    let prefix = attributes.find_kind(10).unwrap_or_default();
    Some(Logged {
        number: attributes.find_kind(12).map(be32)?,
        prefix: std::str::from_utf8(prefix).ok()?.trim_end_matches('\0'),
        packet: attributes.find_kind(9).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::Listener;
    use crate::netlink::{Message, Protocol, Received, Socket};
    use crate::netns::NetNs;
    use crate::nft::{BaseChain, ChainKind, Family, Hook, Rule, Table, Transaction};

    const GROUP: u16 = 3;

    #[test]
    fn a_group_is_waited_for_while_its_last_listener_goes() {
        NetNs::create()
            .unwrap()
            .run(|| {
                let last = Listener::open(GROUP, 24).unwrap();
                let going = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(50)); // timer: it is there while the next asks
                    drop(last);
                });
                Listener::open(GROUP, 24).unwrap();
                going.join().unwrap();
            })
            .unwrap();
    }

    #[test]
    fn packets_arrive_numbered_cut_off_and_with_their_prefix() {
        NetNs::create()
            .unwrap()
            .run(|| {
                let mut up = Message::new(16, 0);
                up.header(&[0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
                Socket::open(Protocol::Route).unwrap().request(&up).unwrap();
                let table = Table::named(Family::Inet, "t");
                let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 0, accept: true };
                let mut t = Transaction::on(&table);
                t.create_table().base_chain("input", base);
                t.rule("input", &Rule::begin().log(GROUP, "generation 7", 24, 1));
                t.commit(&mut Socket::open(Protocol::Netfilter).unwrap()).unwrap();

                let mut listener = Listener::open(GROUP, 24).unwrap();
                assert!(Listener::open(GROUP, 24).is_err(), "a group has one listener");
                assert_eq!(listener.read(|_| {}).unwrap(), Received::Nothing);
                let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
                for _ in 0..3 {
                    sender.send_to(&[0; 100], ("127.0.0.1", 9)).unwrap();
                }
                let mut seen = Vec::new();
                while seen.len() < 3 {
                    let bound = Timespec { tv_sec: 5, tv_nsec: 0 };
                    let ready = poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&bound)).unwrap();
                    assert_eq!(ready, 1, "no packet within five seconds");
                    listener
                        .read(|logged| {
                            assert_eq!(logged.prefix, "generation 7");
                            assert_eq!(logged.packet.len(), 24);
                            assert_eq!(logged.packet[0] >> 4, 4);
                            // The kernel answers with ICMP to the closed port: that is logged as well.
                            if logged.packet[9] == 17 {
                                seen.push(logged.number);
                            }
                        })
                        .unwrap();
                }
                assert!(seen.is_sorted());
            })
            .unwrap();
    }
}
