//! What a policy refers to, looked up among the objects: selectors, namespaces, service accounts, ports.
//!
//! Everything here may come true later, because objects arrive in any order: these are warnings, never refusals of their own.

use std::collections::BTreeSet;

use api::{Object, Objects};
use policy::spec::{Attribute, AuthorizationPolicy, Match, PeerAuthentication, Scope, Values};
use policy::{Labels, Mesh, Service, WorkloadId};

use super::nearest::{nearest_labels, nearest_word};
use crate::finding::{Code, Remark};
use crate::inject;
use crate::translate::labels;

/// Names of pods that a message lists; the rest is counted.
const NAMES_MAX: usize = 3;
/// Kinds whose templates count as something a selector can select: pods may still be on their way.
const TEMPLATES: [&str; 3] = ["deployments", "statefulsets", "daemonsets"];

pub(super) fn authorization_policy(policy: &AuthorizationPolicy, mesh: &Mesh, objects: &Objects) -> Vec<Remark> {
    let selector = match &policy.scope {
        // Targets are gateways, which the policy core has said already.
        Scope::Targets => return Vec::new(),
        Scope::All => None,
        Scope::Labels(labels) => Some(labels),
    };
    let selected = Selected::of(&policy.id.namespace, selector, mesh, objects);
    let mut remarks = selected.remarks(selector, mesh, objects);
    for (path, field, values) in values(policy) {
        remarks.extend(match field.attribute {
            Attribute::Namespace => namespaces(&path, values, mesh),
            Attribute::ServiceAccount => service_accounts(&path, values, &policy.id.namespace, mesh, objects),
            Attribute::Principal => principals(&path, values, mesh, objects),
            Attribute::Port => ports(&path, values, &selected, mesh, objects),
            _ => Vec::new(),
        });
    }
    remarks.extend(http_ports(policy, &selected, mesh));
    remarks
}

pub(super) fn peer_authentication(policy: &PeerAuthentication, mesh: &Mesh, objects: &Objects) -> Vec<Remark> {
    let selector = Some(&policy.selector).filter(|labels| !labels.is_empty());
    if selector.is_some() && policy.id.namespace == mesh.settings.root_namespace {
        // It is ignored, which the policy core has said already.
        return Vec::new();
    }
    Selected::of(&policy.id.namespace, selector, mesh, objects).remarks(selector, mesh, objects)
}

/// What a selector selects.
struct Selected<'a> {
    namespace: &'a str,
    whole_mesh: bool,
    pods: Vec<&'a Object>,
    templates: usize,
}

impl<'a> Selected<'a> {
    fn of(namespace: &'a str, selector: Option<&Labels>, mesh: &Mesh, objects: &'a Objects) -> Self {
        let whole_mesh = namespace == mesh.settings.root_namespace;
        let in_scope = |object: &Object| whole_mesh || object.namespace() == Some(namespace);
        let pods = objects
            .list("", "pods")
            .map(AsRef::as_ref)
            .filter(|pod| in_scope(pod) && !matches!(pod.str_at("/status/phase"), "Failed" | "Succeeded"))
            .filter(|pod| selector.is_none_or(|selector| has_labels(pod.at("/metadata/labels"), selector)))
            .collect();
        let templates = TEMPLATES
            .iter()
            .flat_map(|plural| objects.list("apps", plural))
            .filter(|object| in_scope(object))
            .filter(|object| {
                selector.is_none_or(|selector| has_labels(object.at("/spec/template/metadata/labels"), selector))
            })
            .count();
        Self { namespace, whole_mesh, pods, templates }
    }

    fn remarks(&self, selector: Option<&Labels>, mesh: &Mesh, objects: &Objects) -> Vec<Remark> {
        let mut remarks = Vec::new();
        if let Some(selector) =
            selector.filter(|selector| !selector.is_empty() && self.pods.is_empty() && self.templates == 0)
        {
            remarks.push(Remark::new(Code::SelectorSelectsNothing, "spec.selector", self.nothing(selector, objects)));
        }
        let outside: Vec<WorkloadId> = self
            .pods
            .iter()
            .filter(|pod| !inject::is_injected(pod.value()))
            .map(|pod| WorkloadId::new(pod.namespace().unwrap_or_default(), pod.name()))
            .collect();
        // A policy without a selector means "whatever is in the mesh"; one for the whole mesh all the more.
        if !outside.is_empty() && (selector.is_some() || !self.whole_mesh) {
            let message = format!(
                "{} not in the mesh, so nothing is enforced there: inject {} (label the namespace `istio-injection=enabled`, then restart)",
                listed(&outside),
                if outside.len() == 1 { "it" } else { "them" },
            );
            remarks.push(Remark::new(Code::NotInMesh, if selector.is_some() { "spec.selector" } else { "" }, message));
        }
        if !self.whole_mesh && !mesh.namespaces.contains(self.namespace) {
            remarks.push(Remark::new(
                Code::NamespaceUnknown,
                "metadata.namespace",
                unknown_namespace(self.namespace, mesh),
            ));
        }
        remarks
    }

