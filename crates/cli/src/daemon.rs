//! The daemon of a mesh as other commands see it: the lock that it holds and what it says of itself in it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::settings::Place;

/// How long a daemon may take to end by itself: its slowest part is the largest grace period of its pods, cut to
/// 10 s when a mesh goes down, plus removing 500 of them.
const ENDING_MAX: Duration = Duration::from_secs(20);

/// How long the lock may be held by what a killed daemon left: a process that it was just about to start holds it until
/// that runs its program. Also by whoever looks who holds it.
const LEFT_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a daemon that was killed takes to end, at most: `kill -9 PID; tidegate up` in one line finds it half gone.
const DYING_MAX: Duration = Duration::from_millis(500);

/// What the daemon writes into its lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Daemon {
    /// Its process.
    pub(crate) pid: i32,
    /// The port of its API server on 127.0.0.1; 0 until it listens.
    pub(crate) port: u16,
    /// The version that it is.
    pub(crate) version: String,
}

/// Held by the one daemon of a data directory, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

fn lock_file(place: &Place) -> PathBuf {
    place.data_dir.join("lock")
}

impl Lock {
    /// Takes the lock; `None` when another daemon holds it.
    pub(crate) fn take(place: &Place) -> Result<Option<Self>> {
        let path = lock_file(place);
        let file = linux::files::open_to_write(&path, OFlags::empty(), Mode::RUSR | Mode::WUSR)?;
        place.give(&path)?;
        let began = Instant::now();
        while !try_lock(&file, &path)? {
            if began.elapsed() > LEFT_MAX || named_in(&path)?.is_some_and(|daemon| daemon.stays()) {
                return Ok(None);
            }
            std::thread::sleep(LOOK_AGAIN); // timer: nothing tells when a lock is let go of, but waiting for it, which has no bound
        }
        Ok(Some(Self { file }))
    }

    /// Says who holds the lock.
    pub(crate) fn announce(&mut self, port: u16) -> Result<()> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let daemon = Daemon { pid, port, version: env!("CARGO_PKG_VERSION").to_owned() };
        let text = serde_json::to_string(&daemon)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        Ok(())
    }
}

impl Daemon {
    /// Whether there is a process of its number that has not ended: one that has keeps its number until it is waited for.
    fn lives(&self) -> bool {
        self.outlives(Duration::ZERO)
    }

    /// Whether it runs, and is not just ending.
    pub(crate) fn stays(&self) -> bool {
        self.outlives(DYING_MAX)
    }

    fn outlives(&self, time: Duration) -> bool {
        let handle = Pid::from_raw(self.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match handle {
            Some(Ok(handle)) => !gone_within(&handle, time).unwrap_or_default(),
            // The number may be that of a thread by now. Of a process that must not be looked at nobody knows that it has ended.
            Some(Err(error)) => ![Errno::SRCH, Errno::INVAL, Errno::NOENT].contains(&error),
            None => false,
        }
    }
}

/// What the last holder of the lock has said of itself; none if it has not yet.
fn named_in(path: &Path) -> Result<Option<Daemon>> {
    let mut text = String::new();
    let read = linux::files::open_to_read(path)?.read_to_string(&mut text);
    read.with_context(|| format!("reading `{}`", path.display()))?;
    Ok(serde_json::from_str(&text).ok())
}

fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("locking `{}`", path.display())),
    }
}

/// The daemon that runs on this data directory, if one does.
pub(crate) fn running(place: &Place) -> Result<Option<Daemon>> {
    let path = lock_file(place);
    // One that must not be looked at is no proof that none runs.
    let there = path.try_exists();
    if !there.with_context(|| format!("looking at `{}`; run this as the user who ran `up`", path.display()))? {
        return Ok(None);
    }
    if try_lock(&linux::files::open_to_read(&path)?, &path)? {
        return Ok(None);
    }
    // The holder writes right after it has the lock: one that has said nothing is a daemon in its first microseconds.
    let daemon = named_in(&path)?.unwrap_or(Daemon { pid: 0, port: 0, version: String::new() });
    // One that was killed may have left the lock for a moment (`LEFT_MAX`).
    Ok(Some(daemon).filter(|daemon| daemon.pid == 0 || daemon.lives()))
}

/// Ends the daemon of this data directory, if one runs, and returns when it is gone.
pub(crate) fn end(place: &Place) -> Result<bool> {
    let Some(daemon) = running(place)? else { return Ok(false) };
    let Some(pid) = Pid::from_raw(daemon.pid) else { return Ok(false) };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
    // The handle is the daemon's only if the lock is still held by the process that named itself.
    if running(place)?.as_ref() != Some(&daemon) {
        return Ok(false);
    }
    end_process(&handle)?;
    Ok(true)
}

fn end_process(handle: &OwnedFd) -> Result<()> {
    signal(handle, Signal::TERM)?;
    if !gone_within(handle, ENDING_MAX)? {
        signal(handle, Signal::KILL)?;
        gone_within(handle, ENDING_MAX)?;
    }
    Ok(())
}

