//! Names, asked for from inside pods.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use linux::netns::NetNs;
use local::dns::{Dns, Zone, resolv_conf};

use super::harness::{Mesh, WAIT, connect};

fn ask(netns: &NetNs, server: IpAddr, name: &str, kind: RecordType, tcp: bool) -> Message {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let bytes = question.to_vec().unwrap();
    let mut buffer = vec![0; 4096];
    if tcp {
        let mut stream = connect(netns, SocketAddr::new(server, 53)).unwrap();
        stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        buffer.truncate(usize::from(u16::from_be_bytes(length)));
        stream.read_exact(&mut buffer).unwrap();
    } else {
        let any: SocketAddr = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
        let socket = netns.udp_bind(any).unwrap();
        socket.connect(SocketAddr::new(server, 53)).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.send(&bytes).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        buffer.truncate(length);
    }
    let answer = Message::from_vec(&buffer).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pods_ask_dns_by_both_families_and_both_protocols() {
    let mesh = Mesh::new("f0000008");
    let pod = mesh.pod("pod");
    let dns = Dns::start(mesh.node()).unwrap();
    let ranges = *mesh.node().ranges();
    let servers = [IpAddr::from(ranges.dns_v4), ranges.dns_v6.into()];
    let empty = ask(&pod.netns, servers[0], "echo.foo.svc.cluster.local.", RecordType::A, false);
    assert_eq!(empty.metadata.response_code, ResponseCode::NXDomain);
    dns.publish(Arc::new(Zone::of(&mesh.service(&[(&pod, true)]))));
    for server in servers {
        for tcp in [false, true] {
            for (kind, vip) in [(RecordType::A, mesh.vips()[0]), (RecordType::AAAA, mesh.vips()[1])] {
                let answer = ask(&pod.netns, server, "echo.foo.svc.cluster.local.", kind, tcp);
                let found: BTreeSet<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
                assert_eq!(found, BTreeSet::from([vip.to_string()]), "{server} tcp {tcp}");
            }
            let outside = ask(&pod.netns, server, "example.com.", RecordType::A, tcp);
            assert_eq!(outside.metadata.response_code, ResponseCode::NXDomain);
        }
    }
    let text = resolv_conf(&ranges, "foo");
    assert!(text.starts_with("search foo.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10."), "{text}");
    assert_eq!(mesh.tracked(), 0, "DNS is not tracked");
    drop(dns);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_connects_to_dns_and_asks_nothing_keeps_nobody_else_from_it() {
    let mesh = Mesh::new("f0000009");
    let pod = mesh.pod("pod");
    let dns = Dns::start(mesh.node()).unwrap();
    dns.publish(Arc::new(Zone::of(&mesh.service(&[]))));
    let server = IpAddr::from(mesh.node().ranges().dns_v4);
    let mut silent: Vec<TcpStream> =
        (0..200).map(|_| connect(&pod.netns, SocketAddr::new(server, 53)).unwrap()).collect();
    assert_eq!(silent.last_mut().unwrap().read(&mut [0; 1]).unwrap_or(0), 0, "too many: hung up on");
    for (asker, tcp) in [(&pod, false), (&mesh.pod("other"), false), (&mesh.pod("other"), true)] {
        let answer = ask(&asker.netns, server, "echo.foo.svc.cluster.local.", RecordType::A, tcp);
        assert_eq!(answer.answers.len(), 1);
    }
    let mut long = connect(&mesh.pod("third").netns, SocketAddr::new(server, 53)).unwrap();
    long.write_all(&[0xff, 0xff]).unwrap();
    assert_eq!(long.read(&mut [0; 1]).unwrap_or(0), 0, "a question of 64 KiB is hung up on");
}
