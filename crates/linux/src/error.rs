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
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket ({protocol:?})")]
    NetlinkOpen {
        /// The family.
        protocol: crate::netlink::Protocol,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Sending to or reading from a netlink socket failed.
    #[error("netlink ({protocol:?}): cannot {doing}")]
    Netlink {
        /// The family.
        protocol: crate::netlink::Protocol,
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program for packets, or a map of one, could not be made, changed or put in its place.
    #[error("cannot {doing} (eBPF)")]
    Bpf {
        /// What was being done, with the kernel's words where it had any.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel offers no barrier for packets in flight.
    #[error(
        "cannot wait for packets in flight (membarrier); a kernel with CONFIG_MEMBARRIER and without `nohz_full` is needed"
    )]
    Membarrier {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a request; of a transaction nothing has taken effect.
    #[error("the kernel refused a request ({protocol:?}{}){}", which(*message), said(words))]
    NetlinkRefused {
        /// The family.
        protocol: crate::netlink::Protocol,
        /// In a transaction: which message, counted from 0, and its kind.
        message: Option<(usize, u16)>,
        /// The kernel's own words, if it had any.
        words: String,
        /// The number it answered with.
        source: io::Error,
    },
    /// A process could not do something to itself or to another one.
    #[error("cannot {doing}")]
    Process {
        /// What was being done.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A mount could not be made or changed.
    #[error("cannot {doing} `{}`", path.display())]
    Mount {
        /// What was being done.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A group of processes could not be made, bounded or removed.
    #[error("cannot {doing} `{}`", path.display())]
    Cgroup {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file below a directory of a user's could not be opened, made or given away.
    #[error("cannot {doing} `{}`", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The filter of system calls could not be built or installed.
    #[error("cannot set up the filter of system calls; a kernel with CONFIG_SECCOMP_FILTER is needed")]
    Seccomp {
        /// The filter library's answer.
        source: seccompiler::Error,
    },
}

impl Error {
    /// The error number of the kernel, where there is one.
    pub fn errno(&self) -> Option<i32> {
        std::error::Error::source(self)
            .and_then(|source| source.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error)
    }
}

/// An error with all its causes, on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn which(message: Option<(usize, u16)>) -> String {
    message.map_or_else(String::new, |(index, kind)| format!(", message {index} of kind {kind:#x}"))
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn causes_follow_on_the_same_line() {
        let source = std::io::Error::from_raw_os_error(libc::EPERM);
        let plain = super::Error::Process { doing: "name the host of a pod".to_owned(), source };
        assert_eq!(super::with_causes(&plain), "cannot name the host of a pod: Operation not permitted (os error 1)");
    }
}
