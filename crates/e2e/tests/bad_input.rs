//! What is wrong is told: what, where, why and what next; and nothing that was there is lost.
#![cfg(test)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use e2e::mesh::{Mesh, binary, kubectls, told};

/// A failure with all of these words on standard error.
fn says(output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{}", told(output));
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not said: {}", told(output));
    }
}

#[test]
fn kubectl_hears_what_is_wrong_with_an_object() {
    let mesh = Mesh::up();
    let cases: &[(&str, &[&str])] = &[
        ("this: is: not yaml", &["yaml"]),
        ("apiVersion: v1\nkind: Unicorn\nmetadata: {name: u}", &["Unicorn"]),
        ("apiVersion: security.istio.io/v7\nkind: AuthorizationPolicy\nmetadata: {name: p}", &["security.istio.io/v7"]),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nowhere}",
            &["namespaces \"nowhere\" not found"],
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rulez: []}",
            &["rulez"],
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{to: [{operation: \
             {ports: [\"99999\"]}}]}]}",
            &["99999"],
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{to: [{operation: \
             {ports: [9000]}}]}]}",
            &["ports[0]", "string"],
        ),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: Not_A_Name}", &["Not_A_Name", "RFC 1123"]),
    ];
    for kubectl in kubectls() {
        for (number, (manifest, words)) in cases.iter().enumerate() {
            fs::write(mesh.work_dir().join("bad.yaml"), manifest).unwrap();
            let output = mesh.bash(&kubectl, "eval \"$(tidegate env)\"; kubectl apply -f bad.yaml");
            assert!(!output.status.success(), "kubectl {}, case {number}: {}", kubectl.version, told(&output));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            for word in *words {
                assert!(said.contains(word), "kubectl {}, case {number}, `{word}`: {}", kubectl.version, told(&output));
            }
        }
        let output = mesh.bash(&kubectl, "eval \"$(tidegate env)\"; kubectl get authorizationpolicies -A -o name");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing of it may be stored: {}", told(&output));
    }
}

#[test]
fn a_busy_port_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mesh = Mesh::down();
    for detach in [&["up", "--port", &port][..], &["up", "--detach", "--port", &port][..]] {
        says(&mesh.tidegate(detach), 1, &[&port, "--port"]);
    }
}

