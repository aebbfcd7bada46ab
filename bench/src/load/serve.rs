//! The server: echo, sink and source, on two threads with a listener each of every kind.
//!
//! The sink counts until the client's half-close and answers with the count, the source sends until then and ends with the
//! count: 8 bytes, little-endian. So both ends know whether all came through.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

/// Threads that serve; the kernel spreads connections over their listeners. Two, as the figures that ours are held against had.
const THREADS: usize = 2;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Events at a time.
const READY_MAX: usize = 512;
/// Bytes that one read of a sink takes.
const SINK_BYTES: usize = 1 << 20;
/// Bytes of one read of an echo, and of one write of a source.
const TURN_BYTES: usize = 256 * 1024;

/// What a listener or a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Echo,
    Sink,
    Source,
}

/// A server that listens.
#[derive(Debug)]
pub(crate) struct Server {
    listeners: Vec<[TcpListener; 3]>,
}

impl Server {
    /// Listens for echo, sink and source; port 0 lets the kernel choose.
    pub(crate) fn bind(addresses: [SocketAddr; 3]) -> Result<Self> {
        let first = listen_all(addresses)?;
        let chosen = [first[0].local_addr()?, first[1].local_addr()?, first[2].local_addr()?];
        let mut listeners = vec![first];
        for _ in 1..THREADS {
            listeners.push(listen_all(chosen)?);
        }
        Ok(Self { listeners })
    }

    /// Where it listens.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> Result<[SocketAddr; 3]> {
        let first = self.listeners.first().context("no listener")?;
        Ok([first[0].local_addr()?, first[1].local_addr()?, first[2].local_addr()?])
    }

    /// Serves until the process ends.
    pub(crate) fn run(self) -> Result<()> {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.listeners.into_iter().map(|own| scope.spawn(move || Turns::begin(own)?.run())).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }
}

fn listen_all(addresses: [SocketAddr; 3]) -> Result<[TcpListener; 3]> {
    let [echo, sink, source] = addresses;
    Ok([listen(echo)?, listen(sink)?, listen(source)?])
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address).with_context(|| format!("listening on {address}"))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// A connection and how far it is.
#[derive(Debug)]
struct Open {
    stream: TcpStream,
    kind: Kind,
    /// Bytes counted.
    bytes: u64,
    /// What is still to be sent before the end, once the client has closed its half.
    rest: Option<Vec<u8>>,
}

/// What becomes of a connection after a turn.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Stays,
    /// Nothing more is read; what is left is sent when there is room.
    Writes,
    Over,
}

/// One thread of the server.
#[derive(Debug)]
struct Turns {
    epoll: OwnedFd,
    listeners: [TcpListener; 3],
    open: HashMap<RawFd, Open>,
    buffer: Vec<u8>,
}

const KINDS: [Kind; 3] = [Kind::Echo, Kind::Sink, Kind::Source];

