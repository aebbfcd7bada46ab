//! A node with pods, services with endpoints, and connections between them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use api::{Change, Event, Kinds, Object, Objects};
use linux::netlink::{Protocol, Socket};
use linux::netns::NetNs;
use linux::nft::{Base, BaseChain, ChainKind, Family, Hook, Meta, REGISTER, Rule, Table, Transaction};
use local::{Host, Node, NodeSettings, PodLink};
use serde_json::{Value, json};

pub(crate) const WAIT: Duration = Duration::from_secs(5);

pub(crate) struct Mesh {
    node: Option<Arc<Node>>,
    pub(crate) settings: NodeSettings,
    _dir: tempfile::TempDir,
}

impl Mesh {
    pub(crate) fn new(id: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = NodeSettings {
            id: id.parse().unwrap(),
            run_dir: dir.path().join("run"),
            ranges: None,
            host: Host::default(),
        };
        Self { node: Some(Arc::new(Node::up(&settings).unwrap())), settings, _dir: dir }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        self.node.as_ref().unwrap()
    }

    pub(crate) fn pod(&self, uid: &str) -> PodLink {
        self.node().pod_link(uid).unwrap()
    }

    /// First VIPs of the ranges.
    pub(crate) fn vips(&self) -> [IpAddr; 2] {
        let ranges = self.node().ranges();
        [ranges.services_v4.nth(1).unwrap().into(), ranges.services_v6.nth(1).unwrap().into()]
    }

    pub(crate) fn vip(&self, v6: bool) -> SocketAddr {
        SocketAddr::new(self.vips()[usize::from(v6)], 80)
    }

    /// A service on port 80, with these pods as endpoints on port 9000: ready or not.
    pub(crate) fn service(&self, ends: &[(&PodLink, bool)]) -> Objects {
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

    pub(crate) fn tracked(&self) -> u64 {
        let count = || linux::sysctl::read("net/netfilter/nf_conntrack_count").unwrap().parse().unwrap();
        self.node().netns().run(count).unwrap()
    }
}

/// Counts first packets to VIPs that come out of pods: those of connections that are translated.
pub(crate) struct Translated {
    table: Table,
    socket: Socket,
}

impl Translated {
    pub(crate) fn of(mesh: &Mesh) -> Self {
        let mut socket = mesh.node().netns().run(|| Socket::open(Protocol::Netfilter).unwrap()).unwrap();
        let table = Table::named(Family::Inet, "translated");
        let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -150, accept: true };
        let mut lay = Transaction::on(&table);
        lay.create_table().counter("first").base_chain("first", base);
        for (vip, family, offset) in mesh.vips().into_iter().zip([(2, 16), (10, 24)]).map(|(vip, (f, o))| (vip, f, o)) {
            let bytes = match vip {
                IpAddr::V4(vip) => vip.octets().to_vec(),
                IpAddr::V6(vip) => vip.octets().to_vec(),
            };
            let length = u32::try_from(bytes.len()).unwrap();
            let of_family = Rule::begin().meta(Meta::NetworkFamily, REGISTER).equals(REGISTER, &[family]);
            let tcp = of_family.meta(Meta::TransportProtocol, REGISTER).equals(REGISTER, &[6]);
            let syn = tcp.payload(Base::Transport, 13, 1, REGISTER).mask(REGISTER, &[0x12]).equals(REGISTER, &[0x02]);
            lay.rule(
                "first",
                &syn.payload(Base::Network, offset, length, REGISTER).equals(REGISTER, &bytes).count("first"),
            );
        }
        lay.commit(&mut socket).unwrap();
        Self { table, socket }
    }

    pub(crate) fn count(&mut self) -> u64 {
        self.table.packets(&mut self.socket, "first").unwrap()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.node = None;
        Node::remove(&self.settings).unwrap();
    }
}

pub(crate) fn objects(all: &[Value]) -> Objects {
    let (kinds, mut objects) = (Kinds::builtin(), Objects::new());
    for (revision, value) in (1..).zip(all) {
        let new = Object::new(value.clone()).unwrap();
        let key = kinds.key_of(&new).unwrap();
        objects.apply(&Event { revision, key, change: Change::Put { old: None, new: Arc::new(new) } });
    }
    objects
}

pub(crate) fn address(pod: &PodLink, v6: bool) -> IpAddr {
    if v6 { pod.v6.into() } else { pod.v4.into() }
}

pub(crate) fn listen(pod: &PodLink, v6: bool) -> TcpListener {
    pod.netns.tcp_listen(SocketAddr::new(address(pod, v6), 9000)).unwrap()
}

pub(crate) fn connect(from: &NetNs, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, WAIT)).unwrap()?;
    stream.set_read_timeout(Some(WAIT))?;
    Ok(stream)
}

pub(crate) fn talk(client: &mut TcpStream, server: &mut TcpStream) {
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
