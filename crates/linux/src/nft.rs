//! nftables over netlink: one atomic transaction per call, and reading back what is in force.
//!
//! Wire facts. Messages are `NFNL_SUBSYS_NFTABLES << 8 + kind` with an `nfgenmsg` header (family, version 0, resource id).
//! Integers of nftables are in network order; packet data in keys and comparisons is as on the wire, what `meta` loads
//! (interface index, mark) is in host order. Registers: 8 to 23 are the 32-bit ones; a lookup reads consecutive registers
//! from its first, each field of a concatenation padded to 4 bytes. An interface name is compared over 16 bytes.
//! A transaction sees its own earlier messages: a set is made and filled, a chain emptied and filled again, in one.
//! A new set needs an id (any number, unique in the transaction). Concatenated intervals (`pipapo`) refuse overlaps.
//!
//! Not here: any meaning. Which chains stand where is said by `dataplane` and `local`.

mod changes;
pub(crate) mod read;
mod rule;
mod set;

use crate::Error;
use crate::netlink::{APPEND, CREATE, Message, Socket};

pub use changes::Changes;
pub use read::{ElementRead, SetRead};
pub use rule::{Base, Compare, Meta, NatKind, REGISTER, Rule, Verdict};
pub use set::{Element, Field, Set};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM + 2;
const NEW_CHAIN: u16 = SUBSYSTEM + 3;
const DELETE_CHAIN: u16 = SUBSYSTEM + 5;
const NEW_RULE: u16 = SUBSYSTEM + 6;
const DELETE_RULE: u16 = SUBSYSTEM + 8;
const NEW_SET: u16 = SUBSYSTEM + 9;
const DELETE_SET: u16 = SUBSYSTEM + 11;
const NEW_ELEMENT: u16 = SUBSYSTEM + 12;
const DELETE_ELEMENT: u16 = SUBSYSTEM + 14;
const NEW_OBJECT: u16 = SUBSYSTEM + 18;
const DELETE_OBJECT: u16 = SUBSYSTEM + 20;

/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;

/// The address family of a table: which packets its chains see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4 only.
    Ipv4 = 2,
    /// IPv6 only.
    Ipv6 = 10,
}

/// Where a base chain is called; the numbers are those of `enum nf_inet_hooks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// Every packet that comes in, before routing.
    Prerouting = 0,
    /// Packets for this namespace; IPv4 fragments are whole by then.
    Input = 1,
    /// Packets passing through.
    Forward = 2,
    /// Packets made here.
    Output = 3,
    /// Every packet that goes out, after routing.
    Postrouting = 4,
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Filters.
    Filter,
    /// Sees the first packet of a connection and may rewrite it; switches connection tracking on.
    Nat,
    /// As a filter in the output hook, and routes again if the mark changed.
    Route,
}

/// How a base chain hangs in the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// Its type.
    pub kind: ChainKind,
    /// Where it is called.
    pub hook: Hook,
    /// Lower is earlier: raw -300, connection tracking -200, destination NAT -100, filter 0, source NAT 100.
    pub priority: i32,
    /// What happens to a packet that no rule decided: `true` lets it pass.
    pub accept: bool,
}

/// A table: the name under which everything else is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name, unique in the family.
    pub name: String,
}

impl Table {
    /// Names a table; nothing is changed yet.
    pub fn named(family: Family, name: &str) -> Self {
        Self { family, name: name.to_owned() }
    }

    fn message(&self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(kind, flags);
        message.header(&[self.family as u8, 0, 0, 0]);
        message
    }
}

/// Changes to one table that take effect at once, or not at all.
#[derive(Debug, Clone)]
pub struct Transaction {
    table: Table,
    messages: Vec<Message>,
    sets: u32,
}

impl Transaction {
    /// Begins; nothing happens before [`Self::commit`].
    pub fn on(table: &Table) -> Self {
        Self { table: table.clone(), messages: Vec::new(), sets: 0 }
    }

    /// Makes the table; one that is there stays as it is.
    pub fn create_table(&mut self) -> &mut Self {
        let name = self.table.name.clone();
        self.push(NEW_TABLE, CREATE, |m| {
            m.cstr(1, &name);
        })
    }

    /// Removes the table and all that is in it, whether it is there or not.
    pub fn delete_table(&mut self) -> &mut Self {
        let name = self.table.name.clone();
        self.create_table().push(DELETE_TABLE, 0, |m| {
            m.cstr(1, &name);
        })
    }

    /// Makes a chain that others jump to; one that is there stays as it is.
    pub fn chain(&mut self, chain: &str) -> &mut Self {
        self.in_table(NEW_CHAIN, CREATE, |m| {
            m.cstr(3, chain);
        })
    }

