//! Every parser over seeds with bytes changed, removed, doubled and put in: deterministic, so that a failure is found again.
//! `TIDEGATE_TEST_SCALE` multiplies the inputs. The same parsers are fuzzed with coverage by libFuzzer: `fuzz/README.md`.
#![cfg(test)]

#[path = "support/parsers.rs"]
mod parsers;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Inputs that failed once.
const FOUND: &[&[u8]] = &[b"a: \xff\xff\xff\0\0", b"# a\rformat: 1\rcases:\r- {id: [\r"];

/// Mutations of one seed by one parser.
const ROUNDS: u64 = 12;
/// The longest part of a file that is one seed: many short inputs find more than few long ones.
const SEED_BYTES_MAX: usize = 1500;

/// A splitmix64 sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

/// What is put in: the signs that YAML, JSON, protobuf and policies are made of, and what no text should hold.
const TOKENS: &[&[u8]] = &[
    b"\n",
    b"\n---\n",
    b"- ",
    b": ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"'",
    b"\"",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!str ",
    b"|",
    b">-",
    b"#",
    b"\t",
    b"\r\n",
    b"null",
    b"~",
    b"true",
    b"y",
    b"0x10",
    b"1e999",
    b"*",
    b"''",
    b"65536",
    b"10.0.0.0/33",
    b"::ffff:1.2.3.4",
    b"%",
    b"\0",
    b"\xff",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"{}",
    b"[[[[[[[[",
    b"rules:",
    b"spiffe://",
    b"-1",
    b"\x12\xff\xff\xff\xff\x0f",
    b"/",
];

fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(24)).min(bytes.len());
        match random.below(6) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            2 => drop(bytes.splice(at..end, TOKENS[random.below(TOKENS.len())].to_vec())),
            3 => drop(bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].to_vec())),
            4 => bytes.truncate(at),
            _ => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.below(8)),
        }
    }
    bytes
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort_unstable();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|name| name == "yaml") {
            found.push(path);
        }
    }
}

/// Parts of our YAML files, each a few cases or objects.
fn seeds() -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"), &mut paths);
    let mut seeds: Vec<Vec<u8>> = FOUND.iter().map(|found| found.to_vec()).collect();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let (head, cases) = text.split_once("cases:\n").unwrap();
        for (index, case) in cases.split("\n- id: ").enumerate() {
            let case = case.strip_prefix("- id: ").unwrap_or(case);
            let seed = format!("{head}cases:\n- id: {case}\n");
            let policy = case.split_once("policies: |\n").map(|(_, policy)| unindented(policy));
            seeds.extend(policy.filter(|_| index % 3 == 0).map(String::into_bytes));
            seeds.extend(Some(seed.into_bytes()).filter(|seed| index % 3 == 1 && seed.len() <= SEED_BYTES_MAX));
        }
    }
    seeds
}

fn unindented(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("    ")).collect();
    lines.join("\n") + "\n"
}

#[test]
fn no_parser_fails_on_mutated_input() {
    let scale = std::env::var("TIDEGATE_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let seeds = seeds();
    let (mut inputs, mut failed) = (0_u64, Vec::new());
    for (number, seed) in (0_u64..).zip(&seeds) {
        for (name, parser) in parsers::PARSERS {
            for round in 0..ROUNDS * scale {
                let bytes = if round == 0 { seed.clone() } else { mutated(seed, &mut Random(number << 32 | round)) };
                inputs += 1;
                if catch_unwind(|| parser(&bytes)).is_err() {
                    failed.push(format!("{name}, seed {number}, round {round}: {:?}", String::from_utf8_lossy(&bytes)));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{} of {inputs} inputs: {}", failed.len(), failed[0]);
    assert!(seeds.len() > 60, "only {} seeds", seeds.len());
}
