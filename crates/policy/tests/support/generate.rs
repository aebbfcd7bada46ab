//! Random meshes, policies and connections over small vocabularies, so that matches and near misses are frequent.
//! Everything follows from one seed, which a failing test prints.

use std::net::IpAddr;
use std::sync::Arc;

use policy::{
    Answer, Connection, Mesh, Peer, PeerName, Profile, ProviderKind, SameNode, Settings, Workload, WorkloadId, parse,
};
use serde_json::{Map, Value, json};

/// A splitmix64 sequence.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).unwrap()
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.number() % 100 < chance
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const NAMESPACES: &[&str] = &["foo", "bar", "istio-system", "ns"];
/// Where objects are: mostly together.
const HOMES: &[&str] = &["foo", "foo", "foo", "foo", "istio-system", "bar"];
const ACCOUNTS: &[&str] = &["sleep", "web", "sa"];
const DOMAINS: &[&str] = &["cluster.local", "td1", "old", "other"];
const PORTS: &[u16] = &[0, 80, 9000, 9001, 9002, 65535];
const ADDRESSES: &[&str] = &[
    "10.0.1.1",
    "10.0.1.2",
    "10.0.1.3",
    "10.0.2.9",
    "192.168.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "fd00::1",
    "fd00::2",
    "fd00:0:0:2::9",
    "::1",
    "::ffff:10.0.1.1",
    "::ffff:192.168.0.1",
];
const BLOCKS: &[&str] = &[
    "10.0.1.1",
    "10.0.1.3/24",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "10.0.1.2/31",
    "192.168.0.0/16",
    "255.255.255.255",
    "fd00::9/64",
    "fd00::1",
    "::/0",
    "::ffff:10.0.1.1",
    "fe80::1%eth0",
];
const PRINCIPALS: &[&str] = &[
    "*",
    "cluster.local/ns/foo/sa/sleep",
    "td1/ns/foo/sa/sleep",
    "old/ns/bar/sa/web",
    "cluster.local/ns/foo/*",
    "cluster.local/ns/foo/sa/*",
    "*/sa/sleep",
    "*/ns/foo/sa/sleep",
    "td*/ns/bar/sa/web",
    "*1/ns/bar/sa/web",
    "spiffe://cluster.local/ns/foo/sa/sleep",
    "*foo*",
    "odd/name",
];
const NAMESPACE_PATTERNS: &[&str] = &["foo", "bar", "f*", "*r", "*", "f*o", "*o*", "ns", "fo"];
const SERVICE_ACCOUNTS: &[&str] = &["sleep", "foo/sleep", "bar/web", "web", "istio-system/sleep", "foo/slee"];
const TRUST_DOMAINS: &[&str] = &["cluster.local", "td1", "old", "td*", "*1", "*", "cluster", "*.local"];
const SERVER_NAMES: &[&str] = &["a.example", "b.example", "*.example", "a*", "*"];
const KEYS: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "experimental.envoy.filters.a[b]",
    "request.headers[x]",
    "request.auth.principal",
    "request.auth.claims[iss]",
];
/// Keys that only bypass admission.
const BAD_KEYS: &[&str] = &[
    "source.unheard",
    "destination.labels[app]",
    "request.headers",
    "experimental.envoy.filters.a",
    "destination.name",
];

/// What is generated.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) profile: Profile,
    /// Only objects that admission would take.
    pub(crate) admissible: bool,
    pub(crate) policies_max: usize,
}

/// A mesh with the documents its policies came from.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) documents: Vec<Value>,
}

impl World {
    pub(crate) fn mesh(&self) -> Mesh {
        let mut mesh = Mesh { settings: self.settings.clone(), workloads: self.workloads.clone(), ..Mesh::default() };
        for document in &self.documents {
            if document["kind"] == "PeerAuthentication" {
                mesh.peer_authentications
                    .extend(parse::peer_authentication(document, &self.settings).value.map(Arc::new));
            } else {
                mesh.policies.extend(parse::authorization_policy(document, &self.settings).value.map(Arc::new));
            }
        }
        mesh
    }
}

