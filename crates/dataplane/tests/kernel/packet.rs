//! Packets made by hand, sent from inside a namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use linux::netns::NetNs;
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
const TCP: u8 = 6;
/// `IPPROTO_RAW`: the sender writes the IP header as well.
const WHOLE: u32 = 255;

/// A TCP segment and what is around it.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn syn(source: SocketAddr, destination: SocketAddr) -> Self {
        let sequence = 0x1000_0000 + u32::from(source.port());
        Self { source, destination, flags: SYN, sequence, options: Vec::new(), payload: Vec::new() }
    }

    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Padded to whole words.
    pub(crate) fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 1);
        self
    }

    /// The segment with its checksum.
    pub(crate) fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        let acknowledged: u32 = u32::from(self.flags & ACK != 0);
        segment.extend(acknowledged.to_be_bytes());
        let words = u8::try_from(5 + self.options.len() / 4).unwrap();
        segment.extend([words << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(&self.options);
        segment.extend(&self.payload);
        let mut pseudo = Vec::new();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            mixed => panic!("{mixed:?}"),
        }
        pseudo.extend(u32::from(TCP).to_be_bytes());
        pseudo.extend(u32::try_from(segment.len()).unwrap().to_be_bytes());
        pseudo.extend(&segment);
        let checksum = checksum(&pseudo);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    /// The whole packet.
    pub(crate) fn whole(&self) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => v4(source, destination, 0, &self.segment()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => v6(source, destination, TCP, &self.segment()),
            mixed => panic!("{mixed:?}"),
        }
    }

    /// The whole IPv6 packet with extension headers before the segment; `next` is the kind of the first of them.
    pub(crate) fn behind(&self, next: u8, extensions: &[u8]) -> Vec<u8> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source.ip(), self.destination.ip()) else {
            panic!("extension headers are of IPv6");
        };
        v6(source, destination, next, &[extensions, &self.segment()].concat())
    }

    /// The packet cut into pieces of `size` bytes of segment, a multiple of 8.
    pub(crate) fn pieces(&self, size: usize) -> Vec<Vec<u8>> {
        let segment = self.segment();
        let last = segment.len().div_ceil(size) - 1;
        let piece = |(index, bytes): (usize, &[u8])| {
            let more = u16::from(index < last);
            let units = u16::try_from(index * size / 8).unwrap();
            match (self.source.ip(), self.destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => v4(source, destination, more << 13 | units, bytes),
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    let [high, low] = (units << 3 | more).to_be_bytes();
                    let header = [TCP, 0, high, low, 0, 0, self.segment()[16], self.segment()[17]];
                    v6(source, destination, 44, &[&header, bytes].concat())
                }
                mixed => panic!("{mixed:?}"),
            }
        };
        segment.chunks(size).enumerate().map(piece).collect()
    }
}

/// Sends whole packets from inside a namespace, routed by their destination.
pub(crate) fn send(from: &NetNs, destination: IpAddr, packets: &[Vec<u8>]) {
    let raw = |family| -> OwnedFd {
        let protocol = Protocol::from_raw(std::num::NonZeroU32::new(WHOLE).unwrap());
        rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap()
    };
    from.run(|| {
        let socket = raw(if destination.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 });
        for packet in packets {
            let to = SocketAddr::new(destination, 0);
            rustix::net::sendto(&socket, packet, SendFlags::empty(), &to).unwrap();
        }
    })
    .unwrap();
}

fn v4(source: Ipv4Addr, destination: Ipv4Addr, fragment: u16, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + rest.len()).unwrap().to_be_bytes();
    let fragment = fragment.to_be_bytes();
    // The identification is the same for all pieces; the kernel fills in the checksum.
    let mut packet = vec![0x45, 0, length[0], length[1], 0x12, 0x34, fragment[0], fragment[1], 64, TCP, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(rest);
    packet
}

fn v6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(rest);
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
