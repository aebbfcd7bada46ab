//! What outlives this process, and what comes and goes with a pod.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use dataplane::{Dataplane, Error, NodeNet, PodNet};
use linux::netlink::{Protocol, Socket};
use linux::netns::NetNs;
use policy::mesh::WorkloadId;
use tokio::sync::mpsc;

use super::harness::{Bed, Pod, allow, deny, echoes, is_refused, is_reset, serve};

#[test]
fn an_address_is_dropped_when_no_pod_no_table_and_no_socket_knows_it() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    bed.enforce(&[("foo", "p", deny("server", &["foo/other"], &[]))]);
    let addresses = vec![client.net.v4.into(), client.net.v6.into()];
    let dropped = |bed: &Bed| bed.runtime.block_on(bed.dataplane.has_dropped(addresses.clone())).unwrap();
    assert!(!dropped(&bed), "it is attached");
    bed.detach(&client);
    assert!(!dropped(&bed), "the snapshot in force knows it");
    bed.mesh.workloads.retain(|workload| workload.id != *client.id());
    let next = bed.compile();
    assert!(!dropped(&bed), "not in force yet");
    bed.runtime.block_on(bed.dataplane.publish(next));
    assert!(dropped(&bed));
    // Another pod asks for a connection with it, which nothing answers: its end is gone.
    let asking = server.net.netns.run(|| {
        use rustix::net::{AddressFamily, SocketType, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        assert_eq!(connect(&socket, &client.v4(9)), Err(rustix::io::Errno::INPROGRESS));
        socket
    });
    assert!(!dropped(&bed), "a socket knows it");
    drop(asking);
    assert!(dropped(&bed));
}

/// Where the child process of a test learns what to enforce: namespaces of the parent by their handles.
const CHILD: &str = "TIDEGATE_TEST_CHILD";

fn handle(netns: &NetNs) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.handle().as_raw_fd())
}

/// Not a test of its own: the process that the next test kills. Without its variable it has nothing to do.
#[test]
fn child_that_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let open = |path: &str| NetNs::open(Path::new(path)).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut bed = Bed::new();
    let node = NodeNet { netns: open(&text(&told["node"])), host_link: 101, ..bed.node.clone() };
    let (sender, _records) = mpsc::channel(16);
    bed.dataplane = bed.runtime.block_on(Dataplane::start(node, sender)).unwrap();
    for pod in told["pods"].as_array().unwrap() {
        let net = PodNet {
            workload: WorkloadId::new("foo", text(&pod["name"])),
            netns: open(&text(&pod["netns"])),
            v4: text(&pod["v4"]).parse().unwrap(),
            v6: text(&pod["v6"]).parse().unwrap(),
            node_link: u32::try_from(pod["link"].as_u64().unwrap()).unwrap(),
        };
        let pod = Pod { net };
        bed.attach(&pod);
        bed.add(&pod);
    }
    bed.enforce(&[("foo", "p", allow("server", &["foo/friend"], &[9000, 9001]))]);
    writeln!(std::io::stdout(), "in force").unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
}

