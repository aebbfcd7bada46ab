//! Lists in the order of policies, from one to the next. What stays is moved and not looked at: of ten thousand policies each look would
//! be several waits for memory.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{CompiledPolicy, by_key};

/// Some of policies, each of any number of items, sorted by the keys of the policies.
pub(super) struct Sorted<'a, T> {
    pub(super) items: &'a [T],
    pub(super) policy: fn(&T) -> &Arc<CompiledPolicy>,
}

/// A list made of another.
pub(super) struct Spliced<T> {
    pub(super) items: Vec<T>,
    /// Where each item of the other list is now, if it still is.
    pub(super) places: Vec<Option<usize>>,
    /// Where the new ones are, ascending.
    pub(super) new: Vec<usize>,
}

impl<T: Clone> Sorted<'_, T> {
    /// Without the policies that are `gone`, and with these items of those that `come`.
    pub(super) fn spliced(
        &self,
        gone: &[&Arc<CompiledPolicy>],
        come: &[&Arc<CompiledPolicy>],
        items_of: impl Fn(&Arc<CompiledPolicy>) -> Vec<T>,
    ) -> Spliced<T> {
        let mut come: Vec<_> = come.iter().map(|policy| (self.place(policy), *policy)).collect();
        come.sort_by(|(_, one), (_, other)| by_key(one, other));
        let mut gone: Vec<_> = gone.iter().map(|policy| self.range(policy)).collect();
        gone.sort_unstable_by_key(|range| range.start);
        let (mut come, mut gone) = (come.into_iter().peekable(), gone.into_iter().peekable());
        let mut spliced = Spliced {
            items: Vec::with_capacity(self.items.len()),
            places: Vec::with_capacity(self.items.len()),
            new: Vec::new(),
        };
        for (at, item) in self.items.iter().enumerate() {
            while let Some((_, policy)) = come.next_if(|(place, _)| *place <= at) {
                spliced.add(items_of(policy));
            }
            while gone.next_if(|range| range.end <= at).is_some() {}
            let stays = gone.peek().is_none_or(|range| !range.contains(&at));
            spliced.places.push(stays.then_some(spliced.items.len()));
            if stays {
                spliced.items.push(item.clone());
            }
        }
        for (_, policy) in come {
            spliced.add(items_of(policy));
        }
        spliced
    }

    /// Where the items of a policy are, or would be.
    fn place(&self, policy: &CompiledPolicy) -> usize {
        self.items.partition_point(|item| by_key((self.policy)(item), policy) == Ordering::Less)
    }

    /// Where the items of this very policy are.
    fn range(&self, policy: &Arc<CompiledPolicy>) -> std::ops::Range<usize> {
        let its = |item: &&T| Arc::ptr_eq((self.policy)(item), policy);
        let after = self.items.get(self.place(policy)..).unwrap_or_default();
        // Another policy may have the same key.
        let before = after.iter().take_while(|item| !its(item) && by_key((self.policy)(item), policy).is_eq()).count();
        let start = self.place(policy) + before;
        let length = after.get(before..).unwrap_or_default().iter().take_while(its).count();
        start..start + length
    }
}

impl<T> Spliced<T> {
    fn add(&mut self, items: Vec<T>) {
        for item in items {
            self.new.push(self.items.len());
            self.items.push(item);
        }
    }
}
