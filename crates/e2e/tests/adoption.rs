//! A daemon is killed and the next one takes its pods over: processes, connections, addresses, counts live on.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::mesh::{processes_of, told};
use e2e::running::Running;
use e2e::traces::traces;
use e2e::world::World;
use linux::netlink::{Protocol, Socket};
use linux::nft::{Family, Table, Transaction};
use rustix::process::{Pid, Signal, kill_process};

/// A client that keeps one connection and says each answer; `BROKEN` when it is over.
const TALKER: &str = "until exec 3<>/dev/tcp/PLACE; do read -t 0.05 <> <(:); done 2>/dev/null; n=0; \
    while echo $n >&3 && read -t 5 line <&3; do echo \"got $line\"; n=$((n+1)); read -t 0.05 <> <(:); done; \
    echo \"BROKEN after $n\"; exec sleep infinity";

/// A client that tries a forbidden port and a permitted one for ever.
const HAMMER: &str = "n=0; while :; do n=$((n+1)); out=$(echo x | nc -w 1 ADDRESS 9000 2>/dev/null); [ -z \"$out\" ] || echo \"THROUGH $n $out\"; \
    if echo x | nc -w 1 ADDRESS 9001 >/dev/null 2>&1; then echo \"open $n\"; else echo \"shut $n\"; fi; done";

fn pod(name: &str, account: &str, script: &str, more: &serde_json::Value) -> String {
    let mut pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "foo"},
        "spec": {"serviceAccountName": account, "terminationGracePeriodSeconds": 0,
                 "containers": [{"name": "app", "image": "curlimages/curl", "command": ["bash", "-c", script]}]},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod.to_string()
}

/// Where the log of a pod's container lies: what nobody's daemon is needed to read.
fn log_file(world: &World, pod: &str) -> PathBuf {
    let uid = world.must(&format!("kubectl get pod {pod} -o jsonpath={{.metadata.uid}}"));
    world.mesh.data_dir().join("logs").join(uid).join("app/0.log")
}

fn follow_file(world: &World, file: &Path) -> Running {
    Running::of(world.start(&format!("exec tail -n +1 -F {}", file.display())))
}

/// What must be the same before and after.
fn identity(world: &World) -> String {
    let path = "{range .items[*]}{.metadata.namespace}/{.metadata.name} {.metadata.uid} {.status.podIPs[*].ip} {.status.startTime} \
                {range .status.containerStatuses[*]}{.name} {.containerID} {.restartCount} {.ready} {.state.running.startedAt} {end}\
                {range .status.conditions[*]}{.type}={.status} {.lastTransitionTime} {end}{\"\\n\"}{end}";
    world.must(&format!("kubectl get pods -A -o jsonpath='{path}'"))
}

/// Processes of the mesh's pods but for those that shells start and wait for.
fn processes(world: &World) -> BTreeSet<(i32, String)> {
    let lasting = ["tidegate pod-", "tcp-echo ", "sleep infinity"];
    let all = processes_of(&world.mesh.data_dir()).into_iter();
    all.filter(|(_, words)| lasting.iter().any(|begin| words.starts_with(begin))).collect()
}

