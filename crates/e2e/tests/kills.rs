//! The daemon, the next one while it starts, or everything is killed at any moment while objects are written, pods start and
//! policies change: nothing that was answered is lost, nothing is half there, and nobody gets in who may not.
#![cfg(test)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use e2e::client::Client;
use e2e::dice::Dice;
use e2e::hammer::{Hammer, Links, echo};
use e2e::mesh::{Mesh, told};
use serde_json::{Value, json};

#[path = "kills/ledger.rs"]
mod ledger;

use ledger::{CONFIG_MAPS, Kind, Ledger, PODS, revision};

/// How long pods may take to be as they are wanted; only bounds a hang.
const READY_MAX: Duration = Duration::from_mins(1);

/// Who writes: each has objects of its own.
const WRITERS: [Kind; 3] = [Kind::ConfigMap, Kind::Pod, Kind::Policy];

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    Daemon,
    /// The daemon, and then the next ones while they start.
    Starting,
    /// Every process of the mesh, pods included.
    Everything,
}

struct Scene {
    mesh: Mesh,
    links: Links,
    /// Uids of server, alice and bob.
    uids: [String; 3],
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list(client: &mut Client, path: &str) -> (Vec<Value>, u64) {
    let answer = client.ask("GET", path, None).unwrap();
    assert_eq!(answer.code, 200, "{path}: {}", answer.body);
    (answer.body["items"].as_array().unwrap().clone(), revision(&answer.body))
}

/// Waits until every pod is ready that is to stay, and no other is there.
fn rest(client: &mut Client) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let (pods, _) = list(client, PODS);
        let is_ready = |pod: &Value| {
            let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
            let ready = |one: &Value| text(one, "/type") == "Ready" && text(one, "/status") == "True";
            pod.pointer("/metadata/deletionTimestamp").is_none() && conditions.is_some_and(|all| all.iter().any(ready))
        };
        if pods.iter().all(is_ready) {
            return pods;
        }
        assert!(begun.elapsed() < READY_MAX, "not as wanted: {pods:#?}");
        std::thread::yield_now();
    }
}

impl Scene {
    fn set() -> Self {
        let mesh = Mesh::up();
        let mut client = Client::of(&mesh);
        let mut make = |path: &str, object: Value| {
            let answer = client.ask("POST", path, Some(&object)).unwrap();
            assert_eq!(answer.code, 201, "{path}: {}", answer.body);
        };
        make(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "foo", "labels": {"istio-injection": "enabled"}}}),
        );
        // Before there is a pod: bob never gets in.
        make(
            ledger::POLICIES,
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "not-bob", "namespace": "foo"},
            "spec": {"action": "DENY", "rules": [{"from": [{"source": {"serviceAccounts": ["bob"]}}]}]}}),
        );
        for name in ["server", "alice", "bob"] {
            make(
                "/api/v1/namespaces/foo/serviceaccounts",
                json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": "foo"}}),
            );
            let container = if name == "server" {
                json!({"name": "app", "image": "istio/tcp-echo-server", "args": ["9000,9001,9002", "hello"]})
            } else {
                json!({"name": "app", "image": "curlimages/curl", "command": ["sleep", "infinity"]})
            };
            make(
                PODS,
                json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "foo", "labels": {"app": name}},
                "spec": {"serviceAccountName": name, "terminationGracePeriodSeconds": 0, "containers": [container]}}),
            );
        }
        let pods = rest(&mut client);
        let find = |name: &str| pods.iter().find(|pod| text(pod, "/metadata/name") == name).unwrap();
        let uids = ["server", "alice", "bob"].map(|name| text(find(name), "/metadata/uid").to_owned());
        let (v4, v6) = (text(find("server"), "/status/podIPs/0/ip"), text(find("server"), "/status/podIPs/1/ip"));
        let links = Links::of(&mesh, &uids[0], v4, v6);
        Self { mesh, links, uids }
    }

    fn up(&self) {
        let output = self.mesh.tidegate(&["up", "--detach"]);
        let log = std::fs::read_to_string(self.mesh.data_dir().join("daemon.log")).unwrap_or_default();
        assert!(output.status.success(), "{}\n{log}", told(&output));
    }

    fn kill(&self, killed: Killed, dice: &mut Dice) {
        match killed {
            Killed::Daemon => self.mesh.kill_9_daemon(),
            Killed::Everything => self.mesh.kill_9_everything(),
            Killed::Starting => {
                self.mesh.kill_9_daemon();
                for _ in 0..=dice.roll(3) {
                    let mut next = self.mesh.foreground();
                    pause(dice.roll(400_000));
                    next.kill().unwrap();
                    next.wait().unwrap();
                }
            }
        }
    }

    /// Whether alice gets to a port of a pod.
    fn alice_gets(&self, uid: &str, port: u16) -> bool {
        let to = self.links.addresses(self.links.find(uid).unwrap().number);
        let outcomes = self.links.inside(&self.uids[1], || to.map(|address| echo((address, port).into()))).unwrap();
        match outcomes.each_ref().map(|outcome| outcome.as_ref().map_err(String::as_str)) {
            [Ok(()), Ok(())] => true,
            [Err("connect: connection refused"), Err("connect: connection refused")] => false,
            odd => panic!("{odd:?}"),
        }
    }

    /// What is there after a kill is what may be there, and it is in force.
    fn look(&self, ledgers: &[Mutex<Ledger>; 3]) {
        let mut client = Client::of(&self.mesh);
        let highest = ledgers.iter().map(|ledger| ledger.lock().unwrap().highest).max().unwrap();
        for (kind, ledger) in WRITERS.into_iter().zip(ledgers) {
            let mut ledger = ledger.lock().unwrap();
            let (found, now) = list(&mut client, kind.path());
            assert!(now >= highest, "the revision went back from {highest} to {now}");
            found.iter().try_for_each(|object| ledger.note(object)).unwrap();
            if kind != Kind::Pod {
                ledger.settle(kind, &found).unwrap();
            }
        }
        let pods = rest(&mut client);
        ledgers[1].lock().unwrap().settle(Kind::Pod, &pods).unwrap();
        for pod in pods.iter().filter(|pod| text(pod, "/metadata/name").starts_with("pod-")) {
            assert!(self.alice_gets(text(pod, "/metadata/uid"), 9000));
        }
        let (policies, _) = list(&mut client, ledger::POLICIES);
        let denied = policies.iter().any(|policy| text(policy, "/metadata/labels/denies") == "true");
        assert_eq!(self.alice_gets(&self.uids[0], 9002), !denied, "{policies:#?}");
    }
}

