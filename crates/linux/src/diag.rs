//! TCP sockets of a network namespace: listing them, and destroying one.
//!
//! Wire facts. `SOCK_DIAG_BY_FAMILY` takes `inet_diag_req_v2` (family, protocol, extensions, pad, states as a bit mask,
//! identity) and answers `inet_diag_msg` (family, state, timer, retransmissions, identity, then five u32). The identity is
//! ports and addresses in network order, interface, and a cookie that no other socket has. The mark comes as attribute 15
//! to whoever administers the namespace. Accepted connections of a two-family listener are listed as IPv6 with mapped
//! addresses; half-open ones (`SYN_RECV`) of the same listener as IPv4. `SOCK_DESTROY` takes the same request: the socket
//! is reset (the other end is told) and the owner's next call fails; one without an owner is destroyed as well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Error;
use crate::netlink::{Message, Reply, Socket, be16, ne32};

pub(crate) mod endings;

pub use endings::{Ended, Endings};

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const MARK: u16 = 15;
/// Length of `inet_diag_msg`.
const HEADER: usize = 72;
/// Where the identity stands in it, and its length.
const IDENTITY: std::ops::Range<usize> = 4..52;

/// The states of a TCP socket, as the kernel numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Both ways open.
    Established = 1,
    /// Our SYN is out.
    SynSent = 2,
    /// An owner's socket that met a SYN while its own was out.
    SynRecv = 3,
    /// Our FIN is out, not yet confirmed.
    FinWait1 = 4,
    /// Our FIN is confirmed; theirs has not come.
    FinWait2 = 5,
    /// Over; waits for stray packets.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// Their FIN has come; ours is not out.
    CloseWait = 8,
    /// Both FINs are out; ours is not confirmed.
    LastAck = 9,
    /// Waits for connections.
    Listen = 10,
    /// Both FINs crossed.
    Closing = 11,
    /// A SYN was answered; nobody owns a socket yet.
    NewSynRecv = 12,
}

impl State {
    /// Those of a connection that is open or asked for. To list all takes far longer: the kernel then looks through the ports of
    /// the whole machine as well.
    pub const CONNECTED: [Self; 9] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::LastAck,
        Self::Closing,
        Self::NewSynRecv,
    ];

    /// Every state.
    pub const ALL: [Self; 12] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynRecv,
    ];

    fn read(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }
}

/// A TCP socket of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSocket {
    /// Where it stands. A half-open one without owner is listed by the kernel as [`State::SynRecv`].
    pub state: State,
    /// This end; mapped addresses are shown as IPv4.
    pub local: SocketAddr,
    /// The other end; port 0 for a listener.
    pub remote: SocketAddr,
    /// The mark: of an accepted socket, that of its SYN where `tcp_fwmark_accept` is set.
    pub mark: u32,
    /// A user process owns it. Half-open ones and those closed with unsent data have none.
    pub owned: bool,
    family: u8,
    identity: [u8; 48],
}

/// Lists the TCP sockets in these states of the namespace that `socket` was opened in.
pub fn tcp(socket: &mut Socket, states: &[State]) -> Result<Vec<TcpSocket>, Error> {
    let mask = states.iter().fold(0, |mask, state| mask | 1 << *state as u32);
    let mut list = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = request(BY_FAMILY, family, mask, &[0; 48]);
        list.extend(socket.dump(&request, |reply, list| list.extend(read(reply)))?);
    }
    Ok(list)
}

