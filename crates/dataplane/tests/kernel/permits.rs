//! Connections that are let in become records when they are over, each exactly once, and what does not is counted.

use std::io::{Read, Write};
use std::net::Shutdown;

use dataplane::WorkloadStatus;
use policy::{Close, Reason};
use serde_json::json;

use super::harness::{Bed, allow, connect, deny, echoes, is_refused, is_reset, listen, serve, serve_with, wait_until};
use super::packet::{Packet, send};

/// Every first packet that the kernel let in is accounted for.
#[track_caller]
fn balanced(counts: WorkloadStatus) -> WorkloadStatus {
    let told = counts.permitted_records + counts.permitted_folded + counts.permitted_lost + counts.permitted_open;
    assert_eq!(counts.accepted, told, "{counts:?}");
    counts
}

#[test]
fn a_connection_that_was_let_in_has_one_record_with_who_whom_why_bytes_duration_and_end() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("bar", "client"));
    bed.enforce(&[("foo", "p", allow("server", &["bar/client"], &[9000]))]);
    serve(&server, 9000);
    for to in server.both(9000) {
        let mut stream = client.connect(to).unwrap();
        for _ in 0..3 {
            assert!(echoes(&mut stream));
        }
        let counts = balanced(bed.counts(&server));
        assert_eq!(counts.permitted_open, 1, "it has no record while it is open");
        drop(stream);
        let record = bed.permitted();
        assert_eq!(record.source.workload.as_ref(), Some(client.id()));
        assert_eq!(record.source.identity.unwrap().uri(), "spiffe://cluster.local/ns/bar/sa/client");
        assert_eq!(record.destination.workload.as_ref(), Some(server.id()));
        assert_eq!((record.destination.address, record.destination.port), (to.ip(), to.port()));
        assert_eq!((record.outcome.reason, record.outcome.rule), (Reason::AllowMatch, Some(0)));
        assert_eq!(record.outcome.policy.unwrap().to_string(), "foo/p");
        assert_eq!((record.bytes_received, record.bytes_sent), (Some(12), Some(12)));
        assert_eq!((record.count, record.close), (1, Some(Close::Finished)));
        assert!(record.duration_us.unwrap() > 0);
    }
    let counts = balanced(bed.counts(&server));
    assert_eq!((counts.permitted_records, counts.permitted_open, counts.permitted_lost), (2, 0, 0));
    assert!(bed.records.try_recv().is_err(), "one record each");
}

#[test]
fn how_it_ended_is_told() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.publish();
    serve(&server, 9000);
    // Closed with bytes unread: a reset, before any of its own were sent.
    serve_with(&server.net.netns, 9001, |mut stream| drop(stream.read(&mut [0])));
    let mut stream = client.connect(server.v4(9001)).unwrap();
    stream.write_all(b"more than one byte").unwrap();
    let reset = bed.permitted();
    assert_eq!((reset.close, reset.bytes_received, reset.bytes_sent), (Some(Close::Reset), Some(18), Some(0)));

    let mut stream = client.connect(server.v6(9000)).unwrap();
    assert!(echoes(&mut stream));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9000]))]);
    assert!(is_reset(&mut stream));
    let revoked = bed.permitted();
    assert_eq!((revoked.close, revoked.bytes_received, revoked.bytes_sent), (Some(Close::Revoked), Some(4), Some(4)));
    assert_eq!(revoked.outcome.generation, 1, "it was the generation before that had let it in");

    bed.enforce(&[]);
    let mut stream = client.connect(server.v4(9000)).unwrap();
    assert!(echoes(&mut stream));
    balanced(bed.counts(&server));
    bed.detach(&server);
    assert_eq!(bed.permitted().close, Some(Close::WorkloadRemoved));
}

#[test]
fn an_attempt_that_comes_to_nothing_was_never_established() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.publish();
    // Nobody listens.
    assert!(is_refused(&client.connect(server.v4(9000))));
    let record = bed.permitted();
    assert_eq!(record.close, Some(Close::NeverEstablished));
    assert_eq!((record.outcome.reason, record.bytes_received), (Reason::NoAllowPolicies, None));
    // One that is open all the time, asked for in between, is not taken for such.
    serve(&server, 9001);
    let mut open = client.connect(server.v6(9001)).unwrap();
    assert!(is_refused(&client.connect(server.v6(9000))));
    assert_eq!(bed.permitted().destination.port, 9000);
    assert!(echoes(&mut open));
    open.shutdown(Shutdown::Write).unwrap();
    let record = bed.permitted();
    assert_eq!((record.destination.port, record.close), (9001, Some(Close::Finished)));
    assert_eq!(balanced(bed.counts(&server)).permitted_records, 3);
}

#[test]
fn a_repeated_syn_that_is_let_in_is_one_attempt_and_half_open_is_not_established() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.publish();
    let listener = listen(&server.net.netns, 9000);
    // The opener's kernel resets what it knows nothing of: the half-open socket goes unheard.
    let syn = Packet::syn(client.v4(4000), server.v4(9000));
    send(&client.net.netns, server.net.v4.into(), &[syn.whole(), syn.whole(), syn.whole()]);
    wait_until("all were let in", || bed.counts(&server).accepted == 3);
    let counts = balanced(bed.counts(&server));
    assert_eq!((counts.permitted_folded, counts.permitted_open), (2, 1));
    let record = bed.permitted();
    assert_eq!((record.close, record.source.port), (Some(Close::NeverEstablished), 4000));
    assert_eq!(balanced(bed.counts(&server)).permitted_records, 1);
    drop(listener);
}

#[test]
fn each_is_decided_on_the_generation_that_let_it_in() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    let mut expected = Vec::new();
    for round in 0..10_u16 {
        // The tables differ; each lets port 9000 in, by another policy, while connections of the ones before go on.
        let name = format!("p{round}");
        bed.enforce(&[("foo", &name, allow("server", &["foo/client"], &[9000, 1 + round]))]);
        let generation = bed.snapshot.as_ref().unwrap().generation();
        let stream = client.connect(server.v4(9000)).unwrap();
        let port = stream.local_addr().unwrap().port();
        expected.push((port, generation, format!("foo/{name}"), stream));
    }
    let by_port = |record: &policy::Record| {
        (record.source.port, record.outcome.generation, record.outcome.policy.as_ref().unwrap().to_string())
    };
    while let Some((port, generation, name, stream)) = expected.pop() {
        drop(stream);
        assert_eq!(by_port(&bed.permitted()), (port, generation, name));
    }
}

#[test]
fn connections_that_pass_never_push_a_denial_out() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let spec = json!({ "selector": { "matchLabels": { "app": "server" } }, "action": "DENY",
        "rules": [{ "to": [{ "operation": { "ports": ["9001"] } }] }] });
    bed.enforce(&[("foo", "p", spec)]);
    serve(&server, 9000);
    // Nobody takes records: those of what passed stop at the half that is theirs.
    let half = u64::try_from(bed.records.max_capacity() / 2).unwrap();
    let rounds = half + 50;
    for _ in 0..rounds {
        drop(connect(&client.net.netns, server.v4(9000)).unwrap());
    }
    wait_until("all are over", || bed.counts(&server).permitted_open == 0);
    let counts = balanced(bed.counts(&server));
    assert_eq!((counts.permitted_records, counts.permitted_lost), (half, 50));
    assert!(is_refused(&client.connect(server.v4(9001))));
    let counts = bed.counts(&server);
    assert_eq!((counts.refused, counts.records, counts.lost), (1, 1, 0));
}
