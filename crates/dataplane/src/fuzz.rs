//! The heads of packets that the kernel logs, for fuzzing (`fuzz/README.md`): pods write them, byte by byte.

#[cfg(test)]
#[path = "../../../fuzz/mutate.rs"]
mod mutate;

use crate::observe::packet::attempt;

/// What a parser begins with.
type Seeds = Vec<Vec<u8>>;
/// Name, what reads the bytes and asserts what must hold of any, and the seeds that it begins with.
pub type Parser = (&'static str, fn(&[u8]), fn() -> Seeds);

/// All of them.
pub const PARSERS: &[Parser] = &[("packet", packet, packets)];

/// The start of a packet: both ends are of the family of its first byte, and what is cut off behind the sequence number changes nothing.
fn packet(bytes: &[u8]) {
    let Some(found) = attempt(bytes) else { return };
    let four = bytes.first().map(|first| first >> 4) == Some(4);
    assert!(found.source.is_ipv4() == four && found.destination.is_ipv4() == four);
    let (address, length) = if four { (12, 4) } else { (8, 16) };
    let octets = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    assert_eq!(bytes.get(address..address + length), Some(octets(found.source.ip()).as_slice()));
    assert_eq!(bytes.get(address + length..address + 2 * length), Some(octets(found.destination.ip()).as_slice()));
    let shortest = (0..=bytes.len()).find(|&end| bytes.get(..end).and_then(attempt).is_some());
    let shortest = shortest.and_then(|end| attempt(bytes.get(..end)?));
    assert_eq!(shortest, Some(found));
}

fn packets() -> Seeds {
    const TCP: &[u8] = b"\x9c\x40\x23\x28\x01\x02\x03\x04\0\0\0\0\x50\x02\xff\xff";
    let v4 = |words: u8, options: &[u8]| {
        let head = [&[0x40 | words, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], options, TCP];
        head.concat()
    };
    let v6 = |next: u8, extensions: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, next, 64];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend_from_slice(extensions);
        packet.extend_from_slice(TCP);
        packet
    };
    vec![
        v4(5, &[]),
        v4(6, &[1, 1, 1, 1]),
        v6(6, &[]),
        v6(0, &[6, 0, 0, 0, 0, 0, 0, 0]),
        v6(60, &[44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]),
        v6(51, &[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::{PARSERS, mutate};

    /// Changes of one seed by one parser.
    const ROUNDS: u64 = 3000;
    const TOKENS: &[&[u8]] =
        &[b"\x45", b"\x4f", b"\x40", b"\x60", b"\x06", b"\x2c\0", b"\x2b\0", b"\x33\x01", b"\0\xff", b"\x06\0"];

    #[test]
    fn no_parser_fails_on_mutated_input() {
        mutate::none_fails(PARSERS, TOKENS, ROUNDS);
    }
}
