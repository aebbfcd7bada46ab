//! Where questions get their texts from: files, directories, standard input, a git revision, a running mesh.
//!
//! Every verb that asks about manifests takes the same words. What cannot be read is told and the rest goes on; the verb ends
//! with exit code 65 then, whatever else it found.

mod git;
mod kubeconfig;
mod live;
mod processors;

use std::fs::{self, File};
use std::io::{IsTerminal, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use control::bundle::{self, Bundle, DEFAULT_NAMESPACE, Text};
use control::mesh_config::{self, MeshConfig};
use policy::Profile;

use crate::args::DataDirArgument;
use crate::exit::{Exit, Failure};
use crate::print;

/// The word that stands for the running mesh.
pub(crate) const LIVE: &str = "live";
/// Longest text: what the YAML reader takes.
const TEXT_BYTES_MAX: u64 = api::yaml::BYTES_MAX as u64;
/// Most files of one question; a tree with more of them is no tree of manifests.
const FILES_MAX: usize = 20_000;
/// Most bytes of one question, so that a wrong directory costs no more memory than a machine has.
const ALL_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Folders below one another: deeper trees than this are not written by people.
const FOLDERS_DEEP_MAX: usize = 32;

/// Which manifests are asked about, and how they are read.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArguments {
    /// Manifests: a file, a directory (its *.yaml, *.yml and *.json), `-` for standard input, `REV:PATH` of git, or `live`
    #[arg(value_name = "FILE|DIR|-|REV:PATH|live")]
    pub(crate) files: Vec<String>,
    #[command(flatten)]
    pub(crate) how: ReadArguments,
}

/// How manifests are read.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReadArguments {
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    pub(crate) namespace: String,
    /// Settings of the mesh, in the form of key `mesh` of ConfigMap `istio`, instead of that ConfigMap
    #[arg(long, value_name = "FILE")]
    pub(crate) mesh_config: Option<PathBuf>,
    /// With `live`: the cluster of this kubeconfig instead of the mesh of this machine
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// With `--kubeconfig`: its context [default: the current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub(crate) context: Option<String>,
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The objects, and what is wrong with texts.
    pub(crate) bundle: Bundle,
    /// What could not be read at all: name and reason.
    pub(crate) unreadable: Vec<(String, String)>,
    /// Settings given by `--mesh-config`.
    pub(crate) config: Option<MeshConfig>,
}

impl Sources {
    /// The mesh, in the profile asked for or that of its settings.
    pub(crate) fn mesh(&self, profile: Option<Profile>) -> policy::Mesh {
        self.bundle.mesh(profile, self.config.as_ref())
    }

    /// Whether something that was to be read could not be: then the verb ends with exit code 65.
    pub(crate) fn is_bad(&self) -> bool {
        !self.unreadable.is_empty() || self.bundle.problems().iter().any(|problem| problem.fault.is_bad())
    }

    /// Tells what is bad on standard error, one line each with its place. Verbs that show problems in their own way do not.
    pub(crate) fn tell_bad(&self) {
        for (name, why) in &self.unreadable {
            print::err(format_args!("error: {name}: {why}"));
        }
        for problem in self.bundle.problems().iter().filter(|problem| problem.fault.is_bad()) {
            let name = self.bundle.texts().get(problem.place.text).map_or("", |text| text.name.as_str());
            let span = &problem.place.span;
            print::err(format_args!("error: {name}:{}:{}: {}", span.line, span.column, problem.message));
        }
    }
}

/// Reads what the arguments name. Fails only where nothing is left to answer from.
pub(crate) fn read(arguments: &SourceArguments) -> Result<Sources, Failure> {
    read_files(&arguments.files, &arguments.how)
}

/// Reads one set of files, as the arguments say.
pub(crate) fn read_files(files: &[String], how: &ReadArguments) -> Result<Sources, Failure> {
    if files.is_empty() {
        let what = "nothing to read: name a file, a directory, `-`, `REV:PATH` of git or `live`";
        return Err(Failure::says(Exit::Usage, what));
    }
    let config = how.mesh_config.as_deref().map(mesh_config).transpose()?;
    let mut gathering = Gathering::default();
    for word in files {
        gathering.word(word, how)?;
    }
    let bundle = bundle::read_with(gathering.texts, &how.namespace, processors::read);
    Ok(Sources { bundle, unreadable: gathering.unreadable, config })
}

