//! One request after the other over HTTP/1.1: to whom, within which time, and no further than that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::images::reference::host_of;

/// Until an answer begins: connecting, TLS, and what the registry needs to look it up.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Between two pieces of an answer: a connection on which nothing comes for so long is dead.
const PIECE_MAX: Duration = Duration::from_mins(1);
/// Redirections for one request: registries send to one other host for layers.
const REDIRECTIONS_MAX: usize = 5;
/// Longest complaint that is passed on.
const COMPLAINT_BYTES_MAX: usize = 300;

/// Where systems keep the certificates that they trust.
const TRUSTED: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Names a file of certificates that are trusted instead, as OpenSSL and its like take it.
pub const TRUSTED_VARIABLE: &str = "SSL_CERT_FILE";

/// How requests travel.
pub(super) struct Transport {
    /// The registry is on this machine: plain HTTP is spoken with this machine, and with nobody else.
    is_local: bool,
    tls: TlsConnector,
}

/// An answer whose body is still to come.
pub(super) struct Answer {
    head: http::response::Parts,
    body: Incoming,
    host: String,
}

impl Transport {
    pub(super) fn new(is_local: bool) -> Result<Self, String> {
        let named = std::env::var_os(TRUSTED_VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from);
        let found = TRUSTED.iter().map(Path::new).find(|path| path.exists());
        let roots = named.as_deref().or(found).map_or_else(RootCertStore::empty, trusted);
        if let Some(file) = named.filter(|_| roots.is_empty() && !is_local) {
            let why = "no certificate can be read from the file that";
            return Err(format!("{why} {TRUSTED_VARIABLE} names: `{}`", file.display()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { is_local, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Asks, and follows redirections; whoever else is led to is not told who asks.
    pub(super) async fn get(&self, uri: &Uri, headers: Vec<(HeaderName, HeaderValue)>) -> Result<Answer, String> {
        let (mut uri, mut headers) = (uri.clone(), headers);
        for _ in 0..=REDIRECTIONS_MAX {
            let host = uri.authority().map(ToString::to_string).unwrap_or_default();
            self.check(&uri)?;
            let asked = tokio::time::timeout(ANSWER_MAX, self.send(&uri, &headers)).await;
            let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_MAX.as_secs())));
            let answer = asked.map_err(|why| format!("{host}: {why}"))?;
            let to = answer.headers().get(LOCATION).filter(|_| answer.status().is_redirection());
            let Some(to) = to.and_then(|to| to.to_str().ok()) else { return Ok(answer) };
            let next = led(&uri, to)?;
            if next.authority() != uri.authority() || next.scheme() != uri.scheme() {
                headers.retain(|(name, _)| *name != AUTHORIZATION);
            }
            uri = next;
        }
        Err(format!("it is led on more than {REDIRECTIONS_MAX} times"))
    }

    /// Whether there may be spoken with whom the address names.
    fn check(&self, uri: &Uri) -> Result<(), String> {
        let host = uri.authority().map_or("", |authority| host_of(authority.as_str()));
        let is_here =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        match uri.scheme_str() {
            Some("https") if !is_here || self.is_local => Ok(()),
            Some("http") if is_here && self.is_local => Ok(()),
            _ if is_here => Err(format!("`{uri}`: a registry elsewhere leads to this machine, which is not followed")),
            _ => Err(format!("`{uri}`: plain HTTP is spoken with registries on this machine alone")),
        }
    }

    async fn send(&self, uri: &Uri, headers: &[(HeaderName, HeaderValue)]) -> Result<Answer, String> {
        let failed = |error: io::Error| error.to_string();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_plain = uri.scheme_str() == Some("http");
        let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path).header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        request = request.header(HOST, uri.authority().map_or("", |authority| authority.as_str()));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        if is_plain {
            return exchange(stream, request, host).await;
        }
        let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        exchange(self.tls.connect(name, stream).await.map_err(failed)?, request, host).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
    host: String,
) -> Result<Answer, String> {
    let failed = |error: hyper::Error| linux::error::with_causes(&error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Owned by the answer: when its body is dropped the connection ends, and this task with it.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
    Ok(Answer { head, body, host })
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The next piece of the body; none at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = tokio::time::timeout(PIECE_MAX, self.body.frame()).await;
            let frame =
                frame.map_err(|_| format!("{}: nothing more comes for {} s", self.host, PIECE_MAX.as_secs()))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| format!("{}: {}", self.host, linux::error::with_causes(&error)))?;
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// The whole body, which has at most so many bytes.
    pub(super) async fn whole(mut self, bytes_max: u64) -> Result<Vec<u8>, String> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
            if u64::try_from(whole.len()).unwrap_or(u64::MAX) > bytes_max {
                return Err(format!("{}: a document is longer than {bytes_max} bytes", self.host));
            }
        }
        Ok(whole)
    }

