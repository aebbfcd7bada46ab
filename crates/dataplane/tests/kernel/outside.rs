//! Somebody else, with the rights to, changes the tables.

use std::net::{IpAddr, SocketAddr};

use linux::netlink::{Protocol, Socket};
use linux::netns::NetNs;
use linux::nft::{Family, Rule, Table, Transaction, Verdict};

use super::harness::{Bed, deny, echoes, is_refused, is_reset, serve, wait_until};
use super::packet::{Packet, send};

#[test]
fn tables_changed_from_outside_are_written_anew_at_once() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let echo = serve(&server, 9000);
    serve(&server, 9001);
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
    let mut kept = client.connect(server.v4(9001)).unwrap();
    let mut slipped = Vec::new();
    for what in [whole, opened] {
        change(&server.net.netns, dataplane::verdicts::TABLE, what);
        // Nobody publishes anything.
        wait_until("it is refused again", || {
            let tried = client.connect(server.v4(9000));
            let refused = is_refused(&tried);
            slipped.extend(tried);
            refused
        });
    }
    assert!(slipped.iter_mut().all(is_reset), "what slipped in is reset");
    assert!(echo.accepted() <= slipped.len());
    assert!(echoes(&mut kept), "what is permitted goes on");
    assert_eq!(bed.counts(&server).rewritten, 2);
    // What this process changes is no news.
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9000, 9001]))]);
    assert!(is_reset(&mut kept));
    assert_eq!((bed.counts(&server).rewritten, bed.counts(&client).rewritten), (2, 0));

    let emptied: fn(&mut Transaction) = |t| {
        t.flush_chain("sources");
    };
    for (round, what) in (1..).zip([whole, emptied]) {
        change(&bed.node.netns, dataplane::guard::TABLE, what);
        wait_until("the guard is there again", || bed.guard_rewritten() == round);
        let forged = bed.forged();
        let source = SocketAddr::new(IpAddr::from([8, 8, 8, 8]), 4000);
        send(&client.net.netns, server.net.v4.into(), &[Packet::syn(source, server.v4(9001)).whole()]);
        wait_until("the guard stops it", || bed.forged() == forged + 1);
        assert!(is_refused(&client.connect(server.v4(9000))), "its own address passes");
    }
}
