//! The guard in the node namespace: what comes out of a pod's link must carry that pod's own address.
//!
//! It is the foundation of every identity: an address names a workload because nobody else can send with it. The chain
//! is closed by default. A link that is not attached passes nothing, so the guard exists before the workload does; the
//! host link passes every source but those of pods. Neighbours are static in this topology, so not even neighbour
//! discovery needs to pass. It stands before all other chains, for traffic to pods, to services and to the node alike.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use linux::netlink::{Protocol, Socket};
use linux::nft::{
    Base, BaseChain, ChainKind, Element, Family, Field, Hook, Meta, REGISTER, Rule, Set, Table, Transaction, Verdict,
};

use policy::mesh::WorkloadId;

use crate::{NodeNet, PodNet};

/// Name of the guard's table, for whoever lists the node namespace.
pub const TABLE: &str = "tidegate_guard";
const CHAIN: &str = "sources";
const FORGED: &str = "forged";
/// Before the raw chains at -300, so that a forged packet meets nothing else.
const PRIORITY: i32 = -310;
/// `lo` is the first interface of every namespace.
const LOOPBACK: u32 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Where the source stands in an IPv4 and in an IPv6 header.
const SOURCE_V4: u32 = 12;
const SOURCE_V6: u32 = 8;

/// The guard of one node namespace.
#[derive(Debug)]
pub(crate) struct Guard {
    table: Table,
    socket: Socket,
    opened: BTreeMap<WorkloadId, PodNet>,
}

