//! VIPs and DNS by the real kernel, from inside pods. Requires root; every test has a mesh of its own.
#![cfg(test)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Change, Event, Kinds, Object, Objects};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use linux::netns::NetNs;
use local::dns::{Dns, Zone, resolv_conf};
use local::vip::Vips;
use local::{Host, Node, NodeSettings, PodLink};
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(5);

struct Mesh {
    node: Option<Arc<Node>>,
    settings: NodeSettings,
    _dir: tempfile::TempDir,
}

impl Mesh {
    fn new(id: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = NodeSettings {
            id: id.parse().unwrap(),
            run_dir: dir.path().join("run"),
            ranges: None,
            host: Host::default(),
        };
        Self { node: Some(Arc::new(Node::up(&settings).unwrap())), settings, _dir: dir }
    }

    fn node(&self) -> &Arc<Node> {
        self.node.as_ref().unwrap()
    }

    fn pod(&self, uid: &str) -> PodLink {
        self.node().pod_link(uid).unwrap()
    }

    /// First VIPs of the ranges.
    fn vips(&self) -> [IpAddr; 2] {
        let ranges = self.node().ranges();
        [ranges.services_v4.nth(1).unwrap().into(), ranges.services_v6.nth(1).unwrap().into()]
    }

    fn vip(&self, v6: bool) -> SocketAddr {
        SocketAddr::new(self.vips()[usize::from(v6)], 80)
    }

    /// A service on port 80, with these pods as endpoints on port 9000: ready or not.
    fn service(&self, ends: &[(&PodLink, bool)]) -> Objects {
        let slice = |name: &str, v6: bool| {
            let end = |(pod, ready): &(&PodLink, bool)| json!({"addresses": [address(pod, v6)], "conditions": {"ready": ready}});
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "namespace": "foo", "labels": {"kubernetes.io/service-name": "echo"}},
                "endpoints": ends.iter().map(end).collect::<Vec<_>>(),
                "ports": [{"name": "", "port": 9000, "protocol": "TCP"}]})
        };
        let pods = ends.iter().map(|(pod, _)| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.uid, "namespace": "foo"},
                "status": {"podIPs": [{"ip": pod.v4}, {"ip": pod.v6}]}})
        });
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": "foo"},
            "spec": {"clusterIP": self.vips()[0], "clusterIPs": self.vips(), "ports": [{"port": 80}]}});
        let all: Vec<Value> = [service, slice("s4", false), slice("s6", true)].into_iter().chain(pods).collect();
        objects(&all)
    }

    fn tracked(&self) -> u64 {
        let count = || linux::sysctl::read("net/netfilter/nf_conntrack_count").unwrap().parse().unwrap();
        self.node().netns().run(count).unwrap()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.node = None;
        Node::remove(&self.settings).unwrap();
    }
}

fn objects(all: &[Value]) -> Objects {
    let (kinds, mut objects) = (Kinds::builtin(), Objects::new());
    for (revision, value) in (1..).zip(all) {
        let new = Object::new(value.clone()).unwrap();
        let key = kinds.key_of(&new).unwrap();
        objects.apply(&Event { revision, key, change: Change::Put { old: None, new: Arc::new(new) } });
    }
    objects
}

fn address(pod: &PodLink, v6: bool) -> IpAddr {
    if v6 { pod.v6.into() } else { pod.v4.into() }
}

fn listen(pod: &PodLink, v6: bool) -> TcpListener {
    pod.netns.tcp_listen(SocketAddr::new(address(pod, v6), 9000)).unwrap()
}

fn connect(from: &NetNs, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, WAIT)).unwrap()?;
    stream.set_read_timeout(Some(WAIT))?;
    Ok(stream)
}

fn talk(client: &mut TcpStream, server: &mut TcpStream) {
    let mut say = |one: bool, text: &[u8; 4]| {
        let (from, to) = if one { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
        from.write_all(text).unwrap();
        let mut read = [0; 4];
        to.read_exact(&mut read).unwrap();
        assert_eq!(&read, text);
    };
    say(true, b"ping");
    say(false, b"pong");
}

#[test]
fn a_vip_leads_to_its_endpoints_and_the_client_keeps_its_address() {
    let mesh = Mesh::new("f0000001");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    assert!(vips.sync(&mesh.service(&[(&server, true)])).unwrap());
    assert!(!vips.sync(&mesh.service(&[(&server, true)])).unwrap(), "nothing changed");
    for v6 in [false, true] {
        let listener = listen(&server, v6);
        let mut stream = connect(&client.netns, mesh.vip(v6)).unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), address(&client, v6));
        assert_eq!(stream.peer_addr().unwrap(), mesh.vip(v6));
        talk(&mut stream, &mut accepted);
        let mut outside = TcpStream::connect_timeout(&mesh.vip(v6), WAIT).unwrap();
        talk(&mut outside, &mut listener.accept().unwrap().0);
    }
}

