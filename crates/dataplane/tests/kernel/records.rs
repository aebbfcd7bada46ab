//! Refusals become records, each exactly once, and what does not is counted.

use std::net::SocketAddr;

use policy::{Close, Reason};
use serde_json::json;

use super::harness::{Bed, Pod, allow, connect, deny, is_refused, wait_until};
use super::packet::{Packet, send};

/// Distinct first packets, each from a port of its own.
fn flood(from: &Pod, to: SocketAddr, count: u16) {
    let source = |n| if to.is_ipv4() { from.v4(1000 + n) } else { from.v6(1000 + n) };
    let packets: Vec<_> = (0..count).map(|n| Packet::syn(source(n), to).whole()).collect();
    send(&from.net.netns, to.ip(), &packets);
}

/// All records there are, once the kernel's count has reached `refused` and the log is drained.
fn all_records(bed: &mut Bed, pod: &Pod, refused: u64) -> Vec<policy::Record> {
    wait_until("the kernel has refused all", || bed.counts(pod).refused == refused);
    let mut records = Vec::new();
    while let Ok(record) = bed.records.try_recv() {
        records.push(record);
    }
    records
}

#[test]
fn a_refusal_says_who_whom_port_policy_rule_reason_and_generation() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("bar", "client"));
    let spec = json!({
        "selector": { "matchLabels": { "app": "server" } },
        "action": "DENY",
        "rules": [{ "to": [{ "operation": { "ports": ["1"] } }] }, { "from": [{ "source": { "namespaces": ["bar"] } }] }],
    });
    bed.publish();
    bed.enforce(&[("foo", "p", spec)]);
    for to in server.both(9000) {
        assert!(is_refused(&client.connect(to)));
        let record = bed.record();
        assert_eq!(record.source.workload.as_ref(), Some(client.id()));
        assert_eq!(record.source.identity.unwrap().uri(), "spiffe://cluster.local/ns/bar/sa/client");
        assert!(client.both(record.source.port).contains(&SocketAddr::new(record.source.address, record.source.port)));
        assert_eq!(record.destination.workload.as_ref(), Some(server.id()));
        assert_eq!(SocketAddr::new(record.destination.address, record.destination.port), to);
        let outcome = record.outcome;
        assert_eq!((outcome.permitted, outcome.reason, outcome.rule), (false, Reason::DenyMatch, Some(1)));
        assert_eq!(outcome.policy.unwrap().to_string(), "foo/p");
        assert_eq!(outcome.generation, 2);
        assert_eq!((record.count, record.close), (1, Some(Close::Refused)));
    }
}

#[test]
fn a_refusal_for_want_of_a_match_says_what_came_nearest_and_one_from_outside_has_no_identity() {
    let mut bed = Bed::new();
    let server = bed.pod("foo", "server");
    bed.enforce(&[("foo", "p", allow("server", &[], &[9000]))]);
    assert!(is_refused(&connect(&bed.host, server.v4(9001))));
    let record = bed.record();
    assert_eq!((record.source.workload, record.source.identity), (None, None));
    assert_eq!(record.outcome.reason, Reason::AllowNoMatch);
    assert_eq!(record.outcome.nearest.unwrap().policy.to_string(), "foo/p");
}

#[test]
fn a_refusal_without_a_snapshot_has_a_record_too() {
    let mut bed = Bed::new();
    let server = bed.bare_pod("foo", "server");
    bed.attach(&server);
    // From the host: a pod that no snapshot knows does not come this far.
    assert!(is_refused(&connect(&bed.host, server.v4(9000))));
    let record = bed.record();
    assert_eq!((record.outcome.reason, record.outcome.generation), (Reason::NotReady, 0));
    assert_eq!(record.destination.workload.as_ref(), Some(server.id()));
}

