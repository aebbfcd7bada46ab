//! `test`: the tests of policies that stand in files, judged by the engine that enforces (`docs/policy-tests.md`).

mod coverage;
mod inputs;
mod record;
mod report;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::{Args, Subcommand, ValueEnum};
use control::suite::{self, Ask, Case, Item, Judgement, Suite, Who};
use policy::Profile;
use policy::ask::Asker;

use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::sources::{self, ReadArguments, Sources};
use crate::verdicts::{self, ProfileArgument};

/// `test`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TestArguments {
    #[command(subcommand)]
    record: Option<Verb>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write what is decided at present as tests, to standard output
    #[command(after_help = "Example:\n  tidegate test record manifests/ > tests.yaml")]
    Record(record::RecordArguments),
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Files and directories with tests (`kind: PolicyTest`, `kind: PolicyAssertion`)
    #[arg(value_name = "FILE|DIR", default_value = ".")]
    files: Vec<PathBuf>,
    /// Manifests to judge instead of those that the tests name
    #[arg(long, value_name = "FILE|DIR|-|REV:PATH|live")]
    input: Vec<String>,
    /// Profile to judge in instead of those that the tests name
    #[arg(long, value_enum, value_name = "PROFILE")]
    profile: Option<ProfileArgument>,
    /// Print which rules no case touches
    #[arg(long)]
    coverage: bool,
    /// Judge again whenever a file changes
    #[arg(short, long)]
    watch: bool,
    /// Print what passed as well
    #[arg(short, long)]
    verbose: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    how: ReadArguments,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One JSON value
    Json,
    /// JUnit XML, for CI systems
    Junit,
    /// TAP version 14
    Tap,
}

/// A suite and the file it stands in.
struct Found {
    file: PathBuf,
    suite: Suite,
}

/// One item, judged in one profile.
struct Done<'a> {
    file: &'a Path,
    suite: &'a Suite,
    item: &'a Item,
    profile: Profile,
    judgement: Judgement,
    /// The command that shows how it was decided.
    trace: Option<String>,
}

/// A set of manifests, and the mesh that it makes in each profile that was asked for.
struct World {
    files: Vec<String>,
    sources: Sources,
    is_whole: bool,
    askers: std::cell::RefCell<BTreeMap<Option<Profile>, Rc<Asker>>>,
}

/// The files that name a set of manifests, the namespace of objects without one, and the settings.
type Key = (Vec<String>, String, Option<PathBuf>);

/// Everything that is read before anything is judged.
struct Prepared {
    found: Vec<Found>,
    /// For each suite its manifests; none where they cannot be read.
    worlds: Vec<Option<Rc<World>>>,
    is_bad: bool,
}

/// Judges, or records.
pub(crate) fn run(arguments: &TestArguments) -> Outcome {
    match &arguments.record {
        Some(Verb::Record(record)) => record::run(record),
        None if arguments.run.watch => watch::run(&arguments.run),
        None => once(&arguments.run, &prepare(&arguments.run)),
    }
}

/// Judges what was read and prints what came of it.
fn once(arguments: &RunArguments, prepared: &Prepared) -> Outcome {
    let mut done = Vec::new();
    for (found, world) in prepared.found.iter().zip(&prepared.worlds) {
        if let Some(world) = world.as_ref().filter(|world| world.is_whole) {
            judge(arguments, found, world, &mut done);
        }
    }
    let passed = done.iter().all(|one| one.judgement.result == suite::Result::Passed);
    let coverage = arguments.coverage.then(|| coverage::of(&prepared.worlds, &done));
    let text = match arguments.output {
        Format::Table => report::table(&done, coverage.as_ref(), arguments.verbose),
        Format::Json => report::json(&done, coverage.as_ref()),
        Format::Junit => report::junit(&done),
        Format::Tap => report::tap(&done),
    };
    print::out(format_args!("{text}"))?;
    if prepared.is_bad {
        return Err(Failure::silent(Exit::BadInput));
    }
    if passed { Ok(()) } else { Err(Failure::silent(Exit::Negative)) }
}

fn judge<'a>(arguments: &RunArguments, found: &'a Found, world: &World, done: &mut Vec<Done<'a>>) {
    let namespace = found.suite.namespace.as_deref().unwrap_or(&arguments.how.namespace);
    for item in &found.suite.items {
        let profiles: Vec<Option<Profile>> = match arguments.profile {
            Some(profile) => profile.profiles(),
            None if item.profiles.is_empty() => vec![None],
            None => item.profiles.iter().copied().map(Some).collect(),
        };
        for profile in profiles {
            let asker = world.asker(profile);
            let objects = world.sources.bundle.objects();
            let judgement = suite::judge(item, suite::World { asker: &asker, objects, namespace });
            let profile = asker.mesh().settings.profile;
            let trace = match &item.ask {
                Ask::Case(case) => Some(trace(case, profile, namespace, &world.files)),
                Ask::Assertion(_) => None,
            };
            done.push(Done { file: &found.file, suite: &found.suite, item, profile, judgement, trace });
        }
    }
}

