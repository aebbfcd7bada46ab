//! Other programs: run to their end, or for as long as they are held.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;

/// What a run of the load generator may take beyond its own time.
const LATE_MAX: Duration = Duration::from_secs(30);

/// Runs a command to its end; anything but success is an error with what it said.
pub(crate) fn checked(mut command: Command) -> Result<Output> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(output)
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it; its standard error is ours.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let shown = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {shown}"))?;
        let lines = child.stdout.take().map(BufReader::new);
        Ok(Self { child, lines })
    }

    /// The next line that it prints, as a value.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let lines = self.lines.as_mut().context("its output was taken")?;
        if lines.read_line(&mut line)? == 0 {
            bail!("a program ended early: {:?}", self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("`{}`", line.trim_end()))
    }

    /// Its standard output, for somebody else to read.
    pub(crate) fn take_output(&mut self) -> Result<BufReader<ChildStdout>> {
        self.lines.take().context("its output was taken")
    }

    /// Its standard input; dropped, it ends.
    pub(crate) fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("a program ended with {status}") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The load generator.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    program: PathBuf,
}

impl Load {
    /// Beside our own binary.
    pub(crate) fn find() -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("tidegate-load");
        if !program.exists() {
            bail!("`{}` is missing; bench/run builds it", program.display());
        }
        Ok(Self { program })
    }

    /// A command in a namespace.
    pub(crate) fn command(&self, netns: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--netns").arg(netns);
        if let Some(group) = group_of(netns) {
            command.arg("--group").arg(group);
        }
        command.args(words);
        command
    }

    /// Runs a mode that ends by itself after `time`; its report.
    pub(crate) fn run<T: DeserializeOwned>(&self, netns: &Path, words: &[&str], time: Duration) -> Result<T> {
        let mut running = Running::start(self.command(netns, words))?;
        running.end_within(time + LATE_MAX).with_context(|| words.join(" "))?;
        let report = running.next().with_context(|| words.join(" "))?;
        running.wait()?;
        Ok(report)
    }
}

impl Running {
    /// Waits until it has ended. What it prints must fit into a pipe.
    fn end_within(&self, limit: Duration) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("it has no pid")?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let limit = Timespec::try_from(limit)?;
        let ready = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))?;
        if ready == 0 {
            bail!("it hangs");
        }
        Ok(())
    }
}

/// The group of version 2 of a pod, by the handle of its network namespace (`/run/tidegate/<mesh>/pods/<number>-<uid>`).
fn group_of(netns: &Path) -> Option<PathBuf> {
    let mesh = netns.parent()?.parent()?.file_name()?.to_str()?;
    let (_, uid) = netns.file_name()?.to_str()?.split_once('-')?;
    let all = linux::cgroup::unified(&format!("tidegate-{mesh}")).ok()??;
    Some(all.join(uid)).filter(|group| group.is_dir())
}
