//! Streams to and from containers: `exec`, `attach` and port-forward over WebSocket and SPDY, and `logs`.

use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::request::{self, Query};
use crate::route::Ask;
use crate::server::Inner;
use crate::{Body, ExecRequest, ForwardRequest, LogRequest, LogStream, reply};

mod carried;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod session;
mod spdy;
mod spdy_session;
mod websocket;

/// Commands that run at the same time: each holds a connection and the pipes of a process.
const SESSIONS_MAX: usize = 256;
/// Bytes of a log that are sent in one piece.
const LOG_PIECE_BYTES: usize = 16 * 1024;
/// Which container is meant if the client does not say.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Answers a request for a container's log.
pub(crate) async fn log(inner: &Inner, pod: Arc<Object>, query: &Query) -> Result<Response<Body>, Status> {
    let number = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("{name}: `{text}` is not a number of 0 or more"))),
    };
    let since_time = match query.get("sinceTime") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Status::bad_request(format!("sinceTime: `{text}` is not a time like 2026-01-31T12:00:00Z"))
        })?),
    };
    let request = LogRequest {
        container: container(&pod, query)?,
        follow: query.is_on("follow"),
        previous: query.is_on("previous"),
        timestamps: query.is_on("timestamps"),
        tail_lines: number("tailLines")?,
        since_seconds: number("sinceSeconds")?,
        since_time,
        limit_bytes: number("limitBytes")?,
        pod,
    };
    let log = (inner.hooks.logs)(request).await?;
    let pieces = stream::unfold(log, |mut log: LogStream| async move {
        let mut piece = vec![0; LOG_PIECE_BYTES];
        match log.read(&mut piece).await {
            Ok(0) => None,
            Ok(read) => {
                piece.truncate(read);
                Some((Bytes::from(piece), log))
            }
            Err(error) => {
                tracing::warn!(%error, "a log could not be read to its end");
                None
            }
        }
    });
    let mut response = reply::text(StatusCode::OK, "");
    *response.body_mut() = Body::stream(pieces);
    Ok(response)
}

/// How a client wants to speak after the upgrade.
#[derive(Clone, Copy, Debug)]
enum Wire<V> {
    WebSocket(V),
    Spdy,
}

