//! Bounds and regions in words, as parts of sentences.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::grid::last_address;
use super::{Bound, Destination, Region, Relation, RuleName};
use crate::address::number;

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classes => "the patterns of names overlap in too many ways; use fewer patterns with stars inside",
            Self::Cells => "the policies combine too many identities, addresses and ports to look at every combination",
            Self::Labels => "the selectors combine into too many kinds of workloads to look at each",
            Self::Authorizers => "too many external authorizers on one workload to tell their answers apart",
        })
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equivalent => "equivalent",
            Self::MoreRestrictive => "more restrictive",
            Self::MorePermissive => "more permissive",
            Self::Incomparable => "incomparable",
            Self::Inconclusive(_) => "inconclusive",
        })
    }
}

/// `foo/allow-db rule 0`.
impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}", self.policy, self.rule)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => id.fmt(f),
            Self::Labelled { words, .. } => f.write_str(words),
        }
    }
}

/// `from any workload of namespace foo at 10.0.0.0/8, ports 1–8999 and 9002–65535, with server name a.example`.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}", self.peers.words)?;
        let sources = addresses_in_words(&self.sources);
        if !sources.is_empty() {
            write!(f, " at {sources}")?;
        }
        let destinations = addresses_in_words(&self.destinations);
        if !destinations.is_empty() {
            write!(f, ", sent to {destinations}")?;
        }
        write!(f, ", {}", ports_in_words(&self.ports))?;
        if !self.server_names.words.is_empty() {
            write!(f, ", {}", self.server_names.words)?;
        }
        if !self.allowed_by.is_empty() {
            write!(f, ", if authorizer {} allows it", listed(&self.allowed_by))?;
        }
        if !self.refused_by.is_empty() {
            write!(f, ", if authorizer {} refuses it", self.refused_by.join(" or "))?;
        }
        Ok(())
    }
}

/// `any port`, `port 9000`, `ports 1–8999 and 9002–65535`. That port 0 is in a larger range is left unsaid: nothing can listen there.
pub fn ports_in_words(ports: &[RangeInclusive<u16>]) -> String {
    let said = |range: &RangeInclusive<u16>| match (*range.start(), *range.end()) {
        (first, last) if first == last => first.to_string(),
        (0, 1) => "1".to_owned(),
        (first, last) => format!("{}–{last}", first.max(1)),
    };
    let all: Vec<String> = ports.iter().map(said).collect();
    match (ports, all.as_slice()) {
        ([only], _) if *only.start() <= 1 && *only.end() == u16::MAX => "any port".to_owned(),
        (_, [only]) if !only.contains('–') => format!("port {only}"),
        _ => format!("ports {}", listed(&all)),
    }
}

/// Empty if it is any address; otherwise blocks and ranges, ` and ` before the last.
pub fn addresses_in_words(ranges: &[RangeInclusive<IpAddr>]) -> String {
    let is_whole =
        |range: &&RangeInclusive<IpAddr>| number(*range.start()) == 0 && *range.end() == last_address(*range.start());
    match ranges.iter().filter(is_whole).count() {
        2 => return String::new(),
        1 if ranges.len() == 1 => {
            let is_v4 = ranges.first().is_some_and(|range| range.start().is_ipv4());
            return format!("any {} address", if is_v4 { "IPv4" } else { "IPv6" });
        }
        _ => {}
    }
    listed(&ranges.iter().map(range_in_words).collect::<Vec<_>>())
}

/// A single address, a block if it is exactly one, otherwise first and last.
fn range_in_words(range: &RangeInclusive<IpAddr>) -> String {
    let (first, last) = (*range.start(), *range.end());
    if first == last {
        return first.to_string();
    }
    let (low, high) = (number(first), number(last));
    let host = low ^ high;
    let is_block = host & host.wrapping_add(1) == 0 && low & host == 0;
    let bits = if first.is_ipv4() { 32 } else { 128 };
    if is_block { format!("{first}/{}", bits - host.count_ones()) } else { format!("{first}–{last}") }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed<T: fmt::Display>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [only] => only.to_string(),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(ToString::to_string).collect();
            format!("{} and {last}", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{addresses_in_words, ports_in_words};

    #[test]
    fn ports() {
        for (ports, words) in [
            (vec![0..=65535], "any port"),
            (vec![1..=65535], "any port"),
            (vec![0..=8999, 9002..=65535], "ports 1–8999 and 9002–65535"),
            (vec![9000..=9000], "port 9000"),
            (vec![0..=0], "port 0"),
            (vec![0..=1], "port 1"),
            (vec![80..=80, 443..=443, 1000..=2000], "ports 80, 443 and 1000–2000"),
        ] {
            assert_eq!(ports_in_words(&ports), words);
        }
    }

    #[test]
    fn addresses() {
        let range = |first: &str, last: &str| first.parse().unwrap()..=last.parse().unwrap();
        let v4 = range("0.0.0.0", "255.255.255.255");
        let v6 = range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        for (ranges, words) in [
            (vec![v4.clone(), v6], ""),
            (vec![v4], "any IPv4 address"),
            (vec![range("10.0.0.0", "10.255.255.255")], "10.0.0.0/8"),
            (vec![range("10.0.0.1", "10.0.0.1"), range("10.0.0.3", "10.0.0.4")], "10.0.0.1 and 10.0.0.3–10.0.0.4"),
            (vec![range("::", "::ffff")], "::/112"),
            (vec![range("0.0.0.0", "127.255.255.255")], "0.0.0.0/1"),
        ] {
            assert_eq!(addresses_in_words(&ranges), words);
        }
    }
}
