//! Pods from their start to their end.

use std::path::Path;

use api::{Key, Object};
use local::kubelet::Logs;
use serde_json::json;

use super::harness::{World, sleeper};

#[tokio::test(flavor = "multi_thread")]
async fn the_walkthrough_s_two_pods_talk_as_soon_as_they_are_there() {
    let world = World::new();
    let echo = world.pod(
        "tcp-echo",
        json!({ "restartPolicy": "Always", "containers": [{
        "name": "tcp-echo", "image": "docker.io/istio/tcp-echo-server:1.2", "args": ["9000,9001,9002", "hello"] }] }),
    );
    let mut spec = sleeper();
    spec["volumes"] = json!([{ "name": "secret-volume", "secret": { "secretName": "absent", "optional": true } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "mountPath": "/etc/sleep/tls", "name": "secret-volume" }]);
    let sleep = world.pod("sleep", spec);
    // At once: exec itself waits for both.
    world.until("seen", || world.told().iter().filter(|told| told.starts_with("Scheduled")).count() == 2).await;
    let (code, name, errors) = world
        .exec(&sleep, "sleep", &["sh", "-c", "hostname; ls /etc/sleep/tls; awk 'BEGIN { print 1 }'"], None)
        .await
        .unwrap();
    assert_eq!((code, name.as_str(), errors.as_str()), (0, "sleep\n1\n", ""));
    let pod = world.store.get(&echo).unwrap();
    assert_eq!(pod.at("/status/phase"), "Running");
    assert_eq!(pod.at("/status/containerStatuses/0/ready"), true);
    let addresses: Vec<String> =
        pod.items_at("/status/podIPs").iter().map(|ip| ip["ip"].as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 2, "IPv4 and IPv6");
    for (address, port) in [(&addresses[0], "9000"), (&addresses[1], "9001"), (&addresses[0], "9002")] {
        let script = format!("echo \"port {port}\" | nc {address} {port}");
        let (code, output, errors) = world.exec(&sleep, "sleep", &["sh", "-c", &script], None).await.unwrap();
        assert_eq!((code, output, errors), (0, format!("hello port {port}\n"), String::new()), "{address}");
    }
    let (code, output, _) = world.exec(&sleep, "sleep", &["nc", &addresses[0], "9003"], Some("x\n")).await.unwrap();
    assert_eq!((code, output.as_str()), (1, ""));
    let told = world.told();
    assert!(told.iter().any(|told| told.starts_with("Pulled: image \"curlimages/curl\" is not pulled")), "{told:?}");
    let log = world.log_until(&echo, "tcp-echo", "request from ").await;
    assert!(log.starts_with("listening on 9000, prefix: hello\n"), "{log}");
    world.delete(&echo, 0);
    world.delete(&sleep, 0);
    world.until("gone", || world.store.get(&echo).is_none() && world.store.get(&sleep).is_none()).await;
    assert!(world.node.pod_links().is_empty(), "a pod that is gone has no link");
    assert!(!world.runtime.pod_dir("uid-sleep").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_reach_the_host_is_refused() {
    let world = World::new();
    let cases = [
        ("net", json!({ "hostNetwork": true })),
        ("pid", json!({ "hostPID": true })),
        ("ipc", json!({ "hostIPC": true })),
        ("path", json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] })),
        (
            "privileged",
            json!({ "containers": [{ "name": "c", "image": "busybox", "securityContext": { "privileged": true } }] }),
        ),
        (
            "admin",
            json!({ "containers": [{ "name": "c", "image": "busybox", "securityContext": { "capabilities": { "add": ["NET_ADMIN"] } } }] }),
        ),
        (
            "proxy",
            json!({ "containers": [{ "name": "istio-proxy", "image": "busybox", "securityContext": { "capabilities": { "add": ["CAP_SYS_ADMIN"] } } }] }),
        ),
    ];
    for (name, more) in cases {
        let mut spec = sleeper();
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let key = world.pod(name, spec);
        world.until_status(&key, "/phase", "Failed".into()).await;
        assert_eq!(world.store.get(&key).unwrap().at("/status/reason"), "Refused");
        let refused = world.exec(&key, "c", &["true"], None).await.unwrap_err();
        assert_eq!(refused.code(), 400);
    }
    assert_eq!(world.told().iter().filter(|told| told.starts_with("Refused: ")).count(), 7);
    assert!(world.node.pod_links().is_empty(), "nothing was started");
}

