//! What pods send and write, for fuzzing (`fuzz/README.md`): questions to the DNS, what a container prints, what it answers to a
//! probe, and the words of its manifest, each with what must hold of any input.

#[cfg(test)]
#[path = "../../../fuzz/mutate.rs"]
mod mutate;

use std::sync::{Arc, LazyLock};

use api::{Change, Event, Kinds, Object, Objects};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};

use crate::dns::Zone;
use crate::dns::answer::{UDP_BYTES_MAX, Way, answer};
use crate::images;
use crate::kubelet::plan::{WORD_BYTES_MAX, expanded};
use crate::kubelet::probe;
use crate::runtime::logs::{Selection, select};

/// What a parser begins with.
type Seeds = Vec<Vec<u8>>;
/// Name, what reads the bytes and asserts what must hold of any, and the seeds that it begins with.
pub type Parser = (&'static str, fn(&[u8]), fn() -> Seeds);

/// All of them.
pub const PARSERS: &[Parser] = &[
    ("dns", dns, questions),
    ("container-log", container_log, logs),
    ("probe-answer", probe_answer, answers),
    ("container-word", container_word, words),
    ("image", image, images),
];

/// A service with an address, one with sixty endpoints, and names that stand for each other.
static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "foo"}, "spec": spec});
    let ends: Vec<Value> = (1..=60).map(|n| json!({"addresses": [format!("10.1.1.{n}")]})).collect();
    let all = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foo"}}),
        service("echo", json!({"clusterIP": "10.1.128.1", "clusterIPs": ["10.1.128.1", "fd00::1"]})),
        service("many", json!({"clusterIP": "None"})),
        service("circle", json!({"type": "ExternalName", "externalName": "circle.foo.svc.cluster.local"})),
        service("odd", json!({"type": "ExternalName", "externalName": "-._.\u{e4}"})),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "endpoints": ends,
            "metadata": {"name": "many", "namespace": "foo", "labels": {"kubernetes.io/service-name": "many"}}}),
    ];
    let (kinds, mut objects) = (Kinds::builtin(), Objects::new());
    for (revision, value) in (1..).zip(all) {
        let Ok(new) = Object::new(value) else { continue };
        let Ok(key) = kinds.key_of(&new) else { continue };
        objects.apply(&Event { revision, key, change: Change::Put { old: None, new: Arc::new(new) } });
    }
    Zone::of(&objects)
});

/// A question: no answer to an answer, and every answer is one, has the number of its question, and fits its way.
fn dns(bytes: &[u8]) {
    for (way, most) in [(Way::Udp, usize::from(UDP_BYTES_MAX)), (Way::Tcp, usize::from(u16::MAX))] {
        let Some(answered) = answer(&ZONE, bytes, way) else { continue };
        assert!(answered.len() <= most, "{} bytes", answered.len());
        assert!(bytes.get(2).is_some_and(|flags| flags & 0x80 == 0), "an answer was answered");
        assert_eq!(answered.get(..2), bytes.get(..2));
        let message = Message::from_vec(&answered);
        assert!(message.is_ok_and(|message| message.metadata.message_type == MessageType::Response));
    }
}

fn questions() -> Seeds {
    let question = |name: &str, kind: RecordType, edns: bool| {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).ok()?, kind));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(4096);
            message.set_edns(edns);
        }
        message.to_vec().ok()
    };
    let asked = [
        ("echo.foo.svc.cluster.local.", RecordType::A, false),
        ("echo.foo.svc.cluster.local.", RecordType::AAAA, true),
        ("many.foo.svc.cluster.local.", RecordType::A, true),
        ("many.foo.svc.cluster.local.", RecordType::ANY, false),
        ("circle.foo.svc.cluster.local.", RecordType::CNAME, false),
        ("odd.foo.svc.cluster.local.", RecordType::A, false),
        ("1.128.1.10.in-addr.arpa.", RecordType::PTR, false),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", RecordType::PTR, false),
        ("example.com.", RecordType::TXT, true),
    ];
    let mut seeds: Seeds = asked.into_iter().filter_map(|(name, kind, edns)| question(name, kind, edns)).collect();
    seeds.extend(Message::response(7, OpCode::Query).to_vec().ok());
    // A name that points at itself.
    seeds.push(b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01".to_vec());
    seeds
}

