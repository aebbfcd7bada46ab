//! What the kubelet asks of the rest, and what the rest asks of the kubelet.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use api::{Object, Objects, Status};
use apiserver::{ExecRequest, ExecSession, ForwardRequest, Forwarded, LogRequest, LogStream, Server, TerminalSize};
use dataplane::{Dataplane, PodNet};
use linux::error::with_causes;
use local::PodLink;
use local::kubelet::{Hooks, Kubelet, Logs};
use local::runtime::exec::Command;
use local::runtime::logs::Selection;
use policy::WorkloadId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use super::records::Records;

/// Sizes of a terminal that wait to be applied; only the last counts.
const RESIZES_PENDING_MAX: usize = 4;

/// Bytes of a log that wait for a slow reader.
const LOG_PENDING_BYTES: usize = 64 * 1024;

/// The kubelet's hooks: links are guarded by the data plane, objects are the server's, a proxy's log is its decisions.
pub(super) fn kubelet_hooks(
    dataplane: Dataplane,
    server: Server,
    objects: Arc<RwLock<Objects>>,
    settled: watch::Receiver<u64>,
) -> Hooks {
    let (detaching, severing, dropping) = (dataplane.clone(), dataplane.clone(), dataplane.clone());
    Hooks {
        attach: Arc::new(move |pod, link| {
            let (dataplane, net) = (dataplane.clone(), pod_net(&pod, &link));
            Box::pin(async move { dataplane.attach(net).await.map_err(|error| with_causes(&error)) })
        }),
        detach: Arc::new(move |pod, _| {
            let (dataplane, workload) = (detaching.clone(), workload_of(&pod));
            Box::pin(async move { dataplane.detach(&workload).await.map_err(|error| with_causes(&error)) })
        }),
        sever: Arc::new(move |link| {
            let dataplane = severing.clone();
            Box::pin(async move { dataplane.sever(addresses_of(&link)).await.map_err(|error| with_causes(&error)) })
        }),
        dropped: Arc::new(move |link| {
            let (dataplane, addresses) = (dropping.clone(), addresses_of(&link));
            Box::pin(async move {
                // What cannot be shown is not so: the addresses rest.
                dataplane.has_dropped(addresses).await.unwrap_or(false)
            })
        }),
        write: Arc::new(move |write| {
            let server = server.clone();
            Box::pin(async move { server.write(write).await })
        }),
        settled,
        find: Arc::new(move |key| objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()),
        is_virtual: Arc::new(control::inject::is_virtual),
        virtual_logs: Arc::new(|_, _| None),
    }
}

fn addresses_of(link: &PodLink) -> Vec<IpAddr> {
    vec![link.v4.into(), link.v6.into(), link.alias_v4.into(), link.alias_v6.into()]
}

fn workload_of(pod: &Object) -> WorkloadId {
    WorkloadId::new(pod.namespace().unwrap_or_default(), pod.name())
}

fn pod_net(pod: &Object, link: &PodLink) -> PodNet {
    PodNet {
        workload: workload_of(pod),
        netns: link.netns.clone(),
        v4: link.v4,
        v6: link.v6,
        node_link: link.node_link,
    }
}

/// Runs a command in a container for a client of the API.
pub(super) async fn exec(kubelet: &Kubelet, request: ExecRequest) -> Result<ExecSession, Status> {
    if request.attach {
        let attached = kubelet.attach(&request.pod, &request.container, request.stdin).await?;
        let (sizes, end) = (attached.resize, attached.end);
        return Ok(ExecSession {
            stdin: attached.stdin,
            stdout: request.stdout.then_some(attached.stdout),
            stderr: request.stderr.then_some(attached.stderr),
            // One that cannot be told is that of a program which has ended.
            resize: Some(resizes(move |width, height| sizes.try_send((width, height)).is_ok())),
            exit: Box::pin(async move {
                end.await;
                Ok(0)
            }),
        });
    }
    let command = Command { command: request.command, stdin: request.stdin, tty: request.tty };
    let session = kubelet.exec(&request.pod, &request.container, &command).await?;
    // A terminal that is gone needs no size.
    let resize = session.terminal.map(|terminal| resizes(move |width, height| terminal.resize(width, height).is_ok()));
    let exit = session.exit;
    Ok(ExecSession {
        stdin: session.stdin,
        stdout: Some(session.stdout),
        stderr: session.stderr,
        resize,
        exit: Box::pin(async move { exit.await.map_err(|error| Status::internal(&with_causes(&error))) }),
    })
}

/// Sets the size of a terminal each time that a client tells one, until it cannot be set any more.
fn resizes(set: impl Fn(u16, u16) -> bool + Send + 'static) -> mpsc::Sender<TerminalSize> {
    let (sender, mut receiver) = mpsc::channel::<TerminalSize>(RESIZES_PENDING_MAX);
    tokio::spawn(async move {
        while let Some(TerminalSize { width, height }) = receiver.recv().await {
            if !set(width, height) {
                return;
            }
        }
    });
    sender
}

/// Opens a connection to a port of a pod for a client of the API.
pub(super) async fn forward(kubelet: &Kubelet, request: ForwardRequest) -> Result<Forwarded, Status> {
    let (reader, writer) = kubelet.connect(&request.pod, request.port).await?.into_split();
    Ok(Forwarded { reader: Box::new(reader), writer: Box::new(writer) })
}

/// Reads a container's log for a client of the API.
pub(super) fn logs(kubelet: &Kubelet, records: &Records, request: &LogRequest) -> Result<LogStream, Status> {
    if control::inject::is_virtual(request.pod.value(), &request.container) {
        // The data plane is the kernel: what it says are its decisions.
        return Ok(Box::new(records.proxy_log(workload_of(&request.pod), request.tail_lines, request.follow)));
    }
    let since = local::kubelet::since(request.since_seconds, request.since_time, jiff::Timestamp::now());
    let selection = Selection { tail: request.tail_lines, since, timestamps: request.timestamps };
    let wanted = Logs { follow: request.follow, previous: request.previous, selection };
    let mut pieces = kubelet.logs(&request.pod, &request.container, wanted)?;
    let (reader, mut writer) = tokio::io::duplex(LOG_PENDING_BYTES);
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            if writer.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    Ok(match request.limit_bytes {
        Some(limit) => Box::new(reader.take(limit)),
        None => Box::new(reader),
    })
}

/// The pod that `host:port` leads to from this namespace, and the port of the pod: by address, or by a Service's name.
pub(super) fn find_destination(
    objects: &Objects,
    namespace: &str,
    host: &str,
    port: u16,
) -> Option<(Arc<Object>, u16)> {
    if let Ok(address) = host.parse::<IpAddr>() {
        let wanted = address.to_string();
        let pod = objects.list("", "pods").find(|pod| pod.str_at("/status/podIP") == wanted)?;
        return Some((Arc::clone(pod), port));
    }
    let (name, namespace) = host.split_once('.').unwrap_or((host, namespace));
    let service = objects.find("", "services", Some(namespace), name)?;
    let declared = service.items_at("/spec/ports").iter().find(|one| one.get("port") == Some(&port.into()))?;
    let target =
        declared.get("targetPort").and_then(serde_json::Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let wanted = service.at("/spec/selector").as_object()?;
    let carries = |pod: &Object| wanted.iter().all(|(name, value)| pod.label(name) == value.as_str());
    let pod = objects.in_namespace("", "pods", namespace).find(|pod| carries(pod))?;
    Some((Arc::clone(pod), target.unwrap_or(port)))
}