/// Destroys one socket of a listing, and no other. `false`: it was gone already.
pub fn destroy(socket: &mut Socket, victim: &TcpSocket) -> Result<bool, Error> {
    match socket.request(&request(DESTROY, victim.family, u32::MAX, &victim.identity)) {
        Ok(()) => Ok(true),
        // ESTALE: the addresses belong to another socket by now.
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ESTALE)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn request(kind: u16, family: u8, states: u32, identity: &[u8; 48]) -> Message {
    let mut header = [0; 56];
    let (fixed, rest) = header.split_at_mut(8);
    fixed.copy_from_slice(&{
        let [a, b, c, d] = states.to_ne_bytes();
        [family, TCP, 0, 0, a, b, c, d]
    });
    rest.copy_from_slice(identity);
    let mut message = Message::new(kind, 0);
    message.header(&header);
    message
}

pub(crate) fn read(reply: Reply<'_>) -> Option<TcpSocket> {
    let header: &[u8; HEADER] = reply.payload.first_chunk()?;
    let family = *header.first()?;
    let identity: [u8; 48] = header.get(IDENTITY)?.try_into().ok()?;
    Some(TcpSocket {
        state: State::read(*header.get(1)?)?,
        local: SocketAddr::new(address(family, identity.get(4..20)?)?, be16(identity.get(..2)?)),
        remote: SocketAddr::new(address(family, identity.get(20..36)?)?, be16(identity.get(2..4)?)),
        mark: reply.attributes(HEADER).find_kind(MARK).map_or(0, ne32),
        owned: ne32(header.get(68..)?) != 0,
        family,
        identity,
    })
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if family == AF_INET {
        return Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into());
    }
    Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_canonical())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::{State, destroy, tcp};
    use crate::netlink::{Protocol, Socket};
    use crate::netns::NetNs;

    /// Runs with a loopback that is up: raising a link is another module's work, so its flags are set by hand.
    fn inside<R: Send>(work: impl FnOnce(&mut Socket) -> R + Send) -> R {
        NetNs::create()
            .unwrap()
            .run(|| {
                let mut route = Socket::open(Protocol::Route).unwrap();
                let mut up = crate::netlink::Message::new(16, 0);
                up.header(&[0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
                route.request(&up).unwrap();
                work(&mut Socket::open(Protocol::SockDiag).unwrap())
            })
            .unwrap()
    }

    #[test]
    fn both_ends_of_a_connection_are_listed_and_one_is_destroyed() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            inside(|diag| {
                let listener = TcpListener::bind(listen).unwrap();
                let at = listener.local_addr().unwrap();
                let client = TcpStream::connect(at).unwrap();
                let (mut server, from) = listener.accept().unwrap();
                let other = TcpStream::connect(at).unwrap();
                let list = tcp(diag, &State::ALL).unwrap();
                assert_eq!(list.len(), 5);
                assert!(list.iter().any(|s| s.state == State::Listen && s.local == at && s.owned));
                let victim = list.iter().find(|s| s.local == at && s.remote == from).unwrap();
                assert_eq!(victim.state, State::Established);
                assert!(destroy(diag, victim).unwrap());
                assert!(!destroy(diag, victim).unwrap());
                assert!(server.read(&mut [0]).is_err());
                let mut client = client;
                assert!(client.read(&mut [0]).is_err());
                let left = tcp(diag, &State::ALL).unwrap();
                assert!(left.iter().any(|s| s.local == other.local_addr().unwrap()));
                assert!(!left.iter().any(|s| s.remote == from));
            });
        }
    }

    #[test]
    fn only_the_states_that_are_asked_for_are_listed() {
        inside(|diag| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = listener.local_addr().unwrap();
            for _ in 0..3 {
                let client = TcpStream::connect(at).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                drop(client);
                assert_eq!(server.read(&mut [0]).unwrap(), 0);
            }
            let _open = TcpStream::connect(at).unwrap();
            let states = |states: &[State], diag: &mut Socket| {
                let mut found: Vec<State> = tcp(diag, states).unwrap().iter().map(|socket| socket.state).collect();
                found.sort_by_key(|state| *state as u8);
                found
            };
            assert_eq!(states(&State::CONNECTED, diag), [State::Established; 2]);
            assert_eq!(states(&[State::Listen], diag), [State::Listen]);
            assert_eq!(states(&[State::TimeWait], diag), [State::TimeWait; 3]);
        });
    }

    #[test]
    fn an_ipv4_connection_of_a_two_family_listener_is_shown_as_ipv4_and_destroyed() {
        inside(|diag| {
            let listener = TcpListener::bind("[::]:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let list = tcp(diag, &State::ALL).unwrap();
            let victim = list.iter().find(|s| s.local.port() == port && s.state == State::Established).unwrap();
            assert!(victim.remote.is_ipv4() && victim.local.is_ipv4());
            assert!(destroy(diag, victim).unwrap());
            assert!(server.read(&mut [0]).is_err());
        });
    }
}
