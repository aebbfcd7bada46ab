//! The whole meaning of authorization, and nothing else: no input or output, no clock, no environment, no threads.
//! Documents become policies (`parse`), a `Mesh` becomes a `Snapshot` (`compile`), a snapshot decides connections (`decide`),
//! explains them (`explain`) and yields verdict tables for the kernel (`table`). Clauses S-nn are those of the semantics specification.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

// The generators of the tests speak of `policy`, also in the tests inside.
#[cfg(test)]
extern crate self as policy;

pub mod address;
pub mod ask;
pub mod compile;
pub mod decide;
pub mod explain;
pub mod finding;
mod hash;
pub mod identity;
mod matcher;
pub mod mesh;
mod mtls;
pub mod parse;
pub mod port;
pub mod record;
pub mod requests;
mod ruleset;
pub mod snapshot;
pub mod space;
pub mod spec;
pub mod table;
pub mod transition;

pub use compile::compile;
pub use decide::{Answer, Connection, Decision, Denial, Permit, Reason};
pub use finding::{Code, FieldPath, Finding, Parsed, Severity};
pub use identity::{Peer, PeerName, SpiffeId};
pub use mesh::{
    Labels, Mesh, PolicyId, Profile, ProviderKind, SameNode, Service, ServicePort, Settings, Workload, WorkloadId,
    carries,
};
pub use record::{Close, Record};
pub use snapshot::{Snapshot, Source, WorkloadState};
pub use spec::{Action, AuthorizationPolicy, Mode, PeerAuthentication};
pub use table::{Entry, TooLarge, Verdict, VerdictTable};