impl Turns {
    fn begin(listeners: [TcpListener; 3]) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for listener in &listeners {
            epoll::add(&epoll, listener, data(listener.as_raw_fd()), EventFlags::IN)?;
        }
        Ok(Self { epoll, listeners, open: HashMap::new(), buffer: vec![0x5a; SINK_BYTES] })
    }

    fn run(mut self) -> Result<()> {
        let mut ready = Vec::with_capacity(READY_MAX);
        loop {
            ready.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("waiting for connections"),
            }
            for event in &ready {
                let Ok(descriptor) = RawFd::try_from(event.data.u64()) else { continue };
                let listener = self.listeners.iter().position(|one| one.as_raw_fd() == descriptor);
                match listener.and_then(|at| KINDS.get(at)) {
                    Some(kind) => self.accept(*kind)?,
                    None => self.turn(descriptor, event.flags),
                }
            }
        }
    }

    fn accept(&mut self, kind: Kind) -> Result<()> {
        let [echo, sink, source] = &self.listeners;
        let listener = match kind {
            Kind::Echo => echo,
            Kind::Sink => sink,
            Kind::Source => source,
        };
        loop {
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    let stream = TcpStream::from(socket);
                    let wanted = if kind == Kind::Source { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
                    epoll::add(&self.epoll, &stream, data(stream.as_raw_fd()), wanted)?;
                    self.open.insert(stream.as_raw_fd(), Open { stream, kind, bytes: 0, rest: None });
                }
                Err(Errno::AGAIN) => return Ok(()),
                // The client left before it was accepted.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => return Err(error).context("accepting a connection"),
            }
        }
    }

    fn turn(&mut self, descriptor: RawFd, flags: EventFlags) {
        let Self { epoll, open, buffer, .. } = self;
        let Some(one) = open.get_mut(&descriptor) else { return };
        let after = match (&one.rest, one.kind) {
            (Some(_), _) => one.finish(),
            (None, Kind::Echo) => one.echo(buffer),
            (None, Kind::Sink) => one.sink(buffer),
            (None, Kind::Source) => one.source(buffer, flags),
        };
        let goes_on = match after {
            After::Stays => true,
            After::Writes => epoll::modify(epoll, &one.stream, data(descriptor), EventFlags::OUT).is_ok(),
            After::Over => false,
        };
        if !goes_on {
            // Closing takes it out of the epoll set as well.
            open.remove(&descriptor);
        }
    }
}

fn data(descriptor: RawFd) -> EventData {
    EventData::new_u64(u64::try_from(descriptor).unwrap_or(u64::MAX))
}

impl Open {
    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        rustix::net::recv(&self.stream, buffer, rustix::net::RecvFlags::empty()).map(|(_, length)| length)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        rustix::net::send(self.stream.as_fd(), bytes, SendFlags::NOSIGNAL)
    }

    fn echo(&mut self, buffer: &mut [u8]) -> After {
        let Some(turn) = buffer.get_mut(..TURN_BYTES) else { return After::Over };
        match self.receive(turn) {
            Ok(0) => After::Over,
            // A client that does not read what it sent is none of ours: the messages fit the socket's buffer.
            Ok(length) => match turn.get(..length).map(|got| self.send(got)) {
                Some(Ok(sent)) if sent == length => After::Stays,
                _ => After::Over,
            },
            Err(Errno::AGAIN | Errno::INTR) => After::Stays,
            Err(_) => After::Over,
        }
    }

    fn sink(&mut self, buffer: &mut [u8]) -> After {
        match self.receive(buffer) {
            Ok(0) => self.begin_to_finish(),
            Ok(length) => {
                self.bytes += u64::try_from(length).unwrap_or(0);
                After::Stays
            }
            Err(Errno::AGAIN | Errno::INTR) => After::Stays,
            Err(_) => After::Over,
        }
    }

    fn source(&mut self, buffer: &mut [u8], flags: EventFlags) -> After {
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return match self.receive(&mut [0; 64]) {
                Ok(0) => self.begin_to_finish(),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => After::Stays,
                Err(_) => After::Over,
            };
        }
        match buffer.get(..TURN_BYTES).map(|turn| self.send(turn)) {
            Some(Ok(length)) => {
                self.bytes += u64::try_from(length).unwrap_or(0);
                After::Stays
            }
            Some(Err(Errno::AGAIN | Errno::INTR)) => After::Stays,
            _ => After::Over,
        }
    }

    fn begin_to_finish(&mut self) -> After {
        self.rest = Some(self.bytes.to_le_bytes().to_vec());
        self.finish()
    }

    fn finish(&mut self) -> After {
        let Some(rest) = self.rest.take() else { return After::Over };
        match self.send(&rest) {
            Ok(sent) if sent == rest.len() => After::Over,
            Ok(sent) => {
                self.rest = rest.get(sent..).map(<[u8]>::to_vec);
                After::Writes
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                self.rest = Some(rest);
                After::Writes
            }
            Err(_) => After::Over,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;

    use super::Server;

    /// A server on loopback that lives as long as the test's process.
    pub(crate) fn serving() -> [SocketAddr; 3] {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind([any; 3]).unwrap();
        let addresses = server.addresses().unwrap();
        std::thread::spawn(move || server.run());
        addresses
    }
}
