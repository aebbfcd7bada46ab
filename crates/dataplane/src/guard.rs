//! The guard in the node namespace: what comes out of a pod's link must carry that pod's own address.
//!
//! It is the foundation of every identity: an address names a workload because nobody else can send with it. The chain
//! is closed by default. A link that is not attached passes nothing, so the guard exists before the workload does; the
//! host link passes every source but those of pods. Neighbours are static in this topology, so not even neighbour
//! discovery needs to pass. It stands before all other chains, for traffic to pods, to services and to the node alike.
//!
//! And an address must *be* that workload's for the snapshot in force: tables know who speaks only by that snapshot. A pod
//! whose object is gone or has ended may still have processes; to every table their address would be nobody's, which no
//! rule against their identity matches. So a link whose address the snapshot does not know opens nothing: what it had open
//! goes on (and is judged as every connection), and no first packet passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use linux::netlink::{Protocol, Socket};
use linux::nft::{
    Base, BaseChain, ChainKind, Element, Family, Field, Hook, Meta, REGISTER, Rule, Set, Table, Transaction, Verdict,
};

use policy::mesh::WorkloadId;
use policy::snapshot::Snapshot;

use crate::shortcut::Shortcut;
use crate::{NodeNet, PodNet};

/// Name of the guard's table, for whoever lists the node namespace.
pub const TABLE: &str = "tidegate_guard";
const CHAIN: &str = "sources";
const FORGED: &str = "forged";
/// Before the raw chains at -300, so that a forged packet meets nothing else.
const PRIORITY: i32 = -310;
/// `lo` is the first interface of every namespace.
const LOOPBACK: u32 = 1;
const TCP: u8 = 6;
/// ICMP and its counterpart of IPv6: errors about connections that go on.
const ERRORS: [u8; 2] = [1, 58];
/// Where the flags stand in the TCP header; SYN is 0x02, ACK is 0x10.
const FLAGS: u32 = 13;
const SYN_OR_ACK: u8 = 0x12;
const SYN: u8 = 0x02;
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
    node: NodeNet,
    opened: BTreeMap<WorkloadId, PodNet>,
    /// The addresses of opened links that open connections: those the snapshot in force knows as their workload's.
    known: BTreeSet<(u32, IpAddr)>,
    /// The snapshot that every table has; none while one is being put into force.
    in_force: Option<u64>,
    /// Between addresses of `known`; none where the kernel has no such programs for us.
    shortcut: Option<Shortcut>,
}

