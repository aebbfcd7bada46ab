//! TCP proxies to compare with: where their programs are, what they are configured with.
//!
//! Each listens in the server's namespace on three ports of its own and forwards to the server on 127.0.0.1, so a connection makes
//! the same way over the same links, and one hop more.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::mesh::PORT;
use crate::program::{Load, Running};
use crate::raw;

/// A proxy: the only thing to be written for a new one.
#[derive(Debug)]
pub(crate) struct Proxy {
    name: &'static str,
    /// Its program: a path below `bench/.tools`, else a command of the system.
    program: &'static str,
    /// Where its libraries are, if they are there too.
    libraries: Option<&'static str>,
    /// The first of its three ports.
    pub(crate) port: u16,
    /// The text of its configuration.
    config: fn(first: u16, threads: usize) -> String,
    /// Its arguments; `CONFIG` stands for the file, `THREADS` for as many as there are processors.
    arguments: &'static [&'static str],
}

/// `HAProxy` in TCP mode, as Debian packages it.
pub(crate) const HAPROXY: Proxy = Proxy {
    name: "haproxy",
    program: "haproxy/usr/sbin/haproxy",
    libraries: Some("haproxy/usr/lib/x86_64-linux-gnu"),
    port: 9100,
    config: haproxy,
    arguments: &["-db", "-q", "-f", "CONFIG"],
};

/// Envoy with the network filters RBAC (one policy that permits the client) and TCP proxy; no access log.
pub(crate) const ENVOY: Proxy = Proxy {
    name: "envoy",
    program: "envoy/envoy",
    libraries: None,
    port: 9120,
    config: envoy,
    arguments: &["-c", "CONFIG", "--concurrency", "THREADS", "--disable-hot-restart", "-l", "error"],
};

impl Proxy {
    /// Starts it in a namespace.
    pub(crate) fn start(&self, load: &Load, netns: &Path, work: &Path) -> Result<Running> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let config = work.join(format!("{}.conf", self.name));
        std::fs::write(&config, (self.config)(self.port, threads)).with_context(|| config.display().to_string())?;
        let shown = config.to_string_lossy();
        let program = self.find()?;
        let mut words = vec!["enter".to_owned(), program.to_string_lossy().into_owned()];
        words.extend(self.arguments.iter().map(|word| match *word {
            "CONFIG" => shown.clone().into_owned(),
            "THREADS" => threads.to_string(),
            other => other.to_owned(),
        }));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command: Command = load.command(netns, &words);
        if let Some(libraries) = self.libraries.map(|below| tools().join(below)).filter(|path| path.exists()) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        Running::start(command).with_context(|| self.name)
    }

    /// What the program says of its version.
    pub(crate) fn version(&self) -> Result<String> {
        let mut command = Command::new(self.find()?);
        if let Some(libraries) = self.libraries.map(|below| tools().join(below)).filter(|path| path.exists()) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let output = command.arg(if self.name == "envoy" { "--version" } else { "-v" }).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().find(|line| !line.trim().is_empty()).unwrap_or(self.name).trim().to_owned())
    }

    fn find(&self) -> Result<PathBuf> {
        let own = tools().join(self.program);
        if own.exists() {
            return Ok(own);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .chain(["/usr/sbin".into()])
            .map(|folder| folder.join(self.name))
            .find(|file| file.exists());
        let Some(found) = found else { bail!("{} is missing; run bench/tools.sh", self.name) };
        Ok(found)
    }
}

fn tools() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools")
}

fn haproxy(first: u16, threads: usize) -> String {
    let listen = |offset: u16| {
        let (port, to) = (first + offset, PORT + offset);
        format!("listen l{offset}\n  bind 0.0.0.0:{port}\n  server s 127.0.0.1:{to}\n")
    };
    let listens: String = (0..3).map(listen).collect();
    format!(
        "global\n  nbthread {threads}\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\n{listens}"
    )
}

fn envoy(first: u16, _threads: usize) -> String {
    let listener = |offset: u16| {
        let name = format!("l{offset}");
        let rbac = json!({"name": "envoy.filters.network.rbac", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": name,
            "rules": {"action": "ALLOW", "policies": {"client": {
                "permissions": [{"destination_port": first + offset}],
                "principals": [{"direct_remote_ip": {"address_prefix": raw::CLIENT.to_string(), "prefix_len": 32}}]}}}}});
        let proxy = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name, "cluster": format!("c{offset}")}});
        json!({"name": name, "address": address([0, 0, 0, 0], first + offset), "filter_chains": [{"filters": [rbac, proxy]}]})
    };
    // Its own bounds on connections are for other purposes.
    let thresholds =
        json!([{"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000}]);
    let cluster = |offset: u16| {
        let name = format!("c{offset}");
        let endpoint = json!({"endpoint": {"address": address([127, 0, 0, 1], PORT + offset)}});
        json!({"name": name, "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": thresholds},
               "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}})
    };
    let layer = json!({"name": "bounds", "static_layer": {"overload.global_downstream_max_connections": 1_000_000}});
    json!({"layered_runtime": {"layers": [layer]},
           "static_resources": {"listeners": (0..3).map(listener).collect::<Vec<_>>(),
                                "clusters": (0..3).map(cluster).collect::<Vec<_>>()}})
    .to_string()
}

fn address(address: [u8; 4], port: u16) -> Value {
    let text = std::net::Ipv4Addr::from(address).to_string();
    json!({"socket_address": {"address": text, "port_value": port}})
}
