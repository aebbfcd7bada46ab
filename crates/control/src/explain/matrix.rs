//! Every workload to every workload, on one port.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use policy::ask::{Asker, Question, Verdict};
use policy::{Mesh, Peer, WorkloadId};
use serde_json::{Value, json};

/// A grid with more columns than this is wider than a terminal: then there is a paragraph for each destination.
const COLUMNS_MAX: usize = 12;

/// Who reaches whom.
#[derive(Debug)]
pub struct Matrix {
    profile: policy::Profile,
    port: u16,
    workloads: Vec<WorkloadId>,
    /// By destination, then by source.
    verdicts: Vec<Vec<Verdict>>,
}

/// Asks for every pair of workloads.
pub fn matrix(mesh: Mesh, port: u16) -> Matrix {
    let profile = mesh.settings.profile;
    let asker = Asker::new(mesh);
    let mesh = asker.mesh();
    let mut ends: Vec<(WorkloadId, Peer, Option<IpAddr>)> = mesh
        .workloads
        .iter()
        .map(|workload| {
            let peer = workload.identity(&mesh.settings).map_or(Peer::Anonymous, Peer::Attested);
            (workload.id.clone(), peer, workload.addresses.first().copied())
        })
        .collect();
    ends.sort_by(|one, other| one.0.cmp(&other.0));
    let row = |(to, _, destination): &(WorkloadId, Peer, Option<IpAddr>)| {
        // Workloads of one identity without an address are one and the same question.
        let mut known: BTreeMap<(Option<String>, Option<IpAddr>), Verdict> = BTreeMap::new();
        let verdict = |(_, peer, source): &(WorkloadId, Peer, Option<IpAddr>)| {
            let key = (peer.id().map(|id| id.uri().to_owned()), *source);
            let ask = || {
                let mut question = Question::new(peer.clone(), port);
                question.source = *source;
                question.destination = *destination;
                asker.verdict(to, &question)
            };
            known.entry(key).or_insert_with(ask).clone()
        };
        ends.iter().map(verdict).collect()
    };
    let verdicts = ends.iter().map(row).collect();
    Matrix { profile, port, workloads: ends.into_iter().map(|(id, ..)| id).collect(), verdicts }
}

impl Matrix {
    /// For people: a grid of the sources by the destinations, or a paragraph for each destination.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _infallible = writeln!(
            out,
            "who may open port {} of whom, profile {} (+ allowed, - denied, ? depends)",
            self.port,
            self.profile.word()
        );
        if self.workloads.len() > COLUMNS_MAX {
            self.paragraphs(&mut out);
        } else {
            self.grid(&mut out);
        }
        out
    }

    fn grid(&self, out: &mut String) {
        for (index, id) in self.workloads.iter().enumerate() {
            let _infallible = writeln!(out, "  [{}] {id}", index + 1);
        }
        let numbers: Vec<String> =
            (1..=self.workloads.len()).map(|number| format!("{:>4}", format!("[{number}]"))).collect();
        let _infallible = writeln!(out, "from\\to{}", numbers.concat());
        for from in 0..self.workloads.len() {
            let cells = self.verdicts.iter().map(|row| row.get(from).map_or(' ', mark));
            let cells: String = cells.flat_map(|cell| [' ', ' ', ' ', cell]).collect();
            let _infallible = writeln!(out, "{:>7}{cells}", format!("[{}]", from + 1));
        }
        for (to, row) in self.workloads.iter().zip(&self.verdicts) {
            let mut on: Vec<String> = row.iter().flat_map(depends_on).collect();
            on.sort();
            on.dedup();
            if !on.is_empty() {
                let _infallible = writeln!(out, "? to {to}: depends on {}", on.join(", "));
            }
        }
    }

    fn paragraphs(&self, out: &mut String) {
        for (to, row) in self.workloads.iter().zip(&self.verdicts) {
            let _infallible = writeln!(out, "to {to}");
            for (word, letter) in [("allowed", '+'), ("denied", '-'), ("depends", '?')] {
                let from: Vec<String> = self
                    .workloads
                    .iter()
                    .zip(row)
                    .filter(|(_, verdict)| mark(verdict) == letter)
                    .map(|(from, _)| from.to_string())
                    .collect();
                match from.len() {
                    0 => {}
                    all if all == self.workloads.len() => {
                        let _infallible = writeln!(out, "  {letter} {word}: from everyone");
                    }
                    _ => {
                        let _infallible = writeln!(out, "  {letter} {word}: from {}", from.join(", "));
                    }
                }
            }
        }
    }

    /// As one JSON object.
    pub fn value(&self) -> Value {
        let mut pairs = Vec::new();
        for (to, row) in self.workloads.iter().zip(&self.verdicts) {
            for (from, verdict) in self.workloads.iter().zip(row) {
                pairs.push(json!({"from": from.to_string(), "to": to.to_string(), "verdict": verdict.word(),
                                  "dependsOn": depends_on(verdict)}));
            }
        }
        json!({"profile": self.profile.word(), "port": self.port, "pairs": pairs})
    }
}

fn mark(verdict: &Verdict) -> char {
    match verdict {
        Verdict::Allow => '+',
        Verdict::Deny => '-',
        Verdict::Depends(_) => '?',
    }
}

fn depends_on(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Allow | Verdict::Deny => Vec::new(),
        Verdict::Depends(on) => on.iter().map(ToString::to_string).collect(),
    }
}
