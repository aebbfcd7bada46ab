//! `--watch`: judged again whenever a file changes, as the kernel tells (inotify); nothing is asked again and again.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::{Prepared, RunArguments, inputs, once, prepare};
use crate::exit::{Exit, Failure, Outcome};
use crate::print;

/// An editor writes a file in several steps: changes that follow within this time are one.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// What one read of the kernel's queue takes: some dozens of events with names.
const EVENT_BYTES: usize = 16 * 1024;

/// Judges until the process is ended.
pub(super) fn run(arguments: &RunArguments) -> Outcome {
    if arguments.input.iter().any(|word| word == "-") {
        return Err(Failure::says(Exit::Usage, "standard input cannot be watched: name files"));
    }
    let mut watched = Watched::new()?;
    loop {
        let prepared = prepare(arguments);
        // What changed in a folder before it was watched would be missed: read again once it is.
        if watched.add(folders(arguments, &prepared))? {
            continue;
        }
        match once(arguments, &prepared) {
            Err(failure) if failure.is(Exit::ReaderLeft) => return Err(failure),
            _shown => {}
        }
        print::err(format_args!("watching {} folders; Ctrl-C ends", watched.folders.len()));
        watched.wait()?;
    }
}

/// The folders of all files that were read.
fn folders(arguments: &RunArguments, prepared: &Prepared) -> BTreeSet<PathBuf> {
    let read = prepared.worlds.iter().flatten().flat_map(|world| world.sources.bundle.texts());
    let files = read.map(|text| PathBuf::from(&text.name)).chain(prepared.found.iter().map(|found| found.file.clone()));
    let named = arguments.files.iter().cloned().chain(arguments.input.iter().map(PathBuf::from));
    let settings =
        prepared.found.iter().filter_map(|found| Some(found.file.parent()?.join(found.suite.mesh_config.as_ref()?)));
    let folder = |path: PathBuf| {
        if path.is_dir() {
            return Some(path);
        }
        let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        parent.filter(|parent| parent.is_dir()).map(Path::to_path_buf)
    };
    files.chain(named).chain(settings).filter_map(folder).collect()
}

struct Watched {
    kernel: OwnedFd,
    folders: BTreeSet<PathBuf>,
}

impl Watched {
    fn new() -> Result<Self> {
        let kernel = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context("inotify")?;
        Ok(Self { kernel, folders: BTreeSet::new() })
    }

    /// Whether there was a new one among them.
    fn add(&mut self, folders: BTreeSet<PathBuf>) -> Result<bool> {
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CREATE;
        let mut grown = false;
        for folder in folders {
            if !self.folders.contains(&folder) {
                inotify::add_watch(&self.kernel, &folder, changes | WatchFlags::ONLYDIR)
                    .with_context(|| format!("watching `{}`", folder.display()))?;
                self.folders.insert(folder);
                grown = true;
            }
        }
        Ok(grown)
    }

    /// Returns when a manifest, a test or a folder has changed and nothing more has for a moment.
    fn wait(&mut self) -> Result<()> {
        let mut changed = false;
        loop {
            let quiet = if changed { Some(&QUIET) } else { None };
            let ready = poll(&mut [PollFd::new(&self.kernel, PollFlags::IN)], quiet).context("waiting for a change")?;
            if ready == 0 {
                return Ok(());
            }
            let mut buffer = [const { MaybeUninit::uninit() }; EVENT_BYTES];
            let mut events = inotify::Reader::new(&self.kernel, &mut buffer);
            loop {
                match events.next() {
                    Ok(event) => changed |= matters(&event),
                    Err(rustix::io::Errno::WOULDBLOCK) => break,
                    Err(error) => return Err(error).context("reading what changed"),
                }
            }
        }
    }
}

fn matters(event: &inotify::Event<'_>) -> bool {
    let of_folder = event.events().intersects(ReadFlags::ISDIR | ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED);
    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
    // A file that was only made is told again when it is written.
    let written = !event.events().contains(ReadFlags::CREATE);
    of_folder || (written && name.is_some_and(|name| inputs::is_manifest(Path::new(&name))))
}
