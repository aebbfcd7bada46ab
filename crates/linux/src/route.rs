//! Links, addresses, routes and neighbours by rtnetlink.
//!
//! A [`Router`] acts in the namespace its socket was opened in, from whatever thread it is used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use crate::Error;
use crate::netlink::{CREATE, EXCL, Message, Protocol, REPLACE, Reply, Socket, ne32};
use crate::netns::NetNs;

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;

/// Lengths of `ifinfomsg`, `ifaddrmsg`, `rtmsg`, `ndmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// `IFA_F_NODAD | IFA_F_NOPREFIXROUTE`: usable at once, and no route comes with it.
const IFA_PLAIN: u32 = 0x02 | 0x200;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTNH_ONLINK: u32 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
/// `RTPROT_STATIC`: put there by an administrator; anything less is overwritten by daemons that manage routes.
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const IFF_UP: u32 = 0x1;
const IFF_NOARP: u32 = 0x80;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Hardware address.
pub type Mac = [u8; 6];

/// Changes links, addresses, routes and neighbours of one namespace.
#[derive(Debug)]
pub struct Router {
    socket: Socket,
}

/// One end of a veth pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// Its index; none: the kernel chooses. The kernel heeds the peer's only if both ends ask for one.
    pub index: Option<u32>,
    /// Its hardware address.
    pub mac: Mac,
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is: `veth`, `bridge`, ..; empty for hardware and `lo`.
    pub kind: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it resolves no neighbours.
    pub noarp: bool,
    /// Hardware address, empty if it has none.
    pub mac: Vec<u8>,
    /// Largest packet.
    pub mtu: u32,
    /// Index of the other end, in the other end's namespace.
    pub peer: Option<u32>,
}

/// What happens to packets of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Out by this link, to the destination itself.
    Link(u32),
    /// Out by this link to a gateway that is taken to be there (`onlink`).
    Gateway(u32, IpAddr),
    /// Refused: the sender is told at once.
    Unreachable,
    /// Delivered here, though no link has the address; the index is that of `lo`.
    Local(u32),
}

/// A route of the main table; the more precise one wins, whatever the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination and prefix length; prefix 0 is the default route of the family.
    pub to: (IpAddr, u8),
    /// Where packets go.
    pub target: Target,
    /// Source address of what is sent from here, if not the kernel's choice.
    pub source: Option<IpAddr>,
}

impl Router {
    /// For the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    /// For `netns`.
    pub fn open_in(netns: &NetNs) -> Result<Self, Error> {
        netns.run(Self::open)?
    }

    /// Makes a veth pair, both ends down; the peer is born in `peer_netns`, never seen here. Neither end speaks ARP or neighbour
    /// discovery (`NOARP`): frames go to the hardware address of the sending end, so both ends wear the same one.
    pub fn add_veth(&mut self, end: VethEnd<'_>, peer: VethEnd<'_>, peer_netns: &NetNs) -> Result<(), Error> {
        let mut message = Message::new(NEW_LINK, CREATE | EXCL);
        describe(&mut message, end);
        message.nested(IFLA_LINKINFO, |info| {
            info.cstr(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |veth| {
                veth.nested(VETH_INFO_PEER, |other| {
                    describe(other, peer);
                    other.u32(IFLA_NET_NS_FD, peer_netns.handle().as_raw_fd().cast_unsigned());
                });
            });
        });
        self.socket.request(&message)
    }

