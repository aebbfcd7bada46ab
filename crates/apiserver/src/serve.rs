//! The way from a listener to `route`: connections, TLS, HTTP, bodies and who is asking.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use http::{Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::Inner;
use crate::{Body, authn, reply, route};

/// Open connections; each may hold a body, and file descriptors are few. The next one waits in the listener's queue.
const CONNECTIONS_MAX: usize = 512;
/// Requests that one HTTP/2 connection may have open, watches included; kubectl has one or two.
const STREAMS_MAX: u32 = 100;
/// A body as large as Kubernetes takes.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// A peer on the same machine shakes hands in milliseconds; one that does not is holding the connection.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Time for the head of a request, counted anew between requests: clients keep idle connections for 90 s.
const HEAD_TIME_MAX: Duration = Duration::from_mins(2);
/// Time for the body of a request.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Time that requests have to end when the server stops; watches never end by themselves.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(500);
/// Pause after a failed accept, mostly for want of descriptors, so that the loop does not spin until one is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the token is cancelled.
pub(crate) async fn serve(inner: &Arc<Inner>, listener: TcpListener, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tls = TlsAcceptor::from(Arc::clone(&inner.credentials.tls));
    let connections = TaskTracker::new();
    let stop = CancellationToken::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                failing = false;
                let (inner, tls, shutdown, stop) = (Arc::clone(inner), tls.clone(), shutdown.clone(), stop.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(inner, stream, tls, shutdown) => {}
                        () = stop.cancelled() => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Once for as long as it lasts: clients wait, and are answered when it is over.
                if !failing {
                    tracing::warn!(%error, "cannot accept connections; close some, or raise the limit of open files (ulimit -Hn)");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    inner.sessions.end().await;
    connections.close();
    if timeout(DRAIN_TIME_MAX, connections.wait()).await.is_err() {
        stop.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(inner: Arc<Inner>, stream: TcpStream, tls: TlsAcceptor, shutdown: CancellationToken) {
    let stream = match timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let certificate =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|certificate| certificate.to_vec());
    let certificate = Arc::new(certificate);
    let service = service_fn(move |request| {
        let (inner, certificate) = (Arc::clone(&inner), Arc::clone(&certificate));
        async move { Ok::<_, Infallible>(respond(&inner, certificate.as_deref(), request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn respond(inner: &Arc<Inner>, certificate: Option<&[u8]>, request: Request<Incoming>) -> Response<Body> {
    let Some(user) = authn::user(&inner.credentials, certificate, request.headers()) else {
        return reply::status(&Status::unauthorized());
    };
    // Only the admin may make us hold a body.
    let bytes_max = if user == authn::User::Admin { BODY_BYTES_MAX } else { 0 };
    let (head, body) = request.into_parts();
    match timeout(BODY_TIME_MAX, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => route::answer(inner, Request::from_parts(head, body.to_bytes()), user).await,
        Ok(Err(error)) if error.is::<LengthLimitError>() && user == authn::User::Anonymous => {
            reply::status(&Status::unauthorized())
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => reply::status(&Status::too_large(BODY_BYTES_MAX)),
        Ok(Err(error)) => reply::status(&Status::bad_request(format!("the body ended early: {error}"))),
        Err(_) => reply::status(&Status::failure(408, "Timeout", "the body did not arrive in 30 s")),
    }
}
