//! A command beside a container's program.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{ENTER, Runtime, inside};
use crate::Error;

/// Of what a short command says, this much is told: as much as Kubernetes tells of a probe.
const SAID_MAX: u64 = 10 * 1024;

/// How a command is to be run.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Program and arguments.
    pub command: Vec<String>,
    /// It gets input.
    pub stdin: bool,
    /// It gets a terminal; errors then come with the output.
    pub tty: bool,
}

/// A running command. Dropping it closes its input and output.
pub struct Session {
    /// Its input; shutting it down is the end of the input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Its errors, none with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its terminal.
    pub terminal: Option<Terminal>,
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, Error>> + Send>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

/// The terminal of a command.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    /// Sets its size in characters.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(self.0.get_ref(), size)
            .map_err(|errno| inside::started("a terminal of that size", &errno.into()))
    }
}

impl Runtime {
    /// Runs a command without input to its end, which comes after `bound` at the latest: what it said, and its exit code.
    pub(crate) async fn ask(&self, run: &Path, words: &[String], bound: Duration) -> Result<(i32, String), Error> {
        let mut command = self.part(ENTER)?;
        command.arg("--run").arg(run).arg("--within-ms").arg(bound.as_millis().to_string());
        command.arg("--").args(words);
        let session = with_pipes(self, &mut tokio::process::Command::from(command), false)?;
        let errors = session.stderr.unwrap_or_else(|| Box::new(tokio::io::empty()));
        let (said, complained) = tokio::join!(heard(session.stdout), heard(errors));
        let failed = |source: io::Error| inside::started("a command in a container", &source);
        let text = [said.map_err(failed)?, complained.map_err(failed)?].concat();
        Ok((session.exit.await?, String::from_utf8_lossy(&text).trim_end().to_owned()))
    }

    /// Runs a command beside the program whose run is recorded in `run` (see [`super::Running::directory`]).
    pub fn exec(&self, run: &Path, wanted: &Command) -> Result<Session, Error> {
        let mut command = self.part(ENTER)?;
        command.arg("--run").arg(run);
        if wanted.tty {
            command.arg("--tty");
        }
        command.arg("--").args(&wanted.command);
        let mut command = tokio::process::Command::from(command);
        if wanted.tty { with_terminal(self, command) } else { with_pipes(self, &mut command, wanted.stdin) }
    }
}

/// All of it is read, for a program that is not heard stands still; some of it is kept.
async fn heard(mut output: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    (&mut output).take(SAID_MAX).read_to_end(&mut said).await?;
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await?;
    Ok(said)
}

fn with_pipes(runtime: &Runtime, command: &mut tokio::process::Command, stdin: bool) -> Result<Session, Error> {
    let failed = |source: io::Error| inside::started("a command in a container", &source);
    command.stdin(if stdin { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = runtime.spawn(command).map_err(failed)?;
    let stdin = child.stdin.take().map(|pipe| Box::new(pipe) as Box<dyn AsyncWrite + Send + Unpin>);
    let gone = || failed(io::Error::other("it has no output"));
    let stdout = child.stdout.take().ok_or_else(gone)?;
    let stderr = child.stderr.take().ok_or_else(gone)?;
    let exit = Box::pin(async move { child.wait().await.map(inside::code_of).map_err(failed) });
    Ok(Session { stdin, stdout: Box::new(stdout), stderr: Some(Box::new(stderr)), terminal: None, exit })
}

/// A new terminal: our end of it, from which reading does not wait, and the program's.
pub(super) fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

fn with_terminal(runtime: &Runtime, mut command: tokio::process::Command) -> Result<Session, Error> {
    let failed = |source: io::Error| inside::started("a command with a terminal", &source);
    let (master, slave) = terminal().map_err(failed)?;
    let copy = || slave.try_clone().map(Stdio::from).map_err(failed);
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    let mut child = runtime.spawn(&mut command).map_err(failed)?;
    // The command holds copies of the slave until they are dropped; reading the master must end with the program.
    drop((command, slave));
    #[expect(deprecated, reason = "the replacement is unsafe; an `OwnedFd` keeps its descriptor open as that demands")]
    let registered = AsyncFd::new(master).map_err(failed)?;
    let terminal = Terminal(Arc::new(registered));
    let exit = Box::pin(async move { child.wait().await.map(inside::code_of).map_err(failed) });
    Ok(Session {
        stdin: Some(Box::new(TerminalEnd(terminal.clone()))),
        stdout: Box::new(TerminalEnd(terminal.clone())),
        stderr: None,
        terminal: Some(terminal),
        exit,
    })
}

/// One direction of a terminal's master side.
struct TerminalEnd(Terminal);

/// What a terminal reads as "no more input" (Ctrl-D).
const END_OF_INPUT: &[u8] = &[4];

impl AsyncRead for TerminalEnd {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let terminal = &self.0.0;
        loop {
            let mut ready = std::task::ready!(terminal.poll_read_ready(context))?;
            let space = into.initialize_unfilled();
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *space)?)) {
                Ok(Ok(length)) => {
                    into.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // The last process with the terminal has ended: the end of the output.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncWrite for TerminalEnd {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, text: &[u8]) -> Poll<io::Result<usize>> {
        let terminal = &self.0.0;
        loop {
            let mut ready = std::task::ready!(terminal.poll_write_ready(context))?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), text)?)) {
                Ok(outcome) => return Poll::Ready(outcome),
                Err(_not_ready) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write(context, END_OF_INPUT).map_ok(drop)
    }
}
