//! Somebody else, with the rights to, changes the tables.

use std::net::{IpAddr, SocketAddr};

use linux::netlink::{Protocol, Socket};
use linux::netns::NetNs;
use linux::nft::{Family, Rule, Table, Transaction, Verdict};

use super::harness::{Bed, deny, echoes, is_refused, is_reset, serve, wait_until};
use super::packet::{Packet, send};

#[test]
fn tables_changed_from_outside_are_in_force_again_with_the_next_snapshot() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let echo = serve(&server, 9000);
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9000]))]);
    let whole: fn(&mut Transaction) = |t| {
        t.delete_table();
    };
    let opened: fn(&mut Transaction) = |t| {
        t.flush_chain("input").rule("input", &Rule::begin().verdict(&Verdict::Accept));
    };
    let change = |netns: &NetNs, table: &str, what: fn(&mut Transaction)| {
        let change = || {
            let mut transaction = Transaction::on(&Table::named(Family::Inet, table));
            what(&mut transaction);
            transaction.commit(&mut Socket::open(Protocol::Netfilter).unwrap()).unwrap();
        };
        netns.run(change).unwrap();
    };
    for (round, what) in [whole, opened].into_iter().enumerate() {
        change(&server.net.netns, dataplane::verdicts::TABLE, what);
        let mut slipped = client.connect(server.v4(9000)).expect("nothing refuses it any more");
        assert!(echoes(&mut slipped));
        // Nothing about this workload has changed.
        bed.publish();
        assert!(is_refused(&client.connect(server.v4(9000))), "round {round}");
        assert!(is_reset(&mut slipped), "what slipped in is reset");
    }
    change(&bed.node.netns, dataplane::guard::TABLE, whole);
    bed.publish();
    let forged = bed.forged();
    let source = SocketAddr::new(IpAddr::from([8, 8, 8, 8]), 4000);
    send(&client.net.netns, server.net.v4.into(), &[Packet::syn(source, server.v4(9001)).whole()]);
    wait_until("the guard stops it", || bed.forged() == forged + 1);
    assert!(is_refused(&client.connect(server.v4(9000))), "its own address passes");
    assert_eq!(echo.accepted(), 2);
}
