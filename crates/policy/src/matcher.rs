//! Matching one attribute of a connection against compiled values (section 8 of the semantics). No regular expressions: every pattern
//! is exact text, a prefix, a suffix, or a glob walked in place.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::address::{Address, Block};
use crate::identity::{PeerName, SCHEME, SpiffeId, mark};

/// Whether something holds; `Unknown` only while bytes of the connection have not been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Truth {
    False,
    Unknown,
    True,
}

impl Truth {
    pub(crate) fn and(self, other: Self) -> Self {
        self.min(other)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        self.max(other)
    }

    pub(crate) fn not(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
            Self::True => Self::False,
        }
    }

    pub(crate) fn of(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// What of a connection the matchers see: identity already dropped where the mode drops it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) port: u16,
    pub(crate) names: Names<'a>,
    /// The server name, empty if there is none; `None` while it is not known.
    pub(crate) server_name: Option<&'a str>,
}

/// The names of the peer, as far as the profile lets policies see them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Names<'a> {
    None,
    One(&'a SpiffeId),
    /// Raw names of a certificate (S-51, sidecar).
    Many(&'a [PeerName]),
}

impl Names<'_> {
    fn any(self, exact: impl Fn(&SpiffeId) -> bool, raw: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::None => false,
            Self::One(id) => exact(id),
            Self::Many(names) => names.iter().any(|name| raw(name.raw())),
        }
    }

    fn any_raw(self, raw: impl Fn(&str) -> bool) -> bool {
        self.any(|id| raw(id.uri()), &raw)
    }
}

/// The values of one side of a match: does any of them match.
#[derive(Clone, Debug)]
pub(crate) enum Set {
    Principals(TextSet),
    /// S-52 sidecar: globs anywhere in the raw name.
    NamespacesRaw(Vec<Arc<str>>),
    /// S-52 ambient: patterns on the namespace segment.
    Namespaces(TextSet),
    ServiceAccounts(Vec<(Arc<str>, Arc<str>)>),
    TrustDomains(Vec<Arc<str>>),
    Source(Blocks),
    Destination(Blocks),
    Ports(Vec<u16>),
    ServerName(TextSet),
    /// Something that is known when the request comes.
    Request,
    /// Nothing ever matches (S-61).
    Nothing,
}

impl Set {
    pub(crate) fn truth(&self, view: &View<'_>) -> Truth {
        Truth::of(match self {
            Self::Principals(set) => view.names.any_raw(|raw| set.matches_principal(raw)),
            Self::NamespacesRaw(globs) => view.names.any_raw(|raw| globs.iter().any(|pattern| glob(pattern, raw))),
            Self::Namespaces(set) => view.names.any(|id| set.matches(id.namespace()), |_| false),
            Self::ServiceAccounts(accounts) => view.names.any(
                |id| {
                    accounts
                        .iter()
                        .any(|(namespace, name)| **namespace == *id.namespace() && **name == *id.service_account())
                },
                |raw| accounts.iter().any(|(namespace, name)| account_in(namespace, name, raw)),
            ),
            Self::TrustDomains(patterns) => {
                view.names.any_raw(|raw| patterns.iter().any(|pattern| trust_domain_in(pattern, raw)))
            }
            Self::Source(blocks) => blocks.contain(view.source),
            Self::Destination(blocks) => blocks.contain(view.destination),
            Self::Ports(ports) => ports.binary_search(&view.port).is_ok(),
            Self::ServerName(set) => match view.server_name {
                Some(name) => !name.is_empty() && set.matches(name), // S-60
                None => return Truth::Unknown,
            },
            Self::Request => return Truth::Unknown,
            Self::Nothing => false,
        })
    }
}

impl Set {
    /// Does it look at who the peer is.
    pub(crate) fn is_identity(&self) -> bool {
        match self {
            Self::Principals(_)
            | Self::NamespacesRaw(_)
            | Self::Namespaces(_)
            | Self::ServiceAccounts(_)
            | Self::TrustDomains(_) => true,
            Self::Source(_)
            | Self::Destination(_)
            | Self::Ports(_)
            | Self::ServerName(_)
            | Self::Request
            | Self::Nothing => false,
        }
    }
}

/// Patterns of S-49, sorted by kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextSet {
    present: bool,
    exact: Vec<Arc<str>>,
    prefixes: Vec<Arc<str>>,
    suffixes: Vec<Arc<str>>,
}

