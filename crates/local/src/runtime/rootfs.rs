//! The tree that a container sees. For a tool box it is made from nothing: memory, the host's programs read-only, and files
//! of our own. For an image it is an overlay: its layers, read-only, and memory above them.
//!
//! Sources on the host are taken first, as handles; then the root changes and the host's tree is gone; then everything
//! is put in its place. No path of a container is resolved while anything of the host can still be reached.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use linux::mount::{self, Access, Tree};

use super::spec::{APPLET_DIR, ContainerSpec, Root, WRITABLE_DEFAULT_BYTES};
use crate::{Error, images};

/// Files of the memory that a container may write outside its volumes: a bound on the kernel's own memory for them.
const FILES_MAX: u32 = 16 * 1024;

/// Devices of an image's container lie in memory of their own: links and directories, no content.
const DEVICE_FOLDER: &CStr = c"mode=0755,size=64k,nr_inodes=64";
/// Memory that processes of a container share by name, as container runtimes have it.
const SHARED_MEMORY: &CStr = c"mode=1777,size=64m,nr_inodes=1k";

/// Devices that every container has, as the host has them.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Directories that programs expect, with their modes.
const DIRECTORIES: [(&str, u32); 14] = [
    ("/dev", 0o755),
    ("/dev/pts", 0o755),
    ("/dev/shm", 0o1777),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/opt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var", 0o755),
    ("/var/tmp", 0o1777),
];

/// Of the process table: what speaks of the machine rather than of processes, hidden (files, directories).
const HIDDEN: [&str; 12] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/kallsyms",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/acpi",
    "/proc/scsi",
];

/// Of the process table: what sets the machine, read-only.
const FROZEN: [&str; 5] = ["/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/tty"];

/// Top-level names that belong to the programs: links into `/usr` where the host has them so, else directories.
const PROGRAM_LINKS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Builds the tree and makes it the root directory; `scratch` is an empty directory to build on. The caller is alone in
/// a mount namespace of its own and already in the pod's pid namespace; `shared` is what it has of the pod's files in memory.
pub(super) fn build(spec: &ContainerSpec, shared: Vec<(Tree, PathBuf, Access)>, scratch: &Path) -> Result<(), Error> {
    let taken = take(spec)?;
    let most = spec.writable_bytes.unwrap_or(WRITABLE_DEFAULT_BYTES);
    let memory = c_string(format!("mode=0755,size={most},nr_inodes={FILES_MAX}"))?;
    kernel("build a container's root", mount::make_private())?;
    kernel("build a container's root", mount::tmpfs(scratch, &memory, Access::ReadWrite))?;
    if taken.layers.is_empty() {
        kernel("build a container's root", mount::change_root(scratch))?;
        for (path, mode) in DIRECTORIES {
            directory(Path::new(path), mode)?;
        }
    } else {
        let root = overlay(&taken.layers, scratch)?;
        kernel("build a container's root", mount::change_root(&root))?;
        // Nothing of the image is where the kernel's own file systems come: a link there would lead them elsewhere.
        for path in ["/dev", "/proc", "/sys"] {
            own_directory(Path::new(path))?;
        }
        kernel("build a container's root", mount::tmpfs(Path::new("/dev"), DEVICE_FOLDER, Access::ReadWrite))?;
        for path in ["/dev/pts", "/dev/shm"] {
            directory(Path::new(path), 0o755)?;
        }
        kernel("build a container's root", mount::tmpfs(Path::new("/dev/shm"), SHARED_MEMORY, Access::ReadWrite))?;
    }
    for (path, target) in &taken.links {
        link(path, target)?;
    }
    for (tree, path, access) in taken.trees {
        place(tree, &path, access)?;
    }
    if let Some(table) = taken.copy_program {
        // The binary was replaced since it was started: what runs is reached by this name alone.
        copy_program(table)?;
    }
    devices()?;
    for made in &spec.links {
        link(&inside(&made.path)?, Path::new(&made.target))?;
    }
    for file in &spec.files {
        let path = inside(&file.path)?;
        // Of an image it may be a link, which is replaced and not followed.
        drop(std::fs::remove_file(&path));
        write(&path, &file.text)?;
    }
    // Outer ones first: an inner one would be hidden below.
    let mut volumes: Vec<_> = taken.volumes.into_iter().chain(shared).collect();
    volumes.sort_by_key(|(_, path, _)| path.components().count());
    for (tree, path, access) in volumes {
        place(tree, &path, access)?;
    }
    applets(&spec.applets)?;
    process_table(taken.processes)?;
    if spec.root != Root::ToolBox {
        // As container runtimes have it: where the program starts is made if the image has forgotten it.
        directory(Path::new(if spec.directory.is_empty() { "/" } else { &spec.directory }), 0o755)?;
    }
    if spec.read_only_root {
        kernel("freeze a container's root", mount::remount(Path::new("/"), Access::ReadOnly))?;
    }
    Ok(())
}

