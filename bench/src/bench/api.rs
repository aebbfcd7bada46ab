//! A client of the API server that knows when the last byte of a request left: HTTP/1.1 over TLS, one kept-alive connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use tidegate_bench::monotonic_ns;

/// A merge patch, as `kubectl patch --type merge` sends it.
pub(crate) const MERGE: &str = "application/merge-patch+json";
/// An object.
pub(crate) const JSON: &str = "application/json";
/// A reply takes at most the time that the server holds a write; ten times that is a mesh that stands still.
const REPLY_MAX: Duration = Duration::from_mins(1);

/// Where the server is, and what it takes as the admin's.
#[derive(Clone)]
pub(crate) struct Access {
    address: SocketAddr,
    token: String,
    tls: Arc<ClientConfig>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Access {
    /// From a kubeconfig as `tidegate kubeconfig` prints it.
    pub(crate) fn of_kubeconfig(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let lines = text.lines().map(|line| line.trim_start_matches([' ', '-']));
            let found = lines.filter_map(|line| line.strip_prefix(name)).find_map(|rest| rest.strip_prefix(": "));
            found.map(str::trim).with_context(|| format!("the kubeconfig has no `{name}`"))
        };
        let pem = STANDARD.decode(field("certificate-authority-data")?).context("certificate-authority-data")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).context("certificate-authority-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = field("server")?;
        let address = server.strip_prefix("https://").and_then(|address| address.parse().ok());
        let address = address.with_context(|| format!("`{server}` is no address"))?;
        Ok(Self { address, token: field("token")?.to_owned(), tls: Arc::new(tls) })
    }

    /// Opens a connection.
    pub(crate) fn open(&self) -> Result<Api> {
        let tcp = TcpStream::connect(self.address).with_context(|| format!("connecting to {}", self.address))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(REPLY_MAX))?;
        let name = ServerName::from(self.address.ip());
        let stream = StreamOwned::new(ClientConnection::new(Arc::clone(&self.tls), name)?, tcp);
        Ok(Api { stream: BufReader::new(stream), host: self.address.to_string(), token: self.token.clone() })
    }
}

/// An open connection.
pub(crate) struct Api {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: String,
    token: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Where the time of a write went, in the server's words, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timing {
    /// Until it was durable and visible, waiting for other writes included.
    pub(crate) store: f64,
    /// Of that: making it durable.
    pub(crate) commit: f64,
    /// After that, until everything that follows from it was in force.
    pub(crate) settle: f64,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its body.
    pub(crate) value: Value,
    /// What the server said of its time; none from a server that says nothing.
    pub(crate) timing: Option<Timing>,
    /// Right before the request was handed to the kernel, whole, on the machine's monotonic clock.
    pub(crate) sent_ns: u64,
    /// When the answer was read.
    pub(crate) read_ns: u64,
}

#[derive(Debug, Default)]
struct Head {
    code: u16,
    length: usize,
    chunked: bool,
    timing: Option<Timing>,
}

impl Api {
    /// Asks; anything but a success is an error.
    pub(crate) fn ask(&mut self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<Reply> {
        let reply = self.try_ask(method, path, kind, body)?;
        match reply {
            (code, reply) if (200..300).contains(&code) => Ok(reply),
            (code, reply) => {
                let why = reply.value.get("message").and_then(Value::as_str).unwrap_or("no message");
                bail!("{method} {path}: {code}: {why}")
            }
        }
    }

    /// Reads an object.
    pub(crate) fn get(&mut self, path: &str) -> Result<Value> {
        Ok(self.ask("GET", path, JSON, None)?.value)
    }

    /// Makes an object.
    pub(crate) fn post(&mut self, path: &str, object: &Value) -> Result<Reply> {
        self.ask("POST", path, JSON, Some(object))
    }

    /// Changes an object.
    pub(crate) fn patch(&mut self, path: &str, change: &Value) -> Result<Reply> {
        self.ask("PATCH", path, MERGE, Some(change))
    }

    /// Removes an object.
    pub(crate) fn delete(&mut self, path: &str) -> Result<Reply> {
        self.ask("DELETE", path, JSON, None)
    }

    fn try_ask(&mut self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<(u16, Reply)> {
        let sent_ns = self.send(method, path, kind, body)?;
        let head = self.head()?;
        let mut bytes = Vec::new();
        if head.chunked {
            while self.chunk(&mut bytes)? {}
        } else {
            bytes.resize(head.length, 0);
            self.stream.read_exact(&mut bytes)?;
        }
        let read_ns = monotonic_ns();
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok((head.code, Reply { value, timing: head.timing, sent_ns, read_ns }))
    }

    fn send(&mut self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<u64> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let (host, token, length) = (&self.host, &self.token, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\naccept: application/json\r\n\
             content-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let stream = self.stream.get_mut();
        let sent_ns = monotonic_ns();
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        Ok(sent_ns)
    }

    fn head(&mut self) -> Result<Head> {
        let mut head = Head::default();
        let mut line = String::new();
        self.stream.read_line(&mut line).context("reading an answer")?;
        let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        head.code = code.with_context(|| format!("`{}` is no answer", line.trim_end()))?;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { return Ok(head) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.parse().context("content-length")?,
                "transfer-encoding" => head.chunked = value == "chunked",
                "server-timing" => head.timing = Some(timing(value)),
                _ => {}
            }
        }
    }

    /// Adds the next piece of a body; `false` after the last.
    fn chunk(&mut self, bytes: &mut Vec<u8>) -> Result<bool> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim_end(), 16).with_context(|| format!("`{line}` is no length"))?;
        let begin = bytes.len();
        bytes.resize(begin + length + 2, 0);
        self.stream.read_exact(bytes.get_mut(begin..).unwrap_or_default())?;
        bytes.truncate(begin + length);
        Ok(length > 0)
    }

    /// Watches: every event, until `wanted` says that it has seen enough.
    pub(crate) fn watch(mut self, path: &str, mut wanted: impl FnMut(&Value) -> bool) -> Result<()> {
        self.send("GET", path, JSON, None)?;
        let head = self.head()?;
        if head.code != 200 || !head.chunked {
            bail!("GET {path}: {}", head.code);
        }
        let mut bytes = Vec::new();
        while self.chunk(&mut bytes)? {
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = bytes.drain(..=end).collect();
                if wanted(&serde_json::from_slice(&line).context("an event")?) {
                    return Ok(());
                }
            }
        }
        bail!("GET {path}: the watch ended")
    }
}

fn timing(header: &str) -> Timing {
    let of = |name: &str| {
        let part = header.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix(";dur="));
        part.and_then(|ms| ms.parse().ok()).unwrap_or(f64::NAN)
    };
    Timing { store: of("store"), commit: of("commit"), settle: of("settle") }
}

#[cfg(test)]
mod tests {
    use super::timing;

    #[test]
    fn times_are_read_from_the_header() {
        let read = timing("store;dur=2.500, commit;dur=2.25, settle;dur=0.125");
        assert_eq!((read.store, read.commit, read.settle), (2.5, 2.25, 0.125));
        assert!(timing("").commit.is_nan());
    }
}
