//! The verdict at the first packet.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};

use linux::diag::{self, State};
use linux::netlink::{Protocol, Socket};
use linux::sysctl;
use serde_json::json;

use super::harness::{
    BOUND, Bed, Pod, allow, connect, deny, echoes, is_refused, listen, serve, serve_with, wait_until,
};
use super::packet::{ACK, FIN, PSH, Packet, RST, SYN, URG, send};

/// Sockets of a pod that belong to connections with this peer.
fn sockets_with(pod: &Pod, peer: IpAddr) -> Vec<diag::TcpSocket> {
    pod.net
        .netns
        .run(|| {
            let mut socket = Socket::open(Protocol::SockDiag).unwrap();
            let mut list = diag::tcp(&mut socket, &State::ALL).unwrap();
            list.retain(|socket| socket.state != State::Listen && socket.remote.ip() == peer);
            list
        })
        .unwrap()
}

#[test]
fn what_the_policy_allows_passes_and_all_else_is_reset_in_both_families() {
    let mut bed = Bed::new();
    let (server, friend, other) = (bed.pod("foo", "server"), bed.pod("foo", "friend"), bed.pod("foo", "other"));
    let echo = serve(&server, 9000);
    let also = serve(&server, 9001);
    bed.enforce(&[("foo", "p", allow("server", &["foo/friend"], &[9000]))]);
    for to in server.both(9000) {
        assert!(echoes(&mut friend.connect(to).unwrap()), "{to}");
        assert!(is_refused(&other.connect(to)), "{to}");
    }
    for to in server.both(9001) {
        assert!(is_refused(&friend.connect(to)), "{to}");
    }
    // Denied means nothing: not one connection more was accepted.
    assert_eq!((echo.accepted(), also.accepted()), (2, 0));
    let counts = bed.counts(&server);
    assert_eq!((counts.accepted, counts.refused), (2, 4));
}

#[test]
fn a_pod_that_was_attached_and_is_in_no_snapshot_refuses_everything() {
    let mut bed = Bed::new();
    let server = bed.bare_pod("foo", "server");
    bed.attach(&server);
    let client = bed.pod("foo", "client");
    let echo = serve(&server, 9000);
    // Before any snapshot, and under one that does not know it.
    for published in [false, true] {
        if published {
            let report = bed.publish_report();
            assert!(report.workloads[server.id()].trouble.is_some());
        }
        for to in server.both(9000) {
            assert!(is_refused(&connect(&bed.host, to)), "{to}");
            // Before any snapshot the client is nobody either, and opens nothing.
            if published {
                assert!(is_refused(&client.connect(to)), "{to}");
            }
        }
    }
    assert_eq!(echo.accepted(), 0);
    bed.add(&server);
    bed.publish();
    assert!(echoes(&mut client.connect(server.v4(9000)).unwrap()));
}

#[test]
fn a_workload_outside_the_mesh_is_not_judged_and_has_no_identity() {
    let mut bed = Bed::new();
    let (plain, meshed) = (bed.pod("foo", "plain"), bed.pod("foo", "meshed"));
    bed.mesh.workloads[0].in_mesh = false;
    bed.enforce(&[
        ("foo", "none", json!({ "selector": { "matchLabels": { "app": "plain" } } })),
        ("foo", "p", allow("meshed", &["foo/plain"], &[])),
    ]);
    serve(&plain, 9000);
    serve(&meshed, 9000);
    assert!(echoes(&mut meshed.connect(plain.v4(9000)).unwrap()));
    assert!(is_refused(&plain.connect(meshed.v4(9000))));
}

#[test]
fn a_denial_holds_before_the_pod_listens_and_after() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9000]))]);
    assert!(is_refused(&client.connect(server.v4(9000))));
    assert_eq!(bed.counts(&server).refused, 1);
    let echo = serve(&server, 9000);
    assert!(is_refused(&client.connect(server.v4(9000))));
    assert_eq!((bed.counts(&server).refused, echo.accepted()), (2, 0));
}

#[test]
fn loopback_and_the_pods_own_address_are_not_judged() {
    let mut bed = Bed::new();
    let server = bed.pod("foo", "server");
    bed.enforce(&[("foo", "none", json!({}))]);
    serve(&server, 9000);
    let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into(), server.net.v4.into(), server.net.v6.into()];
    for address in own {
        assert!(echoes(&mut server.connect(SocketAddr::new(address, 9000)).unwrap()), "{address}");
    }
    assert_eq!(bed.counts(&server).refused, 0);
}

