//! VIPs that the node translates.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use local::PodLink;
use local::vip::Vips;
use rustix::net::sockopt;
use serde_json::{Value, json};

use super::harness::{Mesh, WAIT, address, connect, listen, objects, talk};

#[test]
fn a_vip_leads_to_its_endpoints_and_the_client_keeps_its_address() {
    let mesh = Mesh::new("f0000001");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    assert!(vips.sync(&mesh.service(&[(&server, true)])).unwrap());
    assert!(!vips.sync(&mesh.service(&[(&server, true)])).unwrap(), "nothing changed");
    for v6 in [false, true] {
        let listener = listen(&server, v6);
        let mut stream = connect(&client.netns, mesh.vip(v6)).unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), address(&client, v6));
        assert_eq!(stream.peer_addr().unwrap(), mesh.vip(v6));
        talk(&mut stream, &mut accepted);
        let mut outside = TcpStream::connect_timeout(&mesh.vip(v6), WAIT).unwrap();
        talk(&mut outside, &mut listener.accept().unwrap().0);
    }
}

#[test]
fn a_pod_reaches_itself_through_a_vip_from_its_alias() {
    let mesh = Mesh::new("f0000002");
    let pod = mesh.pod("pod");
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&pod, true)])).unwrap();
    for v6 in [false, true] {
        let listener = listen(&pod, v6);
        let mut stream = connect(&pod.netns, mesh.vip(v6)).unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        let alias: IpAddr = if v6 { pod.alias_v6.into() } else { pod.alias_v4.into() };
        assert_eq!(from.ip(), alias);
        assert_eq!(mesh.node().ranges().alias_of(address(&pod, v6)), Some(alias));
        talk(&mut stream, &mut accepted);
    }
}

