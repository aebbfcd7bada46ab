use super::*;

#[test]
fn maps_take_elements_of_their_size_only_and_forget_what_is_removed() {
    let mut map = Map::create(MapKind::Hash, 4, 2, 1).unwrap();
    map.insert(&[1; 4], &[1; 2]).unwrap();
    map.insert(&[1; 4], &[2; 2]).unwrap();
    assert_eq!(map.insert(&[2; 4], &[1; 2]).unwrap_err().errno(), Some(libc::E2BIG), "it has room for one");
    map.remove(&[1; 4]).unwrap();
    map.remove(&[1; 4]).unwrap();
    map.insert(&[2; 4], &[1; 2]).unwrap();
    assert!(map.insert(&[2; 3], &[1; 2]).is_err());
    assert!(map.insert(&[2; 4], &[1; 3]).is_err());
    assert!(map.remove(&[2; 5]).is_err());
}

#[test]
fn a_program_that_the_kernel_refuses_says_why() {
    let mut endless = Program::new();
    let again = endless.label();
    endless.place(again).jump(again);
    let refused = Loaded::new(Hook::Ingress, &endless, "endless").unwrap_err();
    assert!(refused.to_string().contains("infinite loop detected"), "{refused}");
    let mut unplaced = Program::new();
    let nowhere = unplaced.label();
    unplaced.jump(nowhere).exit();
    assert!(Loaded::new(Hook::Ingress, &unplaced, "unplaced").is_err());
}

#[test]
fn a_program_runs_for_the_packets_of_its_link_until_it_is_dropped() {
    use std::net::UdpSocket;
    use std::time::Duration;
    crate::netns::NetNs::create()
        .unwrap()
        .run(|| {
            crate::route::Router::open().unwrap().set_up(1).unwrap();
            let mut drop_all = Program::new();
            drop_all.set(Reg::R0, 2).exit();
            let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
            receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let arrives = || {
                UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", receiver.local_addr().unwrap()).unwrap();
                receiver.recv(&mut [0; 1]).is_ok()
            };
            let loaded = Loaded::new(Hook::Ingress, &drop_all, "a_name_that_is_cut_off").unwrap();
            assert!(arrives());
            let attached = loaded.attach(1).unwrap();
            assert!(!arrives());
            drop(attached);
            assert!(arrives());
            assert!(loaded.attach(99).is_err(), "no such link");
        })
        .unwrap();
}
