//! The API server of a running mesh, as `status` and `tap` call it: one request over TLS, with the mesh's own CA
//! and token.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::daemon;
use crate::settings::Place;

/// Sends `GET path` to the daemon of this place and returns its answer once the head is there.
pub(crate) async fn get(place: &Place, path: &str) -> Result<http::Response<Incoming>> {
    let daemon = daemon::running(place)?.filter(|daemon| daemon.port != 0);
    let no_mesh = || format!("no mesh runs in `{}`; start it: {}", place.data_dir.display(), place.command("up"));
    let daemon = daemon.with_context(no_mesh)?;
    let credentials = apiserver::kubeconfig::access(&place.data_dir).context("reading the credentials of the mesh")?;
    let stream = TcpStream::connect(("127.0.0.1", daemon.port)).await.context("connecting to the API server")?;
    let tls = connector(&credentials.ca_pem)?.connect(ServerName::try_from("localhost")?, stream).await;
    let tls = tls.context("TLS with the API server")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.context("HTTP with the API server")?;
    // Owned by the answer: when its body is dropped the connection ends, and this task with it.
    tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::AUTHORIZATION, format!("Bearer {}", credentials.token))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("asking the API server")?;
    if !response.status().is_success() {
        let status = response.status();
        let body = response.into_body().collect().await.context("reading the API server's answer")?.to_bytes();
        return Err(anyhow!("`{path}`: {status}: {}", String::from_utf8_lossy(&body)));
    }
    Ok(response)
}

fn connector(ca_pem: &str) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.context("reading the CA certificate")?).context("trusting the CA certificate")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
