//! Names of workloads as people write them: `x`, `deploy/x`, `pod/x`, `svc/x`, `x.ns`, `ns/x`.
//!
//! A name without a kind is a pod's, or that of what made the pod, or a service's, in this order.

use std::collections::BTreeSet;

use api::{Object, Objects};
use policy::WorkloadId;

use crate::admission::nearest::nearest_word;
use crate::inject::WORKLOADS;

/// Other words for kinds, as kubectl takes them; every kind with pods has its own word and its plural besides.
const SHORT: [(&str, &str); 8] = [
    ("po", "Pod"),
    ("deploy", "Deployment"),
    ("rs", "ReplicaSet"),
    ("sts", "StatefulSet"),
    ("ds", "DaemonSet"),
    ("cj", "CronJob"),
    ("rc", "ReplicationController"),
    ("svc", SERVICE),
];
const SERVICE: &str = "Service";
/// Makers above one another: a `CronJob` makes `Jobs`, which make pods.
const MAKERS_DEEP_MAX: usize = 3;
/// Names that an error lists.
const LISTED_MAX: usize = 12;

/// The workloads that a name stands for, at least one, sorted; otherwise a sentence on why not.
pub fn workloads(name: &str, namespace: &str, objects: &Objects) -> Result<Vec<WorkloadId>, String> {
    let wanted = Wanted::parse(name, namespace, objects);
    let pods: Vec<(WorkloadId, &Object)> = objects
        .list("", "pods")
        .filter(|pod| !matches!(pod.str_at("/status/phase"), "Failed" | "Succeeded"))
        .map(|pod| (WorkloadId::new(pod.namespace().unwrap_or_default(), pod.name()), pod.as_ref()))
        .collect();
    for found in [pods_named, made_by, served_by] {
        let all: BTreeSet<WorkloadId> = found(&wanted, &pods, objects).into_iter().collect();
        if !all.is_empty() {
            return Ok(all.into_iter().collect());
        }
    }
    Err(wanted.not_found(name, &pods, objects))
}

struct Wanted<'a> {
    kind: Option<&'a str>,
    namespace: &'a str,
    name: &'a str,
}

type Pods<'a> = [(WorkloadId, &'a Object)];

impl<'a> Wanted<'a> {
    fn parse(text: &'a str, namespace: &'a str, objects: &Objects) -> Self {
        let (kind, rest) = match text.split_once('/') {
            Some((first, rest)) => match kind_of(first) {
                Some(kind) => (Some(kind), rest),
                None => return Self { kind: None, namespace: first, name: rest },
            },
            None => (None, text),
        };
        // `x.ns`, unless there is a pod whose name has a dot.
        let whole = objects.find("", "pods", Some(namespace), rest).is_some();
        match rest.rsplit_once('.').filter(|_| !whole) {
            Some((name, namespace)) => Self { kind, namespace, name },
            None => Self { kind, namespace, name: rest },
        }
    }

    fn wants(&self, kind: &str) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
    }

    fn not_found(&self, text: &str, pods: &Pods<'_>, objects: &Objects) -> String {
        if pods.is_empty() {
            return format!(
                "`{text}`: there are no workloads in what was read; name their manifests too, or give an identity or an address"
            );
        }
        let mut here: BTreeSet<&str> = BTreeSet::new();
        for (id, pod) in pods.iter().filter(|(id, _)| id.namespace == self.namespace) {
            here.extend(makers(pod, objects).into_iter().map(|(_, name)| name));
            here.insert(&id.name);
        }
        if let Some((id, _)) = pods.iter().find(|(id, pod)| {
            id.name == self.name || makers(pod, objects).into_iter().any(|(_, name)| name == self.name)
        }) && id.namespace != self.namespace
        {
            return format!(
                "no workload `{text}` in namespace {}; did you mean `{}/{}`?",
                self.namespace, id.namespace, self.name
            );
        }
        if let Some(near) = nearest_word(self.name, here.iter().copied()) {
            return format!("no workload `{text}`; did you mean `{}/{near}`?", self.namespace);
        }
        let names: Vec<String> = pods.iter().map(|(id, _)| id.to_string()).take(LISTED_MAX).collect();
        let more = if pods.len() > LISTED_MAX { ", .." } else { "" };
        format!("no workload `{text}`; there are: {}{more}", names.join(", "))
    }
}

/// Whether a word before a slash is that of a kind: otherwise it is a namespace.
pub fn is_kind(word: &str) -> bool {
    kind_of(word).is_some()
}

fn kind_of(word: &str) -> Option<&'static str> {
    let lower = word.to_ascii_lowercase();
    let short = SHORT.iter().find(|(short, _)| *short == lower).map(|(_, kind)| *kind);
    let known = || WORKLOADS.iter().map(|known| known.1).chain([SERVICE]);
    short.or_else(|| {
        known().find(|kind| kind.eq_ignore_ascii_case(word) || format!("{kind}s").eq_ignore_ascii_case(word))
    })
}