#[test]
fn a_pod_reaches_itself_through_a_vip_from_its_alias() {
    let mesh = Mesh::new("f0000002");
    let pod = mesh.pod("pod");
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&pod, true)])).unwrap();
    for v6 in [false, true] {
        let listener = listen(&pod, v6);
        let mut stream = connect(&pod.netns, mesh.vip(v6)).unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        let alias: IpAddr = if v6 { pod.alias_v6.into() } else { pod.alias_v4.into() };
        assert_eq!(from.ip(), alias);
        assert_eq!(mesh.node().ranges().alias_of(address(&pod, v6)), Some(alias));
        talk(&mut stream, &mut accepted);
    }
}

#[test]
fn without_ready_endpoint_a_connect_is_reset_at_once() {
    let mesh = Mesh::new("f0000003");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&server, false)])).unwrap();
    let began = Instant::now();
    for v6 in [false, true] {
        let listener = listen(&server, v6);
        let refused = |to| assert_eq!(connect(&client.netns, to).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        refused(mesh.vip(v6));
        vips.sync(&mesh.service(&[(&server, true)])).unwrap();
        refused(SocketAddr::new(mesh.vip(v6).ip(), 81));
        connect(&client.netns, mesh.vip(v6)).unwrap();
        drop(listener);
        refused(mesh.vip(v6));
        mesh.node().pod_unlink("nobody").unwrap();
        vips.sync(&mesh.service(&[(&server, false)])).unwrap();
    }
    // An endpoint whose pod is gone: the node answers in its place, and the client hears it from the VIP.
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    mesh.node().pod_unlink("server").unwrap();
    for v6 in [false, true] {
        let error = connect(&client.netns, mesh.vip(v6)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
    assert!(began.elapsed() < WAIT, "refused, not timed out");
}

#[test]
fn all_ready_endpoints_have_their_turn() {
    let mesh = Mesh::new("f0000004");
    let client = mesh.pod("client");
    let servers: Vec<PodLink> = (0..3).map(|n| mesh.pod(&format!("server-{n}"))).collect();
    let ends: Vec<(&PodLink, bool)> = servers.iter().map(|pod| (pod, true)).collect();
    Vips::start(mesh.node(), None).unwrap().sync(&mesh.service(&ends)).unwrap();
    let listeners: Vec<TcpListener> = servers.iter().map(|pod| listen(pod, false)).collect();
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    let mut counts = [0; 3];
    for _ in 0..90 {
        let _client = connect(&client.netns, mesh.vip(false)).unwrap();
        for (listener, count) in listeners.iter().zip(&mut counts) {
            *count += i32::from(listener.accept().is_ok());
        }
    }
    assert_eq!(counts.iter().sum::<i32>(), 90);
    // By chance, each third: that one has fewer than 10 of 90 is rarer than one in a million.
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
}

#[test]
fn open_connections_outlive_changes_of_the_service() {
    let mesh = Mesh::new("f0000005");
    let (client, one, two) = (mesh.pod("client"), mesh.pod("one"), mesh.pod("two"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&one, true)])).unwrap();
    let (first, second) = (listen(&one, false), listen(&two, false));
    let mut stream = connect(&client.netns, mesh.vip(false)).unwrap();
    let (mut accepted, _) = first.accept().unwrap();
    accepted.set_read_timeout(Some(WAIT)).unwrap();
    vips.sync(&mesh.service(&[(&one, false), (&two, true)])).unwrap();
    talk(&mut stream, &mut accepted);
    let mut later = connect(&client.netns, mesh.vip(false)).unwrap();
    talk(&mut later, &mut second.accept().unwrap().0);
    // Another process takes over; and once more, killed before it could note what it did.
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    assert!(!vips.sync(&mesh.service(&[(&one, false), (&two, true)])).unwrap(), "all is in force already");
    std::fs::remove_file(mesh.settings.run_dir.join("vips.json")).unwrap();
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    assert!(vips.sync(&mesh.service(&[(&one, false), (&two, true)])).unwrap());
    talk(&mut stream, &mut accepted);
    // The service goes, its pods stay.
    let pods: Vec<Value> = [&one, &two]
        .map(|pod| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.uid, "namespace": "foo"}, "status": {"podIP": pod.v4}}))
        .to_vec();
    vips.sync(&objects(&pods)).unwrap();
    talk(&mut stream, &mut accepted);
    assert_eq!(connect(&client.netns, mesh.vip(false)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn only_vip_connections_are_tracked() {
    let mesh = Mesh::new("f0000006");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    assert_eq!(mesh.tracked(), 0);
    for v6 in [false, true] {
        let listener = listen(&server, v6);
        let mut direct = connect(&client.netns, listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        talk(&mut direct, &mut accepted);
        let nobody = SocketAddr::new(mesh.vip(v6).ip(), 81);
        assert!(connect(&client.netns, nobody).is_err());
        assert_eq!(mesh.tracked(), u64::from(v6), "direct, v6: {v6}");
        let mut by_vip = connect(&client.netns, mesh.vip(v6)).unwrap();
        talk(&mut by_vip, &mut listener.accept().unwrap().0);
        assert_eq!(mesh.tracked(), u64::from(v6) + 1);
    }
}

#[test]
fn many_services_are_put_into_force_in_time() {
    let mesh = Mesh::new("f0000007");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let base = mesh.service(&[(&server, true)]);
    let mut all: Vec<Value> = base.all().map(|(_, object)| object.value().clone()).collect();
    for number in 2..500_u32 {
        let vip = mesh.node().ranges().services_v4.nth(number).unwrap();
        let name = format!("s{number}");
        all.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "foo"},
            "spec": {"clusterIPs": [vip], "ports": [{"port": 80}]}}));
        let ends: Vec<Value> =
            (1..=10).map(|end| json!({"addresses": [format!("10.255.{}.{end}", number % 250)]})).collect();
        all.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "endpoints": ends,
            "metadata": {"name": name, "namespace": "foo", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": 9000}]}));
    }
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    let began = Instant::now();
    vips.sync(&objects(&all)).unwrap();
    println!("500 services of 10 endpoints: {:?}", began.elapsed());
    let began = Instant::now();
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    println!("back to one: {:?}", began.elapsed());
    assert!(began.elapsed() < WAIT);
    let listener = listen(&server, false);
    let mut stream = connect(&client.netns, mesh.vip(false)).unwrap();
    talk(&mut stream, &mut listener.accept().unwrap().0);
}