/// Ends daemons of this data directory whose lock was taken away under them (`rm -r` of the directory): nothing but
/// their arguments or their environment says whose they are. Says whether there was one.
pub(crate) fn end_without_lock(place: &Place) -> Result<bool> {
    let mut ended = false;
    for entry in std::fs::read_dir("/proc").context("listing processes")?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw).filter(|pid| *pid != rustix::process::getpid()) else {
            continue;
        };
        // The handle first: what is read afterwards is of this process, or it is gone and cannot be signalled.
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        if is_daemon_of(&read("cmdline"), &read("environ"), &place.data_dir) {
            end_process(&handle)?;
            ended = true;
        }
    }
    Ok(ended)
}

fn is_daemon_of(arguments: &[u8], environment: &[u8], data_dir: &Path) -> bool {
    let dir = data_dir.as_os_str().as_encoded_bytes();
    let words: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
    let is_up = words.first().is_some_and(|program| program.rsplit(|byte| *byte == b'/').next() == Some(b"tidegate"))
        && words.get(1) == Some(&b"up".as_slice());
    let named = words.iter().zip(words.iter().skip(1)).find(|(word, _)| **word == b"--data-dir").map(|(_, dir)| *dir);
    let variable = || environment.split(|byte| *byte == 0).find_map(|one| one.strip_prefix(b"TIDEGATE_DATA_DIR="));
    is_up && named.or_else(variable) == Some(dir)
}

fn signal(process: &OwnedFd, signal: Signal) -> Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("ending the daemon; run this command as the user who ran `up`"),
    }
}

fn gone_within(process: &OwnedFd, limit: Duration) -> Result<bool> {
    let limit = rustix::time::Timespec::try_from(limit).context("waiting for the daemon")?;
    let ready = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).context("waiting for the daemon")?;
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::DataDirArgument;

    #[test]
    fn a_lock_is_held_by_one_and_seen_by_all() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::resolve(&DataDirArgument { data_dir: Some(dir.path().to_path_buf()) }).unwrap();
        assert_eq!(running(&place).unwrap(), None);
        let mut lock = Lock::take(&place).unwrap().unwrap();
        lock.announce(6443).unwrap();
        assert!(Lock::take(&place).unwrap().is_none());
        assert_eq!(running(&place).unwrap().unwrap().port, 6443);
        drop(lock);
        assert_eq!(running(&place).unwrap(), None);
        assert!(!end(&place).unwrap());
    }

    #[test]
    fn a_lock_that_a_killed_daemon_left_to_a_child_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::resolve(&DataDirArgument { data_dir: Some(dir.path().to_path_buf()) }).unwrap();
        let mut left = Lock::take(&place).unwrap().unwrap();
        // No process has so high a number.
        let daemon = Daemon { pid: i32::MAX, port: 1, version: String::new() };
        left.file.write_all(serde_json::to_string(&daemon).unwrap().as_bytes()).unwrap();
        assert_eq!(running(&place).unwrap(), None);
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50)); // timer: the lock is held while the next daemon asks for it
            drop(left);
        });
        assert!(Lock::take(&place).unwrap().is_some());
        child.join().unwrap();
    }

    #[test]
    fn a_daemon_that_is_just_ending_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::resolve(&DataDirArgument { data_dir: Some(dir.path().to_path_buf()) }).unwrap();
        let mut held = Lock::take(&place).unwrap().unwrap();
        let mut child = std::process::Command::new("sleep").arg("0.1").spawn().unwrap();
        let daemon = Daemon { pid: child.id().cast_signed(), port: 1, version: String::new() };
        held.file.write_all(serde_json::to_string(&daemon).unwrap().as_bytes()).unwrap();
        let ends = std::thread::spawn(move || {
            child.wait().unwrap();
            drop(held);
        });
        assert!(Lock::take(&place).unwrap().is_some());
        ends.join().unwrap();
    }

    #[test]
    fn a_daemon_that_nobody_has_waited_for_yet_lives_no_more() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let daemon = Daemon { pid: child.id().cast_signed(), port: 1, version: String::new() };
        assert!(daemon.lives());
        child.kill().unwrap();
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert!(gone_within(&handle, Duration::from_secs(10)).unwrap());
        assert!(!daemon.lives());
        child.wait().unwrap();
        assert!(!daemon.lives());
    }

    #[test]
    fn a_daemon_is_known_by_its_arguments_before_its_environment() {
        let variable = b"A=b\0TIDEGATE_DATA_DIR=/m\0".as_slice();
        for (arguments, environment, wanted) in [
            ("/usr/bin/tidegate\0up\0--detached\0--data-dir\0/m\0", b"".as_slice(), true),
            ("tidegate\0up\0", variable, true),
            ("tidegate\0up\0--data-dir\0/other\0", variable, false),
            ("tidegate\0up\0--data-dir\0/m/x\0", b"", false),
            ("tidegate\0down\0--data-dir\0/m\0", variable, false),
            ("nottidegate\0up\0--data-dir\0/m\0", b"", false),
            ("", variable, false),
        ] {
            assert_eq!(is_daemon_of(arguments.as_bytes(), environment, Path::new("/m")), wanted, "{arguments:?}");
        }
    }
}