/// A log: what is shown of it is no longer than it is, its end no longer than all of it.
fn container_log(bytes: &[u8]) {
    let shown = |selection| select(bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec), selection).len();
    let all = shown(Selection::default());
    let timed = shown(Selection { timestamps: true, ..Selection::default() });
    assert!(all <= timed && timed <= bytes.len());
    let since = "2026-01-02T03:04:06Z".parse().ok();
    for selection in [
        Selection { tail: Some(1), ..Selection::default() },
        Selection { tail: Some(0), since, ..Selection::default() },
        Selection { since, ..Selection::default() },
    ] {
        let some = shown(selection);
        assert!(some <= all && (selection.tail != Some(0) || some == 0));
    }
}

fn logs() -> Seeds {
    let one = "2026-01-02T03:04:05.000000001Z stdout F one\n2026-01-02T03:04:06.000000001Z stderr P tw\n\
               2026-01-02T03:04:06.000000002Z stderr F o\n2026-01-02T03:04:07.000000001Z stdout F \n";
    vec![one.as_bytes().to_vec(), b"2026-01-02T03:04:05Z stdout P \xff\xfe\r".to_vec()]
}

/// The beginning of an answer: a status of three digits, or none.
fn probe_answer(bytes: &[u8]) {
    let Some(line) = bytes.first_chunk() else { return };
    if let Some(status) = probe::status(line) {
        assert!(status <= 999 && line.ends_with(format!("{status:03}").as_bytes()));
    }
}

fn answers() -> Seeds {
    [&b"HTTP/1.1 200 OK"[..], b"HTTP/1.0 404", b"220 smtp.foo.example ESMTP"].map(<[u8]>::to_vec).to_vec()
}

/// A word of a manifest: what names nothing stays, and nothing grows beyond what a program can be given.
fn container_word(bytes: &[u8]) {
    let word = String::from_utf8_lossy(bytes);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let environment =
        [pair("A", "1"), pair("B", "$(A)$(B)"), pair("LONG", &"x".repeat(WORD_BYTES_MAX / 4)), pair("", "e")];
    match expanded(&word, &environment) {
        Ok(done) => {
            assert!(done.len() <= WORD_BYTES_MAX);
            assert!(word.contains('$') || done == word);
        }
        Err(why) => assert!(why.contains("longer than")),
    }
    let plain = expanded(&word, &[]);
    assert!(word.contains("$$") || plain.as_deref() == Ok(word.as_ref()));
}

fn words() -> Seeds {
    ["$(A)-$(B)$(C)", "$$(A) $$$(A)", "$($(A))$(", "$(LONG)$(LONG)$(LONG)$(LONG)$(LONG)", "$()plain"]
        .map(|word| word.as_bytes().to_vec())
        .to_vec()
}

/// The name of an image: read whole, and perhaps one of the catalogue, or a sentence on what is wrong with it.
fn image(bytes: &[u8]) {
    let written = String::from_utf8_lossy(bytes);
    match images::Reference::parse(&written) {
        Ok(reference) => {
            assert!(!reference.repository().is_empty() && !reference.version().is_empty());
            let known = images::in_catalogue(&reference, &written);
            assert!(known.is_none_or(|image| !image.entrypoint.is_empty() || !image.arguments.is_empty()));
        }
        Err(why) => assert!(why.contains(written.as_ref())),
    }
}

fn images() -> Seeds {
    [
        "busybox",
        "docker.io/istio/tcp-echo-server:1.2",
        "localhost:5000/library/busybox@sha256:0123",
        "curlimages/curl:8.5.0",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::{PARSERS, mutate};

    /// Changes of one seed by one parser.
    const ROUNDS: u64 = 300;
    const TOKENS: &[&[u8]] = &[
        b"\xc0\x0c",
        b"\x3f",
        b"\0\0\x29\x10\0\0\0\0\0\0\0",
        b" stdout F ",
        b"\n2026-01-02T03:04:05Z ",
        b"P ",
        b"$(",
        b")",
        b"$",
        b"$(LONG)",
        b":",
        b"@",
        b"//",
        b"HTTP/1.1 ",
        b"+20",
    ];

    #[test]
    fn no_parser_fails_on_mutated_input() {
        mutate::none_fails(PARSERS, TOKENS, ROUNDS);
    }
}
