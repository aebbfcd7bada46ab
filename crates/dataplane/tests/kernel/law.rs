//! Law: the kernel does what `decide` says. Sampled with real connections over random policies.

use std::net::SocketAddr;

use policy::decide::Connection;
use serde_json::{Value, json};

use super::harness::{Bed, Pod, connect, is_refused, serve};

const PORTS: [u16; 5] = [80, 8080, 9000, 9001, 65535];
const NAMES: [(&str, &str); 4] = [("foo", "a"), ("foo", "b"), ("bar", "a"), ("bar", "c")];
const ROUNDS: u64 = 12;

/// A small generator with a fixed seed: a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // Constants of the 64-bit linear congruential generator of MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn some<'v>(&mut self, values: &[&'v str]) -> Vec<&'v str> {
        let count = 1 + self.below(2);
        (0..count).map(|_| values[self.below(values.len())]).collect()
    }
}

fn policy(dice: &mut Dice) -> Value {
    let rules: Vec<Value> = (0..=dice.below(3))
        .map(|_| {
            let mut rule = json!({});
            let source = match dice.below(6) {
                0 => json!({ "namespaces": dice.some(&["foo", "bar", "b*"]) }),
                1 => json!({ "notNamespaces": dice.some(&["foo", "bar"]) }),
                2 => json!({ "principals": dice.some(&["cluster.local/ns/foo/sa/a", "*/sa/a", "cluster.local/ns/bar/*", "*"]) }),
                3 => json!({ "ipBlocks": dice.some(&["10.77.0.2/31", "10.77.0.0/16", "fd77::/16", "10.99.0.1", "fd77:0:0:1::4/126"]) }),
                4 => json!({ "notIpBlocks": dice.some(&["10.77.0.4", "fd77:0:0:1::3", "10.99.0.0/16"]) }),
                _ => Value::Null,
            };
            if !source.is_null() {
                rule["from"] = json!([{ "source": source }]);
            }
            match dice.below(3) {
                0 => rule["to"] = json!([{ "operation": { "ports": dice.some(&["80", "9000", "9001", "65535"]) } }]),
                1 => rule["to"] = json!([{ "operation": { "notPorts": dice.some(&["80", "8080", "9000"]) } }]),
                _ => {}
            }
            rule
        })
        .collect();
    let action = ["ALLOW", "ALLOW", "DENY"][dice.below(3)];
    let mut spec = json!({ "action": action, "rules": rules });
    if dice.below(2) == 0 {
        let app = ["a", "b", "c"][dice.below(3)];
        spec["selector"] = json!({ "matchLabels": { "app": app } });
    }
    spec
}

#[test]
fn the_kernel_does_what_decide_says() {
    let mut bed = Bed::new();
    let pods: Vec<Pod> = NAMES.iter().map(|(namespace, name)| bed.pod(namespace, name)).collect();
    for pod in &pods {
        for port in PORTS {
            serve(pod, port);
        }
    }
    let mut dice = Dice(20_261_122);
    let (mut permitted, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let policies: Vec<(&str, String, Value)> = (0..=dice.below(4))
            .map(|n| (["foo", "bar", "istio-system"][dice.below(3)], format!("p{n}"), policy(&mut dice)))
            .collect();
        let borrowed: Vec<_> = policies.iter().map(|(ns, name, spec)| (*ns, name.as_str(), spec.clone())).collect();
        bed.enforce(&borrowed);
        let snapshot = bed.snapshot.clone().unwrap();
        for destination in &pods {
            for port in PORTS {
                for to in destination.both(port) {
                    let source = dice.below(pods.len() + 1);
                    let from = pods.get(source);
                    let (netns, address) = match from {
                        Some(pod) if pod.id() == destination.id() => continue,
                        Some(pod) if to.is_ipv4() => (&pod.net.netns, pod.net.v4.into()),
                        Some(pod) => (&pod.net.netns, pod.net.v6.into()),
                        None if to.is_ipv4() => (&bed.host, [10, 99, 0, 1].into()),
                        None => (&bed.host, [0xfd99, 0, 0, 0, 0, 0, 0, 1].into()),
                    };
                    let connection = Connection::new(address, snapshot.at(address).peer(), to.ip(), port);
                    let decision = snapshot.decide_at_syn(destination.id(), &connection);
                    let connected = connect(netns, to);
                    let said = SocketAddr::new(address, 0);
                    assert_eq!(
                        connected.is_ok(),
                        decision.is_permitted(),
                        "round {round}: {said} to {} {to}: {:?}, {connected:?}, {policies:#?}",
                        destination.id(),
                        decision.reason,
                    );
                    assert!(connected.is_ok() || is_refused(&connected));
                    *if connected.is_ok() { &mut permitted } else { &mut refused } += 1;
                }
            }
        }
    }
    assert!(permitted > 50 && refused > 50, "both outcomes were met: {permitted}, {refused}");
}
