//! Products of several dimensions without looking at each cell: a decision tree over the dimensions in which equal subtrees are one.
//! A term is a product itself, one set of classes per dimension; what a cell means follows from the terms that hold there.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::Bound;
use super::bits::Bits;

/// Words of bits touched before the cells count as too many: about half a second.
const WORK_MAX: usize = 400_000_000;
/// Nodes of one tree: bounds memory to some hundred megabytes.
const NODES_MAX: usize = 500_000;

/// One dimension: classes with the same terms are one group.
#[derive(Debug)]
pub(super) struct Dimension {
    /// The classes of each group.
    pub(super) members: Vec<Vec<usize>>,
    /// The groups in which each term holds.
    holds: Vec<Bits>,
    /// The terms that do not hold everywhere.
    constrained: Bits,
}

impl Dimension {
    /// From the terms that hold in each class.
    pub(super) fn new(vectors: impl Iterator<Item = Bits>, terms: usize) -> Self {
        let mut groups: HashMap<Bits, usize> = HashMap::new();
        let mut members: Vec<Vec<usize>> = Vec::new();
        for (class, vector) in vectors.enumerate() {
            let group = *groups.entry(vector).or_insert(members.len());
            match members.get_mut(group) {
                Some(members) => members.push(class),
                None => members.push(vec![class]),
            }
        }
        let mut holds = vec![Bits::none(members.len()); terms];
        for (vector, group) in &groups {
            for term in vector.iter() {
                if let Some(holds) = holds.get_mut(term) {
                    holds.insert(*group);
                }
            }
        }
        let count = members.len();
        let constrained = holds.iter().enumerate().filter(|(_, holds)| holds.count() < count).map(|(term, _)| term);
        Self { constrained: Bits::of(terms, constrained), members, holds }
    }

    pub(super) fn all(&self) -> Bits {
        Bits::all(self.members.len())
    }

    /// The classes of these groups, ascending.
    pub(super) fn classes(&self, groups: &Bits) -> Vec<usize> {
        let mut classes: Vec<usize> = groups.iter().filter_map(|at| self.members.get(at)).flatten().copied().collect();
        classes.sort_unstable();
        classes
    }
}

/// What is where.
#[derive(Debug)]
pub(super) struct Tree<L> {
    /// Children before parents; the last one is the root.
    nodes: Vec<Node<L>>,
    root: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Node<L> {
    Leaf(L),
    /// By groups of this dimension; dimensions that are passed over make no difference.
    Inner(usize, Vec<(Bits, usize)>),
}

/// A product: groups of every dimension.
pub(super) type Cell = Vec<Bits>;

struct Builder<'a, L, D> {
    dimensions: &'a [Dimension],
    /// The dimension of each level.
    order: Vec<usize>,
    /// For each level, which terms hold whatever the dimensions from there on.
    free: Vec<Bits>,
    /// For each level and term, the first term that is the same from there on.
    same: Vec<Vec<usize>>,
    decide: D,
    tree: Tree<L>,
    known: HashMap<Node<L>, usize>,
    visited: HashMap<(usize, Bits), usize>,
    work: usize,
}

impl<L: Clone + Eq + Hash> Tree<L> {
    /// The tree of all terms. Terms with the same key are the same in all but where they hold. `decide` is given terms that hold or may
    /// yet hold, and those that certainly do if they are among them; it must know when both are the same.
    pub(super) fn build(
        dimensions: &[Dimension],
        keys: &[usize],
        decide: impl FnMut(&Bits, &Bits) -> Option<L>,
    ) -> Result<Self, Bound> {
        let terms = keys.len();
        let mut free = vec![Bits::all(terms)];
        let mut same = vec![firsts(keys.iter())];
        let order = fewest_first(dimensions);
        for dimension in order.iter().rev().filter_map(|at| dimensions.get(*at)) {
            let (after, later) = (free.last().cloned().unwrap_or_else(|| Bits::none(terms)), same.last().cloned());
            free.push(after.without(&dimension.constrained));
            same.push(firsts(later.unwrap_or_default().iter().zip(&dimension.holds)));
        }
        free.reverse();
        same.reverse();
        let tree = Self { nodes: Vec::new(), root: 0 };
        let (known, visited) = (HashMap::new(), HashMap::new());
        let mut builder = Builder { dimensions, order, free, same, decide, tree, known, visited, work: 0 };
        builder.tree.root = builder.visit(0, &Bits::all(terms))?;
        Ok(builder.tree)
    }

