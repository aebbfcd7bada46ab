//! Images that are not needed here: names of the walkthroughs and of common tool images, for which the host's own programs
//! stand in. Whatever is put in an image's place is said in the pod's events.

use super::Image;
use super::reference::Reference;
use crate::runtime::spec::Root;

/// The first directories are where a tool box has its programs; the applets come before them.
const PATH: &str = "/.tidegate/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What curl's image begins with: arguments alone are curl's, anything else is a program of its own.
const CURL: &[&str] = &["sh", "-c", "case \"$1\" in -*) set -- curl \"$@\";; esac; exec \"$@\"", "curl"];

/// Images by the last parts of their names whose shell and tools the host's stand in for, with their entrypoint and
/// what that gets when a pod names no arguments: as the images have it, so that `kubectl run .. -- echo x` runs `echo`.
const TOOL_BOXES: &[(&str, &[&str], &[&str])] = &[
    ("curlimages/curl", CURL, &["curl"]),
    ("curlimages/curl-base", CURL, &["curl"]),
    ("library/alpine", &[], &["sh"]),
    ("library/bash", &[], &["bash"]),
    ("library/busybox", &[], &["sh"]),
    ("library/debian", &[], &["bash"]),
    ("library/ubuntu", &[], &["bash"]),
    ("nicolaka/netshoot", &[], &["bash"]),
    ("sleep", &["sleep"], &["infinity"]),
];

/// Names of images of the test server of the walkthroughs.
const TCP_ECHO: &[&str] = &["istio/tcp-echo-server", "release/tcp-echo-server", "tidegate/tcp-echo"];

/// What runs for an image of the catalogue.
pub(super) fn find(reference: &Reference, written: &str) -> Option<Image> {
    let path = reference.repository();
    let environment = vec![("PATH".to_owned(), PATH.to_owned())];
    if TCP_ECHO.iter().any(|known| is_name(path, known)) {
        let substitution = format!(
            "image \"{written}\" is not pulled: tidegate's own tcp-echo runs in its place, in a root directory made of this machine's /usr"
        );
        return Some(Image {
            entrypoint: vec!["tcp-echo".to_owned()],
            arguments: vec!["9000".to_owned(), "hello".to_owned()],
            environment,
            tells_ready: true,
            told: substitution,
            ..Image::in_place_of(reference)
        });
    }
    let (_, entrypoint, arguments) = TOOL_BOXES.iter().find(|(known, ..)| is_name(path, known))?;
    let substitution = format!(
        "image \"{written}\" is not pulled: a tool box stands in for it, made of this machine's /usr (read-only) and tidegate's own nc"
    );
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    Some(Image {
        entrypoint: words(entrypoint),
        arguments: words(arguments),
        environment,
        told: substitution,
        ..Image::in_place_of(reference)
    })
}

/// Names that the catalogue knows, for people.
pub(super) fn names() -> String {
    let names: Vec<_> = TOOL_BOXES.iter().map(|(name, ..)| name.trim_start_matches("library/")).collect();
    format!("{}, istio/tcp-echo-server", names.join(", "))
}

impl Image {
    /// One that the host stands in for.
    fn in_place_of(reference: &Reference) -> Self {
        Self {
            id: reference.to_string(),
            entrypoint: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: "/".to_owned(),
            user: String::new(),
            stop_signal: None,
            tells_ready: false,
            told: String::new(),
            root: Root::ToolBox,
        }
    }
}

/// Whether a path (`library/busybox`) is one of the catalogue's (the same, or `sleep` for any repository of that name).
fn is_name(path: &str, known: &str) -> bool {
    path == known || path.strip_suffix(known).is_some_and(|before| before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue() {
        let echo = Some("tcp-echo");
        let digest = format!("docker.io/curlimages/curl:8.5.0@sha256:{}", "01".repeat(32));
        let table = [
            ("docker.io/istio/tcp-echo-server:1.2", echo),
            ("registry.istio.io/release/tcp-echo-server:1.3", echo),
            ("istio/tcp-echo-server", echo),
            ("curlimages/curl", Some("curl")),
            (&digest, Some("curl")),
            ("busybox", Some("sh")),
            ("busybox:1.36", Some("sh")),
            ("localhost:5000/library/busybox", Some("sh")),
            ("gcr.io/some-project/sleep:v1", Some("sleep")),
            ("ubuntu:24.04", Some("bash")),
            ("evil/notbusybox", None),
            ("evilsleep", None),
            ("nginx", None),
        ];
        for (text, program) in table {
            let reference = Reference::parse(text).unwrap();
            // What runs in the end: of curl's entrypoint, what it is called as.
            let found = find(&reference, text).and_then(|image| {
                if image.entrypoint.len() > 1 { image.entrypoint.last() } else { image.entrypoint.first() }
                    .or_else(|| image.arguments.first())
                    .cloned()
            });
            assert_eq!(found.as_deref(), program, "{text}");
        }
    }
}
