//! What the end-to-end tests share. Development only: nothing of the product depends on it.
//!
//! Deliberately not here: the tests themselves, which stand in `tests/`, one file a subject.
#![expect(clippy::panic, reason = "a harness has one way to fail: the test that called it stops there")]

pub mod client;
pub mod dice;
pub mod hammer;
pub mod image;
pub mod mesh;
pub mod page;
pub mod registry;
pub mod running;
pub mod traces;
pub mod trio;
pub mod verbs;
pub mod world;

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// How many times the cases of a landing are to be run: 1, and 100 in the long run.
pub fn scale() -> usize {
    std::env::var("TIDEGATE_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
