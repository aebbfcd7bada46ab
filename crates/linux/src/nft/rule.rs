//! Rules: a sequence of expressions that load into registers, compare, and decide.

use crate::netlink::Message;

/// The first 32-bit register; the n-th is `REGISTER + n`, up to 15.
pub const REGISTER: u32 = 8;
/// The register whose value is the verdict.
const VERDICT_REGISTER: u32 = 0;

/// What `meta` loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Meta {
    /// The packet's mark.
    Mark = 3,
    /// Index of the interface it came in by.
    InputInterface = 4,
    /// Index of the interface it goes out by.
    OutputInterface = 5,
    /// Name of the interface it came in by, 16 bytes.
    InputName = 6,
    /// Name of the interface it goes out by, 16 bytes.
    OutputName = 7,
    /// One byte: 2 is IPv4, 10 is IPv6.
    NetworkFamily = 15,
    /// One byte: 6 is TCP. Missing if the headers could not be followed.
    TransportProtocol = 16,
}

/// From where `payload` loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Base {
    /// The IP header.
    Network = 1,
    /// The TCP or UDP header. Missing in fragments other than the first.
    Transport = 2,
}

/// How `cmp` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Compare {
    /// Equal.
    Equal = 0,
    /// Different.
    Differs = 1,
    /// Less, as numbers in network order.
    Less = 2,
    /// Greater, as numbers in network order.
    Greater = 4,
}

/// Which address NAT rewrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum NatKind {
    /// The source.
    Source = 0,
    /// The destination.
    Destination = 1,
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It is dropped without a word.
    Drop,
    /// It goes to another chain and comes back if that decides nothing.
    Jump(String),
    /// It goes to another chain and does not come back here.
    Goto(String),
    /// Back to where it jumped from; from a base chain: its policy.
    Return,
}

impl Verdict {
    /// A jump without return.
    pub fn goto(chain: &str) -> Self {
        Self::Goto(chain.to_owned())
    }

    /// A jump.
    pub fn jump(chain: &str) -> Self {
        Self::Jump(chain.to_owned())
    }

    pub(super) fn write(&self, message: &mut Message) {
        let (code, chain): (i32, Option<&str>) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        message.nested(2, |verdict| {
            verdict.be32(1, code.cast_unsigned());
            if let Some(chain) = chain {
                verdict.cstr(2, chain);
            }
        });
    }
}

/// A rule: expressions from left to right; the first that does not hold ends it.
#[derive(Debug, Clone)]
pub struct Rule {
    list: Message,
}

impl Default for Rule {
    fn default() -> Self {
        Self::begin()
    }
}

impl Rule {
    /// A rule without expressions: it holds for every packet and does nothing.
    pub fn begin() -> Self {
        Self { list: Message::new(0, 0) }
    }

    /// Any expression: its name in the kernel and its attributes.
    #[must_use]
    pub fn expression(mut self, name: &str, fill: impl FnOnce(&mut Message)) -> Self {
        self.list.nested(1, |one| {
            one.cstr(1, name).nested(2, fill);
        });
        self
    }

    /// Loads a property of the packet.
    #[must_use]
    pub fn meta(self, key: Meta, register: u32) -> Self {
        self.expression("meta", |m| {
            m.be32(2, key as u32).be32(1, register);
        })
    }

    /// Sets the packet's mark.
    #[must_use]
    pub fn set_mark(self, mark: u32) -> Self {
        self.value(REGISTER, &mark.to_ne_bytes()).expression("meta", |m| {
            m.be32(2, Meta::Mark as u32).be32(3, REGISTER);
        })
    }

    /// Loads bytes of the packet.
    #[must_use]
    pub fn payload(self, base: Base, offset: u32, length: u32, register: u32) -> Self {
        self.expression("payload", |m| {
            m.be32(1, register).be32(2, base as u32).be32(3, offset).be32(4, length);
        })
    }

    /// Goes on only if the register compares so.
    #[must_use]
    pub fn compare(self, register: u32, how: Compare, value: &[u8]) -> Self {
        self.expression("cmp", |m| {
            m.be32(1, register).be32(2, how as u32).nested(3, |data| {
                data.bytes(1, value);
            });
        })
    }

    /// Goes on only if the register holds this.
    #[must_use]
    pub fn equals(self, register: u32, value: &[u8]) -> Self {
        self.compare(register, Compare::Equal, value)
    }

    /// Goes on only if the register holds something else.
    #[must_use]
    pub fn differs(self, register: u32, value: &[u8]) -> Self {
        self.compare(register, Compare::Differs, value)
    }

