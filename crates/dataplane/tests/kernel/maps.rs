//! How a change is written to the kernel's maps, and what packets meet meanwhile.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use linux::netlink::{Protocol, Socket};
use linux::nft::{Family, Table};
use serde_json::{Value, json};

use super::change::open_with;
use super::harness::{BOUND, Bed, Pod, allow, deny, serve, wait_until};

/// Connections from one pod to another that do not stop.
struct Load {
    stop: Arc<AtomicBool>,
    tried: Arc<AtomicUsize>,
    wrong: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// To these ports, each with whether all of them must come through, or none of them.
    fn start(client: &Pod, server: &Pod, ports: &[(u16, Option<bool>)]) -> Self {
        let mut load =
            Self { stop: Arc::default(), tried: Arc::default(), wrong: Arc::default(), threads: Vec::default() };
        for (to, must) in ports.iter().flat_map(|(port, must)| server.both(*port).map(|to| (to, *must))) {
            let (stop, tried, wrong) = (Arc::clone(&load.stop), Arc::clone(&load.tried), Arc::clone(&load.wrong));
            let client = client.clone();
            load.threads.push(std::thread::spawn(move || {
                let dial = || -> std::io::Result<()> {
                    let mut stream = TcpStream::connect_timeout(&to, BOUND)?;
                    stream.set_read_timeout(Some(BOUND))?;
                    stream.write_all(b"ping")?;
                    stream.read_exact(&mut [0; 4])
                };
                let all = || {
                    while !stop.load(Ordering::Relaxed) {
                        tried.fetch_add(1, Ordering::Relaxed);
                        if must.is_some_and(|must| must != dial().is_ok()) {
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                };
                client.net.netns.run(all).unwrap();
            }));
        }
        load
    }

    /// Ends it; nothing of it was otherwise than it must.
    fn end(self) {
        wait_until("the load was one", || self.tried.load(Ordering::Relaxed) > 500);
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        assert_eq!(self.wrong.load(Ordering::Relaxed), 0, "of {}", self.tried.load(Ordering::Relaxed));
    }
}

#[test]
fn flips_under_load_let_nothing_in_that_both_forbid_and_refuse_nothing_that_both_permit() {
    flips_under_load(Bed::new(), 60);
}

pub(crate) fn flips_under_load(mut bed: Bed, rounds: usize) {
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let forbidden = serve(&server, 9001);
    serve(&server, 9000);
    serve(&server, 9002);
    let flip = |round: usize| {
        let (extra, name) = (if round.is_multiple_of(2) { 9002 } else { 9003 }, format!("p{round}"));
        // Blocks that come and go, so that elements are deleted and added in many places.
        let blocks: Vec<String> = (0..40).map(|n| format!("10.{}.{n}.0/24", 100 + round % 3)).collect();
        let more = json!({
            "selector": { "matchLabels": { "app": "server" } },
            "rules": [{ "from": [{ "source": { "ipBlocks": blocks } }] }],
        });
        vec![
            ("foo", name.clone(), allow("server", &["foo/client"], &[9000, extra])),
            ("foo", format!("{name}-more"), more),
        ]
    };
    let enforce = |bed: &mut Bed, round: usize| {
        let policies = flip(round);
        let policies: Vec<_> = policies.iter().map(|(ns, name, spec)| (*ns, name.as_str(), spec.clone())).collect();
        bed.enforce(&policies);
    };
    enforce(&mut bed, 0);
    let load = Load::start(&client, &server, &[(9000, Some(true)), (9001, Some(false)), (9002, None)]);
    for round in 1..rounds {
        enforce(&mut bed, round);
        if round % 2 == 1 {
            // Right after a change nothing is open that it forbids, though the client never stops dialling.
            for peer in [IpAddr::V4(client.net.v4), client.net.v6.into()] {
                assert_eq!(open_with(&server, 9002, peer), 0, "round {round}");
            }
        }
    }
    load.end();
    assert_eq!(forbidden.accepted(), 0);
}

#[test]
fn flips_between_forms_of_the_same_verdict_are_not_seen() {
    flips_between_forms(Bed::new(), 60);
}

/// What is refused by a single cell, by a range, and by the fallback is refused between any two of them as well; so is
/// what is permitted.
pub(crate) fn flips_between_forms(mut bed: Bed, rounds: usize) {
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let forbidden = serve(&server, 9000);
    serve(&server, 9002);
    let forms = [
        deny("server", &["foo/client"], &[9000]),
        deny("server", &["foo/client"], &[9000, 9001]),
        allow("server", &["foo/client"], &[9002]),
        deny("server", &["foo/client"], &[9000, 9004]),
        allow("server", &["foo/client"], &[9002, 9003]),
    ];
    bed.enforce(&[("foo", "p", forms[0].clone())]);
    let load = Load::start(&client, &server, &[(9000, Some(false)), (9002, Some(true))]);
    for round in 1..rounds {
        bed.enforce(&[("foo", "p", forms[round % forms.len()].clone())]);
    }
    load.end();
    assert_eq!(forbidden.accepted(), 0);
}

pub(crate) fn maps(pod: &Pod) -> Vec<String> {
    let list = || {
        let table = Table::named(Family::Inet, dataplane::verdicts::TABLE);
        let sets = table.sets(&mut Socket::open(Protocol::Netfilter).unwrap()).unwrap();
        sets.into_iter().map(|set| set.name).collect()
    };
    pod.net.netns.run(list).unwrap()
}

#[test]
fn a_change_is_a_difference_of_elements_and_a_table_that_is_the_same_is_not_written() {
    let mut bed = Bed::new();
    let (server, _client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let blocks = |from: u32, count: u32| -> Value {
        let blocks: Vec<String> =
            (from..from + count).map(|n| format!("10.200.{}.{}/32", n / 100, n % 100 * 2)).collect();
        json!({ "selector": { "matchLabels": { "app": "server" } }, "rules": [{ "from": [{ "source": { "ipBlocks": blocks } }] }] })
    };
    let entries = |report: &dataplane::Report| report.workloads[server.id()].entries;
    let report = bed.enforce(&[("foo", "p", blocks(0, 1000))]);
    assert_eq!(entries(&report), 1000);
    let before = maps(&server);
    let report = bed.enforce(&[("foo", "p", blocks(1, 1000))]);
    assert!(report.workloads[server.id()].changed);
    assert_eq!((entries(&report), maps(&server)), (1000, before.clone()), "the same map, one out, one in");
    let report = bed.enforce(&[("foo", "renamed", blocks(1, 1000))]);
    assert!(!report.workloads[server.id()].changed);
    let report = bed.enforce(&[("foo", "p", blocks(5000, 1000))]);
    assert_eq!(entries(&report), 1000);
    assert_ne!(maps(&server), before, "nothing in common: a new map");
    assert_eq!(maps(&server).len(), 4, "for each family one of single cells and one of ranges; the old ones are gone");
}

#[test]
fn what_changes_two_maps_or_the_fallback_is_written_beside_and_switched_to() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    let mut before = Vec::new();
    // A policy, whether the maps stay, and whether the client reaches port 9000 then.
    for (step, (policy, stay, reaches)) in [
        (allow("server", &["foo/client"], &[9002]), false, false),
        (allow("server", &["foo/client"], &[9000, 9002]), true, true),
        (allow("server", &["foo/client"], &[9000]), true, true),
        (allow("server", &["foo/client"], &[9000, 9001]), false, true),
        (allow("server", &["foo/client"], &[9001, 9002]), true, false),
        (deny("server", &["foo/client"], &[9001, 9002]), false, true),
        (deny("server", &["foo/client"], &[9000, 9001]), true, false),
    ]
    .into_iter()
    .enumerate()
    {
        let report = bed.enforce(&[("foo", "p", policy)]);
        assert_eq!(report.workloads[server.id()].entries, if step == 1 { 4 } else { 2 }, "step {step}");
        let now = maps(&server);
        assert_eq!((now == before, now.len()), (stay, 4), "step {step}: {now:?}");
        for to in server.both(9000) {
            assert_eq!(client.connect(to).is_ok(), reaches, "step {step}: {to}");
        }
        before = now;
    }
}
