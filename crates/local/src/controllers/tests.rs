//! Stories of a small cluster, told by a store and a kubelet that only tests know.

mod jobs;
mod stories;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Change, Event, Key, Kinds, Object, Objects, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::is_ready;
use super::{Changed, Cluster, Context, reconcile};
use crate::node::Ranges;

/// More looks than any story here needs; a loop that feeds itself runs into it.
const LOOKS_MAX: usize = 60;

/// A store and a kubelet, as far as controllers can tell.
struct World {
    objects: Objects,
    kinds: Kinds,
    revision: u64,
    seconds: i64,
    changed: Vec<Key>,
    cluster: Arc<Cluster>,
    /// Pods get addresses, and become ready, at once.
    runs: bool,
}

impl World {
    fn new() -> Self {
        let ranges = Ranges::choose("0badcafe".parse().unwrap(), &[]).unwrap();
        let (kernel, ca_pem) = ("6.1.0".to_owned(), "CA".to_owned());
        let cluster = Arc::new(Cluster { ranges, kernel, cpus: 2, memory_bytes: 1 << 30, ca_pem });
        let kinds = Kinds::builtin();
        let mut world =
            Self { objects: Objects::new(), kinds, revision: 0, seconds: 0, changed: Vec::new(), cluster, runs: true };
        world.make(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foo"},
            "spec": {"finalizers": ["kubernetes"]}}));
        for write in world.look(&Changed::everything()) {
            world.write(write);
        }
        world.settle();
        world
    }

    fn make(&mut self, object: Value) {
        self.write(Write::Create(Object::new(object).unwrap()));
    }

    /// Looks until nothing is wanted; returns how many looks wanted something.
    fn settle(&mut self) -> usize {
        for look in 0..LOOKS_MAX {
            if self.runs {
                self.run_pods();
            }
            let changed = Changed::keys(std::mem::take(&mut self.changed));
            let writes = self.look(&changed);
            if writes.is_empty() {
                assert_eq!(self.look(&Changed::everything()), [], "the keys did not tell everything");
                return look;
            }
            for write in writes {
                self.write(write);
            }
        }
        panic!("no fixpoint: {:?}", self.look(&Changed::everything()));
    }

    fn look(&mut self, changed: &Changed) -> Vec<Write> {
        // Time passes between looks: a status that tells the time of the look would never settle.
        self.seconds += 1;
        let now = Timestamp::from_second(1_800_000_000 + self.seconds).unwrap();
        let context = Context { now, seed: self.revision * 77, cluster: Arc::clone(&self.cluster) };
        reconcile(&self.objects, changed, &context)
    }

    fn put(&mut self, key: Key, mut object: Object) {
        self.revision += 1;
        object.set("/metadata/resourceVersion", self.revision.to_string());
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old {
            let rest = |object: &Object| (object.at("/spec").clone(), object.at("/subsets").clone());
            if rest(old) != rest(&object) {
                object.set("/metadata/generation", old.generation() + 1);
            }
        }
        self.changed.push(key.clone());
        let change = Change::Put { old, new: Arc::new(object) };
        self.objects.apply(&Event { revision: self.revision, key, change });
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::End { .. } => panic!("controllers end nothing by themselves"),
            Write::Create(mut object) => {
                let key = self.kinds.key_of(&object).unwrap();
                assert!(self.objects.get(&key).is_none(), "{key} is there already");
                object.set("/metadata/uid", format!("uid-{}", self.revision));
                object.set("/metadata/generation", 1);
                let born = api::time::seconds(Timestamp::from_second(1_800_000_000 + self.seconds).unwrap());
                object.set("/metadata/creationTimestamp", born);
                self.put(key, object);
            }
            Write::Replace(object) => {
                let key = self.kinds.key_of(&object).unwrap();
                assert_eq!(object.revision(), self.objects.get(&key).unwrap().revision(), "conflict");
                self.put(key, object);
            }
            Write::PatchStatus { key, patch } | Write::PatchMeta { key, patch } => {
                let mut value = self.objects.get(&key).unwrap().value().clone();
                api::patch::merge(&mut value, &patch);
                assert_ne!(&value, self.objects.get(&key).unwrap().value(), "an empty write to {key}: {patch}");
                self.put(key.clone(), Object::new(value).unwrap());
                self.end_if_free(&key);
            }
            Write::Delete { key, .. } => {
                let mut object = self.objects.get(&key).unwrap().as_ref().clone();
                object.set("/metadata/deletionTimestamp", "2027-01-01T00:00:00Z");
                self.put(key.clone(), object);
                self.end_if_free(&key);
            }
        }
    }

    fn end_if_free(&mut self, key: &Key) {
        let object = self.objects.get(key).unwrap();
        let held = object.finalizers().next().is_some() || !object.items_at("/spec/finalizers").is_empty();
        if object.is_deleting() && !held && (!key.is("", "pods") || self.runs) {
            let old = Arc::clone(object);
            self.revision += 1;
            self.changed.push(key.clone());
            self.objects.apply(&Event { revision: self.revision, key: key.clone(), change: Change::Deleted { old } });
        }
    }

    fn run_pods(&mut self) {
        for (number, pod) in self.pods().into_iter().enumerate() {
            if pod.str_at("/status/phase").is_empty() && !pod.str_at("/spec/nodeName").is_empty() {
                self.set_pod(&pod, number, true);
            }
        }
    }

    fn set_pod(&mut self, pod: &Object, number: usize, ready: bool) {
        let (v4, v6) = (format!("10.1.0.{}", number + 1), format!("fd00::{}", number + 1));
        let status = json!({"status": {"phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        let mut value = pod.value().clone();
        api::patch::merge(&mut value, &status);
        self.put(Key::namespaced("", "pods", "foo", pod.name()), Object::new(value).unwrap());
    }

    fn fail(&mut self, name: &str) {
        let mut pod = self.objects.find("", "pods", Some("foo"), name).unwrap().as_ref().clone();
        pod.set("/status/phase", "Failed");
        self.put(Key::namespaced("", "pods", "foo", name), pod);
    }

    fn pods(&self) -> Vec<Arc<Object>> {
        self.objects.in_namespace("", "pods", "foo").cloned().collect()
    }

    fn active(&self) -> usize {
        self.pods().iter().filter(|pod| !pod.is_deleting() && !super::plan::is_over(pod)).count()
    }

    fn get(&self, group: &str, plural: &str, name: &str) -> &Object {
        self.objects.find(group, plural, Some("foo"), name).unwrap_or_else(|| panic!("no {plural} {name}"))
    }

    fn count(&self, group: &str, plural: &str) -> usize {
        self.objects.in_namespace(group, plural, "foo").count()
    }

    /// Merges into an object, as a user does.
    fn edit(&mut self, group: &str, plural: &str, name: &str, patch: Value) {
        self.write(Write::PatchMeta { key: Key::namespaced(group, plural, "foo", name), patch });
    }
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "echo", "namespace": "foo",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "x"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "echo"}},
            "template": {"metadata": {"labels": {"app": "echo"}}, "spec": {"containers": [
                {"name": "echo", "image": "a", "ports": [{"name": "tcp", "containerPort": 9000}]}]}}}})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": "foo"},
        "spec": {"selector": {"app": "echo"}, "ports": [{"name": "tcp", "port": 80, "targetPort": "tcp"}]}})
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "echo", "image": image}]}}}})
}

