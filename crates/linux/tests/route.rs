//! Links and routes by the real kernel, inside namespaces of the test's own. Requires root.
#![cfg(test)]

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use linux::netns::NetNs;
use linux::route::{Route, Router, Target, VethEnd};
use linux::sysctl;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

struct Pair {
    left: NetNs,
    right: NetNs,
    left_router: Router,
    right_router: Router,
    left_link: u32,
    right_link: u32,
}

fn end(name: &str) -> VethEnd<'_> {
    VethEnd { name, index: None, mac: MAC }
}

fn pair() -> Pair {
    let (left, right) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    for netns in [&left, &right] {
        netns.run(|| sysctl::write("net/ipv6/conf/default/addr_gen_mode", "1")).unwrap().unwrap();
    }
    let mut left_router = Router::open_in(&left).unwrap();
    let mut right_router = Router::open_in(&right).unwrap();
    let ends = (VethEnd { index: Some(55), ..end("left") }, VethEnd { index: Some(77), ..end("eth0") });
    left_router.add_veth(ends.0, ends.1, &right).unwrap();
    let left_link = left_router.link("left").unwrap().unwrap();
    let right_link = right_router.link("eth0").unwrap().unwrap();
    assert_eq!((left_link.index, right_link.index, left_link.peer), (55, 77, Some(77)));
    left_router.set_up(left_link.index).unwrap();
    right_router.set_up(77).unwrap();
    let left_link = left_router.link("left").unwrap().unwrap();
    let right_link = right_router.link("eth0").unwrap().unwrap();
    assert!(left_link.up && left_link.noarp && right_link.up && right_link.noarp);
    assert_eq!((left_link.kind.as_str(), left_link.mac.as_slice()), ("veth", &MAC[..]));
    Pair { left, right, left_router, right_router, left_link: left_link.index, right_link: right_link.index }
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 9, 8, last).into()
}

fn v6(last: u16) -> IpAddr {
    format!("fd00:9::{last}").parse().unwrap()
}

#[test]
fn both_families_are_routed_without_resolving_anything() {
    let mut pair = pair();
    for (one, two, gateway) in [(v4(1), v4(2), v4(9)), (v6(1), v6(2), v6(9))] {
        let bits = if one.is_ipv4() { 32 } else { 128 };
        pair.left_router.add_address(pair.left_link, one, bits).unwrap();
        pair.right_router.add_address(pair.right_link, two, bits).unwrap();
        pair.left_router.add_route(Route::new(two, bits, Target::Link(pair.left_link))).unwrap();
        let by_gateway = Target::Gateway(pair.right_link, gateway);
        pair.right_router.add_route(Route::new(one, bits, by_gateway).from(two)).unwrap();
        pair.right_router.add_route(Route::new(one, bits, by_gateway).from(two)).unwrap();
        let listener = pair.right.tcp_listen(SocketAddr::new(two, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let client = pair.left.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap()).unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        assert!(pair.left_router.addresses(pair.left_link).unwrap().contains(&(one, bits)));
    }
    assert_eq!(pair.left_router.addresses(pair.left_link).unwrap().len(), 2, "no link-local address");
    assert_eq!(pair.left_router.routed_v4().unwrap(), [(Ipv4Addr::new(10, 9, 8, 2), 32, pair.left_link)]);
}

#[test]
fn what_is_unreachable_fails_at_once_and_what_is_local_is_refused_at_once() {
    let mut pair = pair();
    for route in Route::nowhere() {
        pair.left_router.add_route(route).unwrap();
    }
    pair.left_router.add_address(pair.left_link, v4(1), 32).unwrap();
    pair.left_router.add_address(pair.left_link, v6(1), 128).unwrap();
    let began = Instant::now();
    for target in ["8.8.8.8:9", "[2001:db8::1]:9"] {
        let target: SocketAddr = target.parse().unwrap();
        let error = pair.left.run(|| TcpStream::connect(target).unwrap_err()).unwrap();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    }
    let lo = pair.left_router.link("lo").unwrap().unwrap().index;
    pair.left_router.set_up(lo).unwrap();
    for (whole, prefix, inside) in [("10.99.0.0", 16, "10.99.1.2:5"), ("fd99::", 64, "[fd99::7]:5")] {
        let to: IpAddr = whole.parse().unwrap();
        pair.left_router.add_route(Route::new(to, prefix, Target::Local(lo))).unwrap();
        let inside: SocketAddr = inside.parse().unwrap();
        let error = pair.left.run(|| TcpStream::connect(inside).unwrap_err()).unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        assert!(pair.left_router.delete_route(Route::new(to, prefix, Target::Local(lo))).unwrap());
        assert!(!pair.left_router.delete_route(Route::new(to, prefix, Target::Local(lo))).unwrap());
    }
    assert!(began.elapsed() < Duration::from_secs(30), "not by the time limit of a connect, minutes");
}

#[test]
fn a_deleted_link_takes_its_other_end_along() {
    let mut pair = pair();
    pair.left_router.set_mtu(pair.left_link, 9000).unwrap();
    assert_eq!(pair.left_router.link("left").unwrap().unwrap().mtu, 9000);
    assert_eq!(pair.right_router.links().unwrap().len(), 2);
    assert!(pair.left_router.delete_link(pair.left_link).unwrap());
    assert!(!pair.left_router.delete_link(pair.left_link).unwrap());
    assert_eq!(pair.left_router.link("left").unwrap(), None);
    assert_eq!(pair.right_router.link("eth0").unwrap(), None);
}

#[test]
fn a_permanent_neighbour_decides_where_frames_go() {
    let mut pair = pair();
    pair.left_router.add_address(pair.left_link, v4(1), 32).unwrap();
    pair.right_router.add_address(pair.right_link, v4(2), 32).unwrap();
    pair.left_router.add_route(Route::new(v4(2), 32, Target::Link(pair.left_link))).unwrap();
    let server = pair.right.udp_bind(SocketAddr::new(v4(2), 0)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let to = server.local_addr().unwrap();
    let client: UdpSocket = pair.left.udp_bind(SocketAddr::new(v4(1), 0)).unwrap();
    let mut buffer = [0; 8];
    pair.left_router.add_neighbour(pair.left_link, v4(2), [2, 0, 0, 0, 0, 9]).unwrap();
    client.send_to(b"lost", to).unwrap();
    assert!(server.recv(&mut buffer).is_err(), "a frame to another hardware address is not taken");
    pair.left_router.add_neighbour(pair.left_link, v4(2), MAC).unwrap();
    client.send_to(b"there", to).unwrap();
    assert_eq!(server.recv(&mut buffer).unwrap(), 5);
}

#[test]
fn a_refusal_says_what_the_kernel_said() {
    let mut pair = pair();
    let error = pair.left_router.add_veth(end("left"), end("eth0"), &pair.right).unwrap_err();
    assert_eq!(error.errno(), Some(17), "{error}");
}
