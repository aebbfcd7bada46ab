//! What the server asks of those who run it.

use std::fmt;
use std::sync::Arc;

use api::admission::{Admission, Admitted};
use api::{Object, Status};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use crate::Body;

/// The functions through which the server reaches the rest of the program.
#[derive(Clone)]
pub struct Hooks {
    /// Looks at every write before it is stored, in order, with everything stored before it in view. Must be quick: writes wait for it.
    pub admit: Arc<dyn Fn(&Admission<'_>) -> Admitted + Send + Sync>,
    /// The revision whose consequences are in force.
    pub settled: watch::Receiver<u64>,
    /// Runs a command in a container, or attaches to its process.
    pub exec: Arc<dyn Fn(ExecRequest) -> BoxFuture<'static, Result<ExecSession, Status>> + Send + Sync>,
    /// Opens a connection to a port of a pod, as if from inside it.
    pub forward: Arc<dyn Fn(ForwardRequest) -> BoxFuture<'static, Result<Forwarded, Status>> + Send + Sync>,
    /// Reads the log of a container.
    pub logs: Arc<dyn Fn(LogRequest) -> BoxFuture<'static, Result<LogStream, Status>> + Send + Sync>,
    /// Answers below `/tidegate/`; `None` for a path that it does not know. Only asked on behalf of authenticated clients.
    pub extension: Arc<dyn Fn(http::Request<Bytes>) -> Extended + Send + Sync>,
}

/// The answer below `/tidegate/`, as it comes about.
pub type Extended = BoxFuture<'static, Option<http::Response<Body>>>;

/// A command to run in a container.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the switches of an exec request are independent of one another")]
pub struct ExecRequest {
    /// The pod.
    pub pod: Arc<Object>,
    /// The container; it is one of the pod's.
    pub container: String,
    /// The command; empty with `attach`.
    pub command: Vec<String>,
    /// Attach to the container's own process.
    pub attach: bool,
    /// Whether the client will send input.
    pub stdin: bool,
    /// Whether the client wants output.
    pub stdout: bool,
    /// Whether the client wants errors apart from the output; never with `tty`.
    pub stderr: bool,
    /// Whether the command wants a terminal.
    pub tty: bool,
}

/// A running command; dropping it means that the client has left.
pub struct ExecSession {
    /// Its input; shut down when the client's ends.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its errors.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes the size of the client's terminal; sizes that do not fit are dropped.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Its exit code, or why there is none.
    pub exit: BoxFuture<'static, Result<i32, Status>>,
}

/// A connection to be opened for a client.
#[derive(Clone, Debug)]
pub struct ForwardRequest {
    /// The pod.
    pub pod: Arc<Object>,
    /// The port.
    pub port: u16,
}

/// An open connection; dropping it closes it.
pub struct Forwarded {
    /// What the pod says.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the client says; shut down when it has said all.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// A container's log to be read.
#[derive(Clone, Debug)]
pub struct LogRequest {
    /// The pod.
    pub pod: Arc<Object>,
    /// The container; it is one of the pod's.
    pub container: String,
    /// Go on with what will be written.
    pub follow: bool,
    /// The log of the container's previous run.
    pub previous: bool,
    /// Time of each line before it.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only lines of the last seconds.
    pub since_seconds: Option<u64>,
    /// Only lines since then.
    pub since_time: Option<jiff::Timestamp>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// A container's log as text.
pub type LogStream = Box<dyn AsyncRead + Send + Unpin>;

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarded").finish_non_exhaustive()
    }
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession")
            .field("stdin", &self.stdin.is_some())
            .field("resize", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}