#[test]
fn loopback_addresses_from_another_link_do_not_pass_as_loopback() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "none", json!({}))]);
    serve(&server, 9000);
    // A packet that says it is from the pod itself, which the guard would drop, sent into the pod from the node.
    let forged = Packet::syn(server.v4(4000), server.v4(9000));
    bed.node.netns.run(|| sysctl::write("net/ipv4/conf/all/accept_local", "1").unwrap()).unwrap();
    server.net.netns.run(|| sysctl::write("net/ipv4/conf/all/accept_local", "1").unwrap()).unwrap();
    send(&bed.node.netns, server.net.v4.into(), &[forged.whole()]);
    wait_until("the packet is judged", || bed.counts(&server).refused == 1);
    drop(client);
}

#[test]
fn every_first_packet_is_judged_whatever_its_other_flags() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    let echo = serve(&server, 9000);
    let mut judged = 0;
    for to in server.both(9000) {
        let from = if to.is_ipv4() { client.v4(4000) } else { client.v6(4000) };
        for others in 0..=u8::MAX {
            let flags = others | SYN;
            if flags & ACK != 0 || flags != others {
                continue;
            }
            let packet = Packet::syn(SocketAddr::new(from.ip(), 4000 + u16::from(flags)), to).flags(flags);
            send(&client.net.netns, to.ip(), &[packet.whole()]);
            judged += 1;
        }
    }
    assert_eq!(judged, 128);
    wait_until("all are judged", || bed.counts(&server).refused == judged);
    assert_eq!(echo.accepted(), 0);
    assert!(sockets_with(&server, client.net.v4.into()).is_empty());
    assert!(sockets_with(&server, client.net.v6.into()).is_empty());
}

#[test]
fn packets_that_open_nothing_are_not_judged() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    let echo = serve(&server, 9000);
    for flags in [0, ACK, SYN | ACK, FIN, RST, PSH | ACK, FIN | ACK, URG, SYN | ACK | RST] {
        let packet = Packet::syn(client.v4(4000), server.v4(9000)).flags(flags);
        send(&client.net.netns, server.net.v4.into(), &[packet.whole()]);
    }
    // One that is judged, behind all of them.
    assert!(is_refused(&client.connect(server.v4(9000))));
    let counts = bed.counts(&server);
    assert_eq!((counts.refused, counts.malformed, echo.accepted()), (1, 0, 0));
}

#[test]
fn data_of_a_refused_syn_is_dropped_and_of_a_permitted_one_delivered() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    // 0x2 | 0x200 | 0x400: a server that takes data of a SYN without a cookie, on every listener.
    server.net.netns.run(|| sysctl::write("net/ipv4/tcp_fastopen", "1539").unwrap()).unwrap();
    let (taken, seen) = std::sync::mpsc::channel();
    let echo = serve_with(&server.net.netns, 9000, move |mut stream| {
        let mut data = [0; 5];
        if stream.read_exact(&mut data).is_ok() {
            taken.send(data).unwrap();
        }
    });
    for (to, from) in [(server.v4(9000), client.v4(4001)), (server.v6(9000), client.v6(4001))] {
        // An empty Fast Open option asks for a cookie; with 0x200 data is taken without one.
        let syn = Packet::syn(from, to).options(&[2, 4, 5, 180]).payload(b"hello");
        bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
        let before = bed.counts(&server).refused;
        send(&client.net.netns, to.ip(), &[syn.whole()]);
        wait_until("the SYN is judged", || bed.counts(&server).refused == before + 1);
        assert!(seen.try_recv().is_err());
        let accepted = echo.accepted();
        bed.enforce(&[]);
        // The client's stack would reset what it did not open.
        let again = Packet { source: SocketAddr::new(from.ip(), 4002), ..syn };
        send(&client.net.netns, to.ip(), &[again.whole()]);
        assert_eq!(&seen.recv_timeout(BOUND).unwrap(), b"hello");
        assert_eq!(echo.accepted(), accepted + 1);
    }
}

