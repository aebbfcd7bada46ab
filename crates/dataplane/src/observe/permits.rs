//! Connections that were let in, from their first packet until they are over: one record each, written at the end.
//!
//! How one ends, the kernel tells when the socket is freed, with its counts. An attempt that never had a socket (nobody
//! listens) or only a half-open one (the opener left) ends unheard: sockets are listed some time after its last SYN, and
//! it is over if two listings, a while apart, do not show it. Of one that is established no more is asked than its notice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use linux::diag::{self, Ended, Endings, State, TcpSocket};
use linux::netlink::{Received, Socket};
use linux::nflog::Listener;
use policy::mesh::WorkloadId;
use policy::record::{Close, Record};
use tokio::sync::mpsc;

use super::packet::Attempt;
use super::tell::{Ids, permitted_record, still_permitted};
use super::{Generations, Tally, read_logged};

/// Connections of one pod that are followed at once; a record that waits for its end takes half a KiB.
const OPEN_MAX: usize = 16_384;
/// As much as the socket's queue holds: so many datagrams read are all that waited.
const DRAIN_MAX: usize = 65_536;
/// Notices handled at a time.
const NOTICES_MAX: usize = 4096;
/// After the last SYN until sockets are listed: the opener's first repetition comes after one second.
const FIRST_LOOK: Duration = Duration::from_millis(1500);
/// Between the two listings that must not show an attempt: its notice, had it been open, is long here.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Both ends: the opener's, then the pod's.
type Ends = (SocketAddr, SocketAddr);

/// What the kernel hands out about connections that were let in.
#[derive(Debug)]
pub(crate) struct Sources {
    /// First packets.
    pub(crate) accepts: Listener,
    /// Sockets that are freed.
    pub(crate) endings: Endings,
    /// Lists sockets.
    pub(crate) sockets: Socket,
}

/// What the observer knows of the pod besides.
pub(super) struct Context<'a> {
    pub(super) workload: &'a WorkloadId,
    pub(super) generations: &'a Generations,
    pub(super) tally: &'a Arc<Tally>,
    pub(super) records: &'a mpsc::Sender<Record>,
    pub(super) ids: &'a mut Ids,
}

#[derive(Debug)]
struct Open {
    record: Record,
    sequence: u32,
    began: Instant,
    /// When its last SYN came.
    seen: Instant,
    known: Known,
    /// Somebody asked for its end.
    closing: bool,
}

/// What listings have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    /// The last listing did not show it.
    MissingSince(Instant),
    Established,
}

impl Open {
    /// When sockets are to be listed for it. Each repetition comes at most twice as late as the one before; until that
    /// time an attempt that the kernel drops may still go on.
    fn due(&self) -> Option<Instant> {
        match self.known {
            Known::Established => None,
            Known::MissingSince(when) => Some(when + LOOK_AGAIN),
            Known::Nothing => {
                let took = self.seen.saturating_duration_since(self.began);
                Some(self.seen + FIRST_LOOK.max(took * 5 / 2))
            }
        }
    }
}

/// The connections of one pod that were let in and are not over.
#[derive(Debug)]
pub(super) struct Permits {
    sources: Sources,
    open: HashMap<Ends, Open>,
    /// No attempt is due before this.
    look_at: Option<Instant>,
}

impl Permits {
    pub(super) fn begin(sources: Sources) -> Self {
        Self { sources, open: HashMap::new(), look_at: None }
    }

    /// What tells that first packets wait, and notices.
    pub(super) fn sources(&self) -> [BorrowedFd<'_>; 2] {
        [self.sources.accepts.as_fd(), self.sources.endings.as_fd()]
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.look_at
    }

    /// Takes in what waits. `false`: there may be more first packets in the log.
    pub(super) fn read(&mut self, context: &mut Context<'_>) -> bool {
        // Notices first: whatever they end has its first packet in the log by now.
        let (mut ended, overrun) = self.notices(context.workload);
        let drained = self.first_packets(context, &mut ended);
        for (ends, notices) in ended {
            for notice in notices {
                self.end_observed(ends, notice, context);
            }
        }
        if overrun {
            self.end_missed(context);
        }
        context.tally.set_open(self.open.len());
        drained
    }

