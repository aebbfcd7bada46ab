//! What fails around a mesh: the disk is full, descriptors run out, the clock jumps. Nothing opens that is to be closed, what was
//! answered stays, it is said what is wrong, and when it is over the mesh goes on by itself.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::client::{Answer, Client};
use e2e::mesh::{Mesh, told};
use e2e::trio::{
    CONFIG_MAPS, PODS, POLICIES, Trio, denying, list, make, odd, pod, rest, revision, running, serving, text,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

/// Room for the store, logs and records of a small mesh, and little more.
const DISK_BYTES: usize = 24 << 20;

fn config_map(name: &str, bytes: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "foo"}, "data": {"text": "x".repeat(bytes)}})
}

/// Waits for a condition.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::yield_now();
    }
}

/// Takes all room there is.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for length in [1 << 16, 1] {
        while file.write_all(&vec![b'x'; length]).is_ok() {}
    }
}

/// Writes that need room until one is refused, and how; names of those that were taken.
fn until_refused(client: &mut Client, taken: &mut Vec<(String, u64)>) -> Answer {
    for _ in 0..200 {
        let name = format!("big-{}", taken.len());
        let answer = client.ask("POST", CONFIG_MAPS, Some(&config_map(&name, 200_000))).unwrap();
        if answer.code != 201 {
            return answer;
        }
        taken.push((name, revision(&answer.body)));
    }
    panic!("no write is refused on a full disk");
}

fn all_there(client: &mut Client, taken: &[(String, u64)]) {
    let (found, _) = list(client, CONFIG_MAPS);
    let known = |object: &Value| (text(object, "/metadata/name").to_owned(), revision(object));
    let found: Vec<_> = found.iter().map(known).filter(|(name, _)| name.starts_with("big-")).collect();
    let mut taken = taken.to_vec();
    taken.sort();
    assert_eq!(found, taken);
}

