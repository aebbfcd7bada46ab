//! Init containers that go on running: what comes after them waits for them, and they end last.

use api::{Key, Object};
use serde_json::{Value, json};

use super::harness::{World, sleeper};

/// A container of a script that shares `/v` with the others of its pod.
fn script(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": "busybox", "command": ["bash", "-c", script],
        "volumeMounts": [{ "name": "v", "mountPath": "/v" }] })
}

fn sidecar(name: &str, text: &str) -> Value {
    let mut container = script(name, text);
    container["restartPolicy"] = json!("Always");
    container
}

fn pod(policy: &str, grace: u64, init: &[Value], main: &Value) -> Value {
    json!({ "restartPolicy": policy, "terminationGracePeriodSeconds": grace, "initContainers": init,
        "containers": [main], "volumes": [{ "name": "v", "emptyDir": {} }] })
}

/// Says its name when it is asked to end, and ends then.
fn ends(name: &str) -> String {
    format!("trap 'echo {name} >>/v/ended; exit 0' TERM; touch /v/{name}; while :; do read -t 0.05 <> <(:); done")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_a_sidecar_waits_until_it_has_started() {
    let world = World::new();
    let up = "read -t 0.5 <> <(:); touch /v/up; exec sleep infinity";
    let mut first = sidecar("first", up);
    first["startupProbe"] = json!({ "exec": { "command": ["test", "-e", "/v/up"] }, "periodSeconds": 1 });
    let second = sidecar("second", "[ -e /v/up ] && touch /v/second; exec sleep infinity");
    let init = script("init", "[ -e /v/second ] && touch /v/init");
    let main = script("main", "[ -e /v/init ] && exec sleep infinity");
    let key = world.pod("steps", pod("Never", 0, &[first, second, init], &main));
    world
        .until("over or begun", || {
            let pod = world.store.get(&key).unwrap();
            *pod.at("/status/phase") == "Failed" || !pod.at("/status/containerStatuses/0/state/running").is_null()
        })
        .await;
    let told: Vec<String> = world.told().into_iter().filter(|told| told.starts_with("Started: ")).collect();
    let started = ["first", "second", "init", "main"].map(|name| format!("Started: Started container {name}"));
    assert_eq!(told, started);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_work_is_done_ends_its_sidecars_the_last_first() {
    let world = World::new();
    for (name, code, phase) in [("done", 0, "Succeeded"), ("failed", 3, "Failed")] {
        let wait = "until [ -e /v/a -a -e /v/b ]; do read -t 0.05 <> <(:); done";
        let main = script("main", &format!("{wait}; exit {code}"));
        let key = world.pod(name, pod("Never", 30, &[sidecar("a", &ends("a")), sidecar("b", &ends("b"))], &main));
        world.until_status(&key, "/phase", json!(phase)).await;
        let pod = world.store.get(&key).unwrap();
        for (sidecar, status) in ["a", "b"].into_iter().zip(pod.items_at("/status/initContainerStatuses")) {
            assert_eq!(status["name"], sidecar);
            assert_eq!(status["state"]["terminated"]["exitCode"], 0, "it was asked, and not killed: {status}");
            assert_eq!(status["restartCount"], 0, "{status}");
        }
        let killed: Vec<String> = world.told().into_iter().filter(|told| told.starts_with("Killing: ")).collect();
        assert_eq!(killed[killed.len() - 2..], ["b", "a"].map(|name| format!("Killing: Stopping container {name}")));
    }
    // An init container that failed for good ends them too.
    let init = script("init", "exit 5");
    let key = world.pod("never", pod("Never", 30, &[sidecar("a", &ends("a")), init], &script("main", "exit 0")));
    world.until_status(&key, "/initContainerStatuses/0/state/terminated/exitCode", json!(0)).await;
    world.until_status(&key, "/phase", json!("Failed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_to_end_ends_its_sidecars_after_all_else_and_within_its_time() {
    let world = World::new();
    let deaf = "trap '' TERM; touch /v/deaf; while :; do read -t 0.05 <> <(:); done";
    // Takes its time, and needs its sidecars until then.
    let main = script(
        "main",
        "trap 'read -t 0.3 <> <(:); exit 0' TERM; touch /v/main; while :; do read -t 0.05 <> <(:); done",
    );
    let key = world.pod("ending", pod("Always", 30, &[sidecar("deaf", deaf), sidecar("b", &ends("b"))], &main));
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    let begun =
        world.exec(&key, "main", &["bash", "-c", "until [ -e /v/deaf -a -e /v/b -a -e /v/main ]; do :; done"], None);
    assert_eq!(begun.await.unwrap().0, 0);
    let since = std::time::Instant::now();
    world.delete(&key, 1);
    world.until("gone", || world.store.get(&key).is_none()).await;
    let killed: Vec<String> = world.told().into_iter().filter(|told| told.starts_with("Killing: ")).collect();
    assert_eq!(killed, ["main", "b", "deaf"].map(|name| format!("Killing: Stopping container {name}")));
    // The time is the pod's, not each container's; who is asked late has 2 s of its own.
    assert!(since.elapsed().as_millis() >= 1000, "it was not given its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_fails_again_and_again_keeps_no_later_kubelet_from_what_runs() {
    let mut world = World::new();
    // Starts once, so that the rest may begin, and never stays again.
    let once = "[ -e /v/once ] && exit 1; touch /v/once; until [ -e /v/fail ]; do read -t 0.05 <> <(:); done; exit 1";
    let mut spec = sleeper();
    spec["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    spec["initContainers"] = json!([sidecar("once", once)]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let key = world.pod("lame", spec);
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    assert_eq!(world.exec(&key, "sleep", &["touch", "/v/fail"], None).await.unwrap().0, 0);
    world.until_status(&key, "/initContainerStatuses/0/state/waiting/reason", json!("CrashLoopBackOff")).await;
    let adoption = world.succeed(|_| ()).await;
    assert_eq!(adoption.adopted.len(), 1, "{adoption:?}");
    // Looked after: who ends is started anew.
    world.exec(&key, "sleep", &["sh", "-c", "kill -9 -1"], None).await.unwrap();
    world.until_status(&key, "/containerStatuses/0/restartCount", json!(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_for_the_data_plane_ends_with_the_pod() {
    let world = World::new();
    let proxy = json!({ "name": "istio-proxy", "image": "tidegate/proxy", "restartPolicy": "Always" });
    let main = script("main", "until [ -e /v/go ]; do read -t 0.05 <> <(:); done; exit 0");
    let mut injected = Object::named("v1", "Pod", Some("foo"), "injected");
    injected.set("/metadata/uid", "uid-injected");
    injected.set("/metadata/annotations", json!({ "injected": "yes" }));
    injected.set("/spec", pod("Never", 0, &[proxy], &main));
    injected.set("/spec/nodeName", "tidegate");
    let key = Key::namespaced("", "pods", "foo", "injected");
    world.store.put(key.clone(), injected);
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    assert_eq!(*world.store.get(&key).unwrap().at("/status/initContainerStatuses/0/ready"), true);
    assert_eq!(world.exec(&key, "main", &["touch", "/v/go"], None).await.unwrap().0, 0);
    world.until_status(&key, "/initContainerStatuses/0/state/terminated/exitCode", json!(0)).await;
    world.until_status(&key, "/phase", json!("Succeeded")).await;
    let pod = world.store.get(&key).unwrap();
    let proxy = pod.at("/status/initContainerStatuses/0");
    assert_eq!((&proxy["ready"], &proxy["started"]), (&json!(false), &json!(false)), "{proxy}");
}