/// Answers a request for connections to ports of a pod: switches protocols; each connection is opened when it is asked for.
pub(crate) fn forward(inner: &Inner, pod: Arc<Object>, ask: Ask) -> Result<Response<Body>, Status> {
    let Ask { mut request, .. } = ask;
    let accept = |headers: &HeaderMap, answer: &mut HeaderMap| {
        websocket::accept(headers, answer, &[forward::WEBSOCKET_PROTOCOL])
    };
    let (wire, response) = switch(request.headers(), forward::PROTOCOL, accept)?;
    let phase = pod.str_at("/status/phase");
    if phase != "Running" {
        return Err(Status::bad_request(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let place = inner.sessions.place()?;
    let upgrade = hyper::upgrade::on(&mut request);
    let open = Arc::clone(&inner.hooks.forward);
    let dial = move |port| open(ForwardRequest { pod: Arc::clone(&pod), port });
    let conversation = async move {
        let Some(connection) = upgraded(upgrade).await else { return };
        match wire {
            Wire::WebSocket(_) => carried::serve(connection, |bytes| forward::serve(bytes, dial)).await,
            Wire::Spdy => forward::serve(connection, dial).await,
        }
    };
    inner.sessions.run(place, conversation);
    Ok(response)
}

async fn upgraded(upgrade: hyper::upgrade::OnUpgrade) -> Option<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>> {
    match upgrade.await {
        Ok(connection) => Some(hyper_util::rt::TokioIo::new(connection)),
        Err(error) => {
            tracing::debug!(%error, "a client asked for another protocol and left");
            None
        }
    }
}

/// Answers a request to run a command or to attach: starts it, and switches protocols.
pub(crate) async fn exec(inner: &Inner, pod: Arc<Object>, ask: Ask, attach: bool) -> Result<Response<Body>, Status> {
    let Ask { mut request, query } = ask;
    let (wire, response) = switch(request.headers(), spdy_session::PROTOCOL, websocket::Version::accept)?;
    let tty = query.is_on("tty");
    let exec = ExecRequest {
        container: container(&pod, &query)?,
        command: query.all("command").map(str::to_owned).collect(),
        attach,
        stdin: query.is_on("stdin"),
        stdout: query.is_on("stdout"),
        stderr: query.is_on("stderr") && !tty,
        tty,
        pod,
    };
    if !attach && exec.command.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 command for the container"));
    }
    if !(exec.stdin || exec.stdout || exec.stderr) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let wanted = spdy_session::Wanted { stdin: exec.stdin, stdout: exec.stdout, stderr: exec.stderr, resize: tty };
    let place = inner.sessions.place()?;
    let upgrade = hyper::upgrade::on(&mut request);
    let session = (inner.hooks.exec)(exec).await?;
    let conversation = async move {
        let Some(connection) = upgraded(upgrade).await else { return };
        match wire {
            Wire::WebSocket(version) => websocket::serve(connection, version, session).await,
            Wire::Spdy => spdy_session::serve(connection, wanted, session).await,
        }
    };
    inner.sessions.run(place, conversation);
    Ok(response)
}

/// The conversations that have left HTTP; they end with their command, with their client, or with the server.
#[derive(Debug)]
pub(crate) struct Sessions {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Sessions {
    pub(crate) fn start() -> Self {
        Self {
            places: Arc::new(Semaphore::new(SESSIONS_MAX)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full =
            |_| Status::too_many_requests(format!("{SESSIONS_MAX} commands run already; wait until one has ended"), 1);
        Arc::clone(&self.places).try_acquire_owned().map_err(full)
    }

    fn run(&self, place: OwnedSemaphorePermit, conversation: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            if stop.run_until_cancelled(conversation).await.is_none() {
                tracing::debug!("a command was given up because the server stops");
            }
            drop(place);
        });
    }

    /// Ends them all, and those to come.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Chooses the protocol and makes the answer that switches to it; `spdy` is that of streams over SPDY.
fn switch<V>(
    headers: &HeaderMap,
    spdy: &'static str,
    accept: impl Fn(&HeaderMap, &mut HeaderMap) -> Result<V, Status>,
) -> Result<(Wire<V>, Response<Body>), Status> {
    let upgrade = request::values(headers, UPGRADE).next().unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if upgrade.eq_ignore_ascii_case("websocket") {
        let version = accept(headers, response.headers_mut())?;
        return Ok((Wire::WebSocket(version), response));
    }
    if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        if !request::values(headers, STREAM_PROTOCOL).any(|offered| offered == spdy) {
            let message = format!("none of the offered stream protocols is served; offer {spdy}");
            return Err(Status::failure(403, "Forbidden", message));
        }
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(spdy));
        return Ok((Wire::Spdy, response));
    }
    Err(Status::bad_request("Upgrade request required"))
}

/// The container that is meant, which is one of the pod's.
fn container(pod: &Object, query: &Query) -> Result<String, Status> {
    let names = |pointer: &str| -> Vec<String> {
        pod.items_at(pointer)
            .iter()
            .filter_map(|container| container.get("name"))
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let (plain, init) = (names("/spec/containers"), names("/spec/initContainers"));
    let wanted = query.get("container").or_else(|| pod.annotation(DEFAULT_CONTAINER));
    match (wanted, plain.as_slice()) {
        (Some(wanted), _) if plain.iter().chain(&init).any(|name| name == wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", pod.name())))
        }
        (None, [only]) => Ok(only.clone()),
        (None, _) => {
            let names = plain.join(" ");
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{names}]",
                pod.name()
            )))
        }
    }
}

#[cfg(test)]
mod tests;
