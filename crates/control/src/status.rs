//! What came of each policy, written into its status: conditions `Accepted` and `Enforced`.
//!
//! The only arrow back from enforcement, and it is an object write. It converges: where nothing changed, nothing is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{Key, Object, Objects, Write};
use policy::finding::{Code, Finding};
use policy::mesh::{Service, Settings};
use policy::port::{Carries, class_of};
use policy::spec::{Action, Attribute, AuthorizationPolicy, PeerAuthentication, Scope};
use policy::{Labels, Mesh, Profile, Workload, WorkloadId, carries};
use serde_json::{Value, json};

use crate::translate::{AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS, Read, SECURITY_GROUP, Translator};

/// The longest error that is repeated in a status.
const ERROR_LENGTH_MAX: usize = 200;

/// What the data plane reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The generation of the snapshot that holds everything in the objects at hand.
    pub generation: u64,
    /// For each workload with a table, how far it is.
    pub workloads: BTreeMap<WorkloadId, Progress>,
}

/// How far one workload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// This generation is in force.
    Enforces(u64),
    /// Its table could not be made or loaded, and refuses everything.
    Failed(String),
}

/// One condition, but for the times.
#[derive(Clone)]
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// Writes statuses. Remembers which policies have the one that is due, so that only what has changed is looked at.
#[derive(Debug, Default)]
pub struct Statuses {
    world: World,
    /// The policies that need no write in that world, in the order of their keys; of each kind.
    settled: [Vec<Arc<Object>>; 2],
}

/// What statuses depend on beside their policies.
#[derive(Debug, Default, PartialEq)]
struct World {
    settings: Settings,
    services: Vec<Service>,
    workloads: Vec<Workload>,
    standing: Vec<Standing>,
}

/// How a workload of the mesh stands.
#[derive(Debug, PartialEq)]
enum Standing {
    Enforces,
    Pending,
    Failed(String),
}

impl Report {
    fn standing(&self, workload: &WorkloadId) -> Standing {
        match self.workloads.get(workload) {
            Some(Progress::Enforces(at)) if *at >= self.generation => Standing::Enforces,
            Some(Progress::Failed(error)) => Standing::Failed(error.clone()),
            Some(Progress::Enforces(_)) | None => Standing::Pending,
        }
    }
}

impl Statuses {
    /// The writes that bring the status of every policy up to date. `mesh` is what `translator` made of the same objects; `now` is
    /// RFC 3339 in UTC.
    pub fn reconcile(
        &mut self,
        objects: &Objects,
        translator: &Translator,
        mesh: &Mesh,
        report: &Report,
        now: &str,
    ) -> Vec<Write> {
        let standing = mesh.workloads.iter().map(|workload| report.standing(&workload.id)).collect();
        let is_like = mesh.settings == self.world.settings
            && mesh.services == self.world.services
            && mesh.workloads == self.world.workloads
            && self.world.standing == standing;
        if !is_like {
            let (settings, services) = (mesh.settings.clone(), mesh.services.clone());
            self.world = World { settings, services, workloads: mesh.workloads.clone(), standing };
            self.settled = Default::default();
        }
        let mut counts = Counts { mesh, standing: &self.world.standing, known: HashMap::new() };
        let mut writes = Vec::new();
        let [authorizations, authentications] = &mut self.settled;
        let reads = translator.authorization_policies();
        settle(authorizations, reads, (objects, AUTHORIZATION_POLICIES), |read, object| {
            let write = status_of(object, read, now, |policy, findings| authorization(policy, findings, &mut counts));
            write.map(|write| writes.push(write)).is_none()
        });
        let reads = translator.peer_authentications();
        settle(authentications, reads, (objects, PEER_AUTHENTICATIONS), |read, object| {
            let write = status_of(object, read, now, |policy, findings| authentication(policy, findings, &mut counts));
            write.map(|write| writes.push(write)).is_none()
        });
        writes
    }
}

