//! Under sudo: the files of a mesh are the calling user's, and nothing that this user lays in their way leads root astray.
#![cfg(test)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use e2e::mesh::{Mesh, binary, kubectls, told};
use e2e::running::Running;

/// A user who has no account here; sudo says so in the environment.
const USER: (&str, u32) = ("54321", 54321);

fn sudo(mesh: &Mesh, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).env("SUDO_UID", USER.0).env("SUDO_GID", USER.0);
    command.env("TIDEGATE_DATA_DIR", mesh.data_dir()).current_dir(mesh.work_dir()).output().unwrap()
}

fn up(mesh: &Mesh) {
    let output = sudo(mesh, &["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
}

fn must(mesh: &Mesh, script: &str) -> String {
    let output = mesh.bash(&kubectls()[1], &format!("eval \"$(tidegate env -n foo)\"\nset -euo pipefail\n{script}"));
    assert!(output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything below, with its owner; links not followed.
fn owners(folder: &Path, found: &mut Vec<(PathBuf, u32)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let about = fs::symlink_metadata(&path).unwrap();
        found.push((path.clone(), about.uid()));
        if about.is_dir() {
            owners(&path, found);
        }
    }
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: busybox, command: [sh, -c, 'echo said; cp /bin/sh /v/sh; chmod 4755 /v/sh; sleep infinity'], volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /w}]}
  volumes: [{name: v, emptyDir: {}}, {name: w, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]
";

fn run_pod(mesh: &Mesh, name: &str) {
    fs::write(mesh.work_dir().join("pod.yaml"), POD.replace("NAME", name)).unwrap();
    must(
        mesh,
        &format!(
            "kubectl create -f pod.yaml; kubectl wait --for=condition=Ready pod/{name} --timeout=20s; timeout 20 grep -m1 said <(kubectl logs -f {name} 2>/dev/null)"
        ),
    );
}

#[test]
fn everything_is_the_calling_users_but_what_is_shown_to_pods() {
    let mesh = Mesh::down();
    up(&mesh);
    assert!(sudo(&mesh, &["env", "-n", "foo"]).status.success());
    must(&mesh, "kubectl create ns foo >/dev/null");
    run_pod(&mesh, "one");
    let mut found = Vec::new();
    owners(&mesh.data_dir(), &mut found);
    let volumes = mesh.data_dir().join("volumes");
    let (roots, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(path, _)| path.starts_with(&volumes));
    assert!(others.iter().any(|(path, _)| path.ends_with("c/0.log")), "the log of the pod is seen: {others:?}");
    // What this test itself made by `env` as plain root is not the daemon's.
    let wrong: Vec<_> =
        others.iter().filter(|(path, uid)| *uid != USER.1 && !path.starts_with(mesh.data_dir().join("bin"))).collect();
    assert!(wrong.iter().all(|(path, _)| path.ends_with("kubeconfig-foo")), "{wrong:?}");
    // What is shown to a pod is root's, behind a door that nobody else opens; what it writes, set-user-id perhaps, is not
    // on this file system at all.
    assert!(roots.iter().any(|(path, _)| path.ends_with("w/name")), "the pod's file is seen: {roots:?}");
    assert!(!roots.iter().any(|(path, _)| path.ends_with("sh")), "{roots:?}");
    assert!(roots.iter().all(|(_, uid)| *uid == 0), "{roots:?}");
    let door = fs::metadata(&volumes).unwrap();
    assert_eq!((door.uid(), door.permissions().mode() & 0o777), (0, 0o700));
    assert!(sudo(&mesh, &["down"]).status.success());
    assert!(!volumes.exists(), "what pods were shown goes with them");
}

#[test]
fn links_that_the_user_lays_are_not_followed_by_root() {
    let mesh = Mesh::down();
    up(&mesh);
    must(&mesh, "kubectl create ns foo >/dev/null");
    run_pod(&mesh, "one");
    let victim = mesh.work_dir().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    let unchanged = |what: &str| {
        let mut found = Vec::new();
        owners(&victim, &mut found);
        assert_eq!(found, [(victim.join("passwd"), 0)], "{what}");
        assert_eq!(fs::read_to_string(victim.join("passwd")).unwrap(), "root:x:0:0::/root:/bin/sh\n", "{what}");
    };
    // While it runs: where logs and volumes of the next pod would be made.
    for name in ["logs", "volumes"] {
        let (own, aside) = (mesh.data_dir().join(name), mesh.work_dir().join(name));
        fs::rename(&own, &aside).unwrap();
        symlink(&victim, &own).unwrap();
        fs::write(mesh.work_dir().join("pod.yaml"), POD.replace("NAME", name)).unwrap();
        must(&mesh, "kubectl create -f pod.yaml");
        let watch = "eval \"$(tidegate env -n foo)\"; exec kubectl get events -w -o custom-columns=M:.message";
        Running::of(mesh.bash_child(&kubectls()[1], watch)).until(&["none is followed"]);
        unchanged(name);
        must(&mesh, &format!("kubectl delete pod {name} >/dev/null; kubectl delete events --all >/dev/null"));
        fs::remove_file(&own).unwrap();
        fs::rename(&aside, &own).unwrap();
    }
    assert!(sudo(&mesh, &["down"]).status.success());
    // Between two runs: what the next one opens, empties, appends to or gives away.
    for (name, target) in [("lock", "passwd"), ("daemon.log", "passwd"), ("lock", "new"), ("daemon.log", "new")] {
        let own = mesh.data_dir().join(name);
        fs::remove_file(&own).unwrap();
        symlink(victim.join(target), &own).unwrap();
        let output = sudo(&mesh, &["up", "--detach"]);
        assert!(!output.status.success() && told(&output).contains(name), "{name}: {}", told(&output));
        unchanged(name);
        fs::remove_file(&own).unwrap();
        fs::write(&own, "").unwrap();
    }
    for name in ["bin", "logs", "pki/odd", "volumes"] {
        let own = mesh.data_dir().join(name);
        if own.exists() {
            fs::remove_dir_all(&own).unwrap();
        }
        symlink(&victim, own).unwrap();
    }
    fs::hard_link(victim.join("passwd"), mesh.data_dir().join("kubeconfig-second")).unwrap();
    up(&mesh);
    unchanged("what is given away");
    assert!(sudo(&mesh, &["down", "--purge"]).status.success());
    fs::read_dir(&victim).unwrap();
    unchanged("what is removed");
}

#[test]
fn a_mesh_of_somebody_else_is_not_said_to_be_absent() {
    let mesh = Mesh::up();
    // Where this user can run it, wherever the sources lie.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("tidegate");
    fs::copy(binary(), &program).unwrap();
    for verb in ["status", "tap", "conns"] {
        let mut command = Command::new(&program);
        command.arg(verb).env("TIDEGATE_DATA_DIR", mesh.data_dir()).current_dir("/").uid(USER.1).gid(USER.1);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(if verb == "status" { 1 } else { 69 }), "{verb}: {}", told(&output));
        let said = told(&output);
        assert!(said.contains("ermission denied") && said.contains("as the user who ran `up`"), "{verb}: {said}");
        assert!(!said.contains("no mesh runs"), "{verb}: {said}");
    }
}
