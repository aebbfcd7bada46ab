//! The programs that this binary is when it is called by another name: the test server of the walkthroughs, and an
//! `nc` that ends when its input does. Standard library only and no set-up before them: they start as fast as a
//! program can.

use std::ffi::OsString;
use std::process::ExitCode;

mod nc;
mod ready;
mod tcp_echo;

/// Names of the applets, which are links to the binary in the first directory of a tool box pod's PATH.
pub const NAMES: [&str; 2] = ["nc", "tcp-echo"];

/// Variable that holds the number of a descriptor which an applet closes once it serves.
pub const READY_VARIABLE: &str = "TIDEGATE_READY_FD";

/// Runs the applet of this name, if there is one.
pub fn run(name: &str, arguments: Vec<OsString>) -> Option<ExitCode> {
    let arguments: Vec<String> =
        arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    match name {
        "nc" => Some(nc::main(arguments)),
        "tcp-echo" => Some(tcp_echo::main(&arguments)),
        _ => None,
    }
}
