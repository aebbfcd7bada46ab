//! One question in, one answer out, in wire form.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{CLUSTER_DOMAIN, Entry, Zone};

/// Seconds that an answer may be kept: a service that comes or goes is seen soon. Addresses rest longer than that.
const TTL: u32 = 5;
/// What fits into an answer by UDP unless the asker says that it takes more.
const UDP_BYTES: usize = 512;
/// What we ever put into an answer by UDP: it passes every link without fragments.
pub(crate) const UDP_BYTES_MAX: u16 = 1232;
/// Aliases that are followed inside the cluster; also ends circles.
const ALIASES_MAX: usize = 4;

/// The way a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Udp,
    Tcp,
}

/// Answers a question; none for what is no question and so must not be answered.
pub(crate) fn answer(zone: &Zone, question: &[u8], way: Way) -> Option<Vec<u8>> {
    let Ok(question) = Message::from_vec(question) else { return malformed(question) };
    if question.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    // Stub resolvers ask us for everything, and we say all there is to say.
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        answer.set_edns(edns);
    }
    match (question.metadata.op_code, question.queries.as_slice()) {
        (OpCode::Query, [query]) if query.query_class() == DNSClass::IN => fill(&mut answer, zone, query),
        (OpCode::Query, [_]) => answer.metadata.response_code = ResponseCode::Refused,
        (OpCode::Query, _) => answer.metadata.response_code = ResponseCode::FormErr,
        _ => answer.metadata.response_code = ResponseCode::NotImp,
    }
    let bytes = answer.to_vec().ok()?;
    let room = question.edns.as_ref().map_or(UDP_BYTES, |edns| usize::from(edns.max_payload().min(UDP_BYTES_MAX)));
    if way == Way::Udp && bytes.len() > room.max(UDP_BYTES) {
        return answer.truncate().to_vec().ok();
    }
    Some(bytes)
}

/// A question that cannot be read is told so if at least its number can.
fn malformed(question: &[u8]) -> Option<Vec<u8>> {
    let (id, flags) = (question.first_chunk::<2>()?, question.get(2)?);
    // The top bit says that it is an answer: never answer an answer.
    (flags & 0x80 == 0)
        .then(|| Message::error_msg(u16::from_be_bytes(*id), OpCode::Query, ResponseCode::FormErr).to_vec().ok())?
}

