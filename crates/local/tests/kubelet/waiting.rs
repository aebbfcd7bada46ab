//! Starts that have to wait: for configuration, for an address.

use std::time::{Duration, Instant};

use local::NodeSettings;
use local::node::{Net4, Ranges};
use serde_json::json;

use super::harness::{World, sleeper};

/// When a start that has failed is tried again if nothing new comes.
const TRY_AGAIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_waits_for_a_config_map_is_guarded_once_and_starts_when_it_comes() {
    let world = World::new();
    let mut spec = sleeper();
    spec["volumes"] = json!([{ "name": "late", "configMap": { "name": "late" } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "mountPath": "/late", "name": "late" }]);
    let key = world.pod("waits", spec);
    world.until_status(&key, "/containerStatuses/0/state/waiting/reason", json!("CreatePodError")).await;
    let begun = Instant::now();
    world.config_map("late");
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    assert!(begun.elapsed() < TRY_AGAIN, "noticed by the timer: {:?}", begun.elapsed());
    assert_eq!(*world.attached.lock().unwrap(), 1, "attached again while it is attached");
    let (code, output, errors) = world.exec(&key, "sleep", &["cat", "/late/a"], None).await.unwrap();
    assert_eq!((code, output.as_str(), errors.as_str()), (0, "b", ""));

    let mut spec = sleeper();
    spec["containers"][0]["env"] =
        json!([{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "later", "key": "a" } } }]);
    let key = world.pod("waits-too", spec);
    let waits = json!("CreateContainerConfigError");
    world.until_status(&key, "/containerStatuses/0/state/waiting/reason", waits).await;
    let begun = Instant::now();
    world.config_map("later");
    world.until_status(&key, "/containerStatuses/0/ready", json!(true)).await;
    assert!(begun.elapsed() < TRY_AGAIN, "noticed by the timer: {:?}", begun.elapsed());
}

fn two_addresses(settings: NodeSettings) -> NodeSettings {
    let mut ranges = Ranges::choose(settings.id, &[]).unwrap();
    ranges.pods_v4 = Net4 { prefix: 30, ..ranges.pods_v4 };
    NodeSettings { ranges: Some(ranges), ..settings }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_an_address_is_pending_says_so_and_starts_when_one_is_free() {
    let world = World::with(two_addresses);
    let ready = json!(true);
    let first = world.pod("first", sleeper());
    let second = world.pod("second", sleeper());
    for key in [&first, &second] {
        world.until_status(key, "/containerStatuses/0/ready", ready.clone()).await;
    }
    let third = world.pod("third", sleeper());
    world.until_status(&third, "/containerStatuses/0/state/waiting/reason", json!("CreatePodError")).await;
    world.until_status(&third, "/phase", json!("Pending")).await;
    let why = "all 2 pod addresses are taken: 2 in use, 0 resting after use; delete pods or wait";
    world.until("said", || world.told().iter().any(|told| told.contains(why))).await;
    assert_eq!(world.store.get(&third).unwrap().at("/status/podIP"), &json!(null));
    let begun = Instant::now();
    world.delete(&first, 0);
    world.until_status(&third, "/containerStatuses/0/ready", ready).await;
    assert!(begun.elapsed() < TRY_AGAIN, "noticed by the timer: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_two_survives_churn_without_rest_but_an_address_that_is_still_known_rests() {
    let world = World::with(two_addresses);
    let ready = json!(true);
    let stays = world.pod("stays", sleeper());
    world.until_status(&stays, "/containerStatuses/0/ready", ready.clone()).await;
    let begun = Instant::now();
    let mut last = world.pod("round-0", sleeper());
    for round in 1..=6 {
        world.until_status(&last, "/containerStatuses/0/ready", ready.clone()).await;
        // As a deployment does it: the next one is there before the last one is gone, and has to wait for its address.
        let next = world.pod(&format!("round-{round}"), sleeper());
        world.until_status(&next, "/containerStatuses/0/state/waiting/reason", json!("CreatePodError")).await;
        world.delete(&last, 0);
        last = next;
    }
    world.until_status(&last, "/containerStatuses/0/ready", ready).await;
    assert!(begun.elapsed() < TRY_AGAIN, "addresses rested, or were noticed by the timer: {:?}", begun.elapsed());
    world.config_map("known");
    world.delete(&last, 0);
    world.until("gone", || world.store.get(&last).is_none()).await;
    world.pod("next", sleeper());
    world.until("said", || world.told().iter().any(|told| told.contains("1 in use, 1 resting after use"))).await;
}