impl TextSet {
    pub(crate) fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Self {
        let mut set = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            if pattern == "*" {
                set.present = true;
            } else if let Some(rest) = pattern.strip_prefix('*') {
                set.suffixes.push(Arc::from(rest));
            } else if let Some(rest) = pattern.strip_suffix('*') {
                set.prefixes.push(Arc::from(rest));
            } else {
                set.exact.push(Arc::from(pattern));
            }
        }
        set.exact.sort_unstable();
        set.exact.dedup();
        set
    }

    /// The marks of the names that can match; `None` if there are patterns.
    pub(crate) fn marks(&self) -> Option<u64> {
        let exact_only = !self.present && self.prefixes.is_empty() && self.suffixes.is_empty();
        exact_only.then(|| self.exact.iter().fold(0, |marks, name| marks | mark(name)))
    }

    /// Each pattern as literal pieces with any text between them.
    pub(crate) fn pieces(&self) -> Vec<Vec<&str>> {
        let exact = self.exact.iter().map(|text| vec![&**text]);
        let prefixes = self.prefixes.iter().map(|text| vec![&**text, ""]);
        let suffixes = self.suffixes.iter().map(|text| vec!["", &**text]);
        self.present.then(|| vec!["", ""]).into_iter().chain(exact).chain(prefixes).chain(suffixes).collect()
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        (self.present && !text.is_empty())
            || self.exact.binary_search_by(|exact| (**exact).cmp(text)).is_ok()
            || self.prefixes.iter().any(|prefix| text.starts_with(&**prefix))
            || self.suffixes.iter().any(|suffix| text.ends_with(&**suffix))
    }

    /// S-50: patterns see the name without its scheme; a name with another scheme has no exact form and no beginning.
    fn matches_principal(&self, raw: &str) -> bool {
        match raw.strip_prefix(SCHEME) {
            Some(principal) => self.matches(principal) || (self.present && !raw.is_empty()),
            None => (self.present && !raw.is_empty()) || self.suffixes.iter().any(|suffix| raw.ends_with(&**suffix)),
        }
    }
}

/// Address blocks of both families, overlapping ones joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Blocks {
    pub(crate) fn new(blocks: impl IntoIterator<Item = Block>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for block in blocks {
            match block {
                Block::V4(first, last) => v4.push((first, last)),
                Block::V6(first, last) => v6.push((first, last)),
                Block::Never => {}
            }
        }
        join(&mut v4, |last| last.checked_add(1));
        join(&mut v6, |last| last.checked_add(1));
        Self { v4, v6 }
    }

    pub(crate) fn contain(&self, address: Address) -> bool {
        match address {
            Address::V4(address) => within(&self.v4, address),
            Address::V6(address) => within(&self.v6, address),
        }
    }

    /// The first and the last IPv4 address; if there is none, the first is after the last.
    pub(crate) fn hull_v4(&self) -> (u32, u32) {
        match (self.v4.first(), self.v4.last()) {
            (Some(first), Some(last)) => (first.0, last.1),
            _ => (u32::MAX, 0),
        }
    }

    /// The disjoint, ascending intervals of one family as numbers.
    pub(crate) fn intervals(&self, like: IpAddr) -> Vec<RangeInclusive<u128>> {
        match like {
            IpAddr::V4(_) => self.v4.iter().map(|(first, last)| u128::from(*first)..=u128::from(*last)).collect(),
            IpAddr::V6(_) => self.v6.iter().map(|(first, last)| *first..=*last).collect(),
        }
    }
}

fn join<N: Copy + Ord>(ranges: &mut Vec<(N, N)>, next: impl Fn(N) -> Option<N>) {
    ranges.sort_unstable();
    let mut joined: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for &(first, last) in ranges.iter() {
        match joined.last_mut() {
            Some(open) if next(open.1).is_none_or(|after| first <= after) => {
                open.1 = open.1.max(last);
            }
            _ => joined.push((first, last)),
        }
    }
    *ranges = joined;
}

fn within<N: Copy + Ord>(ranges: &[(N, N)], number: N) -> bool {
    let after = ranges.partition_point(|range| range.0 <= number);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|range| number <= range.1)
}

/// S-52 sidecar: the glob that a raw name must match in full.
pub(crate) fn namespace_glob(pattern: &str) -> Arc<str> {
    Arc::from(["*/ns/", pattern, "/*"].concat())
}

/// Full match where each `*` stands for any text; linear in the text for each star, without recursion.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(mut piece) = pieces.next() else {
        return rest.is_empty();
    };
    // Each middle piece is taken as early as it is found; only the last one is bound to the end.
    for following in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
        piece = following;
    }
    rest.ends_with(piece)
}

/// S-54 sidecar: `spiffe://TD/ns/NS/` [anything `/`] `sa/SA` [`/` anything].
fn account_in(namespace: &str, name: &str, raw: &str) -> bool {
    let Some((_, path)) =
        raw.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).filter(|(domain, _)| !domain.is_empty())
    else {
        return false;
    };
    let Some(rest) =
        path.strip_prefix("ns/").and_then(|rest| rest.strip_prefix(namespace)).filter(|rest| rest.starts_with('/'))
    else {
        return false;
    };
    let wanted = ["/sa/", name].concat();
    // Every `/` may begin a match, overlapping ones too.
    rest.match_indices('/').any(|(at, _)| {
        let end = rest.get(at..).and_then(|rest| rest.strip_prefix(wanted.as_str()));
        end.is_some_and(|end| end.is_empty() || end.starts_with('/'))
    })
}

