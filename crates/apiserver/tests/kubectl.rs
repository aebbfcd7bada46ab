//! Unmodified kubectl against a server whose hooks are as simple as can be: commands run on this machine, namespaces empty themselves.
//!
//! Which kubectl: every file named `kubectl` or `kubectl.*` in the folders of `TIDEGATE_KUBECTL_DIRS` (separated by colons), else those
//! beside the `kubectl` on PATH.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use api::admission::Admitted;
use api::{Change, Key, Object, Status, Write};
use apiserver::{ExecRequest, ExecSession, Feed, Hooks, Server, Settings};
use futures_util::FutureExt as _;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// No command here takes longer on the slowest machine; a hang must not stop the tests.
const COMMAND_TIME_MAX: Duration = Duration::from_mins(1);

/// A served server with a kubeconfig; all ends with it.
struct Mesh {
    folder: TempDir,
    server: Server,
    stop: CancellationToken,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn mesh() -> Mesh {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings { data_dir: folder.path().join("data"), listen: listener.local_addr().unwrap() };
    let hooks = Hooks {
        admit: Arc::new(|_| Admitted::default()),
        settled: watch::channel(u64::MAX).1,
        exec: Arc::new(|request| async move { exec(&request) }.boxed()),
        logs: Arc::new(|request| {
            async move {
                let mut log = format!("{} {}\n", request.pod.name(), request.container).repeat(3).into_bytes();
                if let Some(lines) = request.tail_lines {
                    log.truncate(usize::try_from(lines).unwrap() * log.len() / 3);
                }
                let log: apiserver::LogStream = Box::new(std::io::Cursor::new(log));
                Ok(log)
            }
            .boxed()
        }),
        forward: Arc::new(|_| async { Err(Status::unavailable("no pods here")) }.boxed()),
        extension: Arc::new(|_| async { None }.boxed()),
    };
    let server = Server::open(settings, hooks).unwrap();
    let stop = CancellationToken::new();
    std::fs::write(folder.path().join("kubeconfig"), server.kubeconfig(Some("default"))).unwrap();
    tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.serve(listener, stop).await }
    });
    tokio::spawn(empty_namespaces(server.clone(), server.subscribe(), stop.clone()));
    Mesh { folder, server, stop }
}

fn exec(request: &ExecRequest) -> Result<ExecSession, Status> {
    let (program, arguments) = request.command.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(if request.stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Status::internal(&error.to_string()))?;
    Ok(ExecSession {
        stdin: child.stdin.take().map(|stdin| Box::new(stdin) as _),
        stdout: child.stdout.take().map(|stdout| Box::new(stdout) as _),
        stderr: child.stderr.take().map(|stderr| Box::new(stderr) as _),
        resize: None,
        exit: async move {
            child
                .wait()
                .await
                .map(|status| status.code().unwrap_or(137))
                .map_err(|error| Status::internal(&error.to_string()))
        }
        .boxed(),
    })
}

/// What the namespace controller does: remove what is in a namespace that goes, then let go of it.
async fn empty_namespaces(server: Server, mut feed: Feed, stop: CancellationToken) {
    let mut objects = api::Objects::new();
    while let Some(Some(batch)) = stop.run_until_cancelled(feed.next()).await {
        for event in &batch.events {
            objects.apply(event);
        }
        for event in batch.events {
            let Change::Put { new, .. } = event.change else { continue };
            if new.kind() != "Namespace" || !new.is_deleting() {
                continue;
            }
            for (key, _) in objects.all().filter(|(key, _)| key.namespace.as_deref() == Some(new.name())) {
                server.write(Write::Delete { key, now: true }).await.unwrap();
            }
            server
                .write(Write::PatchMeta { key: event.key, patch: json!({"spec": {"finalizers": []}}) })
                .await
                .unwrap();
        }
    }
}

/// One kubectl with its own caches.
struct Kubectl {
    program: PathBuf,
    config: PathBuf,
    cache: TempDir,
    sockets: bool,
}

struct Output {
    code: i32,
    out: String,
    err: String,
}

