//! A world for the kubelet: a store made of a map, a real node, real processes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{Change, Event, Key, Object, Status, Write};
use local::kubelet::{Adoption, Hooks, Kubelet, Logs};
use local::runtime::Runtime;
use local::runtime::exec::Command;
use local::{Node, NodeSettings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

/// It only bounds a hang.
const BOUND: Duration = Duration::from_mins(1);

fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join("examples/pod_parts")
}

/// A store that is a map: writes are applied at once and their events go to the kubelet.
pub(crate) struct World {
    directory: tempfile::TempDir,
    settings: NodeSettings,
    pub(crate) runtime: Runtime,
    hooks: Hooks,
    kubelet: Kubelet,
    pub(crate) node: Arc<Node>,
    pub(crate) store: Arc<Store>,
    /// How often a link was attached.
    pub(crate) attached: Arc<Mutex<u32>>,
}

pub(crate) struct Store {
    pub(crate) objects: Mutex<BTreeMap<String, Arc<Object>>>,
    pub(crate) changes: watch::Sender<u64>,
    told: Mutex<Vec<String>>,
    events: Mutex<mpsc::UnboundedSender<Event>>,
}

impl Store {
    fn tell(&self, event: Event) {
        // Between two kubelets nobody listens.
        drop(self.events.lock().unwrap().send(event));
    }

    pub(crate) fn put(&self, key: Key, mut object: Object) -> Arc<Object> {
        let mut objects = self.objects.lock().unwrap();
        let revision = *self.changes.borrow() + 1;
        object.set("/metadata/resourceVersion", revision.to_string());
        let new = Arc::new(object);
        let old = objects.insert(name(&key), Arc::clone(&new));
        self.tell(Event { revision, key, change: Change::Put { old, new: Arc::clone(&new) } });
        self.changes.send_replace(revision);
        new
    }

