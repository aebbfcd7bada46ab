//! Somebody else changes the tables: noticed at once, by the kernel's own word, and written anew.
//!
//! One thread hears of every change in the pods' namespaces and in the node's, its own process's included, and looks: is
//! the number of the last change the one that was left there? If not, what is in force is unknown; the table is written
//! whole and open connections are judged again. Whoever has the right to change tables can do so again: this is no wall
//! against root, it is for a tool that flushes what it does not know.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use linux::nft::Changes;
use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::attach::Pod;
use crate::{Error, Shared, lock, publish};

/// Namespaces that are handled per wake-up; the others stay ready.
const READY_MAX: usize = 64;
/// The event of the end.
const END: u64 = 0;
/// That of the node's namespace; pods count from the next number.
const NODE: u64 = 1;

/// What hears of changes. The thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Sentry {
    epoll: OwnedFd,
    end: OwnedFd,
    heard: Mutex<HashMap<u64, Heard>>,
    names: AtomicU64,
    /// How often the guard was laid anew.
    guard_rewritten: AtomicU64,
}

#[derive(Debug)]
struct Heard {
    changes: Changes,
    whose: Whose,
}

#[derive(Debug, Clone)]
enum Whose {
    Node,
    Pod(Weak<Pod>),
}

impl Sentry {
    pub(crate) fn new() -> Result<Self, Error> {
        let (epoll, end) = handles().map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            epoll,
            end,
            heard: Mutex::default(),
            names: AtomicU64::new(NODE + 1),
            guard_rewritten: AtomicU64::new(0),
        })
    }

    /// Looks after the node's namespace from now on, and after pods as they come.
    pub(crate) fn start(shared: &Arc<Shared>, node: Changes) -> Result<(), Error> {
        shared.sentry.hear(NODE, Heard { changes: node, whose: Whose::Node })?;
        let epoll = shared.sentry.epoll.try_clone().map_err(failed)?;
        let weak = Arc::downgrade(shared);
        let run = move || run(&epoll, &weak);
        std::thread::Builder::new().name("sentry".to_owned()).spawn(run).map(drop).map_err(failed)
    }

    /// Looks after a pod's namespace; the number is for [`Self::forget`].
    pub(crate) fn watch(&self, pod: &Arc<Pod>, changes: Changes) -> Result<u64, Error> {
        let name = self.names.fetch_add(1, Ordering::Relaxed);
        self.hear(name, Heard { changes, whose: Whose::Pod(Arc::downgrade(pod)) })?;
        Ok(name)
    }

    pub(crate) fn forget(&self, name: u64) {
        lock(&self.heard).remove(&name);
    }

    pub(crate) fn guard_rewritten(&self) -> u64 {
        self.guard_rewritten.load(Ordering::Relaxed)
    }

    fn hear(&self, name: u64, heard: Heard) -> Result<(), Error> {
        // Under the lock: the thread finds what it is woken for.
        let mut all = lock(&self.heard);
        epoll::add(&self.epoll, &heard.changes, epoll::EventData::new_u64(name), epoll::EventFlags::IN)
            .map_err(|errno| failed(errno.into()))?;
        all.insert(name, heard);
        Ok(())
    }

    /// What an event is about, its queue emptied: changes from here on wake up again.
    fn heard(&self, name: u64) -> Option<Whose> {
        let mut all = lock(&self.heard);
        let heard = all.get_mut(&name)?;
        if let Err(error) = heard.changes.drain() {
            tracing::warn!(%error, "changes of tables are not heard of any more in one namespace");
            return all.remove(&name).map(|heard| heard.whose);
        }
        Some(heard.whose.clone())
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        // An error would say that it is awake already.
        rustix::io::write(&self.end, &1_u64.to_ne_bytes()).ok();
    }
}

fn handles() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &end, epoll::EventData::new_u64(END), epoll::EventFlags::IN)?;
    Ok((epoll, end))
}

fn failed(source: std::io::Error) -> Error {
    Error::Worker { what: "cannot be started", source }
}

fn run(epoll: &OwnedFd, shared: &Weak<Shared>) {
    loop {
        let mut ready = [const { std::mem::MaybeUninit::uninit() }; READY_MAX];
        let events: Vec<u64> = match epoll::wait(epoll, &mut ready, None) {
            Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return tracing::error!(%errno, "changes of tables are noticed with the next snapshot only"),
        };
        // Gone, or going: nobody is left who would write anything anew.
        let Some(shared) = shared.upgrade() else { return };
        for name in events {
            match shared.sentry.heard(name) {
                Some(Whose::Pod(pod)) => {
                    if let Some(pod) = pod.upgrade() {
                        look(&shared, &pod);
                    }
                }
                Some(Whose::Node) => look_at_guard(&shared),
                None => {}
            }
        }
    }
}

/// Looks whether somebody else has changed a pod's tables; then they are written anew, and connections judged again.
pub(crate) fn look(shared: &Shared, pod: &Arc<Pod>) {
    if !lock(&pod.progress).was_changed(pod) {
        return;
    }
    // Without a snapshot nothing was in force but a refusal of everything, and the first snapshot writes all tables.
    if let Some(current) = shared.current.load_full() {
        let enforcement = publish::catch_up(shared, pod, &current);
        if let Some(trouble) = enforcement.trouble.as_deref() {
            tracing::warn!(workload = %pod.workload(), %trouble, "its table was written anew");
        }
    }
}

/// The same for the guard of the node's namespace.
pub(crate) fn look_at_guard(shared: &Shared) {
    let renewed = lock(&shared.guard).renew(shared.current.load_full().as_deref());
    match renewed {
        Ok(true) => drop(shared.sentry.guard_rewritten.fetch_add(1, Ordering::Relaxed)),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "the guard cannot be laid anew"),
    }
}
