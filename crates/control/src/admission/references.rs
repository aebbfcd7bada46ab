//! What a policy refers to, looked up among the objects: selectors, namespaces, service accounts, ports.
//!
//! Everything here may come true later, because objects arrive in any order: these are warnings, never refusals of their own.

use std::collections::BTreeSet;

use api::{Object, Objects};
use policy::port;
use policy::spec::{Attribute, AuthorizationPolicy, PeerAuthentication, Scope, Values};
use policy::{Labels, Mesh, Service, WorkloadId};

use super::nearest::{nearest_labels, nearest_word};
use crate::finding::{Code, Level, Remark};
use crate::inject;
use crate::translate::{labels, service_account};
use crate::written;

/// Names of pods that a message lists; the rest is counted.
const NAMES_MAX: usize = 3;
/// Kinds whose templates count as something a selector can select: pods may still be on their way.
const TEMPLATES: [&str; 3] = ["deployments", "statefulsets", "daemonsets"];

/// What references are looked up in.
#[derive(Debug)]
pub(crate) struct World<'a> {
    mesh: &'a Mesh,
    objects: &'a Objects,
    /// Whether these are all objects that there are. Of a set of files nobody knows: there, what is missing is only told where the
    /// set has something of its kind, and weighs less where nothing resembles it.
    whole: bool,
    members: BTreeSet<&'a WorkloadId>,
    known: BTreeSet<&'a WorkloadId>,
}

impl<'a> World<'a> {
    pub(crate) fn new(mesh: &'a Mesh, objects: &'a Objects, whole: bool) -> Self {
        let ids = |in_mesh: bool| {
            mesh.workloads.iter().filter(move |one| !in_mesh || one.in_mesh).map(|workload| &workload.id).collect()
        };
        Self { mesh, objects, whole, members: ids(true), known: ids(false) }
    }

    fn in_mesh(&self, pod: &Object) -> bool {
        let id = WorkloadId::new(pod.namespace().unwrap_or_default(), pod.name());
        // A pod that has no address yet is no workload yet.
        if self.known.contains(&id) { self.members.contains(&id) } else { inject::is_injected(pod.value()) }
    }

    fn has_workloads(&self) -> bool {
        self.whole || self.objects.list("", "pods").next().is_some()
    }

    /// How much a name weighs that is not there: a set of files may leave out what exists.
    fn weighed(&self, remark: Remark, wanted: &str, near: Option<&str>) -> Remark {
        if self.whole || near.is_some_and(|near| is_slip(wanted, near)) { remark } else { remark.at_level(Level::Note) }
    }
}

/// Whether one name may be the other misspelt, rather than its neighbour in a row of names: `team-a` and `team-b`, `shop1` and `shop2`.
fn is_slip(wanted: &str, near: &str) -> bool {
    let parts = |text: &str| text.split(['-', '.', '_']).map(str::to_owned).collect::<Vec<_>>();
    let (one, other) = (parts(wanted), parts(near));
    let is_number = |text: &str| text.chars().any(|letter| letter.is_ascii_digit());
    one.len() != other.len()
        || one
            .iter()
            .zip(&other)
            .filter(|(one, other)| one != other)
            .all(|(one, other)| one.len().min(other.len()) > 2 && !is_number(one) && !is_number(other))
}

pub(crate) fn authorization_policy(policy: &AuthorizationPolicy, world: &World<'_>) -> Vec<Remark> {
    let selector = match &policy.scope {
        // Targets are gateways, which the policy core has said already.
        Scope::Targets => return Vec::new(),
        Scope::All => None,
        Scope::Labels(labels) => Some(labels),
    };
    let selected = Selected::of(&policy.id.namespace, selector, world);
    let mut remarks = selected.remarks(selector, world);
    let all = written::fields(policy);
    for one in &all {
        let path = one.path.as_str();
        remarks.extend(match one.field.attribute {
            Attribute::Namespace => namespaces(path, one.values, world),
            Attribute::ServiceAccount => service_accounts(path, one.values, &policy.id.namespace, world),
            Attribute::Principal => principals(path, one.values, world),
            Attribute::Port => ports(path, one.values, &selected, world),
            _ => Vec::new(),
        });
    }
    let uses_http = all.iter().any(|one| one.field.attribute == Attribute::Http);
    if uses_http && world.whole {
        remarks.extend(http_ports(&selected, world.mesh));
    }
    remarks
}

