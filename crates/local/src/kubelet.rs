//! What a kubelet does: a task for each pod of this node, from its link to its last process, and the truth about it in
//! its status.
//!
//! Order of a start: link → attach (guard, and a table that refuses everything) → addresses into the status → wait until
//! every table knows them → processes. Order of an end: processes → detach → unlink → the object goes.
//!
//! Not here: which pods there are (`controllers`), how processes are made (`runtime`), what images mean (`images`).

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Change, Event, Key, Object, Status, Write};
use serde_json::Value;
use tokio::sync::watch;

use crate::controllers::NODE_NAME;
use crate::images::{Store, Turn};
use crate::node::{Node, PodLink};
use crate::runtime::Runtime;
use view::PodView;

mod access;
mod adopt;
mod container;
mod image;
mod order;
pub(crate) mod plan;
mod pod;
pub(crate) mod probe;
mod report;
mod stored;
mod told;
mod view;
mod volumes;

pub use access::{LogStream, Logs, since};
pub use adopt::Adoption;

/// A future that a hook returns.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the kubelet asks of the rest of the mesh.
#[derive(Clone)]
pub struct Hooks {
    /// Guards a pod's link before its first process.
    pub attach: LinkHook,
    /// Lets go of a pod's link after its last process.
    pub detach: LinkHook,
    /// Resets connections with the addresses of a link that is taken away without having been attached here.
    pub sever: SeverHook,
    /// Whether nothing knows the addresses of a link any more, once the pod's object is gone.
    pub dropped: DroppedHook,
    /// Writes to the store, as the system.
    pub write: WriteHook,
    /// The newest revision whose consequences are in force.
    pub settled: watch::Receiver<u64>,
    /// An object as it is now (configuration, secrets).
    pub find: FindHook,
    /// Whether a container of a pod stands for the data plane and is never run: `control::inject::is_virtual`.
    pub is_virtual: VirtualHook,
    /// What a virtual container of a pod has to say: lines so far, and then as they come.
    pub virtual_logs: LogsHook,
}

/// Does something with a pod's link.
pub type LinkHook = Arc<dyn Fn(Arc<Object>, PodLink) -> Boxed<Result<(), String>> + Send + Sync>;
/// Resets what is connected with a link.
pub type SeverHook = Arc<dyn Fn(PodLink) -> Boxed<Result<(), String>> + Send + Sync>;
/// Says whether the addresses of a link are known nowhere any more.
pub type DroppedHook = Arc<dyn Fn(PodLink) -> Boxed<bool> + Send + Sync>;
/// Writes to the store.
pub type WriteHook = Arc<dyn Fn(Write) -> Boxed<Result<Arc<Object>, Status>> + Send + Sync>;
/// Finds an object.
pub type FindHook = Arc<dyn Fn(&Key) -> Option<Arc<Object>> + Send + Sync>;
/// Judges a container of a pod by its name.
pub type VirtualHook = Arc<dyn Fn(&Value, &str) -> bool + Send + Sync>;
/// Opens the log of a virtual container, named by pod and container.
pub type LogsHook = Arc<dyn Fn(&Arc<Object>, &str) -> Option<LogStream> + Send + Sync>;

impl std::fmt::Debug for Hooks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// The kubelet of the one node; clones are the same.
#[derive(Debug, Clone)]
pub struct Kubelet {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: Arc<Node>,
    runtime: Runtime,
    hooks: Hooks,
    pods: Mutex<HashMap<String, Entry>>,
    /// Pods that live on from an earlier kubelet, until they are observed.
    adopted: Mutex<HashMap<String, adopt::Adopted>>,
    told: told::Told,
    /// Counts what may let a start succeed that has failed: configuration that came, an address that became free.
    new: watch::Sender<u64>,
    images: Store,
    /// Counts what came among the images.
    images_new: watch::Sender<u64>,
    pulls: Turn,
}

impl Inner {
    fn tell_new(&self) {
        self.new.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn take_adopted(&self, uid: &str) -> Option<adopt::Adopted> {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner).remove(uid)
    }
}

/// One pod's task, by what it is told and what it tells.
#[derive(Debug)]
struct Entry {
    object: watch::Sender<Arc<Object>>,
    view: watch::Receiver<PodView>,
    task: tokio::task::JoinHandle<()>,
}

