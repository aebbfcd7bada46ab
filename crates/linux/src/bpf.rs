//! eBPF: programs that the kernel runs for each packet of a link or each `connect` of a group of processes, and maps that
//! they share with this process.
//!
//! Wire facts. One system call, `bpf`, with a number and a structure of which the kernel takes the fields it knows; what
//! is not given is zero. A program is checked when it is loaded and compiled for the processor. One that is attached by a
//! link (tcx: kernel 6.6; to groups: 5.7) is gone when the link's last descriptor is closed, however the process ends.

mod program;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::Error;
pub use program::{Label, Program, Reg, Size, Test};

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
/// Answer of a program for packets: what comes after it decides.
pub const PASS_ON: i32 = -1;

/// Flag of a map.
const NO_PREALLOC: u32 = 1;
/// What the kernel says about a program that it refuses is cut off after this.
const WORDS_MAX: usize = 64 * 1024;

/// How a map keeps its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// An element stays until it is removed; a full map refuses more. Memory is taken by each element.
    Hash = 1,
    /// A full map forgets what was used least lately. All memory is taken at once.
    LruHash = 9,
}

/// What a program is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that come in by a link.
    Ingress,
    /// Calls of `connect` with an IPv4 address.
    Connect4,
    /// Calls of `connect` with an IPv6 address.
    Connect6,
}

impl Hook {
    /// Kind of program, and place.
    const fn numbers(self) -> (u32, u32) {
        match self {
            Self::Ingress => (3, 46),
            Self::Connect4 => (18, 10),
            Self::Connect6 => (18, 11),
        }
    }
}

/// A table of fixed-size keys and values.
#[derive(Debug)]
pub struct Map {
    handle: OwnedFd,
    key: usize,
    value: usize,
}

/// A program the kernel has taken.
#[derive(Debug)]
pub struct Loaded {
    handle: OwnedFd,
    hook: Hook,
}

/// A program in its place: it runs until this is dropped.
#[derive(Debug)]
pub struct Attached(#[expect(dead_code, reason = "kept open, which is all that it does")] OwnedFd);

#[repr(C)]
struct CreateMap {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    link: u32,
    attach: u32,
}

#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
    _relative: u64,
    _revision: u64,
}

impl Map {
    /// A map with room for `entries` elements; sizes in bytes.
    pub fn create(kind: MapKind, key: usize, value: usize, entries: u32) -> Result<Self, Error> {
        let flags = match kind {
            MapKind::Hash => NO_PREALLOC,
            MapKind::LruHash => 0,
        };
        let attributes = CreateMap { kind: kind as u32, key: size(key), value: size(value), entries, flags };
        let handle = opened(MAP_CREATE, &attributes).map_err(failed("make a map"))?;
        Ok(Self { handle, key, value })
    }

    /// Gives `key` this value.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.fits(key.len(), value.len())?;
        let element = self.element(key, value.as_ptr());
        call(MAP_UPDATE, &element).map(drop).map_err(failed("write to a map"))
    }

    /// Takes `key` out; one that is not there is no error.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), Error> {
        self.fits(key.len(), self.value)?;
        match call(MAP_DELETE, &self.element(key, std::ptr::null())) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(failed("remove from a map")(error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn element(&self, key: &[u8], value: *const u8) -> Element {
        Element { map: number(&self.handle), _pad: 0, key: key.as_ptr() as u64, value: value as u64, flags: 0 }
    }

    /// The kernel reads as many bytes as the map's sizes say.
    fn fits(&self, key: usize, value: usize) -> Result<(), Error> {
        if (key, value) == (self.key, self.value) {
            return Ok(());
        }
        Err(failed("use a map with keys and values of another size")(io::ErrorKind::InvalidInput.into()))
    }
}

impl Loaded {
    /// Has the kernel check and take a program; its name is what tools show, at most 15 letters.
    pub fn new(hook: Hook, program: &Program, name: &str) -> Result<Self, Error> {
        let (kind, attach) = hook.numbers();
        let load = |log: &mut [u8]| {
            let code = program.code();
            let mut attributes = Load {
                kind,
                count: size(code.len()),
                instructions: code.as_ptr() as u64,
                license: c"Apache-2.0".as_ptr() as u64,
                log_level: u32::from(!log.is_empty()),
                log_size: size(log.len()),
                log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
                kernel_version: 0,
                flags: 0,
                name: [0; 16],
                link: 0,
                attach,
            };
            for (to, from) in attributes.name.iter_mut().take(15).zip(name.bytes()) {
                *to = from;
            }
            opened(PROG_LOAD, &attributes)
        };
        load(&mut []).map(|handle| Self { handle, hook }).map_err(|source| {
            // Once more for the kernel's words; it may refuse for another reason now, so the first answer is the one.
            let mut log = vec![0; WORDS_MAX];
            drop(load(&mut log));
            let words = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
            let last = words.trim_end().lines().rev().take(4).collect::<Vec<_>>();
            let words = last.into_iter().rev().collect::<Vec<_>>().join("; ");
            let said = if words.is_empty() { String::new() } else { format!(" ({words})") };
            Error::Bpf { doing: format!("load a program{said}"), source }
        })
    }

    /// Runs it for every packet that comes in by this link of the calling thread's network namespace.
    pub fn attach(&self, link: u32) -> Result<Attached, Error> {
        self.attach_to(link).map_err(failed("attach a program to a link"))
    }

    /// Runs it for the processes of a group of version 2, given by its folder, and of the groups in it.
    pub fn attach_to_group(&self, folder: &Path) -> Result<Attached, Error> {
        let failed = failed("attach a program to a group of processes");
        let opened = std::fs::File::open(folder).map(OwnedFd::from);
        opened.and_then(|group| self.attach_to(number(&group))).map_err(failed)
    }

    fn attach_to(&self, target: u32) -> io::Result<Attached> {
        let (_, attach) = self.hook.numbers();
        let program = number(&self.handle);
        let attributes = Link { program, target, attach, flags: 0, _relative: 0, _revision: 0 };
        opened(LINK_CREATE, &attributes).map(Attached)
    }
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Bpf { doing: doing.to_owned(), source }
}

fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The kernel writes descriptors as unsigned; an open one is never negative.
fn number(handle: &OwnedFd) -> u32 {
    handle.as_raw_fd().unsigned_abs()
}

fn opened<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let opened = RawFd::try_from(call(command, attributes)?).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "a number from the kernel becomes a descriptor")]
    // SAFETY: the call made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    #[expect(unsafe_code, reason = "there is no safe wrapper of this call")]
    // SAFETY: the attributes are one of the structures above, and their size is theirs. Every address in them is of
    // something that lives across the call and is as long as the kernel is told: keys and values by the sizes of their
    // map, the instructions by their count, the license by its end, the words by their room.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of_val(attributes)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests;