#[test]
fn tables_and_connections_outlive_kill_9_and_the_next_process_adopts_them() {
    let mut bed = Bed::new();
    let (server, friend, other) =
        (bed.bare_pod("foo", "server"), bed.bare_pod("foo", "friend"), bed.bare_pod("foo", "other"));
    let gone = bed.bare_pod("foo", "gone");
    let pods = [&server, &friend, &other, &gone].map(|pod| {
        serde_json::json!({
            "name": pod.id().name, "netns": handle(&pod.net.netns), "link": pod.net.node_link,
            "v4": pod.net.v4.to_string(), "v6": pod.net.v6.to_string(),
        })
    });
    let told = serde_json::json!({ "node": handle(&bed.node.netns), "pods": pods });
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kernel::life::child_that_is_killed", "--nocapture"])
        .env(CHILD, told.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("in force")), "the child has enforced");
    let echo = serve(&server, 9000);
    serve(&server, 9001);
    let mut kept: Vec<_> = server.both(9000).iter().map(|to| friend.connect(*to).unwrap()).collect();
    let mut taken: Vec<_> = server.both(9001).iter().map(|to| friend.connect(*to).unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();

    let both_verdicts_stand = || {
        for to in server.both(9000) {
            assert!(is_refused(&other.connect(to)), "{to}");
            assert!(echoes(&mut friend.connect(to).unwrap()), "{to}");
        }
    };
    both_verdicts_stand();
    assert!(kept.iter_mut().all(echoes));
    // The next process: until its first snapshot nothing changes.
    for pod in [&server, &friend, &other] {
        bed.attach(pod);
        bed.add(pod);
    }
    both_verdicts_stand();
    // Its first snapshot judges what is open, for a kill between a change and its resets.
    let report = bed.enforce(&[("foo", "p", allow("server", &["foo/friend"], &[9000]))]);
    assert_eq!(report.workloads[server.id()].resets, 2);
    both_verdicts_stand();
    assert!(kept.iter_mut().all(echoes));
    assert!(taken.iter_mut().all(is_reset));
    assert_eq!(echo.accepted(), 8);
    // What was not taken over passes nothing any more.
    let before = bed.forged();
    let packet = super::packet::Packet::syn(gone.v4(4000), server.v4(9000));
    super::packet::send(&gone.net.netns, server.net.v4.into(), &[packet.whole()]);
    super::harness::wait_until("the guard is closed", || bed.forged() == before + 1);
}

#[test]
fn a_connection_left_open_by_a_kill_between_change_and_reset_is_found_at_the_next_start() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    bed.publish();
    let mut stream = client.connect(server.v4(9000)).unwrap();
    // As after such a kill: the table in the kernel already refuses, the connection is open.
    let mut next = Bed::new();
    std::mem::swap(&mut next.mesh, &mut bed.mesh);
    let node = bed.node.clone();
    let (sender, _records) = mpsc::channel(16);
    bed.detach_observers();
    next.dataplane = next.runtime.block_on(Dataplane::start(node, sender)).unwrap();
    for pod in [&server, &client] {
        next.attach(pod);
    }
    assert!(echoes(&mut stream), "attaching alone changes nothing");
    let report = next.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    assert_eq!(report.workloads[server.id()].resets, 1);
    assert!(is_reset(&mut stream));
}

/// Tells others to stop, also when this test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn while_the_next_process_takes_over_no_first_packet_is_lost_and_none_gets_in_that_may_not() {
    let mut bed = Bed::new();
    let (server, friend, enemy) = (bed.pod("foo", "server"), bed.pod("foo", "friend"), bed.pod("foo", "enemy"));
    let others: Vec<_> = (0..12).map(|number| bed.pod("bar", &format!("other-{number}"))).collect();
    let echo = serve(&server, 9000);
    let policy = || [("foo", "p", deny("server", &["foo/enemy"], &[]))];
    bed.enforce(&policy());
    let mut next = Bed::new();
    std::mem::swap(&mut next.mesh, &mut bed.mesh);
    let forged = bed.forged();
    bed.detach_observers();
    let stop = AtomicBool::new(false);
    let knock = |client: &'_ Pod, is_let_in: bool| {
        let mut count = 0_usize;
        while !stop.load(Ordering::Relaxed) || count == 0 {
            for to in server.both(9000) {
                let connected = client.connect(to);
                assert_eq!(connected.is_ok(), is_let_in, "{to}: {connected:?}");
                count += 1;
            }
        }
        count
    };
    let (tried, refused) = std::thread::scope(|scope| {
        let (good, bad) = (scope.spawn(|| knock(&friend, true)), scope.spawn(|| knock(&enemy, false)));
        let ending = Stop(&stop);
        for _ in 0..5 {
            let (sender, _records) = mpsc::channel(16);
            next.dataplane = next.runtime.block_on(Dataplane::start(bed.node.clone(), sender)).unwrap();
            for pod in [&server, &friend, &enemy].into_iter().chain(&others) {
                next.attach(pod);
            }
            let report = next.enforce(&policy());
            assert!(report.workloads.values().all(|one| one.trouble.is_none()), "{report:?}");
        }
        drop(ending);
        (good.join().unwrap(), bad.join().unwrap())
    });
    assert!(tried > 50 && refused > 50, "{tried} and {refused} tries");
    assert_eq!(next.forged(), forged, "packets that the guard dropped");
    super::harness::wait_until("all are counted", || echo.accepted() == tried);
}

