//! What a container is to be, as written by the kubelet and read by the processes that make it so.

use std::path::{Path, PathBuf};

use linux::cgroup::Bounds;
use linux::pidfd::ProcessId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// Everything that one run of a container needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Where the program starts.
    pub directory: String,
    /// User of the program.
    pub user: u32,
    /// Group of the program.
    pub group: u32,
    /// Further groups.
    pub more_groups: Vec<u32>,
    /// Names of the capabilities kept, of `linux::caps::CONTAINER`.
    pub capabilities: Vec<String>,
    /// What the root directory is made of.
    pub root: Root,
    /// Who runs the program, where the files of the image say what that means; else [`Self::user`] and the others do.
    pub account: Option<Account>,
    /// The root directory cannot be written.
    pub read_only_root: bool,
    /// What the container may write outside its volumes, in memory; [`WRITABLE_DEFAULT_BYTES`] if it does not say.
    pub writable_bytes: Option<u64>,
    /// Files of the root directory.
    pub files: Vec<File>,
    /// Symbolic links of the root directory.
    pub links: Vec<Link>,
    /// What of the host is seen inside.
    pub mounts: Vec<Mount>,
    /// Which of the pod's files in memory ([`PodSpec::memory`]) are seen inside.
    pub memory: Vec<MemoryMount>,
    /// The folders of the group that bounds the pod; filled in when it starts.
    pub groups: Vec<PathBuf>,
    /// Where the program of the applets is on the host; filled in when it starts.
    pub program: PathBuf,
    /// Names of applets, put into [`APPLET_DIR`].
    pub applets: Vec<String>,
    /// The program closes the descriptor named by `applets::READY_VARIABLE` once it serves.
    pub tells_ready: bool,
    /// Its input.
    #[serde(default)]
    pub input: Input,
    /// It has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Where its output goes.
    pub log: PathBuf,
    /// What whoever takes it over after this process wants to know.
    pub kept: Value,
}

/// What a root directory is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// The host's programs, read-only, and directories of our own.
    #[default]
    ToolBox,
    /// Layers of an image, the lowest first: directories of the host that nothing is written to.
    Layers(Vec<PathBuf>),
}

/// Who runs a program, as an image or a pod says: names and numbers mean what the image's own files say of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Name or number; empty for user 0.
    pub user: String,
    /// Name or number; empty for the user's own group.
    pub group: String,
    /// Further groups, besides those that the image puts the user in.
    pub more_groups: Vec<u32>,
}

/// Whether a program has an input that can be attached to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// It has none.
    #[default]
    None,
    /// For as long as it runs.
    Kept,
    /// Until the first client that had it leaves.
    Once,
}

/// A file made for the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Where, absolute.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// A symbolic link made for the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where, absolute.
    pub path: String,
    /// Where it points.
    pub target: String,
}

/// A directory or file of the host that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the container, absolute.
    pub target: String,
    /// It cannot be written there.
    pub read_only: bool,
}

/// Files in memory that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMount {
    /// Their name in the pod.
    pub name: String,
    /// In the container, absolute.
    pub target: String,
    /// They cannot be written there.
    pub read_only: bool,
}

/// What all containers of a pod have together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// What the pod may take of the machine.
    pub bounds: Bounds,
    /// Directories in memory that containers may share: names, and how many bytes each may hold. They last as long as
    /// the pod.
    pub memory: Vec<(String, u64)>,
    /// What whoever takes it over after this process wants to know.
    pub kept: Value,
}

impl Default for PodSpec {
    fn default() -> Self {
        let bounds = Bounds { processes: PROCESSES_DEFAULT, memory_bytes: MEMORY_DEFAULT_BYTES };
        Self { bounds, memory: Vec::new(), kept: Value::Null }
    }
}

/// Processes and threads of a pod: what managed clusters set as their lowest, well above what servers with a pool of
/// threads need, and so low that dozens of pods that fork without end leave the machine numbers for others.
pub const PROCESSES_DEFAULT: u64 = 1024;

/// Memory of a container that names no limit: the tools and servers of a local mesh need a few tens of MiB, and a
/// laptop can give this to a few pods that take all of it.
pub const MEMORY_DEFAULT_BYTES: u64 = 512 << 20;

/// What a container may write outside its volumes, in memory of the pod: enough for caches and scratch files, far from what
/// would starve the machine.
pub const WRITABLE_DEFAULT_BYTES: u64 = 64 << 20;

/// The first directory of PATH in a container with applets.
pub const APPLET_DIR: &str = "/.tidegate/bin";

/// What is recorded of a pod before its first process is started, for whoever takes it over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    /// Of this record and of all others of the pod ([`super::RECORDS`]).
    pub(super) version: u32,
    /// The boot of the machine, within which numbers of processes and start times are one process's.
    pub(super) boot: String,
    /// Stands among the arguments of the parents of the pod and of its containers.
    pub(super) token: String,
    /// The folders of the group that bounds the pod.
    pub(super) groups: Vec<PathBuf>,
    /// What of its bounds could not be set.
    pub(super) lacks: Vec<String>,
    /// [`PodSpec::kept`].
    pub(super) kept: Value,
}

/// Who a recorded process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pid: u32,
    start: u64,
}

impl From<ProcessId> for Recorded {
    fn from(id: ProcessId) -> Self {
        Self { pid: id.pid, start: id.start }
    }
}

impl From<Recorded> for ProcessId {
    fn from(recorded: Recorded) -> Self {
        Self { pid: recorded.pid, start: recorded.start }
    }
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When, in milliseconds since 1970.
    pub finished_ms: i64,
    /// The pod had taken all the memory that it may have, and the kernel ended a process of it.
    #[serde(default)]
    pub out_of_memory: bool,
}

impl Exit {
    /// When.
    pub fn finished(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.finished_ms).unwrap_or_default()
    }
}

/// Reads a record.
pub(crate) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, Error> {
    let failed = |source| Error::File { doing: "read", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

/// Writes a record whole or not at all.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), Error> {
    let failed = |source| Error::File { doing: "write", path: path.to_owned(), source };
    let text = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
    let beside = path.with_extension("part");
    std::fs::write(&beside, text).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}
