//! Which images can be run here, and what runs in their place.
//!
//! There is no registry and no image store yet: a catalogue maps the images of the walkthroughs and common tool images
//! to the host's own programs. Whatever is put in an image's place is said in the pod's events.

/// The first directories are where a tool box has its programs; the applets come before them.
const PATH: &str = "/.tidegate/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Images by the last parts of their names whose shell and tools the host's stand in for, with the program that they
/// run when a pod names none.
const TOOL_BOXES: &[(&str, &[&str])] = &[
    ("curlimages/curl", &["curl"]),
    ("curlimages/curl-base", &["curl"]),
    ("library/alpine", &["sh"]),
    ("library/bash", &["bash"]),
    ("library/busybox", &["sh"]),
    ("library/debian", &["bash"]),
    ("library/ubuntu", &["bash"]),
    ("nicolaka/netshoot", &["bash"]),
    ("sleep", &["sleep", "infinity"]),
];

/// Names of images of the test server of the walkthroughs.
const TCP_ECHO: &[&str] = &["istio/tcp-echo-server", "release/tcp-echo-server", "tidegate/tcp-echo"];

/// What runs for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image with its registry, as a pod's status names it.
    pub reference: String,
    /// What runs if the pod names no command.
    pub entrypoint: Vec<String>,
    /// What the entrypoint gets if the pod names no arguments.
    pub arguments: Vec<String>,
    /// The environment of every program in it.
    pub environment: Vec<(String, String)>,
    /// Its entrypoint says when it serves.
    pub tells_ready: bool,
    /// What was put in its place, a sentence for the pod's events.
    pub substitution: String,
}

/// Finds what runs for an image; the error says what to do.
pub fn find(reference: &str) -> Result<Image, String> {
    let full = full_name(reference).ok_or_else(|| format!("`{reference}` is no image name"))?;
    let environment = vec![("PATH".to_owned(), PATH.to_owned())];
    let name = without_version(&full);
    if TCP_ECHO.iter().any(|known| is_name(name, known)) {
        let substitution = format!(
            "image \"{reference}\" is not pulled: tidegate's own tcp-echo runs in its place, in a root directory made of this machine's /usr"
        );
        return Ok(Image {
            entrypoint: vec!["tcp-echo".to_owned()],
            arguments: vec!["9000".to_owned(), "hello".to_owned()],
            environment,
            tells_ready: true,
            substitution,
            reference: full,
        });
    }
    let Some((_, program)) = TOOL_BOXES.iter().find(|(known, _)| is_name(name, known)) else {
        return Err(format!(
            "image \"{reference}\" is not in the local catalogue and registries are not pulled from: use one of {}, or istio/tcp-echo-server",
            TOOL_BOXES.iter().map(|(name, _)| name.trim_start_matches("library/")).collect::<Vec<_>>().join(", ")
        ));
    };
    let substitution = format!(
        "image \"{reference}\" is not pulled: a tool box stands in for it, made of this machine's /usr (read-only) and tidegate's own nc"
    );
    Ok(Image {
        entrypoint: program.iter().map(|&word| word.to_owned()).collect(),
        arguments: Vec::new(),
        environment,
        tells_ready: false,
        substitution,
        reference: full,
    })
}

/// Whether a full name (`docker.io/library/busybox`) is one of the catalogue's (`library/busybox`, or `sleep` for any
/// repository of that name).
fn is_name(full: &str, known: &str) -> bool {
    let path = full.split_once('/').map_or(full, |(_registry, path)| path);
    path == known || path.strip_suffix(known).is_some_and(|before| before.ends_with('/'))
}

/// `busybox` is `docker.io/library/busybox:latest`.
fn full_name(reference: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    if reference.is_empty() || !reference.bytes().all(allowed) || reference.split('/').any(str::is_empty) {
        return None;
    }
    let first = reference.split('/').next().unwrap_or_default();
    let has_registry = reference.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let mut full = match (has_registry, reference.contains('/')) {
        (true, _) => reference.to_owned(),
        (false, true) => format!("docker.io/{reference}"),
        (false, false) => format!("docker.io/library/{reference}"),
    };
    if without_version(&full) == full {
        full.push_str(":latest");
    }
    Some(full)
}

fn without_version(full: &str) -> &str {
    let name = full.split_once('@').map_or(full, |(name, _digest)| name);
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue() {
        let echo = Some("tcp-echo");
        let table = [
            ("docker.io/istio/tcp-echo-server:1.2", echo),
            ("registry.istio.io/release/tcp-echo-server:1.3", echo),
            ("istio/tcp-echo-server", echo),
            ("curlimages/curl", Some("curl")),
            ("docker.io/curlimages/curl:8.5.0@sha256:0123", Some("curl")),
            ("busybox", Some("sh")),
            ("busybox:1.36", Some("sh")),
            ("localhost:5000/library/busybox", Some("sh")),
            ("gcr.io/some-project/sleep:v1", Some("sleep")),
            ("ubuntu:24.04", Some("bash")),
            ("evil/notbusybox", None),
            ("evilsleep", None),
            ("nginx", None),
            ("", None),
            ("a//b", None),
            ("busybox;rm", None),
        ];
        for (reference, program) in table {
            let found = find(reference).ok().and_then(|image| image.entrypoint.first().cloned());
            assert_eq!(found.as_deref(), program, "{reference}");
        }
    }

    #[test]
    fn full_names() {
        let table = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("curlimages/curl", "docker.io/curlimages/curl:latest"),
            ("localhost:5000/library/busybox", "localhost:5000/library/busybox:latest"),
            ("gcr.io/x/sleep@sha256:00", "gcr.io/x/sleep@sha256:00"),
        ];
        for (reference, full) in table {
            assert_eq!(find(reference).unwrap().reference, full);
        }
    }

    #[test]
    fn an_unknown_image_says_what_to_do() {
        let why = find("nginx").unwrap_err();
        assert!(why.contains("nginx") && why.contains("curlimages/curl"), "{why}");
    }
}
