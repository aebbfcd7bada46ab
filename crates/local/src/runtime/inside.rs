//! The hidden subcommands that become parts of a pod. Each is a fresh process with one thread: a fork of the daemon,
//! with its threads and descriptors, never happens.
//!
//! ```text
//! daemon ── pod-sandbox ── pod-pause        first process of the pod's pid namespace: reaps, holds the namespaces
//!        ├─ pod-shim ───── pod-init → program    one per run of a container: logs, exit code
//!        └─ pod-enter ──── program               one per exec
//! ```
//! `pod-sandbox`, `pod-shim` and `pod-enter` are outside the pod's pid namespace and invisible there. `pod-pause` and
//! `pod-init` are inside: they hide from the first line on, and `pod-pause` sees an empty directory and has no
//! capability.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use linux::error::with_causes;
use linux::pidfd::{PidFd, ProcessId};
use linux::process::{self, Namespaces};
use linux::userns::Ids;
use linux::{caps, mount, seccomp};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use super::account::{self, Who};
use super::spec::{self, ContainerSpec, Recorded};
use super::{
    ENTER, INIT, PAUSE, RECORD_PARENT, RECORD_SANDBOX, RECORD_SPEC, RECORD_STATE, SANDBOX, bounds, memory, rootfs, shim,
};
use crate::Error;

/// Exit code of an `exec` whose program is not there, and of one that cannot be run, as a shell has them.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

/// The arguments of a hidden subcommand.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) data_dir: PathBuf,
    pub(super) pod: PathBuf,
    pub(super) run: PathBuf,
    netns: PathBuf,
    host_name: String,
    /// Of the pod's files in memory: bytes and name, as in `1024:scratch`.
    memory: Vec<String>,
    status: RawFd,
    ready: Option<RawFd>,
    tty: bool,
    /// How long a command may take.
    within: Option<Duration>,
    command: Vec<String>,
}

/// Runs a hidden subcommand, if `name` is one.
pub(super) fn entry(name: &str, arguments: Vec<String>) -> Option<ExitCode> {
    let run: fn(&Arguments) -> Result<ExitCode, Error> = match name {
        SANDBOX => sandbox,
        PAUSE => pause,
        super::SHIM => shim::main,
        INIT => init,
        ENTER => enter,
        _ => return None,
    };
    let outcome = parse(arguments).and_then(|arguments| run(&arguments));
    Some(outcome.unwrap_or_else(|error| {
        // Whoever started this reads it there; if nobody does, nobody is missing it.
        drop(writeln!(io::stderr(), "{}", with_causes(&error)));
        ExitCode::FAILURE
    }))
}

fn parse(arguments: Vec<String>) -> Result<Arguments, Error> {
    let wrong = |what: &str| Error::Container {
        doing: "read the arguments of a part of a pod".to_owned(),
        why: what.to_owned(),
    };
    let mut parsed = Arguments::default();
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        if name == "--" {
            parsed.command = arguments.collect();
            break;
        }
        if name == "--tty" {
            parsed.tty = true;
            continue;
        }
        let value = arguments.next().ok_or_else(|| wrong(&format!("{name} has no value")))?;
        let number = || value.parse::<RawFd>().map_err(|_| wrong(&format!("{name} is no number")));
        match name.as_str() {
            "--data-dir" => parsed.data_dir = value.into(),
            "--pod" => parsed.pod = value.into(),
            "--run" => parsed.run = value.into(),
            "--netns" => parsed.netns = value.into(),
            // There to be seen among the arguments.
            "--token" => {}
            "--host-name" => parsed.host_name = value,
            "--memory" => parsed.memory.push(value),
            "--within-ms" => parsed.within = value.parse().ok().map(Duration::from_millis),
            "--status" => parsed.status = number()?,
            "--ready" => parsed.ready = Some(number()?),
            _ => return Err(wrong(&format!("{name} is unknown"))),
        }
    }
    Ok(parsed)
}

/// Makes the pod's namespaces and the process that holds them, and stays as its parent.
fn sandbox(arguments: &Arguments) -> Result<ExitCode, Error> {
    kernel("start a pod", process::seal_descriptors())?;
    kernel("start a pod", process::leave_session())?;
    record_self(&arguments.pod.join(RECORD_PARENT))?;
    let namespace = std::fs::File::open(&arguments.netns).map_err(|source| Error::File {
        doing: "open",
        path: arguments.netns.clone(),
        source,
    })?;
    kernel("start a pod", process::enter_network(&OwnedFd::from(namespace)))?;
    kernel("start a pod", process::unshare_pod())?;
    kernel("start a pod", process::set_host_name(&arguments.host_name))?;
    kernel("start a pod", process::forget_children())?;
    let mut command = part(OWN_PROGRAM, PAUSE, &arguments.data_dir);
    command.arg("--pod").arg(&arguments.pod).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    for memory in &arguments.memory {
        command.arg("--memory").arg(memory);
    }
    let mut pause = command.spawn().map_err(|source| started("the first process of a pod", &source))?;
    kernel("start a pod", process::mind_children())?;
    let mut word = String::new();
    if let Some(output) = pause.stdout.take() {
        io::Read::read_to_string(&mut io::Read::take(output, 1), &mut word)
            .map_err(|source| started("the first process of a pod", &source))?;
    }
    let first = ProcessId::of(pause.id()).filter(|_| word == READY);
    let Some(first) = first else {
        drop(pause.kill());
        drop(pause.wait());
        return Err(started("the first process of a pod", &io::Error::other("it ended at once")));
    };
    spec::write(&arguments.pod.join(RECORD_SANDBOX), &Recorded::from(first))?;
    drop(writeln!(io::stdout(), "{READY}"));
    drop(pause.wait());
    Ok(ExitCode::SUCCESS)
}

