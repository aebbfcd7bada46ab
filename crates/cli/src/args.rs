//! The command line as typed. What it means is resolved in `settings`; nothing here touches the system.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// L4 authorization for TCP, from Istio's AuthorizationPolicy: know what a policy does, and that it does it.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start the mesh of this machine and stay in the foreground (Ctrl-C ends it)
    Up(UpArguments),
    /// End the mesh and remove everything it made on this machine; its objects are kept for the next `up`
    Down(DownArguments),
    /// Say whether the mesh runs, what it holds and what it enforces
    Status(StatusArguments),
    /// Print a kubeconfig for the mesh
    Kubeconfig(ContextArguments),
    /// Print shell exports: KUBECONFIG, and a PATH with the `istioctl` link
    #[command(after_help = "Example:\n  eval \"$(tidegate env -n foo)\"")]
    Env(ContextArguments),
    /// Probe every kernel facility that a mesh needs; one line each, with a fix
    Check(CheckArguments),
    /// Write the sample manifests of the walkthroughs to DIR/samples
    #[command(after_help = "Example:\n  tidegate samples . && kubectl apply -f samples/sleep/sleep.yaml")]
    Samples(SamplesArguments),
    /// Join the workloads of a manifest to the mesh: manifests in, manifests out, offline
    #[command(visible_alias = "kube-inject")]
    Inject(InjectArguments),
    /// Print decisions as they are made
    Tap(TapArguments),
    /// Play the Istio task (or ASM's) on a throw-away mesh, step by step, and end
    Demo(DemoArguments),
    /// Judge the engine by a corpus of cases, offline; the last line is `N passed, N failed`
    #[command(after_help = "Example:\n  tidegate conformance crates/control/tests/conformance\n\n\
                            Exit: 0 all passed, 79 some failed, 65 a file could not be read (the others are judged)")]
    Conformance(ConformanceArguments),
}

/// Where a mesh keeps what must last.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataDirArgument {
    /// Directory of the mesh: objects, keys, kubeconfig, logs [default: ~/.local/share/tidegate]
    #[arg(long, value_name = "DIR", env = "TIDEGATE_DATA_DIR", hide_env_values = true)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Return when the mesh is ready and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// Port of the API server on 127.0.0.1 [default: the port of last time, or a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Set by `--detach` for its child: the readiness line goes to standard output, which is then closed.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

/// `down`.
#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Remove the data directory as well: objects, keys and logs are lost
    #[arg(long)]
    pub(crate) purge: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// `env` and `kubeconfig`.
#[derive(Debug, Args)]
pub(crate) struct ContextArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Namespace of the kubeconfig's context
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Accepted as by every verb; the facilities are the machine's, not a mesh's.
    #[command(flatten)]
    pub(crate) _place: DataDirArgument,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// `samples`.
#[derive(Debug, Args)]
pub(crate) struct SamplesArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Directory that receives `samples/`
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}

/// `inject`, `kube-inject`.
#[derive(Debug, Args)]
pub(crate) struct InjectArguments {
    /// Manifest to read; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) filename: String,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Revision to write into the label `istio.io/rev`
    #[arg(short, long, default_value = "default")]
    pub(crate) revision: String,
}

/// `tap`.
#[derive(Debug, Args)]
pub(crate) struct TapArguments {
    #[command(flatten)]
    pub(crate) place: DataDirArgument,
    /// Only connections from or to this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Only connections from or to this workload
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) workload: Option<String>,
    /// Only connections to this port of the workload
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Only connections from this address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<IpAddr>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Play the ASM text instead of the Istio task
    #[arg(long)]
    pub(crate) asm: bool,
    /// Wait for Enter before each step
    #[arg(long)]
    pub(crate) step: bool,
}

/// `conformance`.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArguments {
    /// Directory whose *.yaml files are read, or those of its folder `cases` if it has one
    pub(crate) dir: PathBuf,
    /// Print what the engine computes instead of judging it; needs no expectation in the files
    #[arg(long)]
    pub(crate) answers: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON value; streams are one JSON value a line
    Json,
}