/// What was taken of the host while it could be seen.
struct Taken {
    layers: Vec<OwnedFd>,
    trees: Vec<(Tree, PathBuf, Access)>,
    links: Vec<(PathBuf, PathBuf)>,
    volumes: Vec<(Tree, PathBuf, Access)>,
    /// The table of the processes of this pod.
    processes: Tree,
    /// The program of the applets is to be copied from what runs, by way of another such table.
    copy_program: Option<Tree>,
}

fn take(spec: &ContainerSpec) -> Result<Taken, Error> {
    let tree = |source: &Path| kernel(format!("show `{}` to a container", source.display()), mount::tree(source));
    let table = || kernel("build a container's root", mount::process_table());
    let mut taken = Taken {
        layers: Vec::new(),
        trees: Vec::new(),
        links: Vec::new(),
        volumes: Vec::new(),
        processes: table()?,
        copy_program: None,
    };
    match &spec.root {
        Root::Layers(layers) => {
            taken.layers = layers.iter().map(|layer| images::hold(layer)).collect::<Result<_, _>>()?;
        }
        Root::ToolBox => {
            taken.trees.push((tree(Path::new("/usr"))?, "/usr".into(), Access::ReadOnly));
            for name in PROGRAM_LINKS {
                let path = Path::new("/").join(name);
                if let Ok(target) = std::fs::read_link(&path) {
                    taken.links.push((path, target));
                } else if path.is_dir() {
                    taken.trees.push((tree(&path)?, path, Access::ReadOnly));
                }
            }
        }
    }
    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        taken.trees.push((tree(&path)?, path, Access::Device));
    }
    if !spec.applets.is_empty() {
        let target = Path::new(APPLET_DIR).join(PROGRAM);
        match mount::tree(&spec.program) {
            Ok(program) if is_own_program(&spec.program) => taken.trees.push((program, target, Access::ReadOnly)),
            _ => taken.copy_program = Some(table()?),
        }
    }
    for volume in &spec.mounts {
        let access = if volume.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let doing = format!("show `{}` to a container", volume.source.display());
        taken.volumes.push((kernel(doing, mount::tree_of_own(&volume.source))?, inside(&volume.target)?, access));
    }
    Ok(taken)
}

/// Lays the layers over one another, and memory above them; where that is.
fn overlay(layers: &[OwnedFd], scratch: &Path) -> Result<PathBuf, Error> {
    let [root, upper, work] = ["root", "upper", "work"].map(|name| scratch.join(name));
    for path in [&root, &upper, &work] {
        directory(path, 0o755)?;
    }
    kernel("lay the layers of an image over one another", mount::overlay(&root, layers, &upper, &work))?;
    Ok(root)
}

/// The name of the binary inside.
const PROGRAM: &str = "tidegate";

