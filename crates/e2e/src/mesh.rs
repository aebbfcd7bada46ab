//! A mesh of a test's own: its data directory, its daemon, and shells that speak to it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::workspace_root;
use control::walkthrough::Step;

/// The binary under test.
pub fn binary() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    // target/debug/deps/test-… → target/debug/tidegate
    let beside = here.ancestors().nth(2).map(|folder| folder.join("tidegate"));
    match beside {
        Some(path) if path.exists() => path,
        _ => panic!("no `tidegate` beside the tests; build it first: cargo build --bins"),
    }
}

/// A kubectl that the walkthroughs are run with.
#[derive(Debug, Clone)]
pub struct Kubectl {
    /// What a failure names.
    pub version: String,
    /// A folder whose `kubectl` is this one.
    folder: PathBuf,
}

impl Kubectl {
    /// The second number of its version.
    pub fn minor(&self) -> u32 {
        let minor = self.version.rsplit('.').next().and_then(|minor| minor.parse().ok());
        minor.unwrap_or_else(|| panic!("no version: {}", self.version))
    }
}

/// The kubectl builds to test with: 1.20 and 1.37 always, and those installed beside the first on the PATH.
pub fn kubectls() -> Vec<Kubectl> {
    let tools = workspace_root().join("crates/e2e/.tools");
    let mut found = Vec::new();
    for version in ["1.20", "1.37"] {
        let folder = tools.join(format!("kubectl-{version}"));
        assert!(folder.join("kubectl").exists(), "kubectl {version} is missing; run crates/e2e/tools.sh");
        found.push(Kubectl { version: version.to_owned(), folder });
    }
    found.extend(installed(&tools));
    found
}

/// Separate binaries `kubectl.1.NN` beside an installed kubectl, each given a folder of its own.
fn installed(tools: &Path) -> Vec<Kubectl> {
    let Some(path) = std::env::var_os("PATH") else { return Vec::new() };
    let Some(kubectl) = std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.exists())
    else {
        return Vec::new();
    };
    let real = std::fs::canonicalize(&kubectl).unwrap_or(kubectl);
    let Some(folder) = real.parent() else { return Vec::new() };
    let mut found = Vec::new();
    for minor in 27..=36 {
        let binary = folder.join(format!("kubectl.1.{minor}"));
        if !binary.exists() {
            continue;
        }
        let version = format!("1.{minor}");
        let own = tools.join(format!("kubectl-{version}"));
        std::fs::create_dir_all(&own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
        let link = own.join("kubectl");
        if std::fs::read_link(&link).ok().as_ref() != Some(&binary) {
            // Another test may make the same link at the same time: either is right.
            drop(std::os::unix::fs::symlink(&binary, &link));
        }
        found.push(Kubectl { version, folder: own });
    }
    found
}

/// A mesh that lives as long as this value.
#[derive(Debug)]
pub struct Mesh {
    /// Before the directory that it covers.
    _disk: Option<Disk>,
    home: tempfile::TempDir,
    environment: Vec<(String, OsString)>,
    /// Who runs everything in it: root, or this user, who has no account here and no right that not everybody has.
    user: Option<u32>,
}

/// A file system of its own; gone when dropped.
#[derive(Debug)]
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // What still holds a file of it keeps it alive, unseen.
        if let Err(error) = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH) {
            assert!(std::thread::panicking(), "letting go of the disk: {error}");
        }
    }
}

impl Mesh {
    /// Starts a mesh and returns when it is ready.
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// A place for a mesh that does not run yet.
    pub fn down() -> Self {
        let home = tempfile::tempdir().unwrap_or_else(|error| panic!("temporary directory: {error}"));
        Self { _disk: None, home, environment: Vec::new(), user: None }
    }

    /// A place for a mesh on a disk of its own, of so many bytes.
    pub fn on_disk(bytes: usize) -> Self {
        let home = tempfile::tempdir().unwrap_or_else(|error| panic!("temporary directory: {error}"));
        let options = std::ffi::CString::new(format!("size={bytes},mode=755")).unwrap_or_default();
        linux::mount::tmpfs(home.path(), &options, linux::mount::Access::ReadWrite)
            .unwrap_or_else(|error| panic!("a disk of its own: {error}"));
        Self { _disk: Some(Disk(home.path().to_path_buf())), home, environment: Vec::new(), user: None }
    }

