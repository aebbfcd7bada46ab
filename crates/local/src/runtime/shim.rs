//! `pod-shim`: the parent of a container's program, outside the pod. Writes what the program prints to its log, and its
//! exit to a record, whether or not the daemon lives.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use linux::pidfd::{PidFd, ProcessId};
use linux::process::{self, Namespaces};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

use super::attach::{Attachments, ERRORS, Input, OUTPUT, STUCK_BOUND};
use super::inside::{Arguments, OWN_PROGRAM, kernel, open_log, part, record_self, started};
use super::spec::{self, ContainerSpec, Exit, Recorded, Root};
use super::{INIT, RECORD_EXIT, RECORD_SANDBOX, RECORD_SHIM, RECORD_SPEC, RECORD_STATE};
use crate::{Error, images};

/// How long a program that promised to say when it serves may take: far beyond what ours need, well below what a
/// waiting `exec` is given.
const READY_BOUND: Duration = Duration::from_secs(5);

/// Longest piece of a log line, as container runtimes have it; longer lines are marked as parts.
const PIECE_MAX: usize = 16 * 1024;

/// Size of a log at which it is put aside and a new one begun; one is kept. Kubernetes' default.
const LOG_MAX: u64 = 10 << 20;

/// Rounds of looking for processes that a container left behind: each round ends all that are found, so that more than
/// one is needed only against programs that fork as fast as they can.
const SWEEPS_MAX: u32 = 100;

pub(super) fn main(arguments: &Arguments) -> Result<ExitCode, Error> {
    kernel("start a container", process::seal_descriptors())?;
    kernel("start a container", process::leave_session())?;
    record_self(&arguments.run.join(RECORD_SHIM))?;
    let container: ContainerSpec = spec::read(&arguments.run.join(RECORD_SPEC))?;
    let mut log = Log::open(&arguments.data_dir, &container.log)?;
    // For as long as anything of the container runs, whether or not the daemon lives.
    let _held: Vec<_> = match &container.root {
        Root::Layers(layers) => layers.iter().map(|layer| images::hold(layer)).collect::<Result<_, _>>()?,
        Root::ToolBox => Vec::new(),
    };
    let pod: ProcessId = spec::read::<Recorded>(&arguments.pod.join(RECORD_SANDBOX))?.into();
    let pod = kernel("start a container", pod.open())?.ok_or_else(|| Error::Container {
        doing: "start a container".to_owned(),
        why: "its pod has ended".to_owned(),
    })?;
    kernel("start a container", process::enter(&pod, Namespaces::PROCESS_ID))?;
    let before = linux::cgroup::ended_for_memory(&container.groups);
    let (mut program, family, mut said) = start(arguments, &container)?;
    let id = ProcessId::of(program.id());
    if let Some(id) = id {
        spec::write(&arguments.run.join(RECORD_STATE), &Recorded::from(id))?;
    }
    drop(writeln!(io::stdout(), "{STARTED}"));
    let status = pump(&mut program, &mut said, &mut log, &family)?;
    said.attachments.finish();
    let code = super::inside::code_of(status);
    let exit = Exit {
        code,
        signal: status.signal(),
        finished_ms: jiff::Timestamp::now().as_millisecond(),
        // The group is the pod's: that this container was meant is known by how it ended.
        out_of_memory: code == KILLED && linux::cgroup::ended_for_memory(&container.groups) > before,
    };
    spec::write(&arguments.run.join(RECORD_EXIT), &exit)?;
    Ok(ExitCode::SUCCESS)
}

/// The exit code of what was killed, also as a shell passes it on.
const KILLED: i32 = 137;

/// What the shim says when the program runs, and serves if it promised to say so.
pub(super) const STARTED: &str = "started";

/// What the program says, and everybody who hears it as it is said.
struct Said {
    streams: [Option<Stream>; 2],
    attachments: Attachments,
}

