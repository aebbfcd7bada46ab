//! VIPs without translation: a pod's `connect` to a VIP is led to one of its endpoints before the first packet is made.
//!
//! A program runs for each `connect` of the mesh's processes. If it knows the VIP it puts the address of an endpoint in
//! its place, by chance, and the connection is a direct one from then on: no packet of it is translated or tracked. What it
//! leaves alone is translated by the node's rules as ever ([`crate::node`]): UDP; what the host opens; VIPs with more
//! endpoints than it keeps; a pod that would be led to itself, since that has to be judged and must not stay inside; IPv4
//! through a socket of IPv6; and everything where there is no such program (no groups of version 2, no rights, an older
//! kernel) or none any more: it is attached as long as this process lives.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use linux::Error;
use linux::bpf::{Attached, Hook, Loaded, Map, MapKind, Program, Reg, Size, Test};

use crate::node::{Endpoint, Forwards, PodLink, Targets, Transport};

/// Endpoints of a VIP's port that it keeps; those of one with more are not led.
const TARGETS_MAX: usize = 31;
/// The same as bits.
const TARGETS_MASK: i32 = 31;
/// VIPs times ports that it keeps, and pods, of each family.
const ENTRIES_MAX: u32 = 16_384;

/// Numbers of functions of the kernel.
const RANDOM: i32 = 7;
const NETNS_COOKIE: i32 = 122;
/// Answer of a program: the call goes on.
const GO_ON: i32 = 1;
const TCP: i32 = 6;

/// Offsets in what a program knows of a call (`struct bpf_sock_addr`).
const PORT: i16 = 24;
const PROTOCOL: i16 = 36;

/// What differs between IPv4 and IPv6.
#[derive(Debug, Clone, Copy)]
struct Family {
    hook: Hook,
    /// Where the call has the address.
    address: i16,
    length: i16,
}

const V4: Family = Family { hook: Hook::Connect4, address: 4, length: 4 };
const V6: Family = Family { hook: Hook::Connect6, address: 8, length: 16 };

/// Before the targets of a VIP: their number, and four bytes for alignment.
const BEFORE_TARGETS: i16 = 8;

/// On the stack: what the call asks for, what it gets, the number of its namespace.
const ASKED: i16 = -24;
const TARGET: i16 = -48;
const NAMESPACE: i16 = -56;

impl Family {
    /// An address, its port, and two bytes that make it a multiple of four.
    const fn end(self) -> i16 {
        self.length + 4
    }

    fn sizes(self) -> (usize, usize) {
        let end = usize::from(self.end().unsigned_abs());
        (end, usize::from(BEFORE_TARGETS.unsigned_abs()) + TARGETS_MAX * end)
    }
}

/// Of one family: the program in its place, and what it knows.
#[derive(Debug)]
struct Led {
    family: Family,
    /// Targets of each VIP and port.
    vips: Map,
    /// The address of each namespace.
    own: Map,
    _attached: Attached,
}

impl Led {
    fn start(family: Family, group: &Path) -> Result<Self, Error> {
        let (end, value) = family.sizes();
        let vips = Map::create(MapKind::Hash, end, value, ENTRIES_MAX)?;
        let own = Map::create(MapKind::Hash, 8, usize::from(family.length.unsigned_abs()), ENTRIES_MAX)?;
        let attached =
            Loaded::new(family.hook, &program(family, &vips, &own), "tidegate_vip")?.attach_to_group(group)?;
        Ok(Self { family, vips, own, _attached: attached })
    }

    fn lead(&mut self, vip: &Endpoint, targets: &Targets) -> Result<(), Error> {
        let (end, size) = self.family.sizes();
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let mut value = count.to_ne_bytes().to_vec();
        value.resize(usize::from(BEFORE_TARGETS.unsigned_abs()), 0);
        for (address, port) in targets {
            value.extend(key(*address, *port, end));
        }
        value.resize(size, 0);
        self.vips.insert(&key(vip.address, vip.port, end), &value)
    }

    fn leave(&mut self, vip: &Endpoint) -> Result<(), Error> {
        let (end, _) = self.family.sizes();
        self.vips.remove(&key(vip.address, vip.port, end))
    }
}

/// An address and port as the program compares them.
fn key(address: IpAddr, port: u16, size: usize) -> Vec<u8> {
    let mut key = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    key.extend(port.to_be_bytes());
    key.resize(size, 0);
    key
}

/// The programs of both families, and what they were told.
#[derive(Debug)]
pub(super) struct AtConnect {
    v4: Led,
    v6: Led,
    led: BTreeMap<Endpoint, Targets>,
    /// The namespace of each pod by its uid.
    pods: BTreeMap<String, u64>,
}

impl AtConnect {
    /// For the processes of a group; nothing is led yet.
    pub(super) fn start(group: &Path) -> Result<Self, Error> {
        let (v4, v6) = (Led::start(V4, group)?, Led::start(V6, group)?);
        Ok(Self { v4, v6, led: BTreeMap::new(), pods: BTreeMap::new() })
    }

