//! Tests of policies: `kind: PolicyTest`, single connections with what must come of them, and `kind: PolicyAssertion`,
//! sentences about all connections (`docs/policy-tests.md`).
//!
//! A file's text is read strictly to suites (`read.rs`, by the tables of `shape.rs`); each item is judged in a mesh
//! (`judge.rs`, `prove.rs`). Not here: files and printing, which are
//! the binary's.

mod judge;
mod prove;
mod read;
pub mod shape;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::yaml::Span;
use policy::address::Block;
use policy::{Answer, Labels, Profile, Reason, SpiffeId};

pub use judge::{Judgement, Result, World, judge};
pub use read::read;

/// The version of both kinds.
pub const API_VERSION: &str = "tidegate.io/v1alpha1";
/// Single connections.
pub const POLICY_TEST: &str = "PolicyTest";
/// Sentences about all connections.
pub const POLICY_ASSERTION: &str = "PolicyAssertion";

/// What a text holds.
#[derive(Clone, Debug, Default)]
pub struct Suites {
    /// Those that could be read, in order.
    pub suites: Vec<Suite>,
    /// What is wrong with the others, in order.
    pub problems: Vec<Problem>,
    /// How many documents of other kinds were passed over.
    pub others: usize,
}

/// Something that is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub span: Span,
    /// What is wrong, and what is right.
    pub message: String,
    /// Whether the document is known to be a test; otherwise it cannot be read at all.
    pub in_test: bool,
}

/// One `PolicyTest` or `PolicyAssertion`.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub span: Span,
    /// The files that it is about, as patterns relative to its own file; none means those that the caller names.
    pub inputs: Vec<String>,
    /// A file with mesh settings, relative to its own file.
    pub mesh_config: Option<String>,
    /// The namespace of objects and names that have none; none means the caller's.
    pub namespace: Option<String>,
    /// What is asked, in order.
    pub items: Vec<Item>,
}

/// One thing that is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its name, unique in its suite; made from the question if the author gave none.
    pub name: String,
    /// Where it begins.
    pub span: Span,
    /// The profiles it is asked for; none means the profile of the mesh.
    pub profiles: Vec<Profile>,
    /// The question.
    pub ask: Ask,
}

/// A question with the answer it must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// What is decided about one connection.
    Case(Case),
    /// What is decided about every connection of a kind.
    Assertion(Assertion),
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who connects.
    pub from: From,
    /// The workload it connects to, as written.
    pub to: String,
    /// The address of that workload, where it matters.
    pub address: Option<IpAddr>,
    /// The workload port.
    pub port: u16,
    /// The server name of the TLS handshake.
    pub server_name: Option<String>,
    /// What external authorizers answer.
    pub authorizers: BTreeMap<String, Answer>,
    /// What must be decided.
    pub expect: Expect,
    /// Why it must be so.
    pub because: Option<Because>,
}

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// Known by what.
    pub who: Who,
    /// The address it comes from, if it is said.
    pub address: Option<IpAddr>,
}

/// By what the client of a case is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A workload, as written.
    Workload(String),
    /// An identity.
    Identity(SpiffeId),
    /// No identity: plaintext.
    Nobody,
}

/// What must be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is permitted.
    Allow,
    /// It is denied.
    Deny,
    /// It depends on HTTP (S-85).
    Depends,
}

impl Expect {
    /// The word in documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Depends => "depends",
        }
    }
}

/// What must be the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// This reason.
    Reason(Reason),
    /// This policy, as `NAMESPACE/NAME`, and this rule of it.
    Policy(String, Option<usize>),
}

/// A sentence about every connection that fits all of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// What must be decided about each of them; never `Depends`.
    pub expect: Expect,
    /// One of these clients; empty means every client.
    pub from: Vec<Client>,
    /// None of these clients.
    pub not_from: Vec<Client>,
    /// To one of these workloads; empty means every workload.
    pub to: Vec<Target>,
    /// On one of these ports; empty means every port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// On none of these ports.
    pub not_ports: Vec<RangeInclusive<u16>>,
}

/// A kind of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// Identities of a namespace, in whatever trust domain.
    Namespace(String),
    /// Identities of a service account: namespace and name.
    ServiceAccount(String, String),
    /// One identity.
    Identity(SpiffeId),
    /// A workload, as written.
    Workload(String),
    /// Addresses.
    Addresses(Block, String),
    /// Whoever has an identity.
    Anybody,
    /// Whoever has none.
    Nobody,
}

/// A kind of workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One, as written.
    Workload(String),
    /// Those of a namespace that have all these labels.
    Labelled {
        /// The namespace; none means every one.
        namespace: Option<String>,
        /// The labels; may be empty.
        labels: Labels,
    },
}
