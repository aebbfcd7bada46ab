//! Ordinary users: a mesh without root, in a user namespace of its own. Everything here is run by a user who has no right
//! that not everybody has.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output, Stdio};

use control::walkthrough;
use e2e::image::Image;
use e2e::mesh::{Mesh, kubectls, processes_of, told};
use e2e::running::Running;
use e2e::traces::traces;
use e2e::world::World;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Two users without an account.
const ANN: u32 = 54321;
const BEN: u32 = 54322;

fn must(mesh: &Mesh, script: &str) -> String {
    let output = mesh.bash(&kubectls()[1], &format!("set -euo pipefail\n{script}"));
    assert!(output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_istio_task_runs_word_for_word_without_root() {
    let mesh = Mesh::up_for(ANN);
    must(&mesh, "tidegate samples . >/dev/null");
    let steps = walkthrough::parse(walkthrough::ISTIO).unwrap();
    for (step, got) in steps.iter().zip(mesh.play(&kubectls()[1], &steps)) {
        assert_eq!(got.code, 0, "{}\n{got:#?}", step.command);
        if let Some(expected) = &step.output {
            assert_eq!(&got.stdout, expected, "{}\n{got:#?}", step.command);
        }
    }
    // Nothing of it is root's or of a user whom there is not, and nothing of it is left.
    let owners: BTreeSet<u32> = processes_of(&mesh.data_dir()).iter().map(|(pid, _)| owner(*pid)).collect();
    assert_eq!(owners, BTreeSet::from([ANN]));
    let down = mesh.tidegate(&["down"]);
    assert!(down.status.success(), "{}", told(&down));
    assert_eq!(traces(&mesh), BTreeSet::new());
    assert!(!mesh.data_dir().join("run").exists());
}

fn owner(pid: i32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|uid| uid.parse().ok()).unwrap_or_default()
}

/// The processes of a mesh whose arguments hold this word, with their user namespaces.
fn named(mesh: &Mesh, word: &str) -> Vec<(i32, u64)> {
    let all = processes_of(&mesh.data_dir()).into_iter().filter(|(_, words)| words.split(' ').any(|one| one == word));
    all.map(|(pid, _)| (pid, fs::metadata(format!("/proc/{pid}/ns/user")).unwrap().ino())).collect()
}

fn up(mesh: &Mesh) -> String {
    let output = mesh.tidegate(&["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A client that keeps one connection and says each answer; `BROKEN` when it is over.
const TALKER: &str = "until exec 3<>/dev/tcp/PLACE; do read -t 0.05 <> <(:); done 2>/dev/null; n=0; \
    while echo $n >&3 && read -t 5 line <&3; do echo \"got $line\"; n=$((n+1)); read -t 0.05 <> <(:); done; \
    echo \"BROKEN after $n\"; exec sleep infinity";

fn talker(world: &World) -> Running {
    let script = TALKER.replace("PLACE", &format!("{}/9000", world.address("server")));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talker", "namespace": "foo"},
        "spec": {"serviceAccountName": "alice", "terminationGracePeriodSeconds": 0,
                 "containers": [{"name": "app", "image": "curlimages/curl", "command": ["bash", "-c", script]}]},
    });
    world.apply(&pod.to_string());
    world.must("kubectl wait --for=condition=Ready pod/talker --timeout=30s >/dev/null");
    let uid = world.must("kubectl get pod talker -o jsonpath={.metadata.uid}");
    let file = world.mesh.data_dir().join("logs").join(uid).join("app/0.log");
    Running::of(world.start(&format!("exec tail -n +1 -F {}", file.display())))
}

#[test]
fn pods_and_their_connections_live_on_over_kill_9_without_root() {
    let world = World::in_mesh(Mesh::up_for(ANN));
    let deny =
        "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{from: [{source: {serviceAccounts: [bob]}}]}]}";
    world.policy("foo/not-bob", deny);
    let mut tap = Running::of(world.start("exec tidegate tap"));
    tap.until(&["from here on"]);
    assert_eq!(world.who_gets(9000), "alice carol dave");
    tap.until(&["foo/bob", "foo/server", "9000", "not-bob"]);
    drop(tap);
    let mut said = talker(&world);
    said.until(&["got hello 5"]);
    let pods = |world: &World| {
        world.must("kubectl get pods -A -o jsonpath='{range .items[*]}{.metadata.uid} {.status.podIP} {.status.startTime}{\"\\n\"}{end}'")
    };
    let (before, holder) = (pods(&world), named(&world.mesh, "user-namespace"));
    assert_eq!(holder.len(), 1);
    assert_ne!(holder[0].1, fs::metadata("/proc/self/ns/user").unwrap().ino());
    world.mesh.kill_9_daemon();
    let taken = up(&world.mesh);
    assert!(taken.contains("pods of an earlier daemon taken over"), "{taken}");
    assert_eq!((pods(&world), named(&world.mesh, "user-namespace")), (before.clone(), holder.clone()));
    assert!(named(&world.mesh, "up").iter().all(|(_, namespace)| *namespace == holder[0].1));
    // Without the holder as well: pods hold the namespaces too.
    world.mesh.kill_9_daemon();
    kill_process(Pid::from_raw(holder[0].0).unwrap(), Signal::KILL).unwrap();
    let taken = up(&world.mesh);
    assert!(taken.contains("pods of an earlier daemon taken over"), "{taken}");
    assert_eq!(pods(&world), before);
    // They go on, on the connections that they have, under tables that are the next daemon's to change.
    let line = said.until(&["got hello"]);
    let count: u64 = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    said.until(&[&format!("got hello {}", count + 20)]);
    assert_eq!(world.who_gets(9000), "alice carol dave");
    world.policy("foo/not-bob", &deny.replace("bob", "alice"));
    said.until(&["BROKEN"]);
    assert_eq!(world.who_gets(9000), "bob carol dave");
    drop(said);
    assert!(world.mesh.tidegate(&["down"]).status.success());
    assert_eq!(traces(&world.mesh), BTreeSet::new());
}

#[test]
fn meshes_of_two_users_and_two_of_one_user_have_nothing_to_do_with_each_other() {
    let worlds = [ANN, ANN, BEN].map(|user| World::in_mesh(Mesh::up_for(user)));
    let deny = |who: &str| {
        format!(
            "{{selector: {{matchLabels: {{app: server}}}}, action: DENY, rules: [{{from: [{{source: {{serviceAccounts: [{who}]}}}}]}}]}}"
        )
    };
    for (world, who) in worlds.iter().zip(["alice", "bob", "bar/carol"]) {
        world.policy("foo/p", &deny(who));
    }
    let gets = || worlds.each_ref().map(|world| world.who_gets(9000));
    assert_eq!(gets(), ["bob carol dave", "alice carol dave", "alice bob dave"]);
    let [one, other, bens] = &worlds;
    let there = [traces(&other.mesh), traces(&bens.mesh)];
    assert!(one.mesh.tidegate(&["down"]).status.success());
    assert_eq!(traces(&one.mesh), BTreeSet::new());
    assert_eq!([traces(&other.mesh), traces(&bens.mesh)], there);
    up(&one.mesh);
    one.must(
        "for n in foo bar plain; do kubectl wait --for=condition=Ready pod --all -n $n --timeout=30s >/dev/null; done",
    );
    // A user ends no mesh of another, and neither knows its keys.
    let key = bens.mesh.command("cat").arg(one.mesh.data_dir().join("kubeconfig")).output().unwrap();
    assert!(!key.status.success(), "{}", told(&key));
    let down =
        bens.mesh.command(bens.mesh.binary()).args(["down", "--data-dir"]).arg(one.mesh.data_dir()).output().unwrap();
    assert!(!down.status.success(), "{}", told(&down));
    assert_eq!(bens.who_gets(9000), "alice bob dave");
    assert!(one.mesh.tidegate(&["status"]).status.success());
}

fn pod(name: &str, image: &str, context: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "foo"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c", "image": image, "command": ["sh", "-c", "exec sleep infinity"], "securityContext": context,
        }]},
    })
}