#[test]
fn a_corrupted_store_is_named_and_left_as_it_is() {
    let mesh = Mesh::up();
    assert!(mesh.tidegate(&["down"]).status.success());
    let store = mesh.data_dir().join("store.redb");
    let whole = fs::read(&store).unwrap();
    let mut torn = whole.clone();
    torn[..512].fill(0xa5);
    fs::write(&store, &torn).unwrap();
    says(&mesh.tidegate(&["up", "--detach"]), 1, &["store.redb"]);
    assert_eq!(fs::read(&store).unwrap(), torn, "a file that cannot be read is not written");
    fs::write(&store, &whole).unwrap();
    let output = mesh.tidegate(&["up", "--detach"]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn a_directory_of_somebody_else_is_neither_taken_nor_purged() {
    let mesh = Mesh::down();
    let home = mesh.work_dir().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("thesis.txt"), "years of work").unwrap();
    let named = home.to_str().unwrap();
    says(&mesh.tidegate(&["up", "--detach", "--data-dir", named]), 1, &[named, "--data-dir"]);
    says(&mesh.tidegate(&["down", "--purge", "--data-dir", named]), 64, &[named, "nothing is removed"]);
    assert_eq!(fs::read_to_string(home.join("thesis.txt")).unwrap(), "years of work");
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
}

#[test]
fn a_mesh_that_does_not_run_is_said_with_the_command_that_starts_it() {
    let mesh = Mesh::down();
    for arguments in [&["status"][..], &["tap"], &["env"], &["kubeconfig"]] {
        says(&mesh.tidegate(arguments), 69, &["tidegate up"]);
    }
}

#[test]
fn bad_arguments_are_usage_errors() {
    let mesh = Mesh::down();
    says(&mesh.tidegate(&["up", "--port", "x"]), 64, &["--port", "tidegate up --help"]);
    says(&mesh.tidegate(&["frobnicate"]), 64, &["frobnicate"]);
    let help = mesh.tidegate(&[]);
    says(&help, 64, &["Usage: tidegate", "conformance"]);
    assert!(!told(&help).contains("error:"), "{}", told(&help));
    says(&mesh.tidegate(&["env", "-n", "Not A Name"]), 64, &["Not A Name"]);
}

#[test]
fn inject_names_the_place_of_what_it_cannot_read() {
    let mesh = Mesh::down();
    let file = mesh.work_dir().join("bad.yaml");
    let named = file.to_str().unwrap();
    for (text, word) in [(&b"a: b: c"[..], "line 1, column 5"), (b"\xff\xfe", "UTF-8"), (b"a: &x [*x, *x]", "alias")] {
        fs::write(&file, text).unwrap();
        let output = mesh.tidegate(&["inject", "-f", named]);
        says(&output, 65, &["bad.yaml", word]);
        assert!(output.stdout.is_empty(), "{}", told(&output));
    }
    says(&mesh.tidegate(&["inject", "-f", "missing.yaml"]), 65, &["missing.yaml", "No such file"]);
}

#[test]
fn the_istioctl_link_knows_one_verb() {
    let mesh = Mesh::up();
    let all = kubectls();
    let shell = |script: &str| mesh.bash(&all[1], &format!("eval \"$(tidegate env)\"; {script}"));
    // The verbs of Istio's own, by its help of 1.29.
    for verb in [
        "analyze",
        "authz",
        "bug-report",
        "dashboard",
        "install",
        "proxy-config",
        "proxy-status",
        "validate",
        "version",
    ] {
        says(
            &shell(&format!("istioctl {verb}")),
            64,
            &[&format!("`istioctl {verb}` is not one of Tidegate's"), "kube-inject"],
        );
    }
    let other = mesh.work_dir().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("istioctl"), "#!/bin/sh\necho the real one\n").unwrap();
    fs::set_permissions(other.join("istioctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let shadowed = mesh
        .bash(&all[1], "export PATH=\"$PWD/other:$PATH\"; istioctl; eval \"$(tidegate env)\"; istioctl 2>/dev/null");
    says(&shadowed, 64, &["is shadowed in this shell", "other/istioctl"]);
    assert_eq!(String::from_utf8_lossy(&shadowed.stdout), "the real one\n", "{}", told(&shadowed));
    says(&shell("istioctl"), 64, &["istioctl kube-inject -f FILE"]);
    let help = shell("istioctl --help && istioctl kube-inject --help");
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: istioctl kube-inject"), "{}", told(&help));
    for wrong in ["", "--meshConfigFile x -f y", "-f"] {
        says(&shell(&format!("istioctl kube-inject {wrong}")), 64, &["istioctl kube-inject"]);
    }
    let injected = shell("tidegate samples . >/dev/null; istioctl kube-inject -f samples/sleep/sleep.yaml");
    assert!(String::from_utf8_lossy(&injected.stdout).contains("istio-proxy"), "{}", told(&injected));
}

/// A data directory that was mistyped is a directory of somebody's: nothing in it is removed, made or given away.
#[test]
fn a_directory_that_is_used_for_something_else_is_left_alone() {
    let mesh = Mesh::down();
    let dir = mesh.data_dir();
    fs::create_dir_all(dir.join("letters")).unwrap();
    fs::write(dir.join("letters/one"), "dear").unwrap();
    says(&mesh.tidegate(&["down", "--purge"]), 64, &["not the data directory of a mesh", "nothing is removed"]);
    for arguments in [&["up"][..], &["up", "--detach"]] {
        says(&mesh.tidegate(arguments), 1, &["neither empty nor", "--data-dir"]);
    }
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["letters"]);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_a_user_has_put_beside_the_mesh_outlives_it() {
    let mesh = Mesh::up();
    let notes = mesh.data_dir().join("notes");
    fs::write(&notes, "mine").unwrap();
    std::os::unix::fs::chown(&notes, Some(12345), Some(12345)).unwrap();
    says(&mesh.tidegate(&["down", "--purge"]), 0, &["is kept", "notes"]);
    let names: Vec<_> = fs::read_dir(mesh.data_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["notes"]);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&notes).unwrap()), 12345);
    fs::remove_dir_all(mesh.data_dir()).unwrap();
}

#[test]
fn a_reader_that_leaves_ends_a_command_without_a_word() {
    let mesh = Mesh::up();
    for arguments in
        [&["status"][..], &["status", "-o", "json"], &["env"], &["kubeconfig"], &["check"], &["--help"], &["samples"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(binary());
        command.args(arguments).env("TIDEGATE_DATA_DIR", mesh.data_dir()).current_dir(mesh.work_dir());
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        // What a shell says of a command that SIGPIPE ended.
        assert_eq!((output.status.code(), output.stderr.len()), (Some(141), 0), "{arguments:?}: {}", told(&output));
    }
}
