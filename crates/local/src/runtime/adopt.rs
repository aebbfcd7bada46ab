//! Pods that a killed daemon left running, found again by what was recorded of them.
//!
//! A pod is taken over as a whole or not at all. Each process of ours that it needs must be there: known by its number,
//! its start time, and the pod's own token among its arguments or a parent that has it. Each run of a container must have
//! ended with a record or have its parent. Less than that was cut short in the middle of something, and nobody can say of
//! what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use linux::pidfd::{PidFd, ProcessId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::spec::{self, ContainerSpec, Exit, PodRecord, Recorded};
use super::{
    Parent, RECORD_EXIT, RECORD_FAILED, RECORD_PARENT, RECORD_POD, RECORD_SANDBOX, RECORD_SHIM, RECORD_SPEC,
    RECORD_STATE, RECORDS, Running, Runtime, SANDBOX, SHIM, Sandbox, remove,
};
use crate::Error;

/// A pod that lives on.
#[derive(Debug)]
pub struct PodLeft {
    /// Its namespaces.
    pub sandbox: Sandbox,
    /// What was kept of it for whoever takes it over ([`spec::PodSpec::kept`]).
    pub kept: Value,
    /// All runs of its containers, by name, the first one first.
    pub runs: BTreeMap<String, Vec<RunLeft>>,
}

/// A run of a container that was begun before this daemon.
#[derive(Debug)]
pub struct RunLeft {
    /// The how manieth it is.
    pub attempt: u32,
    /// What was kept of it for whoever takes it over ([`ContainerSpec::kept`]).
    pub kept: Value,
    /// Where its output goes.
    pub log: PathBuf,
    /// How far it is.
    pub state: RunState,
}

/// How far a run is.
#[derive(Debug)]
pub enum RunState {
    /// Its parent lives, so that its end will be recorded.
    Live(Running),
    /// It has ended.
    Ended(Exit),
    /// It never began.
    Failed(Failed),
}

/// Why a run never began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// In the words of who tried.
    pub why: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

impl Failed {
    pub(super) fn now(why: String) -> Self {
        Self { why, at_ms: Timestamp::now().as_millisecond() }
    }
}

/// The part of a pod's record that every version has.
#[derive(Deserialize)]
struct Version {
    version: u64,
}

impl Runtime {
    /// The pods that something is recorded of, by uid: what lives of each, or why it cannot be taken over.
    pub fn left(&self) -> Result<BTreeMap<String, Result<PodLeft, String>>, Error> {
        let pods = remove::recorded(&self.run_dir)?;
        let named = pods.into_iter().filter_map(|pod| Some((pod.file_name()?.to_str()?.to_owned(), pod)));
        Ok(named.map(|(uid, pod)| (uid.clone(), self.pod_left(uid, pod))).collect())
    }

    fn pod_left(&self, uid: String, directory: PathBuf) -> Result<PodLeft, String> {
        let PodRecord { token, groups, lacks, kept, boot, .. } = record_of(&directory)?;
        if super::boot().map_err(told)? != boot {
            return Err("it was started before the last boot".to_owned());
        }
        let parent = part(&directory.join(RECORD_PARENT), SANDBOX, &token)?;
        let parent = parent.ok_or("the process that holds its namespaces has ended")?;
        let first: ProcessId = spec::read::<Recorded>(&directory.join(RECORD_SANDBOX)).map_err(told)?.into();
        let lives = super::open(first).map_err(told)?.is_some() && first.parent() == Some(parent.0.pid);
        if !lives {
            return Err("its first process has ended".to_owned());
        }
        if let Some(group) = groups.iter().find(|group| !group.is_dir()) {
            return Err(format!("the group that bounds it is gone (`{}`)", group.display()));
        }
        let runs = runs(&directory, &token)?;
        let parent = Parent::Adopted(parent.1);
        let run_dir = self.run_dir.clone();
        let sandbox = Sandbox { parent, first, token, directory, run_dir, uid, groups, lacks };
        Ok(PodLeft { sandbox, kept, runs })
    }
}

fn record_of(pod: &Path) -> Result<PodRecord, String> {
    let path = pod.join(RECORD_POD);
    let Version { version } = spec::read(&path).map_err(told)?;
    if version == u64::from(RECORDS) {
        return spec::read(&path).map_err(told);
    }
    Err(format!("`{}` is of version {version}, and this tidegate reads version {RECORDS}", path.display()))
}

/// The runs of all containers of a pod.
fn runs(pod: &Path, token: &str) -> Result<BTreeMap<String, Vec<RunLeft>>, String> {
    let mut all = BTreeMap::new();
    for container in folders(pod)? {
        let name = container.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let mut runs = Vec::new();
        for run in folders(&container)? {
            let attempt = run.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let attempt = attempt.ok_or_else(|| format!("`{}` is no run of a container", run.display()))?;
            runs.push(run_left(&name, attempt, run, token)?);
        }
        runs.sort_by_key(|run| run.attempt);
        all.insert(name, runs);
    }
    Ok(all)
}

fn run_left(name: &str, attempt: u32, directory: PathBuf, token: &str) -> Result<RunLeft, String> {
    let spec: ContainerSpec = spec::read(&directory.join(RECORD_SPEC)).map_err(told)?;
    let parent = part(&directory.join(RECORD_SHIM), SHIM, token);
    // Looked for after the parent: one that has just ended has left its record.
    let state = if let Some(exit) = there(&directory.join(RECORD_EXIT))? {
        RunState::Ended(exit)
    } else if let Some(failed) = there(&directory.join(RECORD_FAILED))? {
        RunState::Failed(failed)
    } else {
        let cut_short = |what: &str| format!("run {attempt} of container {name} {what}");
        let (_, parent) = parent?.ok_or_else(|| cut_short("has lost the process that records its end"))?;
        if !directory.join(RECORD_STATE).exists() {
            return Err(cut_short("was just being started"));
        }
        RunState::Live(Running { parent: Parent::Adopted(parent), directory })
    };
    Ok(RunLeft { attempt, kept: spec.kept, log: spec.log, state })
}

/// The recorded process, if it lives and is this part of a pod with this token.
fn part(record: &Path, part: &str, token: &str) -> Result<Option<(ProcessId, PidFd)>, String> {
    let id: ProcessId = spec::read::<Recorded>(record).map_err(told)?.into();
    let Some(process) = super::open(id).map_err(told)? else { return Ok(None) };
    // Read with the handle held and asked afterwards whether it has ended: the arguments are this process's.
    let line = std::fs::read(format!("/proc/{}/cmdline", id.pid)).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
    let has_token = words.windows(2).any(|two| two == [b"--token".as_slice(), token.as_bytes()]);
    let is_it = words.get(1) == Some(&part.as_bytes()) && has_token;
    let has_ended = process.wait_end(Duration::ZERO).map_err(told)?;
    Ok((is_it && !has_ended).then_some((id, process)))
}

fn there<T: for<'a> Deserialize<'a>>(record: &Path) -> Result<Option<T>, String> {
    if record.exists() { spec::read(record).map(Some).map_err(told) } else { Ok(None) }
}

fn folders(of: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = std::fs::read_dir(of).map_err(|error| format!("cannot list `{}`: {error}", of.display()))?;
    Ok(listed.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn told<E: std::error::Error>(error: E) -> String {
    linux::error::with_causes(&error)
}