/// How `explain` is asked about the connection of a case.
fn trace(case: &Case, profile: Profile, namespace: &str, files: &[String]) -> String {
    let from = match &case.from.who {
        Who::Workload(name) => name.clone(),
        Who::Identity(id) => id.uri().to_owned(),
        Who::Nobody => case.from.address.map_or_else(|| "outside".to_owned(), |address| address.to_string()),
    };
    let address = case.from.address.filter(|_| case.from.who != Who::Nobody);
    let mut words = vec!["tidegate explain --from".to_owned(), plain(&from)];
    words.extend(address.map(|address| format!("--from-address {address}")));
    words.push(format!("--to {} --port {}", plain(&case.to), case.port));
    words.extend(case.address.map(|address| format!("--to-address {address}")));
    words.extend(case.server_name.as_deref().map(|name| format!("--sni {}", plain(name))));
    words.push(format!("-n {} --profile {}", plain(namespace), profile.word()));
    words.extend(files.iter().map(|file| plain(file)));
    words.join(" ")
}

/// A word as a shell takes it.
fn plain(word: &str) -> String {
    let harmless = |letter: char| letter.is_ascii_alphanumeric() || "./:-_@%+=,".contains(letter);
    if !word.is_empty() && word.chars().all(harmless) { word.to_owned() } else { crate::context::quoted(word) }
}

impl World {
    fn asker(&self, profile: Option<Profile>) -> Rc<Asker> {
        let mut askers = self.askers.borrow_mut();
        Rc::clone(askers.entry(profile).or_insert_with(|| Rc::new(Asker::new(self.sources.mesh(profile)))))
    }
}

/// Reads the tests and the manifests that they are about; what is wrong with them is told, and the rest is there.
fn prepare(arguments: &RunArguments) -> Prepared {
    let mut prepared = Prepared { found: Vec::new(), worlds: Vec::new(), is_bad: false };
    let mut tell = |words: String| {
        print::err(format_args!("error: {words}"));
        prepared.is_bad = true;
    };
    for file in inputs::test_files(&arguments.files, &mut tell) {
        let text = match inputs::text(&file) {
            Ok(text) => text,
            Err(error) => {
                tell(format!("{}: {error:#}", file.display()));
                continue;
            }
        };
        let suites = suite::read(&text);
        for problem in &suites.problems {
            let (line, column) = (problem.span.line, problem.span.column);
            // A file of manifests below a directory is theirs who read manifests.
            if problem.in_test || arguments.files.contains(&file) {
                tell(format!("{}:{line}:{column}: {}", file.display(), problem.message));
            }
        }
        prepared.found.extend(suites.suites.into_iter().map(|suite| Found { file: file.clone(), suite }));
    }
    if prepared.found.is_empty() && !prepared.is_bad {
        let files: Vec<String> = arguments.files.iter().map(|file| file.display().to_string()).collect();
        let what =
            "there is no PolicyTest and no PolicyAssertion; write one: tidegate test record MANIFESTS > tests.yaml";
        print::err(format_args!("error: {}: {what}", files.join(", ")));
        prepared.is_bad = true;
    }
    worlds(arguments, &mut prepared);
    prepared
}

fn worlds(arguments: &RunArguments, prepared: &mut Prepared) {
    let mut known: BTreeMap<Key, Option<Rc<World>>> = BTreeMap::new();
    for Found { file, suite } in &prepared.found {
        let folder = file.parent().unwrap_or_else(|| Path::new(""));
        let files =
            if arguments.input.is_empty() { inputs::files(folder, &suite.inputs) } else { Ok(arguments.input.clone()) };
        let at = |words: String| print::err(format_args!("error: {}:{}: {words}", file.display(), suite.span.line));
        let files = match files {
            Ok(files) => files,
            Err(words) => {
                at(words);
                prepared.is_bad = true;
                prepared.worlds.push(None);
                continue;
            }
        };
        let namespace = suite.namespace.clone().unwrap_or_else(|| arguments.how.namespace.clone());
        let own_config = suite.mesh_config.as_ref().map(|path| folder.join(path));
        let mesh_config = arguments.how.mesh_config.clone().or(own_config);
        let key = (files, namespace, mesh_config);
        let world = known.entry(key.clone()).or_insert_with(|| world(arguments, key));
        prepared.is_bad |= world.as_ref().is_none_or(|world| !world.is_whole);
        prepared.worlds.push(world.clone());
    }
}

fn world(arguments: &RunArguments, (files, namespace, mesh_config): Key) -> Option<Rc<World>> {
    let how = ReadArguments { namespace, mesh_config, ..arguments.how.clone() };
    match sources::read_files(&files, &how) {
        Ok(sources) => {
            let is_whole = verdicts::must_be_whole(&sources).is_ok();
            Some(Rc::new(World { files, sources, is_whole, askers: std::cell::RefCell::default() }))
        }
        Err(failure) => {
            let _told = failure.tell();
            None
        }
    }
}
