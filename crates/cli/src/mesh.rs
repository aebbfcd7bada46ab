//! A running mesh of this machine: its parts, wired together, and the way they come and go.
//!
//! The parts know nothing of each other. What connects them is here: `drive` (the loop), `hooks` (what the API server
//! asks), `pods` (what the kubelet asks), `records` (what the data plane tells), `wire` (what other commands ask).

mod drive;
mod enforced;
mod hooks;
mod images;
mod meaning;
mod pods;
mod records;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use api::{Change, Object, Objects, Write};
use apiserver::{Server, Settings};
use arc_swap::ArcSwap;
use control::status::Statuses;
use control::translate::{Aliases, Translator};
use dataplane::{Dataplane, NodeNet};
use futures_util::future::join_all;
use local::Node;
use local::dns::Dns;
use local::kubelet::{Adoption, Kubelet};
use local::runtime::Runtime;
use local::runtime::exec::Command;
use local::vip::Vips;
use policy::{Connection, Snapshot, WorkloadId};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use images::PATH as IMAGES_PATH;

use crate::exit::{Exit, Failure};
use crate::print;
use crate::settings::Place;
use records::Records;

/// Records on their way from the kernel's log: as many as a flood brings in the time that writing them out takes.
const RECORDS_PENDING_MAX: usize = 8192;

/// How long the API server may take to end open requests.
const SERVING_ENDS_MAX: Duration = Duration::from_secs(2);

/// How a mesh is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Port of the API server; none: that of last time, or a free one.
    pub(crate) port: Option<u16>,
    /// Whether denials are told on standard error.
    pub(crate) tell_denials: bool,
}

/// A mesh that runs in this process.
#[derive(Debug)]
pub(crate) struct Mesh {
    server: Server,
    kubelet: Kubelet,
    dataplane: Dataplane,
    objects: Arc<RwLock<Objects>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    tasks: TaskTracker,
    ending: CancellationToken,
    port: u16,
    adoption: Adoption,
    started_in: Duration,
}

impl Mesh {
    /// Starts all parts and returns when everything that is stored is in force. Only under the lock of the place.
    pub(crate) async fn start(place: &Place, options: Options) -> Result<Self, Failure> {
        let begun = Instant::now();
        let listener = listen(place, options.port).await?;
        let address = listener.local_addr().context("the API server's address")?;
        let node = Arc::new(node(place)?);
        let ranges = *node.ranges();
        let aliases: Aliases = Arc::new(move |address| ranges.alias_of(address).into_iter().collect());
        let (settle, settled) = watch::channel(0);
        let (tell, told) = mpsc::channel(RECORDS_PENDING_MAX);
        let objects = Arc::new(RwLock::new(Objects::new()));
        let snapshot = Arc::new(ArcSwap::from_pointee(policy::compile(&policy::Mesh::default(), 0, None)));
        let (records, asking) = Records::new();
        let dataplane = Dataplane::start(node_net(&node), tell).await.context("starting the data plane")?;

        // The server's hooks reach the kubelet, and the kubelet writes to the server: the cell breaks the circle.
        let kubelet_cell = Arc::new(std::sync::OnceLock::new());
        let wire = wire::Wire::new(records.clone(), Arc::clone(&snapshot), dataplane.clone(), settled.clone());
        let gate =
            control::admission::Gate::new(Translator::new(Arc::clone(&aliases)), control::inject::Options::default());
        let hooks = hooks::hooks(gate, Arc::clone(&kubelet_cell), records.clone(), wire, settled.clone());
        let settings = Settings { data_dir: place.data_dir.clone(), listen: address };
        let server = Server::open(settings, hooks).context("opening the store")?;
        make_what_istio_has(&server).await?;
        place.write_private(&place.data_dir.join("kubeconfig"), &server.kubeconfig(None))?;
        place.write_private(&place.data_dir.join("port"), &format!("{}\n", address.port()))?;

        let dns = Dns::start(&node).context("starting DNS")?;
        let runtime = Runtime::new(&place.data_dir, &place.run_dir);
        let vips = Vips::start(&node, runtime.group().as_deref()).context("laying the table of virtual addresses")?;
        let kubelet_hooks =
            pods::kubelet_hooks(dataplane.clone(), server.clone(), Arc::clone(&objects), settled.clone());
        let kubelet = Kubelet::start(Arc::clone(&node), runtime, kubelet_hooks);
        // Empty until here, so this is the only value.
        drop(kubelet_cell.set(kubelet.clone()));
        // Before the first snapshot: what pods that live on have open is judged under that.
        let adoption = adopt(place, &server, &kubelet).await?;

        let tasks = TaskTracker::new();
        let ending = CancellationToken::new();
        let (serving, until) = (server.clone(), ending.clone());
        tasks.spawn(async move { serving.serve(listener, until).await });
        let on_terminal = if options.tell_denials { tell_denial } else { |_: &policy::record::Record| {} };
        let (gathering, until) = (records.clone().gather(told, asking, on_terminal), ending.clone());
        tasks.spawn(async move { until.run_until_cancelled(gathering).await });
        let driver = drive::Driver {
            feed: server.subscribe(),
            server: server.clone(),
            objects: Arc::clone(&objects),
            cluster: node.cluster(&server.ca_pem()),
            kubelet: kubelet.clone(),
            dns,
            vips,
            translator: Translator::new(aliases),
            dataplane: dataplane.clone(),
            snapshot: Arc::clone(&snapshot),
            records,
            settled: settle,
            revision: 0,
            pending: meaning::Meaning::EVERYTHING,
            forgets: None,
            statuses: Statuses::default(),
            said: None,
        };
        tasks.spawn(drive_until(driver, ending.clone()));
        let mut settled = settled;
        settled.wait_for(|revision| *revision > 0).await.context("the first look at the store")?;
        let port = address.port();
        let started_in = begun.elapsed();
        Ok(Self { server, kubelet, dataplane, objects, snapshot, tasks, ending, port, adoption, started_in })
    }

