//! The node's own nftables table: what may pass between pods and the host, and how VIPs become pods.
//!
//! Changes are element deltas in one transaction: what stays in a set is found at every moment. (Were the whole table
//! replaced, a packet in its old rules could find its set empty already, and its connection would be torn.)
//!
//! Connection tracking costs a tenth or more of the connections a second, and only VIPs need it. So everything is left
//! out of it but what goes to a VIP and what goes to or comes from where VIPs lead to. Most packets of the latter's direct
//! connections never come here (`dataplane`'s shortcut); of those whose first packet did not, nothing is known here, as
//! tracking does not pick up connections in their middle ([`settle_tracking`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use linux::Error;
use linux::netlink::{Protocol, Socket};
use linux::netns::NetNs;
use linux::nft::{
    Base, BaseChain, ChainKind, Element, Family, Field, Hook, Meta, NatKind, REGISTER, Rule, Set, Table, Transaction,
    Verdict,
};
use linux::sysctl;
use serde::{Deserialize, Serialize};

use super::Ranges;

const TABLE: &str = "tidegate-node";
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Offset of the flags in the TCP header.
const TCP_FLAGS: u32 = 13;
/// Destination unreachable, time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem.
const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];

/// A transport protocol that VIPs serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One end of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Transport protocol.
    pub transport: Transport,
    /// Port.
    pub port: u16,
}

/// Where connections to a VIP go.
pub type Targets = Vec<(IpAddr, u16)>;

/// All that VIPs do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwards {
    /// Each VIP with its port, and where connections to it go: to each target equally often. Targets are of the VIP's
    /// family and never none: a VIP without targets is left out, and so reset.
    pub forwards: BTreeMap<Endpoint, Targets>,
    /// Every endpoint that a VIP leads to, or has led to and whose pod is still there.
    pub tracked: BTreeSet<Endpoint>,
}

/// What is in force, with the number of each forward's chain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct InForce {
    /// As a list, since JSON has no keys but text.
    chains: Vec<(Endpoint, u64, Targets)>,
    pub(crate) tracked: BTreeSet<Endpoint>,
    next_chain: u64,
}

/// What the table needs to know of the node.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) host_link: u32,
    pub(crate) ranges: Ranges,
}

/// Puts the table without VIPs into force.
pub(super) fn install(node: &NetNs, host_link: u32, ranges: &Ranges) -> Result<(), Error> {
    let mut socket = node.run(|| Socket::open(Protocol::Netfilter))??;
    anew(&Site { host_link, ranges: *ranges }, &Forwards::default()).0.commit(&mut socket)?;
    settle_tracking(node)
}

/// Tracking takes up a connection only at its first packet. The setting exists once tracking does.
fn settle_tracking(node: &NetNs) -> Result<(), Error> {
    node.run(|| sysctl::write("net/netfilter/nf_conntrack_tcp_loose", "0"))?
}

