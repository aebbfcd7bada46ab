//! Pods through the kubelet: a store made of a map, a real node, real processes. Needs root.
#![cfg(test)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::{Change, Event, Key, Object, Status, Write};
use local::kubelet::{Hooks, Kubelet, Logs};
use local::node::{Net4, Ranges};
use local::runtime::Runtime;
use local::runtime::exec::Command;
use local::{Node, NodeSettings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

/// It only bounds a hang.
const BOUND: Duration = Duration::from_mins(1);

/// When a start that has failed is tried again if nothing new comes.
const TRY_AGAIN: Duration = Duration::from_secs(10);

fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join("examples/pod_parts")
}

/// A store that is a map: writes are applied at once and their events go to the kubelet.
struct World {
    directory: tempfile::TempDir,
    settings: NodeSettings,
    runtime: Runtime,
    kubelet: Kubelet,
    node: Arc<Node>,
    store: Arc<Store>,
    /// How often a link was attached.
    attached: Arc<Mutex<u32>>,
}

struct Store {
    objects: Mutex<BTreeMap<String, Arc<Object>>>,
    changes: watch::Sender<u64>,
    told: Mutex<Vec<String>>,
    events: mpsc::UnboundedSender<Event>,
}

impl Store {
    fn put(&self, key: Key, mut object: Object) -> Arc<Object> {
        let mut objects = self.objects.lock().unwrap();
        let revision = *self.changes.borrow() + 1;
        object.set("/metadata/resourceVersion", revision.to_string());
        let new = Arc::new(object);
        let old = objects.insert(name(&key), Arc::clone(&new));
        self.events.send(Event { revision, key, change: Change::Put { old, new: Arc::clone(&new) } }).unwrap();
        self.changes.send_replace(revision);
        new
    }

    fn write(&self, write: Write) -> Result<Arc<Object>, Status> {
        match write {
            Write::Create(object) => {
                self.told.lock().unwrap().push(format!("{}: {}", object.str_at("/reason"), object.str_at("/message")));
                let key = Key::namespaced("", "events", object.namespace().unwrap(), object.name());
                Ok(self.put(key, object))
            }
            Write::PatchStatus { key, patch } => {
                let found = self.get(&key).ok_or_else(|| Status::not_found(&key))?;
                if patch.pointer("/metadata/uid").is_some_and(|uid| *uid != found.uid()) {
                    return Err(Status::conflict(&key));
                }
                let mut object = (*found).clone();
                object.set("/status", patch["status"].clone());
                Ok(self.put(key, object))
            }
            Write::End { key, uid } => {
                self.told.lock().unwrap().push(format!("End: {uid}"));
                self.changes.send_modify(|_| ());
                if self.get(&key).is_some_and(|found| found.uid() != uid) {
                    return Err(Status::conflict(&key));
                }
                let old = self.objects.lock().unwrap().remove(&name(&key)).ok_or_else(|| Status::not_found(&key))?;
                let revision = *self.changes.borrow() + 1;
                self.events.send(Event { revision, key, change: Change::Deleted { old: Arc::clone(&old) } }).unwrap();
                self.changes.send_replace(revision);
                Ok(old)
            }
            other => panic!("a kubelet does not write {other:?}"),
        }
    }

    fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.objects.lock().unwrap().get(&name(key)).cloned()
    }
}

fn name(key: &Key) -> String {
    format!("{}/{}/{}", key.plural, key.namespace.as_deref().unwrap_or(""), key.name)
}

impl World {
    fn new() -> Self {
        Self::with(|settings| settings)
    }