/// Settings from a file. A bad value is told and ends the command: an answer under other settings would be a wrong one.
fn mesh_config(path: &Path) -> Result<MeshConfig, Failure> {
    let bad = |why: String| Failure::says(Exit::BadInput, format!("--mesh-config {}: {why}", path.display()));
    let bytes = file(path).map_err(|error| bad(format!("{error:#}")))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("not UTF-8".to_owned()))?;
    let config = mesh_config::of_text(&text);
    match config.findings.iter().find(|finding| finding.bad) {
        Some(finding) => Err(bad(format!("{}: {}", finding.path, finding.message))),
        None => Ok(config),
    }
}

#[derive(Default)]
struct Gathering {
    texts: Vec<Text>,
    bytes: u64,
    unreadable: Vec<(String, String)>,
}

impl Gathering {
    fn word(&mut self, word: &str, how: &ReadArguments) -> Result<(), Failure> {
        let path = Path::new(word);
        if word == "-" {
            self.take("-".to_owned(), standard_input());
        } else if fs::symlink_metadata(path).is_ok() {
            if path.is_dir() { self.folder(path, 0) } else { self.take(word.to_owned(), file(path)) }
        } else if word == LIVE {
            for text in live::texts(how)? {
                self.put(text);
            }
        } else if let Some((revision, path)) = word.split_once(':') {
            match git::texts(revision, path, FILES_MAX) {
                Ok(texts) => texts.into_iter().for_each(|text| self.put(text)),
                Err(error) => self.unreadable.push((word.to_owned(), format!("{error:#}"))),
            }
        } else {
            let why = "no such file or directory (nor `REV:PATH` of git, nor `live`)";
            self.unreadable.push((word.to_owned(), why.to_owned()));
        }
        Ok(())
    }

    /// The manifests of a directory and those below it, sorted. Links to directories are not followed, since they may lead
    /// back up; directories whose name begins with a dot are not looked into, as they hold what programs keep for themselves.
    fn folder(&mut self, folder: &Path, depth: usize) {
        let mut refuse = |why: String| self.unreadable.push((folder.display().to_string(), why));
        if depth > FOLDERS_DEEP_MAX {
            return refuse(format!("more than {FOLDERS_DEEP_MAX} folders deep; name a folder below it"));
        }
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return refuse(error.to_string()),
        };
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let path = entry.path();
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !hidden {
                    self.folder(&path, depth + 1);
                }
            } else if is_manifest(&path) && !path.is_dir() {
                self.take(path.display().to_string(), file(&path));
            }
        }
    }

    fn take(&mut self, name: String, bytes: Result<Vec<u8>>) {
        match bytes {
            Ok(bytes) => self.put(Text { name, bytes }),
            Err(error) => self.unreadable.push((name, format!("{error:#}"))),
        }
    }

    fn put(&mut self, text: Text) {
        self.bytes += text.bytes.len() as u64;
        if self.texts.len() >= FILES_MAX {
            self.unreadable.push((text.name, format!("more than {FILES_MAX} files; name fewer")));
        } else if self.bytes > ALL_BYTES_MAX {
            self.unreadable.push((text.name, format!("more than {ALL_BYTES_MAX} bytes in all; name fewer files")));
        } else {
            self.texts.push(text);
        }
    }
}

/// Whether a file is read when its directory is named.
fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn standard_input() -> Result<Vec<u8>> {
    let input = std::io::stdin();
    ensure!(!input.is_terminal(), "standard input is a terminal; pipe manifests into it");
    let bytes = bounded(input.lock())?;
    ensure!(!bytes.trim_ascii().is_empty(), "standard input is empty");
    Ok(bytes)
}

fn file(path: &Path) -> Result<Vec<u8>> {
    let is_link = path.is_symlink();
    let about = fs::metadata(path).map_err(|error| match fs::read_link(path) {
        Ok(target) if is_link => anyhow!("a broken link to `{}`", target.display()),
        _ => anyhow!(error),
    })?;
    // What a shell makes of `<(..)` is a pipe, and as good as a file.
    ensure!(about.is_file() || about.file_type().is_fifo(), "neither a file nor a directory");
    bounded(File::open(path)?)
}

fn bounded(from: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).context("reading it")?;
    ensure!(bytes.len() as u64 <= TEXT_BYTES_MAX, "longer than {TEXT_BYTES_MAX} bytes; split it");
    Ok(bytes)
}