    /// Everything that is run for this mesh has this in its environment as well.
    pub fn with(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// A place for a mesh of an ordinary user, that does not run yet.
    pub fn down_for(user: u32) -> Self {
        let mut mesh = Self::down();
        mesh.user = Some(user);
        mesh.give(mesh.work_dir());
        mesh
    }

    /// Gives what a test has made to the user of this mesh.
    fn give(&self, path: &Path) {
        let given = std::os::unix::fs::chown(path, self.user, self.user);
        given.unwrap_or_else(|error| panic!("giving {} away: {error}", path.display()));
    }

    /// Starts a mesh as an ordinary user and returns when it is ready.
    pub fn up_for(user: u32) -> Self {
        let mesh = Self::down_for(user);
        let output = mesh.tidegate(&["up", "--detach"]);
        assert!(output.status.success(), "up failed: {}", told(&output));
        mesh
    }

    /// Whether it is an ordinary user's.
    pub const fn is_users(&self) -> bool {
        self.user.is_some()
    }

    /// The same with more arguments for `up`.
    pub fn up_with(arguments: &[&str]) -> Self {
        let mesh = Self::down();
        let output = mesh.tidegate(&[&["up", "--detach"], arguments].concat());
        assert!(output.status.success(), "up failed: {}", told(&output));
        mesh
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("mesh")
    }

    /// The name of the mesh on this machine: from its data directory, as ARCHITECTURE.md says.
    pub fn id(&self) -> String {
        let output = self.tidegate(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let id = status.get("id").and_then(|id| id.as_str());
        id.map_or_else(|| panic!("status says no id: {}", told(&output)), str::to_owned)
    }

    /// The process of the daemon.
    pub fn daemon(&self) -> i32 {
        let lock = std::fs::read_to_string(self.data_dir().join("lock")).unwrap_or_default();
        let lock: serde_json::Value = serde_json::from_str(&lock).unwrap_or_default();
        let pid = lock.get("pid").and_then(serde_json::Value::as_i64).unwrap_or_default();
        i32::try_from(pid).unwrap_or_default()
    }

    /// Ends the daemon alone, as an out-of-memory kill would.
    pub fn kill_9_daemon(&self) {
        kill_9(&[self.daemon()]);
    }

    /// Ends every process of the mesh: the daemon, its helpers, the pods.
    pub fn kill_9_everything(&self) {
        loop {
            let pids: Vec<_> = processes_of(&self.data_dir()).into_iter().map(|(pid, _)| pid).collect();
            if pids.is_empty() {
                return;
            }
            kill_9(&pids);
        }
    }

    /// A working directory, which is also HOME of what runs in the mesh.
    pub fn work_dir(&self) -> &Path {
        self.home.path()
    }

    /// A command as it is run in this mesh, not started yet.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        if let Some(user) = self.user {
            // Without further groups, as the library does for another user.
            command.uid(user).gid(user);
        }
        command.env("TIDEGATE_DATA_DIR", self.data_dir()).env("HOME", self.home.path()).env_remove("KUBECONFIG");
        command.current_dir(self.home.path()).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs one verb of the binary on this mesh.
    pub fn tidegate(&self, arguments: &[&str]) -> Output {
        let run = self.command(self.binary()).args(arguments).output();
        run.unwrap_or_else(|error| panic!("running tidegate: {error}"))
    }

    /// Starts the mesh in the foreground, with pipes.
    pub fn foreground(&self) -> Child {
        let mut command = self.command(self.binary());
        command.arg("up").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|error| panic!("running tidegate: {error}"))
    }

    /// The binary under test, where whoever runs it in this mesh can reach it.
    pub fn binary(&self) -> PathBuf {
        self.reached(&binary())
    }

