//! A kubelet takes over what another one left running.

use api::Key;
use local::kubelet::Logs;
use local::runtime::exec::Command;
use serde_json::json;

use super::harness::{World, sleeper};

/// The first process of a pod as its own program sees it: who it is tells whether it is the same one.
async fn program(world: &World, pod: &Key) -> String {
    let (_, said, _) = world.exec(pod, "sleep", &["cat", "/proc/1/stat"], None).await.unwrap();
    said
}

fn reason<'a>(removed: &'a [(String, String)], pod: &str) -> &'a str {
    removed.iter().find(|(name, _)| name == pod).map_or("", |(_, why)| why)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_still_wants_lives_on_and_all_else_is_removed() {
    let mut world = World::new();
    let names = ["same", "changed", "unlinked", "unwanted", "moved"];
    let pods = names.map(|name| world.pod(name, sleeper()));
    for pod in &pods {
        world.until_status(pod, "/containerStatuses/0/ready", json!(true)).await;
    }
    let [same, changed, unlinked, unwanted, moved] = pods;
    let before = program(&world, &same).await;
    let of = |world: &World, pod: &Key| world.store.get(pod).unwrap().at("/status/podIP").clone();
    let addresses = [&same, &changed, &unlinked, &moved].map(|pod| of(&world, pod));
    let adoption = world
        .succeed(|world| {
            let mut other = (*world.store.get(&changed).unwrap()).clone();
            other.set("/spec/containers/0/image", "busybox");
            world.store.put(changed.clone(), other);
            let mut elsewhere = (*world.store.get(&moved).unwrap()).clone();
            elsewhere.set("/status/podIPs", json!([{ "ip": "10.1.2.3" }]));
            world.store.put(moved.clone(), elsewhere);
            world.take_away(&unwanted);
            world.node.pod_unlink("uid-unlinked").unwrap();
        })
        .await;
    assert_eq!(adoption.adopted.iter().collect::<Vec<_>>(), ["uid-same"]);
    assert_eq!(adoption.removed.len(), 4, "{adoption:?}");
    assert_eq!(adoption.summary().unwrap(), "1 pod of an earlier daemon taken over, 4 removed to be made anew");
    for (pod, why) in [
        ("foo/changed", "wants another pod"),
        ("foo/unlinked", "its link is gone"),
        ("uid-unwanted", "no such pod"),
        ("foo/moved", "does not know it by its addresses"),
    ] {
        assert!(reason(&adoption.removed, pod).contains(why), "{pod}: {adoption:?}");
    }
    assert!(!world.runtime.pod_dir("uid-unwanted").exists());
    assert!(!world.node.pod_links().iter().any(|link| link.uid == "uid-unwanted"));
    assert_eq!(program(&world, &same).await, before, "the same process");
    for (pod, address) in [(&changed, &addresses[1]), (&unlinked, &addresses[2]), (&moved, &addresses[3])] {
        world.until("made anew", || of(&world, pod) != *address && of(&world, pod) != "10.1.2.3").await;
        world.until_status(pod, "/containerStatuses/0/ready", json!(true)).await;
    }
    assert_eq!(of(&world, &same), addresses[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_to_end_ends_and_one_that_is_over_stays_so() {
    let mut world = World::new();
    let ending = world.pod("ending", sleeper());
    let container = json!({ "name": "sleep", "image": "busybox", "command": ["sh", "-c", "echo said; exit 3"] });
    let over = world.pod("over", json!({ "restartPolicy": "Never", "containers": [container] }));
    world.until_status(&ending, "/containerStatuses/0/ready", json!(true)).await;
    world.until_status(&over, "/phase", json!("Failed")).await;
    let status = world.store.get(&over).unwrap().at("/status").clone();
    let adoption = world.succeed(|world| world.delete(&ending, 0)).await;
    assert_eq!(adoption.adopted.len(), 2, "{adoption:?}");
    world.until("gone", || world.store.get(&ending).is_none()).await;
    assert!(!world.node.pod_links().iter().any(|link| link.uid == "uid-ending"));
    assert_eq!(world.log(&over, "sleep", Logs::default()).await.unwrap(), "said\n");
    // Not even when nothing of it is left.
    let runtime = world.runtime.clone();
    let adoption = world.succeed(|_| runtime.remove_all().unwrap()).await;
    assert_eq!(adoption.adopted.len(), 0, "{adoption:?}");
    assert_eq!(world.log(&over, "sleep", Logs::default()).await.unwrap(), "said\n");
    let refused = world.exec(&over, "sleep", &["true"], None).await.unwrap_err();
    assert!(refused.message().contains("ended with exit code 3"), "{refused:?}");
    assert_eq!(*world.store.get(&over).unwrap().at("/status"), status);
    world.delete(&over, 0);
    world.until("gone", || world.store.get(&over).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_sidecars_and_counts_go_on_where_they_were() {
    let mut world = World::new();
    let container =
        |name: &str, script: &str| json!({ "name": name, "image": "busybox", "command": ["sh", "-c", script] });
    let wait = "until [ -e /v/go ]; do read -t 0.05 <> <(:); done; exit 0";
    let mut spec = sleeper();
    spec["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    let mounts = json!([{ "name": "v", "mountPath": "/v" }]);
    let mut containers = vec![
        container("first", "echo first >>/v/said"),
        container("side", "exec sleep infinity"),
        container("second", &format!("echo second >>/v/said; {wait}")),
    ];
    containers[1]["restartPolicy"] = json!("Always");
    for one in &mut containers {
        one["command"][0] = json!("bash");
        one["volumeMounts"] = mounts.clone();
    }
    spec["initContainers"] = json!(containers);
    spec["containers"][0]["command"] = json!(["bash", "-c", "echo main >>/v/said; exec sleep infinity"]);
    spec["containers"][0]["volumeMounts"] = mounts;
    let pod = world.pod("steps", spec);
    world.until_status(&pod, "/initContainerStatuses/2/started", json!(true)).await;
    let adoption = world.succeed(|_| ()).await;
    assert_eq!(adoption.adopted.len(), 1, "{adoption:?}");
    // Not through the kubelet, which waits for pods that are on their first start.
    let touch = Command { command: ["touch", "/v/go"].map(str::to_owned).to_vec(), ..Command::default() };
    let touched = world.runtime.exec(&world.runtime.pod_dir("uid-steps").join("side/0"), &touch).unwrap();
    assert_eq!(touched.exit.await.unwrap(), 0);
    world.until_status(&pod, "/containerStatuses/0/ready", json!(true)).await;
    let adoption = world.succeed(|_| ()).await;
    assert_eq!(adoption.adopted.len(), 1, "{adoption:?}");
    let (_, said, _) = world.exec(&pod, "sleep", &["cat", "/v/said"], None).await.unwrap();
    assert_eq!(said, "first\nsecond\nmain\n", "each ran once");
    // A restart counts on, and the run before it is the one of the other kubelet.
    world.exec(&pod, "side", &["sh", "-c", "kill -9 -1"], None).await.unwrap();
    world.until_status(&pod, "/initContainerStatuses/1/restartCount", json!(1)).await;
    world.until_status(&pod, "/initContainerStatuses/1/lastState/terminated/exitCode", json!(137)).await;
}
