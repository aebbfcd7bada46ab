//! A mesh comes, dies and goes: up, down, kill -9 of everything, and what is left of it.
#![cfg(test)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use e2e::mesh::{Mesh, kubectls, processes_of, told};
use e2e::running::Running;
use e2e::traces::traces;
use e2e::world::World;

fn deploy(mesh: &Mesh) {
    let script = r#"set -e
tidegate samples . >/dev/null
eval "$(tidegate env -n foo)"
kubectl create ns foo
kubectl apply -f <(istioctl kube-inject -f samples/tcp-echo/tcp-echo.yaml) -n foo
kubectl apply -f <(istioctl kube-inject -f samples/sleep/sleep.yaml) -n foo
kubectl exec deploy/sleep -c sleep -n foo -- sh -c 'echo x | nc tcp-echo 9000' | grep 'hello x'
kubectl apply -f - <<EOF
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: deny-all
  namespace: foo
spec: {}
EOF
"#;
    must(mesh, script);
}

fn must(mesh: &Mesh, script: &str) {
    let output = mesh.bash(&kubectls()[1], script);
    assert!(output.status.success(), "{script}\n{}", told(&output));
}

/// Things of others that look as much like ours as possible.
struct Strangers {
    shell: Child,
    link: String,
}

impl Strangers {
    /// A shell that has our variable exported, as README tells users to do, and a link with a name like ours.
    fn settle(mesh: &Mesh) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "read line"]).env("TIDEGATE_DATA_DIR", mesh.data_dir()).stdin(Stdio::piped());
        let link = format!("tgz{:05x}", std::process::id() & 0xfffff);
        let made = Command::new("ip")
            .args(["link", "add", &link, "type", "veth", "peer", "name", &format!("{link}p")])
            .status()
            .unwrap();
        assert!(made.success());
        Self { shell: shell.spawn().unwrap(), link }
    }

    fn are_well(&mut self) {
        assert!(self.shell.try_wait().unwrap().is_none(), "the user's shell was ended");
        assert!(Path::new("/sys/class/net").join(&self.link).exists(), "a link of somebody else was removed");
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        drop(self.shell.wait());
        drop(Command::new("ip").args(["link", "del", &self.link]).status());
    }
}

#[test]
fn down_leaves_nothing_of_ours_and_touches_nothing_of_others() {
    let mesh = Mesh::up();
    let mut strangers = Strangers::settle(&mesh);
    deploy(&mesh);
    assert!(traces(&mesh).len() > 5, "the look must see a running mesh: {:?}", traces(&mesh));
    let output = mesh.tidegate(&["down"]);
    assert!(output.status.success(), "{}", told(&output));
    let shell = strangers.shell.id().to_string();
    let left: Vec<_> =
        traces(&mesh).into_iter().filter(|trace| !trace.contains(&format!("process {shell} "))).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    strangers.are_well();
    assert!(mesh.data_dir().join("kubeconfig").exists(), "without --purge the objects stay");
}

