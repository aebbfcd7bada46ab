//! Stories of jobs.

use api::{Key, Object, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::World;
use crate::controllers::due;

fn job(spec: &Value) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work", "namespace": "foo"},
        "spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6,
            "template": {"metadata": {"labels": {"job-name": "work"}}, "spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "busybox"}]}}}});
    api::patch::merge(&mut job["spec"], spec);
    job
}

impl World {
    /// Lets a pod of the job end now.
    fn end(&mut self, phase: &str) {
        let active = self.pods().into_iter().find(|pod| !super::super::plan::is_over(pod)).expect("a pod runs");
        let mut pod = (*active).clone();
        pod.set("/status/phase", phase);
        let now = api::time::seconds(Timestamp::from_second(1_800_000_000 + self.seconds).unwrap());
        pod.set("/status/containerStatuses", json!([{"name": "c", "state": {"terminated": {"finishedAt": now}}}]));
        self.put(Key::namespaced("", "pods", "foo", pod.name()), pod);
        self.settle();
    }

    fn job(&self) -> &Object {
        self.get("batch", "jobs", "work")
    }

    fn condition(&self) -> String {
        let conditions = self.job().items_at("/status/conditions").iter();
        let told = conditions.map(|one| format!("{}={} ({})", one["type"], one["status"], one["reason"]));
        told.collect::<Vec<_>>().join(" ").replace('"', "")
    }

    /// Lets time pass until something is due.
    fn until_due(&mut self) -> i64 {
        let (time, key) = due(&self.objects).expect("something waits for a time");
        let before = self.seconds;
        self.seconds = self.seconds.max(time.as_second() - 1_800_000_000);
        self.changed.push(key);
        let waited = self.seconds - before;
        self.settle();
        waited
    }
}

#[test]
fn a_job_is_complete_when_as_many_pods_as_wanted_have_ended_well() {
    let mut world = World::new();
    world.make(job(&json!({"completions": 3, "parallelism": 2})));
    world.settle();
    assert_eq!((world.active(), world.job().at("/status/active")), (2, &json!(2)));
    assert!(world.job().at("/status/startTime").is_string());
    world.end("Succeeded");
    assert_eq!((world.active(), world.job().at("/status/succeeded")), (2, &json!(1)));
    world.end("Succeeded");
    assert_eq!(world.active(), 1, "no more than are missing");
    assert_eq!(world.condition(), "");
    world.end("Succeeded");
    assert_eq!(world.condition(), "Complete=True (CompletionsReached)");
    assert!(world.job().at("/status/completionTime").is_string());
    assert_eq!((world.pods().len(), world.job().at("/status/active")), (3, &Value::Null));
    assert_eq!(due(&world.objects), None);
    // Over is over, whatever becomes of its pods.
    let gone = world.pods()[0].name().to_owned();
    world.write(Write::Delete { key: Key::namespaced("", "pods", "foo", &gone), now: false });
    world.settle();
    assert_eq!((world.pods().len(), world.job().at("/status/succeeded")), (2, &json!(3)));
}

#[test]
fn a_job_fails_after_its_tries_each_later_than_the_one_before() {
    let mut world = World::new();
    world.make(job(&json!({"backoffLimit": 2})));
    world.settle();
    for wait in [10, 20] {
        world.end("Failed");
        assert_eq!(world.active(), 0, "not at once");
        let waited = world.until_due();
        assert!((wait - 5..=wait).contains(&waited), "{waited} s of {wait}");
        assert_eq!(world.active(), 1);
    }
    world.end("Failed");
    assert_eq!(world.condition(), "Failed=True (BackoffLimitExceeded)");
    assert_eq!((world.active(), world.pods().len(), world.job().at("/status/failed")), (0, 3, &json!(3)));
    let events: Vec<_> = world
        .objects
        .in_namespace("", "events", "foo")
        .filter(|event| event.str_at("/reason") == "BackoffLimitExceeded")
        .collect();
    assert_eq!(events.len(), 1);
}

#[test]
fn restarts_in_a_pod_are_tries() {
    let mut world = World::new();
    world.make(job(&json!({"backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure"}}})));
    world.settle();
    for restarts in 1..=2 {
        assert_eq!(world.condition(), "");
        let mut pod = (*world.pods()[0]).clone();
        pod.set("/status/containerStatuses", json!([{"name": "c", "restartCount": restarts}]));
        world.put(Key::namespaced("", "pods", "foo", pod.name()), pod);
        world.settle();
    }
    assert_eq!((world.condition().as_str(), world.pods().len()), ("Failed=True (BackoffLimitExceeded)", 0));
}

#[test]
fn a_job_ends_by_its_deadline_and_goes_when_its_time_is_over() {
    let mut world = World::new();
    world.make(job(&json!({"activeDeadlineSeconds": 300, "ttlSecondsAfterFinished": 60})));
    world.settle();
    assert!(world.until_due() > 200);
    assert_eq!((world.condition().as_str(), world.pods().len()), ("Failed=True (DeadlineExceeded)", 0));
    world.until_due();
    assert_eq!(world.count("batch", "jobs"), 0);
}

#[test]
fn a_suspended_job_runs_nothing_until_it_is_resumed() {
    let mut world = World::new();
    world.make(job(&json!({"suspend": true})));
    world.settle();
    assert_eq!((world.active(), world.condition().as_str()), (0, "Suspended=True (JobSuspended)"));
    world.edit("batch", "jobs", "work", json!({"spec": {"suspend": false}}));
    world.settle();
    assert_eq!((world.active(), world.condition().as_str()), (1, "Suspended=False (JobResumed)"));
    world.edit("batch", "jobs", "work", json!({"spec": {"suspend": true}}));
    world.settle();
    assert_eq!((world.active(), world.job().at("/status/startTime")), (0, &Value::Null));
}

#[test]
fn a_queue_of_work_is_done_when_one_pod_says_so_and_the_others_have_ended() {
    let mut world = World::new();
    world.make(job(&json!({"completions": null, "parallelism": 3})));
    world.settle();
    assert_eq!(world.active(), 3);
    world.end("Succeeded");
    assert_eq!((world.active(), world.condition().as_str()), (2, ""));
    world.end("Succeeded");
    world.end("Succeeded");
    assert_eq!(world.condition(), "Complete=True (CompletionsReached)");
}
