//! Transactions against the real kernel: what is written is read back, what is refused leaves nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Base, BaseChain, ChainKind, Element, Family, Field, Hook, Meta, NatKind, REGISTER, Rule, Set, Table, Transaction,
    Verdict,
};
use crate::Error;
use crate::netlink::{Protocol, Socket};
use crate::netns::NetNs;

fn inside<R: Send>(work: impl FnOnce(&mut Socket) -> R + Send) -> R {
    NetNs::create().unwrap().run(|| work(&mut Socket::open(Protocol::Netfilter).unwrap())).unwrap()
}

fn map(name: &str, address: Field) -> Set {
    Set { name: name.to_owned(), key: vec![address, Field::Port], intervals: true, verdicts: true }
}

fn v4(low: [u8; 4], high: [u8; 4], ports: (u16, u16)) -> Element {
    Element::addresses_and_ports(&(IpAddr::from(low)..=IpAddr::from(high)), &(ports.0..=ports.1))
        .unwrap()
        .with(Verdict::goto("yes"))
}

fn table() -> Table {
    Table::named(Family::Inet, "t")
}

#[test]
fn a_table_is_made_and_removed() {
    inside(|socket| {
        let table = table();
        assert!(!table.is_there(socket).unwrap());
        for _ in 0..2 {
            let mut make = Transaction::on(&table);
            make.create_table();
            make.commit(socket).unwrap();
            assert!(table.is_there(socket).unwrap());
        }
        for _ in 0..2 {
            let mut remove = Transaction::on(&table);
            remove.delete_table();
            remove.commit(socket).unwrap();
            assert!(!table.is_there(socket).unwrap());
        }
    });
}

#[test]
fn elements_are_read_back_as_they_were_written() {
    inside(|socket| {
        let table = table();
        let (four, six) = (map("four", Field::Ipv4), map("six", Field::Ipv6));
        let low = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
        let high = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
        let range = IpAddr::V6(low)..=IpAddr::V6(high);
        let mut t = Transaction::on(&table);
        t.create_table().chain("yes").set(&four).set(&six);
        t.add(&four, &[v4([10, 0, 0, 1], [10, 0, 0, 9], (80, 90))]);
        t.add(&six, &[Element::addresses_and_ports(&range, &(0..=u16::MAX)).unwrap().with(Verdict::goto("yes"))]);
        t.commit(socket).unwrap();
        let read = table.elements(socket, &four).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].key, [10, 0, 0, 1, 0, 80, 0, 0]);
        assert_eq!(read[0].end.as_deref(), Some(&[10, 0, 0, 9, 0, 90, 0, 0][..]));
        assert_eq!(read[0].chain.as_deref(), Some("yes"));
        let read = table.elements(socket, &six).unwrap();
        assert_eq!(read[0].key[..16], low.octets());
        assert_eq!(read[0].end.as_ref().unwrap()[..16], high.octets());
        let names: Vec<_> = table.sets(socket).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["four", "six"]);
    });
}

#[test]
fn a_change_of_elements_is_one_transaction() {
    inside(|socket| {
        let (table, four) = (table(), map("four", Field::Ipv4));
        let whole = v4([10, 0, 0, 0], [10, 0, 0, 255], (1, 99));
        let mut t = Transaction::on(&table);
        t.create_table().chain("yes").set(&four).add(&four, std::slice::from_ref(&whole));
        t.commit(socket).unwrap();
        let halves = [v4([10, 0, 0, 0], [10, 0, 0, 9], (1, 99)), v4([10, 0, 0, 11], [10, 0, 0, 255], (1, 99))];
        let mut t = Transaction::on(&table);
        t.remove(&four, &[whole]).add(&four, &halves);
        t.commit(socket).unwrap();
        assert_eq!(table.elements(socket, &four).unwrap().len(), 2);
    });
}

