//! `up`: the mesh of this machine, in the foreground, or in the background with `--detach`.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use local::images::TRUSTED_VARIABLE;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use crate::args::UpArguments;
use crate::daemon::{self, Lock};
use crate::exit::{Exit, Failure, Outcome};
use crate::mesh::{self, Mesh, Options};
use crate::print;
use crate::settings::Place;

/// The line that a detached daemon writes when it is ready; anything else is why it is not.
const READY: &str = "ready";

/// Starts the mesh.
pub(crate) fn run(arguments: &UpArguments) -> Outcome {
    let place = Place::resolve(&arguments.place)?;
    crate::rights::lasting(&place)?;
    let done = begin(&place, arguments);
    if done.is_err() {
        crate::rights::let_go_of_nothing(&place)?;
    }
    done
}

fn begin(place: &Place, arguments: &UpArguments) -> Outcome {
    place.make_data_dir()?;
    if arguments.detach {
        return detach(place, arguments);
    }
    let outcome = serve(place, arguments);
    if let Err(failure) = &outcome
        && arguments.detached
    {
        // The log may be on a disk that takes no more; whoever waits reads this line. Once it is ready nobody does.
        print::out(format_args!("{}\n", failure.to_string().replace('\n', " ")))?;
    }
    outcome
}

/// Runs the mesh in this process until it is told to end.
fn serve(place: &Place, arguments: &UpArguments) -> Outcome {
    let Some(mut lock) = Lock::take(place)? else { return Err(already_runs(place)) };
    if arguments.detached {
        rustix::process::setsid().context("leaving the terminal")?;
        crate::log::is_of(place);
    }
    log_to_stderr();
    raise_descriptor_limit();
    let options = Options { port: arguments.port, tell_denials: true };
    runtime()?.block_on(async {
        let lived = mesh::lives_on(place)?;
        let mesh = match Mesh::start(place, options).await {
            Ok(mesh) => mesh,
            Err(error) => {
                if lived {
                    let down = place.command("down");
                    let still = format!("what ran before runs on, under the tables it had; this ends it: {down}");
                    return Err(error.adding(still));
                }
                crate::down::remove_for_good(place)?;
                return Err(error);
            }
        };
        place.give_all()?;
        lock.announce(mesh.port())?;
        if arguments.detached {
            report_ready(&mesh)?;
        } else {
            welcome(place, &mesh);
        }
        let ending = CancellationToken::new();
        let kubectl = tokio::spawn(crate::kubectl::warn_if_unfit(ending.clone()));
        mesh.until_told_to_end().await?;
        ending.cancel();
        kubectl.await.context("asking kubectl for its version")?;
        mesh.stop().await?;
        // First what would be in the way of others: the files may have been removed by hand in the meantime.
        crate::down::remove_for_good(place)?;
        Ok(place.give_all()?)
    })
}

/// Runs the mesh in a process of its own and returns when it is ready.
fn detach(place: &Place, arguments: &UpArguments) -> Outcome {
    if daemon::running(place)?.is_some_and(|daemon| daemon.stays()) {
        return Err(already_runs(place));
    }
    let log_path = place.data_dir.join(crate::log::NAME);
    let log = linux::files::open_to_write(&log_path, OFlags::APPEND, Mode::RUSR | Mode::WUSR)?;
    place.give(&log_path)?;
    let binary = std::env::current_exe().context("finding this binary")?;
    let mut command = Command::new(binary);
    command.arg0("tidegate").args(["up", "--detached", "--data-dir"]).arg(&place.data_dir);
    if let Some(port) = arguments.port {
        command.arg("--port").arg(port.to_string());
    }
    if let Some(file) = std::env::var_os(TRUSTED_VARIABLE).filter(|file| !file.is_empty()) {
        // As the user wrote it: the daemon's directory is another.
        command.env(TRUSTED_VARIABLE, std::path::absolute(file)?);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().context("starting the daemon")?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said).context("waiting for the daemon")?;
    }
    if let Some(adopted) = said.trim_end().strip_prefix(READY) {
        print::err(format_args!(
            "The mesh is up and stays so{adopted}; this ends it: {}\n{}",
            place.command("down"),
            next_steps(place, "Next")
        ));
        return Ok(());
    }
    let status = child.wait().context("waiting for the daemon")?;
    let why = said.trim_end().strip_prefix("error: ").unwrap_or("see its log");
    let what = format!("{why} (the daemon ended with {status}; its log: {})", log_path.display());
    Err(Failure::says(Exit::Failure, what))
}

fn already_runs(place: &Place) -> Failure {
    let dir = place.data_dir.display();
    let (env, down) = (place.command("env"), place.command("down"));
    let what = format!("a mesh already runs in `{dir}`; use it: {env}, end it: {down}, or give another --data-dir");
    Failure::says(Exit::Failure, what)
}

/// Tells the waiting parent and lets go of its pipe.
fn report_ready(mesh: &Mesh) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{READY}{}", in_brackets(mesh.adopted()))?;
    out.flush()?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdout(null).context("letting go of standard output")
}

fn in_brackets(adopted: Option<String>) -> String {
    adopted.map_or_else(String::new, |adopted| format!(" ({adopted})"))
}

fn welcome(place: &Place, mesh: &Mesh) {
    print::err(format_args!(
        "Ready in {} ms{}: API server on 127.0.0.1:{}\n{}\nDenied connections are told below; Ctrl-C ends the mesh (its \
         objects are kept).",
        mesh.started_in().as_millis(),
        in_brackets(mesh.adopted()),
        mesh.port(),
        next_steps(place, "Next, in another shell"),
    ));
}

fn next_steps(place: &Place, when: &str) -> String {
    let apart = if place.is_apart {
        "Without root: pods have one user, and this machine reaches them by kubectl alone; see: tidegate check\n"
    } else {
        ""
    };
    format!(
        "{apart}{when}:\n  eval \"$({})\"\n  tidegate samples . && kubectl create ns foo\n  \
         kubectl apply -f <(istioctl kube-inject -f samples/tcp-echo/tcp-echo.yaml) -n foo",
        place.command("env -n foo")
    )
}

/// Warnings and errors of the parts, one line each.
pub(crate) fn log_to_stderr() {
    let lines =
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(|| crate::log::Lines).without_time();
    // Its own failures would go to standard error, which is what has failed.
    let lines = lines.log_internal_errors(false);
    lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
}

/// A pod costs a dozen descriptors here: as many pods as the system lets this process have.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // What is not granted is not needed before some hundred pods; attaching one then says so.
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
}

/// Two workers: one may wait for the disk or the kernel while the other answers.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting the runtime")
}
