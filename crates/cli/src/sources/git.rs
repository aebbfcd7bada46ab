//! Manifests as they are in a git revision, read by git itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use control::bundle::Text;

use super::{TEXT_BYTES_MAX, is_manifest};

/// A file in a revision.
struct Entry {
    object: String,
    path: String,
}

/// The manifest at a path in a revision, or those below it if it is a directory; the path is relative to where we are.
pub(super) fn texts(revision: &str, path: &str, files_max: usize) -> Result<Vec<Text>> {
    let commit = resolve(revision)?;
    let path = if path.is_empty() { "." } else { path };
    let mut entries = list(&commit, path)?;
    ensure!(!entries.is_empty(), "revision `{revision}` has no `{path}`; paths are relative to the current directory");
    if let [only] = entries.as_slice()
        && Path::new(&only.path) == Path::new(path)
    {
        return contents(revision, &entries);
    }
    entries.retain(|entry| {
        let path = Path::new(&entry.path);
        let hidden = path.parent().is_some_and(|parent| {
            parent.iter().any(|part| part.as_encoded_bytes().starts_with(b".") && part != "." && part != "..")
        });
        is_manifest(path) && !hidden
    });
    ensure!(entries.len() <= files_max, "more than {files_max} files; name a directory below it");
    contents(revision, &entries)
}

/// The commit or tree that a revision names. Whatever it begins with, it is never an option.
fn resolve(revision: &str) -> Result<String> {
    let wanted = format!("{revision}^{{tree}}");
    let output = git().args(["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted]).output();
    let output = output.context("running git")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("fatal: ").to_owned();
    Err(if why.is_empty() { anyhow!("git knows no revision `{revision}`") } else { anyhow!("git: {why}") })
}

fn list(tree: &str, path: &str) -> Result<Vec<Entry>> {
    let output = git().args(["ls-tree", "-r", "-z", tree, "--", path]).output().context("running git")?;
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr).trim());
    let mut found = Vec::new();
    for line in output.stdout.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let line = String::from_utf8_lossy(line);
        let (about, path) = line.split_once('\t').context("reading what git lists")?;
        // `MODE TYPE OBJECT`; links are blobs that hold a path, and submodules none of ours.
        let about: Vec<&str> = about.split(' ').collect();
        if let [mode, "blob", object] = about.as_slice()
            && *mode != "120000"
        {
            found.push(Entry { object: (*object).to_owned(), path: path.to_owned() });
        }
    }
    Ok(found)
}

/// All of them through one process: a start of git for each file would take longer than the question.
fn contents(revision: &str, entries: &[Entry]) -> Result<Vec<Text>> {
    let mut child = git()
        .args(["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("running git")?;
    let (Some(mut to), Some(from)) = (child.stdin.take(), child.stdout.take()) else { bail!("git without pipes") };
    let mut from = BufReader::new(from);
    let mut texts = Vec::with_capacity(entries.len());
    // One question at a time: both pipes are bounded, and git answers before it reads on.
    let read = entries.iter().try_for_each(|entry| {
        writeln!(to, "{}", entry.object)?;
        to.flush()?;
        let bytes = one(&mut from).with_context(|| format!("`{}`", entry.path))?;
        texts.push(Text { name: format!("{revision}:{}", entry.path), bytes });
        anyhow::Ok(())
    });
    drop((to, from));
    let ended = child.wait().context("waiting for git")?;
    read?;
    ensure!(ended.success(), "git cat-file: {ended}");
    Ok(texts)
}

/// `OBJECT blob SIZE`, a line break, the bytes, a line break.
fn one(from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut head = String::new();
    from.read_line(&mut head)?;
    let size: u64 = head.trim_end().rsplit(' ').next().unwrap_or_default().parse().with_context(|| head.clone())?;
    ensure!(size <= TEXT_BYTES_MAX, "longer than {TEXT_BYTES_MAX} bytes; split it");
    let mut bytes = Vec::new();
    from.take(size).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 == size, "git ended in the middle of it");
    let mut end = [0];
    from.read_exact(&mut end)?;
    Ok(bytes)
}

fn git() -> Command {
    let mut git = Command::new("git");
    // Paths are paths and not patterns; nothing is fetched or locked for a question.
    git.args(["--no-optional-locks", "--literal-pathspecs"]).stdin(Stdio::null()).env("GIT_NO_LAZY_FETCH", "1");
    git
}
