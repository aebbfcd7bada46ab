//! A node namespace with pods and a host beside it, a data plane on it, and servers in the pods.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dataplane::selftest::Kernel;
use dataplane::{Dataplane, NodeNet, PodNet, Report, WorkloadStatus};
use linux::netns::NetNs;
use linux::route::{Route, Router, Target, VethEnd};
use linux::sysctl;
use policy::mesh::{Mesh, Workload, WorkloadId};
use policy::{Record, Snapshot, parse};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// No single step of a test takes longer than this, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(10);
/// A refusal comes as a reset; a connect that takes this long was dropped.
const CONNECT_BOUND: Duration = Duration::from_secs(5);
const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
const PODS_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 77, 0, 0), 18);
const PODS_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, 0), 64);
const ALIASES_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 77, 64, 0), 18);
const ALIASES_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd77, 0, 0, 2, 0, 0, 0, 0), 64);
const RECORDS_WAITING: usize = 4096;

/// A node with pods, and the mesh that its data plane is told.
pub(crate) struct Bed {
    pub(crate) runtime: Runtime,
    pub(crate) node: NodeNet,
    pub(crate) host: NetNs,
    pub(crate) dataplane: Dataplane,
    pub(crate) records: mpsc::Receiver<Record>,
    pub(crate) mesh: Mesh,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    router: Router,
    made: u8,
}

/// A pod of the bed.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) net: PodNet,
}

impl Pod {
    pub(crate) fn id(&self) -> &WorkloadId {
        &self.net.workload
    }

    pub(crate) fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.net.v4), port)
    }

    pub(crate) fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.net.v6), port)
    }

    pub(crate) fn both(&self, port: u16) -> [SocketAddr; 2] {
        [self.v4(port), self.v6(port)]
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        connect(&self.net.netns, to)
    }
}

pub(crate) fn connect(from: &NetNs, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, CONNECT_BOUND)).unwrap()?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.set_write_timeout(Some(BOUND))?;
    Ok(stream)
}

/// Does the connection carry bytes both ways?
pub(crate) fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut back)).is_ok() && &back == b"ping"
}

pub(crate) fn is_refused(connected: &io::Result<TcpStream>) -> bool {
    connected.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Was the connection ended from outside? A read that waits in vain says no.
pub(crate) fn is_reset(stream: &mut TcpStream) -> bool {
    let ended = [io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionAborted, io::ErrorKind::BrokenPipe];
    stream.read(&mut [0]).is_err_and(|error| ended.contains(&error.kind()))
}

/// Waits for a condition, with a bound and without a fixed time.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        std::thread::yield_now();
    }
}

/// An echo server on a port of both families; counts what it accepted. Lives as long as the test's process.
pub(crate) struct Server {
    pub(crate) accepted: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

pub(crate) fn serve(pod: &Pod, port: u16) -> Server {
    serve_with(&pod.net.netns, port, |mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    })
}

/// A server whose connections each get a thread with `talk`.
pub(crate) fn serve_with(netns: &NetNs, port: u16, talk: impl Fn(TcpStream) + Clone + Send + 'static) -> Server {
    let listener = listen(netns, port);
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            count.fetch_add(1, Ordering::SeqCst);
            let talk = talk.clone();
            std::thread::spawn(move || talk(stream));
        }
    });
    Server { accepted }
}

/// A listener for both families with room for many waiting connections.
pub(crate) fn listen(netns: &NetNs, port: u16) -> TcpListener {
    netns.tcp_listen(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)).unwrap()
}