impl Said {
    /// The program's ends are its pipes, or the other end of a terminal.
    fn by(
        program: &mut Child,
        terminal: Option<OwnedFd>,
        arguments: &Arguments,
        container: &ContainerSpec,
    ) -> io::Result<Self> {
        let has_input = container.input != spec::Input::None;
        let (streams, input) = if let Some(terminal) = terminal {
            let input = if has_input { Some(terminal.try_clone()?) } else { None };
            ([Some(Stream::new("stdout", terminal)), None], input)
        } else {
            let stdout = program.stdout.take().map(|pipe| Stream::new("stdout", OwnedFd::from(pipe)));
            let stderr = program.stderr.take().map(|pipe| Stream::new("stderr", OwnedFd::from(pipe)));
            ([stdout, stderr], program.stdin.take().map(OwnedFd::from))
        };
        let input = input.map(|to| Input::new(to, container.tty, container.input == spec::Input::Once)).transpose()?;
        Ok(Self { streams, attachments: Attachments::open(&arguments.run, input) })
    }
}

fn start(arguments: &Arguments, container: &ContainerSpec) -> Result<(Child, Family, Said), Error> {
    let failed = |source: io::Error| started("a container", &source);
    let (mut status, told) = UnixStream::pair().map_err(failed)?;
    let (ready, tells) = io::pipe().map_err(failed)?;
    let mut command = part(OWN_PROGRAM, INIT, &arguments.data_dir);
    command.arg("--pod").arg(&arguments.pod).arg("--run").arg(&arguments.run);
    command.arg("--status").arg(told.as_raw_fd().to_string());
    kernel("start a container", process::inherit(&told))?;
    if container.tells_ready {
        command.arg("--ready").arg(tells.as_raw_fd().to_string());
        kernel("start a container", process::inherit(&tells))?;
    }
    let terminal = if container.tty {
        let (ours, theirs) = super::exec::terminal().map_err(failed)?;
        let copy = || theirs.try_clone().map(Stdio::from).map_err(failed);
        command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
        Some(ours)
    } else {
        let stdin = if container.input == spec::Input::None { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        None
    };
    let mut program = command.spawn().map_err(failed)?;
    // Copies of the program's end of its terminal are held until here; that they are gone is how its end is seen.
    drop((command, told, tells));
    let family = hold_namespace(&mut status, &program);
    // Nothing more when the program runs, which closes the other end, or the reason why it does not.
    let mut failure = String::new();
    status.read_to_string(&mut failure).map_err(failed)?;
    let (Some(family), true) = (family, failure.is_empty()) else {
        if let Some(errors) = &mut program.stderr {
            errors.take(super::COMPLAINT_MAX).read_to_string(&mut failure).map_err(failed)?;
        }
        drop(program.wait());
        return Err(Error::Container { doing: "start a container".to_owned(), why: failure.trim_end().to_owned() });
    };
    if container.tells_ready {
        await_ready(&ready, &program)?;
    }
    let said = Said::by(&mut program, terminal, arguments, container).map_err(failed)?;
    Ok((program, family, said))
}

/// Waits until the program has closed its end, has ended, or the bound is over (then it counts as started as any other
/// program does).
fn await_ready(ready: &io::PipeReader, program: &Child) -> Result<(), Error> {
    let Some(id) = ProcessId::of(program.id()) else { return Ok(()) };
    let Some(process) = kernel("wait for a container to serve", id.open())? else { return Ok(()) };
    let until = Instant::now() + READY_BOUND;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: i64::from(left.subsec_nanos()) };
        let mut polled = [PollFd::new(ready, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(started("a container", &errno.into())),
        }
    }
}

