//! An API server as `status`, `tap` and questions about what is live call it: one request over TLS, with the CA and the credentials
//! of the mesh of this machine, or of a kubeconfig.

mod server;

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(crate) use server::Server;

use crate::daemon;
use crate::settings::Place;

/// What a command asks from: it waits for one answer at a time.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Sends `GET path` to the daemon of this place and returns its answer once the head is there.
pub(crate) async fn get(place: &Place, path: &str) -> Result<http::Response<Incoming>> {
    let response = ask(&server(place)?, path).await?;
    if !response.status().is_success() {
        return Err(refusal(response, path).await);
    }
    Ok(response)
}

/// Sends `POST path` with a JSON body to the daemon of this place.
pub(crate) async fn post(place: &Place, path: &str, body: Vec<u8>) -> Result<http::Response<Incoming>> {
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    let response = send(&server(place)?, request, Bytes::from(body)).await?;
    if !response.status().is_success() {
        return Err(refusal(response, path).await);
    }
    Ok(response)
}

/// The API server of the mesh of this place, which must run.
pub(crate) fn server(place: &Place) -> Result<Server> {
    let daemon = daemon::running(place)?.filter(|daemon| daemon.port != 0);
    let no_mesh = || format!("no mesh runs in `{}`; start it: {}", place.data_dir.display(), place.command("up"));
    let daemon = daemon.with_context(no_mesh)?;
    let credentials = apiserver::kubeconfig::access(&place.data_dir).context("reading the credentials of the mesh")?;
    Ok(Server {
        host: "127.0.0.1".to_owned(),
        port: daemon.port,
        prefix: String::new(),
        ca_pem: credentials.ca_pem,
        token: Some(credentials.token),
        client: None,
    })
}

/// The error that an answer is.
pub(crate) async fn refusal(response: http::Response<Incoming>, path: &str) -> anyhow::Error {
    let status = response.status();
    match response.into_body().collect().await {
        Ok(body) => anyhow!("`{path}`: {status}: {}", String::from_utf8_lossy(&body.to_bytes())),
        Err(error) => anyhow!("`{path}`: {status}: {error}"),
    }
}

/// Sends `GET path` and returns the answer once its head is there, whatever it says.
pub(crate) async fn ask(server: &Server, path: &str) -> Result<http::Response<Incoming>> {
    send(server, http::Request::get(format!("{}{path}", server.prefix)), Bytes::new()).await
}

async fn send(server: &Server, request: http::request::Builder, body: Bytes) -> Result<http::Response<Incoming>> {
    let Server { host, port, .. } = server;
    let at = || format!("connecting to the API server at {host}:{port}");
    let stream = TcpStream::connect((host.as_str(), *port)).await.with_context(at)?;
    let tls = connector(server)?.connect(ServerName::try_from(host.clone())?, stream).await;
    let tls = tls.context("TLS with the API server")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.context("HTTP with the API server")?;
    // Owned by the answer: when its body is dropped the connection ends, and this task with it.
    tokio::spawn(connection);
    let mut request = request.header(http::header::HOST, host);
    if let Some(token) = &server.token {
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
    }
    sender.send_request(request.body(Full::new(body))?).await.context("asking the API server")
}

fn connector(server: &Server) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(server.ca_pem.as_bytes()) {
        roots.add(certificate.context("reading the CA certificate")?).context("trusting the CA certificate")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match &server.client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("reading the client's key")?;
            config.with_client_auth_cert(chain.context("reading the client's certificate")?, key)?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