/// Looks at the policies of one kind that were not settled before; those are settled from now on of which it is said that nothing is to
/// be written.
fn settle<'t, T: 't>(
    settled: &mut Vec<Arc<Object>>,
    reads: impl Iterator<Item = Read<'t, T>>,
    (objects, plural): (&Objects, &str),
    mut is_settled: impl FnMut(&Read<'t, T>, &Object) -> bool,
) {
    let key = |object: &Object| {
        Key::namespaced(SECURITY_GROUP, plural, object.namespace().unwrap_or_default(), object.name())
    };
    let mut before = std::mem::take(settled).into_iter().peekable();
    let mut objects = objects.list(SECURITY_GROUP, plural).peekable();
    // All three are in the order of their keys; nearly always the next one is the one that is looked for.
    for read in reads {
        if objects.peek().is_none_or(|object| !Arc::ptr_eq(object, read.object)) {
            while objects.next_if(|object| key(object) < *read.key).is_some() {}
        }
        let is_it = |object: &&Arc<Object>| Arc::ptr_eq(object, read.object) || key(object) == *read.key;
        // It may be gone by now.
        let Some(object) = objects.next_if(is_it) else { continue };
        if before.peek().is_none_or(|known| !Arc::ptr_eq(known, object)) {
            while before.next_if(|known| key(known) < *read.key).is_some() {}
        }
        let was_settled = before.next_if(|known| Arc::ptr_eq(known, object)).is_some();
        // What was read since it was written last is looked at once more when it has been.
        if was_settled || is_settled(&read, object) && Arc::ptr_eq(object, read.object) {
            settled.push(Arc::clone(object));
        }
    }
}

/// The write for one policy; none if its status says so already.
fn status_of<'t, T>(
    object: &Object,
    read: &Read<'t, T>,
    now: &str,
    enforced: impl FnOnce(&'t T, &[Finding]) -> Condition,
) -> Option<Write> {
    if object.is_deleting() {
        return None;
    }
    let accepted = accepted(read.findings);
    let enforced = match read.policy {
        Some(policy) if accepted.holds => enforced(policy, read.findings),
        _ => not_enforced("Invalid", "what is written cannot be read as it stands".to_owned()),
    };
    write(read.key, object, &[accepted, enforced], now)
}

/// How many of the workloads that a policy selects enforce it: the same for all that select alike.
struct Counts<'m> {
    mesh: &'m Mesh,
    /// Of the mesh's workloads, in their order.
    standing: &'m [Standing],
    known: HashMap<(&'m str, Option<&'m Labels>), Condition>,
}

impl<'m> Counts<'m> {
    fn of(&mut self, namespace: &'m str, selector: Option<&'m Labels>) -> Condition {
        let count = || counted(namespace, selector, self.mesh, self.standing);
        self.known.entry((namespace, selector)).or_insert_with(count).clone()
    }
}

fn accepted(findings: &[Finding]) -> Condition {
    match findings.iter().find(|finding| finding.refuses()) {
        None => Condition { kind: "Accepted", holds: true, reason: "Accepted", message: String::new() },
        Some(finding) => Condition { kind: "Accepted", holds: false, reason: "Invalid", message: finding.to_string() },
    }
}

fn authorization<'p>(policy: &'p AuthorizationPolicy, findings: &[Finding], counts: &mut Counts<'p>) -> Condition {
    let mesh = counts.mesh;
    let found = |code: Code| findings.iter().any(|finding| finding.code == code);
    if policy.trial {
        return not_enforced("Trial", "dry run: stored, nothing is enforced".to_owned());
    }
    let selector = match &policy.scope {
        Scope::Targets => {
            return not_enforced(
                "NeedsProxyPath",
                "it applies to gateways and waypoints only, and there is none".to_owned(),
            );
        }
        Scope::All => None,
        // S-27
        Scope::Labels(labels) if labels.is_empty() && mesh.settings.profile == Profile::Ambient => {
            return not_enforced(
                "NothingSelected",
                "a selector without labels selects nothing in the ambient profile".to_owned(),
            );
        }
        Scope::Labels(labels) => Some(labels),
    };
    match policy.action {
        Action::Audit => {
            return not_enforced(
                "UnsupportedValue",
                "AUDIT is not built yet: nothing is marked, and no verdict changes".to_owned(),
            );
        }
        // S-35
        Action::Custom if mesh.settings.profile == Profile::Ambient => {
            return not_enforced("UnsupportedValue", "the ambient profile does not apply CUSTOM".to_owned());
        }
        _ => {}
    }
    if policy.action == Action::Custom || found(Code::NeedsProxyPath) || reads_server_name(policy) {
        return not_enforced(
            "NeedsProxyPath",
            "it needs the bytes of a connection: connections it could concern are refused".to_owned(),
        );
    }
    let mut condition = counts.of(&policy.id.namespace, selector);
    if condition.holds
        && let Some(port) = http_port(policy, selector, mesh)
    {
        // S-85
        let told = format!("; port {port} may carry HTTP and is enforced as TCP, where HTTP fields do not work");
        condition.message.push_str(&told);
    }
    condition
}

/// A port of a selected workload that may carry HTTP, if the policy has fields that would work there elsewhere.
fn http_port(policy: &AuthorizationPolicy, selector: Option<&Labels>, mesh: &Mesh) -> Option<u16> {
    let entries = policy.rules.iter().flat_map(|rule| rule.from.iter().chain(&rule.to).chain(&rule.when));
    let mut fields = entries.flat_map(|entry| &entry.matches);
    if mesh.settings.profile == Profile::Ambient || !fields.any(|field| field.attribute == Attribute::Http) {
        return None;
    }
    let members = mesh.workloads.iter().filter(|workload| workload.in_mesh);
    let selected: Vec<&Workload> =
        members.filter(|workload| selects(&policy.id.namespace, selector, workload, mesh)).collect();
    let mut ports: Vec<u16> = mesh.services.iter().flat_map(|service| &service.ports).map(|port| port.target).collect();
    ports.sort_unstable();
    ports.dedup();
    // Ports that no service has may carry HTTP as well; of them there is no list.
    ports.into_iter().find(|port| {
        selected.iter().any(|workload| {
            let class = class_of(mesh, workload, *port);
            class.service.is_some() && class.carries != Carries::Tcp
        })
    })
}