/// Says who this process is, for whoever looks for it after the daemon that started it.
pub(super) fn record_self(record: &Path) -> Result<(), Error> {
    let own = ProcessId::of(std::process::id());
    let own = own.ok_or_else(|| started("a part of a pod", &io::Error::other("/proc does not show it")))?;
    spec::write(record, &Recorded::from(own))
}

/// What `pod-pause` says when it is hidden and confined.
const READY: &str = "r";

/// The first process of a pod: sees nothing, can do nothing, and lasts.
fn pause(arguments: &Arguments) -> Result<ExitCode, Error> {
    kernel("hold a pod", process::hide())?;
    kernel("hold a pod", process::seal_descriptors())?;
    let ids = Ids::here();
    // Its own: a change of the root directory moves every process of the same mount namespace.
    kernel("hold a pod", process::unshare_mounts())?;
    kernel("hold a pod", mount::make_private())?;
    memory::hold(&arguments.pod, &arguments.memory)?;
    kernel("hold a pod", caps::become_confined(&ids, (0, 0, &[]), &[]))?;
    kernel("hold a pod", process::hide())?;
    let said = write!(io::stdout(), "{READY}").and_then(|()| io::stdout().flush());
    said.map_err(|source| started("the first process of a pod", &source))?;
    // Children that others leave behind are reaped by the kernel: `pod-sandbox` has set it so.
    loop {
        std::thread::park();
    }
}

/// Builds the container around itself and becomes its program. What goes wrong is written to the status pipe.
fn init(arguments: &Arguments) -> Result<ExitCode, Error> {
    kernel("start a container", process::hide())?;
    let status = kernel("start a container", process::adopt(arguments.status))?;
    let ready = arguments.ready.map(process::adopt).transpose();
    let ready = kernel("start a container", ready)?;
    let mut status = UnixStream::from(status);
    let failure = become_program(arguments, &mut status, ready.as_ref())
        .map_or_else(|error| with_causes(&error), |never| match never {});
    drop(status.write_all(failure.as_bytes()));
    Ok(ExitCode::FAILURE)
}

/// Returns only if something failed.
fn become_program(
    arguments: &Arguments,
    status: &mut UnixStream,
    ready: Option<&OwnedFd>,
) -> Result<std::convert::Infallible, Error> {
    kernel("start a container", process::seal_descriptors())?;
    let ids = Ids::here();
    let spec: ContainerSpec = spec::read(&arguments.run.join(RECORD_SPEC))?;
    bounds::join(&spec.groups)?;
    let filters = kernel("start a container", seccomp::container())?;
    // Already in the pod's pid namespace, where the recorded numbers mean nothing.
    let pod = kernel("start a container", PidFd::of_first())?;
    kernel("start a container", process::enter(&pod, process::SHARED))?;
    let shared = memory::take(&pod, &spec.memory)?;
    kernel("start a container", process::unshare_mounts())?;
    // The shim takes hold of the new mount namespace before anything runs in it: see there.
    let failed = |source: io::Error| started("a container", &source);
    status.write_all(shim::NAMESPACE_MADE).map_err(failed)?;
    io::Read::read_exact(status, &mut [0]).map_err(failed)?;
    rootfs::build(&spec, shared, &arguments.run.join(super::SCRATCH))?;
    kernel("start a container", process::leave_session())?;
    let who = account::of(&spec, &ids)?;
    let mut command = program(&spec, &who, &spec.command)?;
    if spec.tty {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(|errno| failed(errno.into()))?;
        command.env("TERM", "xterm");
    }
    if let Some(ready) = ready {
        kernel("start a container", process::inherit(ready))?;
        command.env(crate::applets::READY_VARIABLE, ready.as_raw_fd().to_string());
    }
    confine(&spec, &who, &ids, &filters)?;
    let failure = command.exec();
    Err(not_run(&spec.command, &failure))
}