#[test]
fn a_deployment_becomes_a_replica_set_becomes_pods() {
    let mut world = World::new();
    world.make(deployment(3));
    world.settle();
    let pods = world.pods();
    assert_eq!(pods.len(), 3);
    let sets: Vec<_> = world.objects.in_namespace("apps", "replicasets", "foo").cloned().collect();
    let [set] = sets.as_slice() else { panic!("{sets:?}") };
    let hash = set.label("pod-template-hash").unwrap();
    assert_eq!(set.name(), format!("echo-{hash}"));
    assert_eq!(set.at("/spec/selector/matchLabels"), &json!({"app": "echo", "pod-template-hash": hash}));
    assert_eq!(set.annotation("mine"), Some("x"));
    assert_eq!(set.annotation("kubectl.kubernetes.io/last-applied-configuration"), None);
    for pod in &pods {
        assert!(pod.name().starts_with(&format!("{}-", set.name())), "{}", pod.name());
        assert_eq!(pod.name().len(), set.name().len() + 6);
        assert_eq!(pod.label("pod-template-hash"), Some(hash));
        assert_eq!(pod.controller().unwrap().uid, set.uid());
        assert_eq!(pod.str_at("/spec/nodeName"), "tidegate");
    }
    let deployment = world.get("apps", "deployments", "echo");
    assert_eq!(deployment.annotation("deployment.kubernetes.io/revision"), Some("1"));
    let status = deployment.at("/status");
    for name in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        assert_eq!(status[name], 3, "{name}");
    }
    assert_eq!(status["unavailableReplicas"], Value::Null);
    assert_eq!(status["observedGeneration"], deployment.generation());
    let reasons: Vec<&Value> = status["conditions"].as_array().unwrap().iter().map(|c| &c["reason"]).collect();
    assert_eq!(reasons, ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);
}

