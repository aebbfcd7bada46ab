//! Where the binary prints. A reader may leave at any time (`tidegate status | head -1`), and a full disk may take no
//! more of a log: neither may end a mesh, so nothing here panics.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use crate::exit::{Exit, Failure, Outcome};

/// Prints to standard output, at once. A reader who has left ends the command without a word, as SIGPIPE would.
pub(crate) fn out(text: Arguments<'_>) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::silent(Exit::ReaderLeft)),
        Err(error) => Err(Failure::says(Exit::Failure, format!("writing standard output: {error}"))),
    }
}

/// Prints a line to standard error.
pub(crate) fn err(text: Arguments<'_>) {
    crate::log::write(format!("{text}\n").as_bytes());
}