/// Settings that a node would make in a pod.
fn prepare_pod() {
    for (name, value) in [
        ("net/ipv6/conf/default/addr_gen_mode", "1"),
        ("net/ipv6/conf/all/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        // What the data plane must change, set to the contrary.
        ("net/ipv4/tcp_syncookies", "1"),
    ] {
        sysctl::write(name, value).unwrap();
    }
    Router::open().unwrap().set_up(1).unwrap();
}

fn prepare_node() {
    for (name, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/forwarding", "1"),
        ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ] {
        sysctl::write(name, value).unwrap();
    }
    Router::open().unwrap().set_up(1).unwrap();
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::on(dataplane::selftest::run().unwrap())
    }

    /// A bed on which the data plane takes the kernel for this one.
    pub(crate) fn on(kernel: Kernel) -> Self {
        let (node, host) = (NetNs::create().unwrap(), NetNs::create().unwrap());
        node.run(prepare_node).unwrap();
        host.run(prepare_pod).unwrap();
        let mut router = Router::open_in(&node).unwrap();
        let host_link = join(&mut router, &host, "host", 1, HOST_V4, HOST_V6);
        let node = NodeNet {
            netns: node,
            host_link,
            pods_v4: PODS_V4,
            pods_v6: PODS_V6,
            aliases_v4: ALIASES_V4,
            aliases_v6: ALIASES_V6,
        };
        let runtime = Runtime::new().unwrap();
        let (sender, records) = mpsc::channel(RECORDS_WAITING);
        let dataplane = runtime.block_on(Dataplane::start_on(kernel, node.clone(), sender)).unwrap();
        let mesh = Mesh { namespaces: BTreeSet::from(["foo".to_owned()]), ..Mesh::default() };
        Self { runtime, node, host, dataplane, records, mesh, snapshot: None, router, made: 1 }
    }

    /// A pod with a link, not attached and not in the mesh.
    pub(crate) fn bare_pod(&mut self, namespace: &str, name: &str) -> Pod {
        self.made += 1;
        let number = self.made;
        let netns = NetNs::create().unwrap();
        netns.run(prepare_pod).unwrap();
        let v4 = Ipv4Addr::from_bits(PODS_V4.0.to_bits() + u32::from(number));
        let v6 = Ipv6Addr::from_bits(PODS_V6.0.to_bits() + u128::from(number));
        let node_link = join(&mut self.router, &netns, &format!("pod{number}"), number, v4, v6);
        Pod { net: PodNet { workload: WorkloadId::new(namespace, name), netns, v4, v6, node_link } }
    }

    /// A pod attached and in the mesh, with its name as service account and label `app`; not published yet.
    pub(crate) fn pod(&mut self, namespace: &str, name: &str) -> Pod {
        let pod = self.bare_pod(namespace, name);
        self.attach(&pod);
        self.add(&pod);
        pod
    }

    pub(crate) fn attach(&self, pod: &Pod) {
        self.runtime.block_on(self.dataplane.attach(pod.net.clone())).unwrap();
    }

    /// Removes the pod's link.
    pub(crate) fn unlink(&mut self, pod: &Pod) {
        assert!(self.router.delete_link(pod.net.node_link).unwrap());
    }

    pub(crate) fn detach(&self, pod: &Pod) {
        self.runtime.block_on(self.dataplane.detach(pod.id())).unwrap();
    }

    pub(crate) fn add(&mut self, pod: &Pod) {
        self.mesh.namespaces.insert(pod.id().namespace.clone());
        self.mesh.workloads.push(Workload {
            id: pod.id().clone(),
            labels: BTreeMap::from([("app".to_owned(), pod.id().name.clone())]),
            service_account: pod.id().name.clone(),
            addresses: vec![pod.net.v4.into(), pod.net.v6.into()],
            in_mesh: true,
        });
    }

    /// Replaces all policies: (namespace, name, spec).
    pub(crate) fn policies(&mut self, policies: &[(&str, &str, Value)]) {
        self.mesh.policies = policies
            .iter()
            .map(|(namespace, name, spec)| {
                let document = json!({
                    "apiVersion": "security.istio.io/v1",
                    "kind": "AuthorizationPolicy",
                    "metadata": { "namespace": namespace, "name": name },
                    "spec": spec,
                });
                let parsed = parse::authorization_policy(&document, &self.mesh.settings);
                Arc::new(parsed.value.expect("a policy of a test is readable"))
            })
            .collect();
    }

    /// The next generation.
    pub(crate) fn compile(&mut self) -> Arc<Snapshot> {
        let generation = self.snapshot.as_ref().map_or(1, |snapshot| snapshot.generation() + 1);
        let snapshot = Arc::new(policy::compile(&self.mesh, generation, self.snapshot.as_deref()));
        self.snapshot = Some(Arc::clone(&snapshot));
        snapshot
    }

    pub(crate) fn publish_report(&mut self) -> Report {
        let snapshot = self.compile();
        self.runtime.block_on(self.dataplane.publish(snapshot))
    }

    /// Publishes; every workload must be in force without trouble.
    #[track_caller]
    pub(crate) fn publish(&mut self) -> Report {
        let report = self.publish_report();
        assert!(report.complete);
        for (workload, one) in &report.workloads {
            assert!(one.trouble.is_none(), "{workload}: {}", one.trouble.as_ref().unwrap());
            assert_eq!(one.generation, report.generation, "{workload}");
        }
        report
    }

    #[track_caller]
    pub(crate) fn enforce(&mut self, policies: &[(&str, &str, Value)]) -> Report {
        self.policies(policies);
        self.publish()
    }

    /// Lets go of the data plane, as the end of a process does: what is in the kernel stays.
    pub(crate) fn detach_observers(&mut self) {
        let (sender, _) = mpsc::channel(1);
        let nowhere = NodeNet { netns: NetNs::create().unwrap(), ..self.node.clone() };
        self.dataplane = self.runtime.block_on(Dataplane::start(nowhere, sender)).unwrap();
    }

    pub(crate) fn counts(&self, pod: &Pod) -> WorkloadStatus {
        self.runtime.block_on(self.dataplane.status()).unwrap().workloads[pod.id()]
    }

    pub(crate) fn guard_rewritten(&self) -> u64 {
        self.runtime.block_on(self.dataplane.status()).unwrap().guard_rewritten
    }

    pub(crate) fn forged(&self) -> u64 {
        self.runtime.block_on(self.dataplane.status()).unwrap().forged
    }

    /// The next record of a refusal, within the bound.
    #[track_caller]
    pub(crate) fn record(&mut self) -> Record {
        self.next_record(false)
    }

    /// The next record of a connection that was let in and is over, within the bound.
    #[track_caller]
    pub(crate) fn permitted(&mut self) -> Record {
        self.next_record(true)
    }

    #[track_caller]
    fn next_record(&mut self, permitted: bool) -> Record {
        let records = &mut self.records;
        let next = async {
            loop {
                let record = records.recv().await.expect("the channel of records is open");
                if record.outcome.permitted == permitted {
                    return record;
                }
            }
        };
        let bounded = async { tokio::time::timeout(BOUND, next).await };
        self.runtime.block_on(bounded).expect("no such record within the bound")
    }
}

