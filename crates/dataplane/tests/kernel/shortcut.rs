//! Between pods most packets go past the node's stack, and whatever that must not happen to takes the long way.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use linux::netlink::{Protocol, Socket};
use linux::nft::{Base, BaseChain, ChainKind, Family, Hook, Meta, NatKind, REGISTER, Rule, Table, Transaction};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::harness::{BOUND, Bed, Pod, deny, echoes, is_refused, serve};

const TCP: u8 = 6;
const VIP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 98, 0, 1)), 80);

/// Counts the TCP packets that the node's own stack forwards.
struct Forwarded {
    table: Table,
    socket: Socket,
}

impl Forwarded {
    fn count(bed: &Bed) -> Self {
        let mut socket = bed.node.netns.run(|| Socket::open(Protocol::Netfilter).unwrap()).unwrap();
        let table = Table::named(Family::Inet, "forwarded");
        let forward = BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0, accept: true };
        let mut lay = Transaction::on(&table);
        lay.create_table().counter("tcp").base_chain("forward", forward);
        lay.rule("forward", &tcp().count("tcp"));
        lay.commit(&mut socket).unwrap();
        Self { table, socket }
    }

    fn packets(&mut self) -> u64 {
        self.table.packets(&mut self.socket, "tcp").unwrap()
    }
}

fn tcp() -> Rule {
    Rule::begin().meta(Meta::TransportProtocol, REGISTER).equals(REGISTER, &[TCP])
}

/// Has the node translate the VIP to a port of a pod.
fn lead_vip_to(bed: &Bed, pod: &Pod, port: u16) {
    let mut socket = bed.node.netns.run(|| Socket::open(Protocol::Netfilter).unwrap()).unwrap();
    let nat = BaseChain { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -100, accept: true };
    let mut lay = Transaction::on(&Table::named(Family::Ipv4, "vip"));
    let std::net::IpAddr::V4(vip) = VIP.ip() else { panic!("a VIP of IPv4") };
    let to_vip = tcp().payload(Base::Network, 16, 4, REGISTER).equals(REGISTER, &vip.octets());
    let translate = to_vip.value(REGISTER, &pod.net.v4.octets()).value(REGISTER + 4, &port.to_be_bytes()).nat(
        NatKind::Destination,
        false,
        REGISTER,
        Some(REGISTER + 4),
    );
    lay.create_table().base_chain("vip", nat).rule("vip", &translate);
    lay.commit(&mut socket).unwrap();
}

/// Connects from this port, which others may use as well.
fn connect_from(pod: &Pod, port: u16, to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let own = if to.is_ipv4() { pod.v4(port) } else { pod.v6(port) };
    let connect = || {
        let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(Duration::from_secs(5))).unwrap();
        rustix::net::bind(&socket, &own).unwrap();
        rustix::net::connect(&socket, &to).unwrap_or_else(|errno| panic!("{own} to {to}: {errno}"));
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream
    };
    pod.net.netns.run(connect).unwrap()
}

#[test]
fn between_pods_no_packet_meets_the_nodes_stack_and_verdicts_hold() {
    let mut bed = Bed::new();
    let (server, friend, enemy) = (bed.pod("foo", "server"), bed.pod("foo", "friend"), bed.pod("foo", "enemy"));
    serve(&server, 9000);
    bed.enforce(&[("foo", "p", deny("server", &["foo/enemy"], &[]))]);
    let mut forwarded = Forwarded::count(&bed);
    for to in server.both(9000) {
        let mut stream = friend.connect(to).unwrap();
        assert!(echoes(&mut stream));
        assert!(is_refused(&enemy.connect(to)));
        drop(stream);
    }
    assert_eq!(forwarded.packets(), 0);
    assert_eq!(bed.counts(&server).refused, 2);
}

#[test]
fn what_is_open_goes_on_the_long_way_when_the_process_is_gone() {
    let mut bed = Bed::new();
    let (server, friend) = (bed.pod("foo", "server"), bed.pod("foo", "friend"));
    serve(&server, 9000);
    bed.publish();
    let mut forwarded = Forwarded::count(&bed);
    let mut streams = server.both(9000).map(|to| friend.connect(to).unwrap());
    assert!(streams.iter_mut().all(echoes));
    assert_eq!(forwarded.packets(), 0);
    bed.detach_observers();
    assert!(streams.iter_mut().all(echoes));
    assert!(forwarded.packets() > 0);
}

#[test]
fn what_goes_to_or_comes_from_outside_takes_the_long_way() {
    let mut bed = Bed::new();
    let server = bed.pod("foo", "server");
    serve(&server, 9000);
    bed.publish();
    let mut forwarded = Forwarded::count(&bed);
    for to in server.both(9000) {
        assert!(echoes(&mut super::harness::connect(&bed.host, to).unwrap()));
    }
    assert!(forwarded.packets() > 0);
}

#[test]
fn a_port_of_a_client_may_be_used_for_a_vip_and_directly_in_any_order() {
    let mut bed = Bed::new();
    let (server, other) = (bed.pod("foo", "server"), bed.pod("foo", "other"));
    let client = bed.pod("foo", "client");
    serve(&server, 9000);
    serve(&other, 9000);
    bed.publish();
    lead_vip_to(&bed, &server, 9000);
    // The note of a direct connection that is over may not lead astray what the endpoint answers through the VIP.
    let mut direct = connect_from(&client, 5000, server.v4(9000));
    assert!(echoes(&mut direct));
    drop(direct);
    let mut by_vip = connect_from(&client, 5000, VIP);
    assert!(echoes(&mut by_vip));
    // Nor may the note of another connection from the same port that is open beside it.
    let mut beside = connect_from(&client, 5000, other.v4(9000));
    for _ in 0..2 {
        assert!(echoes(&mut by_vip));
        assert!(echoes(&mut beside));
    }
    drop((by_vip, beside));
    let mut again = connect_from(&client, 5001, VIP);
    assert!(echoes(&mut again));
}

#[test]
fn a_pod_that_goes_and_comes_again_under_its_address_is_reached_by_its_new_link() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    bed.publish();
    for _ in 0..3 {
        bed.detach(&server);
        bed.attach(&server);
        for to in server.both(9000) {
            assert!(echoes(&mut client.connect(to).unwrap()));
        }
    }
}
