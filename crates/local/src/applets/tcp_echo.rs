//! `tcp-echo PORT[,PORT..] PREFIX`: answers each line with the prefix, a space and the line.
//!
//! What follows the last line end gets no answer. The connection is closed when the client has closed its side.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;

/// Threads that serve connections at a time: what one pod may make the machine hold in stacks stays small; clients
/// beyond wait in the listen queue.
const CONNECTIONS_MAX: usize = 1024;

/// Bytes of one line: a client that never ends its line must not fill the memory. Longer ones are answered in parts.
const LINE_MAX: u64 = 1 << 20;

pub(super) fn main(arguments: &[String]) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say(&mut io::stderr(), &format!("tcp-echo: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &[String]) -> Result<(), String> {
    let [ports, prefix] = arguments else {
        return Err("usage: tcp-echo PORT[,PORT..] PREFIX".to_owned());
    };
    let mut listeners = Vec::new();
    for port in ports.split(',') {
        let number: u16 = port.trim().parse().map_err(|_| format!("`{port}` is no port; 1 to 65535 are"))?;
        // One socket serves both families, as Linux's default has it.
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, number));
        let listener = TcpListener::bind(address)
            .or_else(|_| TcpListener::bind(("0.0.0.0", number)))
            .map_err(|error| format!("cannot listen on port {number}: {error}"))?;
        say(&mut io::stdout(), &format!("listening on {number}, prefix: {prefix}"));
        listeners.push(listener);
    }
    super::ready::tell();
    let prefix: Arc<str> = Arc::from(prefix.as_str());
    let slots = Arc::new(Slots::default());
    std::thread::scope(|scope| {
        for listener in &listeners {
            let (prefix, slots) = (Arc::clone(&prefix), Arc::clone(&slots));
            scope.spawn(move || accept(listener, &prefix, &slots));
        }
    });
    Ok(())
}

/// Serves one listener for as long as it accepts.
fn accept(listener: &TcpListener, prefix: &Arc<str>, slots: &Arc<Slots>) {
    loop {
        slots.take();
        let (connection, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                // The client has left before it was served, or a bound of the system is reached: go on with the next.
                slots.give();
                say(&mut io::stderr(), &format!("cannot accept a connection: {error}"));
                continue;
            }
        };
        say(&mut io::stdout(), &format!("request from {peer}"));
        let (prefix, own) = (Arc::clone(prefix), Arc::clone(slots));
        let served = std::thread::Builder::new().spawn(move || {
            if let Err(error) = echo(&connection, &prefix) {
                say(&mut io::stderr(), &format!("connection from {peer}: {error}"));
            }
            own.give();
        });
        if let Err(error) = served {
            slots.give();
            say(&mut io::stderr(), &format!("cannot serve {peer}: {error}"));
        }
    }
}

fn echo(connection: &TcpStream, prefix: &str) -> io::Result<()> {
    let mut input = BufReader::new(io::Read::take(connection, LINE_MAX));
    let mut line = Vec::new();
    loop {
        line.clear();
        input.get_mut().set_limit(LINE_MAX);
        if input.read_until(b'\n', &mut line)? == 0 || !line.ends_with(b"\n") {
            return Ok(());
        }
        let mut answer = Vec::with_capacity(prefix.len() + 1 + line.len());
        answer.extend_from_slice(prefix.as_bytes());
        answer.push(b' ');
        answer.extend_from_slice(&line);
        (&*connection).write_all(&answer)?;
    }
}

/// How many more connections may be served.
#[derive(Default)]
struct Slots {
    used: std::sync::Mutex<usize>,
    freed: std::sync::Condvar,
}

impl Slots {
    fn take(&self) {
        let used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut used = self
            .freed
            .wait_while(used, |used| *used >= CONNECTIONS_MAX)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *used += 1;
    }

    fn give(&self) {
        let mut used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *used = used.saturating_sub(1);
        self.freed.notify_one();
    }
}

/// Writes a line; a reader that has left does not matter.
fn say(to: &mut dyn Write, line: &str) {
    drop(writeln!(to, "{line}"));
}
