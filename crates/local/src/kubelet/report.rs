//! A pod's status from what the kubelet knows. Pure.

use api::{Object, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::view::{ContainerView, PodView, Role, State};

/// The whole status.
pub(super) fn status(pod: &Object, view: &PodView, host: &str, now: Timestamp) -> Value {
    // Of a pod that is not run there are no containers to tell of.
    let refused = view.failed.as_ref();
    let of = |wanted: fn(Role) -> bool| -> Vec<Value> {
        let ran = |view: &&ContainerView| refused.is_none() || !matches!(view.state, State::Waiting { .. });
        view.containers.iter().filter(|container| wanted(container.role)).filter(ran).map(container).collect()
    };
    let ready = view.failed.is_none() && view.initialized && serving(view).all(|container| container.ready);
    let unready: Vec<&str> =
        serving(view).filter(|container| !container.ready).map(|container| container.name.as_str()).collect();
    let unready = format!("containers with unready status: [{}]", unready.join(" "));
    let uninitialized = "containers with incomplete status".to_owned();
    let conditions = [
        ("Initialized", view.initialized, "ContainersNotInitialized", uninitialized),
        ("Ready", ready, "ContainersNotReady", unready.clone()),
        ("ContainersReady", ready, "ContainersNotReady", unready),
        ("PodScheduled", true, "", String::new()),
    ];
    let conditions: Vec<Value> = conditions
        .into_iter()
        .map(|(kind, is, reason, message)| condition(pod, kind, is, reason, &message, now))
        .collect();
    let mut status = json!({
        "phase": phase(pod, view),
        "conditions": conditions,
        "hostIP": host,
        "hostIPs": [{ "ip": host }],
        "startTime": view.started.map(time::seconds),
        "containerStatuses": of(|role| role == Role::Main),
    });
    let inits = of(|role| role != Role::Main);
    if !inits.is_empty() {
        put(&mut status, "initContainerStatuses", inits.into());
    }
    if let Some(first) = view.addresses.first() {
        put(&mut status, "podIP", first.as_str().into());
        let all: Vec<Value> = view.addresses.iter().map(|address| json!({ "ip": address })).collect();
        put(&mut status, "podIPs", all.into());
    }
    if let Some((reason, message)) = &view.failed {
        put(&mut status, "reason", reason.as_str().into());
        put(&mut status, "message", message.as_str().into());
    }
    status
}

fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// The containers whose readiness is the pod's.
fn serving(view: &PodView) -> impl Iterator<Item = &ContainerView> {
    view.containers.iter().filter(|container| container.role != Role::Init)
}

/// The pod's phase, as Kubernetes derives it.
pub(super) fn phase(pod: &Object, view: &PodView) -> &'static str {
    if view.failed.is_some() {
        return "Failed";
    }
    // One that stands for the data plane never ends, and holds nothing back.
    let main = || view.containers.iter().filter(|container| container.role == Role::Main && !container.is_virtual);
    let policy = pod.str_at("/spec/restartPolicy");
    let ended = |container: &ContainerView| match container.state {
        State::Terminated { code, .. } => Some(code),
        _ => None,
    };
    let sidecar_runs = view.containers.iter().any(|container| {
        container.role == Role::Sidecar && !container.is_virtual && matches!(container.state, State::Running { .. })
    });
    let failed_init = view.containers.iter().any(|container| {
        container.role == Role::Init && policy == "Never" && ended(container).is_some_and(|code| code != 0)
    });
    if failed_init {
        return if sidecar_runs { "Pending" } else { "Failed" };
    }
    if !view.initialized
        || main().all(|container| matches!(container.state, State::Waiting { .. }) && container.last.is_none())
    {
        return "Pending";
    }
    let over = policy == "Never" || policy == "OnFailure";
    // Over is what has nothing left to end.
    if over && !sidecar_runs && main().all(|container| ended(container).is_some()) {
        let all_well = main().all(|container| ended(container) == Some(0));
        return match (all_well, policy) {
            (true, _) => "Succeeded",
            (false, "Never") => "Failed",
            (false, _) => "Running",
        };
    }
    "Running"
}

/// A condition; its time stays as long as it does.
fn condition(pod: &Object, kind: &str, is: bool, reason: &str, message: &str, now: Timestamp) -> Value {
    let status = if is { "True" } else { "False" };
    let before =
        pod.items_at("/status/conditions").iter().find(|condition| condition.get("type") == Some(&kind.into()));
    let since = before
        .filter(|condition| condition.get("status") == Some(&status.into()))
        .and_then(|condition| condition.get("lastTransitionTime").cloned())
        .unwrap_or_else(|| time::seconds(now).into());
    let mut condition = json!({ "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since });
    if !is && !reason.is_empty() {
        put(&mut condition, "reason", reason.into());
        put(&mut condition, "message", message.into());
    }
    condition
}

fn container(view: &ContainerView) -> Value {
    let mut status = json!({
        "name": view.name,
        "image": view.image,
        "imageID": view.image_id,
        "ready": view.ready,
        "started": view.has_started,
        "restartCount": view.restarts,
        "state": state(&view.state),
        "lastState": view.last.as_ref().map_or_else(|| json!({}), state),
    });
    let id = match &view.state {
        State::Running { id, .. } | State::Terminated { id, .. } => id.as_str(),
        State::Waiting { .. } => "",
    };
    if !id.is_empty() {
        put(&mut status, "containerID", id.into());
    }
    status
}

fn state(state: &State) -> Value {
    match state {
        State::Waiting { reason, message } if message.is_empty() => json!({ "waiting": { "reason": reason } }),
        State::Waiting { reason, message } => json!({ "waiting": { "reason": reason, "message": message } }),
        State::Running { since, .. } => json!({ "running": { "startedAt": time::seconds(*since) } }),
        State::Terminated { code, signal, reason, message, since, until, id } => {
            let mut inner = json!({
                "exitCode": code, "reason": reason, "startedAt": time::seconds(*since),
                "finishedAt": time::seconds(*until), "containerID": id,
            });
            if let Some(signal) = signal {
                put(&mut inner, "signal", (*signal).into());
            }
            if !message.is_empty() {
                put(&mut inner, "message", message.as_str().into());
            }
            json!({ "terminated": inner })
        }
    }
}
