//! Real images on a mesh: imported from files, run as they and their pods say.
#![cfg(test)]

use std::path::Path;
use std::process::Output;

use e2e::image::Image;
use e2e::mesh::{Mesh, kubectls, told};
use e2e::running::Running;
use serde_json::{Value, json};

/// A script with kubectl 1.37 in namespace foo; what it did.
fn bash(mesh: &Mesh, script: &str) -> Output {
    mesh.bash(&kubectls()[1], &format!("eval \"$(tidegate env -n foo)\"\nset -euo pipefail\n{script}"))
}

/// The same, which must succeed; what it prints.
fn must(mesh: &Mesh, script: &str) -> String {
    let output = bash(mesh, script);
    assert!(output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn apply(mesh: &Mesh, manifest: &str) {
    std::fs::write(mesh.work_dir().join("manifest.yaml"), manifest).unwrap();
    must(mesh, "kubectl apply -f manifest.yaml");
}

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: c\n    image: {image}\n{more}---\n"
    )
}

fn import(mesh: &Mesh, path: &Path) -> String {
    let output = mesh.tidegate(&["image", "import", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image with a shell, in three layers of which the upper ones change what is below.
fn shell(mesh: &Mesh, defaults: Value) -> Image {
    Image::new(&mesh.work_dir().join("image"), defaults)
        .tools(&["sh", "cat", "ls", "id", "sleep", "stat", "readlink", "touch", "env", "grep", "pwd", "ln"])
        .layer("mkdir -p data/old data/kept srv/app; echo low >data/low; echo old >data/old/file; echo kept >data/kept/file; ln data/low data/again")
        .layer("mkdir -p data/old data/new; touch data/.wh.low data/old/.wh..wh..opq; echo new >data/new/file; chown -R 1000:1001 data/new")
}

#[test]
fn an_image_is_imported_without_a_mesh_and_runs_as_it_and_its_pod_say() {
    let mesh = Mesh::down();
    let defaults = json!({
        "Entrypoint": ["sh", "-c"], "Cmd": ["echo entry; id -u; pwd; echo $COLOR; exec sleep infinity"],
        "Env": ["PATH=/bin", "COLOR=blue"], "WorkingDir": "/srv/not/there", "User": "app",
    });
    let names = import(&mesh, &shell(&mesh, defaults).saved("example.com/shell:1"));
    assert_eq!(names, "example.com/shell:1\n");
    let listed = String::from_utf8(mesh.tidegate(&["image", "list"]).stdout).unwrap();
    assert!(listed.starts_with("NAME ") && listed.contains("example.com/shell:1"), "{listed}");
    assert!(mesh.tidegate(&["up", "--detach"]).status.success());
    must(
        &mesh,
        "kubectl create ns foo; kubectl create cm cm --from-literal=a=b; kubectl create secret generic s --from-literal=p=w",
    );
    let volumes = "    volumeMounts: [{name: e, mountPath: /data/e}, {name: m, mountPath: /data/m}, {name: s, mountPath: /etc/s}]\n  \
                   volumes: [{name: e, emptyDir: {}}, {name: m, configMap: {name: cm}}, {name: s, secret: {secretName: s, defaultMode: 0400}}]\n";
    let own = "    command: [sh, -c, 'echo $0 $1; exec sleep infinity', $(COLOR)]\n    args: [x]\n    workingDir: /data\n    \
               securityContext: {runAsUser: 4711, runAsGroup: 12, readOnlyRootFilesystem: true}\n    env: [{name: COLOR, value: red}]\n";
    let more = format!("{own}{volumes}  securityContext: {{fsGroup: 77, supplementalGroups: [78]}}\n");
    let root = "    command: [sh, -c, 'exec sleep infinity']\n    securityContext: {runAsUser: 0}\n";
    apply(
        &mesh,
        &[
            pod("plain", "example.com/shell:1", ""),
            pod("own", "example.com/shell:1", &more),
            pod("root", "example.com/shell:1", root),
        ]
        .concat(),
    );
    must(&mesh, "kubectl wait --for=condition=Ready pod --all --timeout=30s");
    let run = |pod: &str, script: &str| must(&mesh, &format!("kubectl exec -i {pod} -- sh <<'EOF'\n{script}\nEOF"));
    // What the image says; and what the pod says in its place.
    assert_eq!(
        must(&mesh, "timeout 20 grep -m4 . <(kubectl logs -f plain 2>/dev/null)"),
        "entry\n1000\n/srv/not/there\nblue\n"
    );
    assert_eq!(must(&mesh, "timeout 20 grep -m1 . <(kubectl logs -f own 2>/dev/null)"), "red x\n");
    assert_eq!(run("plain", "id -u; id -g; id -G; echo $HOME; pwd"), "1000\n1001\n1001 4\n/srv/app\n/srv/not/there\n");
    assert_eq!(run("own", "id -u; id -g; id -G; pwd"), "4711\n12\n12 77 78\n/data\n");
    // The layers over one another.
    assert_eq!(
        run("root", "cd /data; ls; ls old; cat again kept/file new/file; stat -c %u:%g new/file"),
        "again\nkept\nnew\nold\nlow\nkept\nnew\n1000:1001\n"
    );
    // Memory above them, for this container alone; or none.
    assert_eq!(run("root", "echo x >/data/again; cat /data/again; touch /bin/new && echo written"), "x\nwritten\n");
    assert_eq!(run("plain", "cat /data/again; touch /data/again 2>/dev/null || echo not mine"), "low\nnot mine\n");
    assert_eq!(run("own", "touch /tmp/x 2>&1 | grep -o 'Read-only file system'"), "Read-only file system\n");
    assert_eq!(run("own", "cat e/../m/a; echo; touch e/x; stat -c %a /etc/s/p; cat /etc/s/p"), "b\n440\nw");
    // What every container has.
    let around = run(
        "root",
        "cat /etc/hostname; grep -c nameserver /etc/resolv.conf; ls /dev; readlink /proc/self/exe; echo x >/dev/null; touch /dev/shm/x",
    );
    assert_eq!(
        around,
        "root\n2\nfd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n/bin/readlink\n"
    );
    let id = must(&mesh, "kubectl get pod plain -o jsonpath={.status.containerStatuses[0].imageID}");
    assert!(id.starts_with("sha256:"), "{id}");
    // A layer goes when nothing has it any more, also no container.
    let removed = mesh.tidegate(&["image", "rm", "example.com/shell:1"]);
    assert!(removed.status.success() && told(&removed).contains("Removed 0 layers"), "{}", told(&removed));
    assert_eq!(run("plain", "cat /data/kept/file"), "kept\n");
    must(&mesh, "kubectl delete pod --all --grace-period=0 --force 2>/dev/null");
    let removed = mesh.tidegate(&["image", "rm", "example.com/shell:1"]);
    assert!(!removed.status.success() && told(&removed).contains("Removed 3 layers"), "{}", told(&removed));
}

#[test]
fn a_pod_that_waits_for_an_image_starts_as_soon_as_it_is_imported() {
    let mesh = Mesh::up();
    must(&mesh, "kubectl create ns foo");
    apply(&mesh, &pod("waits", "app:1", "    command: [sleep, infinity]\n"));
    let reason = "kubectl wait --for=jsonpath='{.status.containerStatuses[0].state.waiting.reason}'=ErrImagePull pod/waits --timeout=20s >/dev/null
kubectl get pod waits -o jsonpath='{.status.containerStatuses[0].state.waiting.message}'";
    let said = must(&mesh, reason);
    assert!(said.contains("tidegate image import FILE --name app:1"), "{said}");
    let watch = "eval \"$(tidegate env -n foo)\"; exec kubectl get pod waits -w --no-headers";
    let mut watched = Running::of(mesh.bash_child(&kubectls()[1], watch));
    watched.until(&["ErrImagePull"]);
    let image = Image::new(&mesh.work_dir().join("image"), json!({ "Env": ["PATH=/bin"] })).tools(&["sleep"]);
    import(&mesh, &image.layout("docker.io/library/app:1"));
    // Far sooner than it would look again by itself.
    watched.until_within(&["1/1", "Running", " 0 "], std::time::Duration::from_secs(5));
    let events = must(&mesh, "kubectl get events -o jsonpath='{range .items[*]}{.reason} {.message}{\"\\n\"}{end}'");
    assert!(events.contains("Pulled Container image \"app:1\" already present on machine"), "{events}");
}

#[test]
fn a_server_in_a_real_image_stands_under_the_policies_of_the_mesh() {
    let mesh = Mesh::up();
    must(&mesh, "kubectl create ns foo; kubectl label ns foo istio-injection=enabled >/dev/null");
    // One static program and nothing else, not even a shell.
    let binary = e2e::mesh::binary();
    let tcp_echo = format!("strip -o tcp-echo {}; cp --parents $(ldd tcp-echo | grep -o '/[^ ]*') .", binary.display());
    let image = Image::new(
        &mesh.work_dir().join("image"),
        json!({ "Entrypoint": ["/tcp-echo"], "Cmd": ["9000,9001", "hello"] }),
    );
    import(&mesh, &image.layer(&tcp_echo).saved("example.com/echo:1"));
    let client = pod("client", "curlimages/curl", "    command: [sleep, infinity]\n");
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: one}\n\
                  spec: {selector: {matchLabels: {app: server}}, rules: [{to: [{operation: {ports: ['9000']}}]}]}\n---\n\
                  apiVersion: v1\nkind: Service\nmetadata: {name: server}\nspec: {selector: {app: server}, ports: [{name: tcp, port: 9000}, {name: tcp-b, port: 9001}]}\n---\n";
    let probe = "    readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}\n";
    apply(&mesh, &[policy.to_owned(), client, pod("server", "example.com/echo:1", probe)].concat());
    must(&mesh, "kubectl wait --for=condition=Ready pod --all --timeout=30s");
    let ask =
        |port: u16| must(&mesh, &format!("kubectl exec client -c c -- sh -c 'echo x | nc server {port} 2>&1 || true'"));
    assert_eq!(ask(9000), "hello x\n");
    assert!(ask(9001).contains("refused"), "{}", ask(9001));
    must(&mesh, "kubectl delete authorizationpolicy one");
    assert_eq!(ask(9001), "hello x\n");
}

#[test]
fn an_image_that_cannot_be_used_is_refused_and_said() {
    let mesh = Mesh::up();
    must(&mesh, "kubectl create ns foo");
    let refused = |arguments: &[&str], code: i32, why: &str| {
        let output = mesh.tidegate(&[&["image"], arguments].concat());
        assert!(output.status.code() == Some(code) && told(&output).contains(why), "{arguments:?}: {}", told(&output));
    };
    refused(&["import", "/nonexistent"], 65, "No such file");
    refused(&["import", "/etc"], 65, "neither an OCI layout");
    refused(&["import", "/etc", "--name", "A"], 64, "no image name");
    refused(&["rm", "none:1"], 1, "no image is named docker.io/library/none:1");
    let image = Image::new(
        &mesh.work_dir().join("image"),
        json!({ "User": "ghost", "Env": ["PATH=/bin"], "Cmd": ["sleep", "infinity"] }),
    );
    let image = image.tools(&["sleep"]);
    import(&mesh, &image.saved("example.com/ghost:1"));
    let known = mesh.tidegate(&["image", "import", image.saved("busybox:1").to_str().unwrap()]);
    assert!(told(&known).contains("is a name of the catalogue"), "{}", told(&known));
    let named = "    securityContext: {runAsNonRoot: true}\n";
    apply(
        &mesh,
        &[pod("ghost", "example.com/ghost:1", ""), pod("named", "example.com/ghost:1", named), pod("odd", "'A:b'", "")]
            .concat(),
    );
    let message = |pod: &str, reason: &str| {
        let state = format!("jsonpath='{{.status.containerStatuses[0].state.*.reason}}'={reason}");
        must(
            &mesh,
            &format!(
                "kubectl wait --for={state} pod/{pod} --timeout=20s >/dev/null; kubectl get pod {pod} -o jsonpath='{{.status.containerStatuses[0]}}'"
            ),
        )
    };
    assert!(message("named", "CreateContainerConfigError").contains("is a name, which says nothing of its number"));
    assert!(message("odd", "InvalidImageName").contains("no image name"));
    let events = "eval \"$(tidegate env -n foo)\"; exec kubectl get events -w -o custom-columns=M:.message";
    Running::of(mesh.bash_child(&kubectls()[1], events)).until(&["the image has no user `ghost`"]);
}

#[test]
fn under_sudo_images_are_roots_and_the_rest_is_the_calling_users() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let mesh = Mesh::down();
    let sudo = |arguments: &[&str]| {
        let mut command = std::process::Command::new(e2e::mesh::binary());
        command.args(arguments).env("SUDO_UID", "54321").env("SUDO_GID", "54321");
        command.env("TIDEGATE_DATA_DIR", mesh.data_dir()).current_dir(mesh.work_dir()).output().unwrap()
    };
    let image = Image::new(&mesh.work_dir().join("image"), json!({ "Cmd": ["/bin/sleep"] })).tools(&["sleep"]);
    let path = image.saved("example.com/a:1");
    assert!(sudo(&["image", "import", path.to_str().unwrap()]).status.success());
    let about = |name: &str| std::fs::metadata(mesh.data_dir().join(name)).unwrap();
    assert_eq!((about("").uid(), about("tidegate-mesh").uid()), (54321, 54321));
    assert_eq!((about("images").uid(), about("images").permissions().mode() & 0o777), (0, 0o700));
    assert!(sudo(&["up", "--detach"]).status.success());
    assert_eq!(
        (about("store.redb").uid(), about("images").uid()),
        (54321, 0),
        "what is given away does not reach images"
    );
    assert!(sudo(&["down"]).status.success());
    // What the user puts in its place is neither written nor read.
    let (own, aside, victim) =
        (mesh.data_dir().join("images"), mesh.work_dir().join("aside"), mesh.work_dir().join("victim"));
    std::fs::rename(&own, &aside).unwrap();
    std::fs::create_dir(&victim).unwrap();
    symlink(&victim, &own).unwrap();
    let refused = sudo(&["image", "import", path.to_str().unwrap()]);
    assert!(!refused.status.success() && told(&refused).contains("none is followed"), "{}", told(&refused));
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    std::fs::remove_file(&own).unwrap();
    std::fs::rename(&victim, &own).unwrap();
    std::os::unix::fs::chown(&own, Some(54321), Some(54321)).unwrap();
    let refused = sudo(&["image", "import", path.to_str().unwrap()]);
    assert!(!refused.status.success(), "{}", told(&refused));
    // It goes with the mesh.
    assert!(sudo(&["down", "--purge"]).status.success());
    assert!(!mesh.data_dir().exists());
}
