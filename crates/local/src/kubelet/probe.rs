//! Probes, made from inside the pod: its own address, by its own `lo`. No policy judges them, no other pod sees them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use linux::netns::NetNs;
use serde_json::Value;

use crate::runtime::Runtime;

/// A probe of a container.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    action: Action,
    pub(super) initial: Duration,
    pub(super) period: Duration,
    bound: Duration,
    pub(super) successes: u32,
    pub(super) failures: u32,
}

#[derive(Debug, Clone)]
enum Action {
    Exec(Vec<String>),
    Tcp(u16),
    Http {
        port: u16,
        path: String,
    },
    /// A form that is not known here, and why: it never succeeds.
    Unknown(String),
}

impl Probe {
    /// The probe of that name, if the container has it.
    pub(super) fn of(container: &Value, name: &str) -> Option<Self> {
        let probe = container.get(name)?;
        let number = |name: &str, default: u64| {
            probe.get(name).and_then(Value::as_u64).filter(|&given| given > 0).unwrap_or(default)
        };
        let count = |name: &str, default: u64| u32::try_from(number(name, default)).unwrap_or(u32::MAX);
        let action = Action::of(container, probe).unwrap_or_else(Action::Unknown);
        Some(Self {
            action,
            initial: Duration::from_secs(probe.get("initialDelaySeconds").and_then(Value::as_u64).unwrap_or(0)),
            period: Duration::from_secs(number("periodSeconds", 10)),
            bound: Duration::from_secs(number("timeoutSeconds", 1)),
            successes: count("successThreshold", 1),
            failures: count("failureThreshold", 3),
        })
    }

    /// Why it cannot be made here, whatever the container does.
    pub(super) fn is_unknown(&self) -> Option<&str> {
        if let Action::Unknown(why) = &self.action { Some(why) } else { None }
    }

    /// One try; the error says what was found.
    pub(super) async fn ask(
        &self,
        runtime: &Runtime,
        run: &Path,
        netns: &NetNs,
        address: IpAddr,
    ) -> Result<(), String> {
        let outcome = match &self.action {
            Action::Exec(command) => {
                let asked = runtime.ask(run, command, self.bound);
                tokio::time::timeout(self.bound, asked).await.map(|outcome| match outcome {
                    Ok((0, _)) => Ok(()),
                    Ok((code, said)) if said.is_empty() => Err(format!("command exited with {code}")),
                    Ok((code, said)) => Err(format!("command exited with {code}: {said}")),
                    Err(error) => Err(error.to_string()),
                })
            }
            Action::Unknown(why) => return Err(why.clone()),
            Action::Tcp(_) | Action::Http { .. } => {
                let (own, netns) = (self.clone(), netns.clone());
                let asked = tokio::task::spawn_blocking(move || {
                    netns.run(|| own.connect(address)).unwrap_or_else(|error| Err(error.to_string()))
                });
                tokio::time::timeout(self.bound, asked)
                    .await
                    .map(|asked| asked.unwrap_or_else(|error| Err(error.to_string())))
            }
        };
        outcome.unwrap_or_else(|_| Err(format!("timed out after {} s", self.bound.as_secs())))
    }

    fn connect(&self, address: IpAddr) -> Result<(), String> {
        let (port, path) = match &self.action {
            Action::Tcp(port) => (*port, None),
            Action::Http { port, path } => (*port, Some(path)),
            Action::Exec(_) | Action::Unknown(_) => return Ok(()),
        };
        let target = SocketAddr::new(address, port);
        let failed = |error: std::io::Error| format!("{target}: {error}");
        let mut connection = TcpStream::connect_timeout(&target, self.bound).map_err(failed)?;
        let Some(path) = path else { return Ok(()) };
        connection.set_read_timeout(Some(self.bound)).map_err(failed)?;
        write!(connection, "GET {path} HTTP/1.0\r\nHost: {target}\r\nUser-Agent: kube-probe\r\n\r\n")
            .map_err(failed)?;
        let mut line = [0; STATUS_BYTES];
        connection.read_exact(&mut line).map_err(failed)?;
        match status(&line) {
            Some(200..=399) => Ok(()),
            Some(status) => Err(format!("HTTP probe failed with statuscode: {status}")),
            None => Err(format!("{target} does not speak HTTP")),
        }
    }
}

