//! The node namespace and pod links by the real kernel. Requires root; every test has a mesh of its own.
#![cfg(test)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use linux::netns::NetNs;
use linux::route::{Router, VethEnd};
use local::node::{Net4, Ranges};
use local::{Error, Host, MeshId, Node, NodeSettings, PodLink};

const WAIT: Duration = Duration::from_secs(5);

/// A node that takes itself away at the end of its test.
struct Mesh {
    node: Option<Node>,
    settings: NodeSettings,
    _dir: tempfile::TempDir,
}

impl Mesh {
    fn new(id: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let id: MeshId = id.parse().unwrap();
        let settings = NodeSettings { id, run_dir: dir.path().join("run"), ranges: None, host: Host::default() };
        Self { node: Some(Node::up(&settings).unwrap()), settings, _dir: dir }
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// As after kill -9: handles closed, nothing removed, and up again.
    fn restart(&mut self) -> &Node {
        self.node = None;
        self.node = Some(Node::up(&self.settings).unwrap());
        self.node()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.node = None;
        Node::remove(&self.settings).unwrap();
    }
}

fn connect(from: &NetNs, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.run(|| TcpStream::connect_timeout(&to, WAIT)).unwrap()
}

fn addresses(pod: &PodLink) -> [IpAddr; 2] {
    [pod.v4.into(), pod.v6.into()]
}

/// Everything on the host that a mesh could leave or disturb, by identity.
fn host_state() -> BTreeSet<String> {
    let mut router = Router::open().unwrap();
    let mut state: BTreeSet<String> = router.links().unwrap().iter().map(|l| format!("{}{l:?}", l.index)).collect();
    state.extend(router.routed_v4().unwrap().iter().map(|route| format!("{route:?}")));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    state.extend(mounts.lines().filter(|line| line.contains("nsfs")).map(str::to_owned));
    state
}

#[test]
fn pods_reach_each_other_and_the_host_reaches_them_in_both_families() {
    let mesh = Mesh::new("e0000001");
    let (one, two) = (mesh.node().pod_link("uid-1").unwrap(), mesh.node().pod_link("uid-2").unwrap());
    assert_eq!(mesh.node().pod_link("uid-1").unwrap().v4, one.v4, "a second call changes nothing");
    for (from, to) in addresses(&one).into_iter().zip(addresses(&two)) {
        let listener = two.netns.tcp_listen(SocketAddr::new(to, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let client = connect(&one.netns, address).unwrap();
        assert_eq!(client.local_addr().unwrap().ip(), from);
        assert_eq!(listener.accept().unwrap().1.ip(), from);
        let mut outside = TcpStream::connect_timeout(&address, WAIT).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        let ranges = mesh.node().ranges();
        assert!([IpAddr::from(ranges.host_v4), ranges.host_v6.into()].contains(&peer.ip()));
        outside.write_all(b"ping").unwrap();
        outside.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ping");
        server.write_all(b"pong").unwrap();
        drop(server);
        text.clear();
        outside.read_to_string(&mut text).unwrap();
        assert_eq!(text, "pong", "pods answer the host");
    }
}

#[test]
fn a_pod_cannot_open_anything_on_the_host() {
    let mesh = Mesh::new("e0000002");
    let pod = mesh.node().pod_link("uid").unwrap();
    let ranges = mesh.node().ranges();
    let began = Instant::now();
    for host in [IpAddr::from(ranges.host_v4), ranges.host_v6.into()] {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        TcpStream::connect_timeout(&address, WAIT).unwrap();
        let error = connect(&pod.netns, address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        let inside: IpAddr = if host.is_ipv4() { pod.v4.into() } else { pod.v6.into() };
        let server = UdpSocket::bind((host, 0)).unwrap();
        let datagrams = pod.netns.udp_bind(SocketAddr::new(inside, 0)).unwrap();
        datagrams.connect(server.local_addr().unwrap()).unwrap();
        datagrams.set_read_timeout(Some(WAIT)).unwrap();
        datagrams.send(b"x").unwrap();
        let error = datagrams.recv(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    assert!(began.elapsed() < WAIT, "refused, not timed out");
}

#[test]
fn other_networks_fail_at_once_for_pods_and_for_the_node() {
    let mesh = Mesh::new("e0000003");
    let pod = mesh.node().pod_link("uid").unwrap();
    let began = Instant::now();
    for to in ["8.8.8.8:53", "192.0.2.2:22", "169.254.169.254:80", "[2001:db8::1]:80"] {
        for netns in [&pod.netns, mesh.node().netns()] {
            let error = connect(netns, to.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{to}: {error}");
        }
    }
    // Inside the mesh's ranges but nobody's: the node refuses.
    let ranges = mesh.node().ranges();
    for to in [
        IpAddr::from(ranges.pods_v4.nth(77).unwrap()),
        ranges.pods_v6.nth(77).unwrap().into(),
        ranges.services_v4.nth(77).unwrap().into(),
        ranges.services_v6.nth(77).unwrap().into(),
        ranges.aliases_v4.nth(1).unwrap().into(),
        ranges.aliases_v6.nth(1).unwrap().into(),
    ] {
        for _ in 0..20 {
            let error = connect(&pod.netns, SocketAddr::new(to, 9)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
        }
    }
    assert!(began.elapsed() < WAIT, "refused, not timed out");
}

#[test]
fn pod_links_have_addresses_of_their_own_and_their_time_is_told() {
    let mesh = Mesh::new("e0000004");
    let mut times: Vec<Duration> = (0..20)
        .map(|n| {
            let began = Instant::now();
            mesh.node().pod_link(&format!("uid-{n}")).unwrap();
            began.elapsed()
        })
        .collect();
    times.sort();
    println!("median {:?}, worst {:?}", times[10], times[19]);
    let links = mesh.node().pod_links();
    let addresses: BTreeSet<_> = links.iter().flat_map(|link| [IpAddr::from(link.v4), link.v6.into()]).collect();
    assert_eq!((links.len(), addresses.len()), (20, 40));
}

#[test]
fn everything_made_is_removed_and_nothing_else() {
    // Made outside of the comparison: other tests come and go meanwhile, so only names of this mesh are compared.
    let mine = |state: BTreeSet<String>, mesh: &Mesh| -> Vec<String> {
        let run = mesh.settings.run_dir.display().to_string();
        state.into_iter().filter(|line| line.contains("tge0000005") || line.contains(&run)).collect()
    };
    let mut mesh = Mesh::new("e0000005");
    let pod = mesh.node().pod_link("uid").unwrap();
    let stranger_dir = tempfile::tempdir().unwrap();
    let stranger = NetNs::create().unwrap();
    stranger.pin(&stranger_dir.path().join("other")).unwrap();
    assert_eq!(mine(host_state(), &mesh).len(), 3, "link and two pins: {:?}", mine(host_state(), &mesh));
    mesh.node = None;
    Node::remove(&mesh.settings).unwrap();
    assert_eq!(mine(host_state(), &mesh), Vec::<String>::new());
    assert!(!mesh.settings.run_dir.exists());
    assert_eq!(Router::open_in(&pod.netns).unwrap().links().unwrap().len(), 1, "only lo is left to who holds it");
    Node::remove(&mesh.settings).unwrap();
    assert_eq!(NetNs::open(&stranger_dir.path().join("other")).unwrap().id().unwrap(), stranger.id().unwrap());
    linux::netns::unpin(&stranger_dir.path().join("other")).unwrap();
}

#[test]
fn a_link_of_the_same_name_that_is_not_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let settings = NodeSettings {
        id: "e0000006".parse().unwrap(),
        run_dir: dir.path().join("run"),
        ranges: None,
        host: Host::default(),
    };
    let other = NetNs::create().unwrap();
    let mut host = Router::open().unwrap();
    let end = |name| VethEnd { name, index: None, mac: [2, 0, 0, 0, 0, 9] };
    host.add_veth(end("tge0000006h"), end("x"), &other).unwrap();
    Node::remove(&settings).unwrap();
    let link = host.link("tge0000006h").unwrap().expect("still there");
    let error = Node::up(&settings).unwrap_err();
    assert!(error.to_string().contains("join the node namespace to the host"), "{error}");
    host.delete_link(link.index).unwrap();
    Node::remove(&settings).unwrap();
}

#[test]
fn a_killed_daemon_leaves_pods_that_the_next_one_adopts() {
    let mut mesh = Mesh::new("e0000007");
    let one = mesh.node().pod_link("uid-1").unwrap();
    let two = mesh.node().pod_link("uid-2").unwrap();
    let (node, ranges) = (mesh.node().netns().id().unwrap(), *mesh.node().ranges());
    let listener = two.netns.tcp_listen(SocketAddr::new(two.v4.into(), 0)).unwrap();
    let mut client = connect(&one.netns, listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    // Half-made states: a pin without mount, a pin of a namespace without link, a link without pin.
    let pods = mesh.settings.run_dir.join("pods");
    std::fs::write(pods.join("9-half"), "").unwrap();
    NetNs::create().unwrap().pin(&pods.join("10-unlinked")).unwrap();
    let stray = NetNs::create().unwrap();
    let end = |name| VethEnd { name, index: Some(1011), mac: [2, 0, 0, 0, 0, 9] };
    Router::open_in(mesh.node().netns()).unwrap().add_veth(end("p11"), end("eth0"), &stray).unwrap();
    mesh.restart();
    assert_eq!(mesh.node().netns().id().unwrap(), node, "adopted, not made anew");
    assert_eq!(*mesh.node().ranges(), ranges);
    let uids: Vec<String> = mesh.node().pod_links().into_iter().map(|link| link.uid).collect();
    assert_eq!(uids, ["uid-1", "uid-2"]);
    assert_eq!(mesh.node().pod_link("uid-1").unwrap().v4, one.v4);
    assert_eq!(Router::open_in(&stray).unwrap().links().unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(&pods).unwrap().count(), 2);
    assert_ne!(mesh.node().pod_link("uid-3").unwrap().v4, one.v4);
    client.write_all(b"still").unwrap();
    drop(client);
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still", "an open connection outlives the daemon");
}

#[test]
fn what_is_not_whole_is_made_anew() {
    let mut mesh = Mesh::new("e0000008");
    let first = mesh.node().netns().id().unwrap();
    mesh.node().pod_link("uid").unwrap();
    let link = Router::open().unwrap().link("tge0000008h").unwrap().unwrap();
    Router::open().unwrap().delete_link(link.index).unwrap();
    assert_ne!(mesh.restart().netns().id().unwrap(), first);
    assert!(mesh.node().pod_links().is_empty(), "pods of the former node are gone");
    std::fs::write(mesh.settings.run_dir.join("node.json"), "{").unwrap();
    mesh.restart().pod_link("uid").unwrap();
}

#[test]
fn a_node_that_gives_pods_no_table_of_connections_is_made_anew() {
    const SLOTS: &str = "net/ipv4/tcp_child_ehash_entries";
    let mut mesh = Mesh::new("e000000c");
    // As the first version laid it.
    mesh.node().netns().run(|| linux::sysctl::write_if_there(SLOTS, "0")).unwrap().unwrap();
    let facts = mesh.settings.run_dir.join("node.json");
    let mut said: serde_json::Value = serde_json::from_slice(&std::fs::read(&facts).unwrap()).unwrap();
    said["layout"] = 1.into();
    std::fs::write(facts, said.to_string()).unwrap();
    let pod = mesh.restart().pod_link("uid").unwrap();
    if Path::new("/proc/sys").join(SLOTS).exists() {
        let slots = pod.netns.run(|| linux::sysctl::read("net/ipv4/tcp_ehash_entries")).unwrap().unwrap();
        assert_eq!(slots, "8192");
    }
}

#[test]
fn a_pool_of_two_under_churn_gives_each_address_to_one_pod_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let id: MeshId = "e0000009".parse().unwrap();
    let mut ranges = Ranges::choose(id, &[]).unwrap();
    ranges.pods_v4 = Net4 { prefix: 30, ..ranges.pods_v4 };
    let settings = NodeSettings { id, run_dir: dir.path().join("run"), ranges: Some(ranges), host: Host::default() };
    let node = Some(Node::up(&settings).unwrap());
    let mesh = Mesh { node, settings, _dir: dir };
    let server = mesh.node().pod_link("server").unwrap();
    let mut seen = BTreeSet::new();
    for round in 0..10 {
        let uid = format!("uid-{round}");
        let link = mesh.node().pod_link(&uid).unwrap();
        seen.insert(link.v4);
        let error = mesh.node().pod_link("one-more").unwrap_err();
        assert!(matches!(error, Error::NoFreeAddress { size: 2, used: 2, resting: 0, .. }), "{error}");
        let listener = server.netns.tcp_listen(SocketAddr::new(server.v4.into(), 0)).unwrap();
        connect(&link.netns, listener.local_addr().unwrap()).unwrap();
        assert!(mesh.node().pod_unlink(&uid).unwrap());
        assert!(!mesh.node().pod_unlink(&uid).unwrap());
        assert!(connect(&link.netns, listener.local_addr().unwrap()).is_err(), "no link, no traffic");
        let error = mesh.node().pod_link("one-more").unwrap_err();
        assert!(matches!(error, Error::NoFreeAddress { used: 1, resting: 1, .. }), "{error}");
        mesh.node().proven_gone(&link);
    }
    assert_eq!(seen.len(), 1);
}

#[test]
fn a_pod_with_a_forged_source_is_not_heard() {
    let mesh = Mesh::new("e000000a");
    let (one, two) = (mesh.node().pod_link("uid-1").unwrap(), mesh.node().pod_link("uid-2").unwrap());
    let three = mesh.node().pod_link("uid-3").unwrap();
    // As if the pod had NET_ADMIN: it wears the address of another.
    Router::open_in(&one.netns).unwrap().add_address(one.node_link, three.v4.into(), 32).unwrap();
    let server = two.netns.udp_bind(SocketAddr::new(two.v4.into(), 0)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let forged = one.netns.udp_bind(SocketAddr::new(three.v4.into(), 0)).unwrap();
    forged.send_to(b"forged", server.local_addr().unwrap()).unwrap();
    assert!(server.recv(&mut [0; 8]).is_err());
    let honest = one.netns.udp_bind(SocketAddr::new(one.v4.into(), 0)).unwrap();
    honest.send_to(b"honest", server.local_addr().unwrap()).unwrap();
    assert_eq!(server.recv(&mut [0; 8]).unwrap(), 6);
    // The host cannot speak as a pod either.
    let host = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    host.send_to(b"host", server.local_addr().unwrap()).unwrap();
    assert_eq!(server.recv_from(&mut [0; 8]).unwrap().1.ip(), IpAddr::from(mesh.node().ranges().host_v4));
}

#[test]
fn settings_of_pods_are_as_the_tables_need_them() {
    let mesh = Mesh::new("e000000b");
    // What the kernel reckons on a smaller machine.
    let of_host = [("net/ipv4/tcp_max_syn_backlog", "256"), ("net/ipv4/tcp_max_tw_buckets", "16384")];
    for (name, value) in of_host {
        mesh.node().netns().run(|| linux::sysctl::write(name, value)).unwrap().unwrap();
    }
    let pod = mesh.node().pod_link("uid").unwrap();
    let read = |name: &'static str| pod.netns.run(|| linux::sysctl::read(name)).unwrap().unwrap();
    assert_eq!(read("net/ipv4/tcp_syncookies"), "0");
    assert_eq!(read("net/ipv4/ip_unprivileged_port_start"), "0");
    assert_eq!(read("net/ipv4/ip_forward"), "0");
    if Path::new("/proc/sys/net/ipv4/tcp_child_ehash_entries").exists() {
        assert_eq!(read("net/ipv4/tcp_ehash_entries"), "8192", "a table of connections of its own");
    }
    for (name, value) in of_host {
        assert_eq!(read(name), value, "{name}: what a host has, not what the few slots give");
    }
    assert_eq!(read("net/ipv6/conf/eth0/accept_ra"), "0");
    if Path::new("/proc/sys/net/mptcp").exists() {
        assert_eq!(read("net/mptcp/enabled"), "0");
    }
    let addresses = Router::open_in(&pod.netns).unwrap().addresses(pod.node_link).unwrap();
    assert_eq!(addresses, [(pod.v4.into(), 32), (pod.v6.into(), 128)], "no link-local address");
    let ino = std::fs::metadata(&pod.path).unwrap().ino();
    assert_eq!(ino, pod.netns.id().unwrap().inode, "pinned where it says");
    for bad in ["", "../x", "a/b"] {
        assert!(matches!(mesh.node().pod_link(bad), Err(Error::PodUid { .. })), "{bad}");
    }
}
