//! The parent of a pod or of a container: a child of this process, or one that an earlier daemon started.

use std::io;
use std::os::fd::AsFd;

use linux::pidfd::PidFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

/// A process whose end is waited for. Dropping it ends nothing.
#[derive(Debug)]
pub(super) enum Parent {
    /// Started here.
    Own(Child),
    /// Started by a daemon before this one.
    Adopted(PidFd),
}

impl Parent {
    /// Returns when it has ended.
    pub(super) async fn wait(&mut self) -> io::Result<()> {
        match self {
            Self::Own(child) => child.wait().await.map(drop),
            Self::Adopted(process) => {
                let handle = process.as_fd().try_clone_to_owned()?;
                #[expect(
                    deprecated,
                    reason = "the replacement is unsafe; an `OwnedFd` keeps its descriptor open as that demands"
                )]
                let handle = AsyncFd::with_interest(handle, Interest::READABLE)?;
                handle.readable().await.map(drop)
            }
        }
    }
}