impl Kubectl {
    fn new(mesh: &Mesh, program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            config: mesh.folder.path().join("kubeconfig"),
            cache: tempfile::tempdir().unwrap(),
            sockets: true,
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        let words = line.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace('~', " "));
        command.args(words).env_clear().env("HOME", self.cache.path()).env("KUBECONFIG", &self.config);
        command.env("PATH", "/usr/bin:/bin");
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", if self.sockets { "true" } else { "false" });
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn with_input(&self, line: &str, input: &str) -> Output {
        let mut command = self.command(line);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feed = async move {
            // A command that does not read its input closes it.
            drop(stdin.write_all(input.as_bytes()).await);
        };
        let (output, ()) = timeout(COMMAND_TIME_MAX, futures_util::future::join(child.wait_with_output(), feed))
            .await
            .unwrap_or_else(|_| panic!("hangs: {line}"));
        let output = output.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Output { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    async fn run(&self, line: &str) -> Output {
        self.with_input(line, "").await
    }

    /// Runs a command that must succeed; gives what it printed.
    async fn ok(&self, line: &str) -> String {
        self.ok_with(line, "").await
    }

    async fn ok_with(&self, line: &str, input: &str) -> String {
        let output = self.with_input(line, input).await;
        assert_eq!(output.code, 0, "{}: kubectl {line}: {}{}", self.program.display(), output.out, output.err);
        output.out
    }
}

fn kubectls() -> Vec<PathBuf> {
    let folders: Vec<PathBuf> = match std::env::var_os("TIDEGATE_KUBECTL_DIRS") {
        Some(folders) => std::env::split_paths(&folders).collect(),
        None => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join("kubectl"))
            .filter_map(|program| program.canonicalize().ok())
            .filter_map(|program| program.parent().map(Path::to_owned))
            .take(1)
            .collect(),
    };
    let is_kubectl = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name == "kubectl" || name.starts_with("kubectl.1."))
    };
    let mut found: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())))
        .map(|entry| entry.unwrap().path())
        .filter(is_kubectl)
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no kubectl found: install one, or name its folder in TIDEGATE_KUBECTL_DIRS");
    found
}

/// Runs a story with every kubectl at once, each against its own server.
async fn with_each<F: Future<Output = ()>>(story: impl Fn(Arc<Mesh>, Kubectl) -> F) {
    let story = &story;
    let stories = kubectls().into_iter().map(|program| async move {
        let mesh = Arc::new(mesh().await);
        let kubectl = Kubectl::new(&mesh, &program);
        story(Arc::clone(&mesh), kubectl).await;
        drop(mesh);
    });
    futures_util::future::join_all(stories).await;
}

const MAP: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: a
  labels: {app: a}
data: {x: "1"}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn objects_from_creation_to_removal() {
    with_each(|_, kubectl| async move {
        assert_eq!(kubectl.ok("create ns foo").await, "namespace/foo created\n");
        let again = kubectl.run("create ns foo").await;
        assert_eq!(
            (again.code, again.err.as_str()),
            (1, "Error from server (AlreadyExists): namespaces \"foo\" already exists\n")
        );
        assert_eq!(kubectl.ok_with("apply -n foo -f -", MAP).await, "configmap/a created\n");
        assert_eq!(kubectl.ok_with("apply -n foo -f -", MAP).await, "configmap/a unchanged\n");
        let changed = MAP.replace("\"1\"", "\"2\"");
        assert_eq!(kubectl.ok_with("apply -n foo -f -", &changed).await, "configmap/a configured\n");
        assert_eq!(kubectl.ok("get cm a -n foo -o jsonpath={.data.x}").await, "2");
        assert_eq!(kubectl.ok("get cm -n foo -l app=a -o name").await, "configmap/a\n");
        assert_eq!(kubectl.ok("get cm -n foo -l app=b -o name").await, "");
        let patched = kubectl.ok("patch cm a -n foo -p {\"data\":{\"z\":\"3\"}}").await;
        assert_eq!(patched, "configmap/a patched\n");
        let yaml = kubectl.ok("get cm a -n foo -o yaml").await;
        assert!(yaml.contains("\n  x: \"2\"\n  z: \"3\"\n"), "{yaml}");
        assert_eq!(kubectl.ok("label cm a -n foo more=b").await, "configmap/a labeled\n");
        let missing = kubectl.run("get cm none -n foo").await;
        assert_eq!(
            (missing.code, missing.err.as_str()),
            (1, "Error from server (NotFound): configmaps \"none\" not found\n")
        );
        let nowhere = kubectl.run("create cm b -n nowhere").await;
        assert_eq!(
            (nowhere.code, nowhere.err.contains("namespaces \"nowhere\" not found")),
            (1, true),
            "{}",
            nowhere.err
        );
        assert!(kubectl.ok("delete cm a -n foo").await.starts_with("configmap \"a\" deleted"));
        assert_eq!(kubectl.ok_with("apply -n foo -f -", MAP).await, "configmap/a created\n");
        assert!(kubectl.ok("delete ns foo").await.starts_with("namespace \"foo\" deleted"));
        assert_eq!(kubectl.run("get ns foo").await.code, 1);
        assert_eq!(kubectl.ok("auth can-i create pods").await, "yes\n");
    })
    .await;
}