/// Copies output to the log until the program has ended and nobody holds its output any more.
fn pump(
    program: &mut Child,
    said: &mut Said,
    log: &mut Log,
    family: &Family,
) -> Result<std::process::ExitStatus, Error> {
    let failed = |source: io::Error| started("the log of a container", &source);
    let Said { streams, attachments } = said;
    let mut process = match ProcessId::of(program.id()) {
        Some(id) => kernel("wait for a container", id.open())?,
        None => None,
    };
    let mut status = None;
    loop {
        if process.is_none() && status.is_none() {
            status = Some(program.wait().map_err(failed)?);
            sweep(family)?;
        }
        if let (Some(status), true) = (status, streams.iter().all(Option::is_none)) {
            return Ok(status);
        }
        let (ended, readable) = poll(process.as_ref(), streams, attachments).map_err(failed)?;
        attachments.work();
        for (stream, readable) in streams.iter_mut().zip(readable) {
            if let Some(open) = stream
                && readable
                && !open.copy(log, attachments)?
            {
                *stream = None;
            }
        }
        if ended {
            process = None;
        }
    }
}

/// Waits for any of them; says whether the process has ended and which streams can be read.
///
/// Streams wait while somebody who is attached does not read, for a while.
fn poll(
    process: Option<&PidFd>,
    streams: &[Option<Stream>; 2],
    attachments: &Attachments,
) -> io::Result<(bool, [bool; 2])> {
    let waits = attachments.is_full();
    let [first, second] = streams.each_ref().map(|stream| stream.as_ref().filter(|_| !waits));
    let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(3);
    polled.extend(process.map(|process| PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)));
    polled.extend([first, second].into_iter().flatten().map(|open| PollFd::new(&open.pipe, PollFlags::IN)));
    attachments.watch(&mut polled);
    let bound = Timespec::try_from(STUCK_BOUND).map_err(io::Error::other)?;
    loop {
        match rustix::event::poll(&mut polled, waits.then_some(&bound)) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut told = polled.iter().map(|one| !one.revents().is_empty());
    let mut next = |asked: bool| asked && told.next().unwrap_or(false);
    Ok((next(process.is_some()), [next(first.is_some()), next(second.is_some())]))
}

/// The mount namespace of one container, which none of its processes can leave and no other process has. Held open: the
/// number of a namespace that is gone is given to the next one.
struct Family {
    _held: File,
    id: (u64, u64),
}

/// What `pod-init` says when it has its mount namespace; it goes on when it is answered.
pub(super) const NAMESPACE_MADE: &[u8] = b"n";

fn hold_namespace(status: &mut UnixStream, program: &Child) -> Option<Family> {
    status.read_exact(&mut [0]).ok()?;
    let held = File::open(format!("/proc/{}/ns/mnt", program.id())).ok()?;
    let id = held.metadata().map(|found| (found.dev(), found.ino())).ok()?;
    status.write_all(NAMESPACE_MADE).ok()?;
    Some(Family { _held: held, id })
}

fn mount_namespace(pid: &str) -> Option<(u64, u64)> {
    std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|found| (found.dev(), found.ino()))
}

/// Ends what the program left behind.
fn sweep(family: &Family) -> Result<(), Error> {
    for _ in 0..SWEEPS_MAX {
        let mut found = false;
        let listed = std::fs::read_dir("/proc").map_err(|source| Error::File {
            doing: "list",
            path: PathBuf::from("/proc"),
            source,
        })?;
        for entry in listed.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
                continue;
            };
            let Some(id) = pid.parse().ok().and_then(ProcessId::of) else { continue };
            if mount_namespace(pid) != Some(family.id) {
                continue;
            }
            if let Some(process) = kernel("end what a container left behind", id.open())? {
                found = true;
                kernel("end what a container left behind", process.signal(Signal::KILL))?;
                kernel("end what a container left behind", process.wait_end(READY_BOUND))?;
            }
        }
        if !found {
            break;
        }
    }
    Ok(())
}

/// One output of the program.
struct Stream {
    name: &'static str,
    pipe: File,
    /// What came after the last line end.
    rest: Vec<u8>,
}