#[test]
fn a_full_disk_takes_no_write_opens_nothing_and_is_gone_on_from_when_there_is_room() {
    let mesh = Mesh::on_disk(DISK_BYTES);
    let output = mesh.tidegate(&["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
    let trio = Trio::of(mesh);
    let mut client = Client::of(&trio.mesh);
    let talks = make(
        &mut client,
        PODS,
        &pod(
            "talks",
            "alice",
            &running(
                "pad=$(printf %02000d 0); n=0; while :; do n=$((n+1)); echo said $n $pad; read -t 0.02 <> <(:); done",
            ),
        ),
    );
    rest(&mut client);
    let (denied, permitted) = (trio.denied(), trio.permitted());
    let ballast = trio.mesh.work_dir().join("ballast");
    let mut taken = Vec::new();
    for round in 0..2 {
        fill(&ballast);
        let refused = until_refused(&mut client, &mut taken);
        assert!(refused.body.to_string().contains("free space"), "{refused:?}");
        // What is there can be looked at; a policy either is refused or in force, and is not half of both.
        all_there(&mut client, &taken);
        let name = format!("not-alice-{round}");
        let answer = client.ask("POST", POLICIES, Some(&denying(&name, "alice", 9002))).unwrap();
        let (policies, _) = list(&mut client, POLICIES);
        assert_eq!(answer.code == 201, policies.iter().any(|policy| text(policy, "/metadata/name") == name));
        if round == 1 {
            trio.mesh.kill_9_daemon();
            let output = trio.mesh.tidegate(&["up", "--detach"]);
            // It says why, though it cannot be written to its log, and what ran before runs on.
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("No space left on device") && said.contains("what ran before runs on"), "{said}");
            assert_eq!(odd(&denied), Vec::<String>::new());
            fs::remove_file(&ballast).unwrap();
            trio.up();
            client = Client::of(&trio.mesh);
        } else {
            fs::remove_file(&ballast).unwrap();
        }
        let name = format!("big-{}", taken.len());
        let made = make(&mut client, CONFIG_MAPS, &config_map(&name, 200_000));
        taken.push((name, revision(&made)));
        all_there(&mut client, &taken);
        drop(client.ask("DELETE", &format!("{POLICIES}/not-alice-{round}"), None).unwrap());
        assert!(trio.alice_gets(&trio.server, 9002));
        make(&mut client, POLICIES, &denying("not-alice", "alice", 9002));
        assert!(!trio.alice_gets(&trio.server, 9002));
        drop(client.ask("DELETE", &format!("{POLICIES}/not-alice"), None).unwrap());
        assert_eq!(odd(&denied), Vec::<String>::new());
        assert_eq!(odd(&permitted), Vec::<String>::new());
    }
    // What a pod said while there was no room is lost; it was not held up, and what it says now is there, line by line.
    let log = trio.mesh.data_dir().join("logs").join(text(&talks, "/metadata/uid")).join("app/0.log");
    let before = fs::metadata(&log).unwrap().len();
    until("the pod's log goes on", || fs::metadata(&log).unwrap().len() > before + 10_000);
    let said = fs::read_to_string(&log).unwrap();
    let (whole, _last) = said.rsplit_once('\n').unwrap();
    let number = |line: &str| {
        let (number, rest) = line.split_once(" stdout F said ")?.1.split_once(' ')?;
        number.parse::<u64>().ok().filter(|_| rest.len() == 2000)
    };
    let odd: Vec<&str> = whole.lines().filter(|line| number(line).is_none()).collect();
    assert!(odd.is_empty(), "{odd:?}");
    let lost = number(whole.lines().last().unwrap()).unwrap() - whole.lines().count() as u64;
    assert!(lost > 0, "the disk was full for a while");
}

#[test]
fn the_log_of_a_daemon_is_bounded() {
    let trio = Trio::of(Mesh::up());
    trio.mesh.kill_9_daemon();
    let (log, aside) = (trio.mesh.data_dir().join("daemon.log"), trio.mesh.data_dir().join("daemon.log.1"));
    fs::write(&log, "something told before\n".repeat(500_000)).unwrap();
    trio.up();
    let denied = trio.denied();
    // Denials are told there, each in a line.
    until("the log is put aside", || aside.exists());
    until("the new one is written", || {
        fs::read_to_string(&log).unwrap_or_default().contains("foo/not-bob rule 0 denies it")
    });
    assert!(fs::metadata(&log).unwrap().len() < 1 << 20);
    assert!(fs::read_to_string(&aside).unwrap().starts_with("something told before\n"));
    assert_eq!(odd(&denied), Vec::<String>::new());
}

/// The lowest number that a descriptor of a process does not have yet.
fn first_free_descriptor(pid: i32) -> u64 {
    let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    let used: BTreeSet<u64> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().filter_map(name).collect();
    (0..=used.len() as u64).find(|number| !used.contains(number)).unwrap()
}

#[test]
fn without_descriptors_nothing_opens_it_is_said_and_the_mesh_goes_on_when_there_are_some() {
    let trio = Trio::of(Mesh::up());
    let mut client = Client::of(&trio.mesh);
    // It is connected before there is nothing to connect with.
    rest(&mut client);
    let (denied, permitted) = (trio.denied(), trio.permitted());
    let pid = trio.mesh.daemon();
    let handle = Pid::from_raw(pid);
    let before = prlimit(handle, Resource::Nofile, getrlimit(Resource::Nofile)).unwrap();
    for round in 0..2 {
        let logged = || trio.log().matches("Too many open files").count();
        let before_log = logged();
        // All that it has it keeps, and it gets no more.
        let none = Rlimit { current: Some(first_free_descriptor(pid)), ..before };
        prlimit(handle, Resource::Nofile, none).unwrap();
        // One that came back between the look and the limit goes to these.
        let port: u16 = fs::read_to_string(trio.mesh.data_dir().join("port")).unwrap().trim().parse().unwrap();
        let crowd: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        // A client that is connected goes on; what it writes is in force, or it is told that it is not yet.
        let name = format!("late-{round}");
        let policy = client.ask("POST", POLICIES, Some(&denying(&name, "alice", 9002))).unwrap();
        assert_eq!(policy.code, 201, "{policy:?}");
        let is_denied = !trio.alice_gets(&trio.server, 9002);
        assert!(is_denied || policy.warning.is_some(), "{policy:?}");
        let waits = make(&mut client, PODS, &pod(&name, "alice", &serving("9000,9001")));
        // A client that comes now is not answered: the log says why.
        let mut late = Client::of(&trio.mesh);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| late.ask("GET", PODS, None));
            until("the log says what is wrong", || logged() > before_log);
            until("the pod's event says why it does not start", || {
                let (events, _) = list(&mut client, "/api/v1/namespaces/foo/events");
                let told = |event: &Value| {
                    let (of, why) = (text(event, "/involvedObject/name"), text(event, "/message"));
                    of == name && why.contains("Too many open files")
                };
                events.iter().any(told)
            });
            assert_eq!(odd(&denied), Vec::<String>::new());
            drop(crowd);
            prlimit(handle, Resource::Nofile, before).unwrap();
            assert_eq!(asked.join().unwrap().unwrap().code, 200, "it waited, and is answered now");
        });
        until("the policy is in force", || !trio.alice_gets(&trio.server, 9002));
        rest(&mut client);
        assert!(trio.alice_gets(text(&waits, "/metadata/uid"), 9000));
        without(&trio, &mut client, &name);
        for clients in [&denied, &permitted] {
            assert_eq!(odd(clients), Vec::<String>::new(), "round {round}");
        }
    }
}

