//! That something about the tables of a namespace has changed, whoever changed it.

use std::os::fd::{AsFd, BorrowedFd};

use crate::Error;
use crate::netlink::{Protocol, Received, Socket};

/// `NFNLGRP_NFTABLES`.
const GROUP: u8 = 7;

/// Hears of changes to the tables of one namespace; readable when there were some. What changed is not said: a queue that
/// runs over loses nothing then.
#[derive(Debug)]
pub struct Changes {
    socket: Socket,
}

impl Changes {
    /// Hears of changes in the calling thread's network namespace from now on.
    pub fn listen() -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.subscribe(GROUP)?;
        Ok(Self { socket })
    }

    /// Takes what has been heard off the queue, without waiting.
    pub fn drain(&mut self) -> Result<(), Error> {
        while self.socket.notifications(|_| {})? != Received::Nothing {}
        Ok(())
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
