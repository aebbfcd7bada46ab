//! The shortcut between pods: most packets of direct connections go from one pod's link into the other pod, past the
//! node's own stack and tables.
//!
//! A program runs for each packet that comes out of a pod's link, before everything else in the node namespace. It takes
//! only what the guard would let pass in any case, and what nothing else in that namespace has to do with: whole TCP
//! packets between two addresses that open connections (see [`crate::guard`]) and whose connection goes to the other pod's
//! own address. Such a packet is handed to the other pod's end of its link, where its table judges it as ever. Everything
//! else takes the long way; so does everything if there is no program, or none any more: it is attached as long as this
//! process lives. The long way is always right.
//!
//! A connection to a VIP has to take the long way in both directions, for its packets are translated there; but what its
//! endpoint answers looks like any answer. Therefore a first packet that takes the shortcut leaves a note, and only packets
//! of which a note says so follow it. A note has one place for each client's address and port: a first packet of them that
//! goes elsewhere takes its place, and one that does not take the shortcut removes it. A note that is missing costs time
//! only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use linux::bpf::{Attached, Hook, Label, Loaded, Map, MapKind, PASS_ON, Program, Reg, Size, Test};

/// Addresses that a node has room for, of each family; pods beyond take the long way.
const ADDRESSES_MAX: u32 = 16_384;
/// Notes, of each family.
const NOTES_MAX: u32 = 16_384;

/// Numbers of functions of the kernel.
const UPDATE: i32 = 2;
const DELETE: i32 = 3;
const REDIRECT_PEER: i32 = 155;

/// Offsets in what a program knows of a packet (`struct __sk_buff`).
const KIND: i16 = 4;
const PROTOCOL: i16 = 16;
const VLAN: i16 = 20;
const LINK: i16 = 40;
const DATA: i16 = 76;
const DATA_END: i16 = 80;

const ETHERNET: i16 = 14;
const TCP: i32 = 6;
/// Length of a TCP header without options, and where its flags are.
const TCP_HEADER: i16 = 20;
const TCP_FLAGS: i16 = 13;
const SYN_OR_ACK: i32 = 0x12;
const SYN: i32 = 0x02;

/// What differs between IPv4 and IPv6.
struct Family {
    /// Of the Ethernet header, in host order as the kernel shows it.
    ethertype: u16,
    header: i16,
    protocol: i16,
    source: i16,
    address: i16,
}

const V4: Family = Family { ethertype: 0x0800, header: 20, protocol: 9, source: 12, address: 4 };
const V6: Family = Family { ethertype: 0x86dd, header: 40, protocol: 6, source: 8, address: 16 };

impl Family {
    /// An address, its port, and two bytes that make it a multiple of four.
    const fn end(&self) -> i16 {
        self.address + 4
    }

    /// On the stack, which is aligned to 8 bytes: this packet's source, then its destination.
    const SOURCE: i16 = -48;
    const DESTINATION: i16 = -24;
}

/// Of one family: the link that each address is behind, and the notes.
#[derive(Debug)]
struct Maps {
    links: Map,
    notes: Map,
}

impl Maps {
    fn of(family: &Family) -> Result<Self, linux::Error> {
        let [address, end] = [family.address, family.end()].map(|bytes| usize::from(bytes.unsigned_abs()));
        Ok(Self {
            links: Map::create(MapKind::Hash, address, 4, ADDRESSES_MAX)?,
            notes: Map::create(MapKind::LruHash, end, end, NOTES_MAX)?,
        })
    }
}

/// The program, what it knows, and the links it is attached to.
#[derive(Debug)]
pub(crate) struct Shortcut {
    v4: Maps,
    v6: Maps,
    program: Loaded,
    attached: BTreeMap<u32, Attached>,
}

impl Shortcut {
    /// Has the kernel take the program; it knows no address yet, so nothing takes the shortcut.
    pub(crate) fn load() -> Result<Self, linux::Error> {
        let (v4, v6) = (Maps::of(&V4)?, Maps::of(&V6)?);
        let program = Loaded::new(Hook::Ingress, &program(&v4, &v6), "tidegate")?;
        Ok(Self { v4, v6, program, attached: BTreeMap::new() })
    }

    /// Looks at the packets of a pod's link from now on; to be called inside the node namespace.
    pub(crate) fn attach(&mut self, link: u32) -> Result<(), linux::Error> {
        let attached = self.program.attach(link)?;
        self.attached.insert(link, attached);
        Ok(())
    }

    pub(crate) fn detach(&mut self, link: u32) {
        self.attached.remove(&link);
    }

    /// Lets these addresses, each behind its link, take the shortcut to each other.
    pub(crate) fn add(&mut self, ends: &BTreeSet<(u32, IpAddr)>) -> Result<(), linux::Error> {
        ends.iter().try_for_each(|(link, address)| match address {
            IpAddr::V4(address) => self.v4.links.insert(&address.octets(), &link.to_ne_bytes()),
            IpAddr::V6(address) => self.v6.links.insert(&address.octets(), &link.to_ne_bytes()),
        })
    }

    /// The opposite.
    pub(crate) fn remove(&mut self, ends: &BTreeSet<(u32, IpAddr)>) -> Result<(), linux::Error> {
        ends.iter().try_for_each(|(_, address)| match address {
            IpAddr::V4(address) => self.v4.links.remove(&address.octets()),
            IpAddr::V6(address) => self.v6.links.remove(&address.octets()),
        })
    }
}

/// Registers that are kept across calls.
const PACKET: Reg = Reg::R6;
const BYTES: Reg = Reg::R7;
/// In place of [`BYTES`], once the addresses are on the stack.
const TO_LINK: Reg = Reg::R7;
const FLAGS: Reg = Reg::R9;

