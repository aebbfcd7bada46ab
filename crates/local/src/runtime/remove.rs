//! Pods are ended and their records removed, with or without a daemon that knows them.
//!
//! Ours are: the first process of each recorded pod, by number and start time, with which the kernel ends the whole
//! pod; and parents of pods and containers, by their arguments, which name the data directory and the pod.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use linux::pidfd::ProcessId;
use rustix::process::Signal;

use super::spec::{self, Recorded};
use super::{ENTER, INIT, PAUSE, RECORD_SANDBOX, SANDBOX, SHIM, await_end_of, bounds, inside, open, pods};
use crate::Error;

/// Looks for processes of pods until none is found. Three generations start one another: parent, first process, program.
const LOOKS_MAX: usize = 8;

/// Ends every process of the mesh's pods and removes their records.
pub fn remove_all(run_dir: &Path, data_dir: &Path) -> Result<(), Error> {
    remove_all_but(run_dir, data_dir, &BTreeSet::new())?;
    bounds::remove_all(run_dir)?;
    super::remove_directory(&pods(run_dir))
}

/// Ends every process of the mesh's pods and removes their records, but for the pods with these uids.
pub fn remove_all_but(run_dir: &Path, data_dir: &Path, kept: &BTreeSet<String>) -> Result<(), Error> {
    let mut recorded = recorded(run_dir)?;
    recorded.retain(|pod| !is_kept(pod, kept));
    let mut ours: Vec<ProcessId> = recorded
        .iter()
        .filter_map(|pod| spec::read::<Recorded>(&pod.join(RECORD_SANDBOX)).ok().map(ProcessId::from))
        .collect();
    // One that is just being started may not be seen in the first look; its parent, which starts no more, is.
    for _ in 0..LOOKS_MAX {
        let found = parts(data_dir)?.into_iter();
        ours.extend(found.filter(|part| !is_kept(&part.pod(run_dir), kept)).map(|part| part.id));
        let handles: Vec<_> = ours.drain(..).map(open).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        if handles.is_empty() {
            break;
        }
        for process in &handles {
            inside::kernel("end a pod", process.signal(Signal::KILL))?;
        }
        handles.iter().try_for_each(await_end_of)?;
    }
    bounds::remove_all_but(run_dir, kept)?;
    recorded.iter().try_for_each(|pod| super::remove_directory(pod))
}

/// The directories of the pods that something is recorded of.
pub(super) fn recorded(run_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let directory = pods(run_dir);
    match std::fs::read_dir(&directory) {
        Ok(listed) => Ok(listed.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::File { doing: "list", path: directory, source }),
    }
}

fn is_kept(pod: &Path, kept: &BTreeSet<String>) -> bool {
    pod.file_name().and_then(|uid| uid.to_str()).is_some_and(|uid| kept.contains(uid))
}

/// A part of a pod, by its arguments.
struct Part {
    id: ProcessId,
    /// What it was told to work in: the directory of a pod, or of a run of a container below it.
    place: PathBuf,
}

impl Part {
    /// The directory of its pod.
    fn pod(&self, run_dir: &Path) -> PathBuf {
        let all = pods(run_dir);
        let below = self.place.strip_prefix(&all).ok().and_then(|below| below.components().next());
        below.map_or_else(PathBuf::new, |uid| all.join(uid))
    }
}

/// The parts of pods whose arguments name this data directory and that run as the caller's user.
fn parts(data_dir: &Path) -> Result<Vec<Part>, Error> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let listed =
        std::fs::read_dir("/proc").map_err(|source| Error::File { doing: "list", path: "/proc".into(), source })?;
    let user = rustix::process::geteuid().as_raw();
    let mut found = Vec::new();
    for entry in listed.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Identity first: arguments read afterwards are of this process, or it is gone and will not be found by it.
        let Some(id) = ProcessId::of(pid) else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let mut arguments = line.split(|&byte| byte == 0).skip(1);
        let is_part = arguments
            .next()
            .is_some_and(|name| [SANDBOX, PAUSE, SHIM, INIT, ENTER].iter().any(|part| part.as_bytes() == name));
        let is_ours =
            arguments.next() == Some(b"--data-dir") && arguments.next() == Some(data_dir.as_os_str().as_bytes());
        let is_own = std::fs::metadata(entry.path()).is_ok_and(|process| process.uid() == user);
        if is_part && is_ours && (is_own || user == 0) {
            let is_place = arguments.next().is_some_and(|name| name == b"--pod" || name == b"--run");
            let place = arguments.next().filter(|_| is_place).map(OsStr::from_bytes).unwrap_or_default();
            found.push(Part { id, place: place.into() });
        }
    }
    Ok(found)
}