#[test]
fn a_deleted_or_failed_pod_is_replaced_but_not_for_ever() {
    let mut world = World::new();
    world.make(deployment(2));
    world.settle();
    let victim = world.pods()[0].name().to_owned();
    world.write(Write::Delete { key: Key::namespaced("", "pods", "foo", &victim), now: false });
    world.settle();
    assert_eq!(world.active(), 2);
    assert!(world.pods().iter().all(|pod| pod.name() != victim));
    for round in 1..20 {
        let Some(victim) = world.pods().iter().find(|pod| pod.str_at("/status/phase") == "Running").cloned() else {
            break;
        };
        world.fail(victim.name());
        world.settle();
        assert!(world.pods().len() <= 2 + 5, "round {round}: {} pods", world.pods().len());
    }
    assert_eq!(world.pods().iter().filter(|pod| pod.str_at("/status/phase") == "Failed").count(), 7);
}

#[test]
fn scaling_down_takes_those_that_do_not_work_first() {
    let mut world = World::new();
    world.make(deployment(4));
    world.settle();
    let broken = world.pods().remove(2);
    world.set_pod(&broken, 2, false);
    world.settle();
    assert_eq!(world.get("apps", "deployments", "echo").at("/status/unavailableReplicas"), 1);
    world.edit("apps", "deployments", "echo", json!({"spec": {"replicas": 3}}));
    world.settle();
    assert_eq!(world.active(), 3);
    assert!(world.pods().iter().all(|pod| pod.name() != broken.name()));
    world.edit("apps", "deployments", "echo", json!({"spec": {"replicas": 0}}));
    world.settle();
    assert_eq!(world.active(), 0);
    assert_eq!(world.get("apps", "deployments", "echo").at("/status/replicas"), &Value::Null);
}

#[test]
fn a_rollout_keeps_its_bounds_at_every_look_and_goes_back_to_a_former_template() {
    let mut world = World::new();
    world.make(deployment(4));
    world.settle();
    let first = world.pods()[0].label("pod-template-hash").unwrap().to_owned();
    world.edit("apps", "deployments", "echo", image("b"));
    for _ in 0..LOOKS_MAX {
        world.run_pods();
        let ready = world.pods().iter().filter(|pod| is_ready(pod) && !pod.is_deleting()).count();
        assert!(ready >= 3, "at least 75 % work: {ready}");
        assert!(world.active() <= 5, "at most 125 %: {}", world.active());
        let changed = Changed::keys(std::mem::take(&mut world.changed));
        for write in world.look(&changed) {
            world.write(write);
        }
    }
    world.settle();
    assert!(world.pods().iter().all(|pod| pod.label("pod-template-hash") != Some(&first)));
    assert_eq!(world.get("apps", "deployments", "echo").annotation("deployment.kubernetes.io/revision"), Some("2"));
    assert_eq!(world.count("apps", "replicasets"), 2);
    world.edit("apps", "deployments", "echo", image("a"));
    // The patch replaced the list of containers: name the port again to be the first template.
    let whole = deployment(4)["spec"]["template"].clone();
    world.edit("apps", "deployments", "echo", json!({"spec": {"template": whole}}));
    world.settle();
    assert_eq!(world.active(), 4);
    assert!(world.pods().iter().all(|pod| pod.label("pod-template-hash") == Some(&first)));
    assert_eq!(world.get("apps", "deployments", "echo").annotation("deployment.kubernetes.io/revision"), Some("3"));
}

#[test]
fn a_rollout_that_never_gets_ready_stops_within_its_bounds() {
    let mut world = World::new();
    world.make(deployment(4));
    world.settle();
    world.runs = false;
    world.edit("apps", "deployments", "echo", image("broken"));
    world.settle();
    let working = world.pods().iter().filter(|pod| is_ready(pod) && !pod.is_deleting()).count();
    assert_eq!((working, world.active()), (3, 5));
    let reasons = world.get("apps", "deployments", "echo").items_at("/status/conditions").to_vec();
    assert!(reasons.iter().any(|condition| condition["reason"] == "ReplicaSetUpdated"), "{reasons:?}");
}