/// Whether the running binary is still there on the host.
fn is_own_program(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    identity(path).is_some_and(|found| Some(found) == identity(Path::new("/proc/self/exe")))
}

/// Attaches a tree; what it is put on is made first, a directory or an empty file as the tree is.
fn place(tree: Tree, path: &Path, access: Access) -> Result<(), Error> {
    let is_directory = kernel("look at a tree", tree.is_directory())?;
    if is_directory {
        directory(path, 0o755)?;
    } else {
        write(path, "")?;
    }
    kernel("build a container's root", tree.attach(path, access))
}

fn devices() -> Result<(), Error> {
    kernel("build a container's root", mount::devpts(Path::new("/dev/pts")))?;
    let links = [
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ];
    links.iter().try_for_each(|(path, target)| link(Path::new(path), Path::new(target)))
}

fn applets(names: &[String]) -> Result<(), Error> {
    names.iter().try_for_each(|name| link(&Path::new(APPLET_DIR).join(name), Path::new(PROGRAM)))
}

fn copy_program(processes: Tree) -> Result<(), Error> {
    let target = Path::new(APPLET_DIR).join(PROGRAM);
    directory(Path::new(APPLET_DIR), 0o755)?;
    // Through the table of this pod's processes, mounted for the purpose: the host's is out of sight.
    kernel("build a container's root", processes.attach(Path::new("/proc"), Access::Plain))?;
    std::fs::copy("/proc/self/exe", &target).map(drop).map_err(|source| Error::File {
        doing: "copy",
        path: target,
        source,
    })
}

fn process_table(processes: Tree) -> Result<(), Error> {
    kernel("build a container's root", processes.attach(Path::new("/proc"), Access::Plain))?;
    for path in HIDDEN.map(Path::new) {
        let Ok(found) = std::fs::metadata(path) else { continue };
        let hidden = if found.is_dir() {
            mount::tmpfs(path, c"mode=0555,size=4k,nr_inodes=1", Access::ReadOnly)
        } else {
            mount::tree(Path::new("/dev/null")).and_then(|null| null.attach(path, Access::Device))
        };
        kernel("hide a part of the process table", hidden)?;
    }
    for path in FROZEN.map(Path::new).into_iter().filter(|path| path.exists()) {
        kernel("freeze a part of the process table", mount::freeze(path))?;
    }
    Ok(())
}

/// A path of the container's, absolute and without steps up.
pub(super) fn inside(path: &str) -> Result<PathBuf, Error> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain && path != Path::new("/") {
        Ok(path.to_owned())
    } else {
        Err(Error::Container {
            doing: format!("use `{}` as a path in a container", path.display()),
            why: "an absolute path without `..` is needed".to_owned(),
        })
    }
}

/// Makes a directory that is one, and no link to one.
fn own_directory(path: &Path) -> Result<(), Error> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir()) {
        std::fs::remove_file(path).map_err(|source| Error::File {
            doing: "replace in a container",
            path: path.to_owned(),
            source,
        })?;
    }
    directory(path, 0o755)
}

pub(super) fn directory(path: &Path, mode: u32) -> Result<(), Error> {
    let failed = |source| Error::File { doing: "make in a container", path: path.to_owned(), source };
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        directory(parent, 0o755)?;
    }
    std::fs::write(path, text).map_err(|source| Error::File {
        doing: "write in a container",
        path: path.to_owned(),
        source,
    })
}

fn link(path: &Path, target: &Path) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        directory(parent, 0o755)?;
    }
    symlink(target, path).map_err(|source| Error::File { doing: "link in a container", path: path.to_owned(), source })
}

fn kernel<T>(doing: impl Into<String>, outcome: Result<T, linux::Error>) -> Result<T, Error> {
    outcome.map_err(|source| Error::Kernel { doing: doing.into(), source })
}

pub(super) fn c_string(text: String) -> Result<CString, Error> {
    CString::new(text).map_err(|error| super::inside::started("a container", &error.into()))
}
