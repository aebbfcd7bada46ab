//! Containers of pods, without a container engine: one process holds a pod's namespaces, each run of a container has a
//! parent that keeps its log and its exit, and all of them outlive the daemon. Everything recorded lies below
//! `<run dir>/processes/<uid>`.
//!
//! Not here: which container is to run when (`kubelet`), network namespaces (`node`), images.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use linux::error::with_causes;
use linux::pidfd::ProcessId;
use linux::{mount, sysctl};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::process::Child;

use crate::Error;

mod account;
pub mod adopt;
pub mod attach;
mod bounds;
pub mod exec;
mod inside;
pub mod logs;
mod memory;
mod parent;
mod remove;
mod rootfs;
mod shim;
pub mod spec;

use parent::Parent;
pub use remove::{remove_all, remove_all_but};
use spec::{ContainerSpec, Exit, PodRecord, PodSpec, Recorded};

const SANDBOX: &str = "pod-sandbox";
const PAUSE: &str = "pod-pause";
const SHIM: &str = "pod-shim";
const INIT: &str = "pod-init";
const ENTER: &str = "pod-enter";

/// Those that are in the namespaces of the mesh and last as long as a pod or a container.
pub const LASTING: [&str; 2] = [SANDBOX, SHIM];

/// Records of a pod: what it was started for, its parent and its first process.
const RECORD_POD: &str = "pod.json";
const RECORD_PARENT: &str = "parent.json";
const RECORD_SANDBOX: &str = "sandbox.json";
/// Records of one run of a container: what it was started for, its parent, its program, and how it ended or why it never
/// began.
const RECORD_SPEC: &str = "spec.json";
const RECORD_SHIM: &str = "shim.json";
const RECORD_STATE: &str = "state.json";
const RECORD_EXIT: &str = "exit.json";
const RECORD_FAILED: &str = "failed.json";
/// Raised whenever a record changes its meaning: pods whose records are of another version are not taken over.
const RECORDS: u32 = 1;
/// The empty directory that a container's root is built on, in a mount namespace of its own.
const SCRATCH: &str = "root";

/// How long a killed process may take to be gone: the kernel frees the memory of a pod in well under a second.
const END_BOUND: Duration = Duration::from_secs(10);

/// Longest complaint of a part of a pod that is passed on.
const COMPLAINT_MAX: u64 = 4096;

/// Runs this process as a hidden part of a pod or as an applet, if its name or first argument says so.
pub(crate) fn part(name: &str, arguments: Vec<String>) -> Option<ExitCode> {
    inside::entry(name, arguments)
}

/// Bytes of memory that all pods of a mesh may have together.
pub(crate) fn mesh_memory_bytes() -> u64 {
    bounds::of_mesh().memory_bytes
}

/// Where the pods of one mesh live.
#[derive(Debug, Clone)]
pub struct Runtime {
    data_dir: PathBuf,
    run_dir: PathBuf,
    program: Arc<Program>,
    /// Nothing is started any more; held for reading while something is.
    closed: Arc<RwLock<bool>>,
}

/// The program that the parts of pods are.
///
/// A container may run the program that builds it, by the name `/proc/self/exe`, and user 0 in it then reaches that file
/// where the program was started from: so it is started from a copy of its mount on which nothing can be changed.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    frozen: Result<mount::Tree, linux::Error>,
}

impl Program {
    fn at(path: PathBuf) -> Self {
        Self { frozen: mount::frozen(&path), path }
    }
}

/// The namespaces of a running pod. Dropping it ends nothing.
#[derive(Debug)]
pub struct Sandbox {
    parent: Parent,
    first: ProcessId,
    /// Stands among the arguments of the parents of this pod: a process with its number and without it is another's.
    token: String,
    directory: PathBuf,
    run_dir: PathBuf,
    uid: String,
    groups: Vec<PathBuf>,
    lacks: Vec<String>,
}

/// One run of a container. Dropping it ends nothing.
#[derive(Debug)]
pub struct Running {
    parent: Parent,
    directory: PathBuf,
}