    /// Leads VIPs to where these forwards say, for these pods. After an error nobody knows what is led: it is to be dropped.
    pub(super) fn sync(&mut self, forwards: &Forwards, pods: &[PodLink]) -> Result<(), Error> {
        self.know(pods)?;
        let fits =
            |(vip, targets): &(&Endpoint, &Targets)| vip.transport == Transport::Tcp && targets.len() <= TARGETS_MAX;
        let wanted: BTreeMap<Endpoint, Targets> =
            forwards.forwards.iter().filter(fits).map(|(vip, targets)| (*vip, targets.clone())).collect();
        let before = std::mem::take(&mut self.led);
        for vip in before.keys().filter(|vip| !wanted.contains_key(*vip)) {
            self.of(vip).leave(vip)?;
        }
        for (vip, targets) in wanted.iter().filter(|(vip, targets)| before.get(*vip) != Some(*targets)) {
            self.of(vip).lead(vip, targets)?;
        }
        self.led = wanted;
        Ok(())
    }

    const fn of(&mut self, vip: &Endpoint) -> &mut Led {
        if vip.address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    /// Only who is known is led: it must not be led to itself.
    fn know(&mut self, pods: &[PodLink]) -> Result<(), Error> {
        let living: BTreeMap<&str, &PodLink> = pods.iter().map(|pod| (pod.uid.as_str(), pod)).collect();
        let gone: Vec<(String, u64)> = self
            .pods
            .iter()
            .filter(|(uid, _)| !living.contains_key(uid.as_str()))
            .map(|(u, n)| (u.clone(), *n))
            .collect();
        for (uid, namespace) in gone {
            self.v4.own.remove(&namespace.to_ne_bytes())?;
            self.v6.own.remove(&namespace.to_ne_bytes())?;
            self.pods.remove(&uid);
        }
        for (uid, pod) in living {
            if !self.pods.contains_key(uid) {
                let namespace = pod.netns.cookie()?;
                self.v4.own.insert(&namespace.to_ne_bytes(), &pod.v4.octets())?;
                self.v6.own.insert(&namespace.to_ne_bytes(), &pod.v6.octets())?;
                self.pods.insert(uid.to_owned(), namespace);
            }
        }
        Ok(())
    }
}

/// Registers that are kept across calls.
const CALL: Reg = Reg::R6;
const FOUND: Reg = Reg::R7;
const CHOSEN: Reg = Reg::R8;
const COUNT: Reg = Reg::R9;

fn program(family: Family, vips: &Map, own: &Map) -> Program {
    let mut p = Program::new();
    let (go_on, another) = (p.label(), p.label());
    p.copy(CALL, Reg::R1);
    p.load(Size::Four, Reg::R1, CALL, PROTOCOL).jump_if(Reg::R1, Test::Differs, TCP, go_on);
    for word in (0..family.length).step_by(4) {
        p.load(Size::Four, Reg::R1, CALL, family.address + word).store(Size::Four, Reg::Stack, ASKED + word, Reg::R1);
    }
    // The port in network order, then zeros.
    p.load(Size::Four, Reg::R1, CALL, PORT).store(Size::Four, Reg::Stack, ASKED + family.length, Reg::R1);
    p.look_up(vips, ASKED).jump_if(Reg::R0, Test::Equal, 0, go_on).copy(FOUND, Reg::R0);
    // One in as many as there are: 16 bits by chance, times their number, without the lower 16 bits.
    p.call(RANDOM).copy(CHOSEN, Reg::R0).and(CHOSEN, 0xffff);
    // The number is at most this; said again for the kernel's check of the program.
    p.load(Size::Four, COUNT, FOUND, 0).and(COUNT, TARGETS_MASK);
    p.multiply_register(CHOSEN, COUNT).shift_right(CHOSEN, 16).multiply(CHOSEN, family.end().into());
    p.add_register(FOUND, CHOSEN);
    for word in (0..family.end()).step_by(4) {
        p.load(Size::Four, Reg::R1, FOUND, BEFORE_TARGETS + word).store(Size::Four, Reg::Stack, TARGET + word, Reg::R1);
    }
    p.copy(Reg::R1, CALL).call(NETNS_COOKIE).store(Size::Eight, Reg::Stack, NAMESPACE, Reg::R0);
    p.look_up(own, NAMESPACE).jump_if(Reg::R0, Test::Equal, 0, go_on);
    for word in (0..family.length).step_by(4) {
        p.load(Size::Four, Reg::R1, Reg::R0, word).load(Size::Four, Reg::R2, Reg::Stack, TARGET + word);
        p.jump_if_both(Reg::R1, Test::Differs, Reg::R2, another);
    }
    p.jump(go_on).place(another);
    for word in (0..family.length).step_by(4) {
        p.load(Size::Four, Reg::R1, Reg::Stack, TARGET + word).store(Size::Four, CALL, family.address + word, Reg::R1);
    }
    p.load(Size::Four, Reg::R1, Reg::Stack, TARGET + family.length).store(Size::Four, CALL, PORT, Reg::R1);
    p.place(go_on).set(Reg::R0, GO_ON).exit();
    p
}
