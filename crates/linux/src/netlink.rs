//! Netlink: messages with attributes, and sockets that carry them.
//!
//! Wire facts. A message is `nlmsghdr` (length u32, kind u16, flags u16, sequence u32, port u32, host order), a fixed
//! header of its family, then attributes: length u16 and kind u16 (host order), the value, padding to 4 bytes. The two
//! top bits of the kind are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`). A reply has the sequence of its request; an
//! error message carries `-errno`, the header it answers and, because every socket here asks for it, the kernel's own
//! words. nfnetlink runs everything between a begin and an end message as one transaction.
//!
//! Not here: what the families mean ([`crate::nft`], [`crate::diag`], [`crate::nflog`], `route`).

pub(crate) mod message;
pub(crate) mod socket;

pub use message::{Attributes, Message, Reply, attributes, be16, be32, be64, ne32};
pub use socket::{Protocol, Received, Socket};

/// `NLM_F_REQUEST`: set on everything that is sent.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: the kernel confirms the message.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: all objects, not one.
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`: overwrite what is there.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail if it is there.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: make it if it is not there.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: put it at the end.
pub const APPEND: u16 = 0x800;

#[cfg(test)]
mod tests;
