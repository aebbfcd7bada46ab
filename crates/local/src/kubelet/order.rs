//! The containers of a pod in their order: init containers one after the other, sidecars among them, then all the others at once; and
//! the sidecars' end, the last one's first.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::container::{self, Shared};
use super::pod::change;
use super::view::{ContainerView, PodView, Role, State};

/// Runs the containers in their order until the pod is to end. Sidecars end when nothing else of the pod goes on, the
/// last one first.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut sidecars = Vec::new();
    if initialize(shared, &mut sidecars).await {
        serve(shared).await;
    }
    stand_down(shared);
    for (name, sidecar) in sidecars.into_iter().rev() {
        shared.ending(&name).cancel();
        drop(sidecar.await);
    }
    shared.ending.cancelled().await;
}

/// Runs the init containers; whether the pod goes on after them.
async fn initialize(shared: &Arc<Shared>, sidecars: &mut Vec<(String, AbortOnDropHandle<bool>)>) -> bool {
    let all = shared.pod.items_at("/spec/initContainers");
    for (index, manifest) in all.iter().enumerate() {
        let Some((name, role, is_virtual)) = known(shared, manifest) else { continue };
        if is_virtual {
            stand_in(shared, &name, role);
        } else if role == Role::Sidecar {
            let sidecar = tokio::spawn(container::run(Arc::clone(shared), manifest.clone(), role));
            sidecars.push((name.clone(), AbortOnDropHandle::new(sidecar)));
            let after = all[index + 1..].iter().chain(shared.pod.items_at("/spec/containers"));
            // What was begun before this kubelet waits for nothing any more.
            let mut after = after.filter_map(|manifest| manifest.get("name")?.as_str());
            if !after.any(|name| shared.was_run(name)) {
                until_started(shared, &name).await;
            }
        } else if !container::run(Arc::clone(shared), manifest.clone(), role).await {
            // Failed for good, or the pod is to end.
            return false;
        }
        if shared.ending.is_cancelled() {
            return false;
        }
    }
    true
}

/// Waits until a sidecar runs and its startup probe, if it has one, has succeeded, or the pod is to end.
async fn until_started(shared: &Shared, name: &str) {
    let mut views = shared.views.subscribe();
    let has_started = |view: &PodView| view.container(name).is_none_or(|container| container.has_started);
    tokio::select! {
        _ = views.wait_for(has_started) => {}
        () = shared.ending.cancelled() => {}
    }
}

/// Runs the containers that the pod is there for, all at once, until each is over for good.
async fn serve(shared: &Arc<Shared>) {
    change(&shared.views, |view| {
        view.initialized = true;
        let fresh = |container: &&mut ContainerView| container.role == Role::Main && !container.state.has_begun();
        for container in view.containers.iter_mut().filter(fresh) {
            container.state = State::waiting("ContainerCreating", "");
        }
    });
    let mut tasks = JoinSet::new();
    for manifest in shared.pod.items_at("/spec/containers") {
        let Some((name, role, is_virtual)) = known(shared, manifest) else { continue };
        if is_virtual {
            stand_in(shared, &name, role);
        } else {
            tasks.spawn(container::run(Arc::clone(shared), manifest.clone(), role));
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn known(shared: &Shared, manifest: &Value) -> Option<(String, Role, bool)> {
    let name = manifest.get("name")?.as_str()?;
    shared.views.borrow().container(name).map(|view| (view.name.clone(), view.role, view.is_virtual))
}

/// A container that stands for the data plane: what it stands for is in force already.
fn stand_in(shared: &Shared, name: &str, role: Role) {
    let now = Timestamp::now();
    let id = format!("tidegate://{}/{name}/virtual", shared.pod.uid());
    change(&shared.views, |view| {
        let Some(container) = view.containers.iter_mut().find(|container| container.name == name) else { return };
        if container.ready {
            // It stood in for it before this kubelet.
            return;
        }
        container.ready = true;
        container.has_started = role != Role::Init;
        container.image_id.clone_from(&container.image);
        container.state =
            if role == Role::Init { State::completed(now, now, id) } else { State::Running { since: now, id } };
    });
}

/// What stands for the data plane ends with what it stands beside.
fn stand_down(shared: &Shared) {
    let until = Timestamp::now();
    change(&shared.views, |view| {
        for container in view.containers.iter_mut().filter(|container| container.is_virtual) {
            if let State::Running { since, id } = container.state.clone() {
                (container.ready, container.has_started) = (false, false);
                container.state = State::completed(since, until, id);
            }
        }
    });
}
