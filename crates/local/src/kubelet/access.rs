//! `exec` and `logs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{Object, Status};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::view::{ContainerView, PodView, State};
use super::{Inner, Kubelet, START_BOUND};
use crate::runtime::attach::{Attached, attach};
use crate::runtime::exec::{Command, Session};
use crate::runtime::logs::{Follower, Selection, read};

/// What is wanted of a container's log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logs {
    /// Go on with what will be written.
    pub follow: bool,
    /// The log of the run before.
    pub previous: bool,
    /// Which lines.
    pub selection: Selection,
}

/// Pieces of a log; ends when the container has, or at once if not followed.
pub type LogStream = mpsc::Receiver<Bytes>;

/// Pieces of a log that wait for a slow reader: each is at most what was printed since the last look.
const PIECES_MAX: usize = 16;

/// A connection inside one machine is there or refused at once; this bounds a listener whose queue is full.
const CONNECT_BOUND: Duration = Duration::from_secs(5);

/// How often a followed log is looked at. Files cannot be waited for without a kernel facility more; a fifth of a second
/// is not felt and costs nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Kubelet {
    /// Runs a command in a container. Waits until it runs, at most 10 s, and until no other pod is on its first start,
    /// so that what was applied before can be relied upon; fails at once where waiting is of no use.
    pub async fn exec(&self, pod: &Object, container: &str, command: &Command) -> Result<Session, Status> {
        let begun = tokio::time::Instant::now();
        let run = self.run_of(pod, container, "exec in").await?;
        // What lags after the bound is no reason to refuse: the command then sees it as it is.
        self.quiet(START_BOUND.saturating_sub(begun.elapsed())).await;
        self.inner.runtime.exec(&run, command).map_err(|error| Status::internal(&linux::error::with_causes(&error)))
    }

    /// Attaches to the program of a container. Waits until it runs, as [`Self::exec`] does.
    pub async fn attach(&self, pod: &Object, container: &str, stdin: bool) -> Result<Attached, Status> {
        let run = self.run_of(pod, container, "attach to").await?;
        attach(&run, stdin).await.map_err(|error| Status::internal(&linux::error::with_causes(&error)))
    }

    /// Opens a connection to a port of a pod by its own `lo`, as if from inside: no policy judges it, as none judges a
    /// program that connects to itself.
    pub async fn connect(&self, pod: &Object, port: u16) -> Result<tokio::net::TcpStream, Status> {
        let refused =
            |why: &dyn std::fmt::Display| Status::bad_request(format!("port {port} of pod {}: {why}", pod.name()));
        let link = self.inner.node.pod_links().into_iter().find(|link| link.uid == pod.uid());
        let netns = link.ok_or_else(|| refused(&"the pod has no network"))?.netns;
        let dial = move || {
            let to = |address: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_BOUND);
            let stream = to(Ipv4Addr::LOCALHOST.into()).or_else(|error| {
                // The first reason is the one that is told: most programs listen on both or on IPv4 alone.
                to(Ipv6Addr::LOCALHOST.into()).map_err(|_| error)
            })?;
            stream.set_nonblocking(true).map(|()| stream)
        };
        let dialled = tokio::task::spawn_blocking(move || netns.run(dial)).await;
        let stream = dialled.map_err(|error| refused(&error))?.map_err(|error| refused(&error))?;
        let stream = stream.map_err(|error| refused(&error))?;
        tokio::net::TcpStream::from_std(stream).map_err(|error| refused(&error))
    }

    /// What a container has printed.
    pub fn logs(&self, pod: &Arc<Object>, container: &str, wanted: Logs) -> Result<LogStream, Status> {
        if (self.inner.hooks.is_virtual)(pod.value(), container) {
            return (self.inner.hooks.virtual_logs)(pod, container)
                .ok_or_else(|| Status::bad_request(format!("container {container} of pod {} has no log", pod.name())));
        }
        let view = self.view(pod)?;
        let path = log_path(&self.inner, pod, container, &view.borrow(), wanted.previous)?;
        let (pieces, stream) = mpsc::channel(PIECES_MAX);
        let name = container.to_owned();
        // Owned by the reader: it ends when the stream is dropped, when the container has ended, or when all is sent.
        tokio::spawn(async move {
            let mut follower = Follower::at_end(&path, wanted.selection.timestamps);
            let now = read(&path, wanted.selection);
            let sent = now.is_empty() || pieces.send(Bytes::from(now)).await.is_ok();
            if wanted.follow && sent {
                follow(&mut follower, &pieces, view, &name, &path).await;
            }
        });
        Ok(stream)
    }

    /// The records of the container's run, once it runs; `doing` is what is refused if it never will.
    async fn run_of(&self, pod: &Object, container: &str, doing: &str) -> Result<PathBuf, Status> {
        let mut view = self.view(pod)?;
        let run = running(&mut view, pod, container, doing);
        tokio::time::timeout(START_BOUND, run).await.map_err(|_| {
            Status::bad_request(format!(
                "container {container} of pod {} does not run after {} s; see `kubectl describe pod {}`",
                pod.name(),
                START_BOUND.as_secs(),
                pod.name()
            ))
        })?
    }

    fn view(&self, pod: &Object) -> Result<watch::Receiver<PodView>, Status> {
        let pods = self.pods();
        let entry = pods.get(pod.uid());
        entry
            .map(|entry| entry.view.clone())
            .ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", pod.name())))
    }
}