/// A veth between the node and another namespace, routed, with fixed addresses.
fn join(router: &mut Router, other: &NetNs, name: &str, number: u8, v4: Ipv4Addr, v6: Ipv6Addr) -> u32 {
    let mac = [2, 0, 0, 0, 0, number];
    let end = VethEnd { name, index: Some(100 + u32::from(number)), mac };
    let peer = VethEnd { name: "eth0", index: Some(2), mac };
    router.add_veth(end, peer, other).unwrap();
    let link = router.link(name).unwrap().unwrap().index;
    router.set_up(link).unwrap();
    router.add_route(Route::new(v4, 32, Target::Link(link))).unwrap();
    router.add_route(Route::new(v6, 128, Target::Link(link))).unwrap();
    let mut inside = Router::open_in(other).unwrap();
    let eth = inside.link("eth0").unwrap().unwrap().index;
    inside.add_address(eth, v4.into(), 32).unwrap();
    inside.add_address(eth, v6.into(), 128).unwrap();
    inside.set_up(eth).unwrap();
    // The end that was up first gets its queue when the kernel comes round to it, and drops what is sent before; asking
    // for a link makes the kernel come round at once.
    router.link(name).unwrap();
    inside.link("eth0").unwrap();
    inside.add_route(Route::new(Ipv4Addr::UNSPECIFIED, 0, Target::Link(eth))).unwrap();
    inside.add_route(Route::new(Ipv6Addr::UNSPECIFIED, 0, Target::Link(eth))).unwrap();
    link
}

/// An ALLOW policy for workloads `app: NAME`, from the named service accounts (namespace/name) to these ports.
pub(crate) fn allow(app: &str, from: &[&str], ports: &[u16]) -> Value {
    one_rule("ALLOW", app, from, ports)
}

/// The same as DENY.
pub(crate) fn deny(app: &str, from: &[&str], ports: &[u16]) -> Value {
    one_rule("DENY", app, from, ports)
}

fn one_rule(action: &str, app: &str, from: &[&str], ports: &[u16]) -> Value {
    let mut rule = json!({});
    if !from.is_empty() {
        let principals: Vec<String> = from
            .iter()
            .map(|account| {
                let (namespace, name) = account.split_once('/').unwrap();
                format!("cluster.local/ns/{namespace}/sa/{name}")
            })
            .collect();
        rule["from"] = json!([{ "source": { "principals": principals } }]);
    }
    if !ports.is_empty() {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        rule["to"] = json!([{ "operation": { "ports": ports } }]);
    }
    json!({ "selector": { "matchLabels": { "app": app } }, "action": action, "rules": [rule] })
}
