//! A change of policy while connections run.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use linux::diag::{self, State, TcpSocket};
use linux::netlink::{Protocol, Socket};
use linux::netns::NetNs;
use linux::nft::{Base, BaseChain, ChainKind, Family, Hook, Meta, REGISTER, Rule, Table, Transaction, Verdict};
use serde_json::json;

use super::harness::{
    BOUND, Bed, Pod, allow, connect, deny, echoes, is_refused, is_reset, listen, serve, serve_with, wait_until,
};
use super::packet::{ACK, Packet, SYN, send};

fn sockets(pod: &Pod) -> Vec<TcpSocket> {
    pod.net.netns.run(|| diag::tcp(&mut Socket::open(Protocol::SockDiag).unwrap(), &State::ALL).unwrap()).unwrap()
}

/// Connections of a pod's port with a peer that can still carry data or become open.
pub(crate) fn open_with(pod: &Pod, port: u16, peer: IpAddr) -> usize {
    let live = |socket: &&TcpSocket| !matches!(socket.state, State::Listen | State::TimeWait | State::Close);
    sockets(pod).iter().filter(live).filter(|s| s.local.port() == port && s.remote.ip() == peer).count()
}

fn nft<R: Send>(netns: &NetNs, work: impl FnOnce(&mut Socket, &Table) -> R + Send) -> R {
    let table = Table::named(Family::Inet, "test");
    netns.run(|| work(&mut Socket::open(Protocol::Netfilter).unwrap(), &table)).unwrap()
}

/// Drops TCP packets with exactly these of SYN, ACK and RST that come into the namespace.
fn drop_incoming(netns: &NetNs, flags: u8) {
    nft(netns, |socket, table| {
        let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -350, accept: true };
        let mut lay = Transaction::on(table);
        lay.create_table().base_chain("drop", base);
        let rule = Rule::begin()
            .meta(Meta::TransportProtocol, REGISTER)
            .equals(REGISTER, &[6])
            .payload(Base::Transport, 13, 1, REGISTER)
            .mask(REGISTER, &[0x16])
            .equals(REGISTER, &[flags])
            .verdict(&Verdict::Drop);
        lay.rule("drop", &rule);
        lay.commit(socket).unwrap();
    });
}

fn drop_nothing(netns: &NetNs) {
    nft(netns, |socket, table| {
        let mut remove = Transaction::on(table);
        remove.delete_table();
        remove.commit(socket).unwrap();
    });
}

#[test]
fn exactly_the_connections_no_longer_permitted_are_reset() {
    let mut bed = Bed::new();
    let (server, friend, other) = (bed.pod("foo", "server"), bed.pod("foo", "friend"), bed.pod("foo", "other"));
    serve(&server, 9000);
    serve(&server, 9001);
    serve(&friend, 9000);
    let everyone = allow("server", &["foo/friend", "foo/other"], &[9000, 9001]);
    bed.enforce(&[("foo", "p", everyone)]);
    let dial = |from: &Pod, to: &Pod, port: u16| -> Vec<TcpStream> {
        (0..20).map(|n| from.connect(to.both(port)[n % 2]).unwrap()).collect()
    };
    let mut kept = [
        dial(&friend, &server, 9000),
        dial(&friend, &server, 9001),
        dial(&other, &server, 9000),
        dial(&server, &friend, 9000),
    ];
    let mut taken = dial(&other, &server, 9001);
    assert!(kept.iter_mut().flatten().chain(&mut taken).all(echoes));

    let report = bed.enforce(&[
        ("foo", "p", allow("server", &["foo/friend", "foo/other"], &[9000, 9001])),
        ("foo", "q", deny("server", &["foo/other"], &[9001])),
    ]);
    assert_eq!(report.workloads[server.id()].resets, 20);
    assert_eq!(bed.counts(&server).resets, 20);
    for stream in &mut taken {
        assert!(is_reset(stream), "a connection no longer permitted is reset");
    }
    assert!(kept.iter_mut().flatten().all(echoes), "no other is touched");
}