#[test]
fn a_pod_that_cannot_be_bounded_runs_and_an_event_says_so() {
    let world = || {
        // What is started from here on sees no cgroups.
        linux::process::unshare_mounts().unwrap();
        linux::mount::make_private().unwrap();
        linux::mount::tmpfs(Path::new("/sys/fs/cgroup"), c"size=4k", linux::mount::Access::ReadOnly).unwrap();
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
            let world = World::new();
            let key = world.pod("unbounded", sleeper());
            world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
            let told = world.told();
            let said = told.iter().find(|told| told.starts_with("NotBounded: ")).expect("an event");
            assert!(
                said.starts_with("NotBounded: This machine does not bound the number of its processes: cannot make")
                    && said.contains("; its memory: cannot make")
                    && said.ends_with("; see: tidegate check"),
                "{said}"
            );
        });
    };
    std::thread::spawn(world).join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_image_fails_exec_at_once_and_says_what_to_do() {
    let world = World::new();
    let key =
        world.pod("web", json!({ "restartPolicy": "Always", "containers": [{ "name": "web", "image": "nginx" }] }));
    world.until_status(&key, "/containerStatuses/0/state/waiting/reason", "ErrImagePull".into()).await;
    let refused = world.exec(&key, "web", &["true"], None).await.unwrap_err();
    assert!(
        refused.message().contains("ErrImagePull") && refused.message().contains("curlimages/curl"),
        "{}",
        refused.message()
    );
    let refused = world.exec(&key, "other", &["true"], None).await.unwrap_err();
    assert_eq!(refused.message(), "container other is not valid for pod web");
    let refused = world.log(&key, "web", Logs::default()).await.unwrap_err();
    assert!(refused.message().contains("failing to pull image"), "{}", refused.message());
    world.delete(&key, 30);
    world.until("gone", || world.store.get(&key).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_restarts_and_exit_codes_are_true() {
    let world = World::new();
    let key = world.pod("job", json!({ "restartPolicy": "Never", "initContainers": [
        { "name": "first", "image": "busybox", "command": ["sh", "-c", "echo one > /shared/file"], "volumeMounts": [{ "name": "v", "mountPath": "/shared" }] }],
        "containers": [{ "name": "main", "image": "busybox", "command": ["sh", "-c"], "args": ["cat /shared/file; exit 4"],
            "volumeMounts": [{ "name": "v", "mountPath": "/shared" }] }],
        "volumes": [{ "name": "v", "emptyDir": {} }] }));
    world.until_status(&key, "/phase", "Failed".into()).await;
    let pod = world.store.get(&key).unwrap();
    assert_eq!(pod.at("/status/initContainerStatuses/0/state/terminated/exitCode"), 0);
    assert_eq!(pod.at("/status/containerStatuses/0/state/terminated/exitCode"), 4);
    assert_eq!(pod.at("/status/containerStatuses/0/state/terminated/reason"), "Error");
    assert_eq!(world.log(&key, "main", Logs { follow: true, ..Logs::default() }).await.unwrap(), "one\n");
    // A crash: restarted at once the first time, then backed off.
    let key = world.pod("crash", json!({ "restartPolicy": "Always", "containers": [{ "name": "c", "image": "busybox", "command": ["sh", "-c", "exit 9"] }] }));
    world.until_status(&key, "/containerStatuses/0/state/waiting/reason", "CrashLoopBackOff".into()).await;
    let pod = world.store.get(&key).unwrap();
    assert_eq!(pod.at("/status/containerStatuses/0/restartCount"), 1);
    assert_eq!(pod.at("/status/containerStatuses/0/lastState/terminated/exitCode"), 9);
    assert_eq!(pod.at("/status/containerStatuses/0/ready"), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_made_from_inside_and_virtual_containers_are_not_run() {
    let world = World::new();
    let spec = json!({ "restartPolicy": "Always", "terminationGracePeriodSeconds": 0,
        "initContainers": [{ "name": "istio-proxy", "image": "tidegate/proxy", "restartPolicy": "Always" }],
        "containers": [{ "name": "c", "image": "istio/tcp-echo-server", "args": ["9000", "x"],
            "readinessProbe": { "tcpSocket": { "port": 9000 }, "periodSeconds": 1 } },
            { "name": "never", "image": "busybox", "command": ["sleep", "1000"],
            "readinessProbe": { "tcpSocket": { "port": 9999 }, "periodSeconds": 1, "failureThreshold": 1 } }] });
    let key = world.pod("probed", spec.clone());
    let mut pod = (*world.store.get(&key).unwrap()).clone();
    pod.set("/metadata/annotations", json!({ "injected": "yes" }));
    pod.set("/metadata/uid", "uid-injected");
    let injected = Key::namespaced("", "pods", "foo", "injected");
    pod.set("/metadata/name", "injected");
    world.store.put(injected.clone(), pod);
    world.until_status(&injected, "/containerStatuses/0/ready", true.into()).await;
    let pod = world.store.get(&injected).unwrap();
    assert_eq!(pod.at("/status/initContainerStatuses/0/ready"), true);
    assert_eq!(pod.at("/status/containerStatuses/1/ready"), false);
    let refused = world.exec(&injected, "istio-proxy", &["true"], None).await.unwrap_err();
    assert!(refused.message().contains("not a process here"), "{}", refused.message());
    // Without injection a container of that name is one like any other: its image is not in the catalogue.
    world.until_status(&key, "/initContainerStatuses/0/state/waiting/reason", "ErrImagePull".into()).await;
    world.until("told", || world.told().iter().any(|told| told.starts_with("Unhealthy: Readiness probe failed"))).await;
    // Also while probes are being made, an end leaves nothing.
    world.delete(&injected, 0);
    world.delete(&key, 0);
    world.until("gone", || world.store.get(&injected).is_none() && world.store.get(&key).is_none()).await;
    assert!(!world.runtime.pod_dir("uid-injected").exists() && !world.runtime.pod_dir("uid-probed").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_taken_away_by_force_neither_ends_nor_speaks_for_the_next_of_its_name() {
    let world = World::new();
    let key = world.pod("same", sleeper());
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    let address = world.store.get(&key).unwrap().at("/status/podIP").clone();
    world.take_away(&key);
    let mut next = Object::named("v1", "Pod", Some("foo"), "same");
    next.set("/metadata/uid", "uid-next");
    // Of no node: nobody but the pod before could write about it.
    next.set("/spec", sleeper());
    world.store.put(key.clone(), next);
    world.until("over", || world.told().contains(&"End: uid-same".to_owned())).await;
    assert!(world.node.pod_links().is_empty());
    let left = world.store.get(&key).expect("the next pod was removed");
    assert_eq!(left.uid(), "uid-next");
    assert_ne!(*left.at("/status/podIP"), address, "it was given the address of the pod before");
}
