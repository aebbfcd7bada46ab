//! Images from a registry on this machine: Debian's `docker-registry`, with images that the test makes and pushes.
#![cfg(test)]

use e2e::image::Image;
use e2e::mesh::{Mesh, kubectls, told};
use e2e::registry::{Authority, Registry};
use e2e::running::Running;
use serde_json::json;

fn must(mesh: &Mesh, script: &str) -> String {
    let output = mesh.bash(&kubectls()[1], &format!("eval \"$(tidegate env -n foo)\"\nset -euo pipefail\n{script}"));
    assert!(output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn apply(mesh: &Mesh, manifest: &str) {
    std::fs::write(mesh.work_dir().join("manifest.yaml"), manifest).unwrap();
    must(mesh, "kubectl apply -f manifest.yaml");
}

fn pod(name: &str, image: &str, policy: &str) -> String {
    let policy = if policy.is_empty() { String::new() } else { format!(", imagePullPolicy: {policy}") };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: '{image}'{policy}}}\n---\n"
    )
}

/// An image whose program says a word and stays.
fn saying(mesh: &Mesh, word: &str) -> std::path::PathBuf {
    let defaults =
        json!({ "Entrypoint": ["sh", "-c"], "Cmd": ["cat /word; exec sleep infinity"], "Env": ["PATH=/bin"] });
    let image = Image::new(&mesh.work_dir().join(word), defaults).tools(&["sh", "cat", "sleep"]);
    image.layer(&format!("echo {word} >word")).layout("unused:1")
}

#[test]
fn images_are_pulled_as_their_policy_says() {
    let mesh = Mesh::up();
    must(&mesh, "kubectl create ns foo");
    let registry = Registry::start(mesh.work_dir());
    let at = |name: &str| format!("{}/team/{name}", registry.address);
    let (one, two) = (saying(&mesh, "one"), saying(&mesh, "two"));
    registry.push(&one, "team/app", "1");
    registry.push(&one, "team/app", "latest");
    let never = pod("never", &at("app:1"), "Never");
    apply(&mesh, &never);
    must(
        &mesh,
        "kubectl wait --for=jsonpath='{.status.containerStatuses[0].state.waiting.reason}'=ErrImageNeverPull pod/never --timeout=20s",
    );
    apply(&mesh, &[pod("first", &at("app:1"), ""), pod("latest", &at("app"), "")].concat());
    must(&mesh, "kubectl wait --for=condition=Ready pod/first pod/latest --timeout=40s");
    let said = |pod: &str| must(&mesh, &format!("timeout 20 grep -m1 . <(kubectl logs -f {pod} 2>/dev/null)"));
    assert_eq!((said("first"), said("latest")), ("one\n".to_owned(), "one\n".to_owned()));
    let events = must(
        &mesh,
        "kubectl get events -o jsonpath='{range .items[*]}{.involvedObject.name} {.reason} {.message}{\"\\n\"}{end}'",
    );
    let pulled = format!("first Pulled Successfully pulled image \"{}\" in ", at("app:1"));
    assert!(events.contains(&pulled) && events.contains("first Pulling Pulling image"), "{events}");
    // The tags lead elsewhere now: `latest` is asked for again, a version is not, and its digest never changes.
    let id = must(&mesh, "kubectl get pod first -o jsonpath={.status.containerStatuses[0].imageID}");
    assert!(id.starts_with(&at("app@sha256:")), "{id}");
    registry.push(&two, "team/app", "1");
    registry.push(&two, "team/app", "latest");
    let more = [
        pod("again", &at("app:1"), ""),
        pod("newest", &at("app"), ""),
        pod("pinned", &id, ""),
        pod("asked", &at("app:1"), "Always"),
    ];
    apply(&mesh, &more.concat());
    must(&mesh, "kubectl wait --for=condition=Ready pod/again pod/newest pod/pinned --timeout=40s");
    assert_eq!(
        (said("again"), said("newest"), said("pinned")),
        ("one\n".to_owned(), "two\n".to_owned(), "one\n".to_owned())
    );
    must(&mesh, "kubectl wait --for=condition=Ready pod/asked --timeout=40s");
    assert_eq!(said("asked"), "two\n");
    assert!(String::from_utf8(mesh.tidegate(&["image", "list"]).stdout).unwrap().contains(&at("app:latest")));
}

