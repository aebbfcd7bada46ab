//! What the kubelet knew of a pod when it wrote its status last, read back. Pure.
//!
//! The status says what everybody has been told: a pod that is taken over goes on from there.

use std::path::Path;

use api::Object;
use jiff::Timestamp;
use serde_json::Value;

use super::view::{ContainerView, PodView, State};

/// Whether the pod is over for good: it is not run again, whatever became of its processes.
pub(super) fn is_over(pod: &Object) -> bool {
    matches!(pod.str_at("/status/phase"), "Succeeded" | "Failed")
}

/// Fills in a fresh view what the pod's status says; logs lie below `logs`.
pub(super) fn restore(view: &mut PodView, pod: &Object, logs: &Path) {
    view.started = time(pod.at("/status/startTime"));
    view.over = is_over(pod);
    view.addresses = pod.items_at("/status/podIPs").iter().filter_map(|one| text(one, "ip")).collect();
    view.initialized = has_condition(pod, "Initialized");
    view.published = pod.revision();
    view.is_published = true;
    let failed = (pod.str_at("/status/reason").to_owned(), pod.str_at("/status/message").to_owned());
    view.failed = (!failed.0.is_empty()).then_some(failed);
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    for status in lists.iter().flat_map(|list| pod.items_at(list)) {
        let name = status.get("name").and_then(Value::as_str).unwrap_or_default();
        if let Some(container) = view.containers.iter_mut().find(|container| container.name == name) {
            restore_container(container, status, &logs.join(name));
        }
    }
}

fn restore_container(view: &mut ContainerView, status: &Value, logs: &Path) {
    let flag = |name: &str| status.get(name) == Some(&Value::Bool(true));
    let id = text(status, "containerID").unwrap_or_default();
    let state = |name: &str| status.get(name).and_then(|written| state(written, &id));
    let Some(now) = state("state") else { return };
    view.state = now;
    view.last = state("lastState");
    view.ready = flag("ready");
    view.has_started = flag("started");
    view.image_id = text(status, "imageID").unwrap_or_default();
    view.restarts =
        status.get("restartCount").and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let log = |state: &State| state.run().map(|attempt| logs.join(format!("{attempt}.log")));
    view.log_before = view.last.as_ref().and_then(log);
    view.log = log(&view.state).or_else(|| view.log_before.clone());
}

/// A state, of the run with this id if it is the one that runs.
fn state(written: &Value, id: &str) -> Option<State> {
    if let Some(waiting) = written.get("waiting") {
        return Some(State::waiting(
            &text(waiting, "reason").unwrap_or_default(),
            &text(waiting, "message").unwrap_or_default(),
        ));
    }
    if let Some(running) = written.get("running") {
        return Some(State::Running { since: time(running.get("startedAt")?)?, id: id.to_owned() });
    }
    let ended = written.get("terminated")?;
    Some(State::Terminated {
        code: i32::try_from(ended.get("exitCode")?.as_i64()?).ok()?,
        signal: ended.get("signal").and_then(Value::as_i64).and_then(|signal| i32::try_from(signal).ok()),
        reason: text(ended, "reason").unwrap_or_default(),
        message: text(ended, "message").unwrap_or_default(),
        since: time(ended.get("startedAt")?)?,
        until: time(ended.get("finishedAt")?)?,
        id: text(ended, "containerID").unwrap_or_default(),
    })
}

fn has_condition(pod: &Object, kind: &str) -> bool {
    let conditions = pod.items_at("/status/conditions");
    conditions.iter().any(|one| one.get("type") == Some(&kind.into()) && one.get("status") == Some(&"True".into()))
}

fn text(of: &Value, name: &str) -> Option<String> {
    of.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn time(written: &Value) -> Option<Timestamp> {
    written.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::json;

    use super::super::view::{PodView, Role, State};
    use super::super::{Hooks, report};
    use super::*;

    #[test]
    fn a_status_read_back_is_the_status_that_was_written() {
        let time = |second: i64| Timestamp::from_second(1_790_000_000 + second).unwrap();
        let id = |attempt: u32| format!("tidegate://u/c/{attempt}");
        let ended = |attempt, code, signal| State::Terminated {
            code,
            signal,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: String::new(),
            since: time(1),
            until: time(2),
            id: id(attempt),
        };
        let mut pod = Object::named("v1", "Pod", Some("foo"), "p");
        pod.set("/metadata/uid", "u");
        pod.set("/spec", json!({ "initContainers": [{ "name": "i" }], "containers": [{ "name": "c" }] }));
        for (state, last, ready) in [
            (State::Running { since: time(5), id: id(3) }, Some(ended(2, 1, None)), true),
            (State::waiting("CrashLoopBackOff", "back-off 20s"), Some(ended(2, 137, Some(9))), false),
            (ended(0, 0, None), None, false),
        ] {
            let mut view = PodView::of(&pod, &hooks());
            view.started = Some(time(0));
            view.addresses = vec!["10.1.0.2".to_owned(), "fd00::2".to_owned()];
            view.initialized = true;
            for container in &mut view.containers {
                let is_init = container.role == Role::Init;
                container.state = if is_init { ended(0, 0, None) } else { state.clone() };
                container.last = last.clone().filter(|_| !is_init);
                (container.ready, container.has_started, container.restarts) = (ready, ready, 3);
                container.image_id = "docker.io/library/busybox".to_owned();
            }
            let status = report::status(&pod, &view, "10.1.0.1", time(9));
            let mut stored = pod.clone();
            stored.set("/status", status.clone());
            let mut read = PodView::of(&stored, &hooks());
            restore(&mut read, &stored, Path::new("/logs"));
            assert_eq!(report::status(&stored, &read, "10.1.0.1", time(99)), status);
            assert_eq!(read.over, is_over(&stored));
            let log = read.container("c").and_then(|container| container.log.clone());
            let attempt = if ready { 3 } else { last.as_ref().map_or(0, |_| 2) };
            assert_eq!(log.as_deref(), Some(Path::new(&format!("/logs/c/{attempt}.log"))));
        }
    }

    fn hooks() -> Hooks {
        let refused = |_| Box::pin(async { Err(api::Status::bad_request("nothing is written here")) }) as _;
        Hooks {
            attach: Arc::new(|_, _| Box::pin(async { Ok(()) })),
            detach: Arc::new(|_, _| Box::pin(async { Ok(()) })),
            sever: Arc::new(|_| Box::pin(async { Ok(()) })),
            dropped: Arc::new(|_| Box::pin(async { true })),
            write: Arc::new(refused),
            settled: tokio::sync::watch::channel(0).1,
            find: Arc::new(|_| None),
            is_virtual: Arc::new(|_, _| false),
            virtual_logs: Arc::new(|_, _| None),
        }
    }
}