#[test]
fn there_is_one_user_and_whoever_asks_for_another_is_refused() {
    let mesh = Mesh::up_for(ANN);
    let bash = |script: &str| {
        mesh.bash(&kubectls()[1], &format!("eval \"$(tidegate env -n foo)\"\nset -euo pipefail\n{script}"))
    };
    let must = |script: &str| {
        let output = bash(script);
        assert!(output.status.success(), "{script}\n{}", told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    must("kubectl create ns foo");
    // Files of others, set-user-id, and layers that hide what is below.
    let image = |user: &str| {
        Image::new(&mesh.work_dir().join(format!("image{user}")), json!({"User": user, "Env": ["PATH=/bin"]}))
            .tools(&["sh", "sleep", "id", "stat", "ls", "cat", "touch", "chown", "setpriv", "mount"])
            .layer("mkdir -p data/old etc; echo low >data/low; echo old >data/old/file; touch data/own; chown 1000:1001 data/own; chmod 6755 data/own; \
                    echo root:x:0:0::/root:/bin/sh >etc/passwd; printf 'root:x:0:\\nwheel:x:10:root\\n' >etc/group")
            .layer("mkdir -p data/old; touch data/.wh.low data/old/.wh..wh..opq; echo new >data/old/new")
            .saved(&format!("example.com/shell{user}:1"))
    };
    for user in ["", "1000"] {
        let imported = mesh.tidegate(&["image", "import", image(user).to_str().unwrap()]);
        assert!(imported.status.success(), "{}", told(&imported));
        let said = String::from_utf8_lossy(&imported.stderr);
        assert!(said.contains("1 files in it belong to other users"), "{said}");
    }
    assert!(must("tidegate image list").contains("example.com/shell1000:1"));
    for pod in [
        pod("own", "example.com/shell:1", &json!({})),
        pod("asks", "busybox", &json!({"runAsUser": 1000})),
        pod("is", "example.com/shell1000:1", &json!({})),
    ] {
        fs::write(mesh.work_dir().join("pod.json"), pod.to_string()).unwrap();
        must("kubectl apply -f pod.json");
    }
    must("kubectl wait --for=condition=Ready pod/own --timeout=30s");
    let run = |script: &str| must(&format!("kubectl exec -i own -- sh <<'EOF'\n{script}\nEOF"));
    assert_eq!(run("id -u; id -g; cd /data; ls; ls old; stat -c '%u:%g %a' own"), "0\n0\nold\nown\nnew\n0:0 755\n");
    // User 0 there is who it is outside: it has what that user has, and gains nothing by being called root.
    let kernel = "touch /x && echo made; chown 1:1 /x 2>/dev/null || echo no other owner; mount -t tmpfs t /data 2>/dev/null || echo no mount; \
                  setpriv --reuid 1 true 2>/dev/null || echo no other user; cat /proc/self/uid_map";
    let said = run(kernel);
    let map: Vec<&str> = said.lines().last().unwrap().split_whitespace().collect();
    assert!(said.starts_with("made\nno other owner\nno mount\nno other user\n"), "{said}");
    assert_eq!(map, ["0", &ANN.to_string(), "1"]);
    let mut events = Running::of(mesh.bash_child(
        &kubectls()[1],
        "eval \"$(tidegate env -n foo)\"; exec kubectl get events -w -o custom-columns=N:.involvedObject.name,M:.message",
    ));
    events.until(&["asks", "securityContext.runAsUser 1000", "started without root"]);
    let mut events = Running::of(mesh.bash_child(
        &kubectls()[1],
        "eval \"$(tidegate env -n foo)\"; exec kubectl get events -w -o custom-columns=N:.involvedObject.name,M:.message",
    ));
    events.until(&["is ", "cannot run as user 1000", "started without root"]);
    assert_eq!(must("kubectl get pod asks -o jsonpath={.status.phase}"), "Failed");
    // What cannot be bounded is said of each pod.
    assert!(must("kubectl get events").contains("NotBounded"));
}

#[test]
fn check_says_what_is_missing_without_root_and_that_the_rest_is_there() {
    let mesh = Mesh::down_for(ANN);
    let output = mesh.tidegate(&["check"]);
    assert!(output.status.success(), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("ok       user namespace (a mesh without root)\n"), "{said}");
    for what in [
        "users of pods",
        "the machine's way to pods and services",
        "bounds of pods (cgroup",
        "programs for packets (eBPF)",
    ] {
        assert!(said.contains(&format!("limited  {what}")), "{what}: {said}");
    }
    assert!(!said.contains("MISSING"), "{said}");
    let json = mesh.tidegate(&["check", "-o", "json"]);
    let rows: Value = serde_json::from_slice(&json.stdout).unwrap();
    let limits = rows["probes"].as_array().unwrap().iter().filter(|row| row["limit"] == true).count();
    assert_eq!(limits, 4, "{rows:#}");
}

/// Runs a script, without quotes, as root of a user namespace in which every user of this machine is the same, and which has settings of
/// its own.
fn in_namespace(mesh: &Mesh, script: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--user", "sh", "-c", &format!("read ready && exec sh -c '{script}'")]).env("HOME", mesh.work_dir());
    command.env("TIDEGATE_DATA_DIR", mesh.data_dir()).current_dir(mesh.work_dir());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let own = fs::metadata("/proc/self/ns/user").unwrap().ino();
    let namespace = format!("/proc/{}/ns/user", child.id());
    while fs::metadata(&namespace).unwrap().ino() == own {
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", child.id()), "0 0 100000").unwrap();
    }
    child.stdin.take().unwrap().write_all(b"ready\n").unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn where_user_namespaces_are_not_allowed_the_message_names_the_setting() {
    let mesh = Mesh::down_for(ANN);
    let binary = mesh.binary();
    let run = |verb: &str| {
        let as_ann = format!("exec setpriv --reuid {ANN} --regid {ANN} --clear-groups {} {verb}", binary.display());
        in_namespace(&mesh, &format!("echo 0 >/proc/sys/user/max_user_namespaces && {as_ann}"))
    };
    for verb in ["up", "up --detach", "demo", "down", "image list"] {
        let output = run(verb);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if verb == "image list" {
            assert!(output.status.success(), "there are none to be listed: {}", told(&output));
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{verb}: {}", told(&output));
        assert!(said.contains("sysctl -w user.max_user_namespaces=15000") && said.contains("sudo"), "{verb}: {said}");
    }
    let output = run("check");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(79), "{}", told(&output));
    assert!(
        said.starts_with("MISSING  user namespace")
            && said.contains("fix: ")
            && said.contains("user.max_user_namespaces"),
        "{said}"
    );
    assert_eq!(processes_of(&mesh.data_dir()), []);
}

#[test]
fn a_mesh_of_root_and_one_without_do_not_share_a_place() {
    let anns = Mesh::up_for(ANN);
    let as_root = |mesh: &Mesh, arguments: &[&str]| {
        let mut command = Command::new(mesh.binary());
        command.args(arguments).env("SUDO_UID", ANN.to_string()).env("SUDO_GID", ANN.to_string());
        command.env("TIDEGATE_DATA_DIR", mesh.data_dir()).current_dir(mesh.work_dir()).output().unwrap()
    };
    anns.kill_9_daemon();
    let output = as_root(&anns, &["up", "--detach"]);
    assert!(!output.status.success() && told(&output).contains("without root"), "{}", told(&output));
    // Root may end whatever there is.
    let output = as_root(&anns, &["down"]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(traces(&anns), BTreeSet::new());
    // The other way round, while root's lives and while it is killed.
    let output = as_root(&anns, &["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
    for verb in [&["up", "--detach"][..], &["down"], &["down", "--purge"]] {
        let output = anns.tidegate(verb);
        assert!(!output.status.success() && told(&output).contains("is root's"), "{verb:?}: {}", told(&output));
    }
    assert!(anns.tidegate(&["status"]).status.success(), "it is hers to look at");
    let output = as_root(&anns, &["down"]);
    assert!(output.status.success(), "{}", told(&output));
    // And then it is hers again.
    up(&anns);
}

#[test]
fn one_mesh_is_started_at_a_time_and_its_terminal_ends_all_of_it() {
    let mesh = Mesh::down_for(ANN);
    let start = || {
        let mut command = mesh.command(mesh.binary());
        command.args(["up", "--detach"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ended: Vec<Output> = [start(), start(), start()].map(|child| child.wait_with_output().unwrap()).into();
    let (ups, others): (Vec<_>, Vec<_>) = ended.iter().partition(|output| output.status.success());
    assert_eq!(ups.len(), 1, "{}", ended.iter().map(told).collect::<String>());
    assert!(others.iter().all(|output| told(output).contains("already runs")), "{}", told(others[0]));
    assert_eq!(named(&mesh, "user-namespace").len(), 1);
    assert!(told(ups[0]).contains("Without root: pods have one user"), "{}", told(ups[0]));
    // Programs in pods may look, talk and be talked to as everywhere.
    must(
        &mesh,
        "eval \"$(tidegate env)\"; kubectl run echo --image=istio/tcp-echo-server -- 9000 hello >/dev/null; \
                 kubectl wait --for=condition=Ready pod/echo --timeout=30s >/dev/null",
    );
    let forward = "eval \"$(tidegate env)\"; exec kubectl port-forward pod/echo :9000";
    let mut forward = Running::of(mesh.bash_child(&kubectls()[1], forward));
    let line = forward.until(&["Forwarding from 127.0.0.1:"]);
    let port = line.split(&[':', ' '][..]).find_map(|word| word.parse::<u16>().ok()).unwrap();
    let said = must(&mesh, &format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo x >&3; timeout 10 head -n1 <&3"));
    assert_eq!(said, "hello x\n");
    let said = must(
        &mesh,
        "eval \"$(tidegate env)\"; script -qec \"kubectl exec -it echo -- sh -c '[ -t 0 ] && stty size >/dev/null && echo has a terminal; grep processes /proc/self/limits'\" /dev/null </dev/null",
    );
    assert!(said.contains("has a terminal"), "{said}");
    assert!(said.contains("8192"), "all pods together have a bound: {said}");
    drop(forward);
    assert!(mesh.tidegate(&["down"]).status.success());
    assert_eq!(traces(&mesh), BTreeSet::new());
    let mut up = Running::of(mesh.foreground());
    up.until(&["Ctrl-C ends the mesh"]);
    assert!(traces(&mesh).len() > 2, "the look must see a running mesh: {:?}", traces(&mesh));
    kill_process(Pid::from_raw(i32::try_from(up.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let (code, said) = up.ends();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(traces(&mesh), BTreeSet::new());
    // Nothing that was started and failed leaves the namespaces behind.
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for arguments in [&["up", "--port", &port][..], &["up", "--detach", "--port", &port]] {
        let output = mesh.tidegate(arguments);
        assert!(!output.status.success() && told(&output).contains("--port"), "{}", told(&output));
        assert_eq!(traces(&mesh), BTreeSet::new());
    }
}

#[test]
fn a_home_in_which_nothing_may_be_run_is_no_obstacle() {
    let mesh = Mesh::down_for(ANN);
    let home = mesh.work_dir().join("home");
    fs::create_dir(&home).unwrap();
    let script = r#"set -euo pipefail
tidegate up --detach 2>/dev/null; eval "$(tidegate env)"
kubectl create cm cm --from-literal=a=b >/dev/null
kubectl apply -f - >/dev/null <<EOF
{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, volumes: [{name: m, configMap: {name: cm}}],
  containers: [{name: c, image: busybox, command: [sleep, infinity], volumeMounts: [{name: m, mountPath: /m}]}]}}
EOF
kubectl wait --for=condition=Ready pod/p --timeout=30s >/dev/null
kubectl exec p -- sh -c 'cat /m/a; echo; grep " /m " /proc/self/mountinfo'
tidegate down --purge 2>/dev/null"#;
    // What the machine forbids in a mount nobody without root can allow again, whatever else is set in it.
    let mounted = format!(
        "mount -t tmpfs -o noexec,nodev,nosuid,uid={ANN},gid={ANN},mode=700 t {} && exec setpriv --reuid {ANN} --regid {ANN} \
         --clear-groups bash -c \"$SCRIPT\"",
        home.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &mounted]).current_dir(mesh.work_dir());
    command
        .env("SCRIPT", script)
        .env("HOME", &home)
        .env("PATH", mesh.path_with(&kubectls()[1]))
        .env_remove("KUBECONFIG");
    let data_dir = home.join("mesh");
    let output = command.env("TIDEGATE_DATA_DIR", &data_dir).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("b\n") && said.contains(" /m ro,nosuid,nodev,noexec"), "{said}");
    assert_eq!(processes_of(&data_dir), []);
}
