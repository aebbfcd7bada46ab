//! `conformance`: the cases of a corpus against the engine that enforces.

use std::fs;
use std::path::{Path, PathBuf};

use control::corpus::{self, Case};
use serde_json::{Value, json};

use crate::args::{ConformanceArguments, Format};
use crate::exit::{Exit, Failure, Outcome};
use crate::print;

/// The longest file that is read: what the YAML reader takes.
const FILE_BYTES_MAX: u64 = api::yaml::BYTES_MAX as u64;
/// Folders below one another: a corpus is two deep.
const FOLDERS_DEEP_MAX: usize = 16;

/// A case and the file it stands in.
struct Found {
    file: String,
    case: Case,
}

/// What could be read, and what is said about the rest.
#[derive(Default)]
struct Reading {
    found: Vec<Found>,
    unreadable: Vec<String>,
}

/// Reads every file, then judges each case or prints what the engine answers.
pub(crate) fn run(arguments: &ConformanceArguments) -> Outcome {
    if arguments.answers && arguments.output != Format::Json {
        return Err(Failure::says(Exit::Usage, "`--answers` prints JSON alone: add `-o json`"));
    }
    let mut reading = Reading::default();
    let cases = arguments.dir.join("cases");
    let root = if cases.is_dir() { &cases } else { &arguments.dir };
    for path in files(root, 0, &mut reading.unreadable) {
        file(&path, &mut reading);
    }
    if reading.found.is_empty() && reading.unreadable.is_empty() {
        reading.unreadable.push(format!("{}: no *.yaml file below it", root.display()));
    }
    for line in &reading.unreadable {
        print::err(format_args!("error: {line}"));
    }
    let passed =
        if arguments.answers { answers(&reading.found).map(|()| true) } else { judge(&reading, arguments.output) };
    if !reading.unreadable.is_empty() {
        passed?;
        return Err(Failure::silent(Exit::BadInput));
    }
    if passed? { Ok(()) } else { Err(Failure::silent(Exit::Negative)) }
}

/// The corpus files at or below a path, sorted. Links to folders are not followed, since they may lead back up.
fn files(path: &Path, depth: usize, unreadable: &mut Vec<String>) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    if depth > FOLDERS_DEEP_MAX {
        unreadable
            .push(format!("{}: more than {FOLDERS_DEEP_MAX} folders deep; name a folder below it", path.display()));
        return Vec::new();
    }
    let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            unreadable.push(format!("{}: {error}", path.display()));
            return Vec::new();
        }
    };
    entries.sort_by_key(fs::DirEntry::path);
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&path, depth + 1, unreadable));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found
}

/// Reads one file; what is wrong with it is one line with the first place.
fn file(path: &Path, reading: &mut Reading) {
    let name = path.display().to_string();
    let text = match text(path) {
        Ok(text) => text,
        Err(error) => return reading.unreadable.push(format!("{name}: {error:#}")),
    };
    let corpus = corpus::read(&text);
    if let Some(first) = corpus.problems.first() {
        let more = match corpus.problems.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more like it in this file)"),
        };
        reading.unreadable.push(format!("{name}:{}:{}: {}{more}", first.place.line, first.place.column, first.message));
    }
    reading.found.extend(corpus.cases.into_iter().map(|case| Found { file: name.clone(), case }));
}

fn text(path: &Path) -> anyhow::Result<String> {
    let about = fs::metadata(path)?;
    // A pipe or a device would be waited for.
    anyhow::ensure!(about.is_file(), "not a regular file");
    anyhow::ensure!(about.len() <= FILE_BYTES_MAX, "longer than {FILE_BYTES_MAX} bytes; split it");
    String::from_utf8(fs::read(path)?).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
        anyhow::anyhow!("line {line}: not UTF-8 at byte {valid}")
    })
}

/// What the engine computes, for each case and profile.
fn answers(found: &[Found]) -> Outcome {
    let one = |case: &Case| -> Vec<Value> { case.profiles.iter().map(|profile| case.answer(*profile).value).collect() };
    let all: Value = found.iter().flat_map(|found| one(&found.case)).collect();
    print::out(format_args!("{all:#}\n"))
}

/// Prints failures and then how many cases passed and failed; whether all passed.
fn judge(reading: &Reading, format: Format) -> Result<bool, Failure> {
    let (mut failed, mut told, mut report) = (0, Vec::new(), Vec::new());
    for Found { file, case } in &reading.found {
        let failures: Vec<_> = case.profiles.iter().flat_map(|profile| case.judge(&case.answer(*profile))).collect();
        if failures.is_empty() {
            continue;
        }
        failed += 1;
        told.push(format!("FAILED {} ({file}:{}): {}", case.id, case.place.line, case.title));
        for failure in failures {
            let (line, profile) = (failure.place.line, failure.profile.word());
            told.push(format!("  {file}:{line}: {profile}: {}", failure.message));
            report.push(json!({"id": case.id, "title": case.title, "profile": profile, "file": file, "line": line,
                               "message": failure.message}));
        }
    }
    let passed = reading.found.len() - failed;
    match format {
        Format::Table => {
            told.push(format!("{passed} passed, {failed} failed\n"));
            print::out(format_args!("{}", told.join("\n")))?;
        }
        Format::Json => {
            let whole =
                json!({"passed": passed, "failed": failed, "failures": report, "unreadable": reading.unreadable});
            print::out(format_args!("{whole:#}\n"))?;
        }
    }
    Ok(failed == 0)
}
