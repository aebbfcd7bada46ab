//! `test record`: what is decided at present between all workloads, as a `PolicyTest`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::Args;
use control::suite::{API_VERSION, POLICY_TEST};
use policy::ask::{Asker, Question, Verdict};
use policy::spec::Attribute;
use policy::{Mesh, Peer, Workload, carries};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::sources::{self, SourceArguments};
use crate::verdicts;

/// More cases than this are not read by anybody; fewer workloads or ports make fewer.
const CASES_MAX: usize = 20_000;

/// `test record`.
#[derive(Debug, Args)]
pub(super) struct RecordArguments {
    /// Ports to record [default: those that policies, Services and modes name, and one that none does]
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    #[command(flatten)]
    sources: SourceArguments,
}

/// Prints the tests.
pub(super) fn run(arguments: &RecordArguments) -> Outcome {
    let sources = sources::read(&arguments.sources)?;
    verdicts::must_be_whole(&sources)?;
    let asker = Asker::new(sources.mesh(None));
    let mut cases = Vec::new();
    let mut left_out = 0;
    let (from, to) = (sorted(asker.mesh()), sorted(asker.mesh()));
    for to in &to {
        for port in ports(asker.mesh(), to, &arguments.port) {
            let nobody = std::iter::once(None);
            for from in nobody.chain(from.iter().filter(|from| from.id != to.id).map(Some)) {
                if cases.len() + left_out >= CASES_MAX {
                    let what = format!("more than {CASES_MAX} cases: name fewer manifests, or ports (`--port`)");
                    return Err(Failure::says(Exit::Usage, what));
                }
                match case(&asker, from.copied(), to, port) {
                    Some(case) => cases.push(case),
                    None => left_out += 1,
                }
            }
        }
    }
    if cases.is_empty() {
        let what = "there is nothing to record: the manifests hold no workload (Deployment, Pod, ..) to connect to";
        return Err(Failure::says(Exit::BadInput, what));
    }
    if left_out > 0 {
        print::err(format_args!(
            "note: {left_out} cases are left out: they depend on addresses or authorizers that no manifest names"
        ));
    }
    let mut spec = serde_json::Map::new();
    let files = &arguments.sources.files;
    if files.iter().all(|file| Path::new(file).exists()) {
        spec.insert("inputs".to_owned(), json!(files));
    } else {
        print::err(format_args!(
            "note: these are no files: judge them with: tidegate test --input {}",
            files.join(" --input ")
        ));
    }
    spec.insert("profile".to_owned(), json!(asker.mesh().settings.profile.word()));
    spec.insert("cases".to_owned(), Value::Array(cases));
    let suite = json!({"apiVersion": API_VERSION, "kind": POLICY_TEST, "metadata": {"name": "recorded"}, "spec": spec});
    print::out(format_args!(
        "# What was decided when this was recorded; paths are relative to this file.\n{}",
        api::yaml::print(&suite)
    ))
}

fn sorted(mesh: &Mesh) -> Vec<&Workload> {
    let by_id: BTreeMap<_, _> = mesh.workloads.iter().map(|workload| (&workload.id, workload)).collect();
    by_id.into_values().collect()
}

/// The ports that can make a difference at a workload, and the least port that is none of them.
fn ports(mesh: &Mesh, to: &Workload, given: &[u16]) -> BTreeSet<u16> {
    if !given.is_empty() {
        return given.iter().copied().collect();
    }
    let of_services = mesh
        .services
        .iter()
        .filter(|service| service.namespace == to.id.namespace && carries(&to.labels, &service.selector));
    let of_modes = mesh.peer_authentications.iter().flat_map(|one| one.ports.keys().copied());
    let mut ports: BTreeSet<u16> =
        of_services.flat_map(|service| &service.ports).map(|port| port.target).chain(of_modes).collect();
    for policy in mesh
        .policies
        .iter()
        .filter(|policy| policy.id.namespace == to.id.namespace || policy.id.namespace == mesh.settings.root_namespace)
    {
        let entries = policy.rules.iter().flat_map(|rule| rule.to.iter().chain(&rule.when));
        for one in entries.flat_map(|entry| &entry.matches).filter(|one| one.attribute == Attribute::Port) {
            ports.extend(
                [&one.wanted, &one.unwanted].into_iter().flatten().flatten().filter_map(policy::spec::Value::port),
            );
        }
    }
    let other = (1..=u16::MAX).find(|port| !ports.contains(port));
    ports.extend(other);
    ports
}

/// `None` where it depends on something that no manifest says.
fn case(asker: &Asker, from: Option<&Workload>, to: &Workload, port: u16) -> Option<Value> {
    let name = |workload: &Workload| format!("{}.{}", workload.id.name, workload.id.namespace);
    let identity = from.and_then(|from| asker.snapshot().workload(&from.id)?.identity().cloned());
    let question = Question {
        source: from.and_then(|from| from.addresses.first().copied()),
        destination: to.addresses.first().copied(),
        ..Question::new(identity.map_or(Peer::Anonymous, Peer::Attested), port)
    };
    let answer = asker.ask(&to.id, &question);
    let client = from.map_or_else(|| json!({"identity": "none"}), |from| json!(name(from)));
    let mut case = json!({"from": client, "to": name(to), "port": port, "expect": answer.verdict.word()});
    match &answer.verdict {
        Verdict::Depends(_) if answer.verdict.depends_on_http() => {}
        Verdict::Depends(_) => return None,
        Verdict::Allow | Verdict::Deny => {
            let outcome = answer.telling().explanation.outcome();
            let because = match (outcome.policy, outcome.rule) {
                (Some(policy), Some(rule)) => format!("{policy}[{rule}]"),
                _ => outcome.reason.word().to_owned(),
            };
            case.as_object_mut()?.insert("because".to_owned(), json!(because));
        }
    }
    Some(case)
}