#[test]
fn a_change_of_labels_account_or_policy_order_is_judged_as_a_change_of_policy() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    bed.enforce(&[("foo", "p", allow("server", &["foo/client"], &[])), ("foo", "q", deny("guarded", &[], &[]))]);
    let mut stream = client.connect(server.v4(9000)).unwrap();
    bed.policies(&[("foo", "q", deny("guarded", &[], &[])), ("foo", "p", allow("server", &["foo/client"], &[]))]);
    assert_eq!(bed.publish().workloads[server.id()].resets, 0);
    assert!(echoes(&mut stream));
    // Another service account: another identity.
    bed.mesh.workloads[1].service_account = "somebody".to_owned();
    assert_eq!(bed.publish().workloads[server.id()].resets, 1);
    assert!(is_reset(&mut stream));
    bed.mesh.workloads[1].service_account = "client".to_owned();
    bed.publish();
    let mut stream = client.connect(server.v6(9000)).unwrap();
    assert!(echoes(&mut stream));
    bed.mesh.workloads[0].labels.insert("app".to_owned(), "guarded".to_owned());
    assert_eq!(bed.publish().workloads[server.id()].resets, 1);
    assert!(is_refused(&client.connect(server.v6(9000))));
}

#[test]
fn connections_from_outside_are_judged_again_too() {
    let mut bed = Bed::new();
    let server = bed.pod("foo", "server");
    serve(&server, 9000);
    bed.publish();
    let mut streams: Vec<_> = server.both(9000).iter().map(|to| connect(&bed.host, *to).unwrap()).collect();
    assert!(streams.iter_mut().all(echoes));
    let report = bed.enforce(&[("foo", "p", allow("server", &["foo/server"], &[]))]);
    assert_eq!(report.workloads[server.id()].resets, 2);
    assert!(streams.iter_mut().all(is_reset));
}

#[test]
fn what_a_pod_opened_itself_is_not_touched_by_its_own_policies() {
    let mut bed = Bed::new();
    let (pod, other) = (bed.pod("foo", "pod"), bed.pod("foo", "other"));
    serve(&other, 9000);
    serve(&pod, 9000);
    serve_with(&bed.host, 9000, |mut stream| {
        while stream.write_all(&[0; 4]).is_ok() && stream.read(&mut [0; 4]).is_ok_and(|n| n > 0) {}
    });
    bed.publish();
    let host = SocketAddr::from(([10, 99, 0, 1], 9000));
    let mut to_host = pod.connect(host).unwrap();
    to_host.read_exact(&mut [0; 4]).unwrap();
    let mut own: Vec<TcpStream> = other.both(9000).iter().map(|to| pod.connect(*to).unwrap()).collect();
    let mut inside =
        vec![pod.connect(pod.v4(9000)).unwrap(), pod.connect(SocketAddr::from(([127, 0, 0, 1], 9000))).unwrap()];
    assert!(own.iter_mut().chain(&mut inside).all(echoes));
    let report = bed.enforce(&[("foo", "none", json!({ "selector": { "matchLabels": { "app": "pod" } } }))]);
    assert_eq!(report.workloads[pod.id()].resets, 0);
    assert!(own.iter_mut().chain(&mut inside).all(echoes));
    to_host.write_all(&[0; 4]).unwrap();
    to_host.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn half_open_connections_are_destroyed_and_their_last_packet_opens_nothing() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let echo = serve(&server, 9000);
    bed.publish();
    // The client's stack must not see the answer: it would reset what it has not opened.
    drop_incoming(&client.net.netns, SYN | ACK);
    let syns: Vec<Packet> = server
        .both(9000)
        .iter()
        .map(|to| Packet::syn(if to.is_ipv4() { client.v4(4000) } else { client.v6(4000) }, *to))
        .collect();
    for syn in &syns {
        send(&client.net.netns, syn.destination.ip(), &[syn.whole()]);
        let peer = syn.source.ip();
        wait_until("it is half open", || {
            sockets(&server).iter().any(|s| s.state == State::SynRecv && s.remote.ip() == peer)
        });
    }
    let report = bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    assert_eq!(report.workloads[server.id()].resets, 2);
    for syn in &syns {
        assert_eq!(open_with(&server, 9000, syn.source.ip()), 0);
    }
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn orphans_with_unsent_data_are_destroyed() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    // The server writes what it can and closes: nobody owns the rest.
    serve_with(&server.net.netns, 9000, |mut stream| {
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[1; 8192]).is_ok() {}
    });
    bed.publish();
    let mut streams: Vec<_> = server.both(9000).iter().map(|to| client.connect(*to).unwrap()).collect();
    let is_orphan = |peer: IpAddr| move |s: &TcpSocket| s.remote.ip() == peer && s.state == State::FinWait1 && !s.owned;
    for peer in [IpAddr::V4(client.net.v4), client.net.v6.into()] {
        wait_until("it is an orphan with data", || sockets(&server).iter().any(is_orphan(peer)));
    }
    let report = bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    assert_eq!(report.workloads[server.id()].resets, 2);
    for peer in [IpAddr::V4(client.net.v4), client.net.v6.into()] {
        assert_eq!(open_with(&server, 9000, peer), 0);
    }
    for stream in &mut streams {
        assert!(stream.read_to_end(&mut Vec::new()).is_err(), "the rest of the data does not arrive as if whole");
    }
}