    fn with(change: impl FnOnce(NodeSettings) -> NodeSettings) -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-kubelet").tempdir().unwrap();
        let unique = u64::from(std::process::id()) << 16
            | u64::from(directory.path().to_str().unwrap().bytes().map(u16::from).sum::<u16>());
        let id = format!("{:08x}", unique & 0xffff_ffff).parse().unwrap();
        let settings = NodeSettings { run_dir: directory.path().join("run"), ..NodeSettings::of(id) };
        let settings = change(settings);
        std::fs::create_dir_all(&settings.run_dir).unwrap();
        let node = Arc::new(Node::up(&settings).unwrap());
        let data = directory.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let runtime = Runtime::new(&data, &settings.run_dir).with_program(&program());
        let (events, mut queue) = mpsc::unbounded_channel();
        let (changes, settled) = watch::channel(0);
        let store = Arc::new(Store { objects: Mutex::default(), changes, told: Mutex::default(), events });
        let (writer, finder, knower) = (Arc::clone(&store), Arc::clone(&store), Arc::clone(&store));
        let attached = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&attached);
        let hooks = Hooks {
            attach: Arc::new(move |_, _| {
                *counter.lock().unwrap() += 1;
                Box::pin(async { Ok(()) })
            }),
            detach: Arc::new(|_, _| Box::pin(async { Ok(()) })),
            // A word in the store stands for a data plane that still knows an address.
            dropped: Arc::new(move |_| {
                let is_known = knower.get(&Key::namespaced("", "configmaps", "foo", "known")).is_some();
                Box::pin(async move { !is_known })
            }),
            write: Arc::new(move |write| {
                let writer = Arc::clone(&writer);
                Box::pin(async move { writer.write(write) })
            }),
            settled,
            find: Arc::new(move |key| finder.get(key)),
            is_virtual: Arc::new(|pod, container| {
                container == "istio-proxy" && pod.pointer("/metadata/annotations/injected").is_some()
            }),
            virtual_logs: Arc::new(|_, _| None),
        };
        let kubelet = Kubelet::start(Arc::clone(&node), runtime.clone(), hooks);
        let observer = kubelet.clone();
        tokio::spawn(async move {
            while let Some(event) = queue.recv().await {
                observer.observe(&event);
            }
        });
        Self { directory, settings, runtime, kubelet, node, store, attached }
    }

    fn pod(&self, name: &str, spec: Value) -> Key {
        let mut pod = Object::named("v1", "Pod", Some("foo"), name);
        pod.set("/metadata/uid", format!("uid-{name}"));
        pod.set("/spec", spec);
        pod.set("/spec/nodeName", "tidegate");
        let key = Key::namespaced("", "pods", "foo", name);
        self.store.put(key.clone(), pod);
        key
    }

    /// Takes the object away by force, whatever its processes do.
    fn take_away(&self, key: &Key) {
        let old = self.store.objects.lock().unwrap().remove(&name(key)).unwrap();
        let revision = *self.store.changes.borrow() + 1;
        self.store.events.send(Event { revision, key: key.clone(), change: Change::Deleted { old } }).unwrap();
        self.store.changes.send_replace(revision);
    }

    fn config_map(&self, name: &str) {
        let mut map = Object::named("v1", "ConfigMap", Some("foo"), name);
        map.set("/data", json!({ "a": "b" }));
        self.store.put(Key::namespaced("", "configmaps", "foo", name), map);
    }

    fn delete(&self, key: &Key, grace: u64) {
        let mut pod = (*self.store.get(key).unwrap()).clone();
        pod.set("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z");
        pod.set("/metadata/deletionGracePeriodSeconds", grace);
        self.store.put(key.clone(), pod);
    }

    async fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let mut changes = self.store.changes.subscribe();
        let all = async {
            while !is() {
                changes.changed().await.unwrap();
            }
        };
        let came = tokio::time::timeout(BOUND, all).await;
        assert!(came.is_ok(), "never {what}: {:#?} {:?}", self.store.objects.lock().unwrap(), self.told());
    }

    async fn until_status(&self, key: &Key, pointer: &str, value: Value) {
        let pointer = format!("/status{pointer}");
        self.until(&format!("{pointer} = {value}"), || {
            self.store.get(key).is_some_and(|pod| *pod.at(&pointer) == value)
        })
        .await;
    }

    fn told(&self) -> Vec<String> {
        self.store.told.lock().unwrap().clone()
    }

    async fn exec(
        &self,
        key: &Key,
        container: &str,
        command: &[&str],
        input: Option<&str>,
    ) -> Result<(i32, String, String), Status> {
        let pod = self.store.get(key).unwrap();
        let command = Command {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            stdin: input.is_some(),
            tty: false,
        };
        let mut session = self.kubelet.exec(&pod, container, &command).await?;
        if let (Some(mut stdin), Some(input)) = (session.stdin.take(), input) {
            stdin.write_all(input.as_bytes()).await.unwrap();
            stdin.shutdown().await.unwrap();
        }
        let (mut output, mut errors) = (String::new(), String::new());
        session.stdout.read_to_string(&mut output).await.unwrap();
        session.stderr.unwrap().read_to_string(&mut errors).await.unwrap();
        Ok((session.exit.await.unwrap(), output, errors))
    }

    async fn log(&self, key: &Key, container: &str, wanted: Logs) -> Result<String, Status> {
        let pod = self.store.get(key).unwrap();
        let mut stream = self.kubelet.logs(&pod, container, wanted)?;
        let mut text = String::new();
        while let Some(piece) = stream.recv().await {
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        Ok(text)
    }

    /// Follows a log until it says something: what a program prints is in its log a moment after it was printed.
    async fn log_until(&self, key: &Key, container: &str, word: &str) -> String {
        let pod = self.store.get(key).unwrap();
        let mut stream = self.kubelet.logs(&pod, container, Logs { follow: true, ..Logs::default() }).unwrap();
        let mut text = String::new();
        let said = async {
            while !text.contains(word) {
                text.push_str(std::str::from_utf8(&stream.recv().await.unwrap()).unwrap());
            }
        };
        let came = tokio::time::timeout(BOUND, said).await;
        assert!(came.is_ok(), "the log never says `{word}`: {text}");
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.kubelet.leave()));
        if std::thread::panicking() {
            println!("told: {:#?}", self.told());
        }
        self.runtime.remove_all().unwrap();
        Node::remove(&self.settings).unwrap();
        let path = self.directory.path().to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let left: Vec<String> =
            lines.map(|line| String::from_utf8_lossy(&line).into_owned()).filter(|line| line.contains(path)).collect();
        assert_eq!(left, Vec::<String>::new(), "processes are left");
    }
}