    /// What a registry says is wrong, in its own words, cut to a line.
    pub(super) async fn complaint(mut self) -> String {
        let mut text = Vec::new();
        while let Ok(Some(piece)) = self.piece().await {
            text.extend_from_slice(&piece);
            if text.len() > 16 * COMPLAINT_BYTES_MAX {
                break;
            }
        }
        let read: Value = serde_json::from_slice(&text).unwrap_or_default();
        let first = read.pointer("/errors/0");
        let field = |name: &str| first.and_then(|first| first.get(name)).and_then(Value::as_str).unwrap_or_default();
        let said = match field("message") {
            "" => String::from_utf8_lossy(&text).into_owned(),
            message => format!("{}: {message}", field("code")),
        };
        let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
        said.chars().map(plain).take(COMPLAINT_BYTES_MAX).collect::<String>().trim().to_owned()
    }
}

/// The certificates of a file.
fn trusted(file: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).into_iter().flatten().flatten();
    // Some of old are none by today's rules: whoever needs one of them is told by the connection.
    certificates.for_each(|certificate| drop(roots.add(certificate)));
    roots
}

/// Where a redirection leads, as seen from where it was given.
fn led(from: &Uri, to: &str) -> Result<Uri, String> {
    let wrong = |why: String| format!("`{to}`, where it is led to, is no address: {why}");
    let next: Uri = to.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    if next.authority().is_some() && next.scheme().is_some() {
        return Ok(next);
    }
    if !to.starts_with('/') || to.starts_with("//") {
        return Err(wrong("it is neither whole nor a path".to_owned()));
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = next.into_parts().path_and_query;
    Uri::from_parts(parts).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_and_nobody_is_led_here_from_elsewhere() {
        let (here, elsewhere) = (Transport::new(true).unwrap(), Transport::new(false).unwrap());
        for (uri, from_here, from_elsewhere) in [
            ("http://127.0.0.1:5000/v2/", true, false),
            ("http://localhost:5000/v2/", true, false),
            ("http://[::1]:5000/v2/", true, false),
            ("https://127.0.0.1/v2/", true, false),
            ("https://example.com/v2/", true, true),
            ("http://example.com/v2/", false, false),
            ("http://10.0.0.1:5000/v2/", false, false),
            ("ftp://example.com/v2/", false, false),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!((here.check(&uri).is_ok(), elsewhere.check(&uri).is_ok()), (from_here, from_elsewhere), "{uri}");
        }
    }

    #[test]
    fn a_redirection_is_an_address_or_a_path() {
        let from: Uri = "https://r.io/v2/a?x=1".parse().unwrap();
        assert_eq!(led(&from, "/other?y=2").unwrap().to_string(), "https://r.io/other?y=2");
        assert_eq!(led(&from, "https://cdn.io/b").unwrap().to_string(), "https://cdn.io/b");
        for to in ["//evil.io/b", "other", "", "file:///etc/passwd"] {
            assert!(led(&from, to).is_err(), "{to}");
        }
    }
}
