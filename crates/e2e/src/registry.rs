//! A registry of a test's own on this machine: Debian's `docker-registry`, and pushes to it by plain requests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;

/// A registry needs a fraction of a second to start; this only bounds a hang.
const START_MAX: Duration = Duration::from_secs(20);

/// A registry that runs; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    /// Address and port.
    pub address: String,
}

impl Registry {
    /// Starts one that keeps what is pushed below `home`.
    pub fn start(home: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.unwrap_or_else(|error| panic!("a free port: {error}")).port();
        Self::start_at(home, &format!("127.0.0.1:{port}"))
    }

    /// The same at an address that is known already.
    pub fn start_at(home: &Path, address: &str) -> Self {
        Self::serve(home, address, "")
    }

    /// The same over HTTPS, with a certificate of `authority`; nothing can be pushed to it.
    pub fn start_with_tls(home: &Path, address: &str, authority: &Authority) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let (certificate, key) = authority.certify(home, host);
        Self::serve(
            home,
            address,
            &format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display()),
        )
    }

    fn serve(home: &Path, address: &str, tls: &str) -> Self {
        let storage = home.join("registry");
        std::fs::create_dir_all(&storage).unwrap_or_else(|error| panic!("{}: {error}", storage.display()));
        let file = home.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'{tls}}}\n",
            storage.display()
        );
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let program = crate::workspace_root().join("crates/e2e/.tools/docker-registry/docker-registry");
        let mut command = Command::new(program);
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process =
            command.spawn().unwrap_or_else(|error| panic!("docker-registry: {error}; run crates/e2e/tools.sh"));
        let registry = Self { process, address: address.to_owned() };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < START_MAX, "the registry does not listen at {address}");
            std::thread::yield_now();
        }
        registry
    }

    /// Pushes a layout of one image as `repository:tag`.
    pub fn push(&self, layout: &Path, repository: &str, tag: &str) {
        let read = |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let json = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap_or_else(|error| panic!("{error}"));
        let blob = |digest: &str| read(&layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")));
        let text = |value: &Value, pointer: &str| {
            value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let manifest = blob(&text(&json(&read(&layout.join("index.json"))), "/manifests/0/digest"));
        let parts = json(&manifest);
        let layers = parts.pointer("/layers").and_then(Value::as_array).into_iter().flatten();
        let digests: Vec<_> = layers.chain(parts.pointer("/config")).map(|part| text(part, "/digest")).collect();
        for digest in digests {
            let (status, head) = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
            assert_eq!(status, 202, "{head}");
            let place = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default().trim();
            let place = place.split_once("/v2/").map_or(place, |(_, rest)| rest);
            let mark = if place.contains('?') { '&' } else { '?' };
            let path = format!("/v2/{place}{mark}digest={digest}");
            let (status, head) = self.send("PUT", &path, "application/octet-stream", &blob(&digest));
            assert_eq!(status, 201, "{head}");
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, head) = self.send("PUT", &path, &text(&parts, "/mediaType"), &manifest);
        assert_eq!(status, 201, "{head}");
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let exchange = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.address)?;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                self.address,
                body.len()
            );
            stream.write_all(head.as_bytes())?;
            stream.write_all(body)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = exchange().unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        (answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), answer)
    }
}

/// Somebody whose certificates may be trusted.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The file with its own certificate.
    pub file: PathBuf,
}

impl Authority {
    /// A new one, with its certificate in `home`.
    pub fn new(home: &Path) -> Self {
        let make = || -> Result<_, rcgen::Error> {
            let mut parameters = CertificateParams::new(Vec::new())?;
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate()?;
            let certificate = parameters.self_signed(&key)?;
            Ok((certificate, Issuer::new(parameters, key)))
        };
        let (certificate, issuer) = make().unwrap_or_else(|error| panic!("a certificate: {error}"));
        let file = home.join("authority.pem");
        std::fs::write(&file, certificate.pem()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { issuer, file }
    }

    /// Files with a certificate for a host, and its key.
    fn certify(&self, home: &Path, host: &str) -> (PathBuf, PathBuf) {
        let make = || -> Result<_, rcgen::Error> {
            let key = KeyPair::generate()?;
            Ok((CertificateParams::new([host.to_owned()])?.signed_by(&key, &self.issuer)?, key))
        };
        let (certificate, key) = make().unwrap_or_else(|error| panic!("a certificate for {host}: {error}"));
        let (certificate_file, key_file) = (home.join("registry.pem"), home.join("registry.key"));
        for (file, text) in [(&certificate_file, certificate.pem()), (&key_file, key.serialize_pem())] {
            std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        (certificate_file, key_file)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // One that has ended by itself is what is wanted.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