pub(crate) fn world(random: &mut Random, wish: Wish) -> World {
    let settings = settings(random, wish.profile);
    let mut workloads = Vec::new();
    for index in 1..=4 {
        workloads.push(Workload {
            id: WorkloadId::new(random.pick(HOMES), format!("w{index}")),
            labels: [
                ("app".to_owned(), random.pick(&["a", "b"]).to_owned()),
                ("tier".to_owned(), random.pick(&["x", "y"]).to_owned()),
            ]
            .into(),
            service_account: random.pick(ACCOUNTS).to_owned(),
            addresses: vec![format!("10.0.1.{index}").parse().unwrap(), format!("fd00::{index}").parse().unwrap()],
            in_mesh: index == 1 || random.percent(80),
        });
    }
    let mut documents = Vec::new();
    for index in 0..random.below(wish.policies_max + 1) {
        documents.push(policy(random, index, wish, &settings));
    }
    for index in 0..random.below(4) {
        documents.push(peer_authentication(random, index));
    }
    World { settings, workloads, documents }
}

fn settings(random: &mut Random, profile: Profile) -> Settings {
    let mut settings = Settings { profile, ..Settings::default() };
    settings.trust_domain = random.pick(&["cluster.local", "cluster.local", "td1"]).to_owned();
    if random.percent(40) {
        settings.trust_domain_aliases = vec!["old".to_owned()];
    }
    if random.percent(10) {
        settings.same_node = SameNode::Mtls;
    }
    settings.providers.insert("grpc".to_owned(), ProviderKind::Grpc);
    settings.providers.insert("other".to_owned(), ProviderKind::Grpc);
    settings.providers.insert("http".to_owned(), ProviderKind::Http);
    settings.multiple_custom_providers = random.percent(30);
    settings.ambient_dry_run = random.percent(80);
    settings
}

pub(crate) fn policy(random: &mut Random, index: usize, wish: Wish, settings: &Settings) -> Value {
    loop {
        let document = any_policy(random, index, wish);
        let parsed = parse::authorization_policy(&document, settings);
        if parsed.admissible() || (!wish.admissible && parsed.value.is_some()) {
            return document;
        }
    }
}

fn any_policy(random: &mut Random, index: usize, wish: Wish) -> Value {
    let action = random.pick(&["ALLOW", "ALLOW", "ALLOW", "DENY", "DENY", "AUDIT", "CUSTOM"]);
    let mut spec = Map::new();
    match random.below(10) {
        0..4 => {
            spec.insert("selector".to_owned(), selector(random));
        }
        4 => {
            spec.insert("selector".to_owned(), json!({}));
        }
        5 if random.percent(20) => {
            spec.insert("targetRefs".to_owned(), json!([{"kind": "Service", "group": "", "name": "x"}]));
        }
        _ => {}
    }
    spec.insert("action".to_owned(), action.into());
    if action == "CUSTOM" {
        spec.insert(
            "provider".to_owned(),
            json!({"name": random.pick(&["grpc", "grpc", "grpc", "other", "http", "unknown"])}),
        );
    }
    // Sometimes enough rules that `rule[10]` comes before `rule[2]`.
    let count = if random.percent(5) { 12 } else { random.below(4) };
    let rules: Vec<Value> = (0..count).map(|_| rule(random, action, wish)).collect();
    spec.insert("rules".to_owned(), rules.into());
    // Each name begins with the one before, so that the order of names is not the order of keys (S-34).
    let name = format!("p{}", "-x".repeat(index));
    let mut metadata = json!({"name": name, "namespace": random.pick(HOMES)});
    if random.percent(15) {
        metadata["annotations"] =
            json!({"istio.io/dry-run": random.pick(&["true", "true", "t", "1", "True", "false", "0", "F"])});
    }
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec})
}

