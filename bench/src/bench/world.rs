//! Everything that rows are measured in: a mesh with its pods, the same layout without one, servers and proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use linux::netns::NetNs;
use linux::sysctl;

use crate::mesh::{self, Mesh, PORT, Pod};
use crate::program::{Load, Running};
use crate::raw::{self, Raw};
use crate::rows::{Row, Way};

/// A server that listens does so in milliseconds; Envoy takes longest.
const READY_MAX: Duration = Duration::from_secs(20);

/// What connections by the tens of thousands a second need of the client's side, in every row the same: many ports, and each
/// again after a second.
const CLIENT_SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/ip_local_port_range", "10240 65000"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv4/tcp_max_tw_buckets", "50000"),
];

/// Where a row's client runs, and what it connects to: echo, sink and source have ports one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// The namespace of the client.
    pub(crate) netns: PathBuf,
    /// The first port.
    pub(crate) target: SocketAddr,
}

/// All of it; whatever it started ends with it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) load: Load,
    ends: BTreeMap<String, Ends>,
    /// Servers and proxies.
    running: Vec<Running>,
    raw: Option<Raw>,
    /// Apps that have a policy.
    apps: BTreeSet<String>,
    /// VIPs by the name of their Service.
    vips: BTreeMap<String, Ipv4Addr>,
    /// The client pod.
    pub(crate) client: Pod,
    /// Pods in which a server listens, by name.
    pub(crate) servers: BTreeMap<String, Pod>,
    pub(crate) mesh: Mesh,
}

impl World {
    /// A mesh with the client, and what these rows need.
    pub(crate) fn make(tidegate: &Path, work: &Path, rows: &[Row]) -> Result<Self> {
        let load = Load::find()?;
        let mesh = Mesh::up(tidegate, &work.join("mesh"))?;
        let client = mesh.settle_in()?;
        for_clients(&client.netns)?;
        let mut world = Self {
            load,
            ends: BTreeMap::new(),
            running: Vec::new(),
            raw: None,
            apps: BTreeSet::new(),
            vips: BTreeMap::new(),
            client,
            servers: BTreeMap::new(),
            mesh,
        };
        for row in rows {
            let ends = world.prepare(&row.way, work).with_context(|| format!("row `{}`", row.name))?;
            world.ends.insert(row.name.clone(), ends);
        }
        Ok(world)
    }

    /// The two ends of a row.
    pub(crate) fn ends(&self, row: &str) -> Result<&Ends> {
        self.ends.get(row).with_context(|| format!("row `{row}` is not there"))
    }

    fn prepare(&mut self, way: &Way, work: &Path) -> Result<Ends> {
        match way {
            Way::Raw => self.without_mesh(PORT),
            Way::Proxy(proxy) => {
                self.without_mesh(PORT)?;
                let netns = self.raw.as_ref().map(Raw::server_path).context("no namespace of a server")?;
                let running = proxy.start(&self.load, &netns, work)?;
                self.running.push(running);
                self.without_mesh(proxy.port)
            }
            Way::Plain(name) => self.pod(mesh::PLAIN, name, name),
            Way::Alone(name) => self.pod(mesh::NAMESPACE, name, name),
            Way::Pod(name) => self.behind_a_service(name).map(|(ends, _)| ends),
            Way::Service(name) => self.behind_a_service(name).map(|(_, ends)| ends),
        }
    }

    /// The harness's own namespaces, with a server in them.
    fn without_mesh(&mut self, port: u16) -> Result<Ends> {
        if self.raw.is_none() {
            let raw = Raw::make(&self.client.netns, &self.mesh.node_netns())?;
            for_clients(&raw.client_path())?;
            self.running.push(self.serve(&raw.server_path())?);
            self.raw = Some(raw);
        }
        let netns = self.raw.as_ref().map(Raw::client_path).context("no namespace of a client")?;
        let ends = Ends { netns, target: SocketAddr::new(IpAddr::V4(raw::SERVER), port) };
        until_served(&ends)?;
        Ok(ends)
    }

    /// A pod of the mesh behind a Service: by its own address, and by the VIP.
    fn behind_a_service(&mut self, name: &str) -> Result<(Ends, Ends)> {
        let by_address = self.pod(mesh::NAMESPACE, name, name)?;
        let vip = match self.vips.get(name) {
            Some(vip) => *vip,
            None => Mesh::service(&mut self.mesh.api()?, name, name)?,
        };
        self.vips.insert(name.to_owned(), vip);
        let by_vip = Ends { target: SocketAddr::new(IpAddr::V4(vip), PORT), ..by_address.clone() };
        until_served(&by_vip)?;
        Ok((by_address, by_vip))
    }

    /// A pod with a server in it, made if it is not there; one of the mesh has a policy of its app that lets the client in.
    pub(crate) fn pod(&mut self, namespace: &str, name: &str, app: &str) -> Result<Ends> {
        let pod = if let Some(pod) = self.servers.get(name) {
            pod.clone()
        } else {
            let pod = self.mesh.pod(&mut self.mesh.api()?, namespace, name, app)?;
            if namespace == mesh::NAMESPACE && self.apps.insert(app.to_owned()) {
                self.mesh.policies(app, 0, 1)?;
            }
            self.running.push(self.serve(&pod.netns)?);
            self.servers.insert(name.to_owned(), pod.clone());
            pod
        };
        let ends = Ends { netns: self.client.netns.clone(), target: SocketAddr::new(IpAddr::V4(pod.address), PORT) };
        until_served(&ends)?;
        Ok(ends)
    }

    fn serve(&self, netns: &Path) -> Result<Running> {
        Running::start(self.load.command(netns, &["serve", &PORT.to_string()]))
    }
}

/// Gives a client's namespace the settings that every client has.
fn for_clients(netns: &Path) -> Result<()> {
    let set = || CLIENT_SETTINGS.iter().try_for_each(|(name, value)| sysctl::write(name, value));
    Ok(NetNs::open(netns)?.run(set)??)
}

/// Waits until the client is answered.
pub(crate) fn until_served(ends: &Ends) -> Result<()> {
    use std::io::{Read, Write};
    let netns = NetNs::open(&ends.netns)?;
    let once = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&ends.target, mesh::LOOK_AGAIN * 100)?;
        stream.set_read_timeout(Some(mesh::LOOK_AGAIN * 100))?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])
    };
    let begun = Instant::now();
    loop {
        match netns.run(once)? {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > READY_MAX => bail!("{} does not answer: {error}", ends.target),
            Err(_) => std::thread::sleep(mesh::LOOK_AGAIN),
        }
    }
}
