//! Rights: root has them; another user has them in a user namespace of its own, where the program is run again.
//!
//! ```text
//! tidegate up ─┬─ user-namespace     holds the namespaces for as long as the mesh lives, daemon or not
//!              └─ (itself, inside) up ── parts of pods
//! ```
//! What a mesh keeps until a reboot lies in memory that is mounted in that namespace and goes with it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use linux::error::with_causes;
use linux::mount::{self, Access};
use linux::pidfd::ProcessId;
use linux::{process, userns};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Signal;

use crate::daemon;
use crate::exit::{Exit, Failure, Outcome};
use crate::settings::Place;

/// The hidden verb that holds the namespaces of a mesh.
const HOLDER: &str = "user-namespace";

/// What the holder says when it holds them.
const READY: &str = "ready";

/// Longest complaint of the holder that is passed on.
const COMPLAINT_MAX: u64 = 4096;

/// How long a killed process may take to be gone.
const END_BOUND: Duration = Duration::from_secs(10);

/// Memory for the records and pins of a mesh: 500 pods have a few MiB of them.
const RUN_MEMORY: &std::ffi::CStr = c"mode=0700,size=64m,nr_inodes=64k";

/// Whether this process is user 0 of a user namespace that a user without root has made: the machine's network is not its.
pub(crate) fn is_apart() -> bool {
    rustix::process::geteuid().is_root() && !userns::is_initial() && !userns::owns_network()
}

/// Whether the caller has root's rights, here or on the machine.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns as root. Another user's program is run again inside the namespaces of the mesh, which are made if there are none,
/// and last until [`let_go`].
pub(crate) fn lasting(place: &Place) -> Outcome {
    let living = Living::of(&place.data_dir)?;
    if is_root() {
        return refuse_of_others(place, &living);
    }
    refuse_roots(place, &living)?;
    if let Some(process) = own(&living) {
        return Err(enter(process));
    }
    place.make_data_dir()?;
    // Between two looks nobody else makes namespaces.
    let path = place.data_dir.join(crate::contents::HOLDER_LOCK);
    let lock = linux::files::open_to_write(&path, OFlags::empty(), Mode::RUSR | Mode::WUSR)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("locking `{}`", path.display()))?;
    if let Some(process) = own(&Living::of(&place.data_dir)?) {
        return Err(enter(process));
    }
    Err(enter(start_holder(place)?))
}

/// The same for a command that ends by itself: inside the namespaces of the mesh of this place, if it lives, else in new ones
/// that go with the command.
pub(crate) fn passing(place: Option<&Place>) -> Outcome {
    if is_root() {
        return Ok(());
    }
    if let Some(place) = place {
        let living = Living::of(&place.data_dir)?;
        refuse_roots(place, &living)?;
        if let Some(process) = own(&living) {
            return Err(enter(process));
        }
    }
    userns::make().map_err(|error| refused(&error))?;
    Err(again(None))
}

/// Ends whoever holds the namespaces of the mesh, if nothing of it lives in them any more. The caller may be inside.
pub(crate) fn let_go(place: &Place) -> Result<()> {
    if is_apart() {
        mount::let_go(&place.run_dir)?;
        match std::fs::remove_dir(&place.run_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing `{}`", place.run_dir.display()));
            }
            _ => {}
        }
    }
    for one in Living::of(&place.data_dir)?.iter().filter(|one| one.is_holder && one.is_reached) {
        let Some(process) = one.id.open()? else { continue };
        process.signal(Signal::KILL)?;
        process.wait_end(END_BOUND)?;
    }
    Ok(())
}

/// The same after a start that failed, and only if no daemon runs and no pod lives.
pub(crate) fn let_go_of_nothing(place: &Place) -> Result<()> {
    let lives = Living::of(&place.data_dir)?.iter().any(|one| !one.is_holder);
    if !is_apart() || lives || daemon::running(place)?.is_some() { Ok(()) } else { let_go(place) }
}

/// A process that belongs to a mesh and lasts.
#[derive(Debug)]
struct Living {
    id: ProcessId,
    user: u32,
    is_holder: bool,
    /// The caller may signal it: it is of the caller's user, or the caller is root of the machine.
    is_reached: bool,
    /// It is in another user namespace than the caller.
    is_elsewhere: bool,
}

