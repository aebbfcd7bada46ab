//! The row of a pod: `READY`, `STATUS` and `RESTARTS` as kubectl's users know them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object::{Object, text};
use crate::time;

/// What the row says of the containers.
struct Summary {
    reason: String,
    total: usize,
    ready: usize,
    restarts: u64,
    last_restart: Option<Timestamp>,
}

pub(super) fn cells(pod: &Object, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts > 0 => {
            let ago = time::short_duration(now.as_second().saturating_sub(last.as_second()));
            format!("{} ({ago} ago)", summary.restarts)
        }
        _ => summary.restarts.to_string(),
    };
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    let address = match pod.items_at("/status/podIPs").first() {
        Some(first) => text(first, "ip"),
        None => pod.str_at("/status/podIP"),
    };
    vec![
        json!(pod.name()),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        json!(time::age(pod.str_at("/metadata/creationTimestamp"), now)),
        json!(or_none(address)),
        json!(or_none(pod.str_at("/spec/nodeName"))),
        json!(or_none(pod.str_at("/status/nominatedNodeName"))),
        json!(gates(pod)),
    ]
}

fn summary(pod: &Object) -> Summary {
    let phase = pod.str_at("/status/phase");
    let told = pod.str_at("/status/reason");
    let is_sidecar = |name: &str| {
        let init = pod.items_at("/spec/initContainers").iter();
        init.filter(|container| text(container, "restartPolicy") == "Always").any(|one| text(one, "name") == name)
    };
    let sidecars =
        pod.items_at("/spec/initContainers").iter().filter(|one| text(one, "restartPolicy") == "Always").count();
    let mut summary = Summary {
        reason: if told.is_empty() { phase.to_owned() } else { told.to_owned() },
        total: pod.items_at("/spec/containers").len().saturating_add(sidecars),
        ready: 0,
        restarts: 0,
        last_restart: None,
    };
    let gated = condition(pod, "PodScheduled").is_some_and(|one| text(one, "reason") == "SchedulingGated");
    if gated {
        "SchedulingGated".clone_into(&mut summary.reason);
    }
    let initializing = init_containers(pod, &mut summary, &is_sidecar);
    let initialized = condition(pod, "Initialized").is_some_and(|one| text(one, "status") == "True");
    if !initializing || initialized {
        containers(pod, &mut summary, &is_sidecar);
    }
    if pod.is_deleting() {
        if told == "NodeLost" {
            "Unknown".clone_into(&mut summary.reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut summary.reason);
        }
    }
    summary
}

/// Takes in the init containers; whether they are still at work.
fn init_containers(pod: &Object, summary: &mut Summary, is_sidecar: &dyn Fn(&str) -> bool) -> bool {
    let total = pod.items_at("/spec/initContainers").len();
    for (index, status) in pod.items_at("/status/initContainerStatuses").iter().enumerate() {
        restarted(status, summary);
        let started = status.get("started").and_then(Value::as_bool).unwrap_or(false);
        let terminated = status.pointer("/state/terminated");
        let waiting = status.pointer("/state/waiting").map_or("", |waiting| text(waiting, "reason"));
        if terminated.is_some_and(|end| number(end, "exitCode") == 0) {
            continue;
        }
        if is_sidecar(text(status, "name")) && started {
            summary.ready = summary.ready.saturating_add(usize::from(is_ready(status)));
            continue;
        }
        summary.reason = match terminated {
            Some(end) => format!("Init:{}", ended(end)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{index}/{total}"),
        };
        return true;
    }
    false
}

fn containers(pod: &Object, summary: &mut Summary, is_sidecar: &dyn Fn(&str) -> bool) {
    // From here on only the restarts of those containers count that still run.
    summary.restarts = 0;
    summary.last_restart = None;
    for status in pod.items_at("/status/initContainerStatuses") {
        if is_sidecar(text(status, "name")) {
            restarted(status, summary);
        }
    }
    let mut running = false;
    for status in pod.items_at("/status/containerStatuses").iter().rev() {
        restarted(status, summary);
        let waiting = status.pointer("/state/waiting").map_or("", |waiting| text(waiting, "reason"));
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if let Some(end) = status.pointer("/state/terminated") {
            summary.reason = ended(end);
        } else if is_ready(status) && status.pointer("/state/running").is_some() {
            running = true;
            summary.ready = summary.ready.saturating_add(1);
        }
    }
    if summary.reason == "Completed" && running {
        let ready = condition(pod, "Ready").is_some_and(|one| text(one, "status") == "True");
        if ready { "Running" } else { "NotReady" }.clone_into(&mut summary.reason);
    }
}

fn restarted(status: &Value, summary: &mut Summary) {
    summary.restarts = summary.restarts.saturating_add(number(status, "restartCount").unsigned_abs());
    let finished = status.pointer("/lastState/terminated").and_then(|end| time::parse(text(end, "finishedAt")));
    summary.last_restart = summary.last_restart.max(finished);
}

fn ended(end: &Value) -> String {
    match (text(end, "reason"), number(end, "signal")) {
        ("", 0) => format!("ExitCode:{}", number(end, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn gates(pod: &Object) -> String {
    let gates = pod.items_at("/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| {
        condition(pod, text(gate, "conditionType")).is_some_and(|condition| text(condition, "status") == "True")
    });
    format!("{}/{}", open.count(), gates.len())
}

fn condition<'a>(pod: &'a Object, name: &str) -> Option<&'a Value> {
    pod.items_at("/status/conditions").iter().find(|condition| text(condition, "type") == name)
}

fn is_ready(status: &Value) -> bool {
    status.get("ready").and_then(Value::as_bool).unwrap_or(false)
}

fn number(value: &Value, field: &str) -> i64 {
    value.get(field).and_then(Value::as_i64).unwrap_or(0)
}
