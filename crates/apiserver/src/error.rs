//! Why the server could not start or store.

use std::io;
use std::path::PathBuf;

/// What went wrong, named by what was being done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory could not be made.
    #[error("cannot make the data directory `{}`; choose one that you may write to with --data-dir", path.display())]
    MakeDataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("the store `{}` is in use by another process; stop that one first, or choose another data directory", path.display())]
    LockedStore {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error("the store `{}` is damaged: {why}; it was left as it is: put a copy back in its place, or move it away to start empty", path.display())]
    CorruptStore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer program wrote the file.
    #[error("the store `{}` has format {found}, this program knows format {known}; run the newer program that wrote it, or choose another data directory", path.display())]
    NewerStore {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// A write that failed reached the disk all the same.
    #[error("the store `{}` holds a write that was reported as failed; start the server again to go on from what it holds", path.display())]
    AheadStore {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be opened.
    #[error("cannot open the store `{}`; look at its rights and at the disk", path.display())]
    OpenStore {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A transaction did not reach the disk.
    #[error("cannot write the store `{}` ({source}); look for free space and at the disk", path.display())]
    WriteStore {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// The thread that writes could not be started.
    #[error("cannot start the thread that writes the store; look at the limits on threads and memory")]
    StartWriter {
        /// Why.
        source: io::Error,
    },
    /// Keys or certificates could not be made.
    #[error("cannot make the server's certificates")]
    MakeCertificates {
        /// Why.
        source: rcgen::Error,
    },
    /// Keys or certificates could not be read or written.
    #[error("cannot read or write `{}`; look at its rights, or move it away to have it made anew", path.display())]
    KeepCredentials {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Kept keys or certificates are not usable.
    #[error("the credentials in `{}` are damaged; move that folder away to have them made anew, and fetch the kubeconfig again", path.display())]
    UseCredentials {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random {
        /// Why.
        source: getrandom::Error,
    },
    /// The namespaces that always exist could not be stored.
    #[error("cannot store the namespace `{name}`: {status}")]
    Bootstrap {
        /// Which one.
        name: String,
        /// The answer.
        status: api::Status,
    },
}