fn up(world: &World) -> String {
    let output = world.mesh.tidegate(&["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The number of `got hello N`.
fn count(line: &str) -> u64 {
    line.trim_end().rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[test]
fn pods_and_their_connections_live_on_over_kill_9() {
    let world = World::new();
    world.policy("foo/not-bob", "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{from: [{source: {serviceAccounts: [bob]}}], to: [{operation: {ports: ['9000']}}]}]}");
    let server = world.address("server").to_owned();
    for (name, place) in [("by-address", format!("{server}/9000")), ("by-name", "server/9000".to_owned())] {
        world.apply(&pod(name, "alice", &TALKER.replace("PLACE", &place), &serde_json::json!({})));
    }
    world.apply(&pod("hammer", "bob", &HAMMER.replace("ADDRESS", &server), &serde_json::json!({})));
    world.must("kubectl wait --for=condition=Ready pod/by-address pod/by-name pod/hammer --timeout=30s >/dev/null");
    let files = ["by-address", "by-name", "hammer"].map(|name| log_file(&world, name));
    let mut said = files.each_ref().map(|file| follow_file(&world, file));
    said[0].until(&["got hello 5"]);
    said[1].until(&["got hello 5"]);
    said[2].until(&["open 5"]);
    let (before, running) = (identity(&world), processes(&world));
    assert!(running.len() > 20, "the look must see the pods: {running:?}");
    world.mesh.kill_9_daemon();
    let dead = count(&said[0].until(&["got hello"]));
    said[0].until(&[&format!("got hello {}", dead + 20)]);
    said[2].until(&["open"]);
    let up_said = up(&world);
    assert!(up_said.contains("pods of an earlier daemon taken over)"), "{up_said}");
    assert_eq!(identity(&world), before);
    assert_eq!(processes(&world), running);
    // They go on, on the connections that they have; through the new daemon as well.
    let logs = ["by-address", "by-name"].map(|name| format!("exec kubectl logs {name} -f"));
    for (script, direct) in logs.iter().zip(&mut said) {
        let now = count(&direct.until(&["got hello"]));
        Running::of(world.start(script)).until(&[&format!("got hello {}", now + 40)]);
    }
    said[2].until(&["open"]);
    assert_eq!(world.must("kubectl exec by-name -- sh -c 'echo in'"), "in\n");
    assert_eq!([world.who_gets(9000), world.who_gets(9001)], ["alice carol dave host", "alice bob carol dave host"]);
    for (file, unwanted) in files.iter().zip(["BROKEN", "BROKEN", "THROUGH"]) {
        let log = fs::read_to_string(file).unwrap();
        assert!(!log.contains(unwanted) && !log.contains("shut"), "{log}");
    }
    // And they are the next daemon's to reset and to remove.
    world.policy("foo/not-alice", "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{from: [{source: {serviceAccounts: [alice]}}]}]}");
    said[0].until(&["BROKEN"]);
    said[1].until(&["BROKEN"]);
    let uid = world.must("kubectl get pod by-name -o jsonpath={.metadata.uid}");
    // Without any time of its own the object would go first.
    world.must("kubectl delete pod by-name --grace-period=1 >/dev/null");
    let left: Vec<_> = processes(&world).into_iter().filter(|(_, words)| words.contains(&uid)).collect();
    assert_eq!(left, []);
    drop(said);
    assert!(world.mesh.tidegate(&["down"]).status.success());
    assert_eq!(traces(&world.mesh), BTreeSet::new());
}

/// Processes whose environment says that they run in this pod.
fn programs(world: &World, pod: &str) -> Vec<Pid> {
    let wanted = format!("HOSTNAME={pod}");
    let runs = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes())
    };
    let all = processes_of(&world.mesh.data_dir()).into_iter();
    all.filter(|(pid, _)| runs(*pid)).filter_map(|(pid, _)| Pid::from_raw(pid)).collect()
}

fn signal(world: &World, pod: &str, signal: Signal) {
    let found = programs(world, pod);
    assert!(!found.is_empty(), "{pod} runs");
    for pid in found {
        kill_process(pid, signal).unwrap();
    }
}

#[test]
fn what_ended_while_nobody_watched_is_reported_and_restarted_as_its_policy_says() {
    let world = World::new();
    let ends = |code: u8| format!("trap 'exit {code}' TERM; echo waits; while :; do read -t 0.05 <> <(:); done");
    let policy = |policy: &str| serde_json::json!({"restartPolicy": policy});
    for (name, script, policy) in [
        ("never", ends(3), policy("Never")),
        ("job", ends(0), policy("OnFailure")),
        ("fails", ends(4), policy("OnFailure")),
        ("always", ends(0), policy("Always")),
        ("crashes", "exit 7".to_owned(), policy("Always")),
    ] {
        world.apply(&pod(name, "alice", &script, &policy));
    }
    world.must("kubectl wait --for=condition=Ready pod/never pod/job pod/fails pod/always --timeout=30s >/dev/null");
    for name in ["never", "job", "fails", "always"] {
        Running::of(world.start(&format!("exec kubectl logs {name} -f"))).until(&["waits"]);
    }
    let restarts = |name: &str| -> u32 {
        let path = "{.status.containerStatuses[0].restartCount}";
        world.must(&format!("kubectl get pod {name} -o jsonpath='{path}'")).parse().unwrap()
    };
    world.must("kubectl wait --for=jsonpath='{.status.containerStatuses[0].state.waiting.reason}'=CrashLoopBackOff pod/crashes --timeout=30s >/dev/null");
    let crashed = restarts("crashes");
    assert!(crashed > 0);
    let holder = processes(&world).into_iter().find(|(_, words)| {
        let uid = world.must("kubectl get pod carol -n bar -o jsonpath={.metadata.uid}");
        words.contains("pod-pause") && words.contains(&uid)
    });
    let carol = world.must("kubectl get pod carol -n bar -o jsonpath={.status.podIP}");
    world.mesh.kill_9_daemon();
    for name in ["never", "job", "fails", "always"] {
        signal(&world, name, Signal::TERM);
    }
    kill_process(Pid::from_raw(holder.unwrap().0).unwrap(), Signal::KILL).unwrap();
    up(&world);
    let ended = |name: &str| {
        let path = "{.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}";
        world.must(&format!("kubectl wait --for=jsonpath='{{.status.containerStatuses[0].state.terminated}}' pod/{name} --timeout=20s >/dev/null; \
            kubectl get pod {name} -o jsonpath='{path}'"))
    };
    assert_eq!([ended("never"), ended("job")], ["Failed 3", "Succeeded 0"]);
    assert_eq!([restarts("never"), restarts("job")], [0, 0]);
    world.must("kubectl wait --for=condition=Ready pod/fails pod/always --timeout=30s >/dev/null");
    for (name, code) in [("fails", "4"), ("always", "0")] {
        let path = "{.status.containerStatuses[0].lastState.terminated.exitCode}";
        assert_eq!(world.must(&format!("kubectl get pod {name} -o jsonpath='{path}'")), code, "{name}");
        assert_eq!(restarts(name), 1, "{name}");
    }
    assert!(restarts("crashes") >= crashed, "a count never goes back");
    // Whose namespaces are gone is made anew, with another address.
    world.must("kubectl wait --for=condition=Ready pod/carol -n bar --timeout=30s >/dev/null");
    assert_ne!(world.must("kubectl get pod carol -n bar -o jsonpath={.status.podIP}"), carol);
    let log = fs::read_to_string(world.mesh.data_dir().join("daemon.log")).unwrap();
    assert!(log.contains("bar/carol") && log.contains("has ended"), "{log}");
    // What is over is not run again, not even when nothing of it is left.
    assert!(world.mesh.tidegate(&["down"]).status.success());
    up(&world);
    world.must("kubectl wait --for=condition=Ready pod/always --timeout=30s >/dev/null");
    assert_eq!([ended("never"), ended("job")], ["Failed 3", "Succeeded 0"]);
    assert_eq!([programs(&world, "never").len(), programs(&world, "job").len()], [0, 0]);
}

#[test]
fn records_that_cannot_be_read_or_are_newer_are_not_trusted() {
    let world = World::new();
    let record = |pod: &str, namespace: &str| {
        let uid = world.must(&format!("kubectl get pod {pod} -n {namespace} -o jsonpath={{.metadata.uid}}"));
        Path::new("/run/tidegate").join(world.mesh.id()).join("processes").join(uid).join("pod.json")
    };
    let (newer, torn, lost) = (record("alice", "foo"), record("bob", "foo"), record("carol", "bar"));
    let running = processes(&world);
    let address = |pod: &str, namespace: &str| {
        world.must(&format!("kubectl get pod {pod} -n {namespace} -o jsonpath={{.status.podIP}}"))
    };
    let all = [("alice", "foo"), ("bob", "foo"), ("carol", "bar"), ("server", "foo"), ("dave", "plain")];
    let before = all.map(|(pod, namespace)| address(pod, namespace));
    world.mesh.kill_9_daemon();
    let text = fs::read_to_string(&newer).unwrap();
    assert!(text.contains("\"version\":1,"), "{text}");
    fs::write(&newer, text.replace("\"version\":1,", "\"version\":99,\"more\":[],")).unwrap();
    fs::write(&torn, &fs::read(&torn).unwrap()[..40]).unwrap();
    fs::remove_file(&lost).unwrap();
    let said = up(&world);
    assert!(said.contains("3 pods of an earlier daemon taken over, 3 removed"), "{said}");
    let log = fs::read_to_string(world.mesh.data_dir().join("daemon.log")).unwrap();
    for (pod, why) in [
        ("foo/alice", "is of version 99, and this tidegate reads version 1"),
        ("foo/bob", "bob"),
        ("bar/carol", "pod.json"),
    ] {
        let line = log.lines().find(|line| line.contains(&format!("pod=\"{pod}\"")));
        assert!(line.is_some_and(|line| line.contains("not taken over") && line.contains(why)), "{pod}: {log}");
    }
    world.must(
        "for n in foo bar plain; do kubectl wait --for=condition=Ready pod --all -n $n --timeout=30s >/dev/null; done",
    );
    let after = all.map(|(pod, namespace)| address(pod, namespace));
    let same: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
    assert_eq!(same, [false, false, false, true, true]);
    let left: Vec<_> = processes(&world).intersection(&running).cloned().collect();
    let of = |path: &Path| path.parent().unwrap().to_str().unwrap().to_owned();
    for gone in [&newer, &torn, &lost] {
        assert!(!left.iter().any(|(_, words)| words.contains(&of(gone))), "{left:?}");
    }
    assert!(!left.is_empty());
}

#[test]
fn a_connection_that_slipped_in_while_nobody_watched_is_reset_before_ready() {
    let world = World::new();
    world.policy("foo/nobody", "{selector: {matchLabels: {app: server}}}");
    let place = format!("{}/9000", world.address("server"));
    world.apply(&pod("talker", "alice", &TALKER.replace("PLACE", &place), &serde_json::json!({})));
    world.must("kubectl wait --for=condition=Ready pod/talker --timeout=30s >/dev/null");
    let mut said = follow_file(&world, &log_file(&world, "talker"));
    let uid = world.must("kubectl get pod server -o jsonpath={.metadata.uid}");
    world.mesh.kill_9_daemon();
    let pins = Path::new("/run/tidegate").join(world.mesh.id()).join("pods");
    let pin = fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path());
    let pin = pin.into_iter().find(|path| path.to_str().unwrap().ends_with(&uid)).unwrap();
    linux::netns::NetNs::open(&pin)
        .unwrap()
        .run(|| {
            let mut transaction = Transaction::on(&Table::named(Family::Inet, "tidegate"));
            transaction.delete_table();
            transaction.commit(&mut Socket::open(Protocol::Netfilter).unwrap()).unwrap();
        })
        .unwrap();
    said.until_within(&["got hello 3"], Duration::from_secs(15));
    up(&world);
    said.until(&["BROKEN"]);
    assert_eq!(world.who_gets(9000), "");
}

#[test]
fn readiness_is_as_it_was_told_and_goes_on_being_asked() {
    let world = World::new();
    let probe = serde_json::json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    let container = serde_json::json!({"name": "app", "image": "curlimages/curl", "readinessProbe": probe,
        "command": ["sh", "-c", "touch /tmp/ready /scratch/kept; exec sleep infinity"], "volumeMounts": [{"name": "v", "mountPath": "/scratch"}]});
    let more = serde_json::json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]});
    world.apply(&pod("probed", "alice", "", &more));
    world.must("kubectl wait --for=condition=Ready pod/probed --timeout=30s >/dev/null");
    let before = identity(&world);
    world.mesh.kill_9_daemon();
    up(&world);
    assert_eq!(identity(&world), before);
    assert_eq!(world.must("kubectl exec probed -- sh -c 'ls /scratch; rm /tmp/ready'"), "kept\n");
    world.must("kubectl wait --for=condition=Ready=false pod/probed --timeout=30s >/dev/null");
    world.must("kubectl exec probed -- touch /tmp/ready; kubectl wait --for=condition=Ready pod/probed --timeout=30s >/dev/null");
}

