//! A mesh comes, dies and goes: up, down, kill -9 of everything, and what is left of it.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use e2e::mesh::{Mesh, kubectls, processes_of, told};
use e2e::running::Running;

/// Everything of one mesh that a look at the machine can find.
fn traces(mesh: &Mesh) -> BTreeSet<String> {
    let id = mesh.id();
    let mut found = BTreeSet::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        if line.contains(&format!("/run/tidegate/{id}")) || line.contains(&mesh.data_dir().display().to_string()) {
            found.insert(format!("mount {line}"));
        }
    }
    for entry in fs::read_dir("/sys/class/net").unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.contains(&id) {
            found.insert(format!("link {name}"));
        }
    }
    let run = Path::new("/run/tidegate").join(&id);
    if run.exists() {
        found.insert(format!("directory {}", run.display()));
    }
    for (pid, words) in processes_of(&mesh.data_dir()) {
        found.insert(format!("process {pid} {words}"));
    }
    for folder in cgroups(Path::new("/sys/fs/cgroup"), &id) {
        found.insert(format!("cgroup {}", folder.display()));
    }
    found
}

fn cgroups(folder: &Path, id: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink());
    folders
        .flat_map(|path| {
            let ours = path.file_name().is_some_and(|name| name.to_string_lossy().contains(id));
            let mut below = cgroups(&path, id);
            below.extend(ours.then_some(path));
            below
        })
        .collect()
}

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