    /// Returns on Ctrl-C, SIGTERM, or when the terminal is closed.
    pub(crate) async fn until_told_to_end(&self) -> Result<()> {
        let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut hung_up = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.context("listening for Ctrl-C"),
            _ = terminated.recv() => Ok(()),
            _ = hung_up.recv() => Ok(()),
        }
    }

    /// Ends the tasks of the mesh; what they made in the kernel is removed by `down::remove`.
    pub(crate) async fn stop(self) -> Result<()> {
        self.ending.cancel();
        self.kubelet.leave().await;
        self.tasks.close();
        // What does not end in time ends with the process.
        drop(tokio::time::timeout(SERVING_ENDS_MAX, self.tasks.wait()).await);
        Ok(())
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// What became of the pods of an earlier daemon, if there were any.
    pub(crate) fn adopted(&self) -> Option<String> {
        self.adoption.summary()
    }

    pub(crate) const fn started_in(&self) -> Duration {
        self.started_in
    }

    /// How often tables were written anew because somebody else had changed them.
    pub(crate) async fn rewritten(&self) -> Result<u64> {
        let status = self.dataplane.status().await.context("looking at the tables")?;
        Ok(status.guard_rewritten + status.workloads.values().map(|one| one.rewritten).sum::<u64>())
    }

    /// A look at the objects.
    pub(crate) fn with_objects<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.objects.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One sentence: what the engine decides for a connection from this pod to `host` and why.
    pub(crate) fn why(&self, source: &Object, host: &str, port: u16) -> String {
        let namespace = source.namespace().unwrap_or_default();
        // Both ends as they are now: the pod that the caller knows may be from before it had an address.
        let found = self.with_objects(|objects| {
            let from = objects.find("", "pods", Some(namespace), source.name()).cloned()?;
            pods::find_destination(objects, namespace, host, port).map(|to| (from, to))
        });
        let decided = found.and_then(|(from, (pod, port))| {
            let snapshot = self.snapshot.load();
            let destination = WorkloadId::new(pod.namespace()?, pod.name());
            let from = from.str_at("/status/podIP").parse().ok()?;
            let to = pod.str_at("/status/podIP").parse().ok()?;
            let connection = Connection::new(from, snapshot.at(from).peer(), to, port);
            let outcome = snapshot.outcome_at_syn(&destination, &connection);
            let verdict = if outcome.permitted { "allowed" } else { "denied" };
            Some(format!("port {port} of {destination} {verdict}: {}", outcome.because()))
        });
        decided.unwrap_or_else(|| format!("{host}:{port} is no destination of this mesh"))
    }

    /// Runs a command to its end and returns what it wrote on standard output.
    pub(crate) async fn exec(&self, pod: &Object, container: &str, command: Vec<String>) -> Result<String> {
        let command = Command { command, stdin: false, tty: false };
        let session = self.kubelet.exec(pod, container, &command).await;
        let mut session = session.map_err(|status| anyhow!("{}", status.message()))?;
        let mut stdout = String::new();
        session.stdout.read_to_string(&mut stdout).await.context("reading what the command writes")?;
        session.exit.await.context("waiting for the command")?;
        Ok(stdout)
    }
}

/// Whether the node of an earlier daemon is there and whole, so that its pods may live on.
pub(crate) fn lives_on(place: &Place) -> Result<bool> {
    Ok(Node::lives_on(&crate::down::node_settings(place)?))
}

