//! Sets and maps, and their elements.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::rule::Verdict;
use crate::netlink::Message;

const FLAG_INTERVAL: u32 = 0x4;
const FLAG_MAP: u32 = 0x8;
const FLAG_CONCAT: u32 = 0x80;
/// `NFT_DATA_VERDICT`.
const VERDICT: u32 = 0xffff_ff00;

/// The length of a list of elements is a u16; this leaves room for the element that crosses the line.
pub(super) const LIST_BYTES: usize = 60_000;

/// One field of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A port.
    Port,
    /// An interface index, in host order.
    Interface,
    /// Anything of this many bytes.
    Bytes(u32),
}

impl Field {
    fn length(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Interface => 4,
            Self::Ipv6 => 16,
            Self::Port => 2,
            Self::Bytes(length) => length,
        }
    }

    /// The number by which `nft list` knows how to print it; the kernel does not care.
    fn printed_as(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Port => 13,
            Self::Interface => 20,
            Self::Bytes(_) => 0,
        }
    }
}

/// A set, or a map from keys to verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name, unique in the table.
    pub name: String,
    /// The fields of a key, in order.
    pub key: Vec<Field>,
    /// Elements are ranges (in every field) rather than single keys. Needs at least two fields.
    pub intervals: bool,
    /// Elements carry a verdict.
    pub verdicts: bool,
}

impl Set {
    pub(super) fn write(&self, id: u32, message: &mut Message) {
        let mut flags = 0;
        if self.key.len() > 1 {
            flags |= FLAG_CONCAT;
        }
        if self.intervals {
            flags |= FLAG_INTERVAL;
        }
        if self.verdicts {
            flags |= FLAG_MAP;
        }
        let length: u32 = self.key.iter().map(|f| f.length().next_multiple_of(4)).sum();
        let printed = self.key.iter().fold(0, |all, f| all << 6 | f.printed_as());
        message.cstr(2, &self.name).be32(3, flags).be32(4, printed).be32(5, length);
        if self.verdicts {
            message.be32(6, VERDICT);
        }
        if self.key.len() > 1 {
            message.nested(9, |description| {
                description.nested(2, |concat| {
                    for field in &self.key {
                        concat.nested(1, |one| {
                            one.be32(1, field.length());
                        });
                    }
                });
            });
        }
        message.be32(10, id);
    }
}

/// One element: a key or a range of keys, and in a map its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    key: Vec<u8>,
    end: Option<Vec<u8>>,
    verdict: Option<Verdict>,
}

impl Element {
    /// An element for single keys.
    pub fn exactly(fields: &[&[u8]]) -> Self {
        Self { key: padded(fields), end: None, verdict: None }
    }

    /// An element for all keys between two corners, both included, field by field.
    pub fn between(first: &[&[u8]], last: &[&[u8]]) -> Self {
        Self { key: padded(first), end: Some(padded(last)), verdict: None }
    }

    /// An element for one address and one port.
    pub fn address_and_port(address: IpAddr, port: u16) -> Self {
        match address {
            IpAddr::V4(address) => Self::exactly(&[&address.octets(), &port.to_be_bytes()]),
            IpAddr::V6(address) => Self::exactly(&[&address.octets(), &port.to_be_bytes()]),
        }
    }

    /// An element for a range of addresses and a range of ports; `None` if the range mixes IPv4 and IPv6.
    pub fn addresses_and_ports(addresses: &RangeInclusive<IpAddr>, ports: &RangeInclusive<u16>) -> Option<Self> {
        let first = ports.start().to_be_bytes();
        let last = ports.end().to_be_bytes();
        match (addresses.start(), addresses.end()) {
            (IpAddr::V4(low), IpAddr::V4(high)) => {
                Some(Self::between(&[&low.octets(), &first], &[&high.octets(), &last]))
            }
            (IpAddr::V6(low), IpAddr::V6(high)) => {
                Some(Self::between(&[&low.octets(), &first], &[&high.octets(), &last]))
            }
            _ => None,
        }
    }

    /// The same element with a verdict, for a map.
    #[must_use]
    pub fn with(mut self, verdict: Verdict) -> Self {
        self.verdict = Some(verdict);
        self
    }

    pub(super) fn write(&self, list: &mut Message) {
        list.nested(1, |element| {
            element.nested(1, |key| {
                key.bytes(1, &self.key);
            });
            if let Some(end) = &self.end {
                element.nested(10, |key| {
                    key.bytes(1, end);
                });
            }
            if let Some(verdict) = &self.verdict {
                element.nested(2, |value| verdict.write(value));
            }
        });
    }
}

fn padded(fields: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for field in fields {
        key.extend_from_slice(field);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}
