//! The head of a logged packet: who tried to open what.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// More extension headers than the log's cut-off could hold.
const EXTENSIONS_MAX: usize = 20;

/// One attempt to open a connection. A repeated SYN of the same attempt is equal to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// Initial sequence number: another attempt with the same ports has another one.
    pub(crate) sequence: u32,
}

/// Reads the head of a packet; `None` if it is cut off before the sequence number or is not TCP.
pub(crate) fn attempt(packet: &[u8]) -> Option<Attempt> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.get(..IPV4_HEADER)?;
            let length = usize::from(header.first()? & 0x0f) * 4;
            if *header.get(9)? != TCP || length < IPV4_HEADER {
                return None;
            }
            let source = Ipv4Addr::from(*header.get(12..)?.first_chunk::<4>()?);
            let destination = Ipv4Addr::from(*header.get(16..)?.first_chunk::<4>()?);
            ports(packet.get(length..)?, source, destination)
        }
        6 => {
            let header = packet.get(..IPV6_HEADER)?;
            let source = Ipv6Addr::from(*header.get(8..)?.first_chunk::<16>()?);
            let destination = Ipv6Addr::from(*header.get(24..)?.first_chunk::<16>()?);
            ports(after_extensions(*header.get(6)?, packet.get(IPV6_HEADER..)?)?, source, destination)
        }
        _ => None,
    }
}

fn after_extensions(first: u8, packet: &[u8]) -> Option<&[u8]> {
    let (mut kind, mut rest) = (first, packet);
    for _ in 0..EXTENSIONS_MAX {
        let length = match kind {
            TCP => return Some(rest),
            // Hop-by-hop, routing, destination options: length in units of 8 after the first 8.
            0 | 43 | 60 => (usize::from(*rest.get(1)?) + 1) * 8,
            // Fragment.
            44 => 8,
            // Authentication: length in units of 4, less 2.
            51 => (usize::from(*rest.get(1)?) + 2) * 4,
            _ => return None,
        };
        kind = *rest.first()?;
        rest = rest.get(length..)?;
    }
    None
}

fn ports(tcp: &[u8], source: impl Into<std::net::IpAddr>, destination: impl Into<std::net::IpAddr>) -> Option<Attempt> {
    let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    Some(Attempt {
        source: SocketAddr::new(source.into(), port(0)?),
        destination: SocketAddr::new(destination.into(), port(2)?),
        sequence: u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?),
    })
}

#[cfg(test)]
mod tests {
    use super::{Attempt, attempt};

    const TCP: [u8; 8] = [0x9c, 0x40, 0x23, 0x28, 1, 2, 3, 4];

    fn v4(protocol: u8, options: usize) -> Vec<u8> {
        let words = u8::try_from(5 + options / 4).unwrap();
        let mut packet = vec![0x40 | words, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.resize(20 + options, 1);
        packet.extend(TCP);
        packet
    }

    fn v6(next: u8, extensions: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend(extensions);
        packet.extend(TCP);
        packet
    }

    fn expected(source: &str, destination: &str) -> Attempt {
        Attempt { source: source.parse().unwrap(), destination: destination.parse().unwrap(), sequence: 0x0102_0304 }
    }

    #[test]
    fn ipv4_with_and_without_options() {
        for options in [0, 4, 40] {
            assert_eq!(attempt(&v4(6, options)), Some(expected("10.0.0.1:40000", "10.0.0.2:9000")));
        }
        assert_eq!(attempt(&v4(17, 0)), None);
    }

    #[test]
    fn ipv6_with_and_without_extension_headers() {
        let cases: [(u8, &[u8]); 4] = [
            (6, &[]),
            (0, &[6, 0, 0, 0, 0, 0, 0, 0]),
            (60, &[44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]),
            (51, &[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        for (next, extensions) in cases {
            assert_eq!(attempt(&v6(next, extensions)), Some(expected("[fd00::1]:40000", "[fd00::2]:9000")), "{next}");
        }
        assert_eq!(attempt(&v6(17, &[])), None);
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        for whole in [v4(6, 0), v6(6, &[]), v6(0, &[6, 0, 0, 0, 0, 0, 0, 0])] {
            for length in 0..whole.len() {
                assert_eq!(attempt(&whole[..length]), None, "{length}");
            }
        }
    }
}
