//! Jobs: pods that run to their end, until enough have ended well or too many badly.
//!
//! What a job needs besides events is time: a deadline, the wait before another try, the end of what is over. [`due`] says
//! when the next of these comes. Not here, and refused by the API server: indexed jobs and policies on failures.

use std::cmp::Reverse;
use std::sync::Arc;

use api::{Key, Object, Objects};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::plan::{Plan, controls, is_ready, key, with_condition};
use super::replicasets::pod;

/// Pods that one look makes: the store commits them together, and nothing else waits for long. The next look goes on.
const BURST_MAX: usize = 100;
/// Tries after the first, unless the job says (Kubernetes).
const TRIES_DEFAULT: u64 = 6;
/// The wait before the second try; doubled for each one after it (Kubernetes).
const BACK_OFF_FIRST_SECONDS: i64 = 10;
/// Longest such wait (Kubernetes).
const BACK_OFF_MAX_SECONDS: i64 = 360;

pub(super) fn reconcile(plan: &mut Plan<'_>, namespace: &str) {
    for job in plan.objects.in_namespace("batch", "jobs", namespace) {
        if job.is_deleting() {
            continue;
        }
        let pods = Pods::of(plan.objects, job);
        if finished(job).is_some() {
            pods.active.iter().for_each(|pod| plan.delete(key("", "pods", pod), pod));
            let since = ended_for_good(job);
            if since.is_some_and(|end| end <= plan.context.now) {
                plan.delete(key("batch", "jobs", job), job);
            }
            plan.patch_status(key("batch", "jobs", job), job, &pods.counts());
        } else {
            advance(plan, job, &pods);
        }
    }
}

/// When time alone changes what is wanted next, and for which job.
pub(super) fn due(objects: &Objects) -> Option<(Timestamp, Key)> {
    let jobs = objects.list("batch", "jobs").filter(|job| !job.is_deleting());
    let times = jobs.filter_map(|job| {
        let time = if finished(job).is_some() {
            ended_for_good(job)
        } else {
            [deadline(job), Pods::of(objects, job).next_try()].into_iter().flatten().min()
        };
        Some((time?, key("batch", "jobs", job)))
    });
    times.min_by_key(|(time, _)| *time)
}

/// The pods of a job.
struct Pods<'a> {
    active: Vec<&'a Arc<Object>>,
    failed: Vec<&'a Arc<Object>>,
    succeeded: usize,
    ending: usize,
}

impl<'a> Pods<'a> {
    fn of(objects: &'a Objects, job: &Object) -> Self {
        let mut pods = Self { active: Vec::new(), failed: Vec::new(), succeeded: 0, ending: 0 };
        let namespace = job.namespace().unwrap_or_default();
        for pod in objects.in_namespace("", "pods", namespace).filter(|pod| controls(job, pod)) {
            match pod.str_at("/status/phase") {
                "Succeeded" => pods.succeeded += 1,
                "Failed" => pods.failed.push(pod),
                _ if pod.is_deleting() => pods.ending += 1,
                _ => pods.active.push(pod),
            }
        }
        pods
    }

    /// What changes as long as there are pods.
    fn counts(&self) -> Value {
        let ready = self.active.iter().filter(|pod| is_ready(pod)).count();
        // Counts of zero are left out of statuses, but a merge must be able to take one back to it.
        let active = if self.active.is_empty() { Value::Null } else { self.active.len().into() };
        json!({ "active": active, "ready": ready, "terminating": self.ending })
    }

    /// Restarts within pods, which are tries as well.
    fn restarts(&self) -> u64 {
        let containers = self.active.iter().flat_map(|pod| pod.items_at("/status/containerStatuses"));
        containers.filter_map(|container| container.get("restartCount")?.as_u64()).sum()
    }

