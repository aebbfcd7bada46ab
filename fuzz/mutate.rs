//! Seeds with bytes changed, removed, doubled and put in, the same ones each time, so that a failure is found again. The tests
//! `no_parser_fails_on_mutated_input` of every crate with parsers run on these; libFuzzer makes its own (`fuzz/README.md`).

use std::panic::catch_unwind;

/// A parser: its name, what reads the bytes and asserts what must hold of any, and the seeds that it begins with.
pub(crate) type Parser = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// A splitmix64 sequence.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

/// What is put in anywhere: ends and lengths that are often wrong, and what no text should hold.
const ANYWHERE: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff",
    b"\0\0\0\x01",
    b"\x80",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"-1",
    b"65536",
    b"99999999999999999999",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"%",
    b"/",
    b"*",
    b"''",
];

/// A seed with a few changes; `tokens` are the signs of the format.
pub(crate) fn mutated(seed: &[u8], tokens: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(24)).min(bytes.len());
        let pick = random.below(ANYWHERE.len() + tokens.len());
        let token = ANYWHERE.get(pick).or_else(|| tokens.get(pick - ANYWHERE.len())).unwrap();
        match random.below(6) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            2 => drop(bytes.splice(at..end, token.to_vec())),
            3 => drop(bytes.splice(at..at, token.to_vec())),
            4 => bytes.truncate(at),
            _ => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.below(8)),
        }
    }
    bytes
}

/// Inputs that a parser with few seeds has at least.
const INPUTS_MIN: usize = 200;

/// Runs every parser on its seeds and on `rounds` changes of each; `TIDEGATE_TEST_SCALE` multiplies the changes.
pub(crate) fn none_fails(parsers: &[Parser], tokens: &[&[u8]], rounds: u64) {
    let scale = std::env::var("TIDEGATE_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (mut inputs, mut failed) = (0_u64, Vec::new());
    for (name, parser, seeds) in parsers {
        let begun = std::time::Instant::now();
        let seeds = seeds();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        let rounds = rounds.max(u64::try_from(INPUTS_MIN / seeds.len()).unwrap());
        for (number, seed) in (0_u64..).zip(&seeds) {
            for round in 0..=rounds * scale {
                let mut random = Random(number << 32 | round);
                let bytes = if round == 0 { seed.clone() } else { mutated(seed, tokens, &mut random) };
                inputs += 1;
                if catch_unwind(|| parser(&bytes)).is_err() {
                    failed.push(format!("{name}, seed {number}, round {round}: b\"{}\"", bytes.escape_ascii()));
                }
            }
        }
        // Shown with a failure, or with `--nocapture`: what takes long here has too many seeds.
        println!("{name}: {} seeds, {} ms", seeds.len(), begun.elapsed().as_millis());
    }
    assert!(failed.is_empty(), "{} of {inputs} inputs: {}", failed.len(), failed[0]);
}