pub(crate) fn peer_authentication(policy: &PeerAuthentication, world: &World<'_>) -> Vec<Remark> {
    let selector = Some(&policy.selector).filter(|labels| !labels.is_empty());
    if selector.is_some() && policy.id.namespace == world.mesh.settings.root_namespace {
        // It is ignored, which the policy core has said already.
        return Vec::new();
    }
    Selected::of(&policy.id.namespace, selector, world).remarks(selector, world)
}

/// What a selector selects.
struct Selected<'a> {
    namespace: &'a str,
    whole_mesh: bool,
    pods: Vec<&'a Object>,
    templates: usize,
}

impl<'a> Selected<'a> {
    fn of(namespace: &'a str, selector: Option<&Labels>, world: &World<'a>) -> Self {
        let whole_mesh = namespace == world.mesh.settings.root_namespace;
        let reached = |group: &'static str, plural: &'static str| {
            // A policy is looked up for each of thousands: only its own namespace is gone through where that is all it reaches.
            let everywhere = whole_mesh.then(|| world.objects.list(group, plural));
            let here = (!whole_mesh).then(|| world.objects.in_namespace(group, plural, namespace));
            everywhere.into_iter().flatten().chain(here.into_iter().flatten()).map(AsRef::as_ref)
        };
        let selects =
            |object: &Object, labels: &str| selector.is_none_or(|selector| has_labels(object.at(labels), selector));
        let pods: Vec<&Object> = reached("", "pods")
            .filter(|pod| selects(pod, "/metadata/labels"))
            .filter(|pod| !matches!(pod.str_at("/status/phase"), "Failed" | "Succeeded"))
            .collect();
        let templates = TEMPLATES
            .iter()
            .flat_map(|plural| reached("apps", plural))
            .filter(|object| selects(object, "/spec/template/metadata/labels"))
            .count();
        Self { namespace, whole_mesh, pods, templates }
    }