/// The table as it should be, in place of what is there.
pub(crate) fn anew(site: &Site, vips: &Forwards) -> (Transaction, InForce) {
    let mut t = Transaction::on(&Table::named(Family::Inet, TABLE));
    t.delete_table().create_table();
    host_border(&mut t, site.host_link);
    for ip in [Ip::V4, Ip::V6] {
        for set in [ip.services(), ip.tracked(), ip.selves()] {
            t.set(&set);
        }
    }
    for (chain, hook) in [("track-in", Hook::Prerouting), ("track-out", Hook::Output)] {
        t.base_chain(chain, BaseChain { kind: ChainKind::Filter, hook, priority: -300, accept: true });
    }
    let nat = |hook, priority| BaseChain { kind: ChainKind::Nat, hook, priority, accept: true };
    t.base_chain("vip", nat(Hook::Prerouting, -100)).base_chain("self", nat(Hook::Postrouting, 100));
    for ip in [Ip::V4, Ip::V6] {
        let tracked = |end: Rule| end.is_in(&ip.tracked().name, REGISTER).verdict(&Verdict::Accept);
        // What goes to an endpoint directly as well: the client's port may be that of a connection through a VIP, which is
        // told apart only if both are known.
        t.rule("track-in", &vip(ip, &site.ranges, Way::To)).rule("track-in", &tracked(ip.near_end()));
        t.rule("track-in", &tracked(ip.far_end()));
        let tracked = tracked(ip.near_end());
        // Resets are made here, for VIPs without endpoint and for endpoints that are gone: they end what was tracked, and
        // reach the client as the VIP's.
        t.rule("track-out", &vip(ip, &site.ranges, Way::From)).rule("track-out", &tracked);
        t.rule("vip", &ip.far_end().verdict_of(&ip.services().name, REGISTER));
        t.rule("self", &to_itself(ip, &site.ranges));
    }
    // Errors about a tracked connection are translated along with it; tracking knows them and keeps no state for them.
    for rule in icmp_errors() {
        t.rule("track-in", &rule.verdict(&Verdict::Accept));
    }
    t.rule("track-in", &Rule::begin().untracked());
    for protocol in [TCP, UDP] {
        t.rule("track-out", &transport(protocol).untracked());
    }
    let in_force = InForce::default();
    let after = add_changes(&mut t, &in_force, vips);
    (t, after)
}

/// What turns `before` into `vips`.
pub(crate) fn changes(before: &InForce, vips: &Forwards) -> (Transaction, InForce) {
    let mut t = Transaction::on(&Table::named(Family::Inet, TABLE));
    let after = add_changes(&mut t, before, vips);
    (t, after)
}

#[derive(Debug, Clone, Copy)]
enum Way {
    To,
    From,
}

/// Whatever goes to the range of VIPs, or comes from it, is tracked, those of services that are gone included:
/// connections to them may still be open.
fn vip(ip: Ip, ranges: &Ranges, way: Way) -> Rule {
    let (source, length) = ip.source();
    let offset = match way {
        Way::To => source + length,
        Way::From => source,
    };
    let (first, mask) = match ip {
        Ip::V4 => {
            let net = ranges.services_v4;
            (
                octets(net.first.into()),
                u32::MAX.checked_shl(32 - u32::from(net.prefix)).unwrap_or(0).to_be_bytes().to_vec(),
            )
        }
        Ip::V6 => {
            let net = ranges.services_v6;
            (
                octets(net.first.into()),
                u128::MAX.checked_shl(128 - u32::from(net.prefix)).unwrap_or(0).to_be_bytes().to_vec(),
            )
        }
    };
    let masked = ip.begin().payload(Base::Network, offset, length, REGISTER).mask(REGISTER, &mask);
    masked.equals(REGISTER, &first).verdict(&Verdict::Accept)
}

/// Pods may answer the host, and nothing more: no first packet of a connection, no datagram.
fn host_border(t: &mut Transaction, host_link: u32) {
    t.base_chain("border", BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0, accept: true });
    t.chain("to-host");
    let to_host = Rule::begin().meta(Meta::OutputInterface, REGISTER).equals(REGISTER, &host_link.to_ne_bytes());
    t.rule("border", &to_host.verdict(&Verdict::goto("to-host")));
    let opening = transport(TCP).payload(Base::Transport, TCP_FLAGS, 1, REGISTER).mask(REGISTER, &[SYN | ACK]);
    t.rule("to-host", &opening.equals(REGISTER, &[SYN]).reject_with_reset());
    // A packet too short to have flags passed no rule above; without flags it is no answer either.
    let answering = transport(TCP).payload(Base::Transport, TCP_FLAGS, 1, REGISTER);
    t.rule("to-host", &answering.verdict(&Verdict::Accept));
    for rule in icmp_errors() {
        t.rule("to-host", &rule.verdict(&Verdict::Accept));
    }
    // `reject with icmpx port-unreachable`.
    let refused = Rule::begin().expression("reject", |m| {
        m.be32(1, 2).u8(2, 1);
    });
    t.rule("to-host", &refused);
    t.rule("to-host", &Rule::begin().verdict(&Verdict::Drop));
}