    pub(crate) fn write(&self, write: Write) -> Result<Arc<Object>, Status> {
        match write {
            Write::Create(object) => {
                self.told.lock().unwrap().push(format!("{}: {}", object.str_at("/reason"), object.str_at("/message")));
                let key = Key::namespaced("", "events", object.namespace().unwrap(), object.name());
                Ok(self.put(key, object))
            }
            Write::PatchMeta { key, patch } => {
                let mut object = (*self.get(&key).ok_or_else(|| Status::not_found(&key))?).clone().into_value();
                api::patch::merge(&mut object, &patch);
                let object = Object::new(object).unwrap();
                self.told.lock().unwrap().push(format!("{}: {}", object.str_at("/reason"), object.str_at("/message")));
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
                self.tell(Event { revision, key, change: Change::Deleted { old: Arc::clone(&old) } });
                self.changes.send_replace(revision);
                Ok(old)
            }
            other => panic!("a kubelet does not write {other:?}"),
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.objects.lock().unwrap().get(&name(key)).cloned()
    }
}

fn name(key: &Key) -> String {
    format!("{}/{}/{}", key.plural, key.namespace.as_deref().unwrap_or(""), key.name)
}

fn observe(kubelet: Kubelet, mut queue: mpsc::UnboundedReceiver<Event>) {
    tokio::spawn(async move {
        while let Some(event) = queue.recv().await {
            kubelet.observe(&event);
        }
    });
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|settings| settings)
    }

    pub(crate) fn with(change: impl FnOnce(NodeSettings) -> NodeSettings) -> Self {
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
        let (events, queue) = mpsc::unbounded_channel();
        let (changes, settled) = watch::channel(0);
        let store =
            Arc::new(Store { objects: Mutex::default(), changes, told: Mutex::default(), events: Mutex::new(events) });
        let (writer, finder, knower) = (Arc::clone(&store), Arc::clone(&store), Arc::clone(&store));
        let attached = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&attached);
        let hooks = Hooks {
            attach: Arc::new(move |_, _| {
                *counter.lock().unwrap() += 1;
                Box::pin(async { Ok(()) })
            }),
            detach: Arc::new(|_, _| Box::pin(async { Ok(()) })),
            sever: Arc::new(|_| Box::pin(async { Ok(()) })),
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
        let kubelet = Kubelet::start(Arc::clone(&node), runtime.clone(), hooks.clone());
        observe(kubelet.clone(), queue);
        Self { directory, settings, runtime, hooks, kubelet, node, store, attached }
    }

    /// Another kubelet in the place of this one, which ends without a word to its pods; `meanwhile` nobody looks after them.
    pub(crate) async fn succeed(&mut self, meanwhile: impl FnOnce(&Self)) -> Adoption {
        self.kubelet.leave().await;
        let (events, queue) = mpsc::unbounded_channel();
        *self.store.events.lock().unwrap() = events;
        meanwhile(self);
        self.node = Arc::new(Node::up(&self.settings).unwrap());
        let data = self.directory.path().join("data");
        self.runtime = Runtime::new(&data, &self.settings.run_dir).with_program(&program());
        self.kubelet = Kubelet::start(Arc::clone(&self.node), self.runtime.clone(), self.hooks.clone());
        let objects: Vec<_> = self.store.objects.lock().unwrap().values().cloned().collect();
        let pods: Vec<_> = objects.into_iter().filter(|object| object.kind() == "Pod").collect();
        let adoption = self.kubelet.adopt(&pods).await.unwrap();
        for pod in pods {
            let key = Key::namespaced("", "pods", "foo", pod.name());
            let change = Change::Put { old: None, new: pod };
            self.kubelet.observe(&Event { revision: *self.store.changes.borrow(), key, change });
        }
        observe(self.kubelet.clone(), queue);
        adoption
    }

    pub(crate) fn pod(&self, name: &str, spec: Value) -> Key {
        let mut pod = Object::named("v1", "Pod", Some("foo"), name);
        pod.set("/metadata/uid", format!("uid-{name}"));
        pod.set("/spec", spec);
        pod.set("/spec/nodeName", "tidegate");
        let key = Key::namespaced("", "pods", "foo", name);
        self.store.put(key.clone(), pod);
        key
    }

    /// Takes the object away by force, whatever its processes do.
    pub(crate) fn take_away(&self, key: &Key) {
        let old = self.store.objects.lock().unwrap().remove(&name(key)).unwrap();
        let revision = *self.store.changes.borrow() + 1;
        self.store.tell(Event { revision, key: key.clone(), change: Change::Deleted { old } });
        self.store.changes.send_replace(revision);
    }

    pub(crate) fn config_map(&self, name: &str) {
        let mut map = Object::named("v1", "ConfigMap", Some("foo"), name);
        map.set("/data", json!({ "a": "b" }));
        self.store.put(Key::namespaced("", "configmaps", "foo", name), map);
    }

    pub(crate) fn delete(&self, key: &Key, grace: u64) {
        let mut pod = (*self.store.get(key).unwrap()).clone();
        pod.set("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z");
        pod.set("/metadata/deletionGracePeriodSeconds", grace);
        self.store.put(key.clone(), pod);
    }

    pub(crate) async fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let mut changes = self.store.changes.subscribe();
        let all = async {
            while !is() {
                changes.changed().await.unwrap();
            }
        };
        let came = tokio::time::timeout(BOUND, all).await;
        assert!(came.is_ok(), "never {what}: {:#?} {:?}", self.store.objects.lock().unwrap(), self.told());
    }

    pub(crate) async fn until_status(&self, key: &Key, pointer: &str, value: Value) {
        let pointer = format!("/status{pointer}");
        self.until(&format!("{pointer} = {value}"), || {
            self.store.get(key).is_some_and(|pod| *pod.at(&pointer) == value)
        })
        .await;
    }

    pub(crate) fn told(&self) -> Vec<String> {
        self.store.told.lock().unwrap().clone()
    }

    pub(crate) async fn exec(
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
            match stdin.write_all(input.as_bytes()).await {
                // A program may end without reading what it is given.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                given => given.unwrap(),
            }
            drop(stdin);
        }
        let (mut output, mut errors) = (String::new(), String::new());
        session.stdout.read_to_string(&mut output).await.unwrap();
        session.stderr.unwrap().read_to_string(&mut errors).await.unwrap();
        Ok((session.exit.await.unwrap(), output, errors))
    }

    pub(crate) async fn log(&self, key: &Key, container: &str, wanted: Logs) -> Result<String, Status> {
        let pod = self.store.get(key).unwrap();
        let mut stream = self.kubelet.logs(&pod, container, wanted)?;
        let mut text = String::new();
        while let Some(piece) = stream.recv().await {
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        Ok(text)
    }

    /// Follows a log until it says something: what a program prints is in its log a moment after it was printed.
    pub(crate) async fn log_until(&self, key: &Key, container: &str, word: &str) -> String {
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

pub(crate) fn sleeper() -> Value {
    json!({ "restartPolicy": "Always", "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "sleep", "image": "curlimages/curl", "command": ["/bin/sleep", "3650d"] }] })
}