    /// Makes a chain that the stack calls; one that is there stays, with the policy given here.
    pub fn base_chain(&mut self, chain: &str, base: BaseChain) -> &mut Self {
        self.in_table(NEW_CHAIN, CREATE, |m| {
            m.cstr(3, chain)
                .nested(4, |hook| {
                    hook.be32(1, u32::from(base.hook as u8)).be32(2, base.priority.cast_unsigned());
                })
                .be32(5, u32::from(base.accept))
                .cstr(
                    7,
                    match base.kind {
                        ChainKind::Filter => "filter",
                        ChainKind::Nat => "nat",
                        ChainKind::Route => "route",
                    },
                );
        })
    }

    /// Takes all rules out of a chain.
    pub fn flush_chain(&mut self, chain: &str) -> &mut Self {
        self.in_table(DELETE_RULE, 0, |m| {
            m.cstr(2, chain);
        })
    }

    /// Removes a chain that is empty and that nothing jumps to.
    pub fn delete_chain(&mut self, chain: &str) -> &mut Self {
        self.in_table(DELETE_CHAIN, 0, |m| {
            m.cstr(3, chain);
        })
    }

    /// Appends a rule to a chain.
    pub fn rule(&mut self, chain: &str, rule: &Rule) -> &mut Self {
        self.in_table(NEW_RULE, CREATE | APPEND, |m| {
            m.cstr(2, chain).nested(4, |list| {
                list.raw(rule.expressions());
            });
        })
    }

    /// Makes a named counter; one that is there keeps its count.
    pub fn counter(&mut self, counter: &str) -> &mut Self {
        self.in_table(NEW_OBJECT, CREATE, |m| {
            m.cstr(2, counter).be32(3, COUNTER).nested(4, |value| {
                value.be64(1, 0).be64(2, 0);
            });
        })
    }

    /// Removes a named counter that no rule uses.
    pub fn delete_counter(&mut self, counter: &str) -> &mut Self {
        self.in_table(DELETE_OBJECT, 0, |m| {
            m.cstr(2, counter).be32(3, COUNTER);
        })
    }

    /// Makes a set or a map; one that is there stays, if it has the same shape.
    pub fn set(&mut self, set: &Set) -> &mut Self {
        self.sets += 1;
        let id = self.sets;
        self.in_table(NEW_SET, CREATE, |m| set.write(id, m))
    }

    /// Removes a set that no rule uses.
    pub fn delete_set(&mut self, set: &Set) -> &mut Self {
        self.in_table(DELETE_SET, 0, |m| {
            m.cstr(2, &set.name);
        })
    }

    /// Takes all elements out of a set.
    pub fn flush_set(&mut self, set: &Set) -> &mut Self {
        self.in_table(DELETE_ELEMENT, 0, |m| {
            m.cstr(2, &set.name);
        })
    }

    /// Adds elements to a set; one that is there with the same value stays.
    pub fn add(&mut self, set: &Set, elements: &[Element]) -> &mut Self {
        self.elements(NEW_ELEMENT, CREATE, set, elements)
    }

    /// Removes elements from a set; one that is not there fails the transaction.
    pub fn remove(&mut self, set: &Set, elements: &[Element]) -> &mut Self {
        self.elements(DELETE_ELEMENT, 0, set, elements)
    }

    /// Bytes that the kernel will be handed at once.
    pub fn length(&self) -> usize {
        self.messages.iter().map(Message::length).sum()
    }

    /// Puts everything into force, or nothing.
    pub fn commit(self, socket: &mut Socket) -> Result<(), Error> {
        socket.batch(&self.messages)
    }

    fn push(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Message)) -> &mut Self {
        let mut message = self.table.message(kind, flags);
        fill(&mut message);
        self.messages.push(message);
        self
    }

    /// As `push`, with the table's name as attribute 1, as all but tables themselves have it.
    fn in_table(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Message)) -> &mut Self {
        let table = self.table.name.clone();
        self.push(kind, flags, |m| {
            m.cstr(1, &table);
            fill(m);
        })
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &Set, elements: &[Element]) -> &mut Self {
        let mut elements = elements.iter().peekable();
        while elements.peek().is_some() {
            self.in_table(kind, flags, |m| {
                m.cstr(2, &set.name).nested(3, |list| {
                    while list.length() < set::LIST_BYTES {
                        let Some(element) = elements.next() else {
                            break;
                        };
                        element.write(list);
                    }
                });
            });
        }
        self
    }
}

#[cfg(test)]
mod tests;
