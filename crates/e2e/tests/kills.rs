//! The daemon, the next one while it starts, or everything is killed at any moment while objects are written, pods start and
//! policies change: nothing that was answered is lost, nothing is half there, and nobody gets in who may not.
#![cfg(test)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use e2e::client::Client;
use e2e::dice::Dice;
use e2e::mesh::Mesh;
use e2e::trio::{CONFIG_MAPS, POLICIES, Trio, list, odd, rest, text};

#[path = "kills/ledger.rs"]
mod ledger;

use ledger::{Kind, Ledger};

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

fn kill(mesh: &Mesh, killed: Killed, dice: &mut Dice) {
    match killed {
        Killed::Daemon => mesh.kill_9_daemon(),
        Killed::Everything => mesh.kill_9_everything(),
        Killed::Starting => {
            mesh.kill_9_daemon();
            for _ in 0..=dice.roll(3) {
                let mut next = mesh.foreground();
                pause(dice.roll(400_000));
                next.kill().unwrap();
                next.wait().unwrap();
            }
        }
    }
}

/// What is there after a kill is what may be there, and it is in force.
fn look(trio: &Trio, ledgers: &[Mutex<Ledger>; 3]) {
    let mut client = Client::of(&trio.mesh);
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
        assert!(trio.alice_gets(text(pod, "/metadata/uid"), 9000));
    }
    let (policies, _) = list(&mut client, POLICIES);
    let denied = policies.iter().any(|policy| text(policy, "/metadata/labels/denies") == "true");
    assert_eq!(trio.alice_gets(&trio.server, 9002), !denied, "{policies:#?}");
}

/// Lets some microseconds pass: a kill is to hit any moment.
fn pause(microseconds: usize) {
    let (_kept, never) = channel::<()>();
    assert!(never.recv_timeout(Duration::from_micros(microseconds as u64)).is_err());
}

/// Writes until the server is gone. Words are numbered through, so that no two states of an object are alike.
fn write(trio: &Trio, kind: Kind, ledger: &Mutex<Ledger>, words: &AtomicUsize, seed: u64) -> Result<(), String> {
    let (mut client, mut dice) = (Client::of(&trio.mesh), Dice::of(seed));
    loop {
        let word = format!("w{}", words.fetch_add(1, Ordering::Relaxed));
        if !ledger.lock().unwrap().write(&mut client, kind, &word, &mut dice)? {
            return Ok(());
        }
    }
}

/// Watches until the server is gone: what is shown is there to stay.
fn watch(trio: &Trio, ledger: &Mutex<Ledger>) -> Result<(), String> {
    let mut client = Client::of(&trio.mesh);
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
    let trio = Trio::of(Mesh::up());
    // 20 kills in a landing, 1,000 in the long run.
    let rounds = (10 * e2e::scale()).max(20);
    let mut dice = Dice::of(rounds as u64);
    let ledgers: [Mutex<Ledger>; 3] = Default::default();
    let words = AtomicUsize::new(0);
    let (denied, permitted) = (trio.denied(), trio.permitted());
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
                    let (trio, words, seed) = (&trio, &words, (round * 3 + number) as u64);
                    scope.spawn(move || write(trio, kind, ledger, words, seed))
                })
                .collect();
            let watcher = scope.spawn(|| watch(&trio, &ledgers[0]));
            pause(dice.roll(400_000));
            kill(&trio.mesh, killed, &mut dice);
            for writer in writers.into_iter().chain([watcher]) {
                writer.join().unwrap().unwrap();
            }
        });
        trio.up();
        look(&trio, &ledgers);
        assert_eq!(odd(&denied), Vec::<String>::new(), "round {round}, {killed:?}");
        let odd = permitted.each_ref().map(|hammer| {
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
        if (round + 1) % 50 == 0 {
            println!("{} rounds, kills {kills:?}", round + 1);
        }
    }
    let answered: usize = ledgers.iter().map(|ledger| ledger.lock().unwrap().answered).sum();
    println!("{rounds} rounds, kills {kills:?}, {answered} writes answered, alice got through {got_through} times");
    assert!(answered > 5 * rounds && got_through > 20 * rounds);
}