impl Guard {
    /// Lays the guard, closed for all links it does not know. Links opened by a process before this one stay open, until
    /// [`Self::close_others`].
    pub(crate) fn lay(node: &NodeNet, shortcut: Option<Shortcut>) -> Result<Self, linux::Error> {
        let mut socket = node.netns.run(|| Socket::open(Protocol::Netfilter))??;
        let table = Table::named(Family::Inet, TABLE);
        lay(&table, node).commit(&mut socket)?;
        let (opened, known) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { table, socket, node: node.clone(), opened, known, in_force: None, shortcut })
    }

    /// The workload whose name, link or address `pod` would share.
    pub(crate) fn holder(&self, pod: &PodNet) -> Option<&WorkloadId> {
        let shares = |other: &PodNet| other.node_link == pod.node_link || other.v4 == pod.v4 || other.v6 == pod.v6;
        self.opened
            .iter()
            .find(|(workload, other)| **workload == pod.workload || shares(other))
            .map(|(holder, _)| holder)
    }

    /// Lets a pod's link send with the pod's own addresses; it opens no connection before [`Self::admit`].
    pub(crate) fn open(&mut self, pod: &PodNet) -> Result<(), linux::Error> {
        let mut open = Transaction::on(&self.table);
        open.add(&pods_v4(), &[element_v4(pod)]).add(&pods_v6(), &[element_v6(pod)]);
        open.commit(&mut self.socket)?;
        self.opened.insert(pod.workload.clone(), pod.clone());
        if let Some(shortcut) = &mut self.shortcut
            && let Err(error) = self.node.netns.run(|| shortcut.attach(pod.node_link)).flatten()
        {
            let error = linux::error::with_causes(&error);
            tracing::warn!(workload = %pod.workload, error, "a pod has no shortcut to others: its packets take the long way");
        }
        Ok(())
    }

    /// Before a snapshot is put into force: addresses that it does not know as their workload's open nothing more.
    pub(crate) fn withdraw(&mut self, snapshot: &Snapshot) -> Result<(), linux::Error> {
        self.in_force = None;
        self.renew(None)?;
        let now = self.known_to(snapshot);
        let gone: BTreeSet<(u32, IpAddr)> = self.known.difference(&now).copied().collect();
        self.change(&gone, false)?;
        self.known.retain(|one| !gone.contains(one));
        Ok(())
    }

    /// After a snapshot has been put into force: the addresses that it knows as their workload's may open connections.
    pub(crate) fn admit(&mut self, snapshot: &Snapshot) -> Result<(), linux::Error> {
        self.in_force = Some(snapshot.generation());
        let now = self.known_to(snapshot);
        let new: BTreeSet<(u32, IpAddr)> = now.difference(&self.known).copied().collect();
        self.change(&new, true)?;
        self.known.extend(new);
        Ok(())
    }

    /// As [`Self::admit`] for a link opened after that. While a snapshot is being put into force this is left to the end of
    /// it: some tables may not know the address yet.
    pub(crate) fn admit_late(&mut self, snapshot: &Snapshot) -> Result<(), linux::Error> {
        if self.in_force == Some(snapshot.generation()) { self.admit(snapshot) } else { Ok(()) }
    }

    /// Lays the guard anew if somebody else removed it or rules of it; whether that was so. What it knew of `current`, it
    /// knows again, unless a snapshot is just being put into force.
    pub(crate) fn renew(&mut self, current: Option<&Snapshot>) -> Result<bool, linux::Error> {
        let is_whole = self.table.is_there(&mut self.socket)?
            && self.table.rules(&mut self.socket, CHAIN).is_ok_and(|there| there == rules(&self.node).len());
        if is_whole {
            return Ok(false);
        }
        tracing::warn!("somebody else changed the guard; it is laid anew");
        lay(&self.table, &self.node).commit(&mut self.socket)?;
        // Whatever is in its sets was not put there for sure.
        self.keep_only(BTreeSet::new())?;
        match current.filter(|current| self.in_force == Some(current.generation())) {
            Some(current) => self.admit(current).map(|()| true),
            None => Ok(true),
        }
    }

    fn known_to(&self, snapshot: &Snapshot) -> BTreeSet<(u32, IpAddr)> {
        let its_own = |workload: &WorkloadId, address: IpAddr| snapshot.at(address).workload.as_ref() == Some(workload);
        self.opened
            .iter()
            .flat_map(|(workload, pod)| addresses(pod).map(|address| (workload, pod.node_link, address)))
            .filter(|(workload, _, address)| its_own(workload, *address))
            .map(|(_, link, address)| (link, address))
            .collect()
    }

    fn change(&mut self, which: &BTreeSet<(u32, IpAddr)>, add: bool) -> Result<(), linux::Error> {
        self.shorten(which, add);
        let mut change = Transaction::on(&self.table);
        for (set, v4) in [(known_v4(), true), (known_v6(), false)] {
            let elements: Vec<Element> =
                which.iter().filter(|(_, ip)| ip.is_ipv4() == v4).map(|(link, ip)| element(*link, *ip)).collect();
            if add {
                change.add(&set, &elements);
            } else {
                change.remove(&set, &elements);
            }
        }
        if which.is_empty() { Ok(()) } else { change.commit(&mut self.socket) }
    }

    /// What the shortcut knows is changed with the guard. One that cannot be told takes nothing any more.
    fn shorten(&mut self, which: &BTreeSet<(u32, IpAddr)>, add: bool) {
        let Some(shortcut) = &mut self.shortcut else { return };
        if let Err(error) = if add { shortcut.add(which) } else { shortcut.remove(which) } {
            let error = linux::error::with_causes(&error);
            tracing::warn!(error, "the shortcut between pods is closed: all packets take the long way");
            self.shortcut = None;
        }
    }

    /// Takes that away again.
    pub(crate) fn close(&mut self, pod: &PodNet) -> Result<(), linux::Error> {
        let its: BTreeSet<(u32, IpAddr)> =
            self.known.iter().filter(|(link, _)| *link == pod.node_link).copied().collect();
        self.known.retain(|(link, _)| *link != pod.node_link);
        if let Some(shortcut) = &mut self.shortcut {
            shortcut.detach(pod.node_link);
        }
        match self.change(&its, false) {
            Err(error) if error.errno() != Some(rustix::io::Errno::NOENT.raw_os_error()) => return Err(error),
            Ok(()) | Err(_) => {}
        }
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

    /// Closes every link that was not opened here: what processes before this one left behind. What was opened here and
    /// opened connections before goes on doing so, if the snapshot that is now put into force knows it as well: the tables
    /// that stand know it, and so will the new ones.
    pub(crate) fn close_others(&mut self, snapshot: &Snapshot) -> Result<(), linux::Error> {
        let before = self.known_to_kernel().unwrap_or_else(|error| {
            tracing::warn!(%error, "the guard cannot be read; no pod opens a connection before its table is in force");
            BTreeSet::new()
        });
        let both = self.known_to(snapshot).intersection(&before).copied().collect();
        self.keep_only(both)
    }

    /// Which addresses open connections by the table as it stands.
    fn known_to_kernel(&mut self) -> Result<BTreeSet<(u32, IpAddr)>, linux::Error> {
        let mut known = BTreeSet::new();
        for set in [known_v4(), known_v6()] {
            let elements = self.table.elements(&mut self.socket, &set)?;
            known.extend(elements.iter().filter_map(|element| end_of(&element.key)));
        }
        Ok(known)
    }

    /// Leaves nothing in the sets but what was opened here, and of that as known no more than `known`.
    fn keep_only(&mut self, known: BTreeSet<(u32, IpAddr)>) -> Result<(), linux::Error> {
        let v4: Vec<Element> = self.opened.values().map(element_v4).collect();
        let v6: Vec<Element> = self.opened.values().map(element_v6).collect();
        let mut keep = Transaction::on(&self.table);
        keep.flush_set(&pods_v4()).flush_set(&pods_v6());
        keep.add(&pods_v4(), &v4).add(&pods_v6(), &v6);
        // Who else may open connections is said anew once the snapshot is in force.
        keep.flush_set(&known_v4()).flush_set(&known_v6());
        for (set, v4) in [(known_v4(), true), (known_v6(), false)] {
            let its = known.iter().filter(|(_, address)| address.is_ipv4() == v4);
            keep.add(&set, &its.map(|(link, address)| element(*link, *address)).collect::<Vec<_>>());
        }
        let gone: BTreeSet<(u32, IpAddr)> = self.known.difference(&known).copied().collect();
        self.shorten(&gone, false);
        keep.commit(&mut self.socket)?;
        self.shorten(&known, true);
        self.known = known;
        Ok(())
    }

    /// Packets dropped because their source was not the sender's.
    pub(crate) fn forged(&mut self) -> Result<u64, linux::Error> {
        self.table.packets(&mut self.socket, FORGED)
    }
}