    /// The sentence on a selector that selects nothing, with the nearest thing it could have meant.
    fn nothing(&self, selector: &Labels, objects: &Objects) -> String {
        let what = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        let place = if self.whole_mesh { "in the mesh".to_owned() } else { format!("in namespace {}", self.namespace) };
        let start = format!("`{what}` selects no pod {place}");
        let all: Vec<&Object> = objects.list("", "pods").map(AsRef::as_ref).collect();
        let here = |pod: &&&Object| self.whole_mesh || pod.namespace() == Some(self.namespace);
        if let Some(pod) =
            all.iter().filter(|pod| !here(pod)).find(|pod| has_labels(pod.at("/metadata/labels"), selector))
        {
            let namespace = pod.namespace().unwrap_or_default();
            return format!("{start}, but pods in namespace {namespace}: a policy reaches its own namespace only");
        }
        let found: Vec<(&str, Labels)> =
            all.iter().filter(here).map(|pod| (pod.name(), labels(pod.at("/metadata/labels")))).collect();
        match nearest_labels(selector, found.iter().map(|(name, labels)| (*name, labels))) {
            Some(near) => format!("{start}; {near}"),
            None => start,
        }
    }
}

fn has_labels(found: &serde_json::Value, selector: &Labels) -> bool {
    selector.iter().all(|(key, value)| found.get(key).and_then(serde_json::Value::as_str) == Some(value))
}

/// Every list of values of a policy, with its path.
fn values(policy: &AuthorizationPolicy) -> Vec<(String, &Match, &Values)> {
    let mut all = Vec::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        for (list, inner, entries) in
            [("from", ".source", &rule.from), ("to", ".operation", &rule.to), ("when", "", &rule.when)]
        {
            for (position, entry) in entries.iter().enumerate() {
                for field in &entry.matches {
                    let place = format!("spec.rules[{index}].{list}[{position}]{inner}");
                    let (positive, negative) = names(field, list == "when");
                    all.extend(field.wanted.as_ref().map(|values| (format!("{place}.{positive}"), field, values)));
                    all.extend(field.unwanted.as_ref().map(|values| (format!("{place}.{negative}"), field, values)));
                }
            }
        }
    }
    all
}

/// How a field and its negative twin are written.
fn names(field: &Match, condition: bool) -> (String, String) {
    if condition {
        return ("values".to_owned(), "notValues".to_owned());
    }
    let written = field.written.as_ref();
    if written.starts_with("not") {
        return (written.to_owned(), written.to_owned());
    }
    let mut letters = written.chars();
    let first: String = letters.next().map(|letter| letter.to_ascii_uppercase()).into_iter().collect();
    (written.to_owned(), format!("not{first}{}", letters.as_str()))
}

fn namespaces(path: &str, values: &Values, mesh: &Mesh) -> Vec<Remark> {
    let unknown = values
        .iter()
        .map(policy::spec::Value::text)
        .filter(|name| !name.contains('*') && !mesh.namespaces.contains(*name));
    unknown.map(|name| Remark::new(Code::NamespaceUnknown, path, unknown_namespace(name, mesh))).collect()
}

fn unknown_namespace(name: &str, mesh: &Mesh) -> String {
    let near = nearest_word(name, mesh.namespaces.iter().map(String::as_str));
    let hint = near.map(|near| format!("; did you mean `{near}`")).unwrap_or_default();
    format!("namespace `{name}` does not exist{hint}")
}

fn service_accounts(path: &str, values: &Values, own: &str, mesh: &Mesh, objects: &Objects) -> Vec<Remark> {
    let found = values.iter().filter_map(|value| {
        let (namespace, name) = value.text().split_once('/').unwrap_or_else(|| (own, value.text()));
        account(path, namespace, name, mesh, objects)
    });
    found.collect()
}

fn principals(path: &str, values: &Values, mesh: &Mesh, objects: &Objects) -> Vec<Remark> {
    let found = values.iter().filter_map(|value| {
        let parts: Vec<&str> = value.text().split('/').collect();
        match parts.as_slice() {
            // Who is in another trust domain cannot be looked up here.
            [domain, "ns", namespace, "sa", name]
                if (*domain == "cluster.local" || *domain == mesh.settings.trust_domain)
                    && !value.text().contains('*') =>
            {
                account(path, namespace, name, mesh, objects)
            }
            _ => None,
        }
    });
    found.collect()
}