/// A pod that reached itself through a VIP would answer itself directly, past the translation: it is given its alias
/// as source, which the verdict tables know as the same workload.
fn to_itself(ip: Ip, ranges: &Ranges) -> Rule {
    let (offset, length) = ip.source();
    let flip: Vec<u8> = match ip {
        Ip::V4 => (ranges.pods_v4.first.to_bits() ^ ranges.aliases_v4.first.to_bits()).to_be_bytes().to_vec(),
        Ip::V6 => (ranges.pods_v6.first.to_bits() ^ ranges.aliases_v6.first.to_bits()).to_be_bytes().to_vec(),
    };
    let both = ip.begin().payload(Base::Network, offset, length, REGISTER).payload(
        Base::Network,
        offset + length,
        length,
        REGISTER + length / 4,
    );
    both.is_in(&ip.selves().name, REGISTER)
        .payload(Base::Network, offset, length, REGISTER)
        .expression("bitwise", |m| {
            m.be32(1, REGISTER).be32(2, REGISTER).be32(3, length);
            m.nested(4, |mask| {
                mask.bytes(1, &vec![0xff; flip.len()]);
            });
            m.nested(5, |xor| {
                xor.bytes(1, &flip);
            });
        })
        .nat(NatKind::Source, ip == Ip::V6, REGISTER, None)
}

fn add_changes(t: &mut Transaction, before: &InForce, vips: &Forwards) -> InForce {
    let mut after = InForce { chains: Vec::new(), tracked: vips.tracked.clone(), next_chain: before.next_chain };
    for (vip, number, targets) in &before.chains {
        if vips.forwards.get(vip) == Some(targets) {
            after.chains.push((*vip, *number, targets.clone()));
        } else {
            let chain = chain(*number);
            let old = element(*vip).with(Verdict::goto(&chain));
            t.remove(&Ip::of(vip.address).services(), &[old]).flush_chain(&chain).delete_chain(&chain);
        }
    }
    let kept: BTreeSet<Endpoint> = after.chains.iter().map(|(vip, ..)| *vip).collect();
    for (vip, targets) in vips.forwards.iter().filter(|(vip, _)| !kept.contains(vip)) {
        let number = after.next_chain;
        after.next_chain = number.wrapping_add(1);
        forward(t, *vip, &chain(number), targets);
        after.chains.push((*vip, number, targets.clone()));
    }
    for ip in [Ip::V4, Ip::V6] {
        let ends = |from: &BTreeSet<Endpoint>, but: &BTreeSet<Endpoint>| -> Vec<Element> {
            let mine = from.difference(but).filter(|endpoint| Ip::of(endpoint.address) == ip);
            mine.map(|endpoint| element(*endpoint)).collect()
        };
        t.remove(&ip.tracked(), &ends(&before.tracked, &after.tracked));
        t.add(&ip.tracked(), &ends(&after.tracked, &before.tracked));
        let addresses = |of: &BTreeSet<Endpoint>| -> BTreeSet<IpAddr> {
            of.iter().map(|endpoint| endpoint.address).filter(|address| Ip::of(*address) == ip).collect()
        };
        let (old, new) = (addresses(&before.tracked), addresses(&after.tracked));
        let pairs = |from: &BTreeSet<IpAddr>, but: &BTreeSet<IpAddr>| -> Vec<Element> {
            from.difference(but)
                .map(|address| octets(*address))
                .map(|bytes| Element::exactly(&[&bytes, &bytes]))
                .collect()
        };
        t.remove(&ip.selves(), &pairs(&old, &new));
        t.add(&ip.selves(), &pairs(&new, &old));
    }
    after
}

fn chain(number: u64) -> String {
    format!("vip-{number}")
}