/// Sends a packet in this shape to a port that is open to the client and to one that is not, and sees both judged.
fn judged_in_shape(what: &str, ipv6: bool, shape: impl Fn(&Packet) -> Vec<Vec<u8>>) {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9001]))]);
    let _open = listen(&server.net.netns, 9000);
    let _closed = listen(&server.net.netns, 9001);
    let at = |pod: &Pod, port| if ipv6 { pod.v6(port) } else { pod.v4(port) };
    for (port, accepted, refused) in [(9000, 1, 0), (9001, 1, 1)] {
        let packet = Packet::syn(at(&client, 4000), at(&server, port)).payload(&[7; 64]);
        send(&client.net.netns, packet.destination.ip(), &shape(&packet));
        wait_until(&format!("{what} to {port} is judged"), || {
            let counts = bed.counts(&server);
            (counts.accepted, counts.refused) == (accepted, refused)
        });
        assert_eq!(bed.counts(&server).malformed, 0, "{what}: a piece was judged alone");
        // Of IPv6 the stack itself sees no piece: they were put together before the verdict.
        let pieces_seen = server.net.netns.run(|| {
            let counts = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
            let line = counts.lines().find(|line| line.starts_with("Ip6ReasmReqds")).unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        });
        assert_eq!(pieces_seen.unwrap(), "0", "{what}");
    }
}

#[test]
fn a_syn_in_ipv4_fragments_is_judged_when_it_is_whole() {
    judged_in_shape("pieces of 8 bytes", false, |packet| packet.pieces(8));
    judged_in_shape("pieces of 8 bytes, last first", false, |packet| packet.pieces(8).into_iter().rev().collect());
}

#[test]
fn a_syn_in_ipv6_fragments_is_judged_when_it_is_whole() {
    // The kernel takes no first piece that does not hold the whole TCP header.
    judged_in_shape("pieces of 24 bytes", true, |packet| packet.pieces(24));
    judged_in_shape("pieces of 24 bytes, last first", true, |packet| packet.pieces(24).into_iter().rev().collect());
}

#[test]
fn a_syn_behind_ipv6_extension_headers_is_judged() {
    let shapes: [(&str, u8, &[u8]); 5] = [
        ("hop-by-hop options", 0, &[6, 0, 1, 4, 0, 0, 0, 0]),
        ("destination options", 60, &[6, 0, 1, 4, 0, 0, 0, 0]),
        ("routing without segments", 43, &[6, 0, 253, 0, 0, 0, 0, 0]),
        ("an atomic fragment", 44, &[6, 0, 0, 0, 0, 0, 0, 9]),
        ("several", 0, &[60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (what, next, extensions) in shapes {
        judged_in_shape(what, true, |packet| vec![packet.behind(next, extensions)]);
    }
}

#[test]
fn tcp_without_its_flags_is_dropped() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[]);
    for (to, from) in [(server.v4(9000), client.v4(4000)), (server.v6(9000), client.v6(4000))] {
        let mut packet = Packet::syn(from, to).whole();
        let cut = if to.is_ipv4() { 20 + 12 } else { 40 + 12 };
        packet.truncate(cut);
        let length = u16::try_from(if to.is_ipv4() { cut } else { 12 }).unwrap().to_be_bytes();
        let at = if to.is_ipv4() { 2 } else { 4 };
        packet[at..at + 2].copy_from_slice(&length);
        let before = bed.counts(&server).malformed;
        send(&client.net.netns, to.ip(), &[packet]);
        wait_until("the packet is dropped", || bed.counts(&server).malformed == before + 1);
    }
}

#[test]
fn mptcp_is_off_and_a_join_is_judged_as_any_first_packet() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let value = server.net.netns.run(|| sysctl::read("net/mptcp/enabled").unwrap()).unwrap();
    assert_eq!(value, "0");
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9000]))]);
    let echo = serve(&server, 9000);
    // MP_JOIN: kind 30, length 12, subtype 1, then token and random number.
    let join = Packet::syn(client.v4(4000), server.v4(9000)).options(&[30, 12, 0x10, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    send(&client.net.netns, server.net.v4.into(), &[join.whole()]);
    wait_until("the join is judged", || bed.counts(&server).refused == 1);
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn settings_that_the_verdict_relies_on_are_made_at_attach() {
    let mut bed = Bed::new();
    let pod = bed.bare_pod("foo", "pod");
    let read = || pod.net.netns.run(|| sysctl::read("net/ipv4/tcp_syncookies").unwrap()).unwrap();
    assert_eq!(read(), "1");
    bed.attach(&pod);
    assert_eq!(read(), "0");
}

#[test]
fn udp_is_not_judged() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "none", json!({}))]);
    for (to, from) in [(server.v4(9000), client.v4(0)), (server.v6(9000), client.v6(0))] {
        let inside = server.net.netns.udp_bind(to).unwrap();
        inside.set_read_timeout(Some(BOUND)).unwrap();
        let outside: UdpSocket = client.net.netns.udp_bind(from).unwrap();
        // Larger than a packet: pieces pass as well.
        outside.send_to(&[5; 4000], to).unwrap();
        assert_eq!(inside.recv(&mut [0; 5000]).unwrap(), 4000, "{to}");
    }
}

