//! From objects to the ground state of the policy core: the only place that knows both.
//!
//! Parsed policies are kept with their objects, and stay the same `Arc` while they mean the same, so that the compiler can
//! tell what did not change. Nothing is decided here.

mod services;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::{Key, Object, Objects};
use policy::finding::Finding;
use policy::spec::{AuthorizationPolicy, PeerAuthentication};
use policy::{Mesh, Workload, WorkloadId};
use serde_json::Value;

use crate::inject;
use crate::mesh_config::{self, MeshConfig};

/// The API group of policies.
pub const SECURITY_GROUP: &str = "security.istio.io";
/// Plural of AuthorizationPolicy.
pub const AUTHORIZATION_POLICIES: &str = "authorizationpolicies";
/// Plural of PeerAuthentication.
pub const PEER_AUTHENTICATIONS: &str = "peerauthentications";
/// The account of a pod that names none.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// Further addresses under which a pod opens connections, given one of its own: the local mesh gives a pod that reaches itself
/// through a service another source address, which must carry the same identity.
pub type Aliases = Arc<dyn Fn(IpAddr) -> Vec<IpAddr> + Send + Sync>;

/// Which objects are workloads, and which of these are in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Pods that run: only an address makes a workload, only an injected pod is a member.
    #[default]
    Running,
    /// Manifests: a pod that no cluster has seen yet is a workload without an address, and a member unless something that is
    /// written keeps it out ([`inject::is_meant`]).
    Written,
}

/// Translates, and remembers what it has parsed.
pub struct Translator {
    aliases: Aliases,
    reading: Reading,
    config: MeshConfig,
    authorizations: Vec<Cached<AuthorizationPolicy>>,
    authentications: Vec<Cached<PeerAuthentication>>,
    shared_addresses: BTreeSet<IpAddr>,
}

/// One policy, parsed. They stand in the order of their keys.
struct Cached<T> {
    key: Key,
    object: Arc<Object>,
    value: Option<Arc<T>>,
    findings: Vec<Finding>,
}

/// A policy as it was read.
#[derive(Debug)]
pub struct Read<'t, T> {
    /// Where it is stored.
    pub key: &'t Key,
    /// What it was read from.
    pub object: &'t Arc<Object>,
    /// What it says; none if it cannot be read.
    pub policy: Option<&'t T>,
    /// What parsing found.
    pub findings: &'t [Finding],
}

impl<T> Cached<T> {
    fn read(&self) -> Read<'_, T> {
        Read { key: &self.key, object: &self.object, policy: self.value.as_deref(), findings: &self.findings }
    }
}

impl std::fmt::Debug for Translator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Translator")
            .field("config", &self.config)
            .field("policies", &self.authorizations.len())
            .finish_non_exhaustive()
    }
}

impl Default for Translator {
    fn default() -> Self {
        Self::new(Arc::new(|_| Vec::new()))
    }
}

impl Translator {
    /// One that has parsed nothing yet.
    pub fn new(aliases: Aliases) -> Self {
        Self {
            aliases,
            reading: Reading::Running,
            config: MeshConfig::default(),
            authorizations: Vec::new(),
            authentications: Vec::new(),
            shared_addresses: BTreeSet::new(),
        }
    }

    /// One for manifests.
    pub fn of_manifests() -> Self {
        Self { reading: Reading::Written, ..Self::default() }
    }

    /// The mesh that these objects describe.
    pub fn mesh(&mut self, objects: &Objects) -> Mesh {
        self.mesh_with(mesh_config::of(objects), objects)
    }

    /// The mesh that these objects describe, under settings from elsewhere.
    pub fn mesh_with(&mut self, config: MeshConfig, objects: &Objects) -> Mesh {
        if config.settings != self.config.settings {
            // What a document means depends on the settings.
            self.authorizations.clear();
            self.authentications.clear();
        }
        self.config = config;
        let settings = self.config.settings.clone();
        let policies = refresh(&mut self.authorizations, objects, AUTHORIZATION_POLICIES, |document| {
            policy::parse::authorization_policy(document, &settings)
        });
        let peer_authentications = refresh(&mut self.authentications, objects, PEER_AUTHENTICATIONS, |document| {
            policy::parse::peer_authentication(document, &settings)
        });
        let workloads = self.workloads(objects);
        Mesh {
            services: services::of(objects),
            namespaces: objects.list("", "namespaces").map(|namespace| namespace.name().to_owned()).collect(),
            workloads,
            policies,
            peer_authentications,
            settings,
        }
    }