fn pods_named(wanted: &Wanted<'_>, pods: &Pods<'_>, _objects: &Objects) -> Vec<WorkloadId> {
    let is = |id: &&WorkloadId| wanted.wants("Pod") && id.namespace == wanted.namespace && id.name == wanted.name;
    pods.iter().map(|(id, _)| id).filter(is).cloned().collect()
}

fn made_by(wanted: &Wanted<'_>, pods: &Pods<'_>, objects: &Objects) -> Vec<WorkloadId> {
    let is =
        |pod: &Object| makers(pod, objects).into_iter().any(|(kind, name)| wanted.wants(kind) && name == wanted.name);
    pods.iter().filter(|(id, pod)| id.namespace == wanted.namespace && is(pod)).map(|(id, _)| id.clone()).collect()
}

fn served_by(wanted: &Wanted<'_>, pods: &Pods<'_>, objects: &Objects) -> Vec<WorkloadId> {
    let service = objects.find("", "services", Some(wanted.namespace), wanted.name).filter(|_| wanted.wants(SERVICE));
    let Some(selector) = service.and_then(|service| service.at("/spec/selector").as_object()) else {
        return Vec::new();
    };
    let serves =
        |pod: &Object| !selector.is_empty() && selector.iter().all(|(key, value)| pod.label(key) == value.as_str());
    pods.iter().filter(|(id, pod)| id.namespace == wanted.namespace && serves(pod)).map(|(id, _)| id.clone()).collect()
}

/// What made a pod, and what made that: kind and name.
fn makers<'a>(pod: &'a Object, objects: &'a Objects) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut current = Some(pod);
    for _ in 0..MAKERS_DEEP_MAX {
        let Some(maker) = current.and_then(Object::controller) else { break };
        found.push((maker.kind, maker.name));
        let group = maker.api_version.split_once('/').map_or("", |(group, _)| group);
        let known = WORKLOADS.iter().find(|known| known.0 == group && known.1 == maker.kind);
        current = known.and_then(|known| objects.find(group, known.2, pod.namespace(), maker.name)).map(AsRef::as_ref);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::workloads;
    use crate::bundle::{Text, read};

    const TEXT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: foo}
spec: {template: {metadata: {labels: {app: web}}, spec: {}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: foo}
spec: {template: {metadata: {labels: {app: db}}, spec: {}}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: bar}
---
apiVersion: v1
kind: Pod
metadata: {name: a.b, namespace: foo}
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: foo}
spec: {selector: {app: db}, ports: [{port: 1}]}
---
apiVersion: v1
kind: List
items:
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: live, namespace: foo, uid: d}, spec: {}}
- {apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: live-1, namespace: foo, uid: r, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: live, uid: d, controller: true}]}, spec: {}}
- {apiVersion: v1, kind: Pod, metadata: {name: live-1-x, namespace: foo, uid: x, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: live-1, uid: r, controller: true}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: live-1-y, namespace: foo, uid: y, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: live-1, uid: r, controller: true}]}}
";

    #[test]
    fn every_way_to_name_a_workload() {
        let bundle = read(vec![Text { name: "a".to_owned(), bytes: TEXT.as_bytes().to_vec() }], "foo");
        for (name, expected) in [
            ("web", "foo/web"),
            ("deploy/web", "foo/web"),
            ("Deployments/web", "foo/web"),
            ("pod/web", "foo/web"),
            ("web.foo", "foo/web"),
            ("foo/web", "foo/web"),
            ("deploy/web.foo", "foo/web"),
            ("sts/db", "foo/db"),
            ("db.bar", "bar/db"),
            ("bar/db", "bar/db"),
            ("store", "foo/db"),
            ("svc/store.foo", "foo/db"),
            ("a.b", "foo/a.b"),
            ("live", "foo/live-1-x foo/live-1-y"),
            ("deploy/live", "foo/live-1-x foo/live-1-y"),
            ("rs/live-1", "foo/live-1-x foo/live-1-y"),
            ("live-1-x", "foo/live-1-x"),
        ] {
            let found = workloads(name, "foo", bundle.objects())
                .map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref(), Ok(expected), "{name}");
        }
        for (name, words) in [
            ("wed", "did you mean `foo/web`"),
            ("ds/web", "did you mean `foo/web`"),
            ("web.bar", "did you mean `foo/web`"),
            ("nothing-like-it", "there are: bar/db, foo/a.b"),
        ] {
            let why = workloads(name, "foo", bundle.objects()).unwrap_err();
            assert!(why.contains(words), "{name}: {why}");
        }
        assert!(workloads("x", "foo", &api::Objects::new()).unwrap_err().contains("no workloads"));
    }
}
