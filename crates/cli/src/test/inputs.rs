//! The files of tests, and the files that a test names by patterns: `*` and `?` within one name, `**` for folders.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The longest file that is read: what the YAML reader takes.
const FILE_BYTES_MAX: u64 = api::yaml::BYTES_MAX as u64;
/// Folders below one another: deeper trees are not written by people.
const FOLDERS_DEEP_MAX: usize = 32;
/// Files that patterns find or directories hold: more is a wrong directory.
const FILES_MAX: usize = 20_000;

/// The files that may hold tests, sorted. Hidden folders and links to folders are not entered.
pub(super) fn test_files(named: &[PathBuf], tell: &mut impl FnMut(String)) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in named {
        match fs::metadata(path) {
            Ok(about) if about.is_dir() => {
                let mut walk = Walk { found: Vec::new(), troubles: Vec::new() };
                walk.below(path, 0);
                let plain = |file: PathBuf| file.strip_prefix("./").map(Path::to_path_buf).unwrap_or(file);
                files.extend(walk.found.into_iter().filter(|file| is_manifest(file)).map(plain));
                walk.troubles.into_iter().for_each(&mut *tell);
            }
            Ok(_) => files.push(path.clone()),
            Err(error) => tell(format!("{}: {error}", path.display())),
        }
    }
    files
}

/// The text of a file of tests.
pub(super) fn text(path: &Path) -> Result<String> {
    let about = fs::metadata(path)?;
    // A pipe or a device would be waited for.
    ensure!(about.is_file(), "not a regular file");
    ensure!(about.len() <= FILE_BYTES_MAX, "longer than {FILE_BYTES_MAX} bytes; split it");
    String::from_utf8(fs::read(path)?).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
        anyhow::anyhow!("line {line}: not UTF-8 at byte {valid}")
    })
}

/// The files that patterns mean, from a folder; without patterns, the folder itself.
pub(super) fn files(folder: &Path, patterns: &[String]) -> Result<Vec<String>, String> {
    let shown = |path: &Path| if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() };
    if patterns.is_empty() {
        return Ok(vec![shown(folder)]);
    }
    let mut files = Vec::new();
    for pattern in patterns {
        let mut found = Vec::new();
        if pattern.contains(['*', '?']) {
            let steps: Vec<&str> = pattern.split('/').filter(|step| !step.is_empty()).collect();
            let start = if pattern.starts_with('/') { Path::new("/") } else { folder };
            follow(start, &steps, 0, &mut found);
            found.retain(|path| path.is_dir() || is_manifest(path));
            found.sort();
            found.dedup();
        } else if folder.join(pattern).exists() {
            found.push(folder.join(pattern));
        }
        if found.is_empty() {
            return Err(format!("`inputs`: `{pattern}` matches no manifest below `{}`", shown(folder)));
        }
        if found.len() > FILES_MAX {
            return Err(format!("`inputs`: `{pattern}` matches more than {FILES_MAX} files; name fewer"));
        }
        files.extend(found.iter().map(|path| shown(path)));
    }
    Ok(files)
}

/// Adds what the rest of a pattern finds from a path on.
fn follow(from: &Path, steps: &[&str], depth: usize, found: &mut Vec<PathBuf>) {
    let Some((step, rest)) = steps.split_first() else {
        found.push(from.to_path_buf());
        return;
    };
    if depth > FOLDERS_DEEP_MAX || found.len() > FILES_MAX {
        return;
    }
    if *step == "**" {
        follow(from, rest, depth, found);
        for folder in entries(from).iter().filter(|path| is_folder(path)) {
            follow(folder, steps, depth + 1, found);
        }
    } else if step.contains(['*', '?']) {
        for path in entries(from) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // As in a shell, a hidden file is meant only by its dot.
            if matches(step.as_bytes(), name.as_bytes()) && (step.starts_with('.') || !name.starts_with('.')) {
                follow(&path, rest, depth + 1, found);
            }
        }
    } else {
        let path = from.join(step);
        if path.exists() {
            follow(&path, rest, depth + 1, found);
        }
    }
}

/// Whether a name fits a pattern of `*` and `?`, in time that grows with the product of their lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    // Where the last star stands, and where in the name what it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    while let Some(letter) = name.get(of) {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(wanted) if wanted == b"?".first().unwrap_or(letter) || wanted == letter => {
                at += 1;
                of += 1;
            }
            _ => {
                let Some((back, taken)) = star else { return false };
                star = Some((back, taken + 1));
                at = back + 1;
                of = taken + 1;
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|letter| *letter == b'*'))
}

struct Walk {
    found: Vec<PathBuf>,
    troubles: Vec<String>,
}

impl Walk {
    fn below(&mut self, folder: &Path, depth: usize) {
        if depth > FOLDERS_DEEP_MAX {
            self.troubles.push(format!(
                "{}: more than {FOLDERS_DEEP_MAX} folders deep; name a folder below it",
                folder.display()
            ));
            return;
        }
        for path in entries(folder) {
            if is_folder(&path) {
                self.below(&path, depth + 1);
            } else if self.found.len() < FILES_MAX {
                self.found.push(path);
            } else if self.troubles.is_empty() {
                self.troubles.push(format!("{}: more than {FILES_MAX} files; name fewer", folder.display()));
            }
        }
    }
}

/// What is in a folder, sorted; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_folder(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
}

/// Whether a file is read when its directory is named.
pub(super) fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{files, matches};

    #[test]
    fn patterns_match_whole_names() {
        let rows = [
            ("*.yaml", "a.yaml", true),
            ("*.yaml", "a.yml", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("", "", true),
            ("**", "anything", true),
            ("a*", "b", false),
        ];
        for (pattern, name, fits) in rows {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
        // Patterns that make a careless matcher try for years.
        assert!(!matches("*a".repeat(2_000).as_bytes(), "a".repeat(1_999).as_bytes()));
    }

    #[test]
    fn files_are_found_from_the_folder_of_the_test() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a.yaml", "b.yml", "c.txt", ".h.yaml", "x/d.yaml", "x/y/e.json", ".git/f.yaml"] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
            files(dir.path(), &patterns).map(|found| {
                let below = |path: String| path.replace(&format!("{}/", dir.path().display()), "");
                found.into_iter().map(below).collect::<Vec<_>>()
            })
        };
        assert_eq!(found(&["*.yaml"]).unwrap(), ["a.yaml"]);
        assert_eq!(found(&["*"]).unwrap(), ["a.yaml", "b.yml", "x"]);
        assert_eq!(found(&["**/*.yaml", "x/y"]).unwrap(), ["a.yaml", "x/d.yaml", "x/y"]);
        assert_eq!(found(&["x/**/*.json"]).unwrap(), ["x/y/e.json"]);
        assert_eq!(found(&[".h*"]).unwrap(), [".h.yaml"]);
        assert_eq!(found(&[]).unwrap(), [dir.path().display().to_string()]);
        let error = found(&["a.yaml", "z/*.yaml"]).unwrap_err();
        assert!(error.starts_with("`inputs`: `z/*.yaml` matches no manifest"), "{error}");
    }
}
