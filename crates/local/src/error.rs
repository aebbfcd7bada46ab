//! The one error of this crate.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the local cluster could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {doing}")]
    Kernel {
        /// What was being done.
        doing: String,
        /// What the kernel answered.
        source: linux::Error,
    },
    /// A file below the run directory could not be read or written.
    #[error("cannot {doing} `{}`", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No block of addresses is free.
    #[error(
        "no free block in 10.0.0.0/8: the host's {routes} routes cover every 10.x.0.0/16; remove one that is not needed (`ip route`)"
    )]
    NoFreeRange {
        /// How many routes the host has.
        routes: usize,
    },
    /// Every pod address is in use or resting.
    #[error("all {size} pod addresses are taken: {used} in use, {resting} resting after use{}; delete pods or wait", next_free(*free_in))]
    NoFreeAddress {
        /// How many addresses there are.
        size: u32,
        /// How many pods hold one.
        used: usize,
        /// How many were given back and are not proven gone from every table.
        resting: usize,
        /// When the first of these is free again.
        free_in: Option<Duration>,
    },
    /// DNS cannot be served.
    #[error("cannot serve DNS on {address}")]
    Dns {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A pod's uid cannot be the name of a file.
    #[error("`{uid}` is no pod uid: at most 64 letters, digits and dashes are needed")]
    PodUid {
        /// What was given.
        uid: String,
    },
    /// A pod or a container could not be started, entered or ended.
    #[error("cannot {doing}: {why}")]
    Container {
        /// What was being done.
        doing: String,
        /// Why not, in the words of the process that tried.
        why: String,
    },
    /// An image cannot be used, or what is to become one.
    #[error("`{what}`: {why}")]
    Image {
        /// Its name, or the file that it was to come from.
        what: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A mesh id is not 8 hexadecimal digits.
    #[error("`{text}` is no mesh id: 8 hexadecimal digits are needed")]
    MeshId {
        /// What was given.
        text: String,
    },
}

fn next_free(free_in: Option<Duration>) -> String {
    free_in.map_or_else(String::new, |wait| format!(" (the next is free in {} s)", wait.as_secs() + 1))
}

/// Says what was being done when the kernel refused.
pub(crate) fn doing<T>(what: impl Into<String>, outcome: Result<T, linux::Error>) -> Result<T, Error> {
    outcome.map_err(|source| Error::Kernel { doing: what.into(), source })
}