#[test]
fn a_connection_that_waits_to_be_accepted_is_destroyed() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let listener = listen(&server.net.netns, 9000);
    bed.publish();
    let mut stream = client.connect(server.v4(9000)).unwrap();
    stream.write_all(b"waiting").unwrap();
    let report = bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[]))]);
    assert_eq!(report.workloads[server.id()].resets, 1);
    assert!(is_reset(&mut stream));
    // The application may still take it out of the queue, but finds no data of a live connection.
    listener.set_nonblocking(true).unwrap();
    if let Ok((mut taken, _)) = listener.accept() {
        assert!(taken.write_all(b"answer").is_err() || taken.read(&mut [0; 16]).is_err());
    }
}

/// Two pods that open one connection from both ends: `late` dials while a SYN of `early` is out.
fn crossing(early: &Pod, late: &Pod) -> (TcpStream, std::io::Result<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, connect as dial, socket};
    let ports = (early.v4(5001), late.v4(5002));
    // What `early` sends first is dropped on its way; it goes on trying.
    drop_incoming(&late.net.netns, SYN);
    let first = early
        .net
        .netns
        .run(|| {
            let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            rustix::io::ioctl_fionbio(&fd, true).unwrap();
            bind(&fd, &ports.0).unwrap();
            assert_eq!(dial(&fd, &ports.1), Err(rustix::io::Errno::INPROGRESS));
            TcpStream::from(fd)
        })
        .unwrap();
    assert!(sockets(early).iter().any(|s| s.state == State::SynSent));
    let second = late
        .net
        .netns
        .run(|| {
            let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            bind(&fd, &ports.1).unwrap();
            dial(&fd, &ports.0).map(|()| TcpStream::from(fd)).map_err(std::io::Error::from)
        })
        .unwrap();
    drop_nothing(&late.net.netns);
    first.set_nonblocking(false).unwrap();
    first.set_read_timeout(Some(BOUND)).unwrap();
    (first, second)
}

#[test]
fn a_simultaneous_open_is_judged_as_incoming_at_both_ends() {
    let mut bed = Bed::new();
    let (early, late) = (bed.pod("foo", "early"), bed.pod("foo", "late"));
    // Refused from the beginning: the crossing SYN opens nothing.
    bed.enforce(&[("foo", "p", deny("early", &["foo/late"], &[]))]);
    let (first, second) = crossing(&early, &late);
    assert!(is_refused(&second));
    drop(first);
    assert_eq!(bed.counts(&early).refused, 1);
    // Permitted, then not any more: neither end looks accepted, and still it is found.
    bed.enforce(&[]);
    let (mut first, second) = crossing(&early, &late);
    let mut second = second.unwrap();
    second.set_read_timeout(Some(BOUND)).unwrap();
    first.write_all(b"ping").unwrap();
    second.read_exact(&mut [0; 4]).unwrap();
    let report = bed.enforce(&[("foo", "p", deny("early", &["foo/late"], &[]))]);
    assert_eq!(report.workloads[early.id()].resets, 1);
    assert!(is_reset(&mut first));
}

