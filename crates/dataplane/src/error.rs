//! The one error of this crate: which step failed, for whom; the kernel's answer is its source.

use policy::mesh::WorkloadId;

/// A step of enforcement that failed. What it was about refuses everything until a later step succeeds.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel lacks something without which nothing can be enforced.
    #[error("this kernel cannot enforce verdicts: cannot {doing}; `tidegate check` lists what is missing")]
    Kernel {
        /// The step of the self-test.
        doing: &'static str,
        /// What the kernel said.
        source: linux::Error,
    },
    /// The guard of the node namespace could not be laid or changed.
    #[error("cannot {doing} the guard against forged sources in the node namespace")]
    Guard {
        /// `lay`, `open` or `close`.
        doing: &'static str,
        /// What the kernel said.
        source: linux::Error,
    },
    /// A workload could not be attached; it must not be started.
    #[error("cannot attach `{workload}`: cannot {doing}")]
    Attach {
        /// Which workload.
        workload: Box<WorkloadId>,
        /// The step.
        doing: &'static str,
        /// What the kernel said.
        source: linux::Error,
    },
    /// The workload, or another one with one of its addresses, is attached already.
    #[error(
        "cannot attach `{workload}`: `{holder}` holds its name, its link or one of its addresses; detach that first"
    )]
    Taken {
        /// Which workload was to be attached.
        workload: Box<WorkloadId>,
        /// Which one is in the way.
        holder: Box<WorkloadId>,
    },
    /// A verdict table could not be put into force.
    #[error("cannot load the verdict table of `{workload}`")]
    Load {
        /// Which workload.
        workload: Box<WorkloadId>,
        /// What the kernel said.
        source: linux::Error,
    },
    /// Open connections could not be listed or destroyed.
    #[error("cannot judge the open connections of `{workload}` again")]
    Judge {
        /// Which workload.
        workload: Box<WorkloadId>,
        /// What the kernel said.
        source: linux::Error,
    },
    /// Connections that are no longer permitted came back after each round of destroying.
    #[error("{left} connections of `{workload}` that are no longer permitted are still open after {rounds} rounds")]
    StillOpen {
        /// Which workload.
        workload: Box<WorkloadId>,
        /// How many there are.
        left: usize,
        /// How often they were destroyed.
        rounds: usize,
    },
    /// A thread of this crate could not be started or has ended.
    #[error("a worker of the data plane {what}")]
    Worker {
        /// What happened to it.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}
