//! Network namespaces: make, keep, find, enter.
//!
//! A namespace lives as long as something holds it: an open handle ([`NetNs`]), a process inside, or a pin (a bind
//! mount of the handle onto a file). A namespace made here and not pinned therefore leaves nothing behind, however
//! the process ends.
//!
//! Work inside a namespace runs on a thread of its own that ends with the closure: the thread never goes home, so
//! there is no way home that could fail. Sockets keep the namespace they were made in and serve from any thread.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::Error;

/// Where a thread finds a handle of the namespace it is in.
const OWN_HANDLE: &str = "/proc/thread-self/ns/net";

/// An open handle of a network namespace; clones share it.
#[derive(Debug, Clone)]
pub struct NetNs {
    handle: Arc<OwnedFd>,
}

/// Identity of a namespace: two handles with equal ids are the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetNsId {
    /// Device of the namespace file system.
    pub device: u64,
    /// Inode in it.
    pub inode: u64,
}

impl NetNs {
    /// Makes a new, empty namespace: only a `lo` that is down.
    pub fn create() -> Result<Self, Error> {
        made(on_own_thread(unshare).and_then(|made| made))
    }

    /// Makes one from inside this one, where this one's settings say what its children get
    /// (`net/ipv4/tcp_child_ehash_entries`).
    pub fn create_child(&self) -> Result<Self, Error> {
        made(self.run(unshare)?)
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new(OWN_HANDLE))
    }

    /// Opens a namespace by a pin or by `/proc/<pid>/ns/net`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source: io::Error| Error::Netns {
            doing: format!("open the network namespace at `{}`", path.display()),
            source,
        };
        let handle = open_handle(path).map_err(|errno| fail(errno.into()))?;
        // A plain file (a pin whose mount is gone) opens as well as a namespace does: ask which it is.
        let kind = rustix::fs::fstatfs(&handle).map_err(|errno| fail(errno.into()))?;
        if kind.f_type != NSFS_MAGIC {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "it is a plain file, no namespace")));
        }
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Which namespace this is.
    pub fn id(&self) -> Result<NetNsId, Error> {
        let stat = rustix::fs::fstat(&*self.handle)
            .map_err(|errno| Error::Netns { doing: "identify a network namespace".to_owned(), source: errno.into() })?;
        Ok(NetNsId { device: stat.st_dev, inode: stat.st_ino })
    }

    /// The number by which programs for packets and sockets know the namespace (kernel 5.14).
    pub fn cookie(&self) -> Result<u64, Error> {
        let asked =
            self.run(|| UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| cookie(&socket)))?;
        asked.map_err(|source| Error::Netns { doing: "ask for the number of a network namespace".to_owned(), source })
    }

    /// The handle itself, for whoever passes it to the kernel.
    pub fn handle(&self) -> &Arc<OwnedFd> {
        &self.handle
    }

    /// Keeps the namespace alive beyond this process by binding it onto `path`, a file that must not exist yet.
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        let fail = |source: io::Error| Error::Netns {
            doing: format!("pin a network namespace to `{}`", path.display()),
            source,
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(path, flags, Mode::RUSR).map_err(|errno| fail(errno.into()))?;
        // The handle's number is looked up in the table of the process, which all its threads share.
        let by_handle = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
        rustix::mount::mount_bind(by_handle.as_str(), path).map_err(|errno| {
            // Nothing is pinned: leave no empty file that looks as if.
            match rustix::fs::unlink(path) {
                Ok(()) => fail(errno.into()),
                Err(unlinked) => fail(unlinked.into()),
            }
        })
    }

    /// Runs `work` on a thread of its own inside the namespace and returns what it returned.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, Error> {
        let inside = || -> io::Result<R> {
            rustix::thread::move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        on_own_thread(inside)
            .and_then(|done| done)
            .map_err(|source| Error::Netns { doing: "enter a network namespace".to_owned(), source })
    }

    /// A listening TCP socket inside the namespace.
    pub fn tcp_listen(&self, address: SocketAddr) -> Result<TcpListener, Error> {
        self.run(|| TcpListener::bind(address))?.map_err(|source| Error::Netns {
            doing: format!("listen on TCP {address} inside a network namespace"),
            source,
        })
    }

    /// A bound UDP socket inside the namespace.
    pub fn udp_bind(&self, address: SocketAddr) -> Result<UdpSocket, Error> {
        self.run(|| UdpSocket::bind(address))?
            .map_err(|source| Error::Netns { doing: format!("bind UDP {address} inside a network namespace"), source })
    }
}

fn made(handle: io::Result<OwnedFd>) -> Result<NetNs, Error> {
    let handle = handle.map_err(|source| Error::Netns { doing: "make a network namespace".to_owned(), source })?;
    Ok(NetNs { handle: Arc::new(handle) })
}

/// Moves the calling thread to a new namespace. The thread must be made for it.
fn unshare() -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "unshare of the descriptor table would be unsound; of a namespace it is not")]
    // SAFETY: NEWNET alone leaves the descriptor table shared, and the thread is ours and ends right after.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(open_handle(Path::new(OWN_HANDLE))?)
}

/// Of the namespace that a socket is in.
fn cookie(socket: &UdpSocket) -> io::Result<u64> {
    let mut number = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&number)).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "rustix has no getter for this option")]
    // SAFETY: the number and its length live across the call, and the length is the number's.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(number) } else { Err(io::Error::last_os_error()) }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Magic number of the file system of namespaces (`nsfs`, linux/magic.h).
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// Lets go of a pin: the bind mount and its file. `false` if there was none.
pub fn unpin(path: &Path) -> Result<bool, Error> {
    let fail = |errno: rustix::io::Errno| Error::Netns {
        doing: format!("remove the pin `{}` of a network namespace", path.display()),
        source: errno.into(),
    };
    // Pins may be stacked when two starts raced: take all off. EINVAL: not a mount point (any more).
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(fail(errno)),
        }
    }
    match rustix::fs::unlink(path) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(errno) => Err(fail(errno)),
    }
}

fn open_handle(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Runs `work` on a thread made for it; a panic inside goes on in the caller.
fn on_own_thread<R: Send>(work: impl FnOnce() -> R + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}
