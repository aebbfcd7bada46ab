//! Reading back what is in force: tables, counters, elements.

use super::{SUBSYSTEM, Set, Table};
use crate::Error;
use crate::netlink::{Message, Reply, Socket, attributes, be32, be64};

const GET_TABLE: u16 = SUBSYSTEM + 1;
const GET_SET: u16 = SUBSYSTEM + 10;
const GET_ELEMENT: u16 = SUBSYSTEM + 13;
const GET_OBJECT: u16 = SUBSYSTEM + 19;
const GET_RULE: u16 = SUBSYSTEM + 7;
const GET_GENERATION: u16 = SUBSYSTEM + 16;
/// Length of `nfgenmsg`.
const HEADER: usize = 4;

/// A set as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRead {
    /// Its name.
    pub name: String,
}

/// An element as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElementRead {
    /// The key, fields padded to 4 bytes; of a range the lower corner.
    pub key: Vec<u8>,
    /// Of a range: the upper corner.
    pub end: Option<Vec<u8>>,
    /// Of a map whose verdict is a jump: the chain.
    pub chain: Option<String>,
}

impl Table {
    /// Is the table there?
    pub fn is_there(&self, socket: &mut Socket) -> Result<bool, Error> {
        let mut message = self.message(GET_TABLE, 0);
        message.cstr(1, &self.name);
        match socket.request(&message) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The number of the last change to any table of the namespace, whoever made it.
    pub fn generation(&self, socket: &mut Socket) -> Result<u32, Error> {
        let mut generation = 0;
        socket.query(&self.message(GET_GENERATION, 0), |reply| {
            generation = reply.attributes(HEADER).find_kind(1).map_or(0, be32);
        })?;
        Ok(generation)
    }

    /// Packets counted by a named counter.
    pub fn packets(&self, socket: &mut Socket, counter: &str) -> Result<u64, Error> {
        let mut message = self.message(GET_OBJECT, 0);
        message.cstr(1, &self.name).cstr(2, counter).be32(3, super::COUNTER);
        let mut packets = 0;
        socket.query(&message, |reply| {
            if let Some(value) = reply.attributes(HEADER).find_kind(4) {
                packets = attributes(value).find_kind(2).map_or(0, be64);
            }
        })?;
        Ok(packets)
    }

    /// The sets of the table.
    pub fn sets(&self, socket: &mut Socket) -> Result<Vec<SetRead>, Error> {
        let mut message = self.message(GET_SET, 0);
        message.cstr(1, &self.name);
        socket.dump(&message, |reply, list| {
            if let Some(name) = reply.attributes(HEADER).find_kind(2) {
                list.push(SetRead { name: text(name) });
            }
        })
    }

    /// How many rules a chain has.
    pub fn rules(&self, socket: &mut Socket, chain: &str) -> Result<usize, Error> {
        let mut message = self.message(GET_RULE, 0);
        message.cstr(1, &self.name).cstr(2, chain);
        let rules: Vec<()> = socket.dump(&message, |_, list| list.push(()))?;
        Ok(rules.len())
    }

    /// The elements of a set.
    pub fn elements(&self, socket: &mut Socket, set: &Set) -> Result<Vec<ElementRead>, Error> {
        let message: Message = {
            let mut message = self.message(GET_ELEMENT, 0);
            message.cstr(1, &self.name).cstr(2, &set.name);
            message
        };
        socket.dump(&message, read_elements)
    }
}

pub(crate) fn read_elements(reply: Reply<'_>, list: &mut Vec<ElementRead>) {
    let Some(elements) = reply.attributes(HEADER).find_kind(3) else {
        return;
    };
    for (_, element) in attributes(elements) {
        let element = attributes(element);
        let Some(key) = element.find_kind(1).and_then(value) else {
            continue;
        };
        list.push(ElementRead {
            key,
            end: element.find_kind(10).and_then(value),
            chain: element.find_kind(2).and_then(chain),
        });
    }
}

fn value(data: &[u8]) -> Option<Vec<u8>> {
    attributes(data).find_kind(1).map(<[u8]>::to_vec)
}

fn chain(data: &[u8]) -> Option<String> {
    let verdict = attributes(data).find_kind(2)?;
    // -3 and -4: jump and goto.
    let code = attributes(verdict).find_kind(1).map(be32)?.cast_signed();
    if !(-4..=-3).contains(&code) {
        return None;
    }
    attributes(verdict).find_kind(2).map(text)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
