//! A workload's verdict table in its own network namespace: `policy::VerdictTable` to nftables, and changes to it.
//!
//! The whole table is written once, at attach. After that a change is the difference: elements out and in, the
//! fallback, the generation in the log text, in one transaction, so that every first packet meets either the old table
//! or the new one. A difference that is nearly the whole table is written as a new map beside the old one, in pieces, and then
//! switched to in one small transaction; so is every change on kernels whose maps lose elements for a moment while a
//! transaction commits ([`crate::selftest`]). Nothing here decides: it says what `policy` said.

mod cells;
mod rules;

use std::collections::BTreeSet;

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
}

impl Wanted {
    /// Refuses everything.
    pub(crate) fn closed(generation: u64) -> Self {
        Self { generation, four: Half::closed(), six: Half::closed() }
    }

    /// Says of both families the same as `other`.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.four == other.four && self.six == other.six
    }

    /// How many elements it takes.
    pub(crate) fn elements(&self) -> usize {
        self.four.cells.len() + self.six.cells.len()
    }

    /// Whether it lets in what no element is about.
    pub(crate) fn is_open(&self) -> bool {
        [&self.four, &self.six].iter().all(|half| half.fallback == Goes::Allow)
    }
}

/// What is known to be in force.
#[derive(Debug)]
struct Loaded {
    wanted: Wanted,
    maps: [Set; 2],
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
}

impl Verdicts {
    /// Opens the socket, inside the pod's namespace. A table of an earlier process stays as it is; if there is none, one
    /// that refuses everything is in force when this returns.
    pub(crate) fn open(pod: &PodNet, kernel: Kernel) -> Result<Self, linux::Error> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        socket.reserve_send(SEND_BYTES)?;
        let table = Table::named(Family::Inet, TABLE);
        let there = table.is_there(&mut socket)?;
        let mut verdicts = Self { table, socket, pod: pod.clone(), kernel, loaded: None, left_at: 0, maps_made: 0 };
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
        let done = match self.loaded.take() {
            Some(loaded) if !self.kernel.swaps_chains && is_small(&loaded.wanted, &wanted) => {
                // Somebody may have removed the table or parts of it: then the whole is written again.
                self.difference(loaded, wanted.clone()).or_else(|_| self.whole(wanted))
            }
            _ => self.whole(wanted),
        };
        if done.is_err() {
            // What is in force is unknown. The first failure is the one to tell; `loaded` stays empty.
            self.close()?;
        }
        self.left_at = self.table.generation(&mut self.socket)?;
        done
    }

    /// First packets accepted and refused, refusals logged, and packets dropped for their form, since the table was made.
    pub(crate) fn counters(&mut self) -> Result<[u64; 4], linux::Error> {
        let mut counts = [0; 4];
        for (count, name) in counts.iter_mut().zip([rules::ACCEPTED, rules::REFUSED, rules::LOGGED, rules::MALFORMED]) {
            *count = self.table.packets(&mut self.socket, name)?;
        }
        Ok(counts)
    }

    fn difference(&mut self, loaded: Loaded, wanted: Wanted) -> Result<(), linux::Error> {
        let before = &loaded.wanted;
        let [four, six] = &loaded.maps;
        let mut change = Transaction::on(&self.table);
        for (map, chain, old, new) in
            [(four, rules::FOUR, &before.four, &wanted.four), (six, rules::SIX, &before.six, &wanted.six)]
        {
            change.remove(map, &elements(old.cells.difference(&new.cells)));
            change.add(map, &elements(new.cells.difference(&old.cells)));
            if old.fallback != new.fallback {
                rules::family(&mut change, chain, Some(&map.name), new);
            }
        }
        rules::outcomes(&mut change, wanted.generation);
        change.commit(&mut self.socket)?;
        self.loaded = Some(Loaded { wanted, maps: loaded.maps });
        Ok(())
    }

    /// Fills new maps that nothing looks into yet, then switches to them and removes the old ones, at once.
    fn whole(&mut self, wanted: Wanted) -> Result<(), linux::Error> {
        let old = self.maps()?;
        self.maps_made += 1;
        let maps = [map(Field::Ipv4, self.maps_made), map(Field::Ipv6, self.maps_made)];
        let mut lay = Transaction::on(&self.table);
        Self::chains(&mut lay);
        lay.set(&maps[0]).set(&maps[1]);
        lay.commit(&mut self.socket)?;
        for (map, half) in maps.iter().zip([&wanted.four, &wanted.six]) {
            for piece in elements(half.cells.iter()).chunks(PIECE) {
                let mut fill = Transaction::on(&self.table);
                fill.add(map, piece);
                fill.commit(&mut self.socket)?;
            }
        }
        let mut switch = Transaction::on(&self.table);
        rules::frame(&mut switch, self.pod.v4, self.pod.v6, self.kernel.defragments);
        rules::family(&mut switch, rules::FOUR, Some(&maps[0].name), &wanted.four);
        rules::family(&mut switch, rules::SIX, Some(&maps[1].name), &wanted.six);
        rules::outcomes(&mut switch, wanted.generation);
        for set in &old {
            switch.delete_set(set);
        }
        switch.commit(&mut self.socket)?;
        self.loaded = Some(Loaded { wanted, maps });
        Ok(())
    }

    /// Refuses everything, without any map: the least that can be asked of the kernel.
    fn close(&mut self) -> Result<(), linux::Error> {
        let mut close = Transaction::on(&self.table);
        Self::chains(&mut close);
        rules::frame(&mut close, self.pod.v4, self.pod.v6, self.kernel.defragments);
        rules::family(&mut close, rules::FOUR, None, &Half::closed());
        rules::family(&mut close, rules::SIX, None, &Half::closed());
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
        Ok(names.into_iter().map(|read| Set { name: read.name, ..map(Field::Ipv4, 0) }).collect())
    }

    fn highest_map(&mut self) -> Result<u32, linux::Error> {
        let number = |set: &Set| set.name.rsplit('_').next().and_then(|number| number.parse().ok());
        Ok(self.maps()?.iter().filter_map(number).max().unwrap_or(0))
    }
}

/// The map of one family.
fn map(address: Field, number: u32) -> Set {
    let family = if address == Field::Ipv4 { rules::FOUR } else { rules::SIX };
    Set { name: format!("{family}_{number}"), key: vec![address, Field::Port], intervals: true, verdicts: true }
}

fn elements<C: std::borrow::Borrow<Cell>>(cells: impl Iterator<Item = C>) -> Vec<Element> {
    cells.filter_map(|cell| cell.borrow().element()).collect()
}

/// Is the difference of two tables cheaper than the new one as a whole?
fn is_small(before: &Wanted, wanted: &Wanted) -> bool {
    let differing = |old: &BTreeSet<Cell>, new: &BTreeSet<Cell>| old.symmetric_difference(new).count();
    let changed = differing(&before.four.cells, &wanted.four.cells) + differing(&before.six.cells, &wanted.six.cells);
    changed <= DIFFERENCE_MIN.max(wanted.elements() / 2)
}