    /// Every meaning that occurs.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &L> {
        self.nodes.iter().filter_map(|node| if let Node::Leaf(leaf) = node { Some(leaf) } else { None })
    }

    /// How many products of cells have such a meaning.
    pub(super) fn count(&self, wanted: impl Fn(&L) -> bool) -> usize {
        let mut counts: Vec<usize> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let count = match node {
                Node::Leaf(leaf) => usize::from(wanted(leaf)),
                Node::Inner(_, edges) => edges
                    .iter()
                    .filter_map(|(_, child)| counts.get(*child))
                    .fold(0_usize, |all, one| all.saturating_add(*one)),
            };
            counts.push(count);
        }
        counts.get(self.root).copied().unwrap_or_default()
    }

    /// Disjoint products of cells with these meanings, at most so many; and whether there are more.
    pub(super) fn cells(
        &self,
        dimensions: &[Dimension],
        most: usize,
        wanted: impl Fn(&L) -> bool,
    ) -> (Vec<(Cell, L)>, bool) {
        let mut leads: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let leading = match node {
                Node::Leaf(leaf) => wanted(leaf),
                Node::Inner(_, edges) => edges.iter().any(|(_, child)| leads.get(*child) == Some(&true)),
            };
            leads.push(leading);
        }
        let mut found = Vec::new();
        let mut open = vec![(dimensions.iter().map(Dimension::all).collect::<Cell>(), self.root)];
        while let Some((cell, at)) = open.pop().filter(|_| found.len() < most) {
            match self.nodes.get(at) {
                Some(Node::Leaf(leaf)) if wanted(leaf) => found.push((cell, leaf.clone())),
                Some(Node::Inner(at, edges)) => {
                    for (groups, child) in edges.iter().filter(|(_, child)| leads.get(*child) == Some(&true)) {
                        let mut narrowed = cell.clone();
                        if let Some(dimension) = narrowed.get_mut(*at) {
                            dimension.clone_from(groups);
                        }
                        open.push((narrowed, *child));
                    }
                }
                Some(Node::Leaf(_)) | None => {}
            }
        }
        let more = found.len() == most && self.count(wanted) > most;
        (found, more)
    }
}

/// The dimensions in which few terms hold at a time come first: what is left after them is little.
fn fewest_first(dimensions: &[Dimension]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..dimensions.len()).collect();
    order.sort_by_cached_key(|at| {
        dimensions.get(*at).map_or(0, |dimension| {
            let holding: usize = dimension.holds.iter().map(Bits::count).sum();
            // Of a thousand, so that it is a whole number.
            holding * 1_000 / (dimension.holds.len() * dimension.members.len()).max(1)
        })
    });
    order
}

/// For each item the position of the first that is equal.
fn firsts<T: Hash + Eq>(items: impl Iterator<Item = T>) -> Vec<usize> {
    let mut first: HashMap<T, usize> = HashMap::new();
    items.enumerate().map(|(at, item)| *first.entry(item).or_insert(at)).collect()
}