fn program(v4: &Maps, v6: &Maps) -> Program {
    let mut p = Program::new();
    let (long_way, is_v6) = (p.label(), p.label());
    p.copy(PACKET, Reg::R1);
    // To this link's own hardware address, and in no virtual network.
    for field in [KIND, VLAN] {
        p.load(Size::Four, Reg::R1, PACKET, field).jump_if(Reg::R1, Test::Differs, 0, long_way);
    }
    p.load(Size::Four, BYTES, PACKET, DATA).load(Size::Four, Reg::R8, PACKET, DATA_END);
    p.load(Size::Four, Reg::R1, PACKET, PROTOCOL);
    p.jump_if(Reg::R1, Test::Equal, network_order(V6.ethertype), is_v6);
    p.jump_if(Reg::R1, Test::Differs, network_order(V4.ethertype), long_way);

    is_long_enough(&mut p, &V4, long_way);
    // Version 4, a header without options, no piece of a packet.
    p.load(Size::One, Reg::R1, BYTES, ETHERNET).jump_if(Reg::R1, Test::Differs, 0x45, long_way);
    p.load(Size::Two, Reg::R1, BYTES, ETHERNET + 6).jump_if(Reg::R1, Test::AnyBit, network_order(0x3fff), long_way);
    way_of(&mut p, &V4, v4, long_way);

    p.place(is_v6);
    is_long_enough(&mut p, &V6, long_way);
    p.load(Size::One, Reg::R1, BYTES, ETHERNET).and(Reg::R1, 0xf0).jump_if(Reg::R1, Test::Differs, 0x60, long_way);
    way_of(&mut p, &V6, v6, long_way);

    p.place(long_way).set(Reg::R0, PASS_ON).exit();
    p
}

/// Goes on if all headers are in the first piece of memory of the packet.
fn is_long_enough(p: &mut Program, family: &Family, long_way: Label) {
    let headers = ETHERNET + family.header + TCP_HEADER;
    p.copy(Reg::R1, BYTES).add(Reg::R1, headers.into()).jump_if_both(Reg::R1, Test::Greater, Reg::R8, long_way);
}

/// Ends the program for packets of a family, or jumps to the long way.
fn way_of(p: &mut Program, family: &Family, maps: &Maps, long_way: Label) {
    let (not_a_pod, follows, go) = (p.label(), p.label(), p.label());
    p.load(Size::One, Reg::R1, BYTES, ETHERNET + family.protocol).jump_if(Reg::R1, Test::Differs, TCP, long_way);
    note_ends(p, family);
    let transport = ETHERNET + family.header;
    p.load(Size::One, FLAGS, BYTES, transport + TCP_FLAGS).and(FLAGS, SYN_OR_ACK);

    // The source is behind this link and opens connections.
    p.look_up(&maps.links, Family::SOURCE);
    p.jump_if(Reg::R0, Test::Equal, 0, long_way);
    p.load(Size::Four, Reg::R1, Reg::R0, 0).load(Size::Four, Reg::R8, PACKET, LINK);
    p.jump_if_both(Reg::R1, Test::Differs, Reg::R8, long_way);
    p.look_up(&maps.links, Family::DESTINATION);
    p.jump_if(Reg::R0, Test::Equal, 0, not_a_pod);
    p.load(Size::Four, TO_LINK, Reg::R0, 0);
    p.jump_if_both(TO_LINK, Test::Equal, Reg::R8, long_way);
    p.jump_if(FLAGS, Test::Differs, SYN, follows);
    // A first packet: without a note, for want of room, what follows takes the long way.
    p.point(Reg::R2, Family::SOURCE);
    p.point(Reg::R3, Family::DESTINATION);
    p.map(Reg::R1, &maps.notes).set(Reg::R4, 0).call(UPDATE).jump(go);

    p.place(not_a_pod).jump_if(FLAGS, Test::Differs, SYN, long_way);
    p.point(Reg::R2, Family::SOURCE);
    p.map(Reg::R1, &maps.notes).call(DELETE).jump(long_way);

    // From client to server, or back.
    p.place(follows);
    for (client, server) in [(Family::SOURCE, Family::DESTINATION), (Family::DESTINATION, Family::SOURCE)] {
        let other = p.label();
        p.look_up(&maps.notes, client);
        p.jump_if(Reg::R0, Test::Equal, 0, other);
        for part in (0..family.end()).step_by(4) {
            p.load(Size::Four, Reg::R1, Reg::R0, part).load(Size::Four, Reg::R2, Reg::Stack, server + part);
            p.jump_if_both(Reg::R1, Test::Differs, Reg::R2, other);
        }
        p.jump(go).place(other);
    }
    p.jump(long_way);

    p.place(go).copy(Reg::R1, TO_LINK).set(Reg::R2, 0).call(REDIRECT_PEER).exit();
}

/// Puts the packet's source and destination on the stack: address, port, zeros.
fn note_ends(p: &mut Program, family: &Family) {
    let addresses = ETHERNET + family.source;
    let ports = ETHERNET + family.header;
    for (end, address, port) in
        [(Family::SOURCE, addresses, ports), (Family::DESTINATION, addresses + family.address, ports + 2)]
    {
        for part in (0..family.address).step_by(4) {
            p.load(Size::Four, Reg::R1, BYTES, address + part).store(Size::Four, Reg::Stack, end + part, Reg::R1);
        }
        p.load(Size::Two, Reg::R1, BYTES, port).store(Size::Two, Reg::Stack, end + family.address, Reg::R1);
        p.store_value(Size::Two, Reg::Stack, end + family.address + 2, 0);
    }
}

/// As a program that reads bytes of a packet as a number sees it.
fn network_order(number: u16) -> i32 {
    number.to_be().into()
}