fn ask(netns: &NetNs, server: IpAddr, name: &str, kind: RecordType, tcp: bool) -> Message {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let bytes = question.to_vec().unwrap();
    let mut buffer = vec![0; 4096];
    if tcp {
        let mut stream = connect(netns, SocketAddr::new(server, 53)).unwrap();
        stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        buffer.truncate(usize::from(u16::from_be_bytes(length)));
        stream.read_exact(&mut buffer).unwrap();
    } else {
        let any: SocketAddr = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
        let socket = netns.udp_bind(any).unwrap();
        socket.connect(SocketAddr::new(server, 53)).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.send(&bytes).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        buffer.truncate(length);
    }
    let answer = Message::from_vec(&buffer).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pods_ask_dns_by_both_families_and_both_protocols() {
    let mesh = Mesh::new("f0000008");
    let pod = mesh.pod("pod");
    let dns = Dns::start(mesh.node()).unwrap();
    let ranges = *mesh.node().ranges();
    let servers = [IpAddr::from(ranges.dns_v4), ranges.dns_v6.into()];
    let empty = ask(&pod.netns, servers[0], "echo.foo.svc.cluster.local.", RecordType::A, false);
    assert_eq!(empty.metadata.response_code, ResponseCode::NXDomain);
    dns.publish(Arc::new(Zone::of(&mesh.service(&[(&pod, true)]))));
    for server in servers {
        for tcp in [false, true] {
            for (kind, vip) in [(RecordType::A, mesh.vips()[0]), (RecordType::AAAA, mesh.vips()[1])] {
                let answer = ask(&pod.netns, server, "echo.foo.svc.cluster.local.", kind, tcp);
                let found: BTreeSet<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
                assert_eq!(found, BTreeSet::from([vip.to_string()]), "{server} tcp {tcp}");
            }
            let outside = ask(&pod.netns, server, "example.com.", RecordType::A, tcp);
            assert_eq!(outside.metadata.response_code, ResponseCode::NXDomain);
        }
    }
    let text = resolv_conf(&ranges, "foo");
    assert!(text.starts_with("search foo.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10."), "{text}");
    assert_eq!(mesh.tracked(), 0, "DNS is not tracked");
    drop(dns);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_connects_to_dns_and_asks_nothing_keeps_nobody_else_from_it() {
    let mesh = Mesh::new("f0000009");
    let pod = mesh.pod("pod");
    let dns = Dns::start(mesh.node()).unwrap();
    dns.publish(Arc::new(Zone::of(&mesh.service(&[]))));
    let server = IpAddr::from(mesh.node().ranges().dns_v4);
    let mut silent: Vec<TcpStream> =
        (0..200).map(|_| connect(&pod.netns, SocketAddr::new(server, 53)).unwrap()).collect();
    assert_eq!(silent.last_mut().unwrap().read(&mut [0; 1]).unwrap_or(0), 0, "too many: hung up on");
    for (asker, tcp) in [(&pod, false), (&mesh.pod("other"), false), (&mesh.pod("other"), true)] {
        let answer = ask(&asker.netns, server, "echo.foo.svc.cluster.local.", RecordType::A, tcp);
        assert_eq!(answer.answers.len(), 1);
    }
    let mut long = connect(&mesh.pod("third").netns, SocketAddr::new(server, 53)).unwrap();
    long.write_all(&[0xff, 0xff]).unwrap();
    assert_eq!(long.read(&mut [0; 1]).unwrap_or(0), 0, "a question of 64 KiB is hung up on");
}

/// A group of version 2 for the processes of a test, gone with it.
struct Group {
    name: String,
    folder: std::path::PathBuf,
}

impl Group {
    /// None where groups of version 2 are not mounted.
    fn make(name: &str) -> Option<Self> {
        let name = format!("tidegate-test-{name}-{}", std::process::id());
        linux::cgroup::unified(&name).unwrap().map(|folder| Self { name, folder })
    }

    /// What bash says to this, in the group and in a pod's network.
    fn run(&self, pod: &PodLink, words: &str) -> String {
        let words = format!("echo 0 > {}/cgroup.procs && {words}", self.folder.display());
        let output =
            pod.netns.run(|| std::process::Command::new("bash").args(["-c", &words]).output().unwrap()).unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// Connects some times, one after the other; whom each connection reached.
    fn whom(&self, pod: &PodLink, to: SocketAddr, times: usize) -> Vec<String> {
        let once =
            format!("exec 3<>/dev/tcp/{}/{} && read -r line <&3 && echo \"$line\"; exec 3>&-", to.ip(), to.port());
        let said = self.run(pod, &format!("for n in $(seq {times}); do {once}; done"));
        said.lines().map(str::to_owned).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        linux::cgroup::remove(&self.name, None).unwrap();
    }
}

/// Says to each connection who it is and whom it sees.
fn greet(pod: &PodLink, v6: bool) {
    let (listener, uid) = (listen(pod, v6), pod.uid.clone());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip();
            // One that has gone reads nothing.
            drop(writeln!(stream, "{uid} {peer}"));
        }
    });
}