/// Runs a command beside a container's program, with nothing that the program does not have.
fn enter(arguments: &Arguments) -> Result<ExitCode, Error> {
    kernel("enter a container", process::hide())?;
    kernel("enter a container", process::seal_descriptors())?;
    let ids = Ids::here();
    let spec: ContainerSpec = spec::read(&arguments.run.join(RECORD_SPEC))?;
    bounds::join(&spec.groups)?;
    let filters = kernel("enter a container", seccomp::container())?;
    let container = open(spec::read::<Recorded>(&arguments.run.join(RECORD_STATE))?.into())?;
    kernel(
        "enter a container",
        process::enter(&container, process::SHARED | Namespaces::PROCESS_ID | Namespaces::MOUNT),
    )?;
    let who = account::of(&spec, &ids)?;
    let mut command = program(&spec, &who, &arguments.command)?;
    if arguments.tty {
        command.env("TERM", "xterm");
        process::with_terminal(&mut command);
    }
    confine(&spec, &who, &ids, &filters)?;
    match command.spawn().and_then(|program| end_within(program, arguments.within)) {
        Ok(status) => Ok(ExitCode::from(u8::try_from(code_of(status)).unwrap_or(u8::MAX))),
        Err(failure) => {
            drop(writeln!(io::stderr(), "{}", with_causes(&not_run(&arguments.command, &failure))));
            let missing = failure.kind() == io::ErrorKind::NotFound;
            Ok(ExitCode::from(if missing { NOT_FOUND } else { NOT_RUNNABLE }))
        }
    }
}

/// Waits for a program, which is killed when its time is over.
fn end_within(mut program: Child, bound: Option<Duration>) -> io::Result<ExitStatus> {
    if let (Some(bound), Some(pid)) = (bound, i32::try_from(program.id()).ok().and_then(Pid::from_raw)) {
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let bound = Timespec::try_from(bound).map_err(io::Error::other)?;
        if rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&bound))? == 0 {
            program.kill()?;
        }
    }
    program.wait()
}

/// The last steps before foreign code runs, in this order: each takes away the right to undo the one before.
fn confine(spec: &ContainerSpec, who: &Who, ids: &Ids, filters: &seccomp::Filters) -> Result<(), Error> {
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    kernel("bound a container", process::limit(ids))?;
    let own = (who.user, who.group, who.more_groups.as_slice());
    let confined = caps::become_confined(ids, own, &spec.capabilities);
    kernel("confine a container", confined)?;
    kernel("confine a container", filters.install())
}

fn program(spec: &ContainerSpec, who: &Who, command: &[String]) -> Result<Command, Error> {
    let Some((name, arguments)) = command.split_first() else {
        return Err(Error::Container {
            doing: "run a program in a container".to_owned(),
            why: "no command is given".to_owned(),
        });
    };
    let directory = if spec.directory.is_empty() { "/" } else { &spec.directory };
    let mut program = Command::new(name);
    program.args(arguments).env_clear().envs(spec.environment.iter().map(|(name, value)| (name, value)));
    if let Some(home) = &who.home
        && !spec.environment.iter().any(|(name, _)| name == "HOME")
    {
        program.env("HOME", home);
    }
    program.current_dir(directory);
    if is_null(&rustix::stdio::stdin()) {
        // The host's own device, on the host's own mount, whose mode user 0 could change: the container's instead.
        program.stdin(Stdio::null());
    }
    Ok(program)
}

/// Whether this is the device that gives no input.
fn is_null(input: &impl AsFd) -> bool {
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::fstat(input).is_ok_and(|found| found.st_rdev == device)
}

fn not_run(command: &[String], failure: &io::Error) -> Error {
    let name = command.first().map_or("", String::as_str);
    let why = match failure.kind() {
        io::ErrorKind::NotFound if name.contains('/') => "no such file or directory in the container".to_owned(),
        io::ErrorKind::NotFound => "executable file not found in $PATH".to_owned(),
        _ => failure.to_string(),
    };
    Error::Container { doing: format!("run `{name}`"), why }
}

fn open(id: ProcessId) -> Result<PidFd, Error> {
    kernel("enter a container", id.open())?.ok_or_else(|| Error::Container {
        doing: "enter a container".to_owned(),
        why: format!("its process {} has ended", id.pid),
    })
}

/// The running program, also when its file has been replaced since.
pub(super) const OWN_PROGRAM: &str = "/proc/self/exe";

/// A program as a part of a pod; nothing of the starter's environment.
pub(super) fn part(program: impl AsRef<std::ffi::OsStr>, name: &str, data_dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg0("tidegate").arg(name).arg("--data-dir").arg(data_dir).env_clear().current_dir("/");
    command
}

/// The exit code as a shell has it.
pub(super) fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Opens a container's log, below the data directory, to be appended to.
pub(super) fn open_log(data_dir: &Path, path: &Path) -> Result<std::fs::File, Error> {
    let below = path.strip_prefix(data_dir).map_err(|_| Error::Container {
        doing: format!("open the log `{}`", path.display()),
        why: "it is not in the data directory".to_owned(),
    })?;
    kernel("open a log", linux::files::append_for_owner(data_dir, below))
}

pub(super) fn started(what: &str, source: &io::Error) -> Error {
    Error::Container { doing: format!("start {what}"), why: source.to_string() }
}

pub(super) fn kernel<T>(doing: &str, outcome: Result<T, linux::Error>) -> Result<T, Error> {
    crate::error::doing(doing, outcome)
}