#[test]
fn without_ready_endpoint_a_connect_is_reset_at_once() {
    let mesh = Mesh::new("f0000003");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&server, false)])).unwrap();
    let began = Instant::now();
    for v6 in [false, true] {
        let listener = listen(&server, v6);
        let refused = |to| assert_eq!(connect(&client.netns, to).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        refused(mesh.vip(v6));
        vips.sync(&mesh.service(&[(&server, true)])).unwrap();
        refused(SocketAddr::new(mesh.vip(v6).ip(), 81));
        connect(&client.netns, mesh.vip(v6)).unwrap();
        drop(listener);
        refused(mesh.vip(v6));
        mesh.node().pod_unlink("nobody").unwrap();
        vips.sync(&mesh.service(&[(&server, false)])).unwrap();
    }
    // An endpoint whose pod is gone: the node answers in its place, and the client hears it from the VIP.
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    mesh.node().pod_unlink("server").unwrap();
    for v6 in [false, true] {
        let error = connect(&client.netns, mesh.vip(v6)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
    assert!(began.elapsed() < WAIT, "refused, not timed out");
}

#[test]
fn all_ready_endpoints_have_their_turn() {
    let mesh = Mesh::new("f0000004");
    let client = mesh.pod("client");
    let servers: Vec<PodLink> = (0..3).map(|n| mesh.pod(&format!("server-{n}"))).collect();
    let ends: Vec<(&PodLink, bool)> = servers.iter().map(|pod| (pod, true)).collect();
    Vips::start(mesh.node(), None).unwrap().sync(&mesh.service(&ends)).unwrap();
    let listeners: Vec<TcpListener> = servers.iter().map(|pod| listen(pod, false)).collect();
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    let mut counts = [0; 3];
    for _ in 0..90 {
        let _client = connect(&client.netns, mesh.vip(false)).unwrap();
        for (listener, count) in listeners.iter().zip(&mut counts) {
            *count += i32::from(listener.accept().is_ok());
        }
    }
    assert_eq!(counts.iter().sum::<i32>(), 90);
    // By chance, each third: that one has fewer than 10 of 90 is rarer than one in a million.
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
}

#[test]
fn open_connections_outlive_changes_of_the_service() {
    let mesh = Mesh::new("f0000005");
    let (client, one, two) = (mesh.pod("client"), mesh.pod("one"), mesh.pod("two"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&one, true)])).unwrap();
    let (first, second) = (listen(&one, false), listen(&two, false));
    let mut stream = connect(&client.netns, mesh.vip(false)).unwrap();
    let (mut accepted, _) = first.accept().unwrap();
    accepted.set_read_timeout(Some(WAIT)).unwrap();
    vips.sync(&mesh.service(&[(&one, false), (&two, true)])).unwrap();
    talk(&mut stream, &mut accepted);
    let mut later = connect(&client.netns, mesh.vip(false)).unwrap();
    talk(&mut later, &mut second.accept().unwrap().0);
    // Another process takes over; and once more, killed before it could note what it did.
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    assert!(!vips.sync(&mesh.service(&[(&one, false), (&two, true)])).unwrap(), "all is in force already");
    std::fs::remove_file(mesh.settings.run_dir.join("vips.json")).unwrap();
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    assert!(vips.sync(&mesh.service(&[(&one, false), (&two, true)])).unwrap());
    talk(&mut stream, &mut accepted);
    // The service goes, its pods stay.
    let pods: Vec<Value> = [&one, &two]
        .map(|pod| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.uid, "namespace": "foo"}, "status": {"podIP": pod.v4}}))
        .to_vec();
    vips.sync(&objects(&pods)).unwrap();
    talk(&mut stream, &mut accepted);
    assert_eq!(connect(&client.netns, mesh.vip(false)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn only_connections_with_vips_and_with_their_endpoints_are_tracked() {
    let mesh = Mesh::new("f0000006");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    for v6 in [false, true] {
        let before = mesh.tracked();
        let other = server.netns.tcp_listen(SocketAddr::new(address(&server, v6), 9001)).unwrap();
        let mut beside = connect(&client.netns, other.local_addr().unwrap()).unwrap();
        talk(&mut beside, &mut other.accept().unwrap().0);
        let nobody = SocketAddr::new(mesh.vip(v6).ip(), 81);
        assert!(connect(&client.netns, nobody).is_err());
        assert_eq!(mesh.tracked(), before, "v6: {v6}");
        let listener = listen(&server, v6);
        for to in [listener.local_addr().unwrap(), mesh.vip(v6)] {
            let mut stream = connect(&client.netns, to).unwrap();
            talk(&mut stream, &mut listener.accept().unwrap().0);
        }
        assert_eq!(mesh.tracked(), before + 2, "v6: {v6}");
    }
}

/// Connects from this port, which others may use as well.
fn connect_from(pod: &PodLink, port: u16, to: SocketAddr) -> TcpStream {
    let connect = || {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(WAIT)).unwrap();
        rustix::net::bind(&socket, &SocketAddr::new(pod.v4.into(), port)).unwrap();
        rustix::net::connect(&socket, &to).unwrap_or_else(|errno| panic!("port {port} to {to}: {errno}"));
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    };
    pod.netns.run(connect).unwrap()
}

#[test]
fn the_port_of_a_translated_connection_may_be_used_for_a_direct_one_to_the_same_endpoint() {
    let mesh = Mesh::new("f000000a");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    let listener = listen(&server, false);
    let mut by_vip = connect_from(&client, 5000, mesh.vip(false));
    let (mut accepted, _) = listener.accept().unwrap();
    talk(&mut by_vip, &mut accepted);
    drop(by_vip);
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    drop(accepted);
    // What is left of it would be taken for the direct one's.
    let mut direct = connect_from(&client, 5000, listener.local_addr().unwrap());
    talk(&mut direct, &mut listener.accept().unwrap().0);
}

#[test]
fn many_services_are_put_into_force_in_time() {
    let mesh = Mesh::new("f0000007");
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let base = mesh.service(&[(&server, true)]);
    let mut all: Vec<Value> = base.all().map(|(_, object)| object.value().clone()).collect();
    for number in 2..500_u32 {
        let vip = mesh.node().ranges().services_v4.nth(number).unwrap();
        let name = format!("s{number}");
        all.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "foo"},
            "spec": {"clusterIPs": [vip], "ports": [{"port": 80}]}}));
        let ends: Vec<Value> =
            (1..=10).map(|end| json!({"addresses": [format!("10.255.{}.{end}", number % 250)]})).collect();
        all.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "endpoints": ends,
            "metadata": {"name": name, "namespace": "foo", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": 9000}]}));
    }
    let mut vips = Vips::start(mesh.node(), None).unwrap();
    let began = Instant::now();
    vips.sync(&objects(&all)).unwrap();
    println!("500 services of 10 endpoints: {:?}", began.elapsed());
    let began = Instant::now();
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    println!("back to one: {:?}", began.elapsed());
    assert!(began.elapsed() < WAIT);
    let listener = listen(&server, false);
    let mut stream = connect(&client.netns, mesh.vip(false)).unwrap();
    talk(&mut stream, &mut listener.accept().unwrap().0);
}
