//! Netlink messages: writing them, and reading the attributes of what comes back.

/// Length of `nlmsghdr`.
pub(super) const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NESTED: u16 = 1 << 15;
const KIND_MASK: u16 = 0x3fff;

/// One message under construction; sequence and length are written when it is sent.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Begins a message. `NLM_F_REQUEST` is added to `flags`.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | super::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    /// Appends the fixed header of the family (`nfgenmsg`, `ifinfomsg`, ..), padded to 4 bytes.
    pub fn header(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute of raw bytes.
    ///
    /// An attribute holds at most 65,531 bytes: its length is a u16. A longer one is cut off in the length field and
    /// the kernel refuses the message, so whoever writes lists splits them.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + ATTRIBUTE_HEADER).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends an attribute of one byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Appends an attribute in host order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute in host order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute in host order.
    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute in network order.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends an attribute in network order.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends an attribute in network order.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends a text that ends in a zero byte.
    pub fn cstr(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut value = Vec::with_capacity(text.len() + 1);
        value.extend_from_slice(text.as_bytes());
        value.push(0);
        self.bytes(kind, &value)
    }

    /// Appends an attribute without a value.
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.bytes(kind, &[])
    }

    /// Appends an attribute that holds what `fill` writes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nested_plain(kind | NESTED, fill)
    }

    /// As [`Self::nested`] without `NLA_F_NESTED`, for old families that compare the kind exactly.
    pub fn nested_plain(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(field) = self.bytes.get_mut(start..start + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self
    }

    /// Appends attributes that are written already.
    pub(crate) fn raw(&mut self, attributes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(attributes);
        self
    }

    /// What was written after the netlink header.
    pub(crate) fn after_header(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// Length so far, for whoever splits lists.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The kind it was begun with.
    pub fn kind(&self) -> u16 {
        u16_at(&self.bytes, 4)
    }

    /// Adds flags to the header.
    pub fn add_flags(&mut self, flags: u16) -> &mut Self {
        let all = u16_at(&self.bytes, 6) | flags;
        if let Some(field) = self.bytes.get_mut(6..8) {
            field.copy_from_slice(&all.to_ne_bytes());
        }
        self
    }

    /// The message as it goes over the socket.
    pub(crate) fn finish(&self, sequence: u32, into: &mut Vec<u8>) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        into.extend_from_slice(&length.to_ne_bytes());
        into.extend_from_slice(self.bytes.get(4..8).unwrap_or_default());
        into.extend_from_slice(&sequence.to_ne_bytes());
        into.extend_from_slice(self.bytes.get(12..).unwrap_or_default());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// Sequence of the request it answers.
    pub sequence: u32,
    /// Everything after the netlink header: the family's header, then attributes.
    pub payload: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The attributes that follow a family header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        attributes(self.payload.get(header.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// Takes one message off the front of `bytes`.
pub(crate) fn split<'a>(bytes: &mut &'a [u8]) -> Option<Reply<'a>> {
    let length = usize::try_from(u32_at(bytes, 0)).ok()?;
    if length < HEADER || length > bytes.len() {
        return None;
    }
    let reply = Reply {
        kind: u16_at(bytes, 4),
        flags: u16_at(bytes, 6),
        sequence: u32_at(bytes, 8),
        payload: bytes.get(HEADER..length)?,
    };
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(reply)
}

/// Reads attributes: kind without its flag bits, and value. Stops at the first that does not fit.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

/// The attributes of a message or of a nested attribute.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind.
    pub fn find_kind(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0));
        let value = self.rest.get(ATTRIBUTE_HEADER..length)?;
        let kind = u16_at(self.rest, 2) & KIND_MASK;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The first two bytes in network order; 0 if there are fewer.
pub fn be16(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |b| u16::from_be_bytes(*b))
}

/// The first four bytes in network order; 0 if there are fewer.
pub fn be32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b))
}

/// The first eight bytes in network order; 0 if there are fewer.
pub fn be64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
}

/// The first four bytes in host order; 0 if there are fewer.
pub fn ne32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u16::from_ne_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).map_or(0, ne32)
}
