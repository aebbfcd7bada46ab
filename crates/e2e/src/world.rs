//! A small world to try policies in: one server, clients in and outside the mesh, and questions that have short answers.
//!
//! ```text
//! foo    server (ports 9000 to 9002, and its Service), alice, bob   injected, each with a service account of its name
//! bar    carol                                                      injected
//! plain  dave, and open, a server                                   not injected
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Output};
use std::time::Duration;

use crate::mesh::{Kubectl, Mesh, kubectls, told};

/// Longest time that one connection may take to be accepted or refused: a refusal is a reset, which is at once.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Run in a pod: one word for each place that is tried. Nothing but an echo or a refusal is an answer.
const TRY: &str = r#"try() { out=$(echo x | nc -w 3 "$1" "$2" 2>&1); case "$out" in "hello x") echo yes;; *"onnection refused"*) echo no;; *) echo "odd: $out";; esac; }"#;

/// The world, with kubectl 1.37.
#[derive(Debug)]
pub struct World {
    /// The mesh it lives in.
    pub mesh: Mesh,
    kubectl: Kubectl,
    addresses: BTreeMap<String, Vec<String>>,
}

fn pod(namespace: &str, name: &str, server: bool) -> String {
    let container = if server {
        "{name: app, image: istio/tcp-echo-server, args: ['9000,9001,9002', hello]}"
    } else {
        "{name: app, image: curlimages/curl, command: [sleep, infinity]}"
    };
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\nspec:\n  serviceAccountName: {name}\n  \
         terminationGracePeriodSeconds: 0\n  containers: [{container}]\n---\n"
    )
}

fn namespace(name: &str, injected: bool) -> String {
    let label = if injected { "{istio-injection: enabled}" } else { "{}" };
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {label}}}\n---\n")
}

/// The client pods, with their namespaces.
const CLIENTS: [(&str, &str); 4] = [("alice", "foo"), ("bob", "foo"), ("carol", "bar"), ("dave", "plain")];

impl World {
    /// Makes it and returns when all of it is ready.
    pub fn new() -> Self {
        Self::in_mesh(Mesh::up())
    }

    /// The same in a mesh that runs already.
    pub fn in_mesh(mesh: Mesh) -> Self {
        let mut kinds = kubectls();
        let kubectl = kinds.swap_remove(1);
        let mut world = Self { mesh, kubectl, addresses: BTreeMap::new() };
        let mut manifest = [namespace("foo", true), namespace("bar", true), namespace("plain", false)].concat();
        manifest += &pod("foo", "server", true);
        manifest += &pod("plain", "open", true);
        for (name, namespace) in CLIENTS {
            manifest += &pod(namespace, name, false);
        }
        manifest += "apiVersion: v1\nkind: Service\nmetadata: {name: server, namespace: foo}\nspec: {selector: {app: server}, \
                     ports: [{name: tcp-a, port: 9000}, {name: tcp-b, port: 9001}]}\n";
        world.apply(&manifest);
        world.must(
            "for n in foo bar plain; do kubectl wait --for=condition=Ready pod --all -n $n --timeout=30s >/dev/null; done",
        );
        world.look_up();
        world
    }

    /// Learns the addresses of all pods anew.
    pub fn look_up(&mut self) {
        let listed = self.must(
            "kubectl get pods -A -o jsonpath='{range .items[*]}{.metadata.name} {.status.podIPs[*].ip}{\"\\n\"}{end}'",
        );
        let mut addresses = BTreeMap::new();
        for line in listed.lines() {
            let mut words = line.split(' ').map(str::to_owned);
            let name = words.next().unwrap_or_default();
            addresses.insert(name, words.collect());
        }
        self.addresses = addresses;
    }

    /// The IPv4 address of a pod.
    pub fn address(&self, pod: &str) -> &str {
        self.address_of_family(pod, false)
    }

    /// The IPv6 address of a pod.
    pub fn address_v6(&self, pod: &str) -> &str {
        self.address_of_family(pod, true)
    }

    fn address_of_family(&self, pod: &str, v6: bool) -> &str {
        let all = self.addresses.get(pod).map_or(&[][..], Vec::as_slice);
        let found = all.iter().find(|address| address.contains(':') == v6);
        found.unwrap_or_else(|| panic!("no such address of pod `{pod}` in {:?}", self.addresses))
    }

    /// Runs a script in namespace foo.
    pub fn run(&self, script: &str) -> Output {
        self.mesh.bash(&self.kubectl, &format!("eval \"$(tidegate env -n foo)\"\n{script}"))
    }

    /// Starts a script in namespace foo, with pipes.
    pub fn start(&self, script: &str) -> Child {
        self.mesh.bash_child(&self.kubectl, &format!("eval \"$(tidegate env -n foo)\"\n{script}"))
    }

