//! Groups of processes with bounds (cgroups): on version 1, on version 2, and on both beside each other.
//!
//! Groups lie two deep, a parent (a mesh) with a child for each of its pods, in the root of each mounted hierarchy: so
//! they are found again by name, whoever looks and from whatever group. A controller that cannot be used is no error: what
//! it would have bounded is not bounded, and that is said.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Error;
use crate::error::with_causes;
use crate::pidfd::ProcessId;

/// What a group may hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Processes and threads.
    pub processes: u64,
    /// Memory, files in memory included.
    pub memory_bytes: u64,
}

/// A child as it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Its folders, one in each hierarchy: what [`join`] takes.
    pub folders: Vec<PathBuf>,
    /// What of it is not bounded, and why.
    pub lacks: Vec<String>,
}

/// Where the kernel lists what is mounted for the calling thread.
const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// How long processes of a group that is removed may take to be gone: killed ones take milliseconds.
const EMPTY_BOUND: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Processes,
    Memory,
    /// No bound of its own: all processes of a group together get as much as one process outside of it.
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Processes, Self::Memory, Self::Cpu];

    const fn name(self) -> &'static str {
        match self {
            Self::Processes => "pids",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }

    const fn bounds_what(self) -> &'static str {
        match self {
            Self::Processes => "the number of its processes",
            Self::Memory => "its memory",
            Self::Cpu => "its share of the CPUs",
        }
    }
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    root: PathBuf,
    /// Version 2.
    unified: bool,
    controllers: Vec<String>,
}

/// Makes the child of a parent, and the parent if it is missing, each with its bounds.
pub fn make(parent: (&str, Bounds), child: (&str, Bounds)) -> Made {
    match mounted() {
        Ok(mounted) => make_in(&mounted, parent, child),
        Err(error) => {
            let lack = |one: Controller| format!("{}: {}", one.bounds_what(), with_causes(&error));
            Made { folders: Vec::new(), lacks: Controller::ALL.map(lack).to_vec() }
        }
    }
}

fn make_in(mounted: &[Hierarchy], parent: (&str, Bounds), child: (&str, Bounds)) -> Made {
    let mut made = Made::default();
    for controller in Controller::ALL {
        let has = |one: &&Hierarchy| one.controllers.iter().any(|name| name == controller.name());
        let Some(hierarchy) = mounted.iter().find(has) else {
            let name = controller.name();
            made.lacks.push(format!("{}: no cgroup hierarchy with `{name}` is mounted", controller.bounds_what()));
            continue;
        };
        match make_one(hierarchy, controller, parent, child) {
            Ok(folder) if !made.folders.contains(&folder) => made.folders.push(folder),
            Ok(_) => {}
            Err(error) => made.lacks.push(format!("{}: {}", controller.bounds_what(), with_causes(&error))),
        }
    }
    // Without controllers as well: programs for a mesh's sockets go by it ([`unified`]).
    for hierarchy in mounted.iter().filter(|one| one.unified) {
        let above = hierarchy.root.join(parent.0);
        let folder = above.join(child.0);
        let there = make_folder(&above).and_then(|()| make_folder(&folder)).is_ok();
        if there && !made.folders.contains(&folder) {
            made.folders.push(folder);
        }
    }
    made
}

/// The folder of a parent in the hierarchy of version 2, made if it is missing; none if that is not mounted.
pub fn unified(parent: &str) -> Result<Option<PathBuf>, Error> {
    let folder = mounted()?.into_iter().find(|one| one.unified).map(|one| one.root.join(parent));
    folder.map(|folder| make_folder(&folder).map(|()| folder)).transpose()
}

fn make_one(
    hierarchy: &Hierarchy,
    controller: Controller,
    parent: (&str, Bounds),
    child: (&str, Bounds),
) -> Result<PathBuf, Error> {
    let above = hierarchy.root.join(parent.0);
    let folder = above.join(child.0);
    if hierarchy.unified {
        offer(&hierarchy.root, controller)?;
    }
    make_folder(&above)?;
    if hierarchy.unified {
        offer(&above, controller)?;
    }
    bound(hierarchy, controller, &above, parent.1)?;
    make_folder(&folder)?;
    bound(hierarchy, controller, &folder, child.1)?;
    Ok(folder)
}

/// Lets the children of a group have a controller (version 2).
fn offer(folder: &Path, controller: Controller) -> Result<(), Error> {
    let file = folder.join("cgroup.subtree_control");
    let offered = std::fs::read_to_string(&file).unwrap_or_default();
    if offered.split_whitespace().any(|name| name == controller.name()) {
        return Ok(());
    }
    set(&file, &format!("+{}", controller.name()))
}

