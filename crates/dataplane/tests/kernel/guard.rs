//! An address names a workload because nobody else can send with it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use linux::netns::NetNs;
use serde_json::json;

use super::harness::{Bed, Pod, deny, echoes, serve, wait_until};
use super::packet::{Packet, send};

/// Sends a SYN with this source from a namespace, and sees that the guard alone has met it.
#[track_caller]
fn is_stopped(bed: &Bed, from: &NetNs, source: SocketAddr, victim: &Pod) {
    let to = if source.is_ipv4() { victim.v4(9000) } else { victim.v6(9000) };
    let (forged, before) = (bed.forged(), bed.counts(victim));
    send(from, to.ip(), &[Packet::syn(source, to).whole()]);
    wait_until(&format!("{source} is stopped by the guard"), || bed.forged() == forged + 1);
    let after = bed.counts(victim);
    assert_eq!((before.accepted, before.refused), (after.accepted, after.refused), "{source} came through");
}

#[test]
fn a_pod_sends_with_its_own_addresses_only() {
    let mut bed = Bed::new();
    let (server, friend, liar) = (bed.pod("foo", "server"), bed.pod("foo", "friend"), bed.pod("foo", "liar"));
    let echo = serve(&server, 9000);
    bed.publish();
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    let sources = [
        friend.v4(4000),
        friend.v6(4000),
        SocketAddr::new(IpAddr::from([10, 99, 0, 1]), 4000),
        SocketAddr::new(IpAddr::from([10, 77, 64, 3]), 4000),
        SocketAddr::new(IpAddr::from([8, 8, 8, 8]), 4000),
        SocketAddr::new(link_local.into(), 4000),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 2, 0, 0, 0, 3)), 4000),
    ];
    for source in sources {
        is_stopped(&bed, &liar.net.netns, source, &server);
    }
    assert_eq!(echo.accepted(), 0);
    for to in server.both(9000) {
        assert!(echoes(&mut liar.connect(to).unwrap()), "its own address passes");
    }
}

#[test]
fn the_host_link_accepts_no_source_in_a_pod_range() {
    let mut bed = Bed::new();
    let (server, friend) = (bed.pod("foo", "server"), bed.pod("foo", "friend"));
    serve(&server, 9000);
    bed.publish();
    let sources = [
        friend.v4(4000),
        friend.v6(4000),
        SocketAddr::new(IpAddr::from([10, 77, 63, 255]), 4000),
        SocketAddr::new(IpAddr::from([10, 77, 64, 3]), 4000),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 2, 0, 0, 0, 3)), 4000),
    ];
    for source in sources {
        is_stopped(&bed, &bed.host, source, &server);
    }
    assert!(echoes(&mut super::harness::connect(&bed.host, server.v4(9000)).unwrap()));
    assert!(echoes(&mut super::harness::connect(&bed.host, server.v6(9000)).unwrap()));
}

#[test]
fn a_link_passes_nothing_before_attach_and_after_detach() {
    let mut bed = Bed::new();
    let server = bed.pod("foo", "server");
    let client = bed.bare_pod("foo", "client");
    serve(&server, 9000);
    bed.publish();
    let both = [client.v4(4000), client.v6(4000)];
    for source in both {
        is_stopped(&bed, &client.net.netns, source, &server);
    }
    bed.attach(&client);
    for source in both {
        is_stopped(&bed, &client.net.netns, source, &server);
    }
    bed.add(&client);
    bed.publish();
    for to in server.both(9000) {
        assert!(echoes(&mut client.connect(to).unwrap()));
    }
    bed.detach(&client);
    for source in both {
        is_stopped(&bed, &client.net.netns, source, &server);
    }
}

#[test]
fn a_forged_source_does_not_slip_past_a_denial_by_namespace() {
    let mut bed = Bed::new();
    let (server, enemy) = (bed.pod("foo", "server"), bed.pod("bar", "enemy"));
    let echo = serve(&server, 9000);
    let spec = json!({ "action": "DENY", "rules": [{ "from": [{ "source": { "namespaces": ["bar"] } }] }] });
    bed.enforce(&[("foo", "p", spec)]);
    for to in server.both(9000) {
        assert!(enemy.connect(to).is_err());
    }
    let link_local = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9)), 4000);
    is_stopped(&bed, &enemy.net.netns, link_local, &server);
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn an_address_that_the_snapshot_does_not_know_opens_nothing_and_keeps_what_is_open() {
    let mut bed = Bed::new();
    let (server, ghost) = (bed.pod("foo", "server"), bed.pod("bar", "ghost"));
    let echo = serve(&server, 9000);
    bed.policies(&[("foo", "deny-ghost", deny("server", &["bar/ghost"], &[9001]))]);
    bed.publish();
    let mut open: Vec<_> = server.both(9000).map(|to| ghost.connect(to).unwrap()).into();
    assert!(open.iter_mut().all(echoes));
    let ghosts: Vec<_> = bed.mesh.workloads.iter().filter(|workload| workload.id == *ghost.id()).cloned().collect();
    assert_eq!(ghosts.len(), 1);
    bed.mesh.workloads.retain(|workload| workload.id != *ghost.id());
    bed.publish_report();
    // To the tables its address is nobody's now: no rule about namespace bar would hold for it.
    let before = (bed.counts(&server), echo.accepted());
    for to in server.both(9000).into_iter().chain(server.both(9001)) {
        let source = if to.is_ipv4() { ghost.v4(4000) } else { ghost.v6(4000) };
        let forged = bed.forged();
        send(&ghost.net.netns, to.ip(), &[Packet::syn(source, to).whole()]);
        wait_until(&format!("{to}: the guard stops it"), || bed.forged() == forged + 1);
    }
    let after = (bed.counts(&server), echo.accepted());
    assert_eq!((before.0.accepted, before.0.refused, before.1), (after.0.accepted, after.0.refused, after.1));
    assert!(open.iter_mut().all(echoes), "what is open goes on");
    bed.mesh.workloads.extend(ghosts);
    bed.publish();
    for to in server.both(9000) {
        assert!(echoes(&mut ghost.connect(to).unwrap()), "known again, it opens connections again");
    }
}
