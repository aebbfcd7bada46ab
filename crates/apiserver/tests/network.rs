//! The server as strangers meet it: TLS, credentials, bounds.
#![cfg(test)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::admission::Admitted;
use apiserver::{Hooks, Server, Settings};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    folder: TempDir,
    server: Server,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hooks = Hooks {
        admit: Arc::new(|_| Admitted::default()),
        settled: watch::channel(u64::MAX).1,
        exec: Arc::new(|_| async { Err(api::Status::internal("none")) }.boxed()),
        logs: Arc::new(|_| async { Err(api::Status::internal("none")) }.boxed()),
        forward: Arc::new(|_| async { Err(api::Status::unavailable("no pods here")) }.boxed()),
        extension: Arc::new(|_| async { Some(Response::new(apiserver::Body::whole("secret"))) }.boxed()),
    };
    let server = Server::open(Settings { data_dir: folder.path().to_owned(), listen: address }, hooks).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(listener, stop).await }
    });
    Served { folder, server, address, stop, task }
}

/// What a client shows in the handshake: a certificate and key of the server's folder.
fn tls(folder: &Path, shown: Option<&str>, protocol: &[u8]) -> TlsConnector {
    let read = |name: &str| std::fs::read(folder.join("pki").join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_slice(&read(&format!("{name}.crt"))).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&read(&format!("{name}.key"))).unwrap())
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

impl Served {
    async fn connect(&self, shown: Option<&str>, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        tls(self.folder.path(), shown, protocol).connect("127.0.0.1".try_into().unwrap(), stream).await
    }

    async fn send(&self, shown: Option<&str>, request: Request<Full<Bytes>>) -> Option<Response<Incoming>> {
        let stream = self.connect(shown, b"http/1.1").await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        timeout(PATIENCE, sender.send_request(request)).await.expect("an answer").ok()
    }

    async fn code(&self, path: &str, token: Option<&str>, shown: Option<&str>) -> Option<u16> {
        let mut request = Request::get(path).header("host", "x");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Some(self.send(shown, request.body(Full::default()).unwrap()).await?.status().as_u16())
    }

    fn token(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("pki/token")).unwrap()
    }
}

#[tokio::test]
async fn only_the_admin_gets_more_than_health_and_version() {
    let served = served().await;
    let token = served.token();
    let paths = [
        "/version",
        "/healthz",
        "/api",
        "/apis",
        "/api/v1/namespaces",
        "/openapi/v2",
        "/tidegate/x",
        "/nothing",
        "/api/v1/namespaces/default/pods/p/exec?command=x&stdout=true",
    ];
    for (token, shown, expected) in [
        (None, None, [200, 200, 401, 401, 401, 401, 401, 401, 401]),
        (Some("guess"), None, [401; 9]),
        (Some(token.as_str()), None, [200, 200, 200, 200, 200, 200, 200, 404, 404]),
        (None, Some("admin"), [200, 200, 200, 200, 200, 200, 200, 404, 404]),
    ] {
        for (path, expected) in paths.into_iter().zip(expected) {
            // The last path is answered before any protocol is switched: the pod is looked up first.
            assert_eq!(served.code(path, token, shown).await, Some(expected), "{path} {token:?} {shown:?}");
        }
    }
    assert_eq!(served.code("/version", None, Some("server")).await, None, "a server's certificate is no client's");
}

#[tokio::test]
async fn credentials_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let served = served().await;
    let mode = |path: &str| std::fs::metadata(served.folder.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("pki"), 0o700);
    for file in ["pki/token", "pki/admin.key", "pki/server.key", "pki/ca.crt", "store.redb"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    let kubeconfig = served.server.kubeconfig(Some("foo"));
    assert!(
        kubeconfig.contains("    namespace: \"foo\"\n")
            && kubeconfig.contains(&format!("server: https://{}", served.address))
    );
    let access = apiserver::kubeconfig::access(served.folder.path()).unwrap();
    assert_eq!(apiserver::kubeconfig::text(&access, served.address, Some("foo")), kubeconfig);
    assert!(!format!("{access:?}").contains(&access.token));
    let error = apiserver::kubeconfig::access(&served.folder.path().join("none")).unwrap_err();
    assert!(error.to_string().contains("none/pki/ca.crt"), "{error}");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let served = served().await;
    let post = |token: Option<&str>, bytes: usize| {
        let mut request = Request::post("/api/v1/namespaces").header("host", "x");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Full::new(Bytes::from(vec![b' '; bytes]))).unwrap()
    };
    let token = served.token();
    let fits = served.send(None, post(Some(&token), 3 << 20)).await.unwrap();
    assert_eq!(fits.status(), StatusCode::BAD_REQUEST);
    let large = served.send(None, post(Some(&token), (3 << 20) + 1)).await.unwrap();
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let body: Value = serde_json::from_slice(&large.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((body["kind"].as_str(), body["code"].as_u64()), (Some("Status"), Some(413)));
    let stranger = served.send(None, post(None, 1)).await.unwrap();
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn both_versions_of_http_are_spoken() {
    let served = served().await;
    let stream = served.connect(Some("admin"), b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("https://{}/api/v1/namespaces?watch=true&resourceVersion=2", served.address);
    let watching =
        sender.send_request(Request::builder().method(Method::GET).uri(uri).body(Full::<Bytes>::default()).unwrap());
    let response = timeout(PATIENCE, watching).await.expect("the head comes before any event").unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let object = api::Object::named("v1", "Namespace", None, "foo");
    served.server.write(api::Write::Create(object)).await.unwrap();
    let mut body = response.into_body();
    let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
    assert!(frame.into_data().unwrap().starts_with(b"{\"type\":\"ADDED\""));
}

#[tokio::test]
async fn a_watch_over_http_1_sends_its_head_at_once() {
    let served = served().await;
    let mut stream = served.connect(Some("admin"), b"http/1.1").await.unwrap();
    stream.write_all(b"GET /api/v1/pods?watch=1&resourceVersion=2 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = vec![0; 15];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("the head comes before any event").unwrap();
    assert_eq!(head, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn plain_text_and_garbage_harm_nobody() {
    let served = served().await;
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 64], &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0]] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the end"));
    }
    assert_eq!(served.code("/healthz", None, None).await, Some(200));
}

#[tokio::test]
async fn stopping_ends_watches_and_frees_the_store() {
    let served = served().await;
    let mut stream = served.connect(Some("admin"), b"http/1.1").await.unwrap();
    stream.write_all(b"GET /api/v1/pods?watch=1&resourceVersion=2 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = vec![0; 15];
    stream.read_exact(&mut head).await.unwrap();
    served.stop.cancel();
    timeout(PATIENCE, served.task).await.expect("the end").unwrap();
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens");
    let mut feed = served.server.subscribe();
    drop(served.server);
    while timeout(PATIENCE, feed.next()).await.expect("the feed ends").is_some() {}
    let hooks = Hooks {
        admit: Arc::new(|_| Admitted::default()),
        settled: watch::channel(u64::MAX).1,
        exec: Arc::new(|_| async { Err(api::Status::internal("none")) }.boxed()),
        logs: Arc::new(|_| async { Err(api::Status::internal("none")) }.boxed()),
        forward: Arc::new(|_| async { Err(api::Status::unavailable("no pods here")) }.boxed()),
        extension: Arc::new(|_| async { None }.boxed()),
    };
    let again = Server::open(Settings { data_dir: served.folder.path().to_owned(), listen: served.address }, hooks);
    assert!(again.is_ok(), "{again:?}");
}