impl Living {
    /// Those of a mesh, by their arguments.
    fn of(data_dir: &Path) -> Result<Vec<Self>> {
        let own = rustix::process::geteuid().as_raw();
        let namespace = |path: PathBuf| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let here = namespace("/proc/self/ns/user".into());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").context("listing processes")?.flatten() {
            // Identity first: what is read afterwards is of this process, or it is gone and will not be found by it.
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(ProcessId::of);
            let (Some(id), Ok(line)) = (id, std::fs::read(entry.path().join("cmdline"))) else { continue };
            let Some(part) = part_of(&line, data_dir) else { continue };
            let Ok(about) = entry.metadata() else { continue };
            let there = namespace(entry.path().join("ns/user"));
            found.push(Self {
                id,
                user: about.uid(),
                is_holder: part == HOLDER,
                is_reached: about.uid() == own || (own == 0 && userns::is_initial()),
                is_elsewhere: there.is_some() && there != here,
            });
        }
        Ok(found)
    }
}

/// The parts that are in the namespaces of the mesh itself, not in those of one container.
fn part_of<'a>(line: &'a [u8], data_dir: &Path) -> Option<&'a str> {
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let part = std::str::from_utf8(words.next()?).ok()?;
    let is_ours =
        words.next() == Some(b"--data-dir") && words.next().map(OsStr::from_bytes) == Some(data_dir.as_os_str());
    (is_ours && (part == HOLDER || local::runtime::LASTING.contains(&part))).then_some(part)
}

/// A process in the namespaces of the caller's own mesh: the holder if it lives.
fn own(living: &[Living]) -> Option<ProcessId> {
    let mut inside = living.iter().filter(|one| one.is_reached && one.is_elsewhere);
    inside.clone().find(|one| one.is_holder).or_else(|| inside.next()).map(|one| one.id)
}

/// What root has left in this place is root's to take over or to remove.
fn refuse_roots(place: &Place, living: &[Living]) -> Outcome {
    let is_roots = |path: PathBuf| std::fs::metadata(path).is_ok_and(|found| found.uid() == 0);
    let daemon = daemon::running(place)?.filter(|daemon| daemon.pid > 0);
    let daemon = daemon.is_some_and(|daemon| is_roots(format!("/proc/{}", daemon.pid).into()));
    let images = is_roots(place.data_dir.join(local::images::Store::DIRECTORY));
    if !daemon && !images && !living.iter().any(|one| one.user == 0 && !one.is_holder) {
        return Ok(());
    }
    let dir = place.data_dir.display();
    let left = if images { " (images in it are, and stay until `sudo tidegate down --purge`)" } else { "" };
    let what = format!("the mesh of `{dir}` is root's{left}; run it again with sudo, or give a --data-dir of your own");
    Err(Failure::says(Exit::Failure, what))
}

/// Root does not start a mesh where that of another user lives.
fn refuse_of_others(place: &Place, living: &[Living]) -> Outcome {
    // Only whoever owns the place can have a mesh in it, whatever others call their processes.
    let owner = std::fs::metadata(&place.data_dir).map(|found| found.uid()).ok();
    let Some(other) = living.iter().find(|one| one.is_elsewhere && Some(one.user) == owner) else { return Ok(()) };
    let (dir, user) = (place.data_dir.display(), other.user);
    let what = format!(
        "the mesh of `{dir}` was started by user {user} without root, and lives; as that user: tidegate down, or give another \
         --data-dir"
    );
    Err(Failure::says(Exit::Failure, what))
}

/// Returns only if something failed.
fn enter(process: ProcessId) -> Failure {
    let folder = std::env::current_dir();
    let entered = || -> Result<()> {
        let process =
            process.open()?.context("the process that holds the namespaces of the mesh has ended; try again")?;
        Ok(userns::enter(&process)?)
    };
    match entered() {
        Ok(()) => again(folder.ok()),
        Err(error) => error.into(),
    }
}