#[test]
fn what_cannot_be_pulled_is_said_and_tried_again() {
    let mesh = Mesh::up();
    must(&mesh, "kubectl create ns foo");
    let registry = Registry::start(mesh.work_dir());
    let address = registry.address.clone();
    drop(registry);
    // Nobody listens; and where somebody does, it is not this image's registry.
    apply(
        &mesh,
        &[pod("early", &format!("{address}/team/app:1"), ""), pod("plain", "10.255.255.1:5000/a:1", "Never")].concat(),
    );
    let watch = "eval \"$(tidegate env -n foo)\"; exec kubectl get pod early -w --no-headers";
    must(
        &mesh,
        "kubectl wait --for=jsonpath='{.status.containerStatuses[0].state.waiting.reason}'=ErrImagePull pod/early --timeout=20s",
    );
    let mut watched = Running::of(mesh.bash_child(&kubectls()[1], watch));
    let message =
        must(&mesh, "kubectl get pod early -o jsonpath='{.status.containerStatuses[0].state.waiting.message}'");
    assert!(message.contains("Failed to pull image") && message.contains("Connection refused"), "{message}");
    let registry = Registry::start_at(mesh.work_dir(), &address);
    registry.push(&saying(&mesh, "late"), "team/app", "1");
    // After the first back-off of ten seconds, without a restart.
    watched.until_within(&["1/1", "Running", " 0 "], std::time::Duration::from_secs(40));
    apply(&mesh, &pod("unknown", &format!("{address}/team/none:1"), ""));
    let mut events = Running::of(mesh.bash_child(
        &kubectls()[1],
        "eval \"$(tidegate env -n foo)\"; exec kubectl get events -w -o custom-columns=M:.message",
    ));
    events.until(&["Failed to pull image", "team/none:1", "there is no such image or tag"]);
}

#[test]
fn a_registry_elsewhere_is_asked_by_https_and_its_certificate_must_be_trusted() {
    let mut mesh = Mesh::down();
    let authority = Authority::new(mesh.work_dir());
    // Seen from where `up` is typed, which is not where the daemon works.
    mesh.with("SSL_CERT_FILE", authority.file.file_name().unwrap());
    let up = || {
        let output = mesh.tidegate(&["up", "--detach"]);
        assert!(output.status.success(), "{}", told(&output));
    };
    up();
    must(&mesh, "kubectl create ns foo");
    // The host's end of the mesh: an address that is not this machine's own loopback.
    let host = must(&mesh, "ip -4 -o addr show | grep -o 'inet [0-9.]*/[0-9]* .*'")
        .lines()
        .find(|line| line.contains(&mesh.id()))
        .and_then(|line| line.split([' ', '/']).nth(1).map(str::to_owned))
        .unwrap();
    let open = Registry::start(mesh.work_dir());
    let port = open.address.rsplit_once(':').unwrap().1.to_owned();
    open.push(&saying(&mesh, "sealed"), "team/app", "1");
    drop(open);
    let registry = Registry::start_with_tls(mesh.work_dir(), &format!("{host}:{port}"), &authority);
    apply(&mesh, &pod("sealed", &format!("{}/team/app:1", registry.address), "Always"));
    must(&mesh, "kubectl wait --for=condition=Ready pod/sealed --timeout=40s");
    assert_eq!(must(&mesh, "timeout 20 grep -m1 . <(kubectl logs -f sealed 2>/dev/null)"), "sealed\n");
    // Another authority is believed by nobody, and a file without certificates is told of.
    for (name, why) in [("another", "invalid peer certificate"), ("empty", "no certificate can be read from")] {
        assert!(mesh.tidegate(&["down"]).status.success());
        let home = mesh.work_dir().join(name);
        std::fs::create_dir(&home).unwrap();
        let other = Authority::new(&home).file;
        if name == "empty" {
            std::fs::write(&other, "").unwrap();
        }
        std::fs::copy(other, &authority.file).unwrap();
        up();
        apply(&mesh, &pod(name, &format!("{}/team/app:1", registry.address), "Always"));
        let told = format!("kubectl get events -o yaml | tr -s '\\n ' ' ' | grep -qF '{why}'");
        must(&mesh, &format!("timeout 40 bash -c \"until {told}; do :; done\""));
    }
}
