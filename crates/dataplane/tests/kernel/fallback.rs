//! The same promises on kernels that can do less.

use std::net::SocketAddr;

use dataplane::selftest::Kernel;

use super::harness::{Bed, allow, deny, echoes, is_refused, listen, serve, wait_until};
use super::maps;
use super::packet::{Packet, send};

const SWAPPING: Kernel = Kernel { swaps_chains: true, defragments: true };
const FRAGMENTED: Kernel = Kernel { swaps_chains: false, defragments: false };

#[test]
fn where_maps_lose_elements_each_change_is_a_new_map_and_the_counts_go_on() {
    let mut bed = Bed::on(SWAPPING);
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    let mut seen = Vec::new();
    for round in 0..6 {
        let open = round % 2 == 0;
        let port = if open { 9000 } else { 9001 };
        bed.enforce(&[("foo", "p", allow("server", &["foo/client"], &[port]))]);
        for to in server.both(9000) {
            let connected = client.connect(to);
            assert_eq!(is_refused(&connected), !open);
        }
        let maps = maps::maps(&server);
        assert_eq!(maps.len(), 4);
        assert!(!seen.contains(&maps[0]), "{maps:?} again");
        seen.extend(maps);
    }
    let counts = bed.counts(&server);
    assert_eq!((counts.accepted, counts.refused), (6, 6));
}

#[test]
fn where_maps_lose_elements_flips_under_load_hold_too() {
    maps::flips_under_load(Bed::on(SWAPPING), 20);
    maps::flips_between_forms(Bed::on(SWAPPING), 20);
}

#[test]
fn without_defragmentation_a_syn_in_pieces_opens_nothing() {
    let mut bed = Bed::on(FRAGMENTED);
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let listeners = [listen(&server.net.netns, 9000), listen(&server.net.netns, 9001)];
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9001]))]);
    let mut dropped = 0;
    for port in [9000, 9001] {
        for reversed in [false, true] {
            let source = SocketAddr::new(client.net.v6.into(), 4000 + u16::from(reversed));
            let packet = Packet::syn(source, server.v6(port)).payload(&[7; 64]);
            let mut pieces = packet.pieces(24);
            if reversed {
                pieces.reverse();
            }
            send(&client.net.netns, server.net.v6.into(), &pieces);
            dropped += u64::try_from(pieces.len()).unwrap();
            wait_until("all pieces are dropped", || bed.counts(&server).malformed == dropped);
        }
    }
    for listener in listeners {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
    }
    serve(&server, 9002);
    assert!(echoes(&mut client.connect(server.v6(9002)).unwrap()), "whole packets pass");
}
