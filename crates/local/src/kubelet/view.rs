//! What the kubelet knows of a pod: the one source of its status, of `exec` and of `logs`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::Object;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Hooks;

/// A pod as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct PodView {
    pub(super) addresses: Vec<String>,
    pub(super) started: Option<Timestamp>,
    pub(super) containers: Vec<ContainerView>,
    /// The pod will not run (any more), with reason and message.
    pub(super) failed: Option<(String, String)>,
    /// It was over before this kubelet saw it, and is not run again.
    pub(super) over: bool,
    /// All init containers are done.
    pub(super) initialized: bool,
    /// Revision of the store that holds the last status written.
    pub(super) published: u64,
    /// The last status written is of this view.
    pub(super) is_published: bool,
}

/// A container as it is.
#[derive(Debug, Clone)]
pub(super) struct ContainerView {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) role: Role,
    pub(super) is_virtual: bool,
    pub(super) state: State,
    pub(super) last: Option<State>,
    pub(super) restarts: u32,
    pub(super) ready: bool,
    /// It runs, and its startup probe, if it has one, has succeeded.
    pub(super) has_started: bool,
    /// Records of the run now, for `exec`.
    pub(super) run: Option<PathBuf>,
    pub(super) log: Option<PathBuf>,
    pub(super) log_before: Option<PathBuf>,
}

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container that goes on running: the next one waits until it has started, and it ends last.
    Sidecar,
    /// A plain container.
    Main,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        since: Timestamp,
        id: String,
    },
    Terminated {
        code: i32,
        signal: Option<i32>,
        reason: String,
        message: String,
        since: Timestamp,
        until: Timestamp,
        id: String,
    },
}

impl State {
    pub(super) fn waiting(reason: &str, message: &str) -> Self {
        Self::Waiting { reason: reason.to_owned(), message: message.to_owned() }
    }

    pub(super) fn completed(since: Timestamp, until: Timestamp, id: String) -> Self {
        let (reason, message) = ("Completed".to_owned(), String::new());
        Self::Terminated { code: 0, signal: None, reason, message, since, until, id }
    }

    /// Which run of its container it is of, if of any.
    pub(super) fn run(&self) -> Option<u32> {
        let (Self::Running { id, .. } | Self::Terminated { id, .. }) = self else { return None };
        id.rsplit('/').next()?.parse().ok()
    }

    /// Whether the first start is behind it, well or badly.
    pub(super) fn has_begun(&self) -> bool {
        match self {
            Self::Waiting { reason, .. } => !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing"),
            Self::Running { .. } | Self::Terminated { .. } => true,
        }
    }
}

impl PodView {
    pub(super) fn of(pod: &Object, hooks: &Hooks) -> Self {
        let list = |pointer: &'static str| pod.items_at(pointer).iter().map(move |container| (pointer, container));
        let containers = list("/spec/initContainers").chain(list("/spec/containers"));
        let view = |(list, container): (&str, &Value)| {
            let text = |name: &str| container.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let role = match (list, text("restartPolicy").as_str()) {
                ("/spec/initContainers", "Always") => Role::Sidecar,
                ("/spec/initContainers", _) => Role::Init,
                _ => Role::Main,
            };
            let has_init = !pod.items_at("/spec/initContainers").is_empty();
            let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
            ContainerView {
                is_virtual: (hooks.is_virtual)(pod.value(), &text("name")),
                name: text("name"),
                image: text("image"),
                image_id: String::new(),
                role,
                state: State::waiting(reason, ""),
                last: None,
                restarts: 0,
                ready: false,
                has_started: false,
                run: None,
                log: None,
                log_before: None,
            }
        };
        Self { containers: containers.map(view).collect(), ..Self::default() }
    }

    /// Whether nothing of the pod is still on its first start, and the store knows.
    pub(super) fn is_settled_start(&self) -> bool {
        let begun =
            self.failed.is_some() || self.over || self.containers.iter().all(|container| container.state.has_begun());
        begun && self.is_published
    }

    /// For each container that is a sidecar, what tells it to end.
    pub(super) fn sidecars(&self) -> BTreeMap<String, CancellationToken> {
        let sidecars = self.containers.iter().filter(|container| container.role == Role::Sidecar);
        sidecars.map(|container| (container.name.clone(), CancellationToken::new())).collect()
    }

    pub(super) fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|container| container.name == name)
    }
}