fn account(path: &str, namespace: &str, name: &str, mesh: &Mesh, objects: &Objects) -> Option<Remark> {
    if !mesh.namespaces.contains(namespace) {
        return Some(Remark::new(Code::NamespaceUnknown, path, unknown_namespace(namespace, mesh)));
    }
    // `default` is made with its namespace, if a moment later.
    if name == "default" || objects.find("", "serviceaccounts", Some(namespace), name).is_some() {
        return None;
    }
    let there = objects.in_namespace("", "serviceaccounts", namespace).map(|account| account.name());
    let hint = nearest_word(name, there).map(|near| format!("; did you mean `{near}`")).unwrap_or_default();
    let message = format!("service account `{name}` does not exist in namespace {namespace}{hint}");
    Some(Remark::new(Code::ServiceAccountUnknown, path, message))
}

/// Ports of a service that stand where only ports of its pods are ever seen (S-2).
fn ports(path: &str, values: &Values, selected: &Selected<'_>, mesh: &Mesh, objects: &Objects) -> Vec<Remark> {
    let services = services_of(selected, mesh);
    let targets: BTreeSet<u16> = services.iter().flat_map(|service| &service.ports).map(|port| port.target).collect();
    let mut remarks = Vec::new();
    for value in values {
        let policy::spec::Value::Port(number, _) = value else { continue };
        if targets.contains(number) || declared(selected, *number) {
            continue;
        }
        let found = services
            .iter()
            .find_map(|service| Some((service, service.ports.iter().find(|port| port.port == *number)?)));
        if let Some((service, port)) = found {
            let message = format!(
                "{number} is the port of service `{}`; its pods listen on {}, and that is the port policies see",
                service.name, port.target
            );
            remarks.push(Remark::new(Code::ServicePort, path, message));
        }
    }
    // Without a pod nothing is known of the ports a name stands for.
    if objects.list("", "pods").next().is_none() { Vec::new() } else { remarks }
}

fn services_of<'a>(selected: &Selected<'_>, mesh: &'a Mesh) -> Vec<&'a Service> {
    let serves = |service: &&Service| {
        selected.pods.iter().any(|pod| {
            pod.namespace() == Some(service.namespace.as_str())
                && has_labels(pod.at("/metadata/labels"), &service.selector)
        })
    };
    mesh.services.iter().filter(serves).collect()
}

/// Whether one of the pods says that it listens on the port.
fn declared(selected: &Selected<'_>, number: u16) -> bool {
    let containers = selected.pods.iter().flat_map(|pod| pod.items_at("/spec/containers"));
    let ports = containers.filter_map(|container| container.get("ports")?.as_array()).flatten();
    ports.filter_map(|port| port.get("containerPort")?.as_u64()).any(|port| port == u64::from(number))
}

/// HTTP fields on ports that a service declares to carry HTTP: they would work there elsewhere, and do not here (S-85).
fn http_ports(policy: &AuthorizationPolicy, selected: &Selected<'_>, mesh: &Mesh) -> Option<Remark> {
    let uses_http = values(policy).iter().any(|(_, field, _)| field.attribute == Attribute::Http);
    if !uses_http {
        return None;
    }
    let mut ports: Vec<String> = services_of(selected, mesh)
        .into_iter()
        .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
        .filter(|(_, port)| may_be_http(port.app_protocol.as_deref(), port.name.as_deref(), port.port))
        .map(|(service, port)| format!("{} (service `{}`)", port.target, service.name))
        .collect();
    ports.dedup();
    let message = match ports.as_slice() {
        [] => return None,
        [one] => format!("port {one} may carry HTTP and is enforced as TCP: HTTP fields do not work there"),
        [one, rest @ ..] => format!(
            "port {one} and {} more may carry HTTP and are enforced as TCP: HTTP fields do not work there",
            rest.len()
        ),
    };
    Some(Remark::new(Code::HttpPort, "", message))
}

/// S-84: whatever is not declared to be TCP is HTTP or found out by its bytes.
fn may_be_http(app_protocol: Option<&str>, name: Option<&str>, port: u16) -> bool {
    const TCP_PORTS: [u16; 4] = [25, 53, 3306, 27017];
    let word =
        app_protocol.or_else(|| name.and_then(|name| name.split('-').next())).unwrap_or_default().to_ascii_lowercase();
    match word.as_str() {
        "tcp" | "tls" | "https" | "mongo" | "redis" | "mysql" | "kubernetes.io/wss" => false,
        "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" | "kubernetes.io/h2c" | "kubernetes.io/ws" => true,
        _ => !TCP_PORTS.contains(&port),
    }
}

fn listed(pods: &[WorkloadId]) -> String {
    let names: Vec<String> = pods.iter().take(NAMES_MAX).map(|id| format!("`{id}`")).collect();
    let more = match pods.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    if pods.len() == 1 { format!("pod {} is", names.concat()) } else { format!("pods {}{more} are", names.join(", ")) }
}
