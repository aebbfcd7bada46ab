//! `analyze`: what manifests mean, and what they do not mean as they look. The finding is `control::analyze`'s; here are files,
//! formats and `--fix`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use control::analyze::{Diagnostic, Options, Report, analyze, fixed};
use control::bundle::Bundle;
use control::finding::{Level, entry};
use policy::Profile;

use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::render::{self, Shown};
use crate::sources::{self, SourceArguments, Sources};

/// A fix may uncover another one (a field whose name is mended is read for the first time); more rounds than this would be a circle.
const ROUNDS_MAX: usize = 8;

/// `analyze`.
#[derive(Debug, Args)]
pub(crate) struct AnalyzeArguments {
    #[command(flatten)]
    sources: SourceArguments,
    /// Profile whose meaning counts [default: that of the mesh settings]
    #[arg(long, value_name = "PROFILE", value_parser = profile)]
    profile: Option<Profile>,
    /// Leave out findings with these codes; may be given several times
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    allow: Vec<String>,
    /// Mend in the files what can only have been meant in one way; the rest is shown
    #[arg(long)]
    fix: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Whether to colour the text
    #[arg(long, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people, with excerpts
    Text,
    /// One JSON object
    Json,
    /// SARIF 2.1.0
    Sarif,
    /// Annotations of GitHub Actions
    Github,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Colour {
    /// On a terminal, unless `NO_COLOR` is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

fn profile(word: &str) -> Result<Profile, String> {
    let known = [Profile::Sidecar, Profile::Ambient].into_iter().find(|profile| profile.word() == word);
    known.ok_or_else(|| "write `sidecar` or `ambient`".to_owned())
}

/// Reads, looks, mends if asked to, and prints.
pub(crate) fn run(arguments: &AnalyzeArguments) -> Outcome {
    let allowed = arguments.allow.iter().map(|code| allowed(code)).collect::<Result<BTreeSet<_>, _>>()?;
    if arguments.fix {
        mend(arguments, &allowed)?;
    }
    let sources = sources::read(&arguments.sources)?;
    let report = look(arguments, &allowed, &sources);
    show(arguments, &sources, &report)?;
    if sources.is_bad() || report.bad_input {
        return Err(Failure::silent(Exit::BadInput));
    }
    if report.has_findings() { Err(Failure::silent(Exit::Negative)) } else { Ok(()) }
}

fn allowed(code: &str) -> Result<&'static str, Failure> {
    match entry(code) {
        Some(entry) if entry.level == Level::Error => {
            Err(Failure::says(Exit::Usage, format!("`{code}` cannot be allowed: an API server refuses it anyway")))
        }
        Some(entry) => Ok(entry.number),
        None => Err(Failure::says(Exit::Usage, format!("`{code}` is not a code; docs/findings.md lists them"))),
    }
}

fn look(arguments: &AnalyzeArguments, allowed: &BTreeSet<&'static str>, sources: &Sources) -> Report {
    let options = Options {
        profile: arguments.profile,
        settings: sources.config.clone(),
        allowed: allowed.clone(),
        whole: arguments.sources.files.iter().any(|word| word == sources::LIVE),
    };
    let mut report = analyze(&sources.bundle, &options);
    let unreadable = sources.unreadable.iter().map(|(name, why)| Diagnostic::unreadable(name, why));
    report.diagnostics.splice(0..0, unreadable);
    report
}

fn show(arguments: &AnalyzeArguments, sources: &Sources, report: &Report) -> Outcome {
    let texts: Vec<Shown<'_>> =
        sources.bundle.texts().iter().map(|read| Shown { name: plain(&read.name), text: &read.text }).collect();
    let found = report.diagnostics.as_slice();
    match arguments.output {
        Output::Text => print::out(format_args!("{}", render::text(found, &texts, colour(arguments.color))))?,
        Output::Json => print::out(format_args!("{:#}\n", render::json(found, &texts, report.allowed)))?,
        Output::Sarif => print::out(format_args!("{:#}\n", render::sarif(found, &texts)))?,
        Output::Github => print::out(format_args!("{}", render::github(found, &texts)))?,
    }
    let (policies, files) = (counted(report.policies, "policy", "policies"), counted(texts.len(), "text", "texts"));
    let totals = render::totals(found, report.allowed);
    let totals = if totals.is_empty() { "nothing to say".to_owned() } else { totals };
    print::err(format_args!("{policies} in {files}: {totals}"));
    let safe = found.iter().filter(|one| one.fix.as_ref().is_some_and(|fix| fix.safe)).count();
    if safe > 0 && !arguments.fix {
        print::err(format_args!("{} can be mended by `--fix`", counted(safe, "finding", "findings")));
    }
    Ok(())
}

/// A name without `./`, as code hosts know their files.
fn plain(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn colour(when: Colour) -> bool {
    match when {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            std::io::stdout().is_terminal() && !unwanted
        }
    }
}

/// Makes the safe fixes in the files, until there is none left.
fn mend(arguments: &AnalyzeArguments, allowed: &BTreeSet<&'static str>) -> Outcome {
    let words = &arguments.sources.files;
    if let Some(word) = words.iter().find(|word| *word == "-" || fs::symlink_metadata(word).is_err()) {
        return Err(Failure::says(Exit::Usage, format!("`--fix` changes files, and `{word}` is none")));
    }
    let mut mended: BTreeSet<String> = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let sources = sources::read(&arguments.sources)?;
        let report = look(arguments, allowed, &sources);
        let mut changed = false;
        for (index, read) in sources.bundle.texts().iter().enumerate() {
            let Some(text) = fixed(&read.text, index, &report.diagnostics) else { continue };
            if !is_better(&sources.bundle, index, &text) {
                continue;
            }
            rewrite(Path::new(&read.name), &read.text, &text).with_context(|| format!("mending {}", read.name))?;
            mended.insert(read.name.clone());
            changed = true;
        }
        if !changed {
            break;
        }
    }
    for name in mended {
        print::err(format_args!("mended {name}"));
    }
    Ok(())
}

/// Whether a text reads as well as before: as many documents, and no problem more.
fn is_better(bundle: &Bundle, index: usize, text: &str) -> bool {
    let count = |documents: &[api::yaml::Document]| {
        (documents.len(), documents.iter().map(|document| document.problems.len()).sum::<usize>())
    };
    let before = bundle.texts().get(index).map(|read| count(&read.documents)).unwrap_or_default();
    let after = count(&api::yaml::documents(text));
    after.0 == before.0 && after.1 <= before.1
}

/// Puts a text in the place of a file's, all or nothing. What a link points to is changed, not the link.
fn rewrite(path: &Path, before: &str, after: &str) -> Result<()> {
    let path = fs::canonicalize(path)?;
    let folder = path.parent().ok_or_else(|| anyhow!("it has no directory"))?;
    ensure!(fs::read(&path)? == before.as_bytes(), "it was changed by somebody else meanwhile; run again");
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tidegate-{}", std::process::id()));
    let beside: PathBuf = folder.join(format!(".{}", name.display()));
    let written = write(&beside, &path, after).and_then(|()| Ok(fs::rename(&beside, &path)?));
    if written.is_err() {
        drop(fs::remove_file(&beside));
    }
    written
}

fn write(beside: &Path, like: &Path, text: &str) -> Result<()> {
    let mut file = File::create_new(beside)?;
    file.set_permissions(fs::metadata(like)?.permissions())?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}