#[test]
fn a_pods_connect_is_led_to_endpoints_and_nothing_of_it_is_translated() {
    let Some(group) = Group::make("led") else { return };
    let mesh = Mesh::new("c0de0a01");
    let [a, b, client] = ["a", "b", "client"].map(|uid| mesh.pod(uid));
    let mut vips = Vips::start(mesh.node(), Some(&group.folder)).unwrap();
    vips.sync(&mesh.service(&[(&a, true), (&b, true)])).unwrap();
    for v6 in [false, true] {
        greet(&a, v6);
        greet(&b, v6);
        let whom: BTreeSet<String> = group.whom(&client, mesh.vip(v6), 40).into_iter().collect();
        let peer = address(&client, v6);
        assert_eq!(whom, BTreeSet::from([format!("a {peer}"), format!("b {peer}")]));
    }
    assert_eq!(mesh.tracked(), 0);
    // Outside of the group, and with the programs gone, the node translates.
    assert!(connect(&client.netns, mesh.vip(false)).is_ok());
    assert_eq!(mesh.tracked(), 1);
    drop(vips);
    assert_eq!(group.whom(&client, mesh.vip(false), 3).len(), 3);
    assert_eq!(mesh.tracked(), 4);
}

#[test]
fn what_is_not_led_is_translated_and_what_leads_nowhere_is_reset() {
    let Some(group) = Group::make("left") else { return };
    let mesh = Mesh::new("c0de0a02");
    let [server, client, late] = ["server", "client", "late"].map(|uid| mesh.pod(uid));
    let mut vips = Vips::start(mesh.node(), Some(&group.folder)).unwrap();
    greet(&server, false);
    // A pod that reaches itself comes from its alias, and is judged.
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    assert_eq!(group.whom(&server, mesh.vip(false), 1), [format!("server {}", server.alias_v4)]);
    // Without a ready endpoint there is nobody.
    vips.sync(&mesh.service(&[(&server, false)])).unwrap();
    assert!(group.whom(&client, mesh.vip(false), 1).concat().contains("Connection refused"));
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    let before = mesh.tracked();
    assert_eq!(group.whom(&client, mesh.vip(false), 1), [format!("server {}", client.v4)]);
    assert_eq!(mesh.tracked(), before, "led");
    // More endpoints than are kept.
    let many: Vec<PodLink> = (0..31).map(|number| mesh.pod(&format!("more-{number}"))).collect();
    let mut ends = vec![(&server, true)];
    ends.extend(many.iter().map(|pod| (pod, true)));
    vips.sync(&mesh.service(&ends)).unwrap();
    for pod in &many {
        greet(pod, false);
    }
    assert_eq!(group.whom(&late, mesh.vip(false), 5).len(), 5);
    assert_eq!(mesh.tracked(), before + 5);
}
