//! The smallest world in which somebody gets in and somebody does not: a server, alice, and bob, who may never reach anybody.
//!
//! Unlike [`crate::world::World`] it needs no kubectl, and nobody in it is outside of the mesh.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::hammer::{Hammer, Links, echo};
use crate::mesh::{Mesh, told};

/// How long pods may take to be as they are wanted; only bounds a hang.
const READY_MAX: Duration = Duration::from_mins(1);

/// Where pods are found.
pub const PODS: &str = "/api/v1/namespaces/foo/pods";

/// Where policies are found.
pub const POLICIES: &str = "/apis/security.istio.io/v1/namespaces/foo/authorizationpolicies";

/// Where config maps are found.
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/foo/configmaps";

/// The three of them and their mesh.
#[derive(Debug)]
pub struct Trio {
    /// The mesh.
    pub mesh: Mesh,
    /// The links of its pods.
    pub links: Links,
    /// Uid of the server, which listens on 9000, 9001 and 9002.
    pub server: String,
    /// Uid of alice.
    pub alice: String,
    /// Uid of bob.
    pub bob: String,
}

/// The text at a place of an object.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The revision of an object or a list.
pub fn revision(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or_default()
}

/// All objects in a place, and the revision as of which they are all.
pub fn list(client: &mut Client, path: &str) -> (Vec<Value>, u64) {
    let answer = client.ask("GET", path, None).unwrap_or_else(|why| panic!("{path}: {why:?}"));
    assert_eq!(answer.code, 200, "{path}: {}", answer.body);
    let items = answer.body.get("items").and_then(Value::as_array).cloned();
    (items.unwrap_or_default(), revision(&answer.body))
}

/// Makes an object; it must be taken.
pub fn make(client: &mut Client, path: &str, object: &Value) -> Value {
    let answer = client.ask("POST", path, Some(object)).unwrap_or_else(|why| panic!("{path}: {why:?}"));
    assert_eq!(answer.code, 201, "{path}: {}", answer.body);
    answer.body
}

/// A pod with one container.
pub fn pod(name: &str, account: &str, container: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "foo", "labels": {"app": name}},
        "spec": {"serviceAccountName": account, "terminationGracePeriodSeconds": 0, "containers": [container]}})
}

/// A container that serves these ports.
pub fn serving(ports: &str) -> Value {
    json!({"name": "app", "image": "istio/tcp-echo-server", "args": [ports, "hello"]})
}

/// A container that runs a script.
pub fn running(script: &str) -> Value {
    json!({"name": "app", "image": "curlimages/curl", "command": ["bash", "-c", script]})
}

/// A policy that denies the server's port to an account.
pub fn denying(name: &str, account: &str, port: u16) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "foo"},
        "spec": {"selector": {"matchLabels": {"app": "server"}}, "action": "DENY",
            "rules": [{"from": [{"source": {"serviceAccounts": [account]}}], "to": [{"operation": {"ports": [port.to_string()]}}]}]}})
}

/// Whether a pod is ready and is to stay.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = |one: &Value| text(one, "/type") == "Ready" && text(one, "/status") == "True";
    pod.pointer("/metadata/deletionTimestamp").is_none() && conditions.is_some_and(|all| all.iter().any(ready))
}

/// Waits until every pod is ready that is to stay, and no other is there.
pub fn rest(client: &mut Client) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let (pods, _) = list(client, PODS);
        if pods.iter().all(is_ready) {
            return pods;
        }
        assert!(begun.elapsed() < READY_MAX, "not as wanted: {pods:#?}");
        std::thread::yield_now();
    }
}

impl Trio {
    /// Makes them in a mesh that runs, and returns when they are ready.
    pub fn of(mesh: Mesh) -> Self {
        let mut client = Client::of(&mesh);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "foo", "labels": {"istio-injection": "enabled"}}});
        make(&mut client, "/api/v1/namespaces", &namespace);
        // Before there is a pod: bob never gets in.
        let not_bob = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "not-bob", "namespace": "foo"},
            "spec": {"action": "DENY", "rules": [{"from": [{"source": {"serviceAccounts": ["bob"]}}]}]}});
        make(&mut client, POLICIES, &not_bob);
        for name in ["server", "alice", "bob"] {
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "foo"}});
            make(&mut client, "/api/v1/namespaces/foo/serviceaccounts", &account);
            let container = if name == "server" { serving("9000,9001,9002") } else { running("exec sleep infinity") };
            make(&mut client, PODS, &pod(name, name, &container));
        }
        let pods = rest(&mut client);
        let find = |name: &str| {
            let found = pods.iter().find(|pod| text(pod, "/metadata/name") == name);
            found.unwrap_or_else(|| panic!("no pod {name}: {pods:#?}"))
        };
        let [server, alice, bob] = ["server", "alice", "bob"].map(|name| text(find(name), "/metadata/uid").to_owned());
        let (v4, v6) = (text(find("server"), "/status/podIPs/0/ip"), text(find("server"), "/status/podIPs/1/ip"));
        let links = Links::of(&mesh, &server, v4, v6);
        Self { mesh, links, server, alice, bob }
    }

    /// Starts the daemon; it must come up.
    pub fn up(&self) {
        let output = self.mesh.tidegate(&["up", "--detach"]);
        assert!(output.status.success(), "{}\n{}", told(&output), self.log());
    }

    /// What the daemons have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.mesh.data_dir().join("daemon.log")).unwrap_or_default()
    }

    /// Clients that try for ever what bob may not do.
    pub fn denied(&self) -> [Hammer; 2] {
        [9000, 9001].map(|port| Hammer::denied(&self.links, &self.bob, port))
    }

    /// A client that does for ever what alice may, and one that keeps its connection.
    pub fn permitted(&self) -> [Hammer; 2] {
        [
            Hammer::permitted(&self.links, &self.alice, &self.server, 9001),
            Hammer::held(&self.links, &self.alice, &self.server, 9001),
        ]
    }

    /// Whether alice gets to a port of a pod, in both families alike.
    pub fn alice_gets(&self, uid: &str, port: u16) -> bool {
        let link = self.links.find(uid).unwrap_or_else(|| panic!("pod {uid} has no link"));
        let to = self.links.addresses(link.number);
        let outcomes = self.links.inside(&self.alice, || to.map(|address| echo((address, port).into())));
        let outcomes = outcomes.unwrap_or_else(|| panic!("alice has no namespace"));
        match outcomes.each_ref().map(|outcome| outcome.as_ref().map_err(String::as_str)) {
            [Ok(()), Ok(())] => true,
            [Err("connect: connection refused"), Err("connect: connection refused")] => false,
            odd => panic!("{odd:?}"),
        }
    }
}

/// What was odd among the tries of these clients until now, each of which was looked at.
pub fn odd(hammers: &[Hammer]) -> Vec<String> {
    let of_one = |hammer: &Hammer| {
        hammer.until_tried(10);
        hammer.take().odd
    };
    hammers.iter().flat_map(of_one).collect()
}