impl Runtime {
    /// The pods of the mesh with this data directory; records below `run_dir`.
    pub fn new(data_dir: &Path, run_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            run_dir: run_dir.to_owned(),
            // Where it was started from, for as long as it is there; its other name needs nothing to be there.
            program: Arc::new(Program {
                path: std::fs::read_link(inside::OWN_PROGRAM).unwrap_or_default(),
                frozen: mount::frozen(Path::new(inside::OWN_PROGRAM)),
            }),
            closed: Arc::default(),
        }
    }

    /// The same with another program than the running one as the parts of pods; its `main` must call
    /// [`crate::entry`]. For tests, whose own program cannot.
    #[must_use]
    pub fn with_program(mut self, program: &Path) -> Self {
        self.program = Arc::new(Program::at(program.to_owned()));
        self
    }

    /// Where the mesh keeps what must last.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// From here on nothing is started any more, also by clones.
    pub fn close(&self) {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Whether nothing is started any more.
    pub fn is_closed(&self) -> bool {
        *self.closed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, command: &mut tokio::process::Command) -> io::Result<Child> {
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed { Err(io::Error::other("the mesh is going down")) } else { command.spawn() }
    }

    fn part(&self, name: &str) -> Result<std::process::Command, Error> {
        let failed = |error: &linux::Error| inside::started("a part of a pod", &io::Error::other(with_causes(error)));
        let program = self.program.frozen.as_ref().map_err(failed)?;
        Ok(inside::part(program.name(), name, &self.data_dir))
    }

    /// The directory of a pod's records.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        pods(&self.run_dir).join(uid)
    }

    /// Starts a pod in the network namespace pinned at `netns`: its other namespaces, and the process that holds them.
    pub async fn start_sandbox(
        &self,
        uid: &str,
        netns: &Path,
        host_name: &str,
        pod: &PodSpec,
    ) -> Result<Sandbox, Error> {
        let directory = self.pod_dir(uid);
        make_directory(&directory)?;
        let (run_dir, name, wanted) = (self.run_dir.clone(), uid.to_owned(), pod.bounds);
        let made = tokio::task::spawn_blocking(move || bounds::make(&run_dir, &name, wanted)).await;
        let made = made.map_err(|error| inside::started("a pod", &error.into()))?;
        let record = PodRecord {
            version: RECORDS,
            boot: boot()?,
            token: token()?,
            groups: made.folders,
            lacks: made.lacks,
            kept: pod.kept.clone(),
        };
        spec::write(&directory.join(RECORD_POD), &record)?;
        let mut command = self.part(SANDBOX)?;
        command.arg("--pod").arg(&directory).arg("--token").arg(&record.token);
        command.arg("--netns").arg(netns).arg("--host-name").arg(host_name);
        for (name, bytes) in &pod.memory {
            command.arg("--memory").arg(format!("{bytes}:{name}"));
        }
        let parent = Parent::Own(self.begin(command, "a pod").await?);
        let first = spec::read::<Recorded>(&directory.join(RECORD_SANDBOX))?.into();
        let PodRecord { token, groups, lacks, .. } = record;
        let (run_dir, uid) = (self.run_dir.clone(), uid.to_owned());
        Ok(Sandbox { parent, first, token, directory, run_dir, uid, groups, lacks })
    }

    /// Runs a container in a pod: the `attempt`th run of that name. Returns when its program runs, and serves if it
    /// says so.
    pub async fn start_container(
        &self,
        sandbox: &Sandbox,
        name: &str,
        attempt: u32,
        spec: &ContainerSpec,
    ) -> Result<Running, Error> {
        let directory = sandbox.directory.join(name).join(attempt.to_string());
        make_directory(&directory.join(SCRATCH))?;
        let spec = ContainerSpec { groups: sandbox.groups.clone(), program: self.program.path.clone(), ..spec.clone() };
        spec::write(&directory.join(RECORD_SPEC), &spec)?;
        let mut command = self.part(SHIM)?;
        command.arg("--pod").arg(&sandbox.directory).arg("--run").arg(&directory).arg("--token").arg(&sandbox.token);
        match self.begin(command, "a container").await {
            Ok(parent) => Ok(Running { parent: Parent::Own(parent), directory }),
            Err(error) => {
                let failed = adopt::Failed::now(with_causes(&error));
                spec::write(&directory.join(RECORD_FAILED), &failed)?;
                Err(error)
            }
        }
    }

    /// Starts a part of a pod and waits for its word that all is well.
    async fn begin(&self, command: std::process::Command, what: &str) -> Result<Child, Error> {
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |source: io::Error| inside::started(what, &source);
        let mut child = self.spawn(&mut command).map_err(failed)?;
        let mut word = String::new();
        if let Some(output) = child.stdout.take() {
            tokio::io::BufReader::new(output).read_line(&mut word).await.map_err(failed)?;
        }
        if !word.is_empty() {
            return Ok(child);
        }
        let mut complaint = String::new();
        if let Some(errors) = child.stderr.take() {
            errors.take(COMPLAINT_MAX).read_to_string(&mut complaint).await.map_err(failed)?;
        }
        child.wait().await.map_err(failed)?;
        Err(Error::Container { doing: format!("start {what}"), why: complaint.trim_end().to_owned() })
    }

    /// The folder of the group that all processes in pods are below, where there are groups of version 2.
    pub fn group(&self) -> Option<PathBuf> {
        let group = bounds::of_sockets(&self.run_dir);
        group.unwrap_or_else(|error| {
            tracing::info!(error = with_causes(&error), "the processes of the mesh have no group of version 2");
            None
        })
    }

    /// Ends every process and removes every record of this mesh's pods.
    pub fn remove_all(&self) -> Result<(), Error> {
        remove_all(&self.run_dir, &self.data_dir)
    }

    /// The same of all pods but those with these uids.
    pub fn remove_all_but(&self, kept: &BTreeSet<String>) -> Result<(), Error> {
        remove_all_but(&self.run_dir, &self.data_dir, kept)
    }
}