    /// Raises a link.
    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        let mut message = Message::new(NEW_LINK, 0);
        message.header(&link_header(index, IFF_UP, IFF_UP));
        self.socket.request(&message)
    }

    /// Sets the largest packet of a link.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        let mut message = Message::new(NEW_LINK, 0);
        message.header(&link_header(index, 0, 0)).u32(IFLA_MTU, mtu);
        self.socket.request(&message)
    }

    /// Removes a link, and with a veth its other end; `false` if there is none.
    pub fn delete_link(&mut self, index: u32) -> Result<bool, Error> {
        let mut message = Message::new(DEL_LINK, 0);
        message.header(&link_header(index, 0, 0));
        absent_is_false(self.socket.request(&message))
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut message = Message::new(GET_LINK, 0);
        message.header(&link_header(0, 0, 0));
        self.socket.dump(&message, |reply, list| list.extend(read_link(&reply)))
    }

    /// The link of this name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = Message::new(GET_LINK, 0);
        message.header(&link_header(0, 0, 0)).cstr(IFLA_IFNAME, name);
        let mut found = None;
        let asked = self.socket.query(&message, |reply| found = read_link(&reply));
        Ok(absent_is_false(asked)?.then_some(found).flatten())
    }

    /// Gives a link an address, without any route for its prefix and usable at once.
    pub fn add_address(&mut self, link: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut message = Message::new(NEW_ADDRESS, CREATE | REPLACE);
        let [a, b, c, d] = link.to_ne_bytes();
        message.header(&[family(address), prefix, 0, 0, a, b, c, d]);
        ip(&mut message, IFA_LOCAL, address);
        ip(&mut message, IFA_ADDRESS, address);
        message.u32(IFA_FLAGS, IFA_PLAIN);
        self.socket.request(&message)
    }

    /// The addresses of a link.
    pub fn addresses(&mut self, link: u32) -> Result<Vec<(IpAddr, u8)>, Error> {
        let mut message = Message::new(GET_ADDRESS, 0);
        message.header(&[0; ADDRESS_HEADER]);
        self.socket.dump(&message, |reply, list| {
            let prefix = reply.payload.get(1).copied();
            let index = reply.payload.get(4..).map(ne32);
            let attributes = reply.attributes(ADDRESS_HEADER);
            let address = attributes.find_kind(IFA_LOCAL).or_else(|| attributes.find_kind(IFA_ADDRESS));
            if let (Some(prefix), true, Some(address)) = (prefix, index == Some(link), address.and_then(read_ip)) {
                list.push((address, prefix));
            }
        })
    }

    /// Adds a route, in place of one to the same destination.
    pub fn add_route(&mut self, route: Route) -> Result<(), Error> {
        let message = route_message(NEW_ROUTE, CREATE | REPLACE, route);
        self.socket.request(&message)
    }

    /// Removes a route; `false` if there is none.
    pub fn delete_route(&mut self, route: Route) -> Result<bool, Error> {
        let message = route_message(DEL_ROUTE, 0, route);
        absent_is_false(self.socket.request(&message))
    }

    /// IPv4 destinations that are routed out by a link, of all tables but the local one: network, prefix, link.
    pub fn routed_v4(&mut self) -> Result<Vec<(Ipv4Addr, u8, u32)>, Error> {
        let mut message = Message::new(GET_ROUTE, 0);
        let mut header = [0; ROUTE_HEADER];
        header[0] = AF_INET;
        message.header(&header);
        self.socket.dump(&message, |reply, list| {
            let attributes = reply.attributes(ROUTE_HEADER);
            let (Some(&prefix), Some(&table)) = (reply.payload.get(1), reply.payload.get(4)) else { return };
            let to = match attributes.find_kind(RTA_DST).and_then(read_ip) {
                Some(IpAddr::V4(to)) => to,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let numbered = attributes.find_kind(RTA_TABLE).map_or_else(|| u32::from(table), ne32);
            if let (Some(link), false) = (attributes.find_kind(RTA_OIF), numbered == u32::from(TABLE_LOCAL)) {
                list.push((to, prefix, ne32(link)));
            }
        })
    }

    /// Fixes the hardware address of a neighbour for good.
    pub fn add_neighbour(&mut self, link: u32, address: IpAddr, mac: Mac) -> Result<(), Error> {
        let mut message = Message::new(NEW_NEIGHBOUR, CREATE | REPLACE);
        let mut header = [0; 12];
        header[0] = family(address);
        header[4..8].copy_from_slice(&link.to_ne_bytes());
        header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        message.header(&header);
        ip(&mut message, NDA_DST, address);
        message.bytes(NDA_LLADDR, &mac);
        self.socket.request(&message)
    }
}