#[test]
fn a_connection_from_outside_has_no_identity() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    bed.enforce(&[("foo", "p", allow("server", &["foo/client"], &[]))]);
    assert!(echoes(&mut client.connect(server.v4(9000)).unwrap()));
    for to in server.both(9000) {
        assert!(is_refused(&connect(&bed.host, to)), "{to}");
    }
    bed.enforce(&[("foo", "p", allow("server", &[], &[9000]))]);
    for to in server.both(9000) {
        assert!(echoes(&mut connect(&bed.host, to).unwrap()), "{to}");
    }
}

#[test]
fn strict_mutual_tls_refuses_plaintext_from_outside_and_accepts_the_kernels_word() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    let document = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "namespace": "foo", "name": "default" },
        "spec": { "mtls": { "mode": "STRICT" } },
    });
    let parsed = policy::parse::peer_authentication(&document, &bed.mesh.settings);
    bed.mesh.peer_authentications = vec![parsed.value.unwrap().into()];
    bed.publish();
    assert!(echoes(&mut client.connect(server.v4(9000)).unwrap()));
    assert!(is_refused(&connect(&bed.host, server.v4(9000))));
    assert!(is_refused(&connect(&bed.host, server.v6(9000))));
}

#[test]
fn a_rule_that_needs_bytes_refuses_and_the_report_says_so() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let (with_name, without) = (serve(&server, 9000), serve(&server, 9001));
    let spec = json!({
        "selector": { "matchLabels": { "app": "server" } },
        "rules": [
            { "to": [{ "operation": { "ports": ["9000"] } }], "when": [{ "key": "connection.sni", "values": ["a.example"] }] },
            { "to": [{ "operation": { "ports": ["9001"] } }] },
        ],
    });
    let report = bed.enforce(&[("foo", "p", spec)]);
    let needs = &report.workloads[server.id()].needs_proxy;
    assert_eq!(needs.len(), 1);
    assert_eq!(needs[0].policy.name, "p");
    assert!(report.workloads[client.id()].needs_proxy.is_empty());
    assert!(is_refused(&client.connect(server.v4(9000))));
    assert!(echoes(&mut client.connect(server.v4(9001)).unwrap()));
    assert_eq!((with_name.accepted(), without.accepted()), (0, 1));
}

#[test]
fn a_table_beyond_the_bound_refuses_everything_and_the_report_says_so() {
    let mut bed = Bed::new();
    let (server, client, other) = (bed.pod("foo", "server"), bed.pod("foo", "client"), bed.pod("foo", "other"));
    let (echo, beside) = (serve(&server, 9000), serve(&other, 9000));
    bed.publish();
    assert!(echoes(&mut client.connect(server.v4(9000)).unwrap()));
    let blocks: Vec<String> =
        (0..20_000_u32).map(|n| format!("10.{}.{}.{}/32", 100 + n / 8192, n / 32 % 256, n % 32 * 2)).collect();
    bed.policies(&[("foo", "p", json!({
        "selector": { "matchLabels": { "app": "server" } },
        "rules": [{ "from": [{ "source": { "ipBlocks": blocks } }] }, { "from": [{ "source": { "principals": ["*"] } }] }],
    }))]);
    for _ in 0..2 {
        let report = bed.publish_report();
        let trouble = report.workloads[server.id()].trouble.as_ref().unwrap();
        assert!(trouble.to_string().contains("16384"), "{trouble}");
        assert!(report.workloads[other.id()].trouble.is_none());
    }
    assert!(is_refused(&client.connect(server.v4(9000))));
    assert!(echoes(&mut client.connect(other.v4(9000)).unwrap()));
    assert_eq!((echo.accepted(), beside.accepted()), (1, 1));
}

#[test]
fn half_close_and_last_bytes_are_the_kernels_own() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    bed.enforce(&[("foo", "p", allow("server", &["foo/client"], &[9000]))]);
    for to in server.both(9000) {
        let mut stream = client.connect(to).unwrap();
        stream.write_all(&vec![3; 100_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), 100_000);
    }
}

#[test]
fn a_server_may_speak_first() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve_with(&server.net.netns, 9000, |mut stream| stream.write_all(b"220 ready").unwrap());
    bed.enforce(&[("foo", "p", allow("server", &["foo/client"], &[9000]))]);
    for to in server.both(9000) {
        let mut said = String::new();
        client.connect(to).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "220 ready");
    }
}
