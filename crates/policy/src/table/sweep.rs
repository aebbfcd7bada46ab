//! The sweep over source addresses: what holds where, counted for each port class.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::paint::{Painter, Run};
use super::product::{Product, Weight, products};
use super::{Bound, Entry, TooLarge, Verdict, VerdictTable};
use crate::address::number;
use crate::identity::SpiffeId;
use crate::mesh::SameNode;
use crate::mtls::{Effective, Mtls};
use crate::snapshot::{Snapshot, WorkloadState};
use crate::space;

/// Port classes counted in or out before the table counts as too large. Each takes a few nanoseconds: the compilation of any policy
/// that is accepted ends within a second.
const WORK_MAX: usize = 90_000_000;

/// How many rules of each weight hold at a port class.
#[derive(Clone, Copy, Default)]
struct Tally {
    denies: u32,
    may_deny: u32,
    allows: u32,
    may_allow: u32,
}

impl Tally {
    fn count(&mut self, weight: Weight, holds: bool) {
        let count = match weight {
            Weight::Denies => &mut self.denies,
            Weight::MayDeny => &mut self.may_deny,
            Weight::Allows => &mut self.allows,
            Weight::MayAllow => &mut self.may_allow,
        };
        *count = if holds { count.saturating_add(1) } else { count.saturating_sub(1) };
    }

    /// S-31, with what is not known yet.
    fn verdict(self, default_deny: bool) -> Verdict {
        let allowed = !default_deny || self.allows > 0;
        if self.denies > 0 || (!allowed && self.may_allow == 0) {
            Verdict::Reject
        } else if self.may_deny > 0 || !allowed {
            Verdict::Proxy
        } else {
            Verdict::Accept
        }
    }
}

/// The verdicts of some classes, ascending.
type Overlay = Rc<[(usize, Verdict)]>;

struct Sweep<'a> {
    default_deny: bool,
    /// What a plaintext or attested connection gets for its mode, class by class.
    modes: Vec<Effective>,
    attested_is_mtls: bool,
    product: Product<'a>,
    /// For a peer without identity at the present address.
    tally: Vec<Tally>,
    /// Counts the changes of which addresses of rules hold, on which `tally` and what an identity gets depend.
    version: u64,
    /// Ranges of classes whose tally changed since the last column was painted.
    touched: Vec<(usize, usize)>,
    shown: Vec<Verdict>,
    overlay: Overlay,
    by_identity: HashMap<SpiffeId, (u64, Overlay)>,
    painter: Painter,
    work: usize,
}

pub(super) fn table(snapshot: &Snapshot, state: &WorkloadState, address: IpAddr) -> Result<VerdictTable, TooLarge> {
    let classes = space::ports(state);
    let product = products(&state.ruleset, &classes, address, |stage| stage.rules.iter());
    sweep(snapshot, state, address, &classes, product)?.table(address, &classes, None)
}

/// What the table has for one port, but for what is left to this fallback.
pub(super) fn column(
    snapshot: &Snapshot,
    state: &WorkloadState,
    address: IpAddr,
    port: u16,
    fallback: Verdict,
) -> Result<Vec<Entry>, TooLarge> {
    let classes = [port..=port];
    let product = products(&state.ruleset, &classes, address, |stage| stage.at_port(port));
    let painter = sweep(snapshot, state, address, &classes, product)?;
    painter.table(address, &classes, Some(fallback)).map(|table| table.entries)
}

fn sweep(
    snapshot: &Snapshot,
    state: &WorkloadState,
    address: IpAddr,
    classes: &[RangeInclusive<u16>],
    product: Product<'_>,
) -> Result<Painter, TooLarge> {
    let mut sweep = Sweep {
        default_deny: state.ruleset.allow.policies > 0,
        modes: modes(&state.mtls, classes),
        attested_is_mtls: snapshot.settings.same_node == SameNode::Attested,
        product,
        tally: vec![Tally::default(); classes.len()],
        version: 0,
        touched: vec![(0, classes.len().saturating_sub(1))],
        shown: Vec::new(),
        overlay: Rc::from([]),
        by_identity: HashMap::new(),
        painter: Painter::new(),
        work: 0,
    };
    sweep.run(snapshot, address)?;
    Ok(sweep.painter)
}

fn modes(mtls: &Mtls, classes: &[RangeInclusive<u16>]) -> Vec<Effective> {
    // Every port with a mode of its own is a class of its own.
    classes.iter().map(|class| mtls.at(*class.start())).collect()
}