/// The node. What a killed daemon left of it lives on, if it is whole, and its tables are in force all the while.
fn node(place: &Place) -> Result<Node> {
    if !lives_on(place)? {
        crate::down::remove_from_machine(place).context("removing what an earlier daemon left")?;
    }
    Node::up(&crate::down::node_settings(place)?).context("making the node's network")
}

/// Takes over the pods that live on, removes what else is left of any, and says why.
async fn adopt(place: &Place, server: &Server, kubelet: &Kubelet) -> Result<Adoption> {
    let stored = server.subscribe().next().await.context("looking at the store")?;
    let pods: Vec<Arc<Object>> = stored
        .events
        .into_iter()
        .filter(|event| event.key.is("", "pods"))
        .filter_map(|event| if let Change::Put { new, .. } = event.change { Some(new) } else { None })
        .collect();
    let adoption = kubelet.adopt(&pods).await.context("taking over the pods of an earlier daemon")?;
    for (pod, why) in &adoption.removed {
        tracing::warn!(pod, why, "a pod of an earlier daemon is not taken over");
    }
    crate::contents::forget_volumes_but(&place.data_dir, &adoption.adopted)?;
    Ok(adoption)
}

async fn drive_until(driver: drive::Driver, stopped: CancellationToken) {
    if let Some(Err(error)) = stopped.run_until_cancelled(driver.run()).await {
        // Tables stay as they are; replies say that they are not settled.
        tracing::error!(error = format!("{error:#}"), "the mesh stands still");
    }
}

/// The port that the API server of this place had last.
pub(crate) fn last_port(place: &Place) -> Option<u16> {
    std::fs::read_to_string(place.data_dir.join("port")).ok()?.trim().parse().ok()
}

/// Binds the API server's port: the one asked for, else that of last time, else a free one.
async fn listen(place: &Place, wished: Option<u16>) -> Result<TcpListener, Failure> {
    let port = wished.or_else(|| last_port(place)).unwrap_or(0);
    let bound = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    match (bound, wished) {
        (Ok(listener), _) => Ok(listener),
        (Err(error), None) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let what = format!(
                "port {port} of 127.0.0.1, which this mesh had last time, is taken; free it, or give another: \
                 tidegate up --port PORT (0: any), and run `tidegate env` again"
            );
            Err(Failure::says(Exit::Failure, what))
        }
        (Err(error), _) => {
            let what =
                format!("listening on 127.0.0.1:{port}: {error}; give another: tidegate up --port PORT (0: any)");
            Err(Failure::says(Exit::Failure, what))
        }
    }
}

/// Istio's kinds and its namespace exist on every mesh, so that a policy for all of it can be applied at once; what a
/// user made of them stays.
async fn make_what_istio_has(server: &Server) -> Result<()> {
    let mut objects = api::crds::istio();
    objects.push(Object::named("v1", "Namespace", None, control::mesh_config::NAMESPACE));
    let written = join_all(objects.into_iter().map(|object| server.write(Write::Create(object)))).await;
    for outcome in written {
        match outcome {
            Ok(_) => {}
            Err(status) if status.code() == 409 => {}
            Err(status) => return Err(anyhow!("making Istio's kinds and namespace: {}", status.message())),
        }
    }
    Ok(())
}

fn node_net(node: &Node) -> NodeNet {
    let ranges = node.ranges();
    NodeNet {
        netns: node.netns().clone(),
        host_link: node.host_link(),
        pods_v4: (ranges.pods_v4.first, ranges.pods_v4.prefix),
        pods_v6: (ranges.pods_v6.first, ranges.pods_v6.prefix),
        aliases_v4: (ranges.aliases_v4.first, ranges.aliases_v4.prefix),
        aliases_v6: (ranges.aliases_v6.first, ranges.aliases_v6.prefix),
    }
}

fn tell_denial(record: &policy::record::Record) {
    if !record.outcome.permitted {
        print::err(format_args!("{}", control::lines::tap_line(record)));
    }
}

impl Mesh {
    /// Waits until an object is gone, at most 10 s.
    pub(crate) async fn gone(&self, plural: &str, name: &str) -> Result<()> {
        let mut feed = self.server.subscribe();
        let key = api::Key::cluster("", plural, name);
        let gone = async {
            let mut objects = Objects::new();
            while let Some(batch) = feed.next().await {
                batch.events.iter().for_each(|event| objects.apply(event));
                if objects.get(&key).is_none() {
                    return Ok(());
                }
            }
            Err(anyhow!("the store has stopped"))
        };
        tokio::time::timeout(Duration::from_secs(10), gone)
            .await
            .with_context(|| format!("{plural} `{name}` does not go"))?
    }
}
