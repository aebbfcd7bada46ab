//! Which addresses a mesh uses: one IPv4 /16 below 10/8 and one IPv6 /48 below `fd00::/8`, cut into parts.
//!
//! Both follow from the mesh's id, so two meshes and the host's own networks seldom meet; where they do, the next
//! free block is taken.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::MeshId;
use crate::Error;

/// A block of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Net4 {
    /// First address.
    pub first: Ipv4Addr,
    /// Leading bits that all addresses share.
    pub prefix: u8,
}

/// A block of IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Net6 {
    /// First address.
    pub first: Ipv6Addr,
    /// Leading bits that all addresses share.
    pub prefix: u8,
}

impl Net4 {
    /// The block of `prefix` bits that holds `address`.
    pub fn of(address: Ipv4Addr, prefix: u8) -> Self {
        Self { first: Ipv4Addr::from_bits(address.to_bits() & mask4(prefix)), prefix }
    }

    /// Whether `address` lies in the block.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask4(self.prefix) == self.first.to_bits()
    }

    /// Whether the two blocks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// The address `index` after the first, none outside the block.
    pub fn nth(self, index: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits(self.first.to_bits().checked_add(index)?);
        self.contains(address).then_some(address)
    }

    /// How far `address` is from the first, none outside the block.
    pub fn index_of(self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| address.to_bits() - self.first.to_bits())
    }

    /// How many addresses can be given out: all but the first and the last, which read as network and broadcast.
    pub fn usable(self) -> u32 {
        (u32::MAX >> self.prefix.min(31)).saturating_sub(1)
    }
}

impl Net6 {
    /// The address `index` after the first, none outside the block.
    pub fn nth(self, index: u32) -> Option<Ipv6Addr> {
        let address = Ipv6Addr::from_bits(self.first.to_bits().checked_add(u128::from(index))?);
        self.contains(address).then_some(address)
    }

    /// Whether `address` lies in the block.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        address.to_bits() & mask == self.first.to_bits()
    }
}

impl fmt::Display for Net4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Display for Net6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

const fn mask4(prefix: u8) -> u32 {
    match u32::MAX.checked_shl(32 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

/// All address ranges of a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// Everything the mesh uses: pods route this way and no further.
    pub whole_v4: Net4,
    /// Everything the mesh uses.
    pub whole_v6: Net6,
    /// Pods.
    pub pods_v4: Net4,
    /// Pods.
    pub pods_v6: Net6,
    /// Second addresses of pods, worn only as the source of a connection that a pod makes to itself through a VIP:
    /// the pod at `pods.nth(n)` has the alias `aliases.nth(n)`.
    pub aliases_v4: Net4,
    /// Aliases of pods.
    pub aliases_v6: Net6,
    /// VIPs of services.
    pub services_v4: Net4,
    /// VIPs of services.
    pub services_v6: Net6,
    /// The host's end of its link into the mesh: the source of whatever the host sends to pods.
    pub host_v4: Ipv4Addr,
    /// The host's end.
    pub host_v6: Ipv6Addr,
    /// The node namespace itself: the gateway of pods.
    pub node_v4: Ipv4Addr,
    /// The node namespace itself.
    pub node_v6: Ipv6Addr,
    /// DNS.
    pub dns_v4: Ipv4Addr,
    /// DNS.
    pub dns_v6: Ipv6Addr,
}

/// Blocks of 10/8 that others use by default and that therefore come last: 10.0 (home routers, VPCs), 10.42 and 10.43
/// (k3s), 10.88 (podman), 10.96 (kubeadm's services), 10.244 (flannel, kind).
const OFTEN_TAKEN: [u8; 6] = [0, 42, 43, 88, 96, 244];

impl Ranges {
    /// The ranges of a mesh on a host that already routes `taken`.
    pub fn choose(id: MeshId, taken: &[Net4]) -> Result<Self, Error> {
        let [a, b, c, d] = id.bytes();
        let start = a ^ b ^ c ^ d;
        let candidates = (0..=u8::MAX).map(|step| start.wrapping_add(step));
        let often = |second: &u8| OFTEN_TAKEN.contains(second);
        // A default route covers everything and is nobody's network.
        let free = |second: &u8| {
            let block = Net4 { first: Ipv4Addr::new(10, *second, 0, 0), prefix: 16 };
            !taken.iter().any(|net| net.prefix > 0 && net.overlaps(block))
        };
        candidates
            .clone()
            .filter(|second| !often(second))
            .chain(candidates.filter(often))
            .find(free)
            .map(|second| Self::in_block(id, second))
            .ok_or(Error::NoFreeRange { routes: taken.len() })
    }

    fn in_block(id: MeshId, second: u8) -> Self {
        let [a, b, c, d] = id.bytes();
        let v4 = |third, fourth| Ipv4Addr::new(10, second, third, fourth);
        // 40 bits of global id as RFC 4193 asks for: the mesh's id and the block.
        let v6 = |subnet: u16, last: u16| {
            let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
            Ipv6Addr::new(word(0xfd, a), word(b, c), word(d, second), subnet, 0, 0, 0, last)
        };
        let part4 = |third| Net4 { first: v4(third, 0), prefix: 18 };
        let part6 = |subnet| Net6 { first: v6(subnet, 0), prefix: 64 };
        Self {
            whole_v4: Net4 { first: v4(0, 0), prefix: 16 },
            whole_v6: Net6 { first: v6(0, 0), prefix: 48 },
            pods_v4: part4(0),
            aliases_v4: part4(64),
            services_v4: part4(128),
            pods_v6: part6(1),
            aliases_v6: part6(2),
            services_v6: part6(3),
            host_v4: v4(192, 1),
            node_v4: v4(192, 2),
            dns_v4: v4(192, 10),
            host_v6: v6(0, 1),
            node_v6: v6(0, 2),
            dns_v6: v6(0, 10),
        }
    }

    /// Both addresses and both aliases of the pod with number `index`.
    pub fn pod(&self, index: u32) -> Option<PodAddresses> {
        Some(PodAddresses {
            v4: self.pods_v4.nth(index)?,
            v6: self.pods_v6.nth(index)?,
            alias_v4: self.aliases_v4.nth(index)?,
            alias_v6: self.aliases_v6.nth(index)?,
        })
    }

    /// The alias of a pod's address, none for any other address.
    pub fn alias_of(&self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(address) => Some(self.aliases_v4.nth(self.pods_v4.index_of(address)?)?.into()),
            IpAddr::V6(address) => {
                let low = address.to_bits().checked_sub(self.pods_v6.first.to_bits())?;
                Some(self.aliases_v6.nth(u32::try_from(low).ok()?)?.into())
            }
        }
    }
}

