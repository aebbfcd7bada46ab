//! `nc HOST PORT`: standard input to the connection, the connection to standard output.
//!
//! When the input ends the sending side is closed and reading goes on until the peer closes, so that a question sent
//! through a pipe gets its answer and the command ends.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Read at a time: a page-sized pipe's worth.
const CHUNK: usize = 65_536;

const USAGE: &str = "usage: nc [-46uvz] [-w SECONDS] HOST PORT\n       nc -l [-46uv] [-w SECONDS] [-p] PORT";

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "the switches of a command line are independent of one another")]
struct Options {
    listen: bool,
    udp: bool,
    only_connect: bool,
    verbose: bool,
    family: Option<Family>,
    wait: Option<Duration>,
    port: Option<u16>,
    rest: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

pub(super) fn main(arguments: Vec<String>) -> ExitCode {
    match parse(arguments).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

fn complain(message: &str) {
    // A reader of the errors who has left does not matter.
    drop(writeln!(io::stderr(), "nc: {message}"));
}

fn parse(arguments: Vec<String>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let letters = match argument.strip_prefix('-') {
            Some(letters) if !letters.is_empty() => letters.to_owned(),
            _ => {
                options.rest.push(argument);
                continue;
            }
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            match letter {
                'l' => options.listen = true,
                'u' => options.udp = true,
                'z' => options.only_connect = true,
                'v' => options.verbose = true,
                '4' => options.family = Some(Family::V4),
                '6' => options.family = Some(Family::V6),
                // Names are looked up by the system; numbers need no look-up: nothing to do.
                'n' => {}
                'w' | 'p' => {
                    let attached: String = letters.by_ref().collect();
                    let text = if attached.is_empty() { arguments.next() } else { Some(attached) };
                    let text = text.ok_or_else(|| format!("-{letter} needs a number\n{USAGE}"))?;
                    if letter == 'p' {
                        options.port = Some(port(&text)?);
                    } else {
                        let seconds: u64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
                        options.wait = (seconds > 0).then(|| Duration::from_secs(seconds));
                    }
                }
                other => return Err(format!("there is no option -{other}\n{USAGE}")),
            }
        }
    }
    Ok(options)
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|&port| port > 0).ok_or_else(|| format!("bad port `{text}`; 1 to 65535 are good"))
}

fn run(options: &Options) -> Result<(), String> {
    if options.listen {
        return listen(options);
    }
    let [host, port_text] = options.rest.as_slice() else { return Err(USAGE.to_owned()) };
    let number = port(port_text)?;
    let found = (host.as_str(), number).to_socket_addrs().map_err(|_| format!("bad address '{host}'"))?;
    let addresses: Vec<SocketAddr> = found.filter(|address| wanted(address.ip(), options.family)).collect();
    if options.udp {
        return udp(host, &addresses, options);
    }
    let connection = connect(host, &addresses, options)?;
    if options.verbose {
        drop(writeln!(io::stderr(), "{host} ({}) open", peer(&connection)));
    }
    if options.only_connect { Ok(()) } else { converse(connection, options.wait) }
}

fn wanted(address: IpAddr, family: Option<Family>) -> bool {
    match family {
        None => true,
        Some(Family::V4) => address.is_ipv4(),
        Some(Family::V6) => address.is_ipv6(),
    }
}

fn connect(host: &str, addresses: &[SocketAddr], options: &Options) -> Result<TcpStream, String> {
    let mut outcome = Err(format!("bad address '{host}'"));
    for address in addresses {
        let attempt =
            options.wait.map_or_else(|| TcpStream::connect(address), |wait| TcpStream::connect_timeout(address, wait));
        match attempt {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                outcome = Err(format!("can't connect to remote host ({}): {}", address.ip(), plain(&error)));
            }
        }
    }
    outcome
}

fn listen(options: &Options) -> Result<(), String> {
    let number = match (options.port, options.rest.last()) {
        (Some(number), _) => number,
        (None, Some(text)) => port(text)?,
        (None, None) => return Err(format!("-l needs a port\n{USAGE}")),
    };
    let any = if options.family == Some(Family::V4) { "0.0.0.0" } else { "::" };
    let failed = |error: io::Error| format!("can't listen on port {number}: {}", plain(&error));
    if options.udp {
        let socket = UdpSocket::bind((any, number)).map_err(failed)?;
        return hear(&socket, options);
    }
    let listener = TcpListener::bind((any, number)).map_err(failed)?;
    let (connection, from) = listener.accept().map_err(|error| format!("accept: {}", plain(&error)))?;
    drop(listener);
    if options.verbose {
        drop(writeln!(io::stderr(), "connect from {from}"));
    }
    converse(connection, options.wait)
}