#[test]
fn a_repeated_syn_is_one_attempt() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    let syn = Packet::syn(client.v4(4000), server.v4(9000));
    let another = Packet { sequence: syn.sequence + 1, ..syn.clone() };
    send(&client.net.netns, server.net.v4.into(), &[syn.whole(), syn.whole(), another.whole(), syn.whole()]);
    let records = all_records(&mut bed, &server, 4);
    assert_eq!(records.len(), 2);
    let counts = bed.counts(&server);
    assert_eq!((counts.records, counts.folded, counts.lost), (2, 2, 0));
}

#[test]
fn under_a_flood_equal_denials_fold_and_the_kernels_count_is_records_and_folded_and_lost() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    let sent: u16 = 6000;
    flood(&client, server.v4(9000), sent);
    flood(&client, server.v6(9001), sent);
    let records = all_records(&mut bed, &server, 2 * u64::from(sent));
    let counts = bed.counts(&server);
    assert_eq!(counts.refused, counts.records + counts.folded + counts.lost);
    assert_eq!(counts.records, u64::try_from(records.len()).unwrap());
    assert_eq!(counts.records + counts.folded, records.iter().map(|record| record.count).sum::<u64>());
    assert_eq!(counts.lost, 0, "at this rate nothing is lost");
    // Some hundred records a second, however many refusals.
    assert!(records.len() < 3000, "{} records", records.len());
    assert!(counts.folded > counts.records);
}

#[test]
fn records_that_nobody_takes_are_lost_and_counted() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    bed.records.close();
    flood(&client, server.v4(9000), 500);
    assert!(all_records(&mut bed, &server, 500).is_empty());
    let counts = bed.counts(&server);
    assert_eq!((counts.records, counts.folded, counts.lost), (0, 0, 500));
}

#[test]
fn refusals_beyond_what_the_reader_can_take_are_counted_by_the_kernel_as_lost() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    let sent: u16 = 60_000;
    let threads: Vec<_> = (0..2)
        .map(|n| {
            let (client, to) = (client.clone(), server.v4(9000 + n));
            std::thread::spawn(move || flood(&client, to, sent))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let records = all_records(&mut bed, &server, 2 * u64::from(sent));
    let counts = bed.counts(&server);
    assert_eq!(counts.refused, counts.records + counts.folded + counts.lost);
    assert_eq!(counts.records + counts.folded, records.iter().map(|record| record.count).sum::<u64>());
}

#[test]
fn each_refusal_is_decided_on_the_generation_that_refused_it() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let mut expected = Vec::new();
    for round in 0..20_u16 {
        // The tables differ, so that each generation is a change; both refuse port 9000, by another policy.
        let name = format!("p{round}");
        bed.enforce(&[("foo", &name, deny("server", &["foo/client"], &[9000, 1 + round]))]);
        let generation = bed.snapshot.as_ref().unwrap().generation();
        flood(&client, server.v4(9000), 5);
        // Nobody waits for the log: the next generation is put into force at once.
        expected.push((generation, format!("foo/{name}")));
    }
    let records = all_records(&mut bed, &server, 100);
    let counts = bed.counts(&server);
    assert_eq!((counts.records + counts.folded, counts.lost), (100, 0));
    for record in records {
        let said = (record.outcome.generation, record.outcome.policy.unwrap().to_string());
        assert!(expected.contains(&said), "{said:?}");
    }
}

#[test]
fn a_table_that_stays_the_same_knows_the_names_of_today() {
    let mut bed = Bed::new();
    let server = bed.pod("foo", "server");
    bed.enforce(&[("foo", "p", allow("server", &["foo/nobody"], &[]))]);
    let client = bed.pod("foo", "client");
    let report = bed.publish();
    assert!(!report.workloads[server.id()].changed);
    assert!(is_refused(&client.connect(server.v4(9000))));
    let record = bed.record();
    assert_eq!(record.source.workload.as_ref(), Some(client.id()));
    assert_eq!(record.outcome.generation, 2);
}
