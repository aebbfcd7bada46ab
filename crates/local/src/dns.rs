//! DNS for pods: names of the cluster, at once, by UDP and TCP on an address of the node namespace.
//!
//! There is nobody further to ask: names outside of the cluster do not exist here. Short names work by the search list
//! of [`resolv_conf`], as everywhere.

pub(crate) mod answer;
mod zone;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use zone::{CLUSTER_DOMAIN, Entry, Zone};

use crate::node::{Node, Ranges};
use crate::{Error, error};
use answer::Way;

const PORT: u16 = 53;
/// Longest question: a name of 255 bytes, its frame and EDNS options fit many times.
const QUESTION_BYTES_MAX: usize = 4096;
/// Connections at a time of one asker; resolvers use TCP only for answers that were cut, one at a time. Each asker has
/// its own so that none can take the places of others.
const CONNECTIONS_MAX: u32 = 8;
/// Connections at a time of all askers: some kilobytes each.
const ALL_CONNECTIONS_MAX: u32 = 1024;
/// A resolver asks at once; whoever is silent this long gives its place up.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// How soon to accept again after a failure, which mostly is a lack of descriptors: often enough for a resolver that
/// waits seconds, and no spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The answering tasks; they end when this is dropped.
#[derive(Debug)]
pub struct Dns {
    zone: watch::Sender<Arc<Zone>>,
    _tasks: tokio_util::sync::DropGuard,
}

impl Dns {
    /// Begins to answer on the node's DNS addresses, with no names yet. Must be called inside a tokio runtime.
    pub fn start(node: &Node) -> Result<Self, Error> {
        let (sender, zone) = watch::channel(Arc::new(Zone::default()));
        let end = CancellationToken::new();
        for address in [IpAddr::from(node.ranges().dns_v4), node.ranges().dns_v6.into()] {
            let address = SocketAddr::new(address, PORT);
            let (udp, tcp) = bind(node, address)?;
            tokio::spawn(end.clone().run_until_cancelled_owned(serve_udp(udp, zone.clone())));
            tokio::spawn(end.clone().run_until_cancelled_owned(serve_tcp(tcp, zone.clone(), end.clone())));
        }
        Ok(Self { zone: sender, _tasks: end.drop_guard() })
    }

    /// From now on these names hold.
    pub fn publish(&self, zone: Arc<Zone>) {
        self.zone.send_replace(zone);
    }
}

/// The text of `/etc/resolv.conf` of a pod.
pub fn resolv_conf(ranges: &Ranges, namespace: &str) -> String {
    let domain = CLUSTER_DOMAIN;
    format!(
        "search {namespace}.svc.{domain} svc.{domain} {domain}\nnameserver {}\nnameserver {}\noptions ndots:5\n",
        ranges.dns_v4, ranges.dns_v6
    )
}

fn bind(node: &Node, address: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let udp = error::doing("open DNS", node.netns().udp_bind(address))?;
    let tcp = error::doing("open DNS", node.netns().tcp_listen(address))?;
    let to_tokio = || -> io::Result<_> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
    };
    to_tokio().map_err(|source| Error::Dns { address, source })
}

/// One question after the other: an answer is some microseconds of looking up.
async fn serve_udp(socket: UdpSocket, zone: watch::Receiver<Arc<Zone>>) {
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        // Errors are those of earlier answers (nobody listened any more): of no concern to the next question.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let zone = Arc::clone(&zone.borrow());
        if let Some(answer) = answer::answer(&zone, buffer.get(..length).unwrap_or_default(), Way::Udp)
            && let Err(error) = socket.send_to(&answer, from).await
        {
            tracing::debug!(%from, %error, "a DNS answer was not sent");
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: watch::Receiver<Arc<Zone>>, end: CancellationToken) {
    let places = Arc::new(Mutex::new(HashMap::new()));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await; // timer: without descriptors every accept fails at once
            continue;
        };
        // Whoever has no place is hung up on at once, which a resolver understands; waiting it would not.
        let Some(place) = Place::take(&places, from.ip()) else { continue };
        let (zone, end) = (zone.clone(), end.clone());
        tokio::spawn(async move {
            if let Some(Err(error)) = end.run_until_cancelled(converse(stream, &zone)).await {
                tracing::debug!(%from, %error, "a DNS conversation ended early");
            }
            drop(place);
        });
    }
}

/// Open connections by asker.
type Places = Mutex<HashMap<IpAddr, u32>>;

/// The right to one connection; given back when dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    asker: IpAddr,
}

impl Place {
    fn take(places: &Arc<Places>, asker: IpAddr) -> Option<Self> {
        let mut counts = places.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = counts.values().sum();
        let own = counts.get(&asker).copied().unwrap_or(0);
        if own >= CONNECTIONS_MAX || all >= ALL_CONNECTIONS_MAX {
            return None;
        }
        counts.insert(asker, own.saturating_add(1));
        Some(Self { places: Arc::clone(places), asker })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.asker) {
            Some(own) if *own > 1 => *own = own.saturating_sub(1),
            _ => {
                counts.remove(&self.asker);
            }
        }
    }
}

/// Questions of one connection, each led by its length.
async fn converse(mut stream: TcpStream, zone: &watch::Receiver<Arc<Zone>>) -> io::Result<()> {
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        let question = tokio::time::timeout(IDLE_MAX, read_question(&mut stream, &mut buffer)).await??;
        let Some(length) = question else { return Ok(()) };
        let zone = Arc::clone(&zone.borrow());
        let Some(answer) = answer::answer(&zone, buffer.get(..length).unwrap_or_default(), Way::Tcp) else {
            return Ok(());
        };
        let mut framed = u16::try_from(answer.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        tokio::time::timeout(IDLE_MAX, stream.write_all(&framed)).await??;
    }
}

/// The length of the question in the buffer; none when the asker is done.
async fn read_question(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(place) = buffer.get_mut(..length) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the question is too long"));
    };
    stream.read_exact(place).await?;
    Ok(Some(length))
}
