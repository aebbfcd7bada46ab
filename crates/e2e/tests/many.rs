//! Many of everything: updates of a policy one after the other, policies, pods. Memory stays within what is said, and policies
//! still switch when they are answered.
#![cfg(test)]

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::client::Client;
use e2e::mesh::Mesh;
use e2e::trio::{PODS, POLICIES, Trio, denying, make, odd, pod, rest, running};
use serde_json::json;

/// What of a process's memory is its own, in bytes.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// By how much memory may differ before and after: what is allocated for a moment comes back in pieces.
const GROWTH_MAX: u64 = 4 << 20;

/// What the store's history may hold.
const HISTORY_MAX: u64 = 48 << 20;
/// What a pod and a policy may cost the daemon: object, tables, tasks, receive buffers. Measured in a debug build: 0.75 MB for each
/// of 500 pods, 44 kB for each of 500 policies, history included.
const POD_MAX: u64 = 1 << 20;
const POLICY_MAX: u64 = 64 << 10;

/// Changes a policy of the server and says whether alice may then go to 9002, as it was answered.
fn switch(client: &mut Client, path: &str, round: usize) -> bool {
    let denies = round.is_multiple_of(2);
    let wanted = denying("late", "alice", if denies { 9002 } else { 9999 });
    let answer = client.ask("PATCH", path, Some(&json!({"spec": wanted["spec"]}))).unwrap();
    assert_eq!((answer.code, &answer.warning), (200, &None), "round {round}: {}", answer.body);
    !denies
}

#[test]
fn policy_updates_in_a_row_take_no_more_memory() {
    let trio = Trio::of(Mesh::up());
    let mut client = Client::of(&trio.mesh);
    make(&mut client, POLICIES, &denying("late", "alice", 9999));
    let path = format!("{POLICIES}/late");
    // The history of the store is full after 600 updates; from then on there is nothing that grows.
    let (warm, updates) = if e2e::scale() > 1 { (1_000, 10_000) } else { (1_000, 500) };
    let mut sizes: Vec<u64> = Vec::new();
    let begun = Instant::now();
    for round in 0..=warm + updates {
        let open = switch(&mut client, &path, round);
        if round % 50 == 0 {
            assert_eq!(trio.alice_gets(&trio.server, 9002), open, "round {round}");
            sizes.push(resident(trio.mesh.daemon()));
        }
    }
    let grown = sizes[(warm + updates) / 50].saturating_sub(sizes[warm / 50]);
    println!("{:?} for {} updates; grown by {grown}; sizes {sizes:?}", begun.elapsed(), warm + updates);
    assert!(grown < GROWTH_MAX, "{updates} updates after {warm} took {grown} bytes: {sizes:?}");
}

/// Does something with each of so many numbers, by several clients at a time: the store commits together what comes together.
fn by_several(trio: &Trio, count: usize, each: impl Fn(&mut Client, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Client::of(&trio.mesh);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    each(&mut client, number);
                }
            });
        }
    });
}

/// Policies switch, and each is in force when it is answered; how long one takes.
fn switches(trio: &Trio, client: &mut Client) -> Duration {
    make(client, POLICIES, &denying("late", "alice", 9999));
    let path = format!("{POLICIES}/late");
    let mut took = Vec::new();
    for round in 0..20 {
        let begun = Instant::now();
        let open = switch(client, &path, round);
        took.push(begun.elapsed());
        assert_eq!(trio.alice_gets(&trio.server, 9002), open, "round {round}");
    }
    took.sort();
    took[10]
}

#[test]
fn many_pods_take_so_much_memory_and_policies_still_switch() {
    let trio = Trio::of(Mesh::up());
    let mut client = Client::of(&trio.mesh);
    // 25 in a landing, 500 in the long run.
    let pods = if e2e::scale() > 1 { 500 } else { 25 };
    let (denied, permitted) = (trio.denied(), trio.permitted());
    let (before, begun) = (resident(trio.mesh.daemon()), Instant::now());
    by_several(&trio, pods, |client, number| {
        make(client, PODS, &pod(&format!("many-{number}"), "server", &running("exec sleep infinity")));
    });
    assert_eq!(rest(&mut client).len(), pods + 3);
    let ready = begun.elapsed();
    let switch = switches(&trio, &mut client);
    let grown = resident(trio.mesh.daemon()).saturating_sub(before);
    println!("{pods} pods are ready after {ready:?} and take {grown} bytes; a switch takes {switch:?}");
    assert!(grown < HISTORY_MAX + pods as u64 * POD_MAX, "{pods} pods took {grown} bytes");
    assert_eq!(odd(&denied), Vec::<String>::new());
    assert_eq!(odd(&permitted), Vec::<String>::new());
}

#[test]
fn many_policies_take_so_much_memory_and_still_switch() {
    let trio = Trio::of(Mesh::up());
    let mut client = Client::of(&trio.mesh);
    // 500 in a landing, 5,000 in the long run; all apply to the server.
    let policies = if e2e::scale() > 1 { 5_000 } else { 500 };
    let (denied, permitted) = (trio.denied(), trio.permitted());
    let (before, begun) = (resident(trio.mesh.daemon()), Instant::now());
    by_several(&trio, policies, |client, number| {
        let port = 10_000 + u16::try_from(number).unwrap();
        make(client, POLICIES, &denying(&format!("many-{number}"), "alice", port));
    });
    let taken = begun.elapsed();
    let switch = switches(&trio, &mut client);
    let grown = resident(trio.mesh.daemon()).saturating_sub(before);
    println!("{policies} policies are in force after {taken:?} and take {grown} bytes; a switch takes {switch:?}");
    assert!(grown < HISTORY_MAX + policies as u64 * POLICY_MAX, "{policies} policies took {grown} bytes");
    assert_eq!(odd(&denied), Vec::<String>::new());
    assert_eq!(odd(&permitted), Vec::<String>::new());
}