impl Stream {
    fn new(name: &'static str, pipe: OwnedFd) -> Self {
        Self { name, pipe: File::from(pipe), rest: Vec::new() }
    }

    /// Copies what there is; `false` at the end.
    fn copy(&mut self, log: &mut Log, attachments: &mut Attachments) -> Result<bool, Error> {
        let mut chunk = [0; PIECE_MAX];
        let length = match self.pipe.read(&mut chunk) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                return Ok(true);
            }
            // The last process with the terminal has ended.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => 0,
            Err(error) => return Err(started("the log of a container", &error)),
        };
        let kind = if self.name == "stdout" { OUTPUT } else { ERRORS };
        attachments.tell(kind, chunk.get(..length).unwrap_or_default());
        self.rest.extend_from_slice(chunk.get(..length).unwrap_or_default());
        let mut lines = Vec::new();
        let now = jiff::Timestamp::now();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            entry(&mut lines, now, self.name, "F", line.strip_suffix(b"\n").unwrap_or(&line));
        }
        while self.rest.len() >= PIECE_MAX || (length == 0 && !self.rest.is_empty()) {
            let piece: Vec<u8> = self.rest.drain(..self.rest.len().min(PIECE_MAX)).collect();
            entry(&mut lines, now, self.name, "P", &piece);
        }
        // A full disk must not end the container: what cannot be written is lost, as it is for any container.
        drop(log.append(&lines));
        Ok(length > 0)
    }
}

/// One line of a log as container runtimes write it: time, stream, full or part, text.
fn entry(to: &mut Vec<u8>, now: jiff::Timestamp, stream: &str, tag: &str, text: &[u8]) {
    to.extend_from_slice(format!("{now:.9} {stream} {tag} ").as_bytes());
    to.extend_from_slice(text);
    to.push(b'\n');
}

/// A log file of bounded size.
struct Log {
    data_dir: PathBuf,
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    fn open(data_dir: &Path, path: &Path) -> Result<Self, Error> {
        let file = open_log(data_dir, path)?;
        let size = file.metadata().map_or(0, |found| found.len());
        Ok(Self { data_dir: data_dir.to_owned(), path: path.to_owned(), file, size })
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), Error> {
        let failed = |path: &Path, source| Error::File { doing: "write the log", path: path.to_owned(), source };
        let length = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > LOG_MAX {
            std::fs::rename(&self.path, super::logs::aside(&self.path)).map_err(|source| failed(&self.path, source))?;
            self.file = open_log(&self.data_dir, &self.path)?;
            self.size = 0;
        }
        let written = self.file.write_all(lines);
        if written.is_ok() {
            self.size = self.size.saturating_add(length);
        } else {
            // What comes next begins a line of its own.
            drop(self.file.set_len(self.size));
        }
        written.map_err(|source| failed(&self.path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_put_aside_when_it_is_full_and_nothing_is_torn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::open(directory.path(), &path).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..11 {
            log.append(&line).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
        assert_eq!(std::fs::metadata(super::super::logs::aside(&path)).unwrap().len(), 10 << 20);
    }

    #[test]
    fn long_lines_are_cut_into_marked_parts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::open(directory.path(), &path).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&vec![b'a'; PIECE_MAX + 5]).unwrap();
        writer.write_all(b"\nshort\ntail").unwrap();
        drop(writer);
        let mut stream = Stream::new("stdout", reader.into());
        let mut nobody = Attachments::open(directory.path(), None);
        while stream.copy(&mut log, &mut nobody).unwrap() {}
        let text = std::fs::read_to_string(&path).unwrap();
        let tags: Vec<(&str, usize)> = text
            .lines()
            .map(|line| {
                let mut fields = line.splitn(4, ' ').skip(2);
                (fields.next().unwrap(), fields.next().unwrap().len())
            })
            .collect();
        assert_eq!(tags, [("P", PIECE_MAX), ("F", 5), ("F", 5), ("P", 4)]);
    }
}