impl Sweep<'_> {
    fn run(&mut self, snapshot: &Snapshot, like: IpAddr) -> Result<(), TooLarge> {
        let last = number(space::last_address(like));
        for rule in 0..self.product.rules.len() {
            if self.product.holds_anonymous(rule) {
                self.toggle(rule, true)?;
            }
        }
        let mut mesh = snapshot.attested.iter().filter(|(address, _)| address.is_ipv4() == like.is_ipv4()).peekable();
        let edges = std::mem::take(&mut self.product.edges);
        let mut edges = edges.iter().peekable();
        let mut at = Some(0_u128);
        while let Some(here) = at.filter(|here| *here <= last) {
            while let Some(edge) = edges.next_if(|edge| edge.at <= here) {
                if let Some(rule) = self.product.cross(edge) {
                    self.version += 1;
                    let holds = self.product.holds_anonymous(rule);
                    if self.product.set_counted(rule, holds) {
                        self.toggle(rule, holds)?;
                    }
                }
            }
            let identity = mesh.next_if(|(address, _)| number(**address) <= here).map(|(_, identity)| identity);
            let overlay = match identity {
                Some(identity) => self.overlay_of(identity)?,
                None => Rc::from([]),
            };
            self.paint(here, overlay)?;
            let next_edge = edges.peek().map(|edge| edge.at);
            let next_mesh = mesh.peek().map(|(address, _)| number(**address));
            let after = identity.and_then(|_| here.checked_add(1));
            at = [next_edge, next_mesh, after].into_iter().flatten().min();
        }
        Ok(())
    }

    fn toggle(&mut self, rule: usize, holds: bool) -> Result<(), TooLarge> {
        let Some(rule) = self.product.rules.get(rule) else {
            return Ok(());
        };
        for range in &rule.classes {
            for tally in self.tally.get_mut(range.clone()).unwrap_or_default() {
                tally.count(rule.weight, holds);
            }
            self.touched.push((*range.start(), *range.end()));
            self.work += range.end() - range.start() + 1;
        }
        if self.work > WORK_MAX {
            // Not counted to the end, but certainly more than can be borne.
            return Err(TooLarge { count: self.painter.count(), bound: Bound::Work });
        }
        Ok(())
    }

    /// Where a peer with this identity is judged otherwise than one without, at the present address.
    fn overlay_of(&mut self, identity: &SpiffeId) -> Result<Overlay, TooLarge> {
        if let Some((version, overlay)) = self.by_identity.get(identity)
            && *version == self.version
        {
            return Ok(Rc::clone(overlay));
        }
        let differing = self.product.differing(identity);
        let mut touched: Vec<usize> = Vec::new();
        for (rule, holds) in &differing {
            for class in
                self.product.rules.get(*rule).into_iter().flat_map(|rule| rule.classes.iter().cloned().flatten())
            {
                touched.push(class);
            }
            self.count_only(*rule, *holds);
        }
        touched.extend(
            self.modes.iter().enumerate().filter(|(_, mode)| **mode == Effective::Strict).map(|(class, _)| class),
        );
        touched.sort_unstable();
        touched.dedup();
        let verdict = |class: &usize| {
            let verdict = match self.modes.get(*class)? {
                Effective::Disable => return None, // S-81
                Effective::Strict if !self.attested_is_mtls => Verdict::Proxy,
                Effective::Strict | Effective::Permissive => self.tally.get(*class)?.verdict(self.default_deny),
            };
            Some((*class, verdict))
        };
        let overlay: Overlay = touched.iter().filter_map(verdict).collect();
        self.work += touched.len();
        for (rule, holds) in &differing {
            self.count_only(*rule, !holds);
        }
        if self.work > WORK_MAX {
            return Err(TooLarge { count: self.painter.count(), bound: Bound::Work });
        }
        self.by_identity.insert(identity.clone(), (self.version, Rc::clone(&overlay)));
        Ok(overlay)
    }

    fn count_only(&mut self, rule: usize, holds: bool) {
        let Some(rule) = self.product.rules.get(rule) else {
            return;
        };
        for class in rule.classes.iter().cloned().flatten() {
            if let Some(tally) = self.tally.get_mut(class) {
                tally.count(rule.weight, holds);
            }
        }
    }

    /// What a peer without identity gets at a class.
    fn anonymous(&self, class: usize) -> Option<Verdict> {
        let mode = self.modes.get(class)?;
        let tally = self.tally.get(class)?;
        // A certificate may yet come where plaintext is refused.
        Some(if *mode == Effective::Strict { Verdict::Proxy } else { tally.verdict(self.default_deny) })
    }

    /// Paints what differs from the column shown so far.
    fn paint(&mut self, from: u128, overlay: Overlay) -> Result<(), TooLarge> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(self.overlay.iter().chain(overlay.iter()).map(|(class, _)| (*class, *class)));
        touched.sort_unstable();
        let mut next = 0;
        let classes = touched.iter().flat_map(|(first, last)| {
            let from = next.max(*first);
            next = next.max(last + 1);
            from..=*last
        });
        let mut over = overlay.iter().peekable();
        let mut run: Option<Run> = None;
        for class in classes {
            while over.next_if(|(other, _)| *other < class).is_some() {}
            let wanted = over
                .next_if(|(other, _)| *other == class)
                .map(|(_, verdict)| *verdict)
                .or_else(|| self.anonymous(class));
            let Some(verdict) = wanted else { continue };
            if self.shown.get(class) == Some(&verdict) {
                continue;
            }
            match self.shown.get_mut(class) {
                Some(shown) => *shown = verdict,
                None => self.shown.push(verdict), // the first column comes in order
            }
            match &mut run {
                Some(run) if run.verdict == verdict && run.last + 1 == class => run.last = class,
                _ => {
                    if let Some(done) = run.replace(Run { first: class, last: class, verdict }) {
                        self.painter.paint(from, done)?;
                    }
                }
            }
        }
        if let Some(done) = run {
            self.painter.paint(from, done)?;
        }
        touched.clear();
        self.touched = touched;
        self.overlay = overlay;
        Ok(())
    }
}