fn authentication<'p>(policy: &'p PeerAuthentication, findings: &[Finding], counts: &mut Counts<'p>) -> Condition {
    if findings.iter().any(|finding| finding.code == Code::RootSelectorIgnored) {
        return not_enforced("Ignored", "a policy with labels in the root namespace is ignored".to_owned());
    }
    let selector = Some(&policy.selector).filter(|labels| !labels.is_empty());
    counts.of(&policy.id.namespace, selector)
}

/// Whether a rule looks at the server name, which only a proxy sees.
fn reads_server_name(policy: &AuthorizationPolicy) -> bool {
    let conditions = policy.rules.iter().flat_map(|rule| &rule.when);
    conditions.flat_map(|entry| &entry.matches).any(|field| field.attribute == Attribute::ServerName)
}

/// How many of the selected workloads enforce the present generation.
fn counted(namespace: &str, selector: Option<&Labels>, mesh: &Mesh, standing: &[Standing]) -> Condition {
    let all = mesh.workloads.iter().zip(standing);
    let selected: Vec<_> = all.filter(|(workload, _)| selects(namespace, selector, workload, mesh)).collect();
    let members: Vec<_> = selected.iter().filter(|(workload, _)| workload.in_mesh).collect();
    let outside = selected.len() - members.len();
    let enforcing = members.iter().filter(|(_, standing)| **standing == Standing::Enforces).count();
    let count = format!("{enforcing}/{} proxies", members.len());
    let failed = members.iter().find_map(|(workload, standing)| match standing {
        Standing::Failed(error) => Some(format!("{}: {error}", workload.id)),
        Standing::Enforces | Standing::Pending => None,
    });
    if let Some(mut error) = failed {
        error.truncate(error.floor_char_boundary(ERROR_LENGTH_MAX));
        return not_enforced("Failed", format!("{count}; {error}"));
    }
    if enforcing < members.len() {
        return not_enforced("Pending", count);
    }
    let (reason, message) = match (members.len(), outside) {
        (0, 0) => ("NothingSelected", format!("{count}: it selects no pod")),
        (0, _) => return not_enforced("NotInMesh", format!("{count}: no pod that it selects is in the mesh")),
        (_, 0) => ("Enforced", count),
        (_, 1) => ("Enforced", format!("{count}; 1 selected pod is not in the mesh")),
        (_, many) => ("Enforced", format!("{count}; {many} selected pods are not in the mesh")),
    };
    Condition { kind: "Enforced", holds: true, reason, message }
}

/// S-24, S-26.
fn selects(namespace: &str, selector: Option<&Labels>, workload: &Workload, mesh: &Mesh) -> bool {
    let in_scope = namespace == mesh.settings.root_namespace || namespace == workload.id.namespace;
    in_scope && selector.is_none_or(|labels| carries(&workload.labels, labels))
}

fn not_enforced(reason: &'static str, message: String) -> Condition {
    Condition { kind: "Enforced", holds: false, reason, message }
}

/// The write that puts the conditions in place of those of the same type; none if they are there already.
fn write(key: &Key, object: &Object, conditions: &[Condition], now: &str) -> Option<Write> {
    let (before, generation) = (object.items_at("/status/conditions"), object.generation());
    if conditions.iter().all(|condition| before.iter().any(|said| is_said(condition, said, generation))) {
        return None;
    }
    let ours: Vec<Value> = conditions.iter().map(|condition| render(condition, before, generation, now)).collect();
    let is_ours = |value: &&Value| {
        conditions.iter().any(|condition| value.get("type").and_then(Value::as_str) == Some(condition.kind))
    };
    let all: Vec<Value> = before.iter().filter(|value| !is_ours(value)).cloned().chain(ours).collect();
    Some(Write::PatchStatus { key: key.clone(), patch: json!({ "status": { "conditions": all } }) })
}

/// Whether an object says a condition already, whenever it came about.
fn is_said(condition: &Condition, said: &Value, generation: i64) -> bool {
    let Condition { kind, reason, message, .. } = condition;
    let texts = [("type", *kind), ("status", status(condition)), ("reason", reason), ("message", message)];
    texts.iter().all(|(name, text)| said.get(name).and_then(Value::as_str) == Some(text))
        && said.get("observedGeneration").and_then(Value::as_i64) == Some(generation)
        && said.get("lastTransitionTime").is_some_and(Value::is_string)
}

fn status(condition: &Condition) -> &'static str {
    if condition.holds { "True" } else { "False" }
}

fn render(condition: &Condition, before: &[Value], generation: i64, now: &str) -> Value {
    let status = status(condition);
    let field = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let same = before.iter().find(|value| {
        field(value, "type").as_deref() == Some(condition.kind) && field(value, "status").as_deref() == Some(status)
    });
    let since = same.and_then(|value| field(value, "lastTransitionTime")).unwrap_or_else(|| now.to_owned());
    json!({
        "type": condition.kind,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": since,
        "reason": condition.reason,
        "message": condition.message,
    })
}
