//! Open connections under a table that has changed: the no longer permitted ones are reset, no other is touched.
//!
//! Called after the table is in force, at last when every packet that met the old one has left the stack: what such a packet
//! opened is in the listing. Half-open connections and those whose owner is gone while data is unsent are listed too.
//! A listing is repeated after each round until it shows none.
//!
//! An incoming connection is known by its mark ([`crate::verdicts`]), which its SYN was given and its socket inherited.
//! A process inside the pod can change marks only with `NET_RAW`, and then not to its profit:
//! * between two pods, a connection of which neither end has the mark was opened by both (crossing SYNs) or was
//!   disguised: each end is judged as if it were incoming;
//! * with an end outside the pods, an unmarked socket on a port that somebody listens on is judged as incoming.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use linux::diag::{self, State, TcpSocket};
use linux::netlink::Socket;

use crate::PodNet;
use crate::verdicts::ACCEPTED_MARK;

/// Connections that appear while others are destroyed were let in by the new table, so the second listing shows none;
/// sockets that the listing skipped while the kernel moved them need a third. Eight rounds are a fault.
const ROUNDS: usize = 8;

/// What judging again came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Connections that were reset.
    pub(crate) resets: usize,
    /// Connections still open after the last round.
    pub(crate) left: usize,
    /// How many rounds there were.
    pub(crate) rounds: usize,
}

/// The sockets of other pods, listed when first asked for.
pub(crate) struct Peers<'p> {
    /// Finds the socket-listing handle of the pod that has an address.
    pub(crate) find: &'p dyn Fn(IpAddr) -> Option<&'p Mutex<Socket>>,
    /// Per address asked for: the connections that its pod has without the mark, (its end, the other end).
    pub(crate) unmarked: HashMap<IpAddr, HashSet<(SocketAddr, SocketAddr)>>,
}

/// Resets the incoming connections of a pod that `permitted` (source, port) says no to.
pub(crate) fn judge(
    pod: &PodNet,
    sockets: &Mutex<Socket>,
    peers: &mut Peers<'_>,
    permitted: &dyn Fn(IpAddr, u16) -> bool,
) -> Result<Judged, linux::Error> {
    let mut resets = 0;
    for round in 0..=ROUNDS {
        let mut list = connections(sockets)?;
        list.retain(|socket| !permitted(socket.remote.ip(), socket.local.port()));
        // Most changes concern nothing that is open.
        let listened = if list.is_empty() { HashSet::new() } else { listened(sockets)? };
        let mut victims = Vec::new();
        for socket in &list {
            if is_incoming(pod, socket, &listened, peers)? {
                victims.push(socket);
            }
        }
        if victims.is_empty() || round == ROUNDS {
            return Ok(Judged { resets, left: victims.len(), rounds: round });
        }
        let mut handle = sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for victim in victims {
            resets += usize::from(diag::destroy(&mut handle, victim)?);
        }
        // The next round asks the peers afresh as well.
        peers.unmarked.clear();
    }
    Ok(Judged { resets, left: 0, rounds: ROUNDS })
}

/// Resets every connection to or from these addresses, in either direction; all of them if `addresses` is empty.
pub(crate) fn sever(sockets: &Mutex<Socket>, addresses: &[IpAddr]) -> Result<usize, linux::Error> {
    let mut resets = 0;
    for socket in connections(sockets)? {
        if addresses.is_empty() || addresses.contains(&socket.remote.ip()) {
            let mut handle = sockets.lock().unwrap_or_else(PoisonError::into_inner);
            resets += usize::from(diag::destroy(&mut handle, &socket)?);
        }
    }
    Ok(resets)
}

/// Whether there is a connection with one of these addresses, one that is only asked for included.
pub(crate) fn has_connection(sockets: &Mutex<Socket>, addresses: &[IpAddr]) -> Result<bool, linux::Error> {
    Ok(connections(sockets)?.iter().any(|socket| addresses.contains(&socket.remote.ip())))
}

fn connections(sockets: &Mutex<Socket>) -> Result<Vec<TcpSocket>, linux::Error> {
    diag::tcp(&mut sockets.lock().unwrap_or_else(PoisonError::into_inner), &State::CONNECTED)
}

/// Ports that somebody listens on.
fn listened(sockets: &Mutex<Socket>) -> Result<HashSet<u16>, linux::Error> {
    let list = diag::tcp(&mut sockets.lock().unwrap_or_else(PoisonError::into_inner), &[State::Listen])?;
    Ok(list.into_iter().map(|socket| socket.local.port()).collect())
}

fn is_incoming(
    pod: &PodNet,
    socket: &TcpSocket,
    listened: &HashSet<u16>,
    peers: &mut Peers<'_>,
) -> Result<bool, linux::Error> {
    match socket.state {
        State::SynSent => return Ok(false),
        _ if socket.mark == ACCEPTED_MARK => return Ok(true),
        // Inside the pod: by `lo`, never judged.
        _ if is_own(pod, socket.remote.ip()) => return Ok(false),
        // A SYN was let in by the old table, whoever sent one himself.
        State::SynRecv | State::NewSynRecv => return Ok(true),
        _ => {}
    }
    let Some(sockets) = (peers.find)(socket.remote.ip()) else {
        return Ok(listened.contains(&socket.local.port()));
    };
    let unmarked = match peers.unmarked.entry(socket.remote.ip()) {
        std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
        std::collections::hash_map::Entry::Vacant(unknown) => unknown.insert(unmarked(sockets)?),
    };
    // If the other end is gone no data can come: there is nothing to take away.
    Ok(unmarked.contains(&(socket.remote, socket.local)))
}

fn unmarked(sockets: &Mutex<Socket>) -> Result<HashSet<(SocketAddr, SocketAddr)>, linux::Error> {
    Ok(connections(sockets)?
        .into_iter()
        .filter(|socket| socket.mark != ACCEPTED_MARK)
        .map(|socket| (socket.local, socket.remote))
        .collect())
}

fn is_own(pod: &PodNet, address: IpAddr) -> bool {
    address.is_loopback() || address == IpAddr::V4(pod.v4) || address == IpAddr::V6(pod.v6)
}
