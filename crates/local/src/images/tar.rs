//! Reads tar archives as image builders write them: ustar, GNU's long names, PAX.
//!
//! Not the crate `tar`: it keeps long names and PAX records in memory however long they say they are, and an archive
//! here is anybody's. Nothing is unpacked here; nothing grows beyond a named bound.

use std::io::{self, Read};

const BLOCK: usize = 512;

/// The longest name or link, as the kernel takes them (`PATH_MAX`).
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// The longest extended header of one entry: two names and the attributes that Linux allows a file (64 KiB each, a
/// handful).
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    SymbolicLink,
    Directory,
    Pipe,
    /// A character or block device.
    Device,
}

/// One entry; its content, if it has any, is read from the archive next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) changed: i64,
    pub(super) size: u64,
    /// Extended attributes.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive that is read from its begin to its end.
#[derive(Debug)]
pub(super) struct Archive<R> {
    input: R,
    /// Of the entry that was returned last: content that was not read yet, and what fills its last block.
    content: u64,
    filling: u64,
    position: u64,
}

/// What headers before an entry say of it.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    changed: Option<i64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, content: 0, filling: 0, position: 0 }
    }

    /// The next entry; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(field(&header, 124, 12)).ok_or_else(|| wrong("a size is no number"))?;
            let kind = match field(&header, 156, 1).first().copied().unwrap_or(0) {
                b'0' | b'7' | 0 => Kind::File,
                b'1' => Kind::HardLink,
                b'2' => Kind::SymbolicLink,
                b'3' | b'4' => Kind::Device,
                b'5' => Kind::Directory,
                b'6' => Kind::Pipe,
                b'L' => {
                    extended.name = Some(self.text(size)?);
                    continue;
                }
                b'K' => {
                    extended.link = Some(self.text(size)?);
                    continue;
                }
                b'x' => {
                    let records = self.records(size)?;
                    extended.read(&records)?;
                    continue;
                }
                // Of the whole archive: comments.
                b'g' => {
                    self.records(size)?;
                    continue;
                }
                b'S' => return Err(sparse()),
                other => return Err(wrong(&format!("an entry is of the unknown kind {:?}", char::from(other)))),
            };
            return self.entry(&header, kind, size, extended).map(Some);
        }
    }

    fn entry(&mut self, header: &[u8; BLOCK], kind: Kind, size: u64, extended: Extended) -> io::Result<Entry> {
        let owner = |at: usize| number(field(header, at, 8)).and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        let size = extended.size.unwrap_or(size);
        // Links and the like have no content, whatever they say.
        let size = if kind == Kind::File { size } else { 0 };
        self.content = size;
        self.filling = filling(size);
        let name = extended.name.unwrap_or_else(|| whole_name(header));
        let link = extended.link.unwrap_or_else(|| until_nul(field(header, 157, 100)).to_vec());
        if name.len() > NAME_BYTES_MAX || link.len() > NAME_BYTES_MAX {
            return Err(wrong(&format!("a name is longer than {NAME_BYTES_MAX} bytes")));
        }
        // In the oldest archives a directory is a file whose name ends so.
        let kind = if kind == Kind::File && name.ends_with(b"/") { Kind::Directory } else { kind };
        let mode = number(field(header, 100, 8)).and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        Ok(Entry {
            name,
            link,
            kind,
            mode: mode & 0o7777,
            uid: extended.uid.unwrap_or_else(|| owner(108)),
            gid: extended.gid.unwrap_or_else(|| owner(116)),
            changed: extended.changed.unwrap_or_else(|| {
                number(field(header, 136, 12)).and_then(|number| i64::try_from(number).ok()).unwrap_or(0)
            }),
            size,
            attributes: extended.attributes,
        })
    }

    /// Where the content of the entry that was returned last begins, for archives that can be read again.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let Some(rest) = block.get_mut(filled..) else { break };
            match self.input.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(wrong("it ends in the middle of a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.position = self.position.saturating_add(BLOCK as u64);
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let said = number(field(&block, 148, 8));
        let counted = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) };
        let sum: u64 = block.iter().enumerate().map(counted).sum();
        if said == Some(sum) { Ok(Some(block)) } else { Err(wrong("a header's check sum is wrong")) }
    }

    /// Passes over what is left of the entry before.
    fn skip(&mut self) -> io::Result<()> {
        let left = self.content.saturating_add(self.filling);
        (self.content, self.filling) = (0, 0);
        let passed = io::copy(&mut (&mut self.input).take(left), &mut io::sink())?;
        self.position = self.position.saturating_add(passed);
        if passed == left { Ok(()) } else { Err(wrong("it ends in the middle of an entry")) }
    }

    /// A long name: the content of an entry of its own.
    fn text(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let text = self.records(size)?;
        Ok(until_nul(&text).to_vec())
    }

    fn records(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > HEADER_BYTES_MAX {
            return Err(wrong(&format!("what is said of one entry is longer than {HEADER_BYTES_MAX} bytes")));
        }
        (self.content, self.filling) = (size, filling(size));
        let mut text = Vec::new();
        self.take(size).read_to_end(&mut text)?;
        if self.content == 0 { Ok(text) } else { Err(wrong("it ends in the middle of an entry")) }
    }
}

