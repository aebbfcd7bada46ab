//! A corpus of cases: policies, a workload and connections with what must come of them (`tests/conformance/FORMAT.md`).
//!
//! A file's text is read to cases (`read.rs`), the engine answers them (`answer.rs`), the answers are judged by what the
//! cases expect (`judge.rs`). Transitions are answered as Istio behaves. Not here: files and printing, which are the binary's.

mod answer;
mod judge;
mod read;

#[cfg(test)]
mod tests;

use policy::finding::FieldPath;
use policy::{Connection, Profile, Settings, Workload};
use serde_json::Value;

pub use answer::Answered;
pub use judge::Failure;
pub use read::read;

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// The cases that could be read, in order.
    pub cases: Vec<Case>,
    /// What could not be read, in order.
    pub problems: Vec<Problem>,
}

/// A part of a file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, and what is right.
    pub message: String,
}

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column in characters.
    pub column: usize,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its id, unique in a corpus.
    pub id: String,
    /// What it shows; empty if it does not say.
    pub title: String,
    /// Where it begins.
    pub place: Place,
    /// The profiles it is for.
    pub profiles: Vec<Profile>,
    /// The settings of its mesh; the profile in them is not the case's.
    settings: Settings,
    /// Do its objects reach the engine although admission refuses them.
    bypass: bool,
    matter: Matter,
    /// What must come of it as a whole, null if it does not say.
    expect: Value,
}

/// What a case asks.
#[derive(Clone, Debug)]
enum Matter {
    /// What is decided.
    Evaluation { policies: Vec<Value>, workload: Box<Workload>, connections: Vec<Asked> },
    /// What admission says.
    Validation { policies: Vec<Value> },
    /// What becomes of open connections.
    Transition { before: Vec<Value>, after: Vec<Value>, workload: Box<Workload>, connections: Vec<Asked> },
}

/// One connection of a case.
#[derive(Clone, Debug)]
struct Asked {
    place: Place,
    connection: Connection,
    /// What must come of it, null if the case does not say.
    expect: Value,
}

/// What is wrong with a case, and where in it.
struct Fault {
    at: FieldPath,
    message: String,
}

impl Fault {
    fn new(at: &FieldPath, message: impl Into<String>) -> Self {
        Self { at: at.clone(), message: message.into() }
    }
}
