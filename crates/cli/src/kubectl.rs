//! The kubectl on the PATH: does it speak to this API server?

use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::print;

/// Minor versions of kubectl 1.x that the API server is tested with, oldest and newest.
const TESTED: (u32, u32) = (20, 37);

/// Says on standard error when the kubectl found is older or newer than what was tested. Never holds anything up, and
/// leaves no process, however this one ends.
pub(crate) async fn warn_if_unfit(ending: CancellationToken) {
    let mut command = Command::new("kubectl");
    command.args(["version", "--client", "-o", "json"]).stdin(Stdio::null()).stdout(Stdio::piped());
    linux::process::ends_with_starter(command.stderr(Stdio::null()).as_std_mut());
    let Ok(mut kubectl) = command.spawn() else { return };
    let mut said = Vec::new();
    let asked = async {
        if let Some(mut output) = kubectl.stdout.take() {
            // What is cut short is no answer, as none at all is.
            drop(output.read_to_end(&mut said).await);
        }
    };
    ending.run_until_cancelled(asked).await;
    // Whether it has ended by itself or not: it is gone afterwards.
    drop(kubectl.kill().await);
    if let Some(warning) = found_minor(&said).and_then(unfit) {
        print::err(format_args!("{warning}"));
    }
}

fn found_minor(said: &[u8]) -> Option<u32> {
    let version: serde_json::Value = serde_json::from_slice(said).ok()?;
    minor(version.pointer("/clientVersion/minor")?.as_str()?)
}

/// `32`, or `32+` as vendors write it.
fn minor(text: &str) -> Option<u32> {
    text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

fn unfit(minor: u32) -> Option<String> {
    let (oldest, newest) = TESTED;
    if (oldest..=newest).contains(&minor) {
        return None;
    }
    Some(format!(
        "warning: the kubectl found is 1.{minor}; Tidegate is tested with 1.{oldest} to 1.{newest}: put one of those on the PATH"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_outside_the_tested_range_are_warned_of() {
        assert!(unfit(19).unwrap().contains("1.19"));
        assert_eq!((unfit(20), unfit(37)), (None, None));
        assert!(unfit(38).is_some());
        assert_eq!((minor("32+"), minor("x")), (Some(32), None));
    }
}