/// The addresses of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddresses {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// What a connection to itself through a VIP comes from.
    pub alias_v4: Ipv4Addr,
    /// What a connection to itself through a VIP comes from.
    pub alias_v6: Ipv6Addr,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MeshId {
        text.parse().unwrap()
    }

    fn net(text: &str, prefix: u8) -> Net4 {
        Net4 { first: text.parse().unwrap(), prefix }
    }

    #[test]
    fn parts_are_disjoint_and_inside_the_whole() {
        let ranges = Ranges::choose(id("0badcafe"), &[]).unwrap();
        let parts = [ranges.pods_v4, ranges.aliases_v4, ranges.services_v4, Net4::of(ranges.node_v4, 18)];
        for (n, part) in parts.iter().enumerate() {
            assert!(ranges.whole_v4.overlaps(*part));
            for other in parts.get(n + 1..).unwrap() {
                assert!(!part.overlaps(*other), "{part} {other}");
            }
        }
        for address in [ranges.host_v6, ranges.node_v6, ranges.dns_v6, ranges.pods_v6.first, ranges.services_v6.first] {
            assert!(ranges.whole_v6.contains(address));
        }
        assert_eq!(ranges.pods_v4.usable(), 16_382);
        assert_eq!(net("10.0.0.0", 30).usable(), 2);
    }

    #[test]
    fn a_block_in_use_on_the_host_is_left_alone() {
        let first = Ranges::choose(id("00000007"), &[]).unwrap();
        assert_eq!(first.whole_v4.to_string(), "10.7.0.0/16");
        let taken = [net("10.7.3.0", 24), net("10.8.0.0", 15), net("0.0.0.0", 0)];
        let second = Ranges::choose(id("00000007"), &taken).unwrap();
        assert_eq!(second.whole_v4.to_string(), "10.10.0.0/16");
        assert_ne!(first.whole_v6, second.whole_v6);
        assert_eq!(Ranges::choose(id("00000060"), &[]).unwrap().whole_v4.to_string(), "10.97.0.0/16", "not 10.96");
        let only = (0..=255).filter(|b| *b != 42).map(|b| net(&format!("10.{b}.0.0"), 16)).collect::<Vec<_>>();
        assert_eq!(Ranges::choose(id("00000007"), &only).unwrap().whole_v4.to_string(), "10.42.0.0/16");
    }

    #[test]
    fn no_free_block_is_an_error_that_says_what_to_do() {
        let error = Ranges::choose(id("00000007"), &[net("10.0.0.0", 8)]).unwrap_err();
        assert!(error.to_string().contains("no free block in 10.0.0.0/8"), "{error}");
    }

    #[test]
    fn aliases_run_parallel_to_pods() {
        let ranges = Ranges::choose(id("0badcafe"), &[]).unwrap();
        let pod = ranges.pod(300).unwrap();
        assert_eq!(ranges.alias_of(pod.v4.into()), Some(pod.alias_v4.into()));
        assert_eq!(ranges.alias_of(pod.v6.into()), Some(pod.alias_v6.into()));
        assert_eq!(ranges.alias_of(ranges.node_v4.into()), None);
        assert_eq!(ranges.alias_of(ranges.node_v6.into()), None);
        assert_eq!(ranges.pod(1 << 14), None);
    }
}