    /// A program where the user of this mesh can reach it: where it is, or a copy.
    fn reached(&self, program: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let open = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
        if self.user.is_none() || program.canonicalize().is_ok_and(|real| real.ancestors().all(open)) {
            return program.to_owned();
        }
        // One folder for each that there is, so that those of kubectl are apart.
        let folder = program.parent().unwrap_or(program).to_string_lossy().replace('/', "-");
        let folder = self.home.path().join("programs").join(folder);
        let copy = folder.join(program.file_name().unwrap_or_default());
        if !copy.exists() {
            let made = std::fs::create_dir_all(&folder).and_then(|()| std::fs::copy(program, &copy));
            made.unwrap_or_else(|error| panic!("copying {}: {error}", program.display()));
        }
        copy
    }

    /// The PATH of what runs in this mesh, with this kubectl first.
    pub fn path_with(&self, kubectl: &Kubectl) -> OsString {
        let kubectl = self.reached(&kubectl.folder.join("kubectl"));
        let mut folders: Vec<PathBuf> = kubectl.parent().into_iter().map(Path::to_path_buf).collect();
        folders.extend(self.binary().parent().map(Path::to_path_buf));
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        std::env::join_paths(folders).unwrap_or_default()
    }

    fn bash_command(&self, kubectl: &Kubectl, script: &str) -> Command {
        let mut command = self.command("bash");
        command.env("PATH", self.path_with(kubectl)).args(["-c", script]);
        command
    }

    /// A bash that runs a script with this kubectl first on its PATH.
    pub fn bash(&self, kubectl: &Kubectl, script: &str) -> Output {
        self.bash_command(kubectl, script).output().unwrap_or_else(|error| panic!("running bash: {error}"))
    }

    /// The same, running, with pipes to its standard input and output; the last command replaces it if it is `exec`.
    pub fn bash_child(&self, kubectl: &Kubectl, script: &str) -> Child {
        let mut command = self.bash_command(kubectl, script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|error| panic!("running bash: {error}"))
    }

    /// Plays steps in one shell, and returns what each printed and its exit code, in order.
    pub fn play(&self, kubectl: &Kubectl, steps: &[Step]) -> Vec<Played> {
        let results = self.home.path().join(format!("results-{}", kubectl.version));
        std::fs::create_dir_all(&results).unwrap_or_else(|error| panic!("{}: {error}", results.display()));
        self.give(&results);
        let line = |(number, step): (usize, &Step)| {
            let to = results.join(number.to_string());
            let to = to.display();
            format!("{{ {}\n}} >{to}.out 2>{to}.err; echo $? >{to}.code\n", step.command)
        };
        let script: String = steps.iter().enumerate().map(line).collect();
        let output = self.bash(kubectl, &script);
        let read = |number: usize, what: &str| {
            let path = results.join(format!("{number}.{what}"));
            std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}; {}", path.display(), told(&output)))
        };
        let played = |number| Played {
            stdout: read(number, "out"),
            stderr: read(number, "err"),
            code: read(number, "code").trim().parse().unwrap_or(-1),
        };
        (0..steps.len()).map(played).collect()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // One that was never up, or is gone already, has nothing to end.
        if !self.data_dir().exists() {
            return;
        }
        let output = self.tidegate(&["down", "--purge"]);
        if !std::thread::panicking() {
            assert!(output.status.success(), "down failed: {}", told(&output));
        }
    }
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code of the whole line.
    pub code: i32,
}

/// What a command said, for a failing assertion.
pub fn told(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}\n--- stdout\n{stdout}--- stderr\n{stderr}", output.status)
}

/// Kills processes and waits until they are gone.
fn kill_9(pids: &[i32]) {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // One that is gone already is what is wanted.
        if pidfd_send_signal(&process, Signal::KILL).is_ok() {
            let gone = poll(&mut [PollFd::new(&process, PollFlags::IN)], None);
            gone.unwrap_or_else(|error| panic!("waiting for process {pid:?}: {error}"));
        }
    }
}

/// The processes that carry this data directory in their arguments or environment: pid and command line.
pub fn processes_of(data_dir: &Path) -> Vec<(i32, String)> {
    let wanted = data_dir.as_os_str().as_encoded_bytes();
    let carries = |pid: i32, file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(wanted.len()).any(|part| part == wanted)
    };
    let entries = std::fs::read_dir("/proc").map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let pids = entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    pids.filter(|pid| *pid != own && (carries(*pid, "cmdline") || carries(*pid, "environ")))
        .map(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&words).replace('\0', " "))
        })
        .collect()
}