fn selector(random: &mut Random) -> Value {
    let mut labels = json!({"app": random.pick(&["a", "b"])});
    if random.percent(30) {
        labels["tier"] = random.pick(&["x", "y"]).into();
    }
    json!({"matchLabels": labels})
}

fn rule(random: &mut Random, action: &str, wish: Wish) -> Value {
    let mut rule = Map::new();
    if random.percent(50) {
        let from: Vec<Value> = (0..=random.below(2)).map(|_| json!({"source": source(random, action, wish)})).collect();
        rule.insert("from".to_owned(), from.into());
    }
    if random.percent(60) {
        let to: Vec<Value> = (0..=random.below(2)).map(|_| json!({"operation": operation(random, wish)})).collect();
        rule.insert("to".to_owned(), to.into());
    }
    if random.percent(35) {
        let when: Vec<Value> = (0..=random.below(2)).map(|_| condition(random, wish)).collect();
        rule.insert("when".to_owned(), when.into());
    }
    Value::Object(rule)
}

fn twins(random: &mut Random, object: &mut Map<String, Value>, name: &str, from: &[&str], wish: Wish) {
    let (first, rest) = name.split_at(1);
    let twin = format!("not{}{rest}", first.to_uppercase());
    for name in [name.to_owned(), twin] {
        if random.percent(60) {
            object.insert(name, list(random, from, wish));
        }
    }
}

fn list(random: &mut Random, from: &[&str], wish: Wish) -> Value {
    if random.percent(4) {
        return json!([]); // as if it were not written (S-39)
    }
    let mut values: Vec<Value> = (0..=random.below(2)).map(|_| random.pick(from).into()).collect();
    if !wish.admissible && random.percent(15) {
        values.push(random.pick(&["70000", "x/y/z", "10.0.0.0/40", "nonsense"]).into());
        if random.percent(40) {
            values.drain(..values.len() - 1);
        }
    }
    values.into()
}

fn source(random: &mut Random, action: &str, wish: Wish) -> Value {
    let mut object = Map::new();
    for _ in 0..=random.below(2) {
        // An identity field in CUSTOM is refused; the attempt would only be repeated.
        match random.below(if action == "CUSTOM" { 2 } else { 7 }) {
            0 => twins(random, &mut object, "ipBlocks", BLOCKS, wish),
            1 => twins(random, &mut object, "remoteIpBlocks", BLOCKS, wish),
            2 => twins(random, &mut object, "principals", PRINCIPALS, wish),
            3 => twins(random, &mut object, "namespaces", NAMESPACE_PATTERNS, wish),
            4 => twins(random, &mut object, "serviceAccounts", SERVICE_ACCOUNTS, wish),
            5 => twins(random, &mut object, "trustDomains", TRUST_DOMAINS, wish),
            _ if random.percent(40) => twins(random, &mut object, "requestPrincipals", &["*", "x"], wish),
            _ => {}
        }
    }
    Value::Object(object)
}

fn operation(random: &mut Random, wish: Wish) -> Value {
    let mut object = Map::new();
    let ports: Vec<String> = PORTS.iter().map(ToString::to_string).chain(["09000".to_owned()]).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    if random.percent(85) {
        twins(random, &mut object, "ports", &ports, wish);
    }
    if random.percent(15) {
        twins(random, &mut object, "methods", &["GET", "*"], wish);
    }
    if random.percent(5) {
        twins(random, &mut object, "paths", &["/x"], wish);
    }
    Value::Object(object)
}

