//! The mesh under test: started from the binary, filled through its API server, ended when this is dropped.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::api::{Access, Api};
use crate::program::checked;

/// The namespace whose pods are in the mesh.
pub(crate) const NAMESPACE: &str = "bench";
/// The namespace whose pods are not.
pub(crate) const PLAIN: &str = "plain";
/// The client of every row through the mesh.
pub(crate) const CLIENT: &str = "client";
/// The first port that the load generator serves; the sink and the source have the next two.
pub(crate) const PORT: u16 = 9000;
/// The policy that lets the client in, last in the order of names.
pub(crate) const MATCH: &str = "zz-match";
/// A pod of the catalogue starts in tens of milliseconds; this is a mesh that is broken.
const POD_MAX: Duration = Duration::from_mins(1);
/// Between two looks at something that has no event to wait for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Connections over which many objects are made at once.
const WRITERS: usize = 16;

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct Mesh {
    tidegate: PathBuf,
    data_dir: PathBuf,
    pub(crate) access: Access,
    /// Its daemon.
    pub(crate) pid: i32,
    id: String,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) address: Ipv4Addr,
    /// The handle of its network namespace.
    pub(crate) netns: PathBuf,
}

impl Mesh {
    /// Starts a mesh on a directory that is not there yet.
    pub(crate) fn up(tidegate: &Path, data_dir: &Path) -> Result<Self> {
        checked(of(tidegate, data_dir, &["up", "--detach"]))?;
        Self::of_running(tidegate, data_dir)
    }

    /// The mesh that runs on this directory; it ends when this is dropped.
    pub(crate) fn of_running(tidegate: &Path, data_dir: &Path) -> Result<Self> {
        let call = |words: &[&str]| -> Result<Output> { checked(of(tidegate, data_dir, words)) };
        let kubeconfig = call(&["kubeconfig"])?;
        let access = Access::of_kubeconfig(&String::from_utf8_lossy(&kubeconfig.stdout))?;
        let status: Value = serde_json::from_slice(&call(&["status", "-o", "json"])?.stdout)?;
        let pid = status.get("pid").and_then(Value::as_i64).context("status says no pid")?;
        let id = status.get("id").and_then(Value::as_str).context("status says no id")?.to_owned();
        let (tidegate, data_dir) = (tidegate.to_owned(), data_dir.to_owned());
        Ok(Self { tidegate, data_dir, access, pid: i32::try_from(pid)?, id })
    }