#[test]
fn a_refused_message_undoes_all_and_is_named() {
    inside(|socket| {
        let (table, four) = (table(), map("four", Field::Ipv4));
        let mut t = Transaction::on(&table);
        t.create_table().set(&four).add(&four, &[v4([10, 0, 0, 1], [10, 0, 0, 9], (80, 90))]);
        let error = t.commit(socket).unwrap_err();
        let Error::NetlinkRefused { message, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(message, Some((2, super::NEW_ELEMENT)));
        assert!(!table.is_there(socket).unwrap());
        // The socket still serves.
        let mut t = Transaction::on(&table);
        t.create_table();
        t.commit(socket).unwrap();
    });
}

#[test]
fn overlapping_elements_are_refused() {
    inside(|socket| {
        let (table, four) = (table(), map("four", Field::Ipv4));
        let mut t = Transaction::on(&table);
        t.create_table()
            .chain("yes")
            .set(&four)
            .add(&four, &[v4([10, 0, 0, 1], [10, 0, 0, 9], (80, 90)), v4([10, 0, 0, 5], [10, 0, 0, 12], (85, 95))]);
        assert!(t.commit(socket).is_err());
    });
}

#[test]
fn every_expression_is_taken_by_the_kernel() {
    let begin = Rule::begin;
    let filters = [
        begin()
            .meta(Meta::InputInterface, REGISTER)
            .payload(Base::Network, 12, 4, REGISTER + 1)
            .is_in("plain", REGISTER)
            .verdict(&Verdict::Accept),
        begin()
            .meta(Meta::InputInterface, REGISTER)
            .payload(Base::Network, 12, 4, REGISTER + 1)
            .is_not_in("plain", REGISTER)
            .verdict(&Verdict::Return),
        begin()
            .payload(Base::Transport, 13, 1, REGISTER)
            .mask(REGISTER, &[0x12])
            .equals(REGISTER, &[2])
            .count("seen")
            .verdict(&Verdict::jump("other")),
        begin()
            .payload(Base::Network, 12, 4, REGISTER)
            .payload(Base::Transport, 2, 2, REGISTER + 1)
            .verdict_of("four", REGISTER),
        begin().is_ipv6_fragment().verdict(&Verdict::Drop),
        begin()
            .meta(Meta::TransportProtocol, REGISTER)
            .equals(REGISTER, &[6])
            .limit(10, 5)
            .log(7, "seen", 128, 16)
            .reject_with_reset(),
        begin().set_mark(7).verdict(&Verdict::Accept),
    ];
    inside(|socket| {
        let (table, four) = (table(), map("four", Field::Ipv4));
        let plain = Set {
            name: "plain".to_owned(),
            key: vec![Field::Interface, Field::Ipv4],
            intervals: false,
            verdicts: false,
        };
        let base = |kind, hook, priority| BaseChain { kind, hook, priority, accept: true };
        let mut t = Transaction::on(&table);
        t.create_table().set(&four).set(&plain).counter("seen").chain("spare").chain("other");
        t.base_chain("input", base(ChainKind::Filter, Hook::Input, 0));
        t.base_chain("raw", base(ChainKind::Filter, Hook::Prerouting, -300));
        t.base_chain("nat", base(ChainKind::Nat, Hook::Prerouting, -100));
        for filter in &filters {
            t.rule("input", filter);
        }
        t.rule("spare", &begin().transparent_ipv6(9)).rule("raw", &begin().untracked());
        t.rule("nat", &begin().value(REGISTER, &[10, 0, 0, 1]).nat(NatKind::Destination, false, REGISTER, None));
        t.commit(socket).unwrap();
        assert_eq!(table.rules(socket, "input").unwrap(), filters.len());
        assert_eq!(table.packets(socket, "seen").unwrap(), 0);
        let mut t = Transaction::on(&table);
        t.flush_chain("input").flush_set(&plain).delete_set(&plain);
        t.flush_chain("spare").delete_chain("spare").delete_counter("seen");
        t.commit(socket).unwrap();
        assert_eq!(table.rules(socket, "input").unwrap(), 0);
        assert!(table.packets(socket, "seen").is_err());
    });
}

#[test]
fn ten_thousand_elements_fit_into_one_transaction() {
    inside(|socket| {
        let (table, four) = (table(), map("four", Field::Ipv4));
        let elements: Vec<_> = (0..10_000u32)
            .map(|n| {
                let [_, _, a, b] = n.to_be_bytes();
                let address = Ipv4Addr::new(10, 1, a, b).octets();
                v4(address, address, (1, 1000))
            })
            .collect();
        let mut t = Transaction::on(&table);
        t.create_table().chain("yes").set(&four).add(&four, &elements);
        socket.reserve_send(2 * t.length()).unwrap();
        t.commit(socket).unwrap();
        assert_eq!(table.elements(socket, &four).unwrap().len(), 10_000);
    });
}
