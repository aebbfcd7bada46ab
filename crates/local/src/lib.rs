//! The one-machine cluster: what kubelet, CNI, kube-proxy, DNS and controllers do.

pub mod applets;
pub mod controllers;
pub mod dns;
pub mod error;
pub mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod images;
pub mod ipam;
pub mod kubelet;
pub mod node;
pub mod runtime;
pub mod vip;

pub use error::Error;
pub use node::{Host, MeshId, Node, NodeSettings, PodLink};

/// Runs this process as what it was started for, if that is a part of a pod (by its first argument) or an applet (by
/// its name). The first thing in `main`: these processes must start fast, with one thread and nothing open.
pub fn entry(mut arguments: std::env::ArgsOs) -> Option<std::process::ExitCode> {
    let name = arguments.next()?;
    let name = std::path::Path::new(&name).file_name()?.to_str()?.to_owned();
    if applets::NAMES.contains(&name.as_str()) {
        return applets::run(&name, arguments.collect());
    }
    let part = arguments.next()?.into_string().ok()?;
    if !part.starts_with("pod-") {
        return None;
    }
    let text = |argument: std::ffi::OsString| argument.to_string_lossy().into_owned();
    runtime::part(&part, arguments.map(text).collect())
}
