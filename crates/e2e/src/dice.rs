//! Numbers that look random and are the same for the same seed.

/// A source of them.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// One for a seed; every seed tells another story.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `below`.
    pub fn roll(&mut self, below: usize) -> usize {
        // SplitMix64: small, and every seed gives a different story.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below.max(1) as u64).unwrap_or_default()
    }

    /// A short word.
    pub fn name(&mut self) -> String {
        let letter = |dice: &mut Self| char::from(b'a' + u8::try_from(dice.roll(26)).unwrap_or_default());
        (0..=3 + self.roll(8)).map(|_| letter(self)).collect()
    }

    /// Yes or no.
    pub fn coin(&mut self) -> bool {
        self.roll(2) == 0
    }
}
