//! A barrier against everything the kernel was in the middle of.

use rustix::thread::{MembarrierCommand, membarrier};

use crate::Error;

/// Returns when every packet that was inside the network stack when it was called has left it.
///
/// The stack handles a packet between two read-side marks of the kernel's RCU; this call waits until all marks that
/// stood at its beginning are gone. A packet that was compared with an old table therefore has left its socket behind
/// (or none) by then, and a listing made afterwards shows it.
pub fn global() -> Result<(), Error> {
    membarrier(MembarrierCommand::Global).map_err(|errno| Error::Membarrier { source: errno.into() })
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_kernel_offers_the_barrier() {
        super::global().unwrap();
    }
}
