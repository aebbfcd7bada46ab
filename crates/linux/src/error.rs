//! The one error of this crate: what was being done, to what, and what the kernel answered.

use std::io;
use std::path::PathBuf;

/// A change or a question that the kernel did not grant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A network namespace could not be made, opened or entered.
    #[error("cannot {doing}")]
    Netns {
        /// What was being done, with the path where there is one.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel setting below `/proc/sys` could not be read or written.
    #[error("cannot {doing} the kernel setting `{}`", path.display())]
    Sysctl {
        /// `read` or `write`.
        doing: &'static str,
        /// The file below `/proc/sys`.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}