    /// A command of the binary for this mesh.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        of(&self.tidegate, &self.data_dir, words)
    }

    /// What `tidegate status -o json` says.
    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&checked(self.command(&["status", "-o", "json"]))?.stdout)?)
    }

    /// Opens a connection to the API server.
    pub(crate) fn api(&self) -> Result<Api> {
        self.access.open()
    }

    /// Makes both namespaces, the client and its account.
    pub(crate) fn settle_in(&self) -> Result<Pod> {
        let mut api = self.api()?;
        for (name, labels) in [(NAMESPACE, json!({"istio-injection": "enabled"})), (PLAIN, json!({}))] {
            api.post("/api/v1/namespaces", &json!({"metadata": {"name": name, "labels": labels}}))?;
        }
        api.post(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), &json!({"metadata": {"name": CLIENT}}))?;
        self.pod(&mut api, NAMESPACE, CLIENT, CLIENT)
    }

    /// Makes a pod that does nothing, and returns when it is ready.
    pub(crate) fn pod(&self, api: &mut Api, namespace: &str, name: &str, app: &str) -> Result<Pod> {
        api.post(&format!("/api/v1/namespaces/{namespace}/pods"), &pod_object(namespace, name, app))?;
        self.ready(api, namespace, name)
    }

    /// Waits until a pod is ready.
    pub(crate) fn ready(&self, api: &mut Api, namespace: &str, name: &str) -> Result<Pod> {
        let begun = Instant::now();
        loop {
            let pod = api.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))?;
            if is_ready(&pod) {
                let text = |at: &str| pod.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
                let netns = self.netns(&text("/metadata/uid"))?;
                let address = text("/status/podIP").parse().with_context(|| format!("the address of pod {name}"))?;
                return Ok(Pod { address, netns });
            }
            if begun.elapsed() > POD_MAX {
                bail!("pod {namespace}/{name} is not ready after {POD_MAX:?}: {}", pod["status"]);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The handle of a pod's network namespace: `<number>-<uid>`.
    fn netns(&self, uid: &str) -> Result<PathBuf> {
        let folder = self.run_dir().join("pods");
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let is_its = |path: &PathBuf| path.to_string_lossy().ends_with(&format!("-{uid}"));
        let found = entries.flatten().map(|entry| entry.path()).find(is_its);
        found.with_context(|| format!("no handle of pod {uid} in `{}`", folder.display()))
    }

    fn run_dir(&self) -> PathBuf {
        Path::new("/run/tidegate").join(&self.id)
    }

    /// The handle of the node namespace.
    pub(crate) fn node_netns(&self) -> PathBuf {
        self.run_dir().join("node")
    }

    /// A Service whose endpoints are the pods of an app; its VIP.
    pub(crate) fn service(api: &mut Api, name: &str, app: &str) -> Result<Ipv4Addr> {
        let port = |(offset, what): (u16, &str)| json!({"name": format!("tcp-{what}"), "port": PORT + offset});
        let ports: Vec<Value> = [(0, "echo"), (1, "sink"), (2, "source")].into_iter().map(port).collect();
        let service = json!({"metadata": {"name": name}, "spec": {"selector": {"app": app}, "ports": ports}});
        let all = format!("/api/v1/namespaces/{NAMESPACE}/services");
        api.post(&all, &service)?;
        // The answer to the write is the object as it was written: a controller gives it its address, before the answer comes.
        let made = api.get(&format!("{all}/{name}"))?;
        let vip = made.pointer("/spec/clusterIP").and_then(Value::as_str).unwrap_or_default();
        vip.parse().with_context(|| format!("the VIP of service {name}"))
    }

    /// Applies `count` policies that all select the pods of an app: each lets another address in at another port, the last one the
    /// client. How many are there already is the caller's to know.
    pub(crate) fn policies(&self, app: &str, there: usize, count: usize) -> Result<()> {
        let mut api = self.api()?;
        if there == 0 {
            api.post(&policies_path(), &matching(app, CLIENT))?;
        }
        let fillers: Vec<Value> = (there.max(1)..count).map(|number| filler(app, number)).collect();
        let share = fillers.len().div_ceil(WRITERS).max(1);
        std::thread::scope(|scope| {
            let write = |part: &[Value]| -> Result<()> {
                let mut api = self.api()?;
                part.iter().try_for_each(|policy| api.post(&policies_path(), policy).map(drop))
            };
            let threads: Vec<_> = fillers.chunks(share).map(|part| scope.spawn(move || write(part))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Err(error) = checked(self.command(&["down", "--purge"])) {
            eprintln!("{error:#}");
        }
    }
}

/// A command of the binary for the mesh of a directory.
pub(crate) fn of(tidegate: &Path, data_dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(tidegate);
    command.args(words).arg("--data-dir").arg(data_dir).env_remove("KUBECONFIG").env_remove("TIDEGATE_DATA_DIR");
    command
}

/// A pod whose container sleeps; what listens in it is the load generator, which enters its network namespace.
pub(crate) fn pod_object(namespace: &str, name: &str, app: &str) -> Value {
    let account = if app == CLIENT { CLIENT } else { "default" };
    json!({"metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
           "spec": {"serviceAccountName": account, "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "app", "image": "curlimages/curl", "command": ["sleep", "infinity"]}]}})
}

/// Whether a pod's status says so.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Where policies of the mesh's namespace are.
pub(crate) fn policies_path() -> String {
    format!("/apis/security.istio.io/v1/namespaces/{NAMESPACE}/authorizationpolicies")
}

/// The name of the policy that lets somebody into an app.
pub(crate) fn match_name(app: &str) -> String {
    format!("{MATCH}-{app}")
}

/// The policy that lets an account of the namespace into an app.
pub(crate) fn matching(app: &str, account: &str) -> Value {
    policy(app, &match_name(app), &matching_rules(account))
}

/// Its rules.
pub(crate) fn matching_rules(account: &str) -> Value {
    let ports: Vec<String> = (PORT..PORT + 3).map(|port| port.to_string()).collect();
    json!([{"from": [{"source": {"principals": [format!("cluster.local/ns/{NAMESPACE}/sa/{account}")]}}],
            "to": [{"operation": {"ports": ports}}]}])
}

/// A policy that lets in an address of its own, at a port of its own.
fn filler(app: &str, number: usize) -> Value {
    let [.., high, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let port = 10_000 + number % 50_000;
    let rules = json!([{"from": [{"source": {"ipBlocks": [format!("172.16.{high}.{low}/32")]}}],
                        "to": [{"operation": {"ports": [port.to_string()]}}]}]);
    policy(app, &format!("p-{app}-{number:05}"), &rules)
}

fn policy(app: &str, name: &str, rules: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": app}}, "action": "ALLOW", "rules": rules}})
}
