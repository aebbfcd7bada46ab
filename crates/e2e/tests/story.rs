//! The same story with other names, ports, words, policies and order: what holds for the texts must hold for any.
#![cfg(test)]

use e2e::dice::Dice;
use e2e::mesh::{Kubectl, Mesh, kubectls, told};

/// One random world.
struct Story {
    namespace: String,
    server: String,
    client: String,
    word: String,
    /// The last is not declared in the Service.
    ports: [u16; 3],
}

/// A policy on the server and what it means for a port.
struct Policy {
    action: &'static str,
    ports: Vec<u16>,
    methods: bool,
}

impl Policy {
    fn random(dice: &mut Dice, story: &Story) -> Self {
        let action = if dice.coin() { "ALLOW" } else { "DENY" };
        let mut ports: Vec<u16> = story.ports.iter().copied().filter(|_| dice.coin()).collect();
        if ports.is_empty() {
            ports.push(story.ports[dice.roll(3)]);
        }
        Self { action, ports, methods: dice.roll(3) == 0 }
    }

    /// Istio's behaviour in words: an HTTP-only field voids an ALLOW rule and is dropped from a DENY rule.
    fn allows(&self, port: u16) -> bool {
        let named = self.ports.contains(&port);
        if self.action == "ALLOW" { named && !self.methods } else { !named }
    }

    fn manifest(&self, story: &Story) -> String {
        let ports: Vec<_> = self.ports.iter().map(|port| format!("{port:?}", port = port.to_string())).collect();
        let methods = if self.methods { "\n        methods: [\"GET\"]" } else { "" };
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: {}\nspec:\n  \
             selector:\n    matchLabels:\n      app: {}\n  action: {}\n  rules:\n  - to:\n    - operation:\n        \
             ports: [{}]{methods}\n",
            story.namespace,
            story.server,
            self.action,
            ports.join(", ")
        )
    }
}

impl Story {
    fn random(dice: &mut Dice) -> Self {
        let mut ports = [0; 3];
        for index in 0..3 {
            ports[index] = loop {
                let port = 1024 + u16::try_from(dice.roll(60_000)).unwrap();
                if !ports.contains(&port) {
                    break port;
                }
            };
        }
        Self {
            namespace: format!("n-{}", dice.name()),
            server: format!("s-{}", dice.name()),
            client: format!("c-{}", dice.name()),
            word: dice.name(),
            ports,
        }
    }

    fn manifests(&self) -> (String, String) {
        let Self { server, client, word, ports: [a, b, c], .. } = self;
        let server = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {server}\nspec:\n  selector:\n    app: {server}\n  ports:\n  \
             - {{name: tcp-a, port: {a}}}\n  - {{name: tcp-b, port: {b}}}\n---\napiVersion: apps/v1\nkind: Deployment\n\
             metadata:\n  name: {server}\nspec:\n  selector:\n    matchLabels:\n      app: {server}\n  template:\n    \
             metadata:\n      labels:\n        app: {server}\n    spec:\n      containers:\n      - name: {server}\n        \
             image: docker.io/istio/tcp-echo-server:1.2\n        args: [\"{a},{b},{c}\", \"{word}\"]\n"
        );
        let client = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {client}\n  labels:\n    app: {client}\nspec:\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: {client}\n    image: curlimages/curl\n    command: \
             [\"/bin/sleep\", \"infinity\"]\n"
        );
        (server, client)
    }

    fn probe(&self, mesh: &Mesh, kubectl: &Kubectl, port: u16, by_name: bool) -> bool {
        let Self { namespace, server, client, word, .. } = self;
        let target = if by_name {
            format!("target={server}")
        } else {
            format!("target=$(kubectl get pod -n {namespace} -l app={server} -o jsonpath={{.items[0].status.podIP}})")
        };
        let script = format!(
            "{target}\nkubectl exec {client} -n {namespace} -- sh -c \"echo tide | nc $target {port}\" && exit 0 || exit 7"
        );
        let output = self.run(mesh, kubectl, &script);
        match output.status.code() {
            Some(0) => {
                assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{word} tide\n"), "{}", told(&output));
                true
            }
            Some(7) => {
                assert!(output.stdout.is_empty(), "{}", told(&output));
                assert!(String::from_utf8_lossy(&output.stderr).contains("Connection refused"), "{}", told(&output));
                false
            }
            _ => panic!("{}", told(&output)),
        }
    }

    fn run(&self, mesh: &Mesh, kubectl: &Kubectl, script: &str) -> std::process::Output {
        mesh.bash(kubectl, &format!("eval \"$(tidegate env -n {})\"\n{script}", self.namespace))
    }

    fn must(&self, mesh: &Mesh, kubectl: &Kubectl, script: &str) {
        let output = self.run(mesh, kubectl, &format!("set -euo pipefail\n{script}"));
        assert!(output.status.success(), "{script}\n{}", told(&output));
    }
}

fn tell(seed: u64) {
    let mut dice = Dice::of(seed);
    let story = Story::random(&mut dice);
    let all = kubectls();
    let kubectl = &all[dice.roll(all.len())];
    let mesh = Mesh::up();
    let (server, client) = story.manifests();
    let mut files = [("server", server), ("client", client)];
    for (name, text) in &files {
        std::fs::write(mesh.work_dir().join(format!("{name}.yaml")), text).unwrap();
    }
    if dice.coin() {
        files.reverse();
    }
    story.must(&mesh, kubectl, &format!("kubectl create ns {}", story.namespace));
    for (name, _) in &files {
        story.must(&mesh, kubectl, &format!("kubectl apply -f <(istioctl kube-inject -f {name}.yaml)"));
    }
    // An apply waits for pods to exist, not for their addresses, which some probes look up.
    story.must(&mesh, kubectl, "kubectl wait --for=condition=Ready pod --all --timeout=20s");
    for round in 0..4 {
        let policy = (round > 0).then(|| Policy::random(&mut dice, &story));
        if let Some(policy) = &policy {
            std::fs::write(mesh.work_dir().join("policy.yaml"), policy.manifest(&story)).unwrap();
            story.must(&mesh, kubectl, "kubectl apply -f policy.yaml");
        }
        let mut order = [0, 1, 2];
        order.rotate_left(dice.roll(3));
        for index in order {
            let port = story.ports[index];
            let by_name = index < 2 && dice.coin();
            let expected = policy.as_ref().is_none_or(|policy| policy.allows(port));
            let allowed = story.probe(&mesh, kubectl, port, by_name);
            assert_eq!(allowed, expected, "seed {seed}, round {round}, port {port}, by name {by_name}");
        }
    }
    story.must(&mesh, kubectl, &format!("kubectl delete ns {}", story.namespace));
}

#[test]
fn any_story_of_this_kind_comes_out_as_istio_says() {
    // 4 stories in a landing; with --long 100 times as many.
    for seed in 0..4 * e2e::scale() as u64 {
        tell(seed);
    }
}