fn sleeper() -> Value {
    json!({ "restartPolicy": "Always", "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "sleep", "image": "curlimages/curl", "command": ["/bin/sleep", "3650d"] }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walkthrough_s_two_pods_talk_as_soon_as_they_are_there() {
    let world = World::new();
    let echo = world.pod(
        "tcp-echo",
        json!({ "restartPolicy": "Always", "containers": [{
        "name": "tcp-echo", "image": "docker.io/istio/tcp-echo-server:1.2", "args": ["9000,9001,9002", "hello"] }] }),
    );
    let mut spec = sleeper();
    spec["volumes"] = json!([{ "name": "secret-volume", "secret": { "secretName": "absent", "optional": true } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "mountPath": "/etc/sleep/tls", "name": "secret-volume" }]);
    let sleep = world.pod("sleep", spec);
    // At once: exec itself waits for both.
    world.until("seen", || world.told().iter().filter(|told| told.starts_with("Scheduled")).count() == 2).await;
    let (code, name, errors) = world
        .exec(&sleep, "sleep", &["sh", "-c", "hostname; ls /etc/sleep/tls; awk 'BEGIN { print 1 }'"], None)
        .await
        .unwrap();
    assert_eq!((code, name.as_str(), errors.as_str()), (0, "sleep\n1\n", ""));
    let pod = world.store.get(&echo).unwrap();
    assert_eq!(pod.at("/status/phase"), "Running");
    assert_eq!(pod.at("/status/containerStatuses/0/ready"), true);
    let addresses: Vec<String> =
        pod.items_at("/status/podIPs").iter().map(|ip| ip["ip"].as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 2, "IPv4 and IPv6");
    for (address, port) in [(&addresses[0], "9000"), (&addresses[1], "9001"), (&addresses[0], "9002")] {
        let script = format!("echo \"port {port}\" | nc {address} {port}");
        let (code, output, errors) = world.exec(&sleep, "sleep", &["sh", "-c", &script], None).await.unwrap();
        assert_eq!((code, output, errors), (0, format!("hello port {port}\n"), String::new()), "{address}");
    }
    let (code, output, _) = world.exec(&sleep, "sleep", &["nc", &addresses[0], "9003"], Some("x\n")).await.unwrap();
    assert_eq!((code, output.as_str()), (1, ""));
    let told = world.told();
    assert!(told.iter().any(|told| told.starts_with("Pulled: image \"curlimages/curl\" is not pulled")), "{told:?}");
    let log = world.log_until(&echo, "tcp-echo", "request from ").await;
    assert!(log.starts_with("listening on 9000, prefix: hello\n"), "{log}");
    world.delete(&echo, 0);
    world.delete(&sleep, 0);
    world.until("gone", || world.store.get(&echo).is_none() && world.store.get(&sleep).is_none()).await;
    assert!(world.node.pod_links().is_empty(), "a pod that is gone has no link");
    assert!(!world.runtime.pod_dir("uid-sleep").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_reach_the_host_is_refused() {
    let world = World::new();
    let cases = [
        ("net", json!({ "hostNetwork": true })),
        ("pid", json!({ "hostPID": true })),
        ("ipc", json!({ "hostIPC": true })),
        ("path", json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] })),
        (
            "privileged",
            json!({ "containers": [{ "name": "c", "image": "busybox", "securityContext": { "privileged": true } }] }),
        ),
        (
            "admin",
            json!({ "containers": [{ "name": "c", "image": "busybox", "securityContext": { "capabilities": { "add": ["NET_ADMIN"] } } }] }),
        ),
        (
            "proxy",
            json!({ "containers": [{ "name": "istio-proxy", "image": "busybox", "securityContext": { "capabilities": { "add": ["CAP_SYS_ADMIN"] } } }] }),
        ),
    ];
    for (name, more) in cases {
        let mut spec = sleeper();
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let key = world.pod(name, spec);
        world.until_status(&key, "/phase", "Failed".into()).await;
        assert_eq!(world.store.get(&key).unwrap().at("/status/reason"), "Refused");
        let refused = world.exec(&key, "c", &["true"], None).await.unwrap_err();
        assert_eq!(refused.code(), 400);
    }
    assert_eq!(world.told().iter().filter(|told| told.starts_with("Refused: ")).count(), 7);
    assert!(world.node.pod_links().is_empty(), "nothing was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_image_fails_exec_at_once_and_says_what_to_do() {
    let world = World::new();
    let key =
        world.pod("web", json!({ "restartPolicy": "Always", "containers": [{ "name": "web", "image": "nginx" }] }));
    world.until_status(&key, "/containerStatuses/0/state/waiting/reason", "ErrImagePull".into()).await;
    let refused = world.exec(&key, "web", &["true"], None).await.unwrap_err();
    assert!(
        refused.message().contains("ErrImagePull") && refused.message().contains("curlimages/curl"),
        "{}",
        refused.message()
    );
    let refused = world.exec(&key, "other", &["true"], None).await.unwrap_err();
    assert_eq!(refused.message(), "container other is not valid for pod web");
    let refused = world.log(&key, "web", Logs::default()).await.unwrap_err();
    assert!(refused.message().contains("failing to pull image"), "{}", refused.message());
    world.delete(&key, 30);
    world.until("gone", || world.store.get(&key).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_restarts_and_exit_codes_are_true() {
    let world = World::new();
    let key = world.pod("job", json!({ "restartPolicy": "Never", "initContainers": [
        { "name": "first", "image": "busybox", "command": ["sh", "-c", "echo one > /shared/file"], "volumeMounts": [{ "name": "v", "mountPath": "/shared" }] }],
        "containers": [{ "name": "main", "image": "busybox", "command": ["sh", "-c"], "args": ["cat /shared/file; exit 4"],
            "volumeMounts": [{ "name": "v", "mountPath": "/shared" }] }],
        "volumes": [{ "name": "v", "emptyDir": {} }] }));
    world.until_status(&key, "/phase", "Failed".into()).await;
    let pod = world.store.get(&key).unwrap();
    assert_eq!(pod.at("/status/initContainerStatuses/0/state/terminated/exitCode"), 0);
    assert_eq!(pod.at("/status/containerStatuses/0/state/terminated/exitCode"), 4);
    assert_eq!(pod.at("/status/containerStatuses/0/state/terminated/reason"), "Error");
    assert_eq!(world.log(&key, "main", Logs { follow: true, ..Logs::default() }).await.unwrap(), "one\n");
    // A crash: restarted at once the first time, then backed off.
    let key = world.pod("crash", json!({ "restartPolicy": "Always", "containers": [{ "name": "c", "image": "busybox", "command": ["sh", "-c", "exit 9"] }] }));
    world.until_status(&key, "/containerStatuses/0/state/waiting/reason", "CrashLoopBackOff".into()).await;
    let pod = world.store.get(&key).unwrap();
    assert_eq!(pod.at("/status/containerStatuses/0/restartCount"), 1);
    assert_eq!(pod.at("/status/containerStatuses/0/lastState/terminated/exitCode"), 9);
    assert_eq!(pod.at("/status/containerStatuses/0/ready"), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_made_from_inside_and_virtual_containers_are_not_run() {
    let world = World::new();
    let spec = json!({ "restartPolicy": "Always", "terminationGracePeriodSeconds": 0,
        "initContainers": [{ "name": "istio-proxy", "image": "tidegate/proxy", "restartPolicy": "Always" }],
        "containers": [{ "name": "c", "image": "istio/tcp-echo-server", "args": ["9000", "x"],
            "readinessProbe": { "tcpSocket": { "port": 9000 }, "periodSeconds": 1 } },
            { "name": "never", "image": "busybox", "command": ["sleep", "1000"],
            "readinessProbe": { "tcpSocket": { "port": 9999 }, "periodSeconds": 1, "failureThreshold": 1 } }] });
    let key = world.pod("probed", spec.clone());
    let mut pod = (*world.store.get(&key).unwrap()).clone();
    pod.set("/metadata/annotations", json!({ "injected": "yes" }));
    pod.set("/metadata/uid", "uid-injected");
    let injected = Key::namespaced("", "pods", "foo", "injected");
    pod.set("/metadata/name", "injected");
    world.store.put(injected.clone(), pod);
    world.until_status(&injected, "/containerStatuses/0/ready", true.into()).await;
    let pod = world.store.get(&injected).unwrap();
    assert_eq!(pod.at("/status/initContainerStatuses/0/ready"), true);
    assert_eq!(pod.at("/status/containerStatuses/1/ready"), false);
    let refused = world.exec(&injected, "istio-proxy", &["true"], None).await.unwrap_err();
    assert!(refused.message().contains("not a process here"), "{}", refused.message());
    // Without injection a container of that name is one like any other: its image is not in the catalogue.
    world.until_status(&key, "/initContainerStatuses/0/state/waiting/reason", "ErrImagePull".into()).await;
    world.until("told", || world.told().iter().any(|told| told.starts_with("Unhealthy: Readiness probe failed"))).await;
    // Also while probes are being made, an end leaves nothing.
    world.delete(&injected, 0);
    world.delete(&key, 0);
    world.until("gone", || world.store.get(&injected).is_none() && world.store.get(&key).is_none()).await;
    assert!(!world.runtime.pod_dir("uid-injected").exists() && !world.runtime.pod_dir("uid-probed").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_taken_away_by_force_neither_ends_nor_speaks_for_the_next_of_its_name() {
    let world = World::new();
    let key = world.pod("same", sleeper());
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    let address = world.store.get(&key).unwrap().at("/status/podIP").clone();
    world.take_away(&key);
    let mut next = Object::named("v1", "Pod", Some("foo"), "same");
    next.set("/metadata/uid", "uid-next");
    // Of no node: nobody but the pod before could write about it.
    next.set("/spec", sleeper());
    world.store.put(key.clone(), next);
    world.until("over", || world.told().contains(&"End: uid-same".to_owned())).await;
    assert!(world.node.pod_links().is_empty());
    let left = world.store.get(&key).expect("the next pod was removed");
    assert_eq!(left.uid(), "uid-next");
    assert_ne!(*left.at("/status/podIP"), address, "it was given the address of the pod before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_waits_for_a_config_map_is_guarded_once_and_starts_when_it_comes() {
    let world = World::new();
    let mut spec = sleeper();
    spec["volumes"] = json!([{ "name": "late", "configMap": { "name": "late" } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "mountPath": "/late", "name": "late" }]);
    let key = world.pod("waits", spec);
    world.until_status(&key, "/containerStatuses/0/state/waiting/reason", json!("CreatePodError")).await;
    let begun = Instant::now();
    world.config_map("late");
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    assert!(begun.elapsed() < TRY_AGAIN, "noticed by the timer: {:?}", begun.elapsed());
    assert_eq!(*world.attached.lock().unwrap(), 1, "attached again while it is attached");
    let (code, output, errors) = world.exec(&key, "sleep", &["cat", "/late/a"], None).await.unwrap();
    assert_eq!((code, output.as_str(), errors.as_str()), (0, "b", ""));

    let mut spec = sleeper();
    spec["containers"][0]["env"] =
        json!([{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "later", "key": "a" } } }]);
    let key = world.pod("waits-too", spec);
    let waits = json!("CreateContainerConfigError");
    world.until_status(&key, "/containerStatuses/0/state/waiting/reason", waits).await;
    let begun = Instant::now();
    world.config_map("later");
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    assert!(begun.elapsed() < TRY_AGAIN, "noticed by the timer: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_two_survives_churn_without_rest_but_an_address_that_is_still_known_rests() {
    let world = World::with(|settings| {
        let mut ranges = Ranges::choose(settings.id, &[]).unwrap();
        ranges.pods_v4 = Net4 { prefix: 30, ..ranges.pods_v4 };
        NodeSettings { ranges: Some(ranges), ..settings }
    });
    let ready = json!(true);
    let stays = world.pod("stays", sleeper());
    world.until_status(&stays, "/containerStatuses/0/ready", ready.clone()).await;
    let begun = Instant::now();
    let mut last = world.pod("round-0", sleeper());
    for round in 1..=6 {
        world.until_status(&last, "/containerStatuses/0/ready", ready.clone()).await;
        // As a deployment does it: the next one is there before the last one is gone, and has to wait for its address.
        let next = world.pod(&format!("round-{round}"), sleeper());
        world.until_status(&next, "/containerStatuses/0/state/waiting/reason", json!("CreatePodError")).await;
        world.delete(&last, 0);
        last = next;
    }
    world.until_status(&last, "/containerStatuses/0/ready", ready).await;
    assert!(begun.elapsed() < TRY_AGAIN, "addresses rested, or were noticed by the timer: {:?}", begun.elapsed());
    world.config_map("known");
    world.delete(&last, 0);
    world.until("gone", || world.store.get(&last).is_none()).await;
    world.pod("next", sleeper());
    world.until("said", || world.told().iter().any(|told| told.contains("1 in use, 1 resting after use"))).await;
}