    /// Before this time no other pod is made.
    fn next_try(&self) -> Option<Timestamp> {
        let last = self.failed.iter().filter_map(|pod| end_of(pod)).max()?;
        let doubled = u32::try_from(self.failed.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let wait = 2_i64.checked_pow(doubled).and_then(|times| times.checked_mul(BACK_OFF_FIRST_SECONDS));
        let wait = wait.unwrap_or(BACK_OFF_MAX_SECONDS).min(BACK_OFF_MAX_SECONDS);
        last.checked_add(SignedDuration::from_secs(wait)).ok()
    }
}

/// When the last container of a pod ended.
fn end_of(pod: &Object) -> Option<Timestamp> {
    let containers = pod.items_at("/status/containerStatuses").iter();
    let end = |container: &Value| container.pointer("/state/terminated/finishedAt")?.as_str()?.parse().ok();
    containers.filter_map(end).max()
}

fn advance(plan: &mut Plan<'_>, job: &Object, pods: &Pods<'_>) {
    let mut status = pods.counts();
    let mut set = |name: &str, value: Value| {
        if let Some(fields) = status.as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
    };
    set("succeeded", count(pods.succeeded));
    set("failed", count(pods.failed.len()));
    let now = plan.now();
    let mut conditions = job.items_at("/status/conditions").to_vec();
    let is_suspended = job.at("/spec/suspend") == &Value::Bool(true);
    let was_suspended = conditions.iter().any(|one| is_true(one, "Suspended"));
    if is_suspended != was_suspended {
        let (status, reason, message) = if is_suspended {
            ("True", "JobSuspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Job resumed")
        };
        let wanted = json!({ "type": "Suspended", "status": status, "reason": reason, "message": message });
        with_condition(&mut conditions, &wanted, &now);
        plan.event(job, if is_suspended { "Suspended" } else { "Resumed" }, message);
    }
    let begun = job.str_at("/status/startTime");
    if is_suspended {
        set("startTime", Value::Null);
        pods.active.iter().for_each(|pod| plan.delete(key("", "pods", pod), pod));
    } else {
        set("startTime", if begun.is_empty() { now.as_str() } else { begun }.into());
        match verdict(plan, job, pods) {
            Some((kind, reason, message)) => {
                let wanted = json!({ "type": kind, "status": "True", "reason": reason, "message": message });
                with_condition(&mut conditions, &wanted, &now);
                if kind == "Complete" {
                    set("completionTime", now.as_str().into());
                    plan.event(job, "Completed", "Job completed");
                } else {
                    plan.event(job, reason, message);
                }
            }
            None => fill(plan, job, pods),
        }
    }
    if !conditions.is_empty() {
        set("conditions", conditions.into());
    }
    plan.patch_status(key("batch", "jobs", job), job, &status);
}

/// How the job has ended, if it has: condition, reason, message.
fn verdict(plan: &Plan<'_>, job: &Object, pods: &Pods<'_>) -> Option<(&'static str, &'static str, &'static str)> {
    let number = |name: &str| job.at(&format!("/spec/{name}")).as_u64();
    let tries = number("backoffLimit").unwrap_or(TRIES_DEFAULT);
    let failed = u64::try_from(pods.failed.len()).unwrap_or(u64::MAX);
    // Within a pod the first try counts too.
    let is_restarted = job.str_at("/spec/template/spec/restartPolicy") == "OnFailure";
    if failed > tries || (is_restarted && pods.restarts() >= tries.max(1)) {
        return Some(("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if deadline(job).is_some_and(|deadline| deadline <= plan.context.now) {
        return Some(("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    let is_enough = match number("completions") {
        Some(wanted) => u64::try_from(pods.succeeded).is_ok_and(|succeeded| succeeded >= wanted),
        None => pods.succeeded > 0 && pods.active.is_empty(),
    };
    is_enough.then_some(("Complete", "CompletionsReached", "Reached expected number of succeeded pods"))
}

/// Makes the pods that are missing, and deletes those that are too many.
fn fill(plan: &mut Plan<'_>, job: &Object, pods: &Pods<'_>) {
    let number = |name: &str| job.at(&format!("/spec/{name}")).as_u64().and_then(|number| usize::try_from(number).ok());
    let most = number("parallelism").unwrap_or(1);
    let wanted = match number("completions") {
        Some(completions) => most.min(completions.saturating_sub(pods.succeeded)),
        // A queue of work: once one says that it is empty, none is made.
        None if pods.succeeded > 0 => pods.active.len(),
        None => most,
    };
    let have = pods.active.len();
    if have > wanted {
        let mut surplus = pods.active.clone();
        surplus.sort_by_key(|pod| (is_ready(pod), Reverse(pod.str_at("/metadata/creationTimestamp").to_owned())));
        surplus.iter().take(have - wanted).for_each(|pod| plan.delete(key("", "pods", pod), pod));
        return;
    }
    if pods.next_try().is_some_and(|time| time > plan.context.now) {
        return;
    }
    for _ in 0..(wanted - have).min(BURST_MAX) {
        let name = format!("{}-{}", job.name(), plan.suffix());
        if plan.objects.find("", "pods", job.namespace(), &name).is_some() {
            // The next look draws another.
            continue;
        }
        if let Ok(pod) = pod(job, &name) {
            plan.create(pod);
            plan.event(job, "SuccessfulCreate", &format!("Created pod: {name}"));
        }
    }
}

/// When the job has had its time.
fn deadline(job: &Object) -> Option<Timestamp> {
    after(job.str_at("/status/startTime"), job.at("/spec/activeDeadlineSeconds"))
}

/// When a job that has ended is to be deleted.
fn ended_for_good(job: &Object) -> Option<Timestamp> {
    let since = finished(job)?.get("lastTransitionTime")?.as_str()?;
    after(since, job.at("/spec/ttlSecondsAfterFinished"))
}

fn after(time: &str, seconds: &Value) -> Option<Timestamp> {
    let time: Timestamp = time.parse().ok()?;
    time.checked_add(SignedDuration::from_secs(seconds.as_i64()?)).ok()
}

/// The condition that ended the job.
fn finished(job: &Object) -> Option<&Value> {
    job.items_at("/status/conditions").iter().find(|one| is_true(one, "Complete") || is_true(one, "Failed"))
}

fn is_true(condition: &Value, kind: &str) -> bool {
    condition.get("type").and_then(Value::as_str) == Some(kind)
        && condition.get("status").and_then(Value::as_str) == Some("True")
}

fn count(number: usize) -> Value {
    if number == 0 { Value::Null } else { number.into() }
}