/// How long an `exec` waits for what is still starting (kernel-path.md, "Probes and mesh settings").
const START_BOUND: Duration = Duration::from_secs(10);

impl Kubelet {
    /// A kubelet without pods; [`Self::observe`] brings them. Runs on the current tokio runtime.
    pub fn start(node: Arc<Node>, runtime: Runtime, hooks: Hooks) -> Self {
        let images = Store::of(runtime.data_dir());
        let (told, new, images_new) = (told::Told::default(), watch::Sender::new(0), watch::Sender::new(0));
        Self {
            inner: Arc::new(Inner {
                node,
                runtime,
                hooks,
                pods: Mutex::default(),
                adopted: Mutex::default(),
                told,
                new,
                images,
                images_new,
                pulls: Turn::default(),
            }),
        }
    }

    /// Says that there may be an image that was not there before: pods that wait for one look again.
    pub fn tell_of_images(&self) {
        self.inner.images_new.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The images that pods are run from.
    pub fn images(&self) -> &Store {
        &self.inner.images
    }

    /// Takes in one event of the store, which [`Hooks::find`] already knows of.
    pub fn observe(&self, event: &Event) {
        if event.key.is("", "configmaps") || event.key.is("", "secrets") {
            self.inner.tell_new();
        }
        if !event.key.is("", "pods") {
            return;
        }
        match &event.change {
            Change::Put { new, .. } => self.observe_pod(new),
            Change::Deleted { old } => self.forget(old),
        }
    }

    /// Whether every pod that is starting is up or has failed, as the store and the tables know; `false` after `bound`.
    pub async fn quiet(&self, bound: Duration) -> bool {
        let views: Vec<_> = self.pods().values().map(|entry| entry.view.clone()).collect();
        let mut settled = self.inner.hooks.settled.clone();
        let all = async {
            for mut view in views {
                // A pod whose task has ended is no longer starting.
                let Ok(revision) = view.wait_for(PodView::is_settled_start).await.map(|view| view.published) else {
                    continue;
                };
                drop(settled.wait_for(|&settled| settled >= revision).await.map(|_| ()));
            }
        };
        tokio::time::timeout(bound, all).await.is_ok()
    }

    /// Stops looking after pods without ending any, and returns when nothing is done for them any more: for an end of the
    /// daemon, after which pods live on or are removed by [`Runtime::remove_all`].
    pub async fn leave(&self) {
        self.inner.runtime.close();
        let entries: Vec<Entry> = self.pods().drain().map(|(_, entry)| entry).collect();
        for entry in entries {
            entry.task.abort();
            // Aborted or ended: either way it is over.
            drop(entry.task.await);
        }
    }

    fn observe_pod(&self, pod: &Arc<Object>) {
        if pod.str_at("/spec/nodeName") != NODE_NAME || pod.uid().is_empty() {
            return;
        }
        let mut pods = self.pods();
        if self.inner.runtime.is_closed() {
            // What has been left is another kubelet's.
            return;
        }
        if let Some(entry) = pods.get(pod.uid()) {
            entry.object.send_replace(Arc::clone(pod));
            return;
        }
        let adopted = self.inner.take_adopted(pod.uid());
        let mut view = PodView::of(pod, &self.inner.hooks);
        if adopted.is_some() || stored::is_over(pod) {
            stored::restore(&mut view, pod, &pod::log_dir(&self.inner, pod));
        }
        let (object, objects) = watch::channel(Arc::clone(pod));
        let (views, view) = watch::channel(view);
        let task = tokio::spawn(pod::run(Arc::clone(&self.inner), objects, views, adopted));
        pods.insert(pod.uid().to_owned(), Entry { object, view, task });
    }

    /// The object is gone: by the task's own last write, or taken away by force; then the task must end the pod yet.
    fn forget(&self, pod: &Object) {
        if let Some(entry) = self.pods().remove(pod.uid()) {
            // Dropping the sender tells the task, which goes on until nothing of the pod is left.
            drop(entry.object);
        }
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // A panic while it was held leaves a whole map.
        self.inner.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(pod: &Object) -> Key {
    Key::namespaced("", "pods", pod.namespace().unwrap_or("default"), pod.name())
}
