//! Addresses, address blocks and ports, read once from text (S-13, S-14) and compared by family (S-57).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address block, host bits already cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Block {
    /// First and last address, inclusive.
    V4(u32, u32),
    /// First and last address, inclusive.
    V6(u128, u128),
    /// An IPv6 address with a zone: accepted, never matches (S-14).
    Never,
}

impl Block {
    /// Reads an address or a CIDR block.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((address, length)) = text.split_once('/') else {
            return Self::parse_single(text);
        };
        let length = prefix_length(length)?;
        match address.parse().ok()? {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(length).unwrap_or(0);
                (length <= 32).then(|| Self::V4(u32::from(v4) & !host, u32::from(v4) | host))
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(length).unwrap_or(0);
                (length <= 128).then(|| Self::V6(u128::from(v6) & !host, u128::from(v6) | host))
            }
        }
    }

    fn parse_single(text: &str) -> Option<Self> {
        if let Some((address, zone)) = text.split_once('%') {
            let zoned = !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok();
            return zoned.then_some(Self::Never);
        }
        Some(match text.parse().ok()? {
            IpAddr::V4(v4) => Self::V4(v4.into(), v4.into()),
            IpAddr::V6(v6) => Self::V6(v6.into(), v6.into()),
        })
    }

    /// Is the address in the block; never across families (S-57).
    pub fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(first, last), IpAddr::V4(v4)) => (first..=last).contains(&u32::from(v4)),
            (Self::V6(first, last), IpAddr::V6(v6)) => (first..=last).contains(&u128::from(v6)),
            (Self::V4(..), IpAddr::V6(_)) | (Self::V6(..), IpAddr::V4(_)) | (Self::Never, _) => false,
        }
    }

    /// Does the block consist of IPv4-mapped IPv6 addresses only, which no peer ever has (S-57).
    pub fn is_mapped(self) -> bool {
        const FIRST: u128 = 0xffff_0000_0000;
        const LAST: u128 = 0xffff_ffff_ffff;
        matches!(self, Self::V6(first, last) if first >= FIRST && last <= LAST)
    }
}

/// Ports are decimal digits, leading zeros allowed, 0 to 65535 (S-13).
pub fn parse_port(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let significant = text.trim_start_matches('0');
    if significant.is_empty() { Some(0) } else { significant.parse().ok() }
}

/// An IPv4-mapped peer is IPv4 (S-57).
#[inline]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// An address as rules look at it: never an IPv4-mapped one (S-57), and a number, which is cheaper to hand on and to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    V4(u32),
    V6(u128),
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.into()),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| Self::V6(v6.into()), |v4| Self::V4(v4.into())),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::V4(v4) => Ipv4Addr::from(v4).fmt(f),
            Self::V6(v6) => Ipv6Addr::from(v6).fmt(f),
        }
    }
}

/// The address as a number, comparable only within its family.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The inverse of `number` for the family of `like`.
pub(crate) fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

fn prefix_length(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if plain && !leading_zero { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::{Block, parse_port};

    #[test]
    fn ports() {
        for (text, port) in
            [("0", 0), ("9000", 9000), ("09000", 9000), ("65535", 65535), ("000", 0), ("0000000065535", 65535)]
        {
            assert_eq!(parse_port(text), Some(port), "{text}");
        }
        for bad in ["", " 1", "1 ", "+1", "-1", "65536", "1-2", "*", "0x10", "9_0", "١", "http", "9000,"] {
            assert_eq!(parse_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn blocks() {
        let contains = |block: &str, address: &str| Block::parse(block).unwrap().contains(address.parse().unwrap());
        assert!(contains("10.0.0.7/8", "10.255.0.1"));
        assert!(contains("10.0.0.7/8", "10.0.0.0"), "host bits say nothing");
        assert!(contains("2001:db8::7/32", "2001:db8::"));
        assert!(!contains("10.0.0.7/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "255.255.255.255"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(!contains("::/0", "1.2.3.4"));
        assert!(contains("::/0", "ffff::"));
        assert!(contains("10.1.2.3", "10.1.2.3"));
        assert!(contains("10.1.2.3/32", "10.1.2.3"));
        assert!(!contains("10.1.2.3/32", "10.1.2.4"));
        assert!(contains("2001:db8::1/128", "2001:db8::1"));
        assert!(contains("2001:db8::1/32", "2001:db8:ffff::"));
        assert!(!contains("::ffff:10.0.0.0/104", "10.0.0.1"));
        assert!(!contains("fe80::1%eth0", "fe80::1"));
        assert!(Block::parse("::ffff:10.0.0.0/104").unwrap().is_mapped());
        assert!(!Block::parse("::/0").unwrap().is_mapped());
    }

    #[test]
    fn refused_blocks() {
        for bad in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "::/129",
            "::/-1",
            "010.0.0.1",
            "10.0.0.256",
            "10.0.0",
            "10.0.0.1:80",
            "[::1]",
            "[::1]:80",
            "host",
            "fe80::1%eth0/64",
            "fe80::1%",
            "10.0.0.1%eth0",
            " 10.0.0.1",
            "*",
        ] {
            assert_eq!(Block::parse(bad), None, "{bad}");
        }
    }
}
