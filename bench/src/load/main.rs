//! A small load generator: blocking clients on plain threads, a server on epoll. Every mode runs in a network namespace that
//! is given by a path, so that client and server are the same program whatever lies between them.

mod bulk;
mod hold;
mod pace;
mod rounds;
mod serve;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Signal};
use rustix::thread::LinkNameSpaceType;

/// Load on TCP connections, and what becomes of them; reports one JSON value.
#[derive(Debug, Parser)]
#[command(name = "tidegate-load")]
struct Arguments {
    /// Handle of the network namespace to run in
    #[arg(long, value_name = "FILE")]
    netns: Option<PathBuf>,
    /// Folder of a group of processes to enter first.
    #[arg(long, global = true)]
    group: Option<PathBuf>,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Serve echo on PORT, a sink on PORT+1 and a source on PORT+2, until ended
    Serve { port: u16 },
    /// Connect, send 16 bytes, read them back, close; again and again
    Crr {
        target: SocketAddr,
        #[arg(long, default_value_t = 1)]
        clients: usize,
        #[arg(long, default_value_t = 1.0)]
        secs: f64,
    },
    /// Send one byte and read it back, on connections that stay open
    Rr {
        target: SocketAddr,
        #[arg(long, default_value_t = 1)]
        clients: usize,
        #[arg(long, default_value_t = 1.0)]
        secs: f64,
    },
    /// As many bytes as will go, then a half-close; both ends must count the same
    Bulk {
        target: SocketAddr,
        #[arg(long, default_value_t = 1)]
        streams: usize,
        #[arg(long, default_value_t = 1.0)]
        secs: f64,
        #[arg(long, value_enum, default_value_t = Way::Up)]
        way: Way,
    },
    /// Open connections and hold them until standard input ends or others have ended them all
    Hold {
        target: SocketAddr,
        #[arg(long, default_value_t = 1)]
        count: usize,
    },
    /// Probe each target again and again; tell every verdict that differs from the one before
    Watch {
        #[arg(required = true)]
        targets: Vec<SocketAddr>,
    },
    /// Open connections at a steady rate from known source ports; write each with its outcome to a file
    Attempts {
        target: SocketAddr,
        /// Attempts a second
        #[arg(long, default_value_t = 10_000)]
        rate: u32,
        #[arg(long, default_value_t = 1.0)]
        secs: f64,
        #[arg(long, default_value_t = 16)]
        clients: u16,
        #[arg(long)]
        log: PathBuf,
    },
    /// Run another program in the namespace
    Enter {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Up,
    Down,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Whoever started this is gone: nothing may be left running.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if let Some(folder) = &arguments.group {
        linux::cgroup::join(folder)?;
    }
    if let Some(path) = &arguments.netns {
        let handle = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&handle), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering the network namespace `{}`", path.display()))?;
    }
    allow_many_descriptors()?;
    match arguments.mode {
        Mode::Serve { port } => {
            let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
            let ports = [port, port.saturating_add(1), port.saturating_add(2)];
            serve::Server::bind(ports.map(any))?.run()
        }
        Mode::Crr { target, clients, secs } => tell(&rounds::crr(target, clients, seconds(secs)?)?),
        Mode::Rr { target, clients, secs } => tell(&rounds::rr(target, clients, seconds(secs)?)?),
        Mode::Bulk { target, streams, secs, way } => tell(&bulk::run(target, streams, seconds(secs)?, way)),
        Mode::Hold { target, count } => hold::run(target, count),
        Mode::Watch { targets } => watch::run(&targets),
        Mode::Attempts { target, rate, secs, clients, log } => {
            tell(&pace::run(target, rate, seconds(secs)?, clients, &log)?)
        }
        Mode::Enter { command } => {
            let (program, words) = command.split_first().context("no program")?;
            Err(Command::new(program).args(words).exec()).with_context(|| format!("running `{program}`"))
        }
    }
}

fn seconds(given: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(given).with_context(|| format!("`{given}` is no number of seconds"))
}

/// Prints a report.
fn tell(report: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

/// As many open connections as the system lets us have.
fn allow_many_descriptors() -> Result<()> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit).context("raising the limit of descriptors")
}
