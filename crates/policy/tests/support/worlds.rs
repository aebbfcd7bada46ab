//! Worlds for the laws. `TIDEGATE_POLICY_SCALE` multiplies their number.

use policy::{Profile, VerdictTable};

use crate::generate::{self, Random, Wish, World};

pub(crate) const WORLDS: u64 = 400;
pub(crate) const SIDECAR: Wish = Wish { profile: Profile::Sidecar, admissible: true, policies_max: 6 };

pub(crate) fn scale() -> u64 {
    std::env::var("TIDEGATE_POLICY_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Worlds of every kind, each with the generator that goes on from it.
pub(crate) fn worlds(law: u64) -> impl Iterator<Item = (u64, Random, World)> {
    (0..WORLDS * scale()).map(move |number| {
        let seed = (law << 40) + number;
        let mut random = Random(seed);
        let profile = if number % 3 == 0 { Profile::Ambient } else { Profile::Sidecar };
        let world = generate::world(&mut random, Wish { profile, admissible: number % 4 != 0, policies_max: 6 });
        (seed, random, world)
    })
}

pub(crate) fn assert_disjoint(table: &VerdictTable) {
    for (index, one) in table.entries.iter().enumerate() {
        assert_ne!(one.verdict, table.fallback);
        assert!(one.sources.start() <= one.sources.end() && one.ports.start() <= one.ports.end());
        for other in &table.entries[index + 1..] {
            let sources = one.sources.start() <= other.sources.end() && other.sources.start() <= one.sources.end();
            let ports = one.ports.start() <= other.ports.end() && other.ports.start() <= one.ports.end();
            assert!(!(sources && ports), "{one:?} {other:?}");
        }
    }
}
