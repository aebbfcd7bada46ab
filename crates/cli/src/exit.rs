//! How a command ends: exit codes and the one way in which errors are told.

use std::fmt;
use std::process::ExitCode;

use crate::print;

/// Why a command did not end well; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The world did not do what was asked.
    Failure = 1,
    /// The command line was wrong.
    Usage = 64,
    /// A file or an object was wrong.
    BadInput = 65,
    /// The mesh cannot be reached.
    Unreachable = 69,
    /// The answer is no: something was found missing, denied or different.
    Negative = 79,
    /// Whoever reads standard output has left: what a shell says of SIGPIPE.
    ReaderLeft = 141,
}

/// An error and the exit code that tells it to scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// What is told; nothing when there is nobody to tell.
    error: Option<anyhow::Error>,
}

/// What a command returns.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    /// An error that ends with `exit`.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: Some(error.into()) }
    }

    /// An end without a word.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, error: None }
    }

    /// An error said in words.
    pub(crate) fn says(exit: Exit, words: impl fmt::Display) -> Self {
        Self { exit, error: Some(anyhow::anyhow!("{words}")) }
    }

    /// The same with more to say.
    pub(crate) fn adding(self, words: impl fmt::Display) -> Self {
        Self { exit: self.exit, error: self.error.map(|error| anyhow::anyhow!("{error:#}; {words}")) }
    }

    /// Whether it ends with this code.
    pub(crate) fn is(&self, exit: Exit) -> bool {
        self.exit == exit
    }

    /// Tells the error on standard error and returns its exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        if self.error.is_some() {
            print::err(format_args!("{self}"));
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line with its causes: `what: why: deeper why`.
        self.error.as_ref().map_or(Ok(()), |error| write!(f, "error: {error:#}"))
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failure, error: Some(error.into()) }
    }
}

/// Gives an error its exit code where it happens.
pub(crate) trait ExitWith<T> {
    /// Turns the error into a failure with `exit`.
    fn exit_with(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> ExitWith<T> for Result<T, E> {
    fn exit_with(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }
}
