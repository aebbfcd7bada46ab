//! One parser under libFuzzer, named by the environment: `FUZZ_PARSER=yaml fuzz/run 60`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../crates/control/tests/support/parsers.rs"]
mod parsers;

use std::sync::LazyLock;

static PARSER: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_PARSER").expect("FUZZ_PARSER names a parser");
    let known: Vec<&str> = parsers::PARSERS.iter().map(|(name, _)| *name).collect();
    let found = parsers::PARSERS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("`{wanted}` is no parser; {} are", known.join(", "))).1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| PARSER(bytes));
