//! Attaching to a running container: its parent passes on what the program says as it says it, and what clients say to it.
//!
//! The parent listens on a socket among the records of the run, so that it can be found by any daemon. What goes over it
//! are frames: a kind, a length, and bytes. A client that does not read holds the program up for a while and is then left
//! behind: a terminal in which somebody has stopped the output must not stop a server for good.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::Winsize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::inside::started;
use crate::Error;

/// Name of the socket among the records of a run.
const SOCKET: &str = "attach";
/// Clients of one container at a time; people attach one by one.
const CLIENTS_MAX: usize = 8;
/// Bytes that wait for one client before the program has to, and for the program before its clients have to.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// How long a client that does not read may hold up the program.
pub(super) const STUCK_BOUND: Duration = Duration::from_secs(10);
/// How long clients have to take the last words when the program has ended.
const FLUSH_BOUND: Duration = Duration::from_secs(1);
/// Bytes of one frame.
const FRAME_BYTES_MAX: usize = 32 * 1024;
/// Kind and length before the bytes of a frame.
const HEAD_BYTES: usize = 5;

/// From the program.
pub(super) const OUTPUT: u8 = 1;
pub(super) const ERRORS: u8 = 2;
/// To the program.
const INPUT: u8 = 3;
const INPUT_END: u8 = 4;
const SIZE: u8 = 5;
/// What a terminal reads as "no more input" (Ctrl-D).
const END_OF_INPUT: u8 = 4;

/// Everybody who is attached to one program, on the side of its parent.
pub(super) struct Attachments {
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    input: Option<Input>,
}

/// The program's input.
pub(super) struct Input {
    to: File,
    is_terminal: bool,
    /// It ends with the first client that had it.
    ends_with_client: bool,
    waiting: Vec<u8>,
    /// Nothing follows what waits.
    is_over: bool,
}

struct Client {
    socket: UnixStream,
    /// Not yet sent.
    waiting: Vec<u8>,
    /// Received, and not yet a whole frame.
    received: Vec<u8>,
    has_input: bool,
    since_full: Option<Instant>,
}

impl Input {
    pub(super) fn new(to: OwnedFd, is_terminal: bool, ends_with_client: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&to, true)?;
        Ok(Self { to: File::from(to), is_terminal, ends_with_client, waiting: Vec::new(), is_over: false })
    }

    fn end(&mut self) {
        if self.is_terminal {
            self.waiting.push(END_OF_INPUT);
        } else {
            self.is_over = true;
        }
    }

    fn resize(&self, size: &[u8]) {
        if let (true, Some([w0, w1, h0, h1])) = (self.is_terminal, size.first_chunk()) {
            let (columns, rows) = (u16::from_be_bytes([*w0, *w1]), u16::from_be_bytes([*h0, *h1]));
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // A terminal that is gone needs no size.
            let _gone = rustix::termios::tcsetwinsize(&self.to, size);
        }
    }
}