impl Route {
    /// A route without a source of its own.
    pub fn new(to: impl Into<IpAddr>, prefix: u8, target: Target) -> Self {
        Self { to: (to.into(), prefix), target, source: None }
    }

    /// `unreachable default` of both families.
    pub fn nowhere() -> [Self; 2] {
        [
            Self::new(Ipv4Addr::UNSPECIFIED, 0, Target::Unreachable),
            Self::new(Ipv6Addr::UNSPECIFIED, 0, Target::Unreachable),
        ]
    }

    /// With the source address of what is sent from here.
    #[must_use]
    pub fn from(self, source: impl Into<IpAddr>) -> Self {
        Self { source: Some(source.into()), ..self }
    }
}

fn route_message(kind: u16, flags: u16, route: Route) -> Message {
    let (to, prefix) = route.to;
    let (table, scope, route_kind, link, gateway) = match route.target {
        Target::Link(link) => (TABLE_MAIN, SCOPE_LINK, 1, Some(link), None),
        Target::Gateway(link, gateway) => (TABLE_MAIN, SCOPE_UNIVERSE, 1, Some(link), Some(gateway)),
        Target::Unreachable => (TABLE_MAIN, SCOPE_UNIVERSE, 7, None, None),
        Target::Local(link) => (TABLE_MAIN, SCOPE_HOST, 2, Some(link), None),
    };
    let onlink = if gateway.is_some() { RTNH_ONLINK } else { 0 };
    let mut header = [0; ROUTE_HEADER];
    header[0] = family(to);
    header[1] = prefix;
    header[4..8].copy_from_slice(&[table, PROTOCOL_STATIC, scope, route_kind]);
    header[8..12].copy_from_slice(&onlink.to_ne_bytes());
    let mut message = Message::new(kind, flags);
    message.header(&header);
    if prefix > 0 {
        ip(&mut message, RTA_DST, to);
    }
    if let Some(link) = link {
        message.u32(RTA_OIF, link);
    }
    if let Some(gateway) = gateway {
        ip(&mut message, RTA_GATEWAY, gateway);
    }
    if let Some(source) = route.source {
        ip(&mut message, RTA_PREFSRC, source);
    }
    message
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Header, name and hardware address of a link to be made.
fn describe(message: &mut Message, end: VethEnd<'_>) {
    message.header(&link_header(end.index.unwrap_or(0), IFF_NOARP, IFF_NOARP));
    message.cstr(IFLA_IFNAME, end.name).bytes(IFLA_ADDRESS, &end.mac);
}

pub(crate) fn read_link(reply: &Reply<'_>) -> Option<Link> {
    let index = reply.payload.get(4..).map(ne32)?;
    let flags = reply.payload.get(8..).map(ne32)?;
    let attributes = reply.attributes(LINK_HEADER);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let nested = attributes.find_kind(IFLA_LINKINFO).map(crate::netlink::attributes);
    Some(Link {
        index,
        name: attributes.find_kind(IFLA_IFNAME).map(text)?,
        kind: nested.and_then(|info| info.find_kind(IFLA_INFO_KIND)).map(text).unwrap_or_default(),
        up: flags & IFF_UP != 0,
        noarp: flags & IFF_NOARP != 0,
        mac: attributes.find_kind(IFLA_ADDRESS).map(<[u8]>::to_vec).unwrap_or_default(),
        mtu: attributes.find_kind(IFLA_MTU).map_or(0, ne32),
        peer: attributes.find_kind(IFLA_LINK).map(ne32),
    })
}

const fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn ip(message: &mut Message, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => message.bytes(kind, &address.octets()),
        IpAddr::V6(address) => message.bytes(kind, &address.octets()),
    };
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

/// `ENODEV`, `ESRCH` and `ENOENT` mean: it is not there.
fn absent_is_false(outcome: Result<(), Error>) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ESRCH | libc::ENOENT)) => Ok(false),
        Err(error) => Err(error),
    }
}
