//! The hash of the maps that every decision and every compilation asks. The names in them are chosen by users, so each map has a key of
//! its own that nobody can know; std's own hash does the same at four times the cost, which is half of a decision.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map with this hash.
pub(crate) type Map<K, V> = HashMap<K, V, Keyed>;

/// Odd and without a pattern: the fraction of the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The key of one map.
#[derive(Clone, Debug)]
pub(crate) struct Keyed(u64);

impl Default for Keyed {
    fn default() -> Self {
        Self(RandomState::new().hash_one(MULTIPLIER))
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(self.0)
    }
}

/// Each word is multiplied in, and the upper half of the product comes back into the lower one.
pub(crate) struct Folded(u64);

impl Folded {
    #[inline]
    fn add(&mut self, word: u64) {
        let (low, high) = (self.0 ^ word).carrying_mul(MULTIPLIER, 0);
        self.0 = low ^ high;
    }
}

impl Hasher for Folded {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
            // They may overlap.
            self.add(u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last)));
        } else if let (Some(first), Some(middle), Some(last)) = (rest.first(), rest.get(rest.len() / 2), rest.last()) {
            self.add(u64::from(*first) << 16 | u64::from(*middle) << 8 | u64::from(*last));
        }
        // Of equal lengths only equal bytes give equal words; the length comes after them, where no byte can undo it.
        self.0 = self.0.wrapping_add(bytes.len() as u64);
    }

    #[inline]
    fn write_u8(&mut self, byte: u8) {
        self.add(u64::from(byte));
    }

    #[inline]
    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        let mut last = Self(self.0);
        last.add(MULTIPLIER);
        last.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    use super::Keyed;

    #[test]
    fn names_that_differ_little_fall_apart() {
        let keyed = Keyed::default();
        let names: Vec<(String, String)> =
            (0..4096).map(|n| (format!("n{}", n % 64), format!("w{}", n / 64))).collect();
        let hashes: Vec<u64> = names.iter().map(|name| keyed.hash_one(name)).collect();
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), names.len());
        // A map looks at the lowest and at the highest bits: of 4096 slots a random function leaves 1507 empty.
        for shift in [0, 52] {
            let slots: BTreeSet<u64> = hashes.iter().map(|hash| hash >> shift & 4095).collect();
            assert!((2400..2800).contains(&slots.len()), "{} slots at bit {shift}", slots.len());
        }
        assert_ne!(keyed.hash_one("a"), Keyed::default().hash_one("a"), "each map has its own key");
        assert_ne!(keyed.hash_one(("ab", "c")), keyed.hash_one(("a", "bc")));
        let texts = ["", "\0", "a", "a\0", "aa", "aaa", "aaaa", "aaaa\0", "aaaaa", "aaaaaaa", "aaaaaaaa", "aaaaaaaaa"];
        assert_eq!(texts.iter().map(|text| keyed.hash_one(text)).collect::<BTreeSet<_>>().len(), texts.len());
    }
}
