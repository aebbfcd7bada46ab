//! `inject`, and `istioctl kube-inject` through the link of that name.

use std::io::Read;

use anyhow::Context;
use clap::Parser;

use crate::args::InjectArguments;
use crate::exit::{Exit, ExitWith, Failure, Outcome};
use crate::print;

const ISTIOCTL_USAGE: &str =
    "usage: istioctl kube-inject -f FILE (this `istioctl` is a link to tidegate and knows that verb alone)";

/// Manifests in, manifests out; talk on standard error.
pub(crate) fn run(arguments: &InjectArguments) -> Outcome {
    let text = read(&arguments.filename).exit_with(Exit::BadInput)?;
    let options = control::inject::Options { revision: arguments.revision.clone(), ..Default::default() };
    let injection = control::inject::inject_manifest(&text, &options)
        .with_context(|| format!("`{}`", arguments.filename))
        .exit_with(Exit::BadInput)?;
    for message in injection.messages {
        print::err(format_args!("{message}"));
    }
    match &arguments.output {
        Some(path) => std::fs::write(path, injection.text).with_context(|| format!("writing `{}`", path.display()))?,
        None => print::out(format_args!("{}", injection.text))?,
    }
    Ok(())
}

fn read(filename: &str) -> anyhow::Result<String> {
    if filename == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(filename).with_context(|| format!("reading `{filename}`"))
}

/// Entered when the binary is called `istioctl`: one verb is ours, every other says that it is not.
pub(crate) fn istioctl(words: Vec<std::ffi::OsString>) -> Outcome {
    #[derive(Debug, Parser)]
    #[command(name = "istioctl kube-inject", bin_name = "istioctl kube-inject")]
    /// Join the workloads of a manifest to the mesh, offline (a link to tidegate)
    struct KubeInject {
        #[command(flatten)]
        inject: InjectArguments,
    }
    let verb = words.get(1).map(|word| word.to_string_lossy().into_owned());
    match verb.as_deref() {
        Some("kube-inject") => match KubeInject::try_parse_from(words.into_iter().skip(1)) {
            Ok(typed) => run(&typed.inject),
            Err(error) => crate::misuse(&error, "istioctl kube-inject"),
        },
        Some("--help" | "-h" | "help") => print::out(format_args!("{ISTIOCTL_USAGE}\n")),
        Some(other) => Err(Failure::says(
            Exit::Usage,
            format!(
                "`istioctl {other}` is not one of Tidegate's: this `istioctl` is a link to tidegate and knows \
                 `kube-inject`; see `tidegate --help`, or call your own istioctl by its full path"
            ),
        )),
        None => Err(Failure::says(Exit::Usage, ISTIOCTL_USAGE)),
    }
}