fn bound(hierarchy: &Hierarchy, controller: Controller, folder: &Path, bounds: Bounds) -> Result<(), Error> {
    let memory = bounds.memory_bytes.to_string();
    match (controller, hierarchy.unified) {
        (Controller::Cpu, _) => Ok(()),
        (Controller::Processes, _) => set(&folder.join("pids.max"), &bounds.processes.to_string()),
        (Controller::Memory, true) => {
            set(&folder.join("memory.max"), &memory)?;
            set_if_there(&folder.join("memory.swap.max"), "0")
        }
        (Controller::Memory, false) => {
            // Kernels before 5.11 count children with their parent only if told so, before there are any.
            drop(set_if_there(&folder.join("memory.use_hierarchy"), "1"));
            set(&folder.join("memory.limit_in_bytes"), &memory)?;
            // Memory and swap together: no more of both than of memory.
            set_if_there(&folder.join("memory.memsw.limit_in_bytes"), &memory)
        }
    }
}

/// Puts the calling process into the group with this folder; its children will be in it too.
pub fn join(folder: &Path) -> Result<(), Error> {
    set(&folder.join("cgroup.procs"), "0")
}

/// How often the kernel has ended a process of a group because the group had all the memory that it may have.
pub fn ended_for_memory(folders: &[PathBuf]) -> u64 {
    let files = folders.iter().flat_map(|folder| ["memory.events", "memory.oom_control"].map(|name| folder.join(name)));
    // Kernels before 4.13 do not count on version 1: there it is never known.
    let counted = files.filter_map(|file| {
        let text = std::fs::read_to_string(file).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
    });
    counted.sum()
}

/// Removes a child of a parent, or the parent with all its children, from every hierarchy; ends what is left in it.
pub fn remove(parent: &str, child: Option<&str>) -> Result<(), Error> {
    for hierarchy in mounted()? {
        let above = hierarchy.root.join(parent);
        if let Some(child) = child {
            remove_folder(&above.join(child))?;
            continue;
        }
        for folder in folders(&above)? {
            remove_folder(&folder)?;
        }
        remove_folder(&above)?;
    }
    Ok(())
}

/// The names of the children of a parent, in whichever hierarchy they are.
pub fn children(parent: &str) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    for hierarchy in mounted()? {
        let folders = folders(&hierarchy.root.join(parent))?;
        found.extend(folders.iter().filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned())));
    }
    Ok(found)
}

fn folders(above: &Path) -> Result<Vec<PathBuf>, Error> {
    let listed = match std::fs::read_dir(above) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Cgroup { doing: "list the groups in", path: above.to_owned(), source }),
    };
    Ok(listed.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn remove_folder(folder: &Path) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        match std::fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that was waited for may still be on its last way out of the group.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && begun.elapsed() < EMPTY_BOUND => {
                end_all(folder)?;
                std::thread::yield_now();
            }
            Err(source) => return Err(Error::Cgroup { doing: "remove the group", path: folder.to_owned(), source }),
        }
    }
}

fn end_all(folder: &Path) -> Result<(), Error> {
    let listed = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for process in listed.lines().filter_map(|pid| ProcessId::of(pid.parse().ok()?)) {
        // Read again with the handle held: only what is in the group then is ended.
        let Some(handle) = process.open()? else { continue };
        let still = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        if still.lines().any(|pid| pid.parse() == Ok(process.pid)) {
            handle.signal(Signal::KILL)?;
            handle.wait_end(EMPTY_BOUND)?;
        }
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::Cgroup { doing: "make the group", path: folder.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn set(file: &Path, value: &str) -> Result<(), Error> {
    std::fs::write(file, value).map_err(|source| Error::Cgroup { doing: "write", path: file.to_owned(), source })
}

fn set_if_there(file: &Path, value: &str) -> Result<(), Error> {
    if file.exists() { set(file, value) } else { Ok(()) }
}

fn mounted() -> Result<Vec<Hierarchy>, Error> {
    let failed = |source| Error::Cgroup { doing: "read", path: MOUNTS.into(), source };
    let listed = std::fs::read_to_string(MOUNTS).map_err(failed)?;
    let mut found = hierarchies(&listed);
    for hierarchy in found.iter_mut().filter(|one| one.unified) {
        let offered = std::fs::read_to_string(hierarchy.root.join("cgroup.controllers")).unwrap_or_default();
        hierarchy.controllers = offered.split_whitespace().map(str::to_owned).collect();
    }
    Ok(found)
}

/// The hierarchies of a list of mounts; controllers of version 2 stand elsewhere.
pub(crate) fn hierarchies(listed: &str) -> Vec<Hierarchy> {
    let one = |line: &str| {
        // Fields, a dash, the kind of file system, its source, its options.
        let (fields, system) = line.split_once(" - ")?;
        let root = PathBuf::from(fields.split(' ').nth(4)?);
        let mut system = system.split(' ');
        let kind = system.next()?;
        let options = system.nth(1)?;
        match kind {
            "cgroup2" => Some(Hierarchy { root, unified: true, controllers: Vec::new() }),
            "cgroup" => {
                let controllers = options.split(',').map(str::to_owned).collect();
                Some(Hierarchy { root, unified: false, controllers })
            }
            _ => None,
        }
    };
    listed.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests;