    /// Lists sockets if an attempt is due, and ends what never came to be.
    pub(super) fn look(&mut self, now: Instant, context: &mut Context<'_>) {
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        let is_due = |open: &Open| open.due().is_some_and(|due| due <= now);
        if self.open.values().any(is_due) {
            let Some(states) = self.list(context.workload) else { return };
            let mut over = Vec::new();
            for (ends, open) in self.open.iter_mut().filter(|(_, open)| is_due(open)) {
                match (states.get(ends), open.known) {
                    (Some(State::SynRecv | State::NewSynRecv), _) => {
                        (open.seen, open.known) = (now, Known::Nothing);
                    }
                    (Some(_), _) => open.known = Known::Established,
                    (None, Known::MissingSince(_)) => over.push(*ends),
                    (None, _) => open.known = Known::MissingSince(now),
                }
            }
            for ends in over {
                self.end(ends, Close::NeverEstablished, None, context);
            }
            context.tally.set_open(self.open.len());
        }
        self.look_at = self.open.values().filter_map(Open::due).min();
    }

    /// The pod goes: what is open ends with it.
    pub(super) fn end_all(&mut self, context: &mut Context<'_>) {
        let all: Vec<Ends> = self.open.keys().copied().collect();
        for ends in all {
            self.end(ends, Close::WorkloadRemoved, None, context);
        }
        context.tally.set_open(0);
    }

    /// The connections that there are sockets of, with their age.
    pub(super) fn opened(&mut self, workload: &WorkloadId) -> Vec<Record> {
        let Some(sockets) = self.sockets(workload) else { return Vec::new() };
        let there: HashSet<Ends> = sockets.iter().map(|socket| (socket.remote, socket.local)).collect();
        let open = self.open.iter().filter(|(ends, _)| there.contains(*ends));
        let aged = |open: &Open| {
            let duration_us = u64::try_from(open.began.elapsed().as_micros()).ok();
            Record { duration_us, ..open.record.clone() }
        };
        open.map(|(_, open)| aged(open)).collect()
    }

    /// Resets those that are named by the ids of their records; how many there were.
    pub(super) fn close(&mut self, wanted: &HashSet<u64>, workload: &WorkloadId) -> usize {
        if !self.open.values().any(|open| wanted.contains(&open.record.id)) {
            return 0;
        }
        let mut closed = 0;
        for socket in self.sockets(workload).unwrap_or_default() {
            let open = self.open.get_mut(&(socket.remote, socket.local));
            let Some(open) = open.filter(|open| wanted.contains(&open.record.id)) else { continue };
            open.closing = true;
            match diag::destroy(&mut self.sources.sockets, &socket) {
                Ok(there) => closed += usize::from(there),
                Err(error) => tracing::error!(%error, %workload, "cannot close a connection"),
            }
        }
        closed
    }

    fn notices(&mut self, workload: &WorkloadId) -> (HashMap<Ends, VecDeque<Ended>>, bool) {
        let mut ended = HashMap::<Ends, VecDeque<Ended>>::new();
        let mut overrun = false;
        for _ in 0..NOTICES_MAX {
            let each = |one: Ended| ended.entry((one.remote, one.local)).or_default().push_back(one);
            match self.sources.endings.read(each) {
                Ok(Received::Messages) => {}
                Ok(Received::Overrun) => overrun = true,
                Ok(Received::Nothing) => break,
                Err(error) => {
                    tracing::error!(%error, %workload, "cannot read how connections ended");
                    break;
                }
            }
        }
        (ended, overrun)
    }

    fn first_packets(&mut self, context: &mut Context<'_>, ended: &mut HashMap<Ends, VecDeque<Ended>>) -> bool {
        for _ in 0..DRAIN_MAX {
            let mut read = Vec::new();
            let received = self.sources.accepts.read(|logged| {
                context.tally.received.fetch_add(1, Ordering::Relaxed);
                match read_logged(&logged) {
                    Some(found) => read.push(found),
                    None => drop(context.tally.lost.fetch_add(1, Ordering::Relaxed)),
                }
            });
            for (attempt, generation) in read {
                self.take_in(attempt, generation, context, ended);
            }
            match received {
                Ok(Received::Messages) => {}
                Ok(Received::Overrun) => {
                    tracing::warn!(workload = %context.workload, "more connections were let in than could be read: some have no record");
                }
                Ok(Received::Nothing) => return true,
                Err(error) => {
                    tracing::error!(%error, workload = %context.workload, "cannot read connections that were let in");
                    return false;
                }
            }
        }
        false
    }