fn fill(answer: &mut Message, zone: &Zone, query: &Query) {
    let asked = query.query_type();
    answer.metadata.authoritative = true;
    if asked == RecordType::PTR
        && let Ok(net) = query.name().parse_arpa_name()
        && let Some(name) = zone.name_of(net.addr()).and_then(absolute)
    {
        answer.add_answer(Record::from_rdata(query.name().clone(), TTL, RData::PTR(PTR(name))));
        return;
    }
    let mut name = query.name().to_ascii().to_ascii_lowercase();
    name.truncate(name.trim_end_matches('.').len());
    let mut owner = query.name().clone();
    for _ in 0..ALIASES_MAX {
        let Some(entry) = zone.find(&name) else {
            // Whatever lies outside is unknown here, and there is no one to ask: said at once.
            if owner == *query.name() || Zone::covers(&name) {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            break;
        };
        let Some(alias) = &entry.alias else {
            add_addresses(answer, &owner, entry, asked);
            break;
        };
        let Some(target) = absolute(alias) else { break };
        answer.add_answer(Record::from_rdata(owner, TTL, RData::CNAME(CNAME(target.clone()))));
        (owner, name) = (target, alias.clone());
        if asked == RecordType::CNAME {
            break;
        }
    }
    if answer.answers.is_empty() {
        answer.add_authorities(authority());
    }
}

fn add_addresses(answer: &mut Message, owner: &Name, entry: &Entry, asked: RecordType) {
    let v4 = entry.v4.iter().copied().map(IpAddr::V4).filter(|_| matches!(asked, RecordType::A | RecordType::ANY));
    let v6 = entry.v6.iter().copied().map(IpAddr::V6).filter(|_| matches!(asked, RecordType::AAAA | RecordType::ANY));
    for address in v4.chain(v6) {
        let content = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        answer.add_answer(Record::from_rdata(owner.clone(), TTL, content));
    }
}

/// Says how long "no" may be kept.
fn authority() -> Option<Record> {
    let zone = absolute(CLUSTER_DOMAIN)?;
    let (server, person) =
        (absolute(&format!("ns.dns.{CLUSTER_DOMAIN}"))?, absolute(&format!("hostmaster.{CLUSTER_DOMAIN}"))?);
    let soa = SOA::new(server, person, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::{Change, Event, Kinds, Object, Objects};
    use serde_json::{Value, json};

    use super::*;

    fn zone() -> Zone {
        let meta = |name: &str| json!({"name": name, "namespace": "foo"});
        let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": spec});
        let many: Vec<Value> =
            (1..=60).map(|n| json!({"addresses": [format!("10.1.1.{n}")], "conditions": {"ready": true}})).collect();
        let slice = |name: &str, ends: Vec<Value>| {
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "endpoints": ends,
                "metadata": {"name": name, "namespace": "foo", "labels": {"kubernetes.io/service-name": name}}})
        };
        let all = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foo"}}),
            service("echo", json!({"clusterIP": "10.1.128.1", "clusterIPs": ["10.1.128.1", "fd00::1"]})),
            service("four", json!({"clusterIP": "10.1.128.2", "clusterIPs": ["10.1.128.2"]})),
            service("pending", json!({})),
            service("heads", json!({"clusterIP": "None"})),
            service("many", json!({"clusterIP": "None"})),
            service("away", json!({"type": "ExternalName", "externalName": "example.com"})),
            service("other", json!({"type": "ExternalName", "externalName": "echo.foo.svc.cluster.local"})),
            service("circle", json!({"type": "ExternalName", "externalName": "circle.foo.svc.cluster.local"})),
            slice(
                "heads",
                vec![
                    json!({"addresses": ["10.1.0.1"], "hostname": "zero", "conditions": {"ready": true}}),
                    json!({"addresses": ["10.1.0.2"], "hostname": "one", "conditions": {"ready": false}}),
                ],
            ),
            slice("many", many),
        ];
        let (kinds, mut objects) = (Kinds::builtin(), Objects::new());
        for (revision, value) in (1..).zip(all) {
            let new = Object::new(value).unwrap();
            let key = kinds.key_of(&new).unwrap();
            objects.apply(&Event { revision, key, change: Change::Put { old: None, new: Arc::new(new) } });
        }
        Zone::of(&objects)
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask_by(message: &Message, way: Way) -> Message {
        let answer = Message::from_vec(&answer(&zone(), &message.to_vec().unwrap(), way).unwrap()).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(answer.queries, message.queries);
        answer
    }

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let answer = ask_by(&question(name, kind), Way::Udp);
        assert_eq!(answer.answers.is_empty(), !answer.authorities.is_empty());
        (answer.metadata.response_code, answer.answers.iter().map(|record| record.data.to_string()).collect())
    }

    #[test]
    fn names_stand_for_what_the_objects_say() {
        use RecordType::{A, AAAA, ANY, MX, PTR, TXT};
        let (yes, no) = (ResponseCode::NoError, ResponseCode::NXDomain);
        for (name, kind, code, records) in [
            ("echo.foo.svc.cluster.local.", A, yes, &["10.1.128.1"][..]),
            ("echo.foo.svc.cluster.local.", AAAA, yes, &["fd00::1"]),
            ("EcHo.Foo.Svc.Cluster.Local.", A, yes, &["10.1.128.1"]),
            ("echo.foo.svc.cluster.local.", ANY, yes, &["10.1.128.1", "fd00::1"]),
            ("echo.foo.svc.cluster.local.", MX, yes, &[]),
            ("four.foo.svc.cluster.local.", AAAA, yes, &[]),
            ("pending.foo.svc.cluster.local.", A, yes, &[]),
            ("foo.svc.cluster.local.", A, yes, &[]),
            ("svc.cluster.local.", TXT, yes, &[]),
            ("heads.foo.svc.cluster.local.", A, yes, &["10.1.0.1"]),
            ("zero.heads.foo.svc.cluster.local.", A, yes, &["10.1.0.1"]),
            ("one.heads.foo.svc.cluster.local.", A, yes, &["10.1.0.2"]),
            ("two.heads.foo.svc.cluster.local.", A, no, &[]),
            ("echo.bar.svc.cluster.local.", A, no, &[]),
            ("echo.foo.foo.svc.cluster.local.", A, no, &[]),
            ("echo.", A, no, &[]),
            ("example.com.", A, no, &[]),
            ("example.com.foo.svc.cluster.local.", AAAA, no, &[]),
            (".", A, no, &[]),
            ("away.foo.svc.cluster.local.", A, yes, &["example.com."]),
            ("other.foo.svc.cluster.local.", A, yes, &["echo.foo.svc.cluster.local.", "10.1.128.1"]),
            ("1.128.1.10.in-addr.arpa.", PTR, yes, &["echo.foo.svc.cluster.local."]),
            ("9.9.9.9.in-addr.arpa.", PTR, no, &[]),
        ] {
            let (found, content) = ask(name, kind);
            assert_eq!(
                (found, content.as_slice()),
                (code, records.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>().as_slice()),
                "{name} {kind}"
            );
        }
        assert_eq!(ask("circle.foo.svc.cluster.local.", A).1.len(), ALIASES_MAX);
    }

    #[test]
    fn what_does_not_fit_is_cut_by_udp_and_whole_by_tcp() {
        let mut plain = question("many.foo.svc.cluster.local.", RecordType::A);
        let cut = ask_by(&plain, Way::Udp);
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        assert_eq!(ask_by(&plain, Way::Tcp).answers.len(), 60);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        plain.set_edns(edns);
        let whole = ask_by(&plain, Way::Udp);
        assert_eq!((whole.answers.len(), whole.metadata.truncation, whole.edns.is_some()), (60, false, true));
    }

    #[test]
    fn what_is_no_plain_question_is_told_so_or_not_answered() {
        let code = |message: &Message| ask_by(message, Way::Udp).metadata.response_code;
        let mut chaos = question("echo.foo.svc.cluster.local.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), ResponseCode::Refused);
        let mut two = question("a.", RecordType::A);
        two.add_query(Query::query(Name::root(), RecordType::A));
        assert_eq!(code(&two), ResponseCode::FormErr);
        let mut notify = question("a.", RecordType::A);
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&notify), ResponseCode::NotImp);
        let reply = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert_eq!(answer(&zone(), &reply, Way::Udp), None, "an answer is never answered");
        let told = answer(&zone(), &[1, 2, 0, 0, 0, 9], Way::Udp).unwrap();
        assert_eq!(Message::from_vec(&told).unwrap().metadata.response_code, ResponseCode::FormErr);
        for garbage in [&[][..], &[1], &[1, 2], &[1, 2, 0x80, 0, 0, 9]] {
            assert_eq!(answer(&zone(), garbage, Way::Udp), None, "{garbage:?}");
        }
    }
}