#[test]
fn nothing_inside_a_pod_is_exempt_by_a_mark() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    // A server that takes the mark off what it accepted, and a client that puts a mark on.
    serve_with(&server.net.netns, 9000, |mut stream| {
        set_mark(&stream, 0);
        let mut buffer = [0; 4];
        while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
    });
    bed.publish();
    let mut streams: Vec<_> = server.both(9000).iter().map(|to| client.connect(*to).unwrap()).collect();
    streams.push(connect(&bed.host, server.v4(9000)).unwrap());
    assert!(streams.iter_mut().all(echoes));
    let report = bed.enforce(&[("foo", "none", json!({ "selector": { "matchLabels": { "app": "server" } } }))]);
    assert_eq!(report.workloads[server.id()].resets, 3);
    assert!(streams.iter_mut().all(is_reset));
    // A mark on the way in exempts nobody either.
    let marked = client.net.netns.run(|| {
        use rustix::net::{AddressFamily, SocketType, connect as dial, socket};
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let stream = TcpStream::from(fd);
        set_mark(&stream, 0x5469_6465);
        dial(&stream, &server.v4(9000))
    });
    assert_eq!(marked.unwrap(), Err(rustix::io::Errno::CONNREFUSED));
}

#[expect(unsafe_code, reason = "what a process with NET_RAW inside a pod could do")]
fn set_mark(stream: &TcpStream, mark: u32) {
    use std::os::fd::AsRawFd;
    // SAFETY: the value lives across the call and its length is given.
    let done =
        unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, (&raw const mark).cast(), 4) };
    assert_eq!(done, 0);
}

#[test]
fn workloads_with_huge_tables_delay_no_other() {
    let mut bed = Bed::new();
    let (other, client) = (bed.pod("foo", "other"), bed.pod("foo", "client"));
    let huge = ["huge-1", "huge-2", "huge-3"].map(|name| bed.pod("foo", name));
    for pod in &huge {
        serve(pod, 9000);
    }
    for workload in bed.mesh.workloads.iter_mut().skip(2) {
        workload.labels.insert("app".to_owned(), "huge".to_owned());
    }
    serve(&other, 9000);
    let blocks: Vec<String> =
        (0..7_000_u32).map(|n| format!("10.{}.{}.{}/32", 100 + n / 8192, n / 32 % 256, n % 32 * 2)).collect();
    let spec = json!({ "selector": { "matchLabels": { "app": "huge" } }, "rules": [{ "from": [{ "source": { "ipBlocks": blocks } }] }] });
    bed.publish();
    // The first time nothing is known of it, and by name it comes first; the second time it was slow before.
    for round in 0..2 {
        bed.policies(&[("foo", "huge", spec.clone()), ("foo", "other", deny("other", &["foo/client"], &[9000]))]);
        let snapshot = bed.compile();
        let dataplane = bed.dataplane.clone();
        let publishing = bed.runtime.spawn(async move { dataplane.publish(snapshot).await });
        wait_until("the other has its table", || is_refused(&client.connect(other.v4(9000))));
        let done = huge.iter().filter(|pod| is_refused(&client.connect(pod.v4(9000)))).count();
        assert!(done <= 1, "round {round}: the other waited for {done} huge ones");
        let report = bed.runtime.block_on(publishing).unwrap();
        for pod in &huge {
            assert_eq!(report.workloads[pod.id()].entries, 7000);
        }
        bed.enforce(&[("foo", "other", deny("other", &["foo/client"], &[9001]))]);
        assert!(echoes(&mut client.connect(other.v4(9000)).unwrap()));
    }
}
