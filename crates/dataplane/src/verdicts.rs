//! A workload's verdict table in its own network namespace: `policy::VerdictTable` to nftables, and changes to it.
//!
//! Each family has two maps: one of single addresses and ports, which changes in the same time however large it is, and one
//! of ranges, of which the kernel looks through all elements to take one out. No two elements hold for one packet.
//!
//! The whole table is written once, at attach. After that a change is the difference: elements out and in, and the generation in
//! the log text, in one transaction, so that every first packet meets either the old table or the new one. The kernel changes its
//! maps one after the other, and after the rules: so what changes the fallback, or both maps of a family, or nearly the whole table,
//! is written as new maps beside the old ones, in pieces, and then switched to in one small transaction; so is every change on
//! kernels whose maps lose elements for a moment while a transaction commits ([`crate::selftest`]). A packet that met the old
//! rules may yet look into the old maps, so they stay until no such packet is left. Nothing here decides: it says what
//! `policy` said.

mod cells;
mod rules;

use std::borrow::Borrow;

use linux::netlink::{Protocol, Socket};
use linux::nft::{BaseChain, ChainKind, Element, Family, Field, Hook, Set, Table, Transaction};

use crate::PodNet;
use crate::selftest::Kernel;
pub(crate) use cells::{Cell, Goes, Half};
pub(crate) use rules::{ACCEPT_LOG_GROUP, ACCEPTED_MARK, LOG_BYTES, LOG_GROUP, LOG_PREFIX};

/// Name of the table in each pod, for whoever lists a pod's namespace.
pub const TABLE: &str = "tidegate";
/// Elements of one message while a new map is filled. A transaction of two of them stays below the socket buffer that an
/// ordinary user may ask for (416 KiB).
const PIECE: usize = 1000;
/// Room for the largest difference in one transaction: the whole of a map, out and in, at about 150 bytes an element.
const SEND_BYTES: usize = 8 * 1024 * 1024;
/// Below this many changed elements a difference is always cheaper than a new map (0.3 ms against one transaction more).
const DIFFERENCE_MIN: usize = 64;

/// What a table shall say.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) generation: u64,
    pub(crate) four: Half,
    pub(crate) six: Half,
    /// Says what a snapshot says, and not less.
    pub(crate) made: bool,
}

impl Wanted {
    /// Refuses everything.
    pub(crate) fn closed(generation: u64) -> Self {
        Self { generation, four: Half::closed(), six: Half::closed(), made: false }
    }

    /// Says of both families the same as `other`.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.four.same(&other.four) && self.six.same(&other.six)
    }

    fn halves(&self) -> [&Half; 2] {
        [&self.four, &self.six]
    }

    /// How many elements it takes.
    pub(crate) fn elements(&self) -> usize {
        self.four.count() + self.six.count()
    }

    /// Whether it lets in what no element is about.
    pub(crate) fn is_open(&self) -> bool {
        self.halves().iter().all(|half| half.fallback() == Goes::Allow)
    }
}

/// What is known to be in force.
#[derive(Debug)]
struct Loaded {
    wanted: Wanted,
    maps: [Maps; 2],
}

/// The maps of one family.
#[derive(Debug)]
struct Maps {
    singles: Set,
    ranges: Set,
}

impl Maps {
    fn new(address: Field, number: u32) -> Self {
        let family = if address == Field::Ipv4 { rules::FOUR } else { rules::SIX };
        let map = |kind: &str, intervals: bool| Set {
            name: format!("{family}_{kind}_{number}"),
            key: vec![address, Field::Port],
            intervals,
            verdicts: true,
        };
        Self { singles: map("singles", false), ranges: map("ranges", true) }
    }

    fn both(&self) -> [&Set; 2] {
        [&self.singles, &self.ranges]
    }

    fn names(&self) -> [&str; 2] {
        self.both().map(|map| map.name.as_str())
    }
}

/// What changes of one family: cells out and in, of each map.
struct Change {
    singles: [Vec<Element>; 2],
    ranges: [Vec<Element>; 2],
}

impl Change {
    fn between(old: &Half, new: &Half) -> Self {
        let (out, into) = old.difference(new);
        let of = |singles: bool| {
            [&out, &into].map(|cells| elements(cells.iter().filter(|cell| cell.is_single() == singles)))
        };
        Self { singles: of(true), ranges: of(false) }
    }

    fn len(&self) -> usize {
        self.singles.iter().chain(&self.ranges).map(Vec::len).sum()
    }

    fn is_of_both(&self) -> bool {
        let is_some = |elements: &[Vec<Element>; 2]| elements.iter().any(|list| !list.is_empty());
        is_some(&self.singles) && is_some(&self.ranges)
    }
}

