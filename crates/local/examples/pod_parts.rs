//! The parts of pods and the applets alone, for the tests of this crate: what the binary does first.

use std::process::ExitCode;

fn main() -> ExitCode {
    local::entry(std::env::args_os()).unwrap_or(ExitCode::FAILURE)
}