#[test]
fn a_freed_address_has_no_connections_left_at_either_end() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let bystander = bed.pod("foo", "bystander");
    serve(&server, 9000);
    serve(&client, 9000);
    bed.publish();
    let mut incoming = client.connect(server.v4(9000)).unwrap();
    let mut outgoing = server.connect(client.v6(9000)).unwrap();
    let mut untouched = bystander.connect(server.v4(9000)).unwrap();
    assert!([&mut incoming, &mut outgoing, &mut untouched].into_iter().all(echoes));
    bed.detach(&client);
    assert!(is_reset(&mut outgoing), "the other end is told at once");
    assert!(is_reset(&mut incoming));
    assert!(echoes(&mut untouched));
    // The address may be given out again, at once and as often as one likes.
    for _ in 0..50 {
        bed.detach(&client);
        bed.attach(&client);
    }
}

#[test]
fn a_pod_that_goes_tells_its_peers_outside_and_leaves_nothing_behind_if_its_link_is_gone() {
    let mut bed = Bed::new();
    let (server, client, cut) = (bed.pod("foo", "server"), bed.pod("foo", "client"), bed.pod("foo", "cut"));
    serve(&server, 9000);
    super::harness::serve_with(&bed.host, 9000, |mut stream| {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    bed.publish();
    let mut outside = client.connect(([10, 99, 0, 1], 9000).into()).unwrap();
    assert!(echoes(&mut outside));
    bed.detach(&client);
    assert!(is_reset(&mut outside), "its own sockets are destroyed, to whomever they lead");
    let _stream = cut.connect(server.v4(9000)).unwrap();
    let with_cut = || {
        let list = server.net.netns.run(|| {
            linux::diag::tcp(&mut Socket::open(Protocol::SockDiag).unwrap(), &linux::diag::State::ALL).unwrap()
        });
        list.unwrap().iter().filter(|socket| socket.remote.ip() == std::net::IpAddr::V4(cut.net.v4)).count()
    };
    assert_eq!(with_cut(), 1);
    bed.unlink(&cut);
    bed.detach(&cut);
    assert_eq!(with_cut(), 0, "no reset could come from there");
}

#[test]
fn a_name_a_link_or_an_address_is_attached_once() {
    let mut bed = Bed::new();
    let (first, second) = (bed.pod("foo", "first"), bed.bare_pod("foo", "second"));
    let own = &first.net;
    let shared = [
        PodNet { workload: own.workload.clone(), ..second.net.clone() },
        PodNet { v4: own.v4, ..second.net.clone() },
        PodNet { v6: own.v6, ..second.net.clone() },
        PodNet { node_link: own.node_link, ..second.net.clone() },
    ];
    for net in shared {
        let refused = bed.runtime.block_on(bed.dataplane.attach(net)).unwrap_err();
        assert!(matches!(&refused, Error::Taken { holder, .. } if **holder == own.workload), "{refused}");
    }
    bed.attach(&second);
}

#[test]
fn a_pod_attached_after_a_snapshot_that_knows_it_has_its_table_when_attach_returns() {
    let mut bed = Bed::new();
    let (server, client) = (bed.bare_pod("foo", "server"), bed.pod("foo", "client"));
    bed.add(&server);
    bed.enforce(&[("foo", "p", allow("server", &["foo/client"], &[9000]))]);
    bed.attach(&server);
    serve(&server, 9000);
    assert!(echoes(&mut client.connect(server.v4(9000)).unwrap()));
    assert!(is_refused(&client.connect(server.v4(9001))));
    assert_eq!(bed.counts(&server).generation, 1);
}

#[test]
fn an_older_snapshot_does_not_replace_a_newer_one() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    let older = bed.compile();
    bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9000]))]);
    let report = bed.runtime.block_on(bed.dataplane.publish(older));
    assert!(!report.complete);
    assert!(is_refused(&client.connect(server.v4(9000))));
}
