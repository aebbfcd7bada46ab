//! Processes held by identity, not by number: a number may be given to another process, a pid with its start time not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::Error;

/// Which process: its number, and when it started (clock ticks since boot, field 22 of `/proc/PID/stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The number in the namespace of the caller.
    pub pid: u32,
    /// The start time; with it the number is unique until the next boot.
    pub start: u64,
}

/// A handle of one process; never another one's, whatever happens to the number.
#[derive(Debug)]
pub struct PidFd {
    handle: OwnedFd,
}

impl ProcessId {
    /// Who has this number now, none if nobody.
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|(_, start)| Self { pid, start })
    }

    /// The number of its parent, none if it is gone.
    pub fn parent(self) -> Option<u32> {
        stat(self.pid).filter(|(_, start)| *start == self.start).map(|(parent, _)| parent)
    }

    /// A handle, none if that process is gone.
    pub fn open(self) -> Result<Option<PidFd>, Error> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            // INVAL: the number is a thread's of another process by now.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(failed(format!("open a handle of process {}", self.pid), errno)),
        };
        // Asked after the handle is held: equal start times mean that the handle is that process's.
        Ok((Self::of(self.pid) == Some(self)).then_some(PidFd { handle }))
    }
}

/// The parent and the start time of whoever has this number.
fn stat(pid: u32) -> Option<(u32, u64)> {
    let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    Some((parent_of(&line)?, start_of(&line)?))
}

impl PidFd {
    /// The first process of the caller's own pid namespace.
    pub fn of_first() -> Result<Self, Error> {
        rustix::process::pidfd_open(Pid::INIT, PidfdFlags::empty())
            .map(|handle| Self { handle })
            .map_err(|errno| failed("open a handle of the first process".to_owned(), errno))
    }

    /// Sends a signal; `false` if the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<bool, Error> {
        match rustix::process::pidfd_send_signal(&self.handle, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(errno) => Err(failed(format!("send {signal:?} to a process"), errno)),
        }
    }

    /// Waits until the process has ended (it may remain as a zombie); `false` after `bound`.
    pub fn wait_end(&self, bound: Duration) -> Result<bool, Error> {
        let until = Instant::now() + bound;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left)
                .map_err(|_| failed_io("wait for a process", io::ErrorKind::InvalidInput.into()))?;
            let mut polled = [PollFd::new(&self.handle, PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&left)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("wait for a process".to_owned(), errno)),
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// The start time in a line of `/proc/PID/stat`.
pub(crate) fn start_of(line: &[u8]) -> Option<u64> {
    field(line, 19)?.parse().ok()
}

/// The number of the parent in such a line.
fn parent_of(line: &[u8]) -> Option<u32> {
    field(line, 1)?.parse().ok()
}

/// A field of such a line, counted from the state on.
fn field(line: &[u8], number: usize) -> Option<&str> {
    // The second field, the name, is the process's own choice, and may hold anything, brackets and bytes that are no text
    // included: what counts is after the last bracket.
    let rest = line.rsplit(|&byte| byte == b')').next().filter(|rest| rest.len() < line.len())?;
    std::str::from_utf8(rest).ok()?.split_ascii_whitespace().nth(number)
}

fn failed(doing: String, errno: rustix::io::Errno) -> Error {
    Error::Process { doing, source: errno.into() }
}

fn failed_io(doing: &str, source: io::Error) -> Error {
    Error::Process { doing: doing.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_handle_is_of_that_process_and_no_later_one() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let other = ProcessId { start: id.start + 1, ..id };
        assert!(other.open().unwrap().is_none(), "another start time is another process");
        let handle = id.open().unwrap().unwrap();
        assert!(!handle.wait_end(Duration::ZERO).unwrap());
        assert!(handle.signal(Signal::KILL).unwrap());
        assert!(handle.wait_end(Duration::from_secs(5)).unwrap());
        child.wait().unwrap();
        assert!(!handle.signal(Signal::KILL).unwrap(), "it is gone");
        assert!(id.open().unwrap().is_none());
    }

    #[test]
    fn a_process_is_known_whatever_its_name_holds() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().unwrap();
        for name in [&b"a) R 1 (b"[..], b"\xff\xfe", b" \n) ", b"plain"] {
            let program = folder.path().join(OsStr::from_bytes(name));
            std::fs::copy("/bin/sleep", &program).unwrap();
            let mut child = Command::new(&program).arg("100").spawn().unwrap();
            let id = ProcessId::of(child.id());
            let handle = id.and_then(|id| id.open().unwrap());
            let parent = id.and_then(ProcessId::parent);
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(handle.is_some(), "{}: {id:?}", name.escape_ascii());
            assert_eq!(parent, Some(std::process::id()), "{}", name.escape_ascii());
        }
    }
}