/// The records of the container's run, when there is one.
async fn running(
    view: &mut watch::Receiver<PodView>,
    pod: &Object,
    name: &str,
    doing: &str,
) -> Result<PathBuf, Status> {
    loop {
        let found = verdict(&view.borrow_and_update(), pod, name, doing);
        if let Some(verdict) = found {
            return verdict;
        }
        if view.changed().await.is_err() {
            return Err(Status::failure(404, "NotFound", format!("pods \"{}\" not found", pod.name())));
        }
    }
}

/// Where to run, or why not ever; none if it may still come.
fn verdict(view: &PodView, pod: &Object, name: &str, doing: &str) -> Option<Result<PathBuf, Status>> {
    let refuse = |message: String| Some(Err(Status::bad_request(message)));
    let Some(container) = view.container(name) else {
        return refuse(format!("container {name} is not valid for pod {}", pod.name()));
    };
    if let Some((_, why)) = &view.failed {
        return refuse(format!("pod {} has failed: {why}", pod.name()));
    }
    if container.is_virtual {
        return refuse(format!(
            "container {name} is not a process here: it stands for the data plane of the mesh, which the kernel runs; its log is `kubectl logs {} -c {name}`",
            pod.name()
        ));
    }
    match &container.state {
        State::Running { .. } => container.run.clone().map(Ok),
        State::Waiting { reason, .. } if matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") => None,
        State::Waiting { reason, message } => {
            refuse(format!("container {name} of pod {} is waiting: {reason}: {message}", pod.name()))
        }
        State::Terminated { code, reason, .. } => refuse(format!(
            "cannot {doing} a stopped container: {name} of pod {} has ended with exit code {code} ({reason})",
            pod.name()
        )),
    }
}

fn log_path(inner: &Inner, pod: &Object, name: &str, view: &PodView, previous: bool) -> Result<PathBuf, Status> {
    let Some(container) = view.container(name) else {
        return Err(Status::bad_request(format!("container {name} is not valid for pod {}", pod.name())));
    };
    let ContainerView { log, log_before, state, .. } = container;
    if previous {
        // Until the next run has begun, the run before it is the last one.
        let before = if matches!(state, State::Waiting { .. }) { log } else { log_before };
        return before.clone().ok_or_else(|| {
            Status::bad_request(format!("previous terminated container \"{name}\" in pod \"{}\" not found", pod.name()))
        });
    }
    match (log, state) {
        (Some(log), _) => Ok(log.clone()),
        (None, State::Waiting { reason, .. }) if reason.contains("ImagePull") => Err(Status::bad_request(format!(
            "container \"{name}\" in pod \"{}\" is waiting to start: trying and failing to pull image",
            pod.name()
        ))),
        // It never ran: what a first run would write.
        (None, _) => Ok(super::pod::log_dir(inner, pod).join(name).join("0.log")),
    }
}

/// Sends what comes until the container has ended and everything of it is sent, or the reader has left.
async fn follow(
    follower: &mut Follower,
    pieces: &mpsc::Sender<Bytes>,
    mut view: watch::Receiver<PodView>,
    name: &str,
    path: &Path,
) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        let over = is_over(&view.borrow_and_update(), name, path) || view.has_changed().is_err();
        let more = follower.more();
        if !more.is_empty() && pieces.send(Bytes::from(more)).await.is_err() {
            return;
        }
        if over {
            return;
        }
        tokio::select! {
            _ = ticks.tick() => {}
            () = pieces.closed() => return,
        }
    }
}

/// Whether nothing is written to this log any more.
fn is_over(view: &PodView, name: &str, path: &Path) -> bool {
    view.container(name).is_none_or(|container| {
        let another = container.log.as_deref().is_some_and(|log| log != path);
        another || matches!(container.state, State::Terminated { .. })
    })
}

/// Since when a log is wanted, from the two ways to say it.
pub fn since(seconds: Option<u64>, time: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let before = seconds.and_then(|seconds| {
        let seconds = i64::try_from(seconds).ok()?;
        now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok()
    });
    before.or(time)
}
