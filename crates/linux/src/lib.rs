//! System calls: namespaces, links, nftables, sockets, processes.
//!
//! The only crate that may say `unsafe` and that changes kernel state. It knows no pods and no policies: whoever
//! calls it says what to make, it says exactly what the kernel answered.

pub mod bpf;
pub mod caps;
pub mod cgroup;
pub mod diag;
pub mod error;
pub mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod membarrier;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nflog;
pub mod nft;
pub mod pidfd;
pub mod probe;
pub mod process;
pub mod route;
pub mod seccomp;
pub mod sysctl;
pub mod userns;
pub mod within;

pub use error::Error;