    /// The settings of the mesh last translated.
    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    /// Every AuthorizationPolicy last translated.
    pub fn authorization_policies(&self) -> impl Iterator<Item = Read<'_, AuthorizationPolicy>> {
        self.authorizations.iter().map(Cached::read)
    }

    /// Every PeerAuthentication last translated.
    pub fn peer_authentications(&self) -> impl Iterator<Item = Read<'_, PeerAuthentication>> {
        self.authentications.iter().map(Cached::read)
    }

    /// What parsing found in each policy of the mesh last translated.
    pub fn findings(&self) -> impl Iterator<Item = (&Key, &[Finding])> {
        let one = self.authorization_policies().map(|read| (read.key, read.findings));
        one.chain(self.peer_authentications().map(|read| (read.key, read.findings)))
    }

    /// What parsing found in one policy.
    pub fn findings_of(&self, key: &Key) -> &[Finding] {
        fn of<'c, T>(cache: &'c [Cached<T>], key: &Key) -> Option<&'c [Finding]> {
            let at = cache.binary_search_by(|cached| cached.key.cmp(key)).ok()?;
            Some(cache.get(at)?.findings.as_slice())
        }
        of(&self.authorizations, key).or_else(|| of(&self.authentications, key)).unwrap_or_default()
    }

    /// Addresses that several pods claim at once. None of these pods has them: whose traffic it is cannot be told.
    pub fn shared_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.shared_addresses
    }

    fn workload(&self, pod: &Object, objects: &Objects) -> Option<Workload> {
        match self.reading {
            Reading::Running => workload(pod, &self.aliases),
            Reading::Written => written(pod, objects),
        }
    }

    fn workloads(&mut self, objects: &Objects) -> Vec<Workload> {
        let mut workloads: Vec<Workload> =
            objects.list("", "pods").filter_map(|pod| self.workload(pod, objects)).collect();
        let mut seen = BTreeSet::new();
        self.shared_addresses = workloads
            .iter()
            .flat_map(|workload| &workload.addresses)
            .copied()
            .filter(|address| !seen.insert(*address))
            .collect();
        if !self.shared_addresses.is_empty() {
            for workload in &mut workloads {
                workload.addresses.retain(|address| !self.shared_addresses.contains(address));
            }
        }
        workloads
    }
}

/// The workload that a pod is; none before it has an address and after its end.
pub fn workload(pod: &Object, aliases: &Aliases) -> Option<Workload> {
    if matches!(pod.str_at("/status/phase"), "Failed" | "Succeeded") {
        return None;
    }
    let own = addresses(pod);
    if own.is_empty() {
        return None;
    }
    let mut all = own.clone();
    for alias in own.iter().flat_map(|address| aliases(*address)) {
        if !all.contains(&alias) {
            all.push(alias);
        }
    }
    Some(member(pod, all, inject::is_injected(pod.value())))
}

/// The workload that a pod of a manifest is; one without an address where no cluster has given it one.
fn written(pod: &Object, objects: &Objects) -> Option<Workload> {
    if matches!(pod.str_at("/status/phase"), "Failed" | "Succeeded") {
        return None;
    }
    // What a cluster has stored it has also injected, if it was to be.
    let in_mesh = inject::is_injected(pod.value()) || pod.uid().is_empty() && inject::is_meant(pod, objects);
    Some(member(pod, addresses(pod), in_mesh))
}

fn member(pod: &Object, addresses: Vec<IpAddr>, in_mesh: bool) -> Workload {
    Workload {
        id: WorkloadId::new(pod.namespace().unwrap_or_default(), pod.name()),
        labels: labels(pod.at("/metadata/labels")),
        service_account: service_account(pod).to_owned(),
        addresses,
        in_mesh,
    }
}

/// The service account a pod runs as.
pub fn service_account(pod: &Object) -> &str {
    match pod.str_at("/spec/serviceAccountName") {
        "" => match pod.str_at("/spec/serviceAccount") {
            "" => DEFAULT_SERVICE_ACCOUNT,
            older => older,
        },
        name => name,
    }
}

/// The pod's own addresses, the first one first.
fn addresses(pod: &Object) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let listed = pod.items_at("/status/podIPs").iter().filter_map(|entry| entry.get("ip")?.as_str());
    for text in std::iter::once(pod.str_at("/status/podIP")).chain(listed) {
        if let Ok(address) = text.parse::<IpAddr>() {
            let address = address.to_canonical();
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

/// The pairs of a mapping of strings.
pub(crate) fn labels(value: &Value) -> policy::Labels {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Brings a cache up to date with the objects of one kind, and gives what it then holds.
fn refresh<T: PartialEq>(
    cache: &mut Vec<Cached<T>>,
    objects: &Objects,
    plural: &str,
    parse: impl Fn(&Value) -> policy::finding::Parsed<T>,
) -> Vec<Arc<T>> {
    let mut before = std::mem::take(cache).into_iter().peekable();
    for object in objects.list(SECURITY_GROUP, plural) {
        // Nearly all are the very objects of the last time: nothing of them is looked at.
        if let Some(same) = before.next_if(|cached| Arc::ptr_eq(&cached.object, object)) {
            cache.push(same);
            continue;
        }
        let key = Key::namespaced(SECURITY_GROUP, plural, object.namespace().unwrap_or_default(), object.name());
        while before.next_if(|cached| cached.key < key).is_some() {}
        let known = before.next_if(|cached| cached.key == key);
        let parsed = parse(object.value());
        let earlier = known.and_then(|known| known.value);
        let value = parsed.value.map(|value| match earlier {
            // A write to its status changes the version of a policy and not its meaning.
            Some(same) if *same == value => same,
            _ => Arc::new(value),
        });
        cache.push(Cached { key, object: Arc::clone(object), value, findings: parsed.findings });
    }
    cache.iter().filter_map(|cached| cached.value.clone()).collect()
}