    fn remarks(&self, selector: Option<&Labels>, world: &World<'_>) -> Vec<Remark> {
        let (mesh, objects) = (world.mesh, world.objects);
        let mut remarks = Vec::new();
        let nothing = selector.filter(|labels| !labels.is_empty() && self.pods.is_empty() && self.templates == 0);
        if let Some(selector) = nothing.filter(|_| world.whole || self.anybody_near(objects)) {
            remarks.push(Remark::new(Code::SelectorSelectsNothing, "spec.selector", self.nothing(selector, objects)));
        }
        let outside: Vec<WorkloadId> = self
            .pods
            .iter()
            .filter(|pod| !world.in_mesh(pod))
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
            remarks.extend(unknown_namespace("metadata.namespace", self.namespace, world));
        }
        remarks
    }

    /// Whether the set has pods where the policy reaches.
    fn anybody_near(&self, objects: &Objects) -> bool {
        objects.list("", "pods").any(|pod| self.whole_mesh || pod.namespace() == Some(self.namespace))
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

fn namespaces(path: &str, values: &Values, world: &World<'_>) -> Vec<Remark> {
    let unknown = values.iter().map(policy::spec::Value::text).enumerate();
    unknown
        .filter(|(_, name)| !name.contains('*') && !world.mesh.namespaces.contains(*name))
        .filter_map(|(index, name)| unknown_namespace(&format!("{path}[{index}]"), name, world))
        .collect()
}

/// Whatever a set of files goes to may have other namespaces: without any of its own nothing is said, and with some only a slip is
/// more than a note.
fn unknown_namespace(path: &str, name: &str, world: &World<'_>) -> Option<Remark> {
    let near = nearest_word(name, world.mesh.namespaces.iter().map(String::as_str));
    let near = near.filter(|near| world.whole || is_slip(name, near) && world.has_workloads());
    if !world.whole && near.is_none() && world.objects.list("", "namespaces").next().is_none() {
        return None;
    }
    let hint = near.map(|near| format!("; did you mean `{near}`")).unwrap_or_default();
    let message = if world.whole {
        format!("namespace `{name}` does not exist{hint}")
    } else {
        format!("namespace `{name}` is not in this set{hint}")
    };
    let remark = Remark::new(Code::NamespaceUnknown, path, message).instead(near.map(str::to_owned));
    Some(world.weighed(remark, name, near))
}

fn service_accounts(path: &str, values: &Values, own: &str, world: &World<'_>) -> Vec<Remark> {
    let found = values.iter().enumerate().filter_map(|(index, value)| {
        let (namespace, name) = value.text().split_once('/').unwrap_or_else(|| (own, value.text()));
        let remark = account(&format!("{path}[{index}]"), namespace, name, world)?;
        let written = value.text().contains('/');
        let instead = remark
            .instead
            .clone()
            .map(|(namespace, name)| if written || namespace != own { format!("{namespace}/{name}") } else { name });
        Some(remark.remark.instead(instead))
    });
    found.collect()
}

fn principals(path: &str, values: &Values, world: &World<'_>) -> Vec<Remark> {
    let settings = &world.mesh.settings;
    let found = values.iter().enumerate().filter_map(|(index, value)| {
        let parts: Vec<&str> = value.text().split('/').collect();
        match parts.as_slice() {
            // Who is in another trust domain cannot be looked up here.
            [domain, "ns", namespace, "sa", name]
                if (*domain == "cluster.local" || *domain == settings.trust_domain) && !value.text().contains('*') =>
            {
                let remark = account(&format!("{path}[{index}]"), namespace, name, world)?;
                let instead = remark.instead.map(|(namespace, name)| format!("{domain}/ns/{namespace}/sa/{name}"));
                Some(remark.remark.instead(instead))
            }
            _ => None,
        }
    });
    found.collect()
}

/// A remark on an account, and the account that may have been meant.
struct Account {
    remark: Remark,
    instead: Option<(String, String)>,
}

fn account(path: &str, namespace: &str, name: &str, world: &World<'_>) -> Option<Account> {
    if !world.has_workloads() {
        return None;
    }
    if !world.mesh.namespaces.contains(namespace) {
        let remark = unknown_namespace(path, namespace, world)?;
        let instead = remark.instead.clone().map(|near| (near, name.to_owned()));
        return Some(Account { remark, instead });
    }
    // `default` is made with its namespace, if a moment later.
    if name == "default" || world.objects.find("", "serviceaccounts", Some(namespace), name).is_some() {
        return None;
    }
    let mut there: Vec<&str> =
        world.objects.in_namespace("", "serviceaccounts", namespace).map(|account| account.name()).collect();
    if !world.whole {
        // Manifests of accounts are often left to whoever installs the set: that a workload runs as one is enough.
        there.extend(world.objects.in_namespace("", "pods", namespace).map(|pod| service_account(pod)));
        if there.is_empty() || there.contains(&name) {
            return None;
        }
    }
    let near = nearest_word(name, there.into_iter()).filter(|near| world.whole || is_slip(name, near));
    let hint = near.map(|near| format!("; did you mean `{near}`")).unwrap_or_default();
    let message = if world.whole {
        format!("service account `{name}` does not exist in namespace {namespace}{hint}")
    } else {
        format!("service account `{name}` of namespace {namespace} is not in this set{hint}")
    };
    let remark = world.weighed(Remark::new(Code::ServiceAccountUnknown, path, message), name, near);
    let instead = near.map(|near| (namespace.to_owned(), near.to_owned()));
    Some(Account { remark, instead })
}

/// Ports of a service that stand where only ports of its pods are ever seen (S-2).
fn ports(path: &str, values: &Values, selected: &Selected<'_>, world: &World<'_>) -> Vec<Remark> {
    let services = services_of(selected, world.mesh);
    let targets: BTreeSet<u16> = services.iter().flat_map(|service| &service.ports).map(|port| port.target).collect();
    let mut remarks = Vec::new();
    for (index, value) in values.iter().enumerate() {
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
            let remark = Remark::new(Code::ServicePort, &format!("{path}[{index}]"), message);
            remarks.push(remark.instead(Some(port.target.to_string())));
        }
    }
    // Without a pod nothing is known of the ports a name stands for.
    if world.objects.list("", "pods").next().is_none() { Vec::new() } else { remarks }
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
fn http_ports(selected: &Selected<'_>, mesh: &Mesh) -> Option<Remark> {
    let mut ports: Vec<String> = services_of(selected, mesh)
        .into_iter()
        .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
        .filter(|(_, port)| port::declared(port) != port::Carries::Tcp)
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

fn listed(pods: &[WorkloadId]) -> String {
    let names: Vec<String> = pods.iter().take(NAMES_MAX).map(|id| format!("`{id}`")).collect();
    let more = match pods.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    if pods.len() == 1 { format!("pod {} is", names.concat()) } else { format!("pods {}{more} are", names.join(", ")) }
}