/// Takes away the policy and the pod of a round, after which alice gets in again.
fn without(trio: &Trio, client: &mut Client, name: &str) {
    for path in [POLICIES, PODS] {
        assert_eq!(client.ask("DELETE", &format!("{path}/{name}"), None).unwrap().code, 200);
    }
    rest(client);
    assert!(trio.alice_gets(&trio.server, 9002));
}

/// Adds the seconds that a file holds to what programs are told of the time, as the machine's clock would be set.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *jump;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TIDEGATE_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *seen = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (seen != MAP_FAILED) jump = seen;
    close(file);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && jump && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *jump;
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}
time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"#;

/// A mesh whose daemon is told a time that can be set: the file that says how far it is from the true one.
fn with_a_clock() -> (Mesh, PathBuf) {
    let mut mesh = Mesh::down();
    let (source, library) = (mesh.work_dir().join("clock.c"), mesh.work_dir().join("clock.so"));
    let file = mesh.work_dir().join("clock");
    fs::write(&source, CLOCK).unwrap();
    fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status().unwrap();
    assert!(built.success());
    mesh.with("LD_PRELOAD", library);
    mesh.with("TIDEGATE_TEST_CLOCK", &file);
    let output = mesh.tidegate(&["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
    (mesh, file)
}

#[test]
fn a_clock_that_jumps_changes_no_verdict_and_holds_nothing_up() {
    const YEAR: i64 = 365 * 24 * 3600;
    let (mesh, clock) = with_a_clock();
    let trio = Trio::of(mesh);
    let mut client = Client::of(&trio.mesh);
    let (denied, permitted) = (trio.denied(), trio.permitted());
    for (round, jump) in [3600, 10 * YEAR, -3600, -40 * YEAR, 0].into_iter().enumerate() {
        let file = fs::OpenOptions::new().write(true).open(&clock).unwrap();
        file.write_all_at(&jump.to_ne_bytes(), 0).unwrap();
        let name = format!("round-{round}");
        let policy = make(&mut client, POLICIES, &denying(&name, "alice", 9002));
        // It is told that time: the test would prove nothing otherwise.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed() + jump;
        let year =
            i64::from(text(&policy, "/metadata/creationTimestamp").split('-').next().unwrap().parse::<i32>().unwrap());
        assert!((year - 1970 - now / YEAR).abs() <= 1, "{policy}");
        assert!(!trio.alice_gets(&trio.server, 9002), "in force when it is answered");
        let made = make(&mut client, PODS, &pod(&name, "alice", &serving("9000,9001")));
        rest(&mut client);
        assert!(trio.alice_gets(text(&made, "/metadata/uid"), 9000));
        // A new client is let in: its own clock is right, and that of the server does not matter.
        let (before, _) = list(&mut Client::of(&trio.mesh), PODS);
        trio.mesh.kill_9_daemon();
        trio.up();
        client = Client::of(&trio.mesh);
        let after = rest(&mut client);
        let lives = |pods: &[Value]| -> BTreeSet<String> {
            pods.iter().map(|pod| text(pod, "/status/containerStatuses/0/containerID").to_owned()).collect()
        };
        assert_eq!(lives(&after), lives(&before), "they are taken over");
        without(&trio, &mut client, &name);
        for clients in [&denied, &permitted] {
            assert_eq!(odd(clients), Vec::<String>::new(), "round {round}");
        }
    }
}