    fn take_in(
        &mut self,
        attempt: Attempt,
        generation: u64,
        context: &mut Context<'_>,
        ended: &mut HashMap<Ends, VecDeque<Ended>>,
    ) {
        let ends = (attempt.source, attempt.destination);
        let now = Instant::now();
        if let Some(open) = self.open.get_mut(&ends) {
            let established = open.known == Known::Established;
            let notice = ended.get_mut(&ends).and_then(VecDeque::pop_front);
            // On an established connection a SYN opens nothing, whatever its number.
            if open.sequence == attempt.sequence || (established && notice.is_none()) {
                if !established {
                    (open.seen, open.known) = (now, Known::Nothing);
                }
                if let Some(notice) = notice {
                    ended.entry(ends).or_default().push_front(notice);
                }
                context.tally.folded.fetch_add(1, Ordering::Relaxed);
                return;
            }
            // Another attempt between the same ports: the one before is over.
            match notice {
                Some(notice) => self.end_observed(ends, notice, context),
                None => self.end(ends, Close::NeverEstablished, None, context),
            }
        }
        let snapshot = context.generations.of(generation);
        let record = snapshot.and_then(|snapshot| permitted_record(context.workload, &snapshot, context.ids, &attempt));
        // Without one, a table of an earlier process let it in: nobody can say any more why.
        let Some(record) = record.filter(|_| self.open.len() < OPEN_MAX) else {
            context.tally.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let open =
            Open { record, sequence: attempt.sequence, began: now, seen: now, known: Known::Nothing, closing: false };
        self.look_at = self.look_at.into_iter().chain(open.due()).min();
        self.open.insert(ends, open);
    }

    fn end_observed(&mut self, ends: Ends, notice: Ended, context: &mut Context<'_>) {
        let close = if notice.finished { Close::Finished } else { Close::Reset };
        self.end(ends, close, Some(notice), context);
    }

    /// Notices were lost: what no listing shows any more has ended, nobody knows how.
    fn end_missed(&mut self, context: &mut Context<'_>) {
        tracing::warn!(workload = %context.workload, "more connections ended than could be read: the end of some is not observed");
        let Some(states) = self.list(context.workload) else { return };
        let missed: Vec<Ends> = self.open.keys().filter(|ends| !states.contains_key(*ends)).copied().collect();
        for ends in missed {
            self.end(ends, Close::NotObserved, None, context);
        }
    }

    /// Writes the record of a connection that is over.
    fn end(&mut self, ends: Ends, close: Close, notice: Option<Ended>, context: &mut Context<'_>) {
        let Some(open) = self.open.remove(&ends) else { return };
        let mut record = open.record;
        let close = match close {
            Close::Reset if context.tally.is_leaving() => Close::WorkloadRemoved,
            Close::Reset | Close::NeverEstablished if open.closing => Close::Closed,
            // Whoever is no longer permitted was reset for it.
            Close::Reset | Close::NeverEstablished if !still_permitted(context.workload, context.generations, ends) => {
                Close::Revoked
            }
            other => other,
        };
        record.close = Some(close);
        if let Some(notice) = notice {
            record.bytes_received = Some(notice.bytes_received);
            record.bytes_sent = Some(notice.bytes_sent);
            record.duration_us = u64::try_from(open.began.elapsed().as_micros()).ok();
        }
        // The other half is for denials: connections that pass never push one out.
        let room = context.records.capacity() > context.records.max_capacity() / 2;
        if room && context.records.try_send(record).is_ok() {
            context.tally.records.fetch_add(1, Ordering::Relaxed);
        } else {
            context.tally.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The sockets that are there, but for what only waits for stray packets.
    fn list(&mut self, workload: &WorkloadId) -> Option<HashMap<Ends, State>> {
        let sockets = self.sockets(workload)?;
        Some(sockets.into_iter().map(|socket| ((socket.remote, socket.local), socket.state)).collect())
    }

    fn sockets(&mut self, workload: &WorkloadId) -> Option<Vec<TcpSocket>> {
        let listed = diag::tcp(&mut self.sources.sockets, &State::CONNECTED);
        listed.inspect_err(|error| tracing::error!(%error, %workload, "cannot list sockets")).ok()
    }
}