impl Attachments {
    /// Listens among the records of a run. Where that fails nobody can attach, and the container runs all the same.
    pub(super) fn open(run: &Path, input: Option<Input>) -> Self {
        let listener = short(run).and_then(|(_held, path)| UnixListener::bind(path));
        let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener)).ok();
        Self { listener, clients: Vec::new(), input }
    }

    /// What has to be waited for.
    pub(super) fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        polled.extend(self.listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        let room = self.input.as_ref().is_none_or(|input| input.waiting.len() < WAITING_BYTES_MAX);
        for client in &self.clients {
            let reads = if room { PollFlags::IN } else { PollFlags::empty() };
            let writes = if client.waiting.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            polled.push(PollFd::new(&client.socket, reads | writes));
        }
        let waiting = self.input.iter().filter(|input| !input.waiting.is_empty());
        polled.extend(waiting.map(|input| PollFd::new(&input.to, PollFlags::OUT)));
    }

    /// Whether a client has to be waited for before more output is taken from the program.
    pub(super) fn is_full(&self) -> bool {
        self.clients.iter().any(|client| client.since_full.is_some())
    }

    /// Passes on a piece of output.
    pub(super) fn tell(&mut self, kind: u8, bytes: &[u8]) {
        for client in &mut self.clients {
            for piece in bytes.chunks(FRAME_BYTES_MAX) {
                client.waiting.extend(frame(kind, piece));
            }
        }
        self.work();
    }

    /// Does whatever can be done without waiting.
    pub(super) fn work(&mut self) {
        while let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) {
            // One too many is closed at once.
            if self.clients.len() < CLIENTS_MAX && socket.set_nonblocking(true).is_ok() {
                let (waiting, received) = (Vec::new(), Vec::new());
                self.clients.push(Client { socket, waiting, received, has_input: false, since_full: None });
            }
        }
        let mut ended_with_input = false;
        let input = &mut self.input;
        self.clients.retain_mut(|client| {
            let stays = client.read(input) && client.write();
            ended_with_input |= !stays && client.has_input;
            stays
        });
        if let Some(input) = &mut self.input {
            if ended_with_input && input.ends_with_client {
                input.end();
            }
            while !input.waiting.is_empty() {
                match input.to.write(&input.waiting) {
                    Ok(written) => drop(input.waiting.drain(..written)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        // The program reads no more.
                        input.waiting.clear();
                        input.is_over = true;
                    }
                }
            }
        }
        if self.input.as_ref().is_some_and(|input| input.is_over && input.waiting.is_empty()) {
            self.input = None;
        }
    }

    /// Gives clients the last words; the end of the connection tells them the rest.
    pub(super) fn finish(mut self) {
        let until = Instant::now() + FLUSH_BOUND;
        self.listener = None;
        loop {
            self.work();
            let left = until.saturating_duration_since(Instant::now());
            let mut polled: Vec<PollFd<'_>> = Vec::new();
            let waiting = self.clients.iter().filter(|client| !client.waiting.is_empty());
            polled.extend(waiting.map(|client| PollFd::new(&client.socket, PollFlags::OUT)));
            let Ok(left) = Timespec::try_from(left) else { return };
            if polled.is_empty() || rustix::event::poll(&mut polled, Some(&left)).is_ok_and(|ready| ready == 0) {
                return;
            }
        }
    }
}

impl Client {
    /// Takes in what the client says; `false` if it has left or says what nobody understands.
    fn read(&mut self, input: &mut Option<Input>) -> bool {
        let mut piece = [0; 8192];
        while input.as_ref().is_none_or(|input| input.waiting.len() < WAITING_BYTES_MAX) {
            match self.socket.read(&mut piece) {
                Ok(0) => return false,
                Ok(read) => self.received.extend_from_slice(piece.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
            while let Some((kind, length)) = head(&self.received) {
                if length > FRAME_BYTES_MAX {
                    return false;
                }
                let Some(bytes) = self.received.get(HEAD_BYTES..HEAD_BYTES + length) else { break };
                if let Some(input) = input {
                    self.has_input |= kind == INPUT;
                    match kind {
                        INPUT if !input.is_over => input.waiting.extend_from_slice(bytes),
                        // Others may attach after this one, unless the first is to be the only one.
                        INPUT_END if input.ends_with_client => input.end(),
                        SIZE => input.resize(bytes),
                        _ => {}
                    }
                }
                self.received.drain(..HEAD_BYTES + length);
            }
        }
        true
    }

    /// Sends what waits; `false` if the client has left, or does not read for too long.
    fn write(&mut self) -> bool {
        while !self.waiting.is_empty() {
            match self.socket.write(&self.waiting) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        let is_full = self.waiting.len() >= WAITING_BYTES_MAX;
        self.since_full = is_full.then(|| self.since_full.unwrap_or_else(Instant::now));
        self.since_full.is_none_or(|since| since.elapsed() < STUCK_BOUND)
    }
}

fn frame(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

fn head(received: &[u8]) -> Option<(u8, usize)> {
    let [kind, length @ ..] = received.first_chunk::<HEAD_BYTES>()?;
    Some((*kind, usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX)))
}

/// A short path of the socket, for names of sockets have 108 bytes at most; good while the folder is held open.
fn short(run: &Path) -> io::Result<(File, PathBuf)> {
    let folder = File::open(run)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_fd().as_raw_fd()));
    Ok((folder, path))
}

/// A client's end: the program's streams as they are, until it ends.
pub struct Attached {
    /// Its input, if it was asked for; shutting it down is the end of the input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Its errors; none come if it has a terminal.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Takes the size of its terminal, columns first.
    pub resize: mpsc::Sender<(u16, u16)>,
    /// Returns when the program has ended. Dropping it detaches.
    pub end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Attached").field("stdin", &self.stdin.is_some()).finish_non_exhaustive()
    }
}