impl Sandbox {
    /// What of the pod's bounds could not be set, with the reasons.
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// Ends all processes of the pod and removes its records.
    pub async fn stop(mut self) -> Result<(), Error> {
        if let Some(first) = open(self.first)? {
            inside::kernel("end a pod", first.signal(Signal::KILL))?;
        }
        // The parent ends when the first process has; the kernel lets that be reaped after all others.
        self.parent.wait().await.map_err(|source| inside::started("the end of a pod", &source))?;
        // Parents of containers still write what they have to; then nobody touches the records any more.
        let shims = shims(&self.directory);
        let (run_dir, uid) = (self.run_dir, self.uid);
        let rest = move || {
            shims.into_iter().try_for_each(await_end)?;
            bounds::remove(&run_dir, &uid)
        };
        let waited = tokio::task::spawn_blocking(rest).await;
        waited.map_err(|error| inside::started("the end of a pod", &error.into()))??;
        remove_directory(&self.directory)
    }

    /// Returns when the pod has ended without being told to.
    pub async fn ended(&mut self) {
        drop(self.parent.wait().await);
    }
}

impl Running {
    /// Waits for the end of the program, of all that it left behind, and of its output.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        self.parent.wait().await.map_err(|source| inside::started("the end of a container", &source))?;
        spec::read(&self.directory.join(RECORD_EXIT))
    }

    /// Sends the program a signal; `false` if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<bool, Error> {
        let state: Recorded = spec::read(&self.directory.join(RECORD_STATE))?;
        match open(state.into())? {
            Some(process) => inside::kernel("signal a container", process.signal(signal)),
            None => Ok(false),
        }
    }

    /// Where this run's records are: what `exec` needs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// The recorded parents of a pod's containers.
fn shims(pod: &Path) -> Vec<ProcessId> {
    let below = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let runs = below(pod).flat_map(|container| below(&container).collect::<Vec<_>>());
    runs.filter_map(|run| spec::read::<Recorded>(&run.join(RECORD_SHIM)).ok().map(ProcessId::from)).collect()
}

fn await_end(id: ProcessId) -> Result<(), Error> {
    open(id)?.map_or(Ok(()), |process| await_end_of(&process))
}

fn await_end_of(process: &linux::pidfd::PidFd) -> Result<(), Error> {
    if inside::kernel("end a pod", process.wait_end(END_BOUND))? {
        return Ok(());
    }
    Err(Error::Container {
        doing: "end a pod".to_owned(),
        why: format!("a killed process lives on after {} s; see `ps` for its state", END_BOUND.as_secs()),
    })
}

fn pods(run_dir: &Path) -> PathBuf {
    run_dir.join("processes")
}

/// Told apart from every other boot of this machine, after which numbers and start times mean nothing.
fn boot() -> Result<String, Error> {
    inside::kernel("tell this boot from others", sysctl::read("kernel/random/boot_id"))
}

/// 128 random bits: nothing that starts by chance has the same among its arguments.
fn token() -> Result<String, Error> {
    use std::fmt::Write;
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| inside::started("a pod", &errno.into()))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    }))
}

fn open(id: ProcessId) -> Result<Option<linux::pidfd::PidFd>, Error> {
    inside::kernel("find a process of a pod", id.open())
}

fn make_directory(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(|source| Error::File { doing: "make", path: path.to_owned(), source })
}

fn remove_directory(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::File { doing: "remove", path: path.to_owned(), source }),
    }
}

/// Lines of a file, for the readers of logs.
fn lines(file: std::fs::File) -> impl Iterator<Item = Vec<u8>> {
    BufReader::new(file).split(b'\n').map_while(Result::ok)
}