/// The content of the entry that was returned last.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(into.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(into.get_mut(..most).unwrap_or_default())?;
        if count == 0 {
            return Err(wrong("it ends in the middle of an entry"));
        }
        let read = u64::try_from(count).unwrap_or(u64::MAX);
        self.content = self.content.saturating_sub(read);
        self.position = self.position.saturating_add(read);
        Ok(count)
    }
}

impl Extended {
    /// PAX records: `LENGTH KEY=VALUE`, each with a line end, the length that of the whole record.
    fn read(&mut self, mut records: &[u8]) -> io::Result<()> {
        let broken = || wrong("a PAX record is broken");
        while !records.is_empty() {
            let blank = records.iter().position(|&byte| byte == b' ').ok_or_else(broken)?;
            let length: usize = text_number(records.get(..blank).unwrap_or_default()).ok_or_else(broken)?;
            let record = records.get(blank + 1..length).ok_or_else(broken)?;
            let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(broken)?;
            let (key, value) = record.split_at(equals);
            self.take(key, value.get(1..).unwrap_or_default())?;
            records = records.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let broken = || wrong(&format!("the PAX record `{}` is no number", String::from_utf8_lossy(key)));
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(text_number(value).ok_or_else(broken)?),
            b"uid" => self.uid = Some(text_number(value).ok_or_else(broken)?),
            b"gid" => self.gid = Some(text_number(value).ok_or_else(broken)?),
            b"mtime" => {
                let whole = value.split(|&byte| byte == b'.').next().unwrap_or_default();
                self.changed = Some(text_number(whole).ok_or_else(broken)?);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive is broken: {what}"))
}

fn sparse() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the archive has sparse files; pack it again without --sparse")
}

const fn filling(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn field(header: &[u8; BLOCK], at: usize, length: usize) -> &[u8] {
    header.get(at..at + length).unwrap_or_default()
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The name of a header alone: in ustar its begin stands apart.
fn whole_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(field(header, 0, 100));
    let prefix = until_nul(field(header, 345, 155));
    // GNU's own format has other things there.
    let is_ustar = field(header, 257, 6) == b"ustar\0";
    if is_ustar && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// A number of a header: octal digits, or, with the first bit set, the number itself.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let bytes = std::iter::once(first & 0x7f).chain(rest.iter().copied());
        return bytes.into_iter().try_fold(0_u64, |number, byte| {
            number.checked_mul(256)?.checked_add(u64::from(byte)).filter(|number| *number <= i64::MAX.unsigned_abs())
        });
    }
    let text = until_nul(field);
    let digits = text.trim_ascii();
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        number.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

fn text_number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests;