/// Runs this program again as what the process has become. Returns only if that failed.
fn again(folder: Option<PathBuf>) -> Failure {
    if !is_root() {
        return anyhow!("inside the user namespace this process is not user 0; this is a bug").into();
    }
    if let Some(folder) = folder
        && let Err(error) = std::env::set_current_dir(&folder)
    {
        return anyhow!("`{}` cannot be entered inside the namespaces of the mesh: {error}", folder.display()).into();
    }
    // By its path: what pods are shown of the program must lie in a mount of this namespace.
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return anyhow!("finding this program: {error}").into(),
    };
    let mut words = std::env::args_os();
    let mut command = Command::new(&program);
    command.arg0(words.next().unwrap_or_else(|| "tidegate".into())).args(words);
    // Who called sudo before is nobody here.
    command.env_remove("SUDO_UID").env_remove("SUDO_GID");
    let error = command.exec();
    anyhow!("running `{}` again in the user namespace: {error}", program.display()).into()
}

/// User namespaces are not to be had: what forbids them, and how it is allowed.
fn refused(error: &linux::Error) -> Failure {
    Failure::says(Exit::Failure, refusal(error))
}

fn refusal(error: &linux::Error) -> String {
    format!(
        "without root a mesh needs a user namespace, and there is none to be had: {} ({}); or run it as root, with sudo",
        userns::why_not(error),
        with_causes(error)
    )
}

/// Where the trials of `check` are made.
#[derive(Debug)]
pub(crate) enum Trial {
    /// As root of the machine, or of whatever this process was given.
    AsRoot,
    /// In a user namespace such as a mesh without root has.
    Apart,
    /// Nowhere: this is why.
    Refused(linux::Error),
}

/// Goes where a mesh of this user would be.
pub(crate) fn trial() -> Result<Trial, Failure> {
    if is_root() {
        return Ok(if is_apart() { Trial::Apart } else { Trial::AsRoot });
    }
    match userns::make() {
        Ok(()) => Err(again(None)),
        Err(error) => Ok(Trial::Refused(error)),
    }
}

fn start_holder(place: &Place) -> Result<ProcessId, Failure> {
    make_run_dir(&place.run_dir)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("tidegate").args([HOLDER, "--data-dir"]).arg(&place.data_dir).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting the process that holds the namespaces")?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut said).context("waiting for the namespaces")?;
    }
    if said.trim_end() == READY {
        let id = ProcessId::of(child.id());
        return Ok(id.context("the process that holds the namespaces has ended; try again")?);
    }
    let mut complaint = String::new();
    if let Some(errors) = child.stderr.take() {
        errors.take(COMPLAINT_MAX).read_to_string(&mut complaint).context("waiting for the namespaces")?;
    }
    child.wait().context("waiting for the namespaces")?;
    Err(Failure::says(Exit::Failure, complaint.trim_end()))
}

fn make_run_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("making `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// Holds the namespaces of a mesh, if this process was started for that.
pub(crate) fn entry(mut words: std::env::ArgsOs) -> Option<ExitCode> {
    if words.nth(1)? != HOLDER || words.next()? != "--data-dir" {
        return None;
    }
    let data_dir = PathBuf::from(words.next()?);
    Some(match hold(&data_dir) {
        Ok(never) => match never {},
        Err(why) => {
            // Whoever started it reads this there; if nobody does, nobody is missing it.
            drop(writeln!(io::stderr(), "{why}"));
            ExitCode::FAILURE
        }
    })
}

fn hold(data_dir: &Path) -> Result<std::convert::Infallible, String> {
    let told = |error: linux::Error| with_causes(&error);
    process::close_descriptors().map_err(told)?;
    process::leave_session().map_err(told)?;
    userns::make().map_err(|error| refusal(&error))?;
    mount::tmpfs(&crate::settings::run_dir_apart(data_dir), RUN_MEMORY, Access::ReadWrite)
        .map_err(|error| refusal(&error))?;
    let said = || -> io::Result<()> {
        writeln!(io::stdout(), "{READY}")?;
        io::stdout().flush()?;
        // Whoever reads either of them until its end must not wait for the end of the mesh.
        let nothing = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nothing)?;
        Ok(rustix::stdio::dup2_stderr(&nothing)?)
    };
    said().map_err(|error| format!("saying that the namespaces are there: {error}"))?;
    loop {
        std::thread::park();
    }
}
