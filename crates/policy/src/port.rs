//! What a workload port carries (section 13 of the semantics): it follows from the services in front of it, and changes no verdict
//! that is enforced here, where everything is TCP. It changes what may be said about a verdict before it is enforced elsewhere.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mesh::{Mesh, Profile, ProviderKind, Service, ServicePort, Settings, Workload, carries};
use crate::spec::{Attribute, AuthorizationPolicy, Entry};

/// Ports that are TCP though nobody says so (S-84): the server speaks first there, and waiting for the client would hang.
const SERVER_FIRST_PORTS: [u16; 4] = [25, 53, 3306, 27017];

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carries {
    /// Bytes that nobody looks at.
    Tcp,
    /// HTTP: Istio's HTTP engine decides there, request by request.
    Http,
    /// HTTP if the first bytes are HTTP, else TCP.
    Detected,
}

impl Carries {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Detected => "detected",
        }
    }
}

/// A workload port, and who says what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortClass {
    /// What it carries.
    pub carries: Carries,
    /// The service that says so; `None` where no service has this port, or none is asked.
    pub service: Option<String>,
    /// How it says so: `name http-web`, `appProtocol grpc`, or by saying nothing.
    pub said: Option<String>,
}

/// The class of a port of a workload. In the ambient profile everything is TCP (S-86).
pub fn class_of(mesh: &Mesh, workload: &Workload, port: u16) -> PortClass {
    class(&mesh.services, &mesh.settings, workload, port)
}

/// The same by the services of a mesh and its settings alone.
pub(crate) fn class(services: &[Service], settings: &Settings, workload: &Workload, port: u16) -> PortClass {
    if settings.profile == Profile::Ambient {
        return PortClass { carries: Carries::Tcp, service: None, said: None };
    }
    let mut fronts: Vec<(&Service, &ServicePort)> = services
        .iter()
        .filter(|service| selects(service, workload))
        .filter_map(|service| Some((service, service.ports.iter().find(|one| one.target == port)?)))
        .collect();
    // S-84: the oldest has the word. Times are RFC 3339 in UTC, so text order is time order; manifests have none.
    fronts.sort_by_key(|(service, _)| (service.created.is_none(), &service.created, &service.name));
    match fronts.first() {
        Some((service, front)) => PortClass {
            carries: declared(front),
            service: Some(service.name.clone()),
            said: match (&front.app_protocol, &front.name) {
                (Some(protocol), _) => Some(format!("appProtocol {protocol}")),
                (None, Some(name)) => Some(format!("name {name}")),
                (None, None) => None,
            },
        },
        None => PortClass { carries: Carries::Detected, service: None, said: None }, // S-85
    }
}

fn selects(service: &Service, workload: &Workload) -> bool {
    service.namespace == workload.id.namespace
        && !service.selector.is_empty()
        && carries(&workload.labels, &service.selector)
}

/// What the port of a service declares (S-84).
pub fn declared(port: &ServicePort) -> Carries {
    let from_name = || port.name.as_deref().and_then(|name| name.split('-').next());
    let word = port.app_protocol.as_deref().or_else(from_name).unwrap_or_default().to_ascii_lowercase();
    match word.as_str() {
        "tcp" | "tls" | "https" | "mongo" | "redis" | "mysql" | "kubernetes.io/wss" => Carries::Tcp,
        // `grpc-web` is a word of `appProtocol` alone: of a name only what stands before the first dash is read.
        "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" | "kubernetes.io/h2c" | "kubernetes.io/ws" => {
            Carries::Http
        }
        _ if SERVER_FIRST_PORTS.contains(&port.port) => Carries::Tcp,
        _ => Carries::Detected,
    }
}

/// The mesh as the HTTP engine reads it: what only a request can tell is there, and not known before the request comes.
pub(crate) fn as_http(mesh: &Mesh) -> Mesh {
    let mut mesh = mesh.clone();
    for provider in mesh.settings.providers.values_mut() {
        *provider = ProviderKind::Grpc; // S-74: on HTTP, providers of both kinds are asked
    }
    for policy in &mut mesh.policies {
        if looks_at_requests(policy) {
            *policy = Arc::new(with_requests(policy));
        }
    }
    mesh
}

/// Whether a policy names anything that only a request can tell.
pub(crate) fn looks_at_requests(policy: &AuthorizationPolicy) -> bool {
    entries(policy).flat_map(|entry| &entry.matches).any(|one| is_of_request(one.attribute))
}

fn entries(policy: &AuthorizationPolicy) -> impl Iterator<Item = &Entry> {
    policy.rules.iter().flat_map(|rule| rule.from.iter().chain(&rule.to).chain(&rule.when))
}

/// S-58: it is on TCP that the remote address is the peer's; of a request it may be what a header says.
fn is_of_request(attribute: Attribute) -> bool {
    matches!(attribute, Attribute::Http | Attribute::RemoteIp)
}

pub(crate) fn with_requests(policy: &AuthorizationPolicy) -> AuthorizationPolicy {
    let mut policy = policy.clone();
    for rule in &mut policy.rules {
        let entries = rule.from.iter_mut().chain(&mut rule.to).chain(&mut rule.when);
        for found in entries.flat_map(|entry| &mut entry.matches).filter(|found| is_of_request(found.attribute)) {
            found.attribute = Attribute::Request;
        }
    }
    policy
}