/// The beginning of an answer that has the status: `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;

/// The status of an answer that begins like this, none if it is not HTTP.
pub(crate) fn status(line: &[u8; STATUS_BYTES]) -> Option<u16> {
    match line.strip_prefix(b"HTTP/1.")? {
        [b'0'..=b'9', b' ', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).ok()?.parse().ok()
        }
        _ => None,
    }
}

impl Action {
    fn of(container: &Value, probe: &Value) -> Result<Self, String> {
        if let Some(command) = probe.pointer("/exec/command").and_then(Value::as_array) {
            return Ok(Self::Exec(command.iter().filter_map(Value::as_str).map(str::to_owned).collect()));
        }
        if let Some(socket) = probe.get("tcpSocket") {
            return Ok(Self::Tcp(port_of(container, socket)?));
        }
        let Some(get) = probe.get("httpGet") else {
            return Err("only `exec`, `tcpSocket` and `httpGet` probes are made here; use one of them".to_owned());
        };
        if get.get("scheme").is_some_and(|scheme| scheme != "HTTP") {
            return Err("HTTPS probes are not made here; use `tcpSocket`".to_owned());
        }
        let path = get.get("path").and_then(Value::as_str).unwrap_or("/").to_owned();
        Ok(Self::Http { port: port_of(container, get)?, path })
    }
}

fn port_of(container: &Value, action: &Value) -> Result<u16, String> {
    let written = action.get("port").unwrap_or(&Value::Null);
    port(container, written).ok_or_else(|| format!("the container has no port {written}"))
}

/// A port by number, or by the name that the container gives it.
fn port(container: &Value, port: &Value) -> Option<u16> {
    if let Some(number) = port.as_u64() {
        return u16::try_from(number).ok();
    }
    let name = port.as_str()?;
    let named = container
        .get("ports")?
        .as_array()?
        .iter()
        .find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
    u16::try_from(named.get("containerPort")?.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Probe, status};

    #[test]
    fn the_status_of_an_answer() {
        for (line, expected) in [
            (b"HTTP/1.1 200", Some(200)),
            (b"HTTP/1.0 404", Some(404)),
            (b"HTTP/1.1 +20", None),
            (b"HTTP/1.1 2 0", None),
            (b"HTTP/1.1  20", None),
            (b"anything 200", None),
            (b"220 smtp.foo", None),
        ] {
            assert_eq!(status(line), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_cannot_be_asked_is_said_and_never_succeeds() {
        let why = |probe| {
            let container = json!({"ports": [{"name": "web", "containerPort": 80}], "readinessProbe": probe});
            Probe::of(&container, "readinessProbe").unwrap().is_unknown().map(str::to_owned)
        };
        assert_eq!(why(json!({"httpGet": {"port": "web"}})), None);
        assert_eq!(why(json!({"httpGet": {"port": 80, "scheme": "HTTP"}})), None);
        assert_eq!(why(json!({"tcpSocket": {"port": 80}})), None);
        assert_eq!(why(json!({"exec": {"command": ["true"]}})), None);
        for (probe, says) in [
            (json!({"grpc": {"port": 80}}), "use one of them"),
            (json!({"httpGet": {"port": 80, "scheme": "HTTPS"}}), "use `tcpSocket`"),
            (json!({"tcpSocket": {"port": "wob"}}), "no port \"wob\""),
            (json!({"tcpSocket": {"port": 65536}}), "no port 65536"),
        ] {
            assert!(why(probe.clone()).is_some_and(|why| why.contains(says)), "{probe}");
        }
        assert!(Probe::of(&json!({}), "readinessProbe").is_none());
    }
}
