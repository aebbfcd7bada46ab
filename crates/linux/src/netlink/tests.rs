//! Messages and requests against the real kernel, in namespaces of their own.

use super::{Attributes, Message, Protocol, Socket, attributes};
use crate::Error;
use crate::netns::NetNs;

const GET_LINK: u16 = 18;
const DEL_LINK: u16 = 17;

#[test]
fn an_attribute_is_read_as_it_was_written() {
    let mut message = Message::new(1, 0);
    message.header(&[7]).u8(1, 0xab).be16(2, 0x1234).be32(3, 0x0102_0304).cstr(4, "lo").nested(5, |inner| {
        inner.u32(1, 9).flag(2);
    });
    let mut wire = Vec::new();
    message.finish(77, &mut wire);
    assert_eq!(wire.len() % 4, 0);
    assert_eq!(usize::from(wire[0]), wire.len());
    assert_eq!(wire[8], 77);
    let read: Vec<_> = attributes(&wire[20..]).collect();
    assert_eq!(read[0], (1, &[0xab][..]));
    assert_eq!(read[1], (2, &[0x12, 0x34][..]));
    assert_eq!(read[2], (3, &[1, 2, 3, 4][..]));
    assert_eq!(read[3], (4, &b"lo\0"[..]));
    let inner: Attributes<'_> = attributes(read[4].1);
    assert_eq!(inner.find_kind(1), Some(&9u32.to_ne_bytes()[..]));
    assert_eq!(inner.find_kind(2), Some(&[][..]));
    assert_eq!(inner.find_kind(3), None);
}

#[test]
fn attributes_that_do_not_fit_end_the_list() {
    for bytes in [&[][..], &[3, 0, 1, 0][..], &[9, 0, 1, 0, 0, 0][..], &[0, 0, 0, 0][..]] {
        assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
    }
}

#[test]
fn a_listing_shows_the_link_of_a_new_namespace() {
    let names = NetNs::create()
        .unwrap()
        .run(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            let mut message = Message::new(GET_LINK, 0);
            message.header(&[0; 16]);
            socket
                .dump(&message, |reply, list| {
                    list.push(reply.attributes(16).find_kind(3).unwrap().to_vec());
                })
                .unwrap()
        })
        .unwrap();
    assert_eq!(names, [b"lo\0".to_vec()]);
}

#[test]
fn a_refusal_says_the_number_and_leaves_the_socket_usable() {
    NetNs::create()
        .unwrap()
        .run(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            let mut nobody = Message::new(DEL_LINK, 0);
            let mut header = [0; 16];
            header[4..8].copy_from_slice(&4711u32.to_ne_bytes());
            nobody.header(&header);
            let error = socket.request(&nobody).unwrap_err();
            let Error::NetlinkRefused { source, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(source.raw_os_error(), Some(libc::ENODEV));
            let mut links = Message::new(GET_LINK, 0);
            links.header(&[0; 16]);
            assert_eq!(socket.dump(&links, |_, list| list.push(())).unwrap().len(), 1);
        })
        .unwrap();
}

#[test]
fn the_kernels_words_are_kept() {
    NetNs::create()
        .unwrap()
        .run(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            // A route by a gateway that nothing leads to: refused with a sentence.
            let mut route = Message::new(24, super::CREATE);
            route.header(&[2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
            route.bytes(5, &[10, 0, 0, 1]);
            let error = socket.request(&route).unwrap_err();
            assert!(error.to_string().contains("gateway"), "{error}");
        })
        .unwrap();
}