/// The whole of the guard, without a link in its sets; what is in them stays.
fn lay(table: &Table, node: &NodeNet) -> Transaction {
    let mut lay = Transaction::on(table);
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: PRIORITY, accept: false };
    lay.create_table().counter(FORGED);
    for set in [pods_v4(), pods_v6(), known_v4(), known_v6()] {
        lay.set(&set);
    }
    lay.base_chain(CHAIN, base).flush_chain(CHAIN);
    for rule in rules(node) {
        lay.rule(CHAIN, &rule);
    }
    lay
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
    let end = |set: Set, number: u8, offset: u32, length: u32| {
        family(number)
            .meta(Meta::InputInterface, REGISTER)
            .payload(Base::Network, offset, length, REGISTER + 1)
            .is_in(&set.name, REGISTER)
    };
    let protocol = |rule: Rule, number: u8| rule.meta(Meta::TransportProtocol, REGISTER).equals(REGISTER, &[number]);
    let mut rules = vec![
        end(known_v4(), IPV4, SOURCE_V4, 4).verdict(&Verdict::Accept),
        end(known_v6(), IPV6, SOURCE_V6, 16).verdict(&Verdict::Accept),
    ];
    // Of an address that the snapshot in force does not know passes what belongs to open connections. A piece of a header
    // that shows no flags holds for no rule, and is dropped.
    for own in [|| (pods_v4(), IPV4, SOURCE_V4, 4), || (pods_v6(), IPV6, SOURCE_V6, 16)] {
        let its_own = || {
            let (set, number, offset, length) = own();
            end(set, number, offset, length)
        };
        let flags = protocol(its_own(), TCP).payload(Base::Transport, FLAGS, 1, REGISTER).mask(REGISTER, &[SYN_OR_ACK]);
        rules.push(flags.differs(REGISTER, &[SYN]).verdict(&Verdict::Accept));
        rules.extend(ERRORS.map(|number| protocol(its_own(), number).verdict(&Verdict::Accept)));
    }
    rules.push(from(LOOPBACK).verdict(&Verdict::Accept));
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

fn known_v4() -> Set {
    Set { name: "known_v4".to_owned(), ..pods_v4() }
}

fn known_v6() -> Set {
    Set { name: "known_v6".to_owned(), ..pods_v6() }
}

/// The link and the address of an element.
fn end_of(key: &[u8]) -> Option<(u32, IpAddr)> {
    let (link, address) = key.split_first_chunk::<4>()?;
    let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from)).ok()?;
    Some((u32::from_ne_bytes(*link), address))
}

fn addresses(pod: &PodNet) -> [IpAddr; 2] {
    [IpAddr::V4(pod.v4), IpAddr::V6(pod.v6)]
}

fn element(link: u32, address: IpAddr) -> Element {
    match address {
        IpAddr::V4(address) => Element::exactly(&[&link.to_ne_bytes(), &address.octets()]),
        IpAddr::V6(address) => Element::exactly(&[&link.to_ne_bytes(), &address.octets()]),
    }
}

fn element_v4(pod: &PodNet) -> Element {
    element(pod.node_link, pod.v4.into())
}

fn element_v6(pod: &PodNet) -> Element {
    element(pod.node_link, pod.v6.into())
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