/// Lets some microseconds pass: a kill is to hit any moment.
fn pause(microseconds: usize) {
    let (_kept, never) = channel::<()>();
    assert!(never.recv_timeout(Duration::from_micros(microseconds as u64)).is_err());
}

/// Writes until the server is gone. Words are numbered through, so that no two states of an object are alike.
fn write(scene: &Scene, kind: Kind, ledger: &Mutex<Ledger>, words: &AtomicUsize, seed: u64) -> Result<(), String> {
    let (mut client, mut dice) = (Client::of(&scene.mesh), Dice::of(seed));
    loop {
        let word = format!("w{}", words.fetch_add(1, Ordering::Relaxed));
        if !ledger.lock().unwrap().write(&mut client, kind, &word, &mut dice)? {
            return Ok(());
        }
    }
}

/// Watches until the server is gone: what is shown is there to stay.
fn watch(scene: &Scene, ledger: &Mutex<Ledger>) -> Result<(), String> {
    let mut client = Client::of(&scene.mesh);
    let Ok(mut next) = client.watch(&format!("{CONFIG_MAPS}?watch=true")) else { return Ok(()) };
    while let Some(event) = next() {
        if text(&event, "/type") != "DELETED" {
            ledger.lock().unwrap().note(&event["object"])?;
        }
    }
    Ok(())
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_answered_and_lets_nobody_in() {
    let scene = Scene::set();
    let [server, alice, bob] = &scene.uids;
    // 20 kills in a landing, 1,000 in the long run.
    let rounds = (10 * e2e::scale()).max(20);
    let mut dice = Dice::of(rounds as u64);
    let ledgers: [Mutex<Ledger>; 3] = Default::default();
    let words = AtomicUsize::new(0);
    let denied = [9000, 9001].map(|port| Hammer::denied(&scene.links, bob, port));
    let permitted = Hammer::permitted(&scene.links, alice, server, 9001);
    let held = Hammer::held(&scene.links, alice, server, 9001);
    let (mut kills, mut got_through) = ([0; 3], 0);
    for round in 0..rounds {
        let killed = match dice.roll(10) {
            0 => Killed::Everything,
            1..=3 => Killed::Starting,
            _ => Killed::Daemon,
        };
        kills[killed as usize] += 1;
        std::thread::scope(|scope| {
            let writers: Vec<_> = WRITERS
                .into_iter()
                .zip(&ledgers)
                .enumerate()
                .map(|(number, (kind, ledger))| {
                    let (scene, words, seed) = (&scene, &words, (round * 3 + number) as u64);
                    scope.spawn(move || write(scene, kind, ledger, words, seed))
                })
                .collect();
            let watcher = scope.spawn(|| watch(&scene, &ledgers[0]));
            pause(dice.roll(400_000));
            scene.kill(killed, &mut dice);
            for writer in writers.into_iter().chain([watcher]) {
                writer.join().unwrap().unwrap();
            }
        });
        scene.up();
        scene.look(&ledgers);
        for hammer in &denied {
            hammer.until_tried(10);
            assert_eq!(hammer.take().odd, Vec::<String>::new(), "round {round}, {killed:?}");
        }
        let odd = [&permitted, &held].map(|hammer| {
            hammer.until_tried(10);
            let tally = hammer.take();
            got_through += tally.through;
            tally.odd
        });
        if killed == Killed::Everything {
            // Its server was gone for a while: it must have been told so.
            let silent: Vec<_> = odd.iter().flatten().filter(|why| why.contains("silence")).collect();
            assert!(silent.is_empty(), "round {round}: {silent:?}");
        } else {
            assert_eq!(odd, [Vec::<String>::new(), Vec::new()], "round {round}, {killed:?}");
        }
    }
    let answered: usize = ledgers.iter().map(|ledger| ledger.lock().unwrap().answered).sum();
    println!("{rounds} rounds, kills {kills:?}, {answered} writes answered, alice got through {got_through} times");
    assert!(answered > 5 * rounds && got_through > 20 * rounds);
}