#[test]
fn after_kill_9_of_everything_the_next_up_has_lost_nothing() {
    let mesh = Mesh::up();
    deploy(&mesh);
    mesh.kill_9_everything();
    let output = mesh.tidegate(&["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
    must(
        &mesh,
        r#"set -e
eval "$(tidegate env -n foo)"
test "$(kubectl get authorizationpolicy -o name)" = authorizationpolicy.security.istio.io/deny-all
test "$(kubectl exec deploy/sleep -c sleep -n foo -- sh -c 'echo x | nc tcp-echo 9000' 2>/dev/null)" = ""
kubectl delete authorizationpolicy deny-all
kubectl exec deploy/sleep -c sleep -n foo -- sh -c 'echo x | nc tcp-echo 9000' | grep 'hello x'
"#,
    );
}

#[test]
fn after_kill_9_of_everything_down_cleans_up_without_a_daemon() {
    let mesh = Mesh::up();
    deploy(&mesh);
    mesh.kill_9_daemon();
    let output = mesh.tidegate(&["down"]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(traces(&mesh), BTreeSet::new());
    let again = mesh.tidegate(&["down"]);
    assert!(again.status.success(), "a second down finds nothing to do: {}", told(&again));
}

#[test]
fn a_second_up_says_that_one_runs() {
    let mesh = Mesh::up();
    let output = mesh.tidegate(&["up", "--detach"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("already runs") && said.contains("tidegate down"), "{said}");
}

/// What `up` prints is typed as it stands, in a shell that knows nothing of the mesh.
#[test]
fn the_next_steps_work_as_printed_for_any_data_directory() {
    let home = tempfile::tempdir().unwrap();
    for name in ["plain", "it's a \"mesh\" $HOME `x`", "back\\slash; echo *"] {
        let dir = home.path().join(name);
        let mesh = Mesh::down();
        let output = mesh.tidegate(&["up", "--detach", "--data-dir", dir.to_str().unwrap()]);
        assert!(output.status.success(), "{}", told(&output));
        let said = String::from_utf8(output.stderr).unwrap();
        let steps: String =
            said.lines().filter_map(|line| line.strip_prefix("  ")).flat_map(|line| [line, "\n"]).collect();
        let down = said.lines().find_map(|line| line.split_once("this ends it: ")).unwrap().1;
        let script = format!(
            "unset TIDEGATE_DATA_DIR; set -e\n{steps}kubectl wait --for=condition=Ready pod --all --timeout=20s\ntidegate samples . >/dev/null; {down}"
        );
        let output = mesh.bash(&kubectls()[1], &script);
        let ended = String::from_utf8_lossy(&output.stderr).into_owned();
        // Nothing stays on this machine, however the above went.
        assert!(mesh.tidegate(&["down", "--data-dir", dir.to_str().unwrap()]).status.success());
        assert!(output.status.success() && ended.contains("is down"), "{name}: {script}\n{}", told(&output));
        assert_eq!(processes_of(&dir), []);
    }
}

/// Ends the mesh of the foreground by a signal, as a terminal does that is closed or a user who presses Ctrl-C.
#[test]
fn a_hang_up_ends_the_mesh_of_the_foreground_as_ctrl_c_does() {
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mesh = Mesh::down();
        let mut up = Running::of(mesh.foreground());
        up.until(&["Ctrl-C ends the mesh"]);
        let pid = rustix::process::Pid::from_raw(i32::try_from(up.id()).unwrap()).unwrap();
        assert!(traces(&mesh).len() > 3, "the look must see a running mesh: {:?}", traces(&mesh));
        rustix::process::kill_process(pid, signal).unwrap();
        let (code, said) = up.ends();
        assert_eq!(code, Some(0), "{signal:?}: {said}");
        assert_eq!(traces(&mesh), BTreeSet::new(), "{signal:?}");
    }
}

#[test]
fn two_meshes_side_by_side_have_nothing_to_do_with_each_other() {
    let (one, other) = (World::new(), World::new());
    let deny = |who: &str, port: u16| {
        format!(
            "{{selector: {{matchLabels: {{app: server}}}}, action: DENY, rules: [{{from: [{{source: {{serviceAccounts: [{who}]}}}}], \
             to: [{{operation: {{ports: ['{port}']}}}}]}}]}}"
        )
    };
    one.policy("foo/p", &deny("alice", 9000));
    other.policy("foo/p", &deny("bob", 9001));
    let gets = |world: &World| [world.who_gets(9000), world.who_gets(9001)];
    let of_one = ["bob carol dave host", "alice bob carol dave host"];
    let of_other = ["alice bob carol dave host", "alice carol dave host"];
    assert_eq!(gets(&one), of_one);
    assert_eq!(gets(&other), of_other);
    // Nobody of one opens anything in the other, whatever either says.
    for address in [other.address("server"), other.address_v6("server"), other.address("open")] {
        let said = one.run(&format!("kubectl exec alice -- nc -w 3 {address} 9002 </dev/null"));
        assert!(!said.status.success(), "{address}: {}", told(&said));
    }
    let there = traces(&other.mesh);
    assert!(there.iter().any(|trace| trace.starts_with("process")), "{there:?}");
    assert!(one.mesh.tidegate(&["down"]).status.success());
    assert_eq!(traces(&one.mesh), BTreeSet::new());
    assert_eq!(traces(&other.mesh), there);
    assert_eq!(gets(&other), of_other);
    other.policy("foo/p", &deny("alice", 9000));
    assert_eq!(gets(&other), of_one);
    assert!(one.mesh.tidegate(&["up", "--detach"]).status.success());
    assert_eq!(gets(&other), of_one);
}

#[test]
fn a_daemon_may_be_killed_and_started_in_one_line() {
    let mesh = Mesh::up();
    for _ in 0..10 {
        must(&mesh, &format!("kill -9 {} && tidegate up --detach", mesh.daemon()));
    }
}