/// The table of one pod, by a socket of the pod's namespace.
#[derive(Debug)]
pub(crate) struct Verdicts {
    table: Table,
    socket: Socket,
    pod: PodNet,
    kernel: Kernel,
    loaded: Option<Loaded>,
    /// The namespace's generation of tables after the last change that was made here.
    left_at: u32,
    /// Number of the last map made; names are never used twice.
    maps_made: u32,
    /// Maps that no rule in force looks into.
    left_over: Vec<Set>,
}

impl Verdicts {
    /// Opens the socket, inside the pod's namespace. A table of an earlier process stays as it is; if there is none, one
    /// that refuses everything is in force when this returns.
    pub(crate) fn open(pod: &PodNet, kernel: Kernel) -> Result<Self, linux::Error> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        socket.reserve_send(SEND_BYTES)?;
        let table = Table::named(Family::Inet, TABLE);
        let there = table.is_there(&mut socket)?;
        let mut verdicts = Self {
            table,
            socket,
            pod: pod.clone(),
            kernel,
            loaded: None,
            left_at: 0,
            maps_made: 0,
            left_over: Vec::new(),
        };
        if there {
            verdicts.maps_made = verdicts.highest_map()?;
        } else {
            verdicts.load(Wanted::closed(0))?;
        }
        Ok(verdicts)
    }

    /// What is in force; `None` if a load failed or an earlier process loaded it.
    pub(crate) fn in_force(&self) -> Option<&Wanted> {
        self.loaded.as_ref().map(|loaded| &loaded.wanted)
    }

    /// Whether somebody else has changed tables of the namespace since the last load. Then what is in force is unknown, and
    /// the next load writes the whole table.
    pub(crate) fn was_changed(&mut self) -> bool {
        let now = self.table.generation(&mut self.socket).ok();
        let changed = self.loaded.is_some() && now != Some(self.left_at);
        if changed {
            self.loaded = None;
        }
        changed
    }

    /// Puts a table into force. On failure the workload refuses everything, if the kernel still takes that.
    pub(crate) fn load(&mut self, wanted: Wanted) -> Result<(), linux::Error> {
        let loaded = self.loaded.take().filter(|_| !self.kernel.swaps_chains);
        let small = loaded.and_then(|loaded| small_change(&loaded.wanted, &wanted).map(|change| (loaded.maps, change)));
        let done = match small {
            // Somebody may have removed the table or parts of it: then the whole is written again.
            Some((maps, change)) => self.difference(maps, &change, wanted.clone()).or_else(|_| self.whole(wanted)),
            None => self.whole(wanted),
        };
        if done.is_err() {
            // What is in force is unknown. The first failure is the one to tell; `loaded` stays empty.
            self.close()?;
        }
        self.left_at = self.table.generation(&mut self.socket)?;
        done
    }

    /// The maps in force, by their number.
    pub(crate) fn maps_made(&self) -> u32 {
        self.maps_made
    }

    /// Removes the maps from which was switched to these; to be called when no packet that met the rules before is on its way.
    pub(crate) fn tidy(&mut self, maps: u32) -> Result<(), linux::Error> {
        if self.left_over.is_empty() || self.loaded.is_none() || self.maps_made != maps {
            return Ok(());
        }
        let mut remove = Transaction::on(&self.table);
        for set in self.left_over.drain(..) {
            remove.delete_set(&set);
        }
        remove.commit(&mut self.socket)?;
        // One change further, and not two: another one would be somebody else's.
        self.left_at = self.left_at.checked_add(1).unwrap_or(1);
        Ok(())
    }

    /// First packets accepted and refused, refusals logged, and packets dropped for their form, since the table was made.
    pub(crate) fn counters(&mut self) -> Result<[u64; 4], linux::Error> {
        let mut counts = [0; 4];
        for (count, name) in counts.iter_mut().zip([rules::ACCEPTED, rules::REFUSED, rules::LOGGED, rules::MALFORMED]) {
            *count = self.table.packets(&mut self.socket, name)?;
        }
        Ok(counts)
    }

    /// From here on what is in force is said in these words, which mean the same.
    pub(crate) fn keep(&mut self, wanted: Wanted) {
        if let Some(loaded) = &mut self.loaded {
            loaded.wanted = Wanted { generation: loaded.wanted.generation, ..wanted };
        }
    }

    fn difference(&mut self, maps: [Maps; 2], changes: &[Change; 2], wanted: Wanted) -> Result<(), linux::Error> {
        let mut write = Transaction::on(&self.table);
        for (maps, change) in maps.iter().zip(changes) {
            for (map, [out, into]) in [(&maps.singles, &change.singles), (&maps.ranges, &change.ranges)] {
                write.remove(map, out).add(map, into);
            }
        }
        rules::outcomes(&mut write, wanted.generation);
        write.commit(&mut self.socket)?;
        self.loaded = Some(Loaded { wanted, maps });
        Ok(())
    }

    /// Fills new maps that nothing looks into yet, then switches to them.
    fn whole(&mut self, wanted: Wanted) -> Result<(), linux::Error> {
        let old = self.maps()?;
        self.maps_made += 1;
        let maps = [Field::Ipv4, Field::Ipv6].map(|address| Maps::new(address, self.maps_made));
        let mut lay = Transaction::on(&self.table);
        Self::chains(&mut lay);
        for map in maps.iter().flat_map(Maps::both) {
            lay.set(map);
        }
        lay.commit(&mut self.socket)?;
        for (maps, half) in maps.iter().zip(wanted.halves()) {
            for (map, singles) in [(&maps.singles, true), (&maps.ranges, false)] {
                let cells = half.cells().filter(|cell| cell.is_single() == singles);
                for piece in elements(cells).chunks(PIECE) {
                    let mut fill = Transaction::on(&self.table);
                    fill.add(map, piece);
                    fill.commit(&mut self.socket)?;
                }
            }
        }
        let mut switch = Transaction::on(&self.table);
        rules::frame(&mut switch, self.pod.v4, self.pod.v6, self.kernel.defragments);
        for (chain, (maps, half)) in [rules::FOUR, rules::SIX].into_iter().zip(maps.iter().zip(wanted.halves())) {
            rules::family(&mut switch, chain, &maps.names(), half);
        }
        rules::outcomes(&mut switch, wanted.generation);
        switch.commit(&mut self.socket)?;
        self.left_over = old;
        self.loaded = Some(Loaded { wanted, maps });
        Ok(())
    }

    /// Refuses everything, without any map: the least that can be asked of the kernel.
    fn close(&mut self) -> Result<(), linux::Error> {
        let mut close = Transaction::on(&self.table);
        Self::chains(&mut close);
        rules::frame(&mut close, self.pod.v4, self.pod.v6, self.kernel.defragments);
        rules::family(&mut close, rules::FOUR, &[], &Half::closed());
        rules::family(&mut close, rules::SIX, &[], &Half::closed());
        rules::outcomes(&mut close, 0);
        close.commit(&mut self.socket)
    }

    /// Table, chains and counters; those that are there stay.
    fn chains(write: &mut Transaction) {
        let input = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 0, accept: false };
        write.create_table();
        for counter in [rules::ACCEPTED, rules::REFUSED, rules::LOGGED, rules::MALFORMED] {
            write.counter(counter);
        }
        for chain in [rules::FOUR, rules::SIX, cells::ALLOW, cells::DENY, rules::DEFRAGMENT] {
            write.chain(chain);
        }
        write.base_chain(rules::INPUT, input);
    }

    fn maps(&mut self) -> Result<Vec<Set>, linux::Error> {
        if !self.table.is_there(&mut self.socket)? {
            return Ok(Vec::new());
        }
        let names = self.table.sets(&mut self.socket)?;
        // To remove a map its name is enough.
        Ok(names.into_iter().map(|read| Set { name: read.name, ..Maps::new(Field::Ipv4, 0).ranges }).collect())
    }

    fn highest_map(&mut self) -> Result<u32, linux::Error> {
        let number = |set: &Set| set.name.rsplit('_').next().and_then(|number| number.parse().ok());
        Ok(self.maps()?.iter().filter_map(number).max().unwrap_or(0))
    }
}

fn elements<C: Borrow<Cell>>(cells: impl Iterator<Item = C>) -> Vec<Element> {
    cells.filter_map(|cell| cell.borrow().element()).collect()
}

/// The difference of two tables, if it may be written as one and is cheaper than the new one as a whole.
fn small_change(before: &Wanted, wanted: &Wanted) -> Option<[Change; 2]> {
    let mut halves = before.halves().into_iter().zip(wanted.halves());
    if halves.any(|(old, new)| old.fallback() != new.fallback()) {
        return None;
    }
    let changes = [Change::between(&before.four, &wanted.four), Change::between(&before.six, &wanted.six)];
    let is_small = changes.iter().map(Change::len).sum::<usize>() <= DIFFERENCE_MIN.max(wanted.elements() / 2);
    (is_small && !changes.iter().any(Change::is_of_both)).then_some(changes)
}
