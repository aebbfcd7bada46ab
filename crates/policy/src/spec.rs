//! Policy as written, read once at the edge: what a document says, not yet what it means for a profile (that is `compile/rule.rs`).
//! A field that is absent or empty is not in the list at all, and `Values` cannot be empty: "empty means any" cannot be written down.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::Block;
use crate::mesh::{Labels, PolicyId, carries};

/// What an AuthorizationPolicy does with the connections it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Permits; its presence turns on default deny.
    #[default]
    Allow,
    /// Refuses.
    Deny,
    /// Marks.
    Audit,
    /// Asks an external authorizer.
    Custom,
}

impl Action {
    /// The word used in documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// An AuthorizationPolicy as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub id: Arc<PolicyId>,
    /// Which workloads.
    pub scope: Scope,
    /// What it does.
    pub action: Action,
    /// The external authorizer of a CUSTOM policy.
    pub provider: Option<String>,
    /// Evaluated and recorded, not enforced (`istio.io/dry-run`).
    pub trial: bool,
    /// The rules in the order of the document.
    pub rules: Vec<Rule>,
}

/// Which workloads of its namespace (or of the mesh, from the root namespace) a policy reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// No selector: all.
    #[default]
    All,
    /// Those with all these labels. No labels at all: everything in the sidecar profile, nothing in ambient (S-27).
    Labels(Labels),
    /// `targetRef` or `targetRefs`: gateways only, never a workload (S-25).
    Targets,
}

impl Scope {
    /// Whether it reaches workloads with these labels, in the namespaces where it reaches any. That no labels at all reach nothing
    /// in ambient is the profile's word.
    pub fn selects(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Labels(wanted) => carries(labels, wanted),
            Self::Targets => false,
        }
    }
}

/// `from` and `to` and `when`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// One of these sources, if there are any.
    pub from: Vec<Entry>,
    /// One of these operations, if there are any.
    pub to: Vec<Entry>,
    /// All of these conditions.
    pub when: Vec<Entry>,
}

/// One source, one operation or one condition: all of its matches must hold. A condition has at most one match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The fields that are written and not empty.
    pub matches: Vec<Match>,
}

/// One attribute with its wanted and unwanted values; a `Match` with neither is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// What is looked at.
    pub attribute: Attribute,
    /// The name as written: `ports`, or the key of a condition.
    pub written: Arc<str>,
    /// At least one must match.
    pub wanted: Option<Values>,
    /// None may match.
    pub unwanted: Option<Values>,
}

/// A list of values that is never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values(Vec<Value>);

impl Values {
    /// `None` for an empty list: that is an absent field.
    pub fn new(values: Vec<Value>) -> Option<Self> {
        if values.is_empty() { None } else { Some(Self(values)) }
    }

    /// The values, at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, Value> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Values {
    type Item = &'a Value;
    type IntoIter = std::slice::Iter<'a, Value>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One value, read by the type of its attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A pattern or name; its meaning depends on attribute and profile.
    Text(Arc<str>),
    /// A port, and how it was written.
    Port(u16, Arc<str>),
    /// An address block, and how it was written.
    Block(Block, Arc<str>),
    /// Text that is not what the attribute wants; only in objects that bypassed admission (S-47, S-48).
    Unreadable(Arc<str>),
}

impl Value {
    /// As written.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Port(_, text) | Self::Block(_, text) | Self::Unreadable(text) => text,
        }
    }
}

impl Value {
    /// The port, if it is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Port(port, _) => Some(*port),
            Self::Text(_) | Self::Block(..) | Self::Unreadable(_) => None,
        }
    }

    /// The address block, if it is one.
    pub fn block(&self) -> Option<Block> {
        match self {
            Self::Block(block, _) => Some(*block),
            Self::Text(_) | Self::Port(..) | Self::Unreadable(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What a match looks at, whether written as a field or as the key of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// `principals`, `source.principal`.
    Principal,
    /// `namespaces`, `source.namespace`.
    Namespace,
    /// `serviceAccounts`, `source.serviceAccount`.
    ServiceAccount,
    /// `trustDomains`, `source.trustDomain`.
    TrustDomain,
    /// `ipBlocks`, `source.ip`.
    SourceIp,
    /// `remoteIpBlocks`, `remote.ip`.
    RemoteIp,
    /// `destination.ip`.
    DestinationIp,
    /// `ports`, `destination.port`.
    Port,
    /// `connection.sni`.
    ServerName,
    /// `experimental.envoy.filters.A[B]`.
    Metadata,
    /// Anything that only HTTP has: hosts, methods, paths, requestPrincipals, `request.*`.
    Http,
    /// The same, and `remote.ip`, where the port carries HTTP: not known before the request comes. No document is read as this.
    Request,
    /// A condition key that nobody knows; only in objects that bypassed admission.
    Unknown,
}

/// A PeerAuthentication as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Namespace and name.
    pub id: Arc<PolicyId>,
    /// Labels of the workloads; empty means the namespace, or the mesh from the root namespace.
    pub selector: Labels,
    /// The mode asked for.
    pub mode: Mode,
    /// Modes of single workload ports.
    pub ports: BTreeMap<u16, Mode>,
    /// `creationTimestamp`, RFC 3339 in UTC: the oldest of a level wins (S-77).
    pub created: Option<String>,
}

/// A mutual TLS mode as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// As the level above.
    #[default]
    Unset,
    /// Mutual TLS is not terminated.
    Disable,
    /// Both are accepted.
    Permissive,
    /// Only mutual TLS.
    Strict,
}