fn forward(t: &mut Transaction, vip: Endpoint, chain: &str, targets: &[(IpAddr, u16)]) {
    t.chain(chain);
    let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    for ((address, port), left) in targets.iter().zip((1..=count).rev()) {
        t.rule(chain, &one_in(left, *address, *port));
    }
    t.add(&Ip::of(vip.address).services(), &[element(vip).with(Verdict::goto(chain))]);
}

/// One in `left` connections goes to this target, the others to those that follow.
fn one_in(left: u32, address: IpAddr, port: u16) -> Rule {
    let rule = if left > 1 {
        // `numgen random mod left`, in host order.
        Rule::begin()
            .expression("numgen", |m| {
                m.be32(1, REGISTER).be32(2, left).be32(3, 1).be32(4, 0);
            })
            .equals(REGISTER, &0u32.to_ne_bytes())
    } else {
        Rule::begin()
    };
    let bytes = octets(address);
    let after = REGISTER + 4;
    rule.value(REGISTER, &bytes).value(after, &port.to_be_bytes()).nat(
        NatKind::Destination,
        address.is_ipv6(),
        REGISTER,
        Some(after),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ip {
    V4,
    V6,
}

impl Ip {
    const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    const fn field(self) -> Field {
        match self {
            Self::V4 => Field::Ipv4,
            Self::V6 => Field::Ipv6,
        }
    }

    /// Offset and length of the source address; the destination follows.
    const fn source(self) -> (u32, u32) {
        match self {
            Self::V4 => (12, 4),
            Self::V6 => (8, 16),
        }
    }

    fn begin(self) -> Rule {
        let family = match self {
            Self::V4 => 2,
            Self::V6 => 10,
        };
        Rule::begin().meta(Meta::NetworkFamily, REGISTER).equals(REGISTER, &[family])
    }

    /// Loads protocol, destination address and port.
    fn far_end(self) -> Rule {
        let (offset, length) = self.source();
        self.load_end(offset + length, 2)
    }

    /// Loads protocol, source address and port.
    fn near_end(self) -> Rule {
        self.load_end(self.source().0, 0)
    }

    fn load_end(self, address: u32, port: u32) -> Rule {
        let length = self.source().1;
        self.begin()
            .meta(Meta::TransportProtocol, REGISTER)
            .payload(Base::Network, address, length, REGISTER + 1)
            .payload(Base::Transport, port, 2, REGISTER + 1 + length / 4)
    }

    fn set(self, name: &str, key: Vec<Field>, verdicts: bool) -> Set {
        let number = if self == Self::V4 { 4 } else { 6 };
        Set { name: format!("{name}{number}"), key, intervals: false, verdicts }
    }

    fn end_key(self) -> Vec<Field> {
        vec![Field::Bytes(1), self.field(), Field::Port]
    }

    /// VIPs with their ports, each with its chain.
    fn services(self) -> Set {
        self.set("services", self.end_key(), true)
    }

    fn tracked(self) -> Set {
        self.set("tracked", self.end_key(), false)
    }

    /// Pairs of twice the same address.
    fn selves(self) -> Set {
        self.set("selves", vec![self.field(), self.field()], false)
    }
}

fn element(endpoint: Endpoint) -> Element {
    let protocol = match endpoint.transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    };
    Element::exactly(&[&[protocol], &octets(endpoint.address), &endpoint.port.to_be_bytes()])
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn transport(protocol: u8) -> Rule {
    Rule::begin().meta(Meta::TransportProtocol, REGISTER).equals(REGISTER, &[protocol])
}

fn icmp_errors() -> impl Iterator<Item = Rule> {
    let of = |protocol, kind| transport(protocol).payload(Base::Transport, 0, 1, REGISTER).equals(REGISTER, &[kind]);
    ICMP_ERRORS
        .into_iter()
        .map(move |kind| of(ICMP, kind))
        .chain(ICMPV6_ERRORS.into_iter().map(move |kind| of(ICMPV6, kind)))
}