/// S-55 sidecar.
fn trust_domain_in(pattern: &str, raw: &str) -> bool {
    let Some(rest) = raw.strip_prefix(SCHEME) else {
        return false;
    };
    if pattern == "*" {
        return true;
    }
    if !pattern.contains('*') {
        return rest.strip_prefix(pattern).is_some_and(|end| end.starts_with('/'));
    }
    rest.split_once('/').is_some_and(|(domain, _)| glob(pattern, domain))
}

#[cfg(test)]
mod tests {
    use super::{Blocks, TextSet, account_in, glob, namespace_glob, trust_domain_in};
    use crate::address::Block;

    #[test]
    fn s_49_patterns() {
        for (pattern, text, expected) in [
            ("*", "a", true),
            ("*", "", false),
            ("ab", "ab", true),
            ("ab", "abc", false),
            ("ab", "AB", false),
            ("*b", "ab", true),
            ("*b", "b", true),
            ("a*", "ab", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a*", "xa*", true),
            ("*a*", "xax", false),
            ("a*b", "a*b", true),
            ("a*b", "axb", false),
            ("**", "x*", true),
            ("**", "x", false),
            ("a.c", "abc", false),
        ] {
            assert_eq!(TextSet::new([pattern]).matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn s_50_principals_see_no_scheme() {
        for (pattern, raw, expected) in [
            ("td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", true),
            ("spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", false),
            ("td/*", "spiffe://td/x", true),
            ("*/x", "spiffe://td/x", true),
            ("*", "https://x", true),
            ("x*", "x.example", false),
            ("*.example", "x.example", true),
        ] {
            assert_eq!(TextSet::new([pattern]).matches_principal(raw), expected, "{pattern} {raw}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "ac", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*a*b*", "xaxbx", true),
            ("*ab*ab", "ab", false),
            ("*ab*ab", "abab", true),
            ("a*a", "a", false),
            ("**", "x", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn s_52_namespaces_in_raw_names() {
        let name = "spiffe://td/ns/prod-eu/sa/x";
        for (pattern, expected) in [
            ("prod-eu", true),
            ("prod", false),
            ("prod-*", true),
            ("*-eu", true),
            ("*", true),
            ("p*d-*u", true),
            ("*od*", true),
            ("eu", false),
            ("*x", false),
        ] {
            assert_eq!(glob(&namespace_glob(pattern), name), expected, "{pattern}");
        }
        assert!(glob(&namespace_glob("b"), "spiffe://td/ns/a/ns/b/sa/x"));
        assert!(!glob(&namespace_glob("b"), "spiffe://td/ns/b"));
        assert!(glob(&namespace_glob("sa"), "spiffe://td/ns/ns/sa/x"), "overlapping markers");
    }

    #[test]
    fn s_54_accounts_in_raw_names() {
        for (raw, expected) in [
            ("spiffe://td/ns/foo/sa/bar", true),
            ("spiffe://td/ns/foo/x/y/sa/bar", true),
            ("spiffe://td/ns/foo/sa/bar/z", true),
            ("spiffe://td/ns/foo/sa/barn", false),
            ("spiffe://td/ns/foo2/sa/bar", false),
            ("spiffe://td/x/ns/foo/sa/bar", false),
            ("spiffe:///ns/foo/sa/bar", false),
            ("https://td/ns/foo/sa/bar", false),
        ] {
            assert_eq!(account_in("foo", "bar", raw), expected, "{raw}");
        }
    }

    #[test]
    fn s_55_trust_domains_in_raw_names() {
        for (pattern, raw, expected) in [
            ("*", "spiffe://td", true),
            ("*", "https://td/", false),
            ("td", "spiffe://td/x", true),
            ("td", "spiffe://td", false),
            ("td", "spiffe://tdx/x", false),
            ("t*", "spiffe://td/x", true),
            ("*d", "spiffe://td/x", true),
            ("*x", "spiffe://td/x", false),
        ] {
            assert_eq!(trust_domain_in(pattern, raw), expected, "{pattern} {raw}");
        }
    }

    #[test]
    fn blocks_join() {
        let blocks = Blocks::new(
            ["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "0.0.0.0", "255.255.255.255", "::/0", "::1"]
                .map(|text| Block::parse(text).unwrap()),
        );
        assert_eq!(blocks.v4, [(0, 0), (0x0a00_0000, 0x0aff_ffff), (u32::MAX, u32::MAX)]);
        assert_eq!(blocks.v6, [(0, u128::MAX)]);
        for (address, expected) in [
            ("255.255.255.255", true),
            ("11.0.0.0", false),
            ("::ffff:10.1.2.3", true),
            ("::ffff:11.0.0.0", false),
            ("::2", true),
        ] {
            assert_eq!(blocks.contain(address.parse::<std::net::IpAddr>().unwrap().into()), expected, "{address}");
        }
    }
}