async fn pod(server: &Server, name: &str) {
    let containers = json!([{"name": "main", "image": "x"}, {"name": "other", "image": "x"}]);
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n", "containers": containers}});
    server.write(Write::Create(Object::new(object).unwrap())).await.unwrap();
    server
        .write(Write::PatchStatus { key: Key::namespaced("", "pods", "default", name), patch: status })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_logs() {
    with_each(|mesh, mut kubectl| async move {
        pod(&mesh.server, "p").await;
        for sockets in [true, false] {
            kubectl.sockets = sockets;
            assert_eq!(kubectl.ok("exec p -c main -- echo hello").await, "hello\n");
            assert_eq!(kubectl.ok_with("exec -i p -c main -- cat", "line\n").await, "line\n");
            let many = "x".repeat(1 << 20);
            assert!(kubectl.ok_with("exec -i p -c main -- cat", &many).await == many, "1 MiB comes back");
            let unread = kubectl.with_input("exec -i p -c main -- echo done", "never read\n").await;
            assert_eq!((unread.code, unread.out.as_str()), (0, "done\n"), "{}", unread.err);
            let failed = kubectl.run("exec p -c main -- sh -c echo~out;~echo~err~>&2;~exit~3").await;
            assert_eq!((failed.code, failed.out.as_str()), (3, "out\n"), "{}", failed.err);
            assert_eq!(failed.err, "err\ncommand terminated with exit code 3\n");
            let behind = kubectl.run("exec p -c main -- sh -c sleep~20~&~echo~now").await;
            assert_eq!((behind.code, behind.out.as_str()), (0, "now\n"), "{}", behind.err);
            let wrong = kubectl.run("exec p -c nope -- true").await;
            assert!(wrong.code == 1 && wrong.err.contains("container nope is not valid for pod p"), "{}", wrong.err);
        }
        assert_eq!(kubectl.ok("logs p -c other").await, "p other\n".repeat(3));
        assert_eq!(kubectl.ok("logs p -c other -f --tail=1").await, "p other\n");
        let missing = kubectl.run("logs none").await;
        assert!(missing.code == 1 && missing.err.contains("pods \"none\" not found"), "{}", missing.err);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_and_watching() {
    with_each(|mesh, kubectl| async move {
        pod(&mesh.server, "p").await;
        assert_eq!(kubectl.ok("wait --for=condition=Ready pod/p --timeout=10s").await, "pod/p condition met\n");
        let late = kubectl.run("wait --for=condition=Other pod/p --timeout=1s").await;
        assert_eq!(late.code, 1, "{}{}", late.out, late.err);
        let key = Key::namespaced("", "pods", "default", "p");
        let change = async {
            mesh.server
                .write(Write::PatchStatus {
                    key: key.clone(),
                    patch: json!({"status": {"conditions": [{"type": "Other", "status": "True"}]}}),
                })
                .await
                .unwrap();
        };
        let (waited, ()) = tokio::join!(kubectl.ok("wait --for=condition=Other pod/p --timeout=30s"), change);
        assert_eq!(waited, "pod/p condition met\n");
        let gone = async {
            mesh.server.write(Write::Delete { key: key.clone(), now: true }).await.unwrap();
        };
        let (waited, ()) = tokio::join!(kubectl.run("wait --for=delete pod/p --timeout=30s"), gone);
        assert!(
            waited.code == 0 || waited.err.contains("NotFound") || waited.err.contains("no matching resources"),
            "{}{}",
            waited.out,
            waited.err
        );
    })
    .await;
}

/// Each line of a table with its columns parted by one blank; ages, which change, as `AGE`.
fn lines(table: &str) -> Vec<String> {
    let is_age = |word: &str| {
        word.len() > 1 && word.ends_with('s') && word.trim_end_matches('s').bytes().all(|byte| byte.is_ascii_digit())
    };
    let plain = |line: &str| {
        line.split_whitespace().map(|word| if is_age(word) { "AGE" } else { word }).collect::<Vec<_>>().join(" ")
    };
    table.lines().map(plain).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_for_people() {
    with_each(|mesh, kubectl| async move {
        pod(&mesh.server, "p").await;
        assert_eq!(lines(&kubectl.ok("get pods").await), ["NAME READY STATUS RESTARTS AGE", "p 0/2 Running 0 AGE"]);
        let wide = kubectl.ok("get pods -o wide").await;
        assert!(wide.starts_with("NAME") && wide.contains("NODE") && wide.contains("NOMINATED NODE"), "{wide}");
        assert_eq!(lines(&kubectl.ok("get pods --show-labels").await)[1], "p 0/2 Running 0 AGE <none>");
        assert_eq!(lines(&kubectl.ok("get pods -A").await)[0], "NAMESPACE NAME READY STATUS RESTARTS AGE");
        assert_eq!(lines(&kubectl.ok("get ns default").await), ["NAME STATUS AGE", "default Active AGE"]);
        let none = kubectl.run("get deployments").await;
        assert_eq!((none.code, none.err.as_str()), (0, "No resources found in default namespace.\n"));
        assert!(kubectl.ok("api-resources").await.contains("configmaps"));
        assert!(kubectl.ok("get pod p -o jsonpath={.status.phase}").await == "Running");
        let unknown = kubectl.run("get nonsense").await;
        assert!(
            unknown.code == 1 && unknown.err.contains("the server doesn't have a resource type \"nonsense\""),
            "{}",
            unknown.err
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn following_a_list() {
    with_each(|mesh, kubectl| async move {
        pod(&mesh.server, "p").await;
        let mut child = kubectl.command("get pods -w").spawn().unwrap();
        let mut out = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
        let mut next = async || {
            let line =
                timeout(COMMAND_TIME_MAX, out.next_line()).await.expect("a line in time").unwrap().expect("a line");
            lines(&line).concat()
        };
        assert_eq!(next().await, "NAME READY STATUS RESTARTS AGE");
        assert_eq!(next().await, "p 0/2 Running 0 AGE");
        let key = Key::namespaced("", "pods", "default", "p");
        mesh.server
            .write(Write::PatchStatus { key: key.clone(), patch: json!({"status": {"phase": "Failed"}}) })
            .await
            .unwrap();
        assert_eq!(next().await, "p 0/2 Failed 0 AGE");
        pod(&mesh.server, "q").await;
        assert_eq!(next().await, "q 0/2 Pending 0 AGE");
        child.kill().await.unwrap();
    })
    .await;
}

const POLICY: &str = r#"
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata:
  name: tcp-policy
spec:
  selector: {matchLabels: {app: tcp-echo}}
  action: ALLOW
  rules:
  - to:
    - operation: {ports: ["9000", "9001"]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_definitions_make() {
    with_each(|mesh, kubectl| async move {
        for definition in api::crds::istio() {
            mesh.server.write(Write::Create(definition)).await.unwrap();
        }
        assert_eq!(
            kubectl.ok_with("apply -f -", POLICY).await,
            "authorizationpolicy.security.istio.io/tcp-policy created\n"
        );
        assert_eq!(
            kubectl.ok_with("apply -f -", POLICY).await,
            "authorizationpolicy.security.istio.io/tcp-policy unchanged\n"
        );
        assert_eq!(lines(&kubectl.ok("get authorizationpolicy").await), ["NAME ACTION AGE", "tcp-policy ALLOW AGE"]);
        let denied = POLICY.replace("ALLOW", "DENY");
        assert_eq!(
            kubectl.ok_with("apply -f -", &denied).await,
            "authorizationpolicy.security.istio.io/tcp-policy configured\n"
        );
        assert_eq!(
            kubectl
                .ok(
                    "get authorizationpolicies.v1.security.istio.io tcp-policy -o jsonpath={.apiVersion}/{.spec.action}"
                )
                .await,
            "security.istio.io/v1/DENY"
        );
        let wrong = kubectl.with_input("apply -f -", &POLICY.replace("ALLOW", "PERMIT")).await;
        assert!(wrong.code == 1 && wrong.err.contains("PERMIT"), "{}", wrong.err);
        let field =
            kubectl.with_input("apply -f -", &POLICY.replace("rules:", "rulez:").replace("tcp-policy", "other")).await;
        // Clients before 1.27 compare with the published schema themselves, the others leave it to the server.
        assert!(field.code == 1 && field.err.contains("unknown field") && field.err.contains("rulez"), "{}", field.err);
        assert!(kubectl.ok_with("delete -f -", POLICY).await.contains("\"tcp-policy\" deleted"));
        assert_eq!(kubectl.ok("get authorizationpolicy tcp-policy --ignore-not-found").await, "");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_samples_apply_and_apply_again_unchanged() {
    with_each(|_mesh, kubectl| async move {
        let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../samples");
        for (file, count) in [("tcp-echo/tcp-echo.yaml", 2), ("sleep/sleep.yaml", 3)] {
            let line = format!("apply -f {samples}/{file}");
            let first = kubectl.ok(&line).await;
            assert!(first.lines().count() == count && first.lines().all(|line| line.ends_with(" created")), "{first}");
            let second = kubectl.ok(&line).await;
            assert!(second.lines().all(|line| line.ends_with(" unchanged")), "{second}");
        }
        assert_eq!(lines(&kubectl.ok("get deployments").await)[0], "NAME READY UP-TO-DATE AVAILABLE AGE");
        assert_eq!(kubectl.ok("scale deployment tcp-echo --replicas=2").await, "deployment.apps/tcp-echo scaled\n");
        assert_eq!(kubectl.ok("get deployment tcp-echo -o jsonpath={.spec.replicas}").await, "2");
        let image = kubectl.ok("set image deployment/tcp-echo tcp-echo=other:1").await;
        assert_eq!(image, "deployment.apps/tcp-echo image updated\n");
    })
    .await;
}
