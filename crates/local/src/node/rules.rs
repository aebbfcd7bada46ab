//! The node's own nftables table: what may pass between pods and the host, and how VIPs become pods.
//!
//! The whole table is replaced in one transaction whenever something changes; connections that VIPs already led
//! somewhere live in connection tracking and go on.
//!
//! Connection tracking costs a tenth or more of the connections a second, and only VIPs need it. So everything is left
//! out of it but what goes to a VIP and what comes from where VIPs lead to: for the direct connections of the latter
//! that costs a lookup in vain, as tracking does not pick up connections in their middle ([`settle_tracking`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use linux::Error;
use linux::netlink::{Protocol, Socket};
use linux::netns::NetNs;
use linux::nft::{
    Base, BaseChain, ChainKind, Element, Family, Field, Hook, Meta, NatKind, REGISTER, Rule, Set, Table, Transaction,
    Verdict,
};
use linux::sysctl;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One end of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Transport protocol.
    pub transport: Transport,
    /// Port.
    pub port: u16,
}

/// A VIP with a port, and where connections to it go: to each target equally often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What clients connect to.
    pub vip: Endpoint,
    /// Where they end up, of the same family; never empty (a VIP without targets is left out and so reset).
    pub targets: Vec<(IpAddr, u16)>,
}

/// All that VIPs do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwards {
    /// The VIPs.
    pub forwards: Vec<Forward>,
    /// Every endpoint that a VIP leads to, or has led to and whose pod is still there.
    pub tracked: BTreeSet<Endpoint>,
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
    transaction(&Site { host_link, ranges: *ranges }, &Forwards::default()).commit(&mut socket)?;
    settle_tracking(node)
}

/// Tracking takes up a connection only at its first packet. The setting exists once tracking does.
fn settle_tracking(node: &NetNs) -> Result<(), Error> {
    node.run(|| sysctl::write("net/netfilter/nf_conntrack_tcp_loose", "0"))?
}

/// The table as it should be, in place of what is there.
pub(crate) fn transaction(site: &Site, vips: &Forwards) -> Transaction {
    let mut t = Transaction::on(&Table::named(Family::Inet, TABLE));
    t.delete_table().create_table();
    host_border(&mut t, site.host_link);
    for ip in [Ip::V4, Ip::V6] {
        for set in [ip.vips(), ip.services(), ip.tracked(), ip.selves()] {
            t.set(&set);
        }
    }
    for (chain, hook) in [("track-in", Hook::Prerouting), ("track-out", Hook::Output)] {
        t.base_chain(chain, BaseChain { kind: ChainKind::Filter, hook, priority: -300, accept: true });
    }
    let nat = |hook, priority| BaseChain { kind: ChainKind::Nat, hook, priority, accept: true };
    t.base_chain("vip", nat(Hook::Prerouting, -100)).base_chain("self", nat(Hook::Postrouting, 100));
    for ip in [Ip::V4, Ip::V6] {
        t.rule("track-in", &ip.far_end().is_in(&ip.vips().name, REGISTER).verdict(&Verdict::Accept));
        t.rule("track-in", &ip.near_end().is_in(&ip.tracked().name, REGISTER).verdict(&Verdict::Accept));
        // The reset for a target that is gone is made here and must reach the client as the VIP's.
        t.rule("track-out", &ip.near_end().is_in(&ip.tracked().name, REGISTER).verdict(&Verdict::Accept));
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
    forwards(&mut t, vips);
    t
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

fn forwards(t: &mut Transaction, vips: &Forwards) {
    for (number, forward) in vips.forwards.iter().enumerate() {
        let ip = Ip::of(forward.vip.address);
        let chain = format!("vip-{number}");
        t.chain(&chain);
        let count = u32::try_from(forward.targets.len()).unwrap_or(u32::MAX);
        for ((address, port), left) in forward.targets.iter().zip((1..=count).rev()) {
            t.rule(&chain, &one_in(left, *address, *port));
        }
        let element = element(forward.vip);
        t.add(&ip.vips(), std::slice::from_ref(&element));
        t.add(&ip.services(), &[element.with(Verdict::goto(&chain))]);
    }
    for ip in [Ip::V4, Ip::V6] {
        let mine = || vips.tracked.iter().filter(|endpoint| Ip::of(endpoint.address) == ip);
        t.add(&ip.tracked(), &mine().map(|endpoint| element(*endpoint)).collect::<Vec<_>>());
        let addresses: BTreeSet<IpAddr> = mine().map(|endpoint| endpoint.address).collect();
        let selves = addresses.into_iter().map(|address| {
            let bytes = octets(address);
            Element::exactly(&[&bytes, &bytes])
        });
        t.add(&ip.selves(), &selves.collect::<Vec<_>>());
    }
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

    /// VIPs with their ports, as a set: a map cannot be asked whether it has a key.
    fn vips(self) -> Set {
        self.set("vips", self.end_key(), false)
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
