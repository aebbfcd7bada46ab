//! Which records are shown: the same words for `tap` and `conns`. A record knows its workloads by the names of their pods, and people by
//! the name of what made them; pods that come later are meant as well, so names are compared and nothing is looked up.

use std::net::IpAddr;

use clap::Args;
use policy::WorkloadId;
use policy::record::Record;

/// Only some records.
#[derive(Debug, Default, Args)]
pub(crate) struct FilterArguments {
    /// Only connections from or to this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Only connections from or to this workload (`x`, `deploy/x`, `pod/x`, `x.ns`, `ns/x`)
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) workload: Option<String>,
    /// Only connections to this port of the workload
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Only connections from this address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<IpAddr>,
}

impl FilterArguments {
    /// Is it shown.
    pub(crate) fn admits(&self, record: &Record) -> bool {
        let ends = || [&record.source, &record.destination].into_iter().filter_map(|end| end.workload.as_ref());
        let of = |name: &str| ends().any(|id| id.namespace == name);
        let is = |name: &str| ends().any(|id| is_named(id, name));
        self.namespace.as_deref().is_none_or(of)
            && self.workload.as_deref().is_none_or(is)
            && self.port.is_none_or(|port| record.destination.port == port)
            && self.from.is_none_or(|address| record.source.address == address)
    }

    /// Does it let everything through.
    pub(crate) fn is_empty(&self) -> bool {
        self.namespace.is_none() && self.workload.is_none() && self.port.is_none() && self.from.is_none()
    }
}

fn is_named(id: &WorkloadId, text: &str) -> bool {
    let (namespace, name) = match text.split_once('/') {
        Some((kind, name)) if control::names::is_kind(kind) => (None, name),
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let named = |namespace: Option<&str>, name: &str| {
        namespace.is_none_or(|namespace| id.namespace == namespace) && (id.name == name || is_made_by(&id.name, name))
    };
    named(namespace, name)
        || (namespace.is_none() && name.rsplit_once('.').is_some_and(|(name, namespace)| named(Some(namespace), name)))
}

/// Whether a pod's name is one that a controller of this name gives: `x-5d8f9c7b6d-abcde`, `x-abcde` or `x-0`.
fn is_made_by(pod: &str, maker: &str) -> bool {
    let Some(rest) = pod.strip_prefix(maker).and_then(|rest| rest.strip_prefix('-')) else { return false };
    let ordinal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let random = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    // Of a pod template: 32 bits in letters that spell no word, at most ten of them.
    let hash = |text: &str| (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match rest.split_once('-') {
        Some((first, last)) => hash(first) && random(last),
        None => random(rest) || ordinal(rest),
    }
}

#[cfg(test)]
mod tests {
    use policy::WorkloadId;

    use super::is_named;

    #[test]
    fn workloads_are_meant_by_every_name_that_people_have_for_them() {
        let pod = WorkloadId::new("foo", "tcp-echo-5d8f9c7b6d-abcde");
        for (name, expected) in [
            ("tcp-echo-5d8f9c7b6d-abcde", true),
            ("tcp-echo", true),
            ("deploy/tcp-echo", true),
            ("pod/tcp-echo-5d8f9c7b6d-abcde", true),
            ("foo/tcp-echo", true),
            ("tcp-echo.foo", true),
            ("deploy/tcp-echo.foo", true),
            ("bar/tcp-echo", false),
            ("tcp-echo.bar", false),
            ("tcp", false),
            ("echo", false),
            ("", false),
        ] {
            assert_eq!(is_named(&pod, name), expected, "{name}");
        }
        assert!(is_named(&WorkloadId::new("foo", "db-0"), "db"), "of a StatefulSet");
        assert!(is_named(&WorkloadId::new("foo", "x.y"), "x.y"), "a name with a dot");
        assert!(!is_named(&WorkloadId::new("foo", "web-admin-abcde-x"), "web"));
    }
}
