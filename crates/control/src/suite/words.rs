//! Cases and assertions as one line: the name of an item whose author gave none.

use std::fmt;
use std::ops::RangeInclusive;

use super::{Ask, Assertion, Because, Case, Client, Expect, From, Target, Who};

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Case(case) => case.fmt(f),
            Self::Assertion(assertion) => assertion.fmt(f),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}:{}", self.from, self.to, self.port)?;
        if let Some(name) = &self.server_name {
            write!(f, " with server name {name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.who, self.address) {
            (Who::Nobody, None) => f.write_str("a client without identity"),
            (Who::Nobody, Some(address)) => write!(f, "{address} without identity"),
            (Who::Workload(name), None) => f.write_str(name),
            (Who::Workload(name), Some(address)) => write!(f, "{name} at {address}"),
            (Who::Identity(id), None) => f.write_str(id.principal()),
            (Who::Identity(id), Some(address)) => write!(f, "{} at {address}", id.principal()),
        }
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.expect == Expect::Allow { "everything" } else { "nothing" })?;
        if !self.from.is_empty() {
            write!(f, " from {}", listed(&self.from, "or"))?;
        }
        if !self.not_from.is_empty() {
            write!(f, " outside {}", listed(&self.not_from, "and"))?;
        }
        match self.to.as_slice() {
            [] => f.write_str(" reaches any workload")?,
            to => write!(f, " reaches {}", listed(to, "or"))?,
        }
        if !self.ports.is_empty() {
            write!(f, " on {}", ports(&self.ports))?;
        }
        if !self.not_ports.is_empty() {
            write!(f, " on any port but {}", ports(&self.not_ports))?;
        }
        Ok(())
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::ServiceAccount(namespace, name) => write!(f, "service account {namespace}/{name}"),
            Self::Identity(id) => write!(f, "principal {}", id.principal()),
            Self::Workload(name) => write!(f, "workload {name}"),
            Self::Addresses(_, written) => write!(f, "addresses {written}"),
            Self::Anybody => f.write_str("clients with an identity"),
            Self::Nobody => f.write_str("clients without identity"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => write!(f, "workload {name}"),
            Self::Labelled { namespace, labels } => {
                let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                match (pairs.is_empty(), namespace) {
                    (true, Some(namespace)) => write!(f, "namespace {namespace}"),
                    (false, Some(namespace)) => write!(f, "{} in namespace {namespace}", pairs.join(",")),
                    (_, None) => write!(f, "{}", pairs.join(",")),
                }
            }
        }
    }
}

/// `a, b or c`.
pub(super) fn listed<T: fmt::Display>(items: &[T], last: &str) -> String {
    match items.split_last() {
        None => String::new(),
        Some((one, [])) => one.to_string(),
        Some((end, rest)) => {
            let rest: Vec<String> = rest.iter().map(T::to_string).collect();
            format!("{} {last} {end}", rest.join(", "))
        }
    }
}

/// `port 5432`, `ports 80 and 9000-9010`.
pub(super) fn ports(ranges: &[RangeInclusive<u16>]) -> String {
    let word = |range: &RangeInclusive<u16>| {
        if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("{}-{}", range.start(), range.end())
        }
    };
    let words: Vec<String> = ranges.iter().map(word).collect();
    let single = matches!(ranges, [one] if one.start() == one.end());
    format!("{} {}", if single { "port" } else { "ports" }, listed(&words, "and"))
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reason(reason) => f.write_str(reason.word()),
            Self::Policy(policy, None) => f.write_str(policy),
            Self::Policy(policy, Some(rule)) => write!(f, "{policy}[{rule}]"),
        }
    }
}

/// A workload that there might be.
pub(super) fn imagined(labels: &policy::Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { "any other workload".to_owned() } else { format!("any workload with {}", pairs.join(",")) }
}