fn condition(random: &mut Random, wish: Wish) -> Value {
    let mut key = random.pick(KEYS);
    if !wish.admissible && random.percent(5) {
        key = random.pick(BAD_KEYS);
    }
    let ports: Vec<String> = PORTS.iter().map(ToString::to_string).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let from: &[&str] = match key {
        "source.ip" | "remote.ip" => BLOCKS,
        "destination.ip" => &["10.0.1.1", "10.0.0.0/8", "10.9.0.0/16", "fd00::/64", "fd01::/64"],
        "source.namespace" => NAMESPACE_PATTERNS,
        "source.principal" => PRINCIPALS,
        "source.serviceAccount" => SERVICE_ACCOUNTS,
        "source.trustDomain" if random.percent(20) => &["td1/ns", "cluster.local/ns/foo", "td*/ns"],
        "source.trustDomain" => TRUST_DOMAINS,
        "destination.port" => &ports,
        "connection.sni" => SERVER_NAMES,
        _ => &["x", "*"],
    };
    let mut object = Map::from_iter([("key".to_owned(), Value::from(key))]);
    if random.percent(70) {
        object.insert("values".to_owned(), list(random, from, wish));
    }
    if random.percent(40) {
        object.insert("notValues".to_owned(), list(random, from, wish));
    }
    Value::Object(object)
}

fn peer_authentication(random: &mut Random, index: usize) -> Value {
    let modes = ["UNSET", "UNSET", "DISABLE", "PERMISSIVE", "STRICT", "STRICT"];
    let mut spec = json!({"mtls": {"mode": random.pick(&modes)}});
    if random.percent(10) {
        spec["selector"] = json!({});
    } else if random.percent(50) {
        spec["selector"] = selector(random);
        if random.percent(60) {
            spec["portLevelMtls"] =
                json!({"9000": {"mode": random.pick(&modes)}, "9001": {"mode": random.pick(&modes)}});
        }
    }
    let created = format!("2026-01-0{}T00:00:00Z", random.below(3) + 1);
    let metadata = json!({"name": format!("pa{index}"), "namespace": random.pick(HOMES), "creationTimestamp": created});
    json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": metadata, "spec": spec})
}

pub(crate) fn address(random: &mut Random) -> IpAddr {
    random.pick(ADDRESSES).parse().unwrap()
}

pub(crate) fn port(random: &mut Random) -> u16 {
    if random.percent(80) { random.pick(PORTS) } else { u16::try_from(random.below(65536)).unwrap() }
}

/// A connection to the first workload as a proxy sees it.
pub(crate) fn connection(random: &mut Random, world: &World) -> Connection {
    let peer = peer(random);
    let mut connection =
        Connection::new(address(random), peer, world.workloads[0].addresses[random.below(2)], port(random));
    if random.percent(40) {
        connection.sni = Some(random.pick(&["a.example", "b.example", "x", "*.example"]).to_owned());
    }
    for provider in ["grpc", "other", "http", "unknown"] {
        if random.percent(80) {
            let answer = if random.percent(60) { Answer::Allow } else { Answer::Deny };
            connection.answers.push((provider.to_owned(), answer));
        }
    }
    connection
}

fn peer(random: &mut Random) -> Peer {
    let exact = |random: &mut Random| {
        format!("spiffe://{}/ns/{}/sa/{}", random.pick(DOMAINS), random.pick(NAMESPACES), random.pick(ACCOUNTS))
    };
    match random.below(10) {
        0..3 => Peer::Anonymous,
        3..6 => Peer::verified(&exact(random)),
        6..8 => Peer::Attested(policy::SpiffeId::parse(&exact(random)).unwrap()),
        8 => {
            let odd = random.pick(&[
                "spiffe://odd/name",
                "spiffe://td1/ns/foo/x/sa/sleep",
                "spiffe://td1/ns/foo/sa/sleep/y",
                "https://td1/ns/foo/sa/sleep",
                "sleep.foo.svc",
                "spiffe://td1/ns/bar",
            ]);
            Peer::verified(odd)
        }
        _ => Peer::Verified(vec![
            PeerName::new("spiffe://odd/name"),
            PeerName::new(&exact(random)),
            PeerName::new(&exact(random)),
        ]),
    }
}
