//! Names of images, as manifests write them and in full.

use std::fmt;
use std::net::IpAddr;

use super::digest::Digest;

/// The longest name: what registries take (255 for the repository, 128 for the tag) with room for a host and a digest.
const BYTES_MAX: usize = 1024;
/// The longest tag (OCI distribution).
const TAG_BYTES_MAX: usize = 128;
/// The registry that names without one mean.
const HUB: &str = "docker.io";

/// A name in full: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
    names_registry: bool,
}

impl Reference {
    /// Reads a name; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).ok_or_else(|| {
            format!(
                "`{text}` is no image name: [REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST], the repository in lower case"
            )
        })
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag.to_owned())),
            _ => (name, None),
        };
        if tag.as_ref().is_some_and(|tag| !is_tag(tag)) {
            return None;
        }
        let first = name.split_once('/');
        let registry = first.filter(|(first, _)| first.contains(['.', ':']) || *first == "localhost");
        let (registry, repository) = match registry {
            Some((registry, rest)) => (registry, rest.to_owned()),
            None if first.is_none() => (HUB, format!("library/{name}")),
            None => (HUB, name.to_owned()),
        };
        let names_registry = first.is_some() && name.starts_with(registry);
        // An old name of the same.
        let registry = if registry == "index.docker.io" { HUB } else { registry };
        if !is_host(registry) || !repository.split('/').all(is_path_part) {
            return None;
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Some(Self { registry: registry.to_owned(), repository, tag, digest, names_registry })
    }

    /// Host and perhaps port of its registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Its path in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Its version: the digest, else the tag.
    pub fn version(&self) -> String {
        self.digest.as_ref().map_or_else(|| self.tag.clone().unwrap_or_default(), ToString::to_string)
    }

    /// The digest, if it names one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether it was written with a registry; else the registry is understood.
    pub fn names_registry(&self) -> bool {
        self.names_registry
    }

    /// Registry and repository.
    pub fn without_version(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Whether the registry is on this machine, by an address that only this machine has or by its name `localhost`.
    pub fn is_loopback(&self) -> bool {
        let host = host_of(&self.registry);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(formatter, "@{digest}"))
    }
}

/// The host of a registry, without port and brackets.
pub(crate) fn host_of(registry: &str) -> &str {
    if let Some((address, _)) = registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    registry.rsplit_once(':').map_or(registry, |(host, _)| host)
}

fn is_host(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() || !(rest.is_empty() || rest.starts_with(':')) {
                return false;
            }
            ("v6", rest.strip_prefix(':'))
        }
        None => registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port))),
    };
    let legal = |part: &str| {
        let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        !part.is_empty() && plain && !part.starts_with('-') && !part.ends_with('-')
    };
    host.split('.').all(legal) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Letters and digits, with single separators between them (OCI distribution).
fn is_path_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_plain = part.bytes().next().is_some_and(plain) && part.bytes().next_back().is_some_and(plain);
    ends_plain && part.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, full, names_registry) in [
            ("busybox", "docker.io/library/busybox:latest", false),
            ("busybox:1.36", "docker.io/library/busybox:1.36", false),
            ("curlimages/curl", "docker.io/curlimages/curl:latest", false),
            ("docker.io/library/a", "docker.io/library/a:latest", true),
            ("index.docker.io/x/a", "docker.io/x/a:latest", true),
            ("localhost/a", "localhost/a:latest", true),
            ("localhost:5000/library/busybox", "localhost:5000/library/busybox:latest", true),
            ("[::1]:5000/a:1", "[::1]:5000/a:1", true),
            ("gcr.io/x/sleep:v1_2.3-A", "gcr.io/x/sleep:v1_2.3-A", true),
            (&format!("gcr.io/x/sleep@{digest}"), &format!("gcr.io/x/sleep@{digest}"), true),
            (&format!("a:1@{digest}"), &format!("docker.io/library/a:1@{digest}"), false),
        ] {
            let read = Reference::parse(text).unwrap();
            assert_eq!((read.to_string().as_str(), read.names_registry()), (full, names_registry), "{text}");
            assert_eq!(Reference::parse(full).unwrap().to_string(), full, "a full name is its own");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a/".repeat(600);
        for text in [
            "",
            "a//b",
            "/a",
            "a/",
            "busybox;rm",
            "A",
            "a b",
            "a:",
            "a:-x",
            "a@sha256:00",
            "a@md5:00",
            "../a",
            "a/../b",
            "a/.b",
            "a.b:0/c",
            "a.b:99999/c",
            "-a.b/c",
            "[::1/c",
            "[x]:1/c",
            "a:1:2",
            &long,
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_is_known_by_address_and_name_alone() {
        for (text, is_loopback) in [
            ("localhost:5000/a", true),
            ("127.0.0.1:5000/a", true),
            ("127.9.9.9/a", true),
            ("[::1]:5000/a", true),
            ("localhost.example.com/a", false),
            ("127.0.0.1.example.com/a", false),
            ("10.0.0.1:5000/a", false),
            ("a", false),
        ] {
            assert_eq!(Reference::parse(text).unwrap().is_loopback(), is_loopback, "{text}");
        }
    }
}
