//! What the kernel tells, for fuzzing (`fuzz/README.md`): pods choose what is in the packets that it logs, the sockets that it lists
//! and the names that it shows. Each parser with what must hold of any input.

#[cfg(test)]
#[path = "../../../fuzz/mutate.rs"]
mod mutate;

use crate::netlink::message::split;
use crate::netlink::socket::answer;
use crate::netlink::{Message, attributes};
use crate::{cgroup, diag, nflog, nft, pidfd, route};

/// What a parser begins with.
type Seeds = Vec<Vec<u8>>;
/// Name, what reads the bytes and asserts what must hold of any, and the seeds that it begins with.
pub type Parser = (&'static str, fn(&[u8]), fn() -> Seeds);

/// All of them.
pub const PARSERS: &[Parser] =
    &[("netlink", netlink, messages), ("process-stat", process_stat, stats), ("mounts", mounts, lists_of_mounts)];

/// Nested attributes deeper than this are nobody's: the kernel's own are four deep.
const NESTED_MAX: usize = 8;

/// A datagram: its messages and their attributes lie in it, and every reader of them takes or leaves each.
fn netlink(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let before = rest.len();
        let Some(reply) = split(&mut rest) else { break };
        assert!(rest.len() < before && reply.payload.len() < before);
        if let Err(refusal) = answer(&reply) {
            assert!(refusal.words.len() <= 3 * bytes.len() && refusal.source.raw_os_error().is_some());
        }
        for header in [0, 4, 12, 16, 72] {
            inside(reply.attributes(header), reply.payload, 0);
        }
        if let Some(logged) = nflog::logged(reply) {
            assert!(within(logged.packet, bytes) && within(logged.prefix.as_bytes(), bytes));
        }
        if let Some(ended) = diag::endings::ended(reply) {
            assert!(ended.local.is_ipv4() || ended.local.is_ipv6());
        }
        if let Some(socket) = diag::read(reply) {
            assert!(socket.local.ip() == socket.local.ip().to_canonical());
        }
        let mut elements = Vec::new();
        nft::read::read_elements(reply, &mut elements);
        assert!(elements.iter().all(|element| element.key.len() <= bytes.len()));
        route::read_link(&reply);
    }
}

fn inside(list: crate::netlink::Attributes<'_>, payload: &[u8], deep: usize) {
    let mut read = 0;
    for (_, value) in list {
        read += value.len();
        assert!(within(value, payload) && read <= payload.len());
        if deep < NESTED_MAX {
            inside(attributes(value), payload, deep + 1);
        }
    }
}

/// Whether a part is one of the whole, by its place.
fn within(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    part.is_empty() || whole.start <= part.start && part.end <= whole.end
}

fn messages() -> Seeds {
    let sent = |message: &Message| {
        let mut bytes = Vec::new();
        message.finish(7, &mut bytes);
        bytes
    };
    let made = |kind: u16, header: &[u8]| {
        let mut message = Message::new(kind, 0);
        message.header(header);
        message
    };
    let mut packet = made(4 << 8, &[2, 0, 0, 3]);
    packet.bytes(9, b"\x45\0\0\x28\0\0\0\0\x40\x06\0\0\x0a\0\0\x01\x0a\0\0\x02\x9c\x40\x23\x28\x01\x02\x03\x04");
    packet.cstr(10, "tidegate 7 ").be32(12, 41);
    let mut socket = [0; 72];
    socket[..4].copy_from_slice(&[10, 1, 0, 0]);
    let mut listed = made(20, &socket);
    listed.u32(15, 9).bytes(2, &[1; 232]);
    let mut elements = made(0x0a0c, &[1, 0, 0, 0]);
    elements.cstr(1, "t").cstr(2, "s").nested(3, |list| {
        list.nested(1, |element| {
            element.nested(1, |key| {
                key.bytes(1, &[10, 0, 0, 1, 0, 80, 0, 0]);
            });
            element.nested(10, |key| {
                key.bytes(1, &[10, 0, 0, 9, 0, 80, 0, 0]);
            });
            element.nested(2, |verdict| {
                verdict.nested(2, |code| {
                    code.be32(1, u32::MAX - 2).cstr(2, "chain");
                });
            });
        });
    });
    let mut link = made(16, &[0, 0, 1, 0, 3, 0, 0, 0, 0x43, 0, 0, 0, 0, 0, 0, 0]);
    link.cstr(3, "tg0").bytes(1, &[2; 6]).u32(4, 1500).nested(18, |about| {
        about.cstr(1, "veth");
    });
    let mut refused = made(2, &(-22_i32).to_ne_bytes());
    refused.header(&[20, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]).cstr(1, "the kernel's words");
    let all = [packet, listed, elements, link, refused].map(|message| sent(&message));
    let mut seeds = all.to_vec();
    seeds.push(all.concat());
    seeds
}

/// A line of `/proc/PID/stat`: what is before the last bracket, which the process chooses, changes nothing.
fn process_stat(bytes: &[u8]) {
    let start = pidfd::start_of(bytes);
    let after = bytes.rsplit(|&byte| byte == b')').next().filter(|after| after.len() < bytes.len());
    let plain = after.map(|after| [b"1 (name)", after].concat());
    assert_eq!(plain.and_then(|plain| pidfd::start_of(&plain)), start);
}

fn stats() -> Seeds {
    let rest = "S 1 4711 4711 0 -1 4194304 99 0 0 0 0 0 0 0 20 0 1 0 123456 2314240 201 18446744073709551615 1 1 0 0";
    ["4711 (sleep) ", "4711 (a) R 1 (b) ", "4711 (\u{e4}\n\t) "]
        .map(|name| format!("{name}{rest}\n").into_bytes())
        .to_vec()
}

/// A list of mounts.
fn mounts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(cgroup::hierarchies(&text).len() <= text.lines().count());
}

fn lists_of_mounts() -> Seeds {
    let text = "35 25 0:30 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
                36 35 0:31 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate\n\
                38 35 0:33 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n\
                40 25 8:1 /a\\040b /mnt/c\\040d rw - ext4 /dev/sda1 rw\n";
    vec![text.as_bytes().to_vec()]
}

#[cfg(test)]
mod tests {
    use super::{PARSERS, mutate};

    /// Changes of one seed by one parser.
    const ROUNDS: u64 = 1500;
    const TOKENS: &[&[u8]] =
        &[b"\x04\0", b"\x04\0\x01\0", b"\0\x80", b"\x10\0\0\0", b"\x48\0\0\0", b")", b" - ", b"(", b"cgroup2", b"-22"];

    #[test]
    fn no_parser_fails_on_mutated_input() {
        mutate::none_fails(PARSERS, TOKENS, ROUNDS);
    }
}