/// Datagrams of the first that sends one, until `-w` says that none comes any more; its input is the answer to the first.
fn hear(socket: &UdpSocket, options: &Options) -> Result<(), String> {
    let read = |error: io::Error| format!("read error: {}", plain(&error));
    let mut chunk = vec![0; CHUNK];
    let (mut length, from) = socket.recv_from(&mut chunk).map_err(read)?;
    if options.verbose {
        drop(writeln!(io::stderr(), "connect from {from}"));
    }
    socket.connect(from).map_err(read)?;
    let answering = socket.try_clone().map_err(read)?;
    // Not joined: whoever has nothing to say is not waited for.
    let answer = std::thread::Builder::new().spawn(move || {
        let mut answer = vec![0; CHUNK];
        while let Ok(length @ 1..) = io::stdin().lock().read(&mut answer) {
            drop(answering.send(answer.get(..length).unwrap_or_default()));
        }
    });
    answer.map_err(|error| format!("start a thread: {}", plain(&error)))?;
    socket.set_read_timeout(options.wait).map_err(read)?;
    loop {
        let heard = chunk.get(..length).unwrap_or_default();
        let mut output = io::stdout().lock();
        output.write_all(heard).and_then(|()| output.flush()).map_err(|error| plain(&error))?;
        length = match socket.recv(&mut chunk) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(()),
            Err(error) => return Err(read(error)),
        };
    }
}

/// Both directions at once; ends when the peer has closed.
fn converse(connection: TcpStream, wait: Option<Duration>) -> Result<(), String> {
    connection.set_read_timeout(wait).map_err(|error| format!("set a bound: {}", plain(&error)))?;
    let sending = connection.try_clone().map_err(|error| format!("clone: {}", plain(&error)))?;
    let closing = connection.try_clone().map_err(|error| format!("clone: {}", plain(&error)))?;
    let failure = Arc::new(Mutex::new(None));
    let told = Arc::clone(&failure);
    // Not joined: when the peer has closed, nobody waits for more input.
    let sender = std::thread::Builder::new().spawn(move || send(sending, &told));
    sender.map_err(|error| format!("start a thread: {}", plain(&error)))?;
    receive(connection)?;
    // A reset is told once, to whichever side asks first: if the sender is just hearing it, wait for its word. Should
    // it hang in a write instead, closing ends that.
    let failure = failure.try_lock().or_else(|_| {
        drop(closing.shutdown(Shutdown::Both));
        failure.lock()
    });
    match failure.unwrap_or_else(PoisonError::into_inner).take() {
        Some(message) => Err(message),
        None => Ok(()),
    }
}

fn receive(mut connection: TcpStream) -> Result<(), String> {
    let mut output = io::stdout().lock();
    let mut chunk = vec![0; CHUNK];
    loop {
        match connection.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let read = chunk.get(..length).unwrap_or_default();
                output
                    .write_all(read)
                    .and_then(|()| output.flush())
                    .map_err(|error| format!("write error: {}", plain(&error)))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err("timed out".to_owned());
            }
            Err(error) => return Err(format!("read error: {}", plain(&error))),
        }
    }
}

fn send(mut connection: TcpStream, failure: &Mutex<Option<String>>) {
    let mut input = io::stdin().lock();
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                complain(&format!("read error: {}", plain(&error)));
                break;
            }
        };
        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = connection.write_all(chunk.get(..length).unwrap_or_default()) {
            // The peer no longer reads, but may still speak: that is no failure while it does.
            if error.kind() != io::ErrorKind::BrokenPipe {
                *failure = Some(format!("write error: {}", plain(&error)));
            }
            return;
        }
    }
    // The peer may have gone meanwhile: the reading side says so.
    drop(connection.shutdown(Shutdown::Write));
}

/// One datagram per piece of input, one answer to the last of them where `-w` says how long to wait for it.
fn udp(host: &str, addresses: &[SocketAddr], options: &Options) -> Result<(), String> {
    let address = addresses.first().ok_or_else(|| format!("bad address '{host}'"))?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let failed = |error: io::Error| format!("can't connect to remote host ({}): {}", address.ip(), plain(&error));
    let socket = UdpSocket::bind(any).map_err(failed)?;
    socket.connect(address).map_err(failed)?;
    let mut input = io::stdin().lock();
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = input.read(&mut chunk).map_err(|error| format!("read error: {}", plain(&error)))?;
        if length == 0 {
            break;
        }
        socket
            .send(chunk.get(..length).unwrap_or_default())
            .map_err(|error| format!("write error: {}", plain(&error)))?;
    }
    if options.wait.is_none() {
        return Ok(());
    }
    socket.set_read_timeout(options.wait).map_err(failed)?;
    match socket.recv(&mut chunk) {
        Ok(length) => io::stdout().write_all(chunk.get(..length).unwrap_or_default()).map_err(|error| plain(&error)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(()),
        Err(error) => Err(format!("read error: {}", plain(&error))),
    }
}

fn peer(connection: &TcpStream) -> String {
    connection.peer_addr().map_or_else(|_| "gone".to_owned(), |address| address.to_string())
}

/// The system's words without the number that the standard library appends.
fn plain(error: &dyn Display) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or_else(|| text.clone(), |(words, _)| words.to_owned())
}