    /// Keeps only the bits of the mask.
    #[must_use]
    pub fn mask(self, register: u32, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        self.expression("bitwise", |m| {
            m.be32(1, register)
                .be32(2, register)
                .be32(3, length)
                .nested(4, |data| {
                    data.bytes(1, mask);
                })
                .nested(5, |data| {
                    data.bytes(1, &vec![0; mask.len()]);
                });
        })
    }

    /// Puts a constant into a register.
    #[must_use]
    pub fn value(self, register: u32, value: &[u8]) -> Self {
        self.expression("immediate", |m| {
            m.be32(1, register).nested(2, |data| {
                data.bytes(1, value);
            });
        })
    }

    /// Goes on only if the key that begins in the register is in the set.
    #[must_use]
    pub fn is_in(self, set: &str, register: u32) -> Self {
        self.expression("lookup", |m| {
            m.cstr(1, set).be32(2, register);
        })
    }

    /// Goes on only if the key that begins in the register is not in the set.
    #[must_use]
    pub fn is_not_in(self, set: &str, register: u32) -> Self {
        self.expression("lookup", |m| {
            m.cstr(1, set).be32(2, register).be32(5, 1);
        })
    }

    /// Takes the verdict that the map has for the key; without one the rule ends.
    #[must_use]
    pub fn verdict_of(self, map: &str, register: u32) -> Self {
        self.expression("lookup", |m| {
            m.cstr(1, map).be32(2, register).be32(3, VERDICT_REGISTER);
        })
    }

    /// Goes on only if an IPv6 packet still carries a fragment header.
    #[must_use]
    pub fn is_ipv6_fragment(self) -> Self {
        // Extension header 44, presence flag 1, operation 0 (IPv6).
        self.expression("exthdr", |m| {
            m.be32(1, REGISTER).u8(2, 44).be32(3, 0).be32(4, 1).be32(5, 1).be32(6, 0);
        })
        .equals(REGISTER, &[1])
    }

    /// Counts on a named counter.
    #[must_use]
    pub fn count(self, counter: &str) -> Self {
        self.expression("objref", |m| {
            m.be32(1, super::COUNTER).cstr(2, counter);
        })
    }

    /// Goes on for at most so many packets a second, and this many at once.
    #[must_use]
    pub fn limit(self, per_second: u64, burst: u32) -> Self {
        self.expression("limit", |m| {
            m.be64(1, per_second).be64(2, 1).be32(3, burst).be32(4, 0);
        })
    }

    /// Sends the head of the packet to the group's listener, with a text of at most 127 bytes.
    #[must_use]
    pub fn log(self, group: u16, prefix: &str, bytes_max: u32, queue: u16) -> Self {
        self.expression("log", |m| {
            m.be16(1, group).cstr(2, prefix).be32(3, bytes_max).be16(4, queue);
        })
    }

    /// Answers with a TCP reset and drops the packet.
    #[must_use]
    pub fn reject_with_reset(self) -> Self {
        self.expression("reject", |m| {
            m.be32(1, 1).u8(2, 0);
        })
    }

    /// Leaves the packet out of connection tracking.
    #[must_use]
    pub fn untracked(self) -> Self {
        self.expression("notrack", |_| {})
    }

    /// Rewrites an address and, if a register is named, the port, from registers.
    #[must_use]
    pub fn nat(self, kind: NatKind, ipv6: bool, address: u32, port: Option<u32>) -> Self {
        self.expression("nat", |m| {
            m.be32(1, kind as u32).be32(2, if ipv6 { 10 } else { 2 }).be32(3, address);
            if let Some(port) = port {
                m.be32(5, port);
            }
        })
    }

    /// Would hand the packet to a transparent listener. Of use here for what it brings along: while a rule with it is
    /// loaded, the kernel puts IPv6 fragments together before the first chain, without tracking connections.
    #[must_use]
    pub fn transparent_ipv6(self, port: u16) -> Self {
        self.value(REGISTER, &port.to_be_bytes()).expression("tproxy", |m| {
            m.be32(1, 10).be32(3, REGISTER);
        })
    }

    /// Decides.
    #[must_use]
    pub fn verdict(self, verdict: &Verdict) -> Self {
        self.expression("immediate", |m| {
            m.be32(1, VERDICT_REGISTER).nested(2, |data| verdict.write(data));
        })
    }

    pub(super) fn expressions(&self) -> &[u8] {
        self.list.after_header()
    }
}