impl<'a, L: Clone + Eq + Hash, D: FnMut(&Bits, &Bits) -> Option<L>> Builder<'a, L, D> {
    fn visit(&mut self, level: usize, mask: &Bits) -> Result<usize, Bound> {
        let (Some(free), Some(same)) = (self.free.get(level), self.same.get(level)) else { return Err(Bound::Cells) };
        let terms = same.len();
        let mask = Bits::of(terms, mask.iter().filter_map(|term| same.get(term).copied()));
        if let Some(leaf) = (self.decide)(&mask, free) {
            return self.intern(Node::Leaf(leaf));
        }
        let Some((at, dimension)) = self.dimension(level) else { return Err(Bound::Cells) };
        if !mask.meets(&dimension.constrained) {
            return self.visit(level + 1, &mask);
        }
        let key = (level, mask);
        if let Some(known) = self.visited.get(&key) {
            return Ok(*known);
        }
        let mut children: BTreeMap<usize, Bits> = BTreeMap::new();
        for (groups, live) in self.parts(level, &key.1)? {
            let child = self.visit(level + 1, &live)?;
            children.entry(child).and_modify(|all| all.join(&groups)).or_insert(groups);
        }
        let node = match children.first_key_value() {
            Some((only, _)) if children.len() == 1 => *only,
            _ => self.intern(Node::Inner(at, children.into_iter().map(|(child, groups)| (groups, child)).collect()))?,
        };
        self.visited.insert(key, node);
        Ok(node)
    }

    fn dimension(&self, level: usize) -> Option<(usize, &'a Dimension)> {
        let at = *self.order.get(level)?;
        Some((at, self.dimensions.get(at)?))
    }

    /// The groups of a level, by the terms that still hold there.
    fn parts(&mut self, level: usize, mask: &Bits) -> Result<Vec<(Bits, Bits)>, Bound> {
        let Some((_, dimension)) = self.dimension(level) else { return Err(Bound::Cells) };
        let mut parts = vec![(dimension.all(), mask.clone())];
        for term in mask.and(&dimension.constrained).iter() {
            let Some(holds) = dimension.holds.get(term) else { continue };
            let mut split = Vec::new();
            for (groups, live) in &mut parts {
                let outside = groups.without(holds);
                if outside.is_none() {
                    continue;
                }
                let fewer = live.without(&Bits::of(self.same.get(level).map_or(0, Vec::len), [term]));
                let inside = groups.and(holds);
                if inside.is_none() {
                    *live = fewer;
                } else {
                    *groups = inside;
                    split.push((outside, fewer));
                }
            }
            self.work += parts.len() * (dimension.members.len() / 64 + 1) + split.len() * mask.words();
            parts.append(&mut split);
            if self.work > WORK_MAX {
                return Err(Bound::Cells);
            }
        }
        Ok(parts)
    }

    fn intern(&mut self, node: Node<L>) -> Result<usize, Bound> {
        if let Some(known) = self.known.get(&node) {
            return Ok(*known);
        }
        let at = self.tree.nodes.len();
        if at >= NODES_MAX || self.visited.len() >= NODES_MAX {
            return Err(Bound::Cells);
        }
        self.tree.nodes.push(node.clone());
        self.known.insert(node, at);
        Ok(at)
    }
}

/// Joins products that differ in one dimension only, as long as there are some.
pub(super) fn joined(mut cells: Vec<Cell>) -> Vec<Cell> {
    loop {
        let before = cells.len();
        let dimensions = cells.first().map_or(0, Vec::len);
        for dimension in 0..dimensions {
            let mut by_rest: BTreeMap<Cell, Bits> = BTreeMap::new();
            for mut cell in cells {
                let here = if let Some(at) = cell.get_mut(dimension) {
                    std::mem::replace(at, Bits::none(0))
                } else {
                    Bits::none(0)
                };
                by_rest.entry(cell).and_modify(|all| all.join(&here)).or_insert(here);
            }
            let restore = |(mut cell, here): (Cell, Bits)| {
                if let Some(at) = cell.get_mut(dimension) {
                    *at = here;
                }
                cell
            };
            cells = by_rest.into_iter().map(restore).collect();
        }
        if cells.len() == before {
            return cells;
        }
    }
}
