//! Random stories: whatever happens, controllers come to rest.

use api::{Key, Write};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::plan::is_ready;
use super::super::replicasets::replicas;
use super::{World, deployment, image, service};

#[test]
fn the_node_is_ready_and_runs_every_pod() {
    let mut world = World::new();
    let node = world.objects.find("", "nodes", None, "tidegate").unwrap();
    assert_eq!(node.items_at("/status/conditions")[0]["status"], "True");
    world.make(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own", "namespace": "foo"}, "spec": {}}));
    world.settle();
    assert_eq!(world.get("", "pods", "own").str_at("/spec/nodeName"), "tidegate");
}

/// What users and pods may do to a deployment.
#[derive(Debug, Clone)]
enum Step {
    Scale(i64),
    Image(u8),
    Strategy(Value),
    KillPod(usize),
    FailPod(usize),
    Ready(usize, bool),
    Service(bool),
    Pause(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6_i64).prop_map(Step::Scale),
        (0..3_u8).prop_map(Step::Image),
        prop_oneof![
            Just(json!({"type": "Recreate", "rollingUpdate": null})),
            (0..3, 0..3).prop_map(|(surge, unavailable)| {
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
            }),
        ]
        .prop_map(Step::Strategy),
        (0..6_usize).prop_map(Step::KillPod),
        (0..6_usize).prop_map(Step::FailPod),
        (0..6_usize, any::<bool>()).prop_map(|(pod, ready)| Step::Ready(pod, ready)),
        any::<bool>().prop_map(Step::Service),
        any::<bool>().prop_map(Step::Pause),
    ]
}

fn take(world: &mut World, step: &Step) {
    let patch = |world: &mut World, spec: Value| {
        let before = world.get("apps", "deployments", "echo").value().clone();
        let mut after = before.clone();
        api::patch::merge(&mut after, &json!({ "spec": spec }));
        if after != before {
            world.edit("apps", "deployments", "echo", json!({ "spec": spec }));
        }
    };
    let pod = |world: &World, number: usize| world.pods().get(number).filter(|pod| !pod.is_deleting()).cloned();
    let there = world.objects.find("", "services", Some("foo"), "echo").is_some();
    match step {
        Step::Scale(replicas) => patch(world, json!({ "replicas": replicas })),
        Step::Image(number) => patch(world, image(&number.to_string())["spec"].clone()),
        Step::Strategy(strategy) => patch(world, json!({ "strategy": strategy })),
        Step::Pause(paused) => patch(world, json!({ "paused": paused })),
        Step::KillPod(number) => {
            if let Some(pod) = pod(world, *number) {
                world.write(Write::Delete { key: Key::namespaced("", "pods", "foo", pod.name()), now: false });
            }
        }
        Step::FailPod(number) => {
            if let Some(pod) = pod(world, *number) {
                world.fail(pod.name());
            }
        }
        Step::Ready(number, ready) => {
            if let Some(pod) = pod(world, *number).filter(|pod| pod.str_at("/status/phase") == "Running") {
                world.set_pod(&pod, *number, *ready);
            }
        }
        Step::Service(true) if !there => world.make(service()),
        Step::Service(false) if there => {
            world.write(Write::Delete { key: Key::namespaced("", "services", "foo", "echo"), now: false });
        }
        Step::Service(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, a few looks later nothing is wanted any more, and what is wanted is there.
    #[test]
    fn every_story_settles(steps in proptest::collection::vec(step(), 1..12), at_once in any::<bool>()) {
        let mut world = World::new();
        world.make(deployment(2));
        for step in &steps {
            take(&mut world, step);
            if !at_once {
                world.settle();
            }
        }
        world.settle();
        let deployment = world.get("apps", "deployments", "echo");
        let wanted = usize::try_from(replicas(deployment)).unwrap();
        let failed = world.pods().iter().filter(|pod| pod.str_at("/status/phase") == "Failed").count();
        let unready = world.pods().iter().filter(|pod| pod.str_at("/status/phase") == "Running" && !is_ready(pod)).count();
        let paused = deployment.at("/spec/paused") == true;
        // A rollout waits for pods that do not get ready, within its bounds; pods that failed too often are not replaced.
        if unready == 0 && failed <= 5 && !paused {
            prop_assert_eq!(world.active(), wanted);
        }
        prop_assert_eq!(deployment.at("/status/observedGeneration"), deployment.generation());
    }
}
