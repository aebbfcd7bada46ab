//! A client of a mesh's API server over one connection that is kept: quick enough to write while everything else fails, and it
//! knows of each request whether it was answered.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;

use crate::mesh::Mesh;

/// A write waits 2 s for its consequences at most; this only bounds a hang.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// The header `Warning`, if there is one.
    pub warning: Option<String>,
    /// The body.
    pub body: Value,
}

/// Why there is no answer: whether the request was carried out is not known.
#[derive(Debug, Clone)]
pub struct Unanswered(pub String);

/// A client; it connects when it is first asked something, and anew after every failure.
#[derive(Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    token: String,
    port: u16,
    stream: Option<BufReader<StreamOwned<ClientConnection, TcpStream>>>,
}

impl Client {
    /// A client of the mesh as it is now; its port and keys outlive its daemon.
    pub fn of(mesh: &Mesh) -> Self {
        let read = |name: &str| {
            let path = mesh.data_dir().join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(read("pki/ca.crt").as_bytes());
        roots
            .add(authority.unwrap_or_else(|error| panic!("the authority: {error}")))
            .unwrap_or_else(|error| panic!("the authority: {error}"));
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|error| panic!("TLS: {error}"))
            .with_root_certificates(roots)
            .with_no_client_auth();
        let port = read("port").trim().parse().unwrap_or_else(|error| panic!("its port: {error}"));
        Self { config: Arc::new(config), token: read("pki/token").trim().to_owned(), port, stream: None }
    }

    /// Asks, and waits for the answer. `body` goes as JSON; a patch is a merge patch.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Unanswered> {
        let mut stream = self.stream.take().map_or_else(|| self.connect(), Ok).map_err(|error| unanswered(&error))?;
        self.send(&mut stream, method, path, body).map_err(|error| unanswered(&error))?;
        let (code, head) = head(&mut stream).map_err(|error| unanswered(&error))?;
        let field = |name: &str| {
            let found = head.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        let mut text = Vec::new();
        if field("transfer-encoding").is_some() {
            while let Some(part) = chunk(&mut stream).map_err(|error| unanswered(&error))? {
                text.extend(part);
            }
        } else {
            let length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            text.resize(length, 0);
            stream.read_exact(&mut text).map_err(|error| unanswered(&error))?;
        }
        self.stream = Some(stream);
        let body = serde_json::from_slice(&text).unwrap_or(Value::Null);
        Ok(Answer { code, warning: field("warning"), body })
    }

    /// Asks for what goes on; each line as it comes, `None` at its end, however that came.
    pub fn watch(&mut self, path: &str) -> Result<impl FnMut() -> Option<Value> + use<>, Unanswered> {
        let mut stream = self.connect().map_err(|error| unanswered(&error))?;
        self.send(&mut stream, "GET", path, None).map_err(|error| unanswered(&error))?;
        let (code, _) = head(&mut stream).map_err(|error| unanswered(&error))?;
        if code != 200 {
            return Err(Unanswered(format!("status {code}")));
        }
        let mut text: Vec<u8> = Vec::new();
        Ok(move || {
            loop {
                if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    return serde_json::from_slice(&line).ok();
                }
                text.extend(chunk(&mut stream).ok().flatten()?);
            }
        })
    }

    fn connect(&self) -> std::io::Result<BufReader<StreamOwned<ClientConnection, TcpStream>>> {
        let socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        let name = ServerName::try_from("127.0.0.1").map_err(std::io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(&self.config), name).map_err(std::io::Error::other)?;
        Ok(BufReader::new(StreamOwned::new(tls, socket)))
    }

    fn send(
        &self,
        stream: &mut BufReader<StreamOwned<ClientConnection, TcpStream>>,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<()> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{text}",
            self.token,
            text.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        stream.get_mut().flush()
    }
}

fn unanswered(error: &std::io::Error) -> Unanswered {
    Unanswered(error.to_string())
}

fn line(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

type Fields = Vec<(String, String)>;

fn head(stream: &mut impl BufRead) -> std::io::Result<(u16, Fields)> {
    let first = line(stream)?;
    let code = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    let mut fields = Vec::new();
    loop {
        let line = line(stream)?;
        match line.split_once(": ") {
            Some((name, value)) => fields.push((name.to_owned(), value.to_owned())),
            None => return Ok((code, fields)),
        }
    }
}

fn chunk(stream: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let size = usize::from_str_radix(&line(stream)?, 16).map_err(|_| ErrorKind::InvalidData)?;
    let mut part = vec![0; size];
    stream.read_exact(&mut part)?;
    line(stream)?;
    Ok(Some(part).filter(|part| !part.is_empty()))
}