#[test]
fn a_restart_annotation_rolls_and_a_pause_does_not() {
    let restart = |at: &str| json!({"spec": {"template": {"metadata": {"annotations": {"restartedAt": at}}}}});
    let mut world = World::new();
    world.make(deployment(1));
    world.settle();
    let before = world.pods()[0].name().to_owned();
    world.edit("apps", "deployments", "echo", restart("1"));
    world.settle();
    assert_ne!(world.pods()[0].name(), before);
    let before = world.pods()[0].name().to_owned();
    world.edit("apps", "deployments", "echo", json!({"spec": {"paused": true}}));
    world.edit("apps", "deployments", "echo", restart("2"));
    world.edit("apps", "deployments", "echo", json!({"spec": {"replicas": 2}}));
    world.settle();
    assert_eq!(world.active(), 2);
    assert!(world.pods().iter().any(|pod| pod.name() == before));
    assert_eq!(world.count("apps", "replicasets"), 2);
}

#[test]
fn recreate_ends_all_before_it_begins_any() {
    let mut world = World::new();
    let mut wanted = deployment(3);
    wanted["spec"]["strategy"] = json!({"type": "Recreate"});
    world.make(wanted);
    world.settle();
    world.edit("apps", "deployments", "echo", image("b"));
    for _ in 0..LOOKS_MAX {
        world.run_pods();
        let hashes: BTreeSet<String> =
            world.pods().iter().map(|pod| pod.label("pod-template-hash").unwrap().to_owned()).collect();
        assert!(hashes.len() <= 1, "{hashes:?}");
        let changed = Changed::keys(std::mem::take(&mut world.changed));
        for write in world.look(&changed) {
            world.write(write);
        }
    }
    assert_eq!(world.settle(), 0);
    assert_eq!(world.active(), 3);
}

#[test]
fn old_templates_are_forgotten_beyond_the_limit() {
    let mut world = World::new();
    world.make(deployment(1));
    world.edit("apps", "deployments", "echo", json!({"spec": {"revisionHistoryLimit": 2}}));
    for version in 0..6 {
        world.edit("apps", "deployments", "echo", image(&version.to_string()));
        world.settle();
    }
    assert_eq!(world.count("apps", "replicasets"), 3);
}

#[test]
fn services_get_two_vips_and_slices_of_both_families() {
    let mut world = World::new();
    world.make(service());
    world.settle();
    let spec = world.get("", "services", "echo").at("/spec").clone();
    let ranges = world.cluster.ranges;
    assert!(ranges.services_v4.contains(spec["clusterIP"].as_str().unwrap().parse().unwrap()));
    assert!(ranges.services_v6.contains(spec["clusterIPs"][1].as_str().unwrap().parse().unwrap()));
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(world.count("discovery.k8s.io", "endpointslices"), 2, "empty ones");
    world.make(deployment(2));
    world.settle();
    let slices: Vec<_> = world.objects.in_namespace("discovery.k8s.io", "endpointslices", "foo").cloned().collect();
    assert_eq!(slices.len(), 2);
    for slice in &slices {
        let v6 = slice.str_at("/addressType") == "IPv6";
        assert_eq!(slice.label("kubernetes.io/service-name"), Some("echo"));
        assert_eq!(slice.at("/ports"), &json!([{"name": "tcp", "port": 9000, "protocol": "TCP"}]));
        assert_eq!(slice.items_at("/endpoints").len(), 2);
        for endpoint in slice.items_at("/endpoints") {
            assert_eq!(endpoint["conditions"], json!({"ready": true, "serving": true, "terminating": false}));
            assert_eq!(endpoint["addresses"][0].as_str().unwrap().contains(':'), v6);
        }
    }
    let subsets = world.get("", "endpoints", "echo").at("/subsets").clone();
    assert_eq!(subsets[0]["addresses"].as_array().unwrap().len(), 2);
    let pod = world.pods().remove(0);
    world.set_pod(&pod, 0, false);
    world.settle();
    let ready = |world: &World| {
        let slices = world.objects.in_namespace("discovery.k8s.io", "endpointslices", "foo");
        slices.flat_map(|slice| slice.items_at("/endpoints")).filter(|e| e["conditions"]["ready"] == true).count()
    };
    assert_eq!(ready(&world), 2, "one pod in two families");
    let subsets = world.get("", "endpoints", "echo").at("/subsets").clone();
    assert_eq!(subsets[0]["notReadyAddresses"].as_array().unwrap().len(), 1);
    world.write(Write::Delete { key: Key::namespaced("", "services", "foo", "echo"), now: false });
    world.settle();
    assert_eq!(world.count("discovery.k8s.io", "endpointslices"), 0);
    assert_eq!(world.count("", "endpoints"), 0);
}

