//! Whether the ports that a rule is for carry TCP (S-84 to S-86): what is said of HTTP fields is said of TCP ports.

use std::collections::BTreeSet;

use policy::port::{Carries, declared};
use policy::spec::{Attribute, AuthorizationPolicy, Rule, Scope};
use policy::{Service, carries};

use super::Pass;

/// What is known of the ports that a rule is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ports {
    /// Ports that carry TCP for certain.
    pub(super) tcp: BTreeSet<u16>,
    /// Whether there are ports that carry HTTP, or whatever their first bytes say.
    pub(super) other: bool,
    /// Whether the rule names its ports.
    pub(super) named: bool,
}

impl Ports {
    /// Whether nothing at all is known.
    pub(super) fn unknown(&self) -> bool {
        self.tcp.is_empty() && !self.other
    }

    /// `port 9000`, `ports 9000 and 9001`.
    pub(super) fn in_words(&self) -> String {
        let ports: Vec<String> = self.tcp.iter().map(u16::to_string).collect();
        match ports.as_slice() {
            [one] => format!("port {one}"),
            [all @ .., last] => format!("ports {} and {last}", all.join(", ")),
            [] => "TCP ports".to_owned(),
        }
    }
}

/// The ports of the workloads that a policy selects, as far as a rule of it is for them.
pub(super) fn ports(pass: &Pass<'_>, policy: &AuthorizationPolicy, rule: &Rule) -> Ports {
    let wanted: BTreeSet<u16> = rule
        .to
        .iter()
        .chain(&rule.when)
        .flat_map(|entry| &entry.matches)
        .filter(|found| found.attribute == Attribute::Port)
        .flat_map(|found| found.wanted.iter().flatten())
        .filter_map(policy::spec::Value::port)
        .collect();
    // An operation without ports is for all of them, whatever stands in the others.
    let open = rule.to.iter().any(|entry| entry.matches.iter().all(|found| found.attribute != Attribute::Port));
    let named = !wanted.is_empty() && !open;
    let mut ports = Ports { named, ..Ports::default() };
    if pass.ambient() {
        ports.tcp = wanted;
        return ports;
    }
    if policy.scope == Scope::Targets || is_gateway(policy) {
        return Ports { other: true, ..ports };
    }
    let mut services: Vec<&Service> = services(pass, policy);
    // S-84: the oldest has the word; manifests have no times.
    services.sort_by_key(|service| (service.created.is_none(), &service.created, &service.name));
    let mut seen = BTreeSet::new();
    for (service, port) in services.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port))) {
        if (named && !wanted.contains(&port.target)) || !seen.insert((service.namespace.as_str(), port.target)) {
            continue;
        }
        if declared(port) == Carries::Tcp {
            ports.tcp.insert(port.target);
        } else {
            ports.other = true;
        }
    }
    ports
}

/// The services in front of what a policy selects; where the set has no workload, those that select the same labels.
fn services<'a>(pass: &Pass<'a>, policy: &AuthorizationPolicy) -> Vec<&'a Service> {
    let workloads: Vec<_> = pass.selected(policy).collect();
    let root = policy.id.namespace == pass.mesh.settings.root_namespace;
    let in_scope = |service: &&Service| root || service.namespace == policy.id.namespace;
    let serves = |service: &&Service| {
        if service.selector.is_empty() {
            return false;
        }
        let selects = |labels| carries(labels, &service.selector);
        match (&policy.scope, workloads.is_empty()) {
            (_, false) => {
                workloads.iter().any(|workload| workload.id.namespace == service.namespace && selects(&workload.labels))
            }
            (Scope::Labels(labels), true) => selects(labels),
            (_, true) => true,
        }
    };
    pass.mesh.services.iter().filter(in_scope).filter(serves).collect()
}

/// The labels that gateways bear; what they carry is for the gateway to say.
pub(super) fn is_gateway(policy: &AuthorizationPolicy) -> bool {
    let Scope::Labels(labels) = &policy.scope else { return false };
    labels.iter().any(|(key, value)| {
        key.starts_with("gateway.networking.k8s.io/") || (key == "istio" || key == "app") && value.ends_with("gateway")
    })
}