    /// What a script that must succeed prints.
    pub fn must(&self, script: &str) -> String {
        let output = self.run(&format!("set -euo pipefail\n{script}"));
        assert!(output.status.success(), "{script}\n{}", told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn kubectl_apply(&self, manifest: &str) -> Output {
        let file = self.mesh.work_dir().join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.run("kubectl apply -f manifest.yaml")
    }

    /// Applies a manifest and returns what kubectl says on standard error: the warnings.
    pub fn apply(&self, manifest: &str) -> String {
        let output = self.kubectl_apply(manifest);
        assert!(output.status.success(), "{manifest}\n{}", told(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Applies a manifest that must be refused, and returns why.
    pub fn refused(&self, manifest: &str) -> String {
        let output = self.kubectl_apply(manifest);
        assert!(!output.status.success(), "{manifest}\n{}", told(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Applies an AuthorizationPolicy, given as `namespace/name` and its `spec`.
    pub fn policy(&self, id: &str, spec: &str) -> String {
        self.apply(&security("AuthorizationPolicy", id, spec))
    }

    /// Applies a PeerAuthentication, given as `namespace/name` and its `spec`.
    pub fn peer_authentication(&self, id: &str, spec: &str) -> String {
        self.apply(&security("PeerAuthentication", id, spec))
    }

    /// Deletes an AuthorizationPolicy.
    pub fn forget(&self, id: &str) {
        let (namespace, name) = id.split_once('/').unwrap_or(("foo", id));
        self.must(&format!("kubectl delete authorizationpolicy {name} -n {namespace} >/dev/null"));
    }

    /// A condition of a policy as `status reason`.
    pub fn condition(&self, kind: &str, id: &str, condition: &str) -> String {
        let (namespace, name) = id.split_once('/').unwrap_or(("foo", id));
        let path = format!("{{.status.conditions[?(@.type==\"{condition}\")]");
        self.must(&format!("kubectl get {kind} {name} -n {namespace} -o jsonpath='{path}.status}} {path}.reason}}'"))
    }

    /// What a client pod comes to at each of the places: `yes`, `no`, or something odd. A place is `host port`.
    pub fn tries(&self, client: &str, places: &[&str]) -> Vec<String> {
        let namespace = CLIENTS.iter().find(|(name, _)| *name == client).map_or("foo", |(_, namespace)| namespace);
        let mut script = TRY.to_owned();
        for place in places {
            let _infallible = write!(script, "; try {place}");
        }
        let file = self.mesh.work_dir().join(format!("try-{client}.sh"));
        std::fs::write(&file, script).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let all =
            self.must(&format!("kubectl exec {client} -n {namespace} -c app -- bash -c \"$(cat {})\"", file.display()));
        all.lines().map(str::to_owned).collect()
    }

    /// Whether a client pod gets through to this port of the server's own addresses; IPv4 and IPv6 must agree.
    pub fn gets(&self, client: &str, port: u16) -> bool {
        let places = [self.address("server"), self.address_v6("server")].map(|address| format!("{address} {port}"));
        match self.tries(client, &places.each_ref().map(String::as_str)).as_slice() {
            [v4, v6] if v4 == "yes" && v6 == "yes" => true,
            [v4, v6] if v4 == "no" && v6 == "no" => false,
            odd => panic!("{client} to {places:?}: {odd:?}"),
        }
    }

    /// Which of the four clients, and of `host`, get through to this port of the server's own address, in that order.
    pub fn who_gets(&self, port: u16) -> String {
        let place = format!("{} {port}", self.address("server"));
        let mut script = TRY.to_owned();
        let _infallible = write!(script, "; try {place}");
        let file = self.mesh.work_dir().join("try.sh");
        std::fs::write(&file, script).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let one = |(name, namespace): &(&str, &str)| {
            format!(
                "kubectl exec {name} -n {namespace} -c app -- bash -c \"$(cat {})\" >{name}.out 2>&1 &\n",
                file.display()
            )
        };
        self.must(&(CLIENTS.iter().map(one).collect::<String>() + "wait"));
        let mut who: Vec<&str> = Vec::new();
        for (name, _) in CLIENTS {
            let path = self.mesh.work_dir().join(format!("{name}.out"));
            match std::fs::read_to_string(&path).unwrap_or_default().trim_end() {
                "yes" => who.push(name),
                "no" => {}
                odd => panic!("{name} to {place}: {odd}"),
            }
        }
        // Nothing of an ordinary user's mesh is reached from the host, and the question would go to whatever network there is.
        if !self.mesh.is_users() && self.host_gets(port) {
            who.push("host");
        }
        who.join(" ")
    }

    /// The server's address and a port, as a process of the host reaches it.
    pub fn server(&self, port: u16) -> SocketAddr {
        let address = self.address("server");
        format!("{address}:{port}").parse().unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// Whether a process of the host gets through to a port of the server.
    pub fn host_gets(&self, port: u16) -> bool {
        let to = self.server(port);
        match TcpStream::connect_timeout(&to, CONNECT_MAX) {
            Ok(mut stream) => {
                let mut answer = String::new();
                let asked = stream.write_all(b"x\n").and_then(|()| stream.shutdown(Shutdown::Write));
                let read = asked.and_then(|()| stream.read_to_string(&mut answer));
                assert!(read.is_ok() && answer == "hello x\n", "from the host to {to}: {read:?} {answer:?}");
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => false,
            Err(error) => panic!("from the host to {to}: {error}"),
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The manifest of one object of Istio's security group.
pub fn security(kind: &str, id: &str, spec: &str) -> String {
    let (namespace, name) = id.split_once('/').unwrap_or(("foo", id));
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}
