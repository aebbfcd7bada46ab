//! What this kernel does, found out by trying in a namespace of its own before anything depends on it.
//!
//! The question that cannot be asked otherwise: are the elements of an interval map there for every packet while a
//! transaction that changes other elements commits? Kernels before 6.17 switch to the new generation of elements a moment
//! before they switch to the map that has them, so a packet in between finds neither old nor new, and the fallback
//! decides. Packets are sent through such a map while it changes; one miss is enough to never change a map in use.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use linux::netlink::{Message, Protocol, Socket};
use linux::netns::NetNs;
use linux::nft::{
    Base, BaseChain, ChainKind, Element, Family, Field, Hook, Meta, REGISTER, Rule, Set, Table, Transaction, Verdict,
};

use crate::Error;

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Maps lose elements for a moment while a transaction commits: change tables by swapping whole chains.
    pub swaps_chains: bool,
    /// IPv6 fragments can be put together before the verdict without connection tracking.
    pub defragments: bool,
}

const CHAIN: &str = "input";
const MISSED: &str = "missed";
const SEEN: &str = "seen";
const UDP: u8 = 17;
/// On the kernels that lose elements, each of these changes loses some at the rate that one core sends (about 500,000 a
/// second); together they take below 50 ms.
const CHANGES: u16 = 100;
/// Changes go on until this many packets were judged, so that a sender that was not scheduled proves nothing.
const PACKETS_MIN: u64 = 1000;
/// But no longer than this many.
const CHANGES_MAX: u16 = 20_000;

/// Tries the kernel out.
pub fn run() -> Result<Kernel, Error> {
    let scratch = NetNs::create().map_err(|source| Error::Kernel { doing: "make a network namespace", source })?;
    let tried = scratch.run(|| -> Result<Kernel, Error> {
        raise_loopback().map_err(|source| Error::Kernel { doing: "raise the loopback of a namespace", source })?;
        let mut socket =
            Socket::open(Protocol::Netfilter).map_err(|source| Error::Kernel { doing: "speak to nftables", source })?;
        let kernel = Kernel {
            swaps_chains: loses_elements(&mut socket)
                .map_err(|source| Error::Kernel { doing: "use maps of concatenated intervals", source })?,
            defragments: defragments(&mut socket).is_ok(),
        };
        linux::membarrier::global().map_err(|source| Error::Kernel { doing: "wait for packets in flight", source })?;
        Ok(kernel)
    });
    tried.map_err(|source| Error::Kernel { doing: "enter a network namespace", source })?
}

fn raise_loopback() -> Result<(), linux::Error> {
    // RTM_NEWLINK: `ifinfomsg` with index 1, flags and change mask IFF_UP.
    let mut up = Message::new(16, 0);
    let mut header = [0; 16];
    for (at, value) in [(4, 1_u32), (8, 1), (12, 1)] {
        if let Some(field) = header.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
    }
    up.header(&header);
    Socket::open(Protocol::Route)?.request(&up)
}

fn defragments(socket: &mut Socket) -> Result<(), linux::Error> {
    let table = Table::named(Family::Inet, "defragments");
    let mut lay = Transaction::on(&table);
    lay.create_table().chain("unused").rule("unused", &Rule::begin().transparent_ipv6(9));
    lay.commit(socket)
}

fn loses_elements(socket: &mut Socket) -> Result<bool, linux::Error> {
    let table = Table::named(Family::Inet, "loses_elements");
    let map = Set { name: "map".to_owned(), key: vec![Field::Ipv4, Field::Port], intervals: true, verdicts: true };
    let input = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 0, accept: true };
    let mut lay = Transaction::on(&table);
    lay.create_table().counter(SEEN).counter(MISSED).set(&map).base_chain(CHAIN, input);
    let udp = || Rule::begin().meta(Meta::TransportProtocol, REGISTER).equals(REGISTER, &[UDP]);
    lay.rule(CHAIN, &udp().count(SEEN));
    lay.rule(
        CHAIN,
        &udp()
            .payload(Base::Network, 12, 4, REGISTER)
            .payload(Base::Transport, 2, 2, REGISTER + 1)
            .verdict_of(&map.name, REGISTER),
    );
    lay.rule(CHAIN, &udp().count(MISSED).verdict(&Verdict::Drop));
    let [steady, first, second] = [(0, 99), (100, 199), (100, 150)].map(|(low, high)| {
        let address = Ipv4Addr::LOCALHOST.octets();
        let ports: [u16; 2] = [low, high];
        let [low, high] = ports.map(u16::to_be_bytes);
        Element::between(&[&address, &low], &[&address, &high]).with(Verdict::Drop)
    });
    lay.add(&map, &[steady.clone(), first.clone()]);
    lay.commit(socket)?;

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<(), linux::Error> {
        // A new thread is in the namespace of the one that made it.
        let sender = scope.spawn(|| send_until(&stop));
        let changed = (|| {
            let (mut out, mut into) = (&first, &second);
            for round in 0..CHANGES_MAX {
                // The element that the packets meet is replaced by itself: at no moment may it be missing.
                let mut change = Transaction::on(&table);
                change.remove(&map, &[out.clone(), steady.clone()]).add(&map, &[into.clone(), steady.clone()]);
                change.commit(socket)?;
                (out, into) = (into, out);
                if round >= CHANGES && table.packets(socket, SEEN)? >= PACKETS_MIN {
                    break;
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        // What the sender could not send is no answer to the question; whether it sent enough is counted above.
        drop(sender.join());
        changed
    })?;
    Ok(table.packets(socket, MISSED)? > 0)
}

/// Sends packets to a port of the steady element.
fn send_until(stop: &AtomicBool) -> std::io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    while !stop.load(Ordering::Relaxed) {
        socket.send_to(&[0], (Ipv4Addr::LOCALHOST, 9))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_kernel_is_tried_out_quickly() {
        let kernel = super::run().unwrap();
        assert!(kernel.defragments);
    }
}