/// Sizes of a terminal that wait to be sent; only the last counts.
const SIZES_MAX: usize = 4;

/// Attaches to the program whose run is recorded in `run`.
pub async fn attach(run: &Path, stdin: bool) -> Result<Attached, Error> {
    let failed = |source: io::Error| started("an attachment to a container", &source);
    let socket = {
        let (_held, path) = short(run).map_err(failed)?;
        tokio::net::UnixStream::connect(path).await.map_err(failed)?
    };
    let (from, to) = socket.into_split();
    let (stdout, stdout_end) = duplex(WAITING_BYTES_MAX);
    let (stderr, stderr_end) = duplex(WAITING_BYTES_MAX);
    let (input, input_end) = duplex(WAITING_BYTES_MAX);
    let (resize, sizes) = mpsc::channel(SIZES_MAX);
    let end = async move {
        // The end of what the program says is the end; that of the input is not, nor a program that takes no more.
        tokio::select! {
            () = receive(from, stdout_end, stderr_end) => {}
            () = send(to, stdin.then_some(input_end), sizes) => {}
        }
    };
    let stdin = stdin.then(|| Box::new(input) as Box<dyn AsyncWrite + Send + Unpin>);
    Ok(Attached { stdin, stdout: Box::new(stdout), stderr: Box::new(stderr), resize, end: Box::pin(end) })
}

async fn receive(mut from: impl AsyncRead + Unpin, mut stdout: DuplexStream, mut stderr: DuplexStream) {
    let mut head_bytes = [0; HEAD_BYTES];
    while from.read_exact(&mut head_bytes).await.is_ok() {
        let Some((kind, length)) = head(&head_bytes).filter(|(_, length)| *length <= FRAME_BYTES_MAX) else { return };
        let mut bytes = vec![0; length];
        if from.read_exact(&mut bytes).await.is_err() {
            return;
        }
        // Whoever does not listen to one of them may listen to the other.
        match kind {
            OUTPUT => drop(stdout.write_all(&bytes).await),
            ERRORS => drop(stderr.write_all(&bytes).await),
            _ => {}
        }
    }
}

/// Sends input and sizes. Never returns: closing the connection would say that the client has left, and when nobody takes
/// input any more there may still be words to receive.
async fn send(
    mut to: tokio::net::unix::OwnedWriteHalf,
    mut input: Option<DuplexStream>,
    mut sizes: mpsc::Receiver<(u16, u16)>,
) {
    let mut piece = vec![0; FRAME_BYTES_MAX];
    loop {
        let frame = tokio::select! {
            read = read_of(&mut input, &mut piece) => {
                input = input.filter(|_| read > 0);
                let kind = if read > 0 { INPUT } else { INPUT_END };
                frame(kind, piece.get(..read).unwrap_or_default())
            }
            Some((columns, rows)) = sizes.recv() => {
                frame(SIZE, &[columns.to_be_bytes(), rows.to_be_bytes()].concat())
            }
        };
        if to.write_all(&frame).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Bytes read of an input, 0 at its end; never, if there is no input.
async fn read_of(input: &mut Option<DuplexStream>, piece: &mut [u8]) -> usize {
    match input {
        Some(input) => input.read(piece).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
