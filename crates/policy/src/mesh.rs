//! The ground state: everything a decision can depend on, as plain values. Nothing here is derived; `compile.rs` derives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::SpiffeId;
use crate::spec::{AuthorizationPolicy, PeerAuthentication};

/// Labels of a workload or of a selector.
pub type Labels = BTreeMap<String, String>;

/// Whether among these labels is each that a selector wants.
pub fn carries(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Everything known about a mesh at one moment.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// Mesh-wide settings.
    pub settings: Settings,
    /// Names of all namespaces.
    pub namespaces: BTreeSet<String>,
    /// All workloads, injected or not.
    pub workloads: Vec<Workload>,
    /// All services; they never change a verdict, only what is said about it.
    pub services: Vec<Service>,
    /// All policies; an unchanged policy should be the same `Arc` as before, so that it is not compiled again.
    pub policies: Vec<Arc<AuthorizationPolicy>>,
    /// All peer authentications.
    pub peer_authentications: Vec<Arc<PeerAuthentication>>,
}

/// Which of Istio's two behaviours applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// As a sidecar proxy decides; the default.
    #[default]
    Sidecar,
    /// As the ambient node proxy decides.
    Ambient,
}

impl Profile {
    /// The word used in settings and documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Ambient => "ambient",
        }
    }
}

/// What proves an identity between two workloads of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// The kernel's word counts as mutual TLS.
    #[default]
    Attested,
    /// Only a certificate counts as mutual TLS.
    Mtls,
}

/// How an external authorizer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// Asked for TCP connections.
    Grpc,
    /// Ignored on TCP (S-74).
    Http,
}

/// Mesh-wide settings that change decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which behaviour applies.
    pub profile: Profile,
    /// The namespace whose policies reach the whole mesh (S-3).
    pub root_namespace: String,
    /// The trust domain of this mesh.
    pub trust_domain: String,
    /// Other names for the trust domain.
    pub trust_domain_aliases: Vec<String>,
    /// External authorizers by name.
    pub providers: BTreeMap<String, ProviderKind>,
    /// May one workload use several external authorizers (S-75).
    pub multiple_custom_providers: bool,
    /// Does the ambient control plane forward dry-run policies (S-73).
    pub ambient_dry_run: bool,
    /// What counts as mutual TLS between workloads of one node.
    pub same_node: SameNode,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profile: Profile::Sidecar,
            root_namespace: "istio-system".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: Vec::new(),
            providers: BTreeMap::new(),
            multiple_custom_providers: false,
            ambient_dry_run: true,
            same_node: SameNode::Attested,
        }
    }
}

/// Names one workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadId {
    /// Its namespace.
    pub namespace: String,
    /// Its name, for a pod the pod's name.
    pub name: String,
}

impl WorkloadId {
    /// Puts the two together.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Names one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PolicyId {
    /// Puts the two together.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One running instance with an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Which one.
    pub id: WorkloadId,
    /// Its labels, which selectors look at.
    pub labels: Labels,
    /// The service account it runs as.
    pub service_account: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Is it injected; only then has it an identity as source and a table as destination.
    pub in_mesh: bool,
}

impl Workload {
    /// The identity that the kernel attests for this workload; `None` outside the mesh.
    pub fn identity(&self, settings: &Settings) -> Option<SpiffeId> {
        if !self.in_mesh {
            return None;
        }
        SpiffeId::new(&settings.trust_domain, &self.id.namespace, &self.service_account)
    }
}

/// A name and virtual address that selects workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Labels of the workloads behind it; empty selects none.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// When it was made, RFC 3339; the oldest service names the protocol of a workload port (S-84).
    pub created: Option<String>,
}

/// One port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, whose beginning may name the protocol.
    pub name: Option<String>,
    /// The protocol named outright.
    pub app_protocol: Option<String>,
    /// The port of the service.
    pub port: u16,
    /// The workload port behind it.
    pub target: u16,
}