impl Guard {
    /// Lays the guard, closed for all links it does not know. Links opened by a process before this one stay open.
    pub(crate) fn lay(node: &NodeNet) -> Result<Self, linux::Error> {
        let mut socket = node.netns.run(|| Socket::open(Protocol::Netfilter))??;
        let table = Table::named(Family::Inet, TABLE);
        let mut lay = Transaction::on(&table);
        let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: PRIORITY, accept: false };
        lay.create_table().counter(FORGED).set(&pods_v4()).set(&pods_v6());
        lay.base_chain(CHAIN, base).flush_chain(CHAIN);
        for rule in rules(node) {
            lay.rule(CHAIN, &rule);
        }
        lay.commit(&mut socket)?;
        Ok(Self { table, socket, opened: BTreeMap::new() })
    }

    /// The workload whose name, link or address `pod` would share.
    pub(crate) fn holder(&self, pod: &PodNet) -> Option<&WorkloadId> {
        let shares = |other: &PodNet| other.node_link == pod.node_link || other.v4 == pod.v4 || other.v6 == pod.v6;
        self.opened
            .iter()
            .find(|(workload, other)| **workload == pod.workload || shares(other))
            .map(|(holder, _)| holder)
    }

    /// Lets a pod's link send with the pod's own addresses.
    pub(crate) fn open(&mut self, pod: &PodNet) -> Result<(), linux::Error> {
        let mut open = Transaction::on(&self.table);
        open.add(&pods_v4(), &[element_v4(pod)]).add(&pods_v6(), &[element_v6(pod)]);
        open.commit(&mut self.socket)?;
        self.opened.insert(pod.workload.clone(), pod.clone());
        Ok(())
    }

    /// Takes that away again.
    pub(crate) fn close(&mut self, pod: &PodNet) -> Result<(), linux::Error> {
        // One that is missing must not keep the other open: two transactions.
        for (set, element) in [(pods_v4(), element_v4(pod)), (pods_v6(), element_v6(pod))] {
            let mut close = Transaction::on(&self.table);
            close.remove(&set, &[element]);
            match close.commit(&mut self.socket) {
                Err(error) if error.errno() != Some(rustix::io::Errno::NOENT.raw_os_error()) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.opened.remove(&pod.workload);
        Ok(())
    }

    /// Closes every link that was not opened here: what processes before this one left behind.
    pub(crate) fn close_others(&mut self) -> Result<(), linux::Error> {
        let v4: Vec<Element> = self.opened.values().map(element_v4).collect();
        let v6: Vec<Element> = self.opened.values().map(element_v6).collect();
        let mut keep = Transaction::on(&self.table);
        keep.flush_set(&pods_v4()).flush_set(&pods_v6());
        keep.add(&pods_v4(), &v4).add(&pods_v6(), &v6);
        keep.commit(&mut self.socket)
    }

    /// Packets dropped because their source was not the sender's.
    pub(crate) fn forged(&mut self) -> Result<u64, linux::Error> {
        self.table.packets(&mut self.socket, FORGED)
    }
}

fn rules(node: &NodeNet) -> Vec<Rule> {
    let family = |number: u8| Rule::begin().meta(Meta::NetworkFamily, REGISTER).equals(REGISTER, &[number]);
    let from = |link: u32| Rule::begin().meta(Meta::InputInterface, REGISTER).equals(REGISTER, &link.to_ne_bytes());
    let refused = |number: u8, offset: u32, network: &[u8], mask: &[u8]| {
        from(node.host_link)
            .meta(Meta::NetworkFamily, REGISTER)
            .equals(REGISTER, &[number])
            .payload(Base::Network, offset, u32::try_from(mask.len()).unwrap_or_default(), REGISTER)
            .mask(REGISTER, mask)
            .equals(REGISTER, network)
            .count(FORGED)
            .verdict(&Verdict::Drop)
    };
    let mut rules = vec![
        family(IPV4)
            .meta(Meta::InputInterface, REGISTER)
            .payload(Base::Network, SOURCE_V4, 4, REGISTER + 1)
            .is_in(&pods_v4().name, REGISTER)
            .verdict(&Verdict::Accept),
        family(IPV6)
            .meta(Meta::InputInterface, REGISTER)
            .payload(Base::Network, SOURCE_V6, 16, REGISTER + 1)
            .is_in(&pods_v6().name, REGISTER)
            .verdict(&Verdict::Accept),
        from(LOOPBACK).verdict(&Verdict::Accept),
    ];
    for (address, prefix) in [node.pods_v4, node.aliases_v4] {
        let mask = mask_v4(prefix);
        rules.push(refused(IPV4, SOURCE_V4, &network(address.octets(), mask), &mask));
    }
    for (address, prefix) in [node.pods_v6, node.aliases_v6] {
        let mask = mask_v6(prefix);
        rules.push(refused(IPV6, SOURCE_V6, &network(address.octets(), mask), &mask));
    }
    rules.push(from(node.host_link).verdict(&Verdict::Accept));
    rules.push(Rule::begin().count(FORGED).verdict(&Verdict::Drop));
    rules
}

fn pods_v4() -> Set {
    Set { name: "pods_v4".to_owned(), key: vec![Field::Interface, Field::Ipv4], intervals: false, verdicts: false }
}

fn pods_v6() -> Set {
    Set { name: "pods_v6".to_owned(), key: vec![Field::Interface, Field::Ipv6], intervals: false, verdicts: false }
}

fn element_v4(pod: &PodNet) -> Element {
    Element::exactly(&[&pod.node_link.to_ne_bytes(), &pod.v4.octets()])
}

fn element_v6(pod: &PodNet) -> Element {
    Element::exactly(&[&pod.node_link.to_ne_bytes(), &pod.v6.octets()])
}

fn mask_v4(prefix: u8) -> [u8; 4] {
    let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    Ipv4Addr::from_bits(!host).octets()
}

fn mask_v6(prefix: u8) -> [u8; 16] {
    let host = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
    Ipv6Addr::from_bits(!host).octets()
}

fn network<const N: usize>(address: [u8; N], mask: [u8; N]) -> [u8; N] {
    let mut network = address;
    for (byte, mask) in network.iter_mut().zip(mask) {
        *byte &= mask;
    }
    network
}

#[cfg(test)]
mod tests {
    use super::{mask_v4, mask_v6, network};

    #[test]
    fn masks_and_networks() {
        assert_eq!(mask_v4(0), [0; 4]);
        assert_eq!(mask_v4(20), [255, 255, 240, 0]);
        assert_eq!(mask_v4(32), [255; 4]);
        assert_eq!(mask_v6(64)[..9], [255, 255, 255, 255, 255, 255, 255, 255, 0]);
        assert_eq!(mask_v6(128), [255; 16]);
        assert_eq!(network([10, 77, 201, 3], mask_v4(12)), [10, 64, 0, 0]);
    }
}