/// As a program would leave it that writes this format.
fn set_format(store: &Path, format: u64) {
    let database = redb::Database::open(store).unwrap();
    let transaction = database.begin_write().unwrap();
    let counters = redb::TableDefinition::<&str, u64>::new("counters");
    transaction.open_table(counters).unwrap().insert("format", format).unwrap();
    transaction.commit().unwrap();
}

/// `up` must refuse the store, with these words as well, and leave it as it is.
fn refused(world: &World, store: &Path, more: &[&str]) {
    let before = fs::read(store).unwrap();
    let output = world.mesh.tidegate(&["up", "--detach"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    let words = [
        store.to_str().unwrap(),
        "format 2",
        "format 1",
        "run the newer program that wrote it",
        "another data directory",
    ];
    for word in words.iter().chain(more) {
        assert!(said.contains(word), "`{word}` is not said: {}", told(&output));
    }
    assert_eq!(fs::read(store).unwrap(), before, "the store is not written");
}

#[test]
fn an_older_program_refuses_a_newer_store_and_changes_nothing() {
    let world = World::new();
    let store = world.mesh.data_dir().join("store.redb");
    let before = identity(&world);
    world.mesh.kill_9_daemon();
    set_format(&store, 2);
    let running = traces(&world.mesh);
    refused(&world, &store, &["what ran before runs on", "down"]);
    assert_eq!(traces(&world.mesh), running);
    set_format(&store, 1);
    let said = up(&world);
    assert!(said.contains("6 pods of an earlier daemon taken over)"), "{said}");
    assert_eq!(identity(&world), before);
    assert!(world.mesh.tidegate(&["down"]).status.success());
    set_format(&store, 2);
    refused(&world, &store, &[]);
    assert_eq!(traces(&world.mesh), BTreeSet::new());
    set_format(&store, 1);
    up(&world);
}