#[test]
fn vips_are_never_given_twice_and_stay_what_they_are() {
    let mut world = World::new();
    let named = |name: &str, spec: Value| {
        let mut service = service();
        service["metadata"]["name"] = name.into();
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        service
    };
    for number in 0..50 {
        world.make(named(&format!("s{number}"), json!({})));
    }
    world.settle();
    let vips = |world: &World| -> BTreeMap<String, Value> {
        let services = world.objects.in_namespace("", "services", "foo");
        services.map(|s| (s.name().to_owned(), s.at("/spec/clusterIPs").clone())).collect()
    };
    let first = vips(&world);
    let distinct: BTreeSet<String> = first.values().map(Value::to_string).collect();
    assert_eq!(distinct.len(), 50);
    world.make(named("headless", json!({"clusterIP": "None"})));
    world.make(named("one", json!({"ipFamilyPolicy": "SingleStack"})));
    world.make(named("six", json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]})));
    world.make(named("elsewhere", json!({"type": "ExternalName", "externalName": "x"})));
    let taken = first["s7"][0].clone();
    world.make(named("foreign", json!({"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.1"]})));
    world.settle();
    let now = vips(&world);
    assert!(first.iter().all(|(name, vips)| now[name] == *vips));
    assert_eq!(now["headless"], json!(["None"]));
    assert_eq!(now["one"].as_array().unwrap().len(), 1);
    assert!(now["six"][0].as_str().unwrap().starts_with("fd"));
    assert_eq!(now["elsewhere"], Value::Null);
    assert_ne!(now["foreign"][0], "192.0.2.1", "an address of another mesh's range is replaced");
    world.write(Write::Delete { key: Key::namespaced("", "services", "foo", "s7"), now: false });
    world.settle();
    world.make(named("s7", json!({})));
    world.settle();
    assert_eq!(vips(&world)["s7"][0], taken);
}

#[test]
fn a_namespace_has_its_account_and_ca_and_ends_with_its_contents() {
    let mut world = World::new();
    world.get("", "serviceaccounts", "default");
    assert_eq!(world.get("", "configmaps", "kube-root-ca.crt").at("/data"), &json!({"ca.crt": "CA"}));
    world.write(Write::Delete { key: Key::namespaced("", "serviceaccounts", "foo", "default"), now: false });
    world.settle();
    world.get("", "serviceaccounts", "default");
    world.make(deployment(2));
    world.make(service());
    world.settle();
    world.runs = false;
    world.write(Write::Delete { key: Key::cluster("", "namespaces", "foo"), now: false });
    world.settle();
    let namespace = world.objects.find("", "namespaces", None, "foo").expect("pods still end");
    assert_eq!(namespace.items_at("/status/conditions")[0]["reason"], "SomeResourcesRemain");
    assert_eq!(world.active(), 0, "no new pods in a namespace that ends");
    world.runs = true;
    for pod in world.pods() {
        world.end_if_free(&Key::namespaced("", "pods", "foo", pod.name()));
    }
    world.settle();
    assert!(world.objects.find("", "namespaces", None, "foo").is_none());
    assert_eq!(world.objects.all().filter(|(key, _)| key.namespace.is_some()).count(), 0);
}

#[test]
fn what_is_owned_goes_with_its_owner() {
    let mut world = World::new();
    world.make(deployment(2));
    world.settle();
    world.write(Write::Delete { key: Key::namespaced("apps", "deployments", "foo", "echo"), now: false });
    world.settle();
    assert_eq!((world.count("apps", "replicasets"), world.pods().len()), (0, 0));
    let owned = |owner: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map", "namespace": "foo",
            "ownerReferences": [owner]}})
    };
    world.make(owned(json!({"apiVersion": "v1", "kind": "Pod", "name": "gone", "uid": "gone"})));
    world.settle();
    assert_eq!(world.count("", "configmaps"), 1, "born an orphan");
}
