//! Namespaces by the real kernel. Requires root.
#![cfg(test)]
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use linux::netns::{NetNs, unpin};
use linux::{Error, sysctl};

#[test]
fn a_new_namespace_is_another_one_and_leaves_the_caller_where_it_was() {
    let home = NetNs::current().unwrap().id().unwrap();
    let made = NetNs::create().unwrap();
    assert_ne!(made.id().unwrap(), home);
    assert_eq!(made.run(|| NetNs::current().unwrap().id().unwrap()).unwrap(), made.id().unwrap());
    assert_eq!(NetNs::current().unwrap().id().unwrap(), home);
}

#[test]
fn settings_are_those_of_the_namespace_entered() {
    let made = NetNs::create().unwrap();
    let before = sysctl::read("net/ipv4/ip_unprivileged_port_start").unwrap();
    made.run(|| sysctl::write("net/ipv4/ip_unprivileged_port_start", "7")).unwrap().unwrap();
    assert_eq!(made.run(|| sysctl::read("net/ipv4/ip_unprivileged_port_start")).unwrap().unwrap(), "7");
    assert_eq!(sysctl::read("net/ipv4/ip_unprivileged_port_start").unwrap(), before);
    assert!(!sysctl::write_if_there("net/ipv4/no_such_setting", "1").unwrap());
    let error = sysctl::read("net/ipv4/no_such_setting").unwrap_err();
    assert_eq!(error.to_string(), "cannot read the kernel setting `/proc/sys/net/ipv4/no_such_setting`");
}

#[test]
fn a_pin_keeps_the_namespace_and_unpin_lets_it_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net");
    let made = NetNs::create().unwrap();
    let id = made.id().unwrap();
    made.pin(&path).unwrap();
    assert!(made.pin(&path).is_err(), "a pin is never put over another");
    drop(made);
    assert_eq!(NetNs::open(&path).unwrap().id().unwrap(), id);
    assert!(unpin(&path).unwrap());
    assert!(!path.exists());
    assert!(!unpin(&path).unwrap());
}

#[test]
fn a_plain_file_is_not_taken_for_a_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net");
    std::fs::write(&path, "").unwrap();
    let Err(Error::Netns { doing, source }) = NetNs::open(&path) else { panic!("opened a plain file") };
    assert!(doing.contains("open the network namespace at"), "{doing}");
    assert_eq!(source.to_string(), "it is a plain file, no namespace");
    assert!(unpin(&path).unwrap(), "a pin whose mount is gone is removed too");
}

#[test]
fn sockets_made_inside_serve_from_outside() {
    let made = NetNs::create().unwrap();
    made.run(|| std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap()).unwrap();
    let listener = made.tcp_listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    assert!(TcpStream::connect(address).is_err(), "nothing listens there at home");
    let mut client = made.run(|| TcpStream::connect(address).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hi").unwrap();
    drop(client);
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hi");
    made.udp_bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
}

#[test]
fn a_panic_inside_goes_on_in_the_caller() {
    let made = NetNs::create().unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| made.run(|| panic!("inside"))));
    assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}
