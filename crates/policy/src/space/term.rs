//! Rules as products: a term is one source of a rule with the rest of the rule. Each axis of the cut is asked for itself, by the engine's
//! own matchers on a connection of the class, so that the cut can only be too coarse, never of another opinion.

use std::net::IpAddr;

use crate::address::Address;
use crate::compile::rule::{Check, CompiledEntry, CompiledRule};
use crate::matcher::{Names, Set, Truth, View};
use crate::mtls::{Effective, Mtls};
use crate::spec::Attribute;

/// What a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Peer,
    Source,
    Destination,
    ServerName,
    Port,
    /// Nothing: it has the same answer for all connections; on TCP there are no requests.
    Constant,
}

fn axis(check: &Check) -> Axis {
    match check.attribute {
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain => Axis::Peer,
        Attribute::SourceIp | Attribute::RemoteIp => Axis::Source,
        Attribute::DestinationIp => Axis::Destination,
        Attribute::ServerName => Axis::ServerName,
        Attribute::Port => Axis::Port,
        Attribute::Metadata | Attribute::Http | Attribute::Request | Attribute::Unknown => Axis::Constant,
    }
}

/// One product of conditions.
#[derive(Clone, Debug)]
pub(super) enum Term<'a> {
    /// One source of a rule, if it has any, with the rest of the rule.
    Rule {
        rule: &'a CompiledRule,
        from: Option<&'a CompiledEntry>,
        /// The modes of the ports where the rule is enforced; none where identities are seen whatever the mode.
        mtls: Option<&'a Mtls>,
        /// Of which ports this term speaks: of those where identities are not seen (S-81), or of all others.
        blind: bool,
    },
    /// Peers without mutual TLS where it is required (S-79).
    Strict { mtls: &'a Mtls, attested_is_mtls: bool },
}

/// A peer, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub(super) names: Names<'a>,
    /// By a certificate, not by the kernel's word.
    pub(super) verified: bool,
}

/// The terms of a rule; none if it never matches.
pub(super) fn terms<'a>(rule: &'a CompiledRule, mtls: Option<&'a Mtls>) -> Vec<Term<'a>> {
    let view = view(Names::None);
    let constant = |check: &Check| axis(check) != Axis::Constant || check.truth(&view) == Truth::True;
    let possible = |entry: &&CompiledEntry| !entry.never && entry.checks.iter().all(constant);
    if !rule.can_match() || !rule.when.iter().all(|entry| possible(&entry)) {
        return Vec::new();
    }
    let sources: Vec<Option<&CompiledEntry>> =
        if rule.from.is_empty() { vec![None] } else { rule.from.iter().filter(possible).map(Some).collect() };
    let is_blind_somewhere = mtls.is_some_and(|mtls| {
        mtls.rest == Effective::Disable || mtls.ports.values().any(|mode| *mode == Effective::Disable)
    });
    let ways: &[bool] = if is_blind_somewhere { &[false, true] } else { &[false] };
    sources
        .into_iter()
        .flat_map(|from| ways.iter().map(move |blind| Term::Rule { rule, from, mtls, blind: *blind }))
        .collect()
}

fn view(names: Names<'_>) -> View<'_> {
    let nowhere = Address::V4(0);
    View { source: nowhere, destination: nowhere, port: 0, names, server_name: Some("") }
}

impl Term<'_> {
    /// The checks of the source and the conditions on an axis.
    fn checks(&self, wanted: Axis) -> impl Iterator<Item = &Check> {
        let (from, when) = match self {
            Term::Rule { rule, from, .. } => (*from, rule.when.as_slice()),
            Term::Strict { .. } => (None, &[][..]),
        };
        from.into_iter().chain(when).flat_map(|entry| &entry.checks).filter(move |check| axis(check) == wanted)
    }

    fn holds(&self, axis: Axis, view: &View<'_>) -> bool {
        self.checks(axis).all(|check| check.truth(view) == Truth::True)
    }

    pub(super) fn holds_for(&self, who: Who<'_>) -> bool {
        match self {
            Term::Rule { blind, .. } => self.holds(Axis::Peer, &view(if *blind { Names::None } else { who.names })),
            Term::Strict { attested_is_mtls, .. } => {
                matches!(who.names, Names::None) || !(who.verified || *attested_is_mtls)
            }
        }
    }

    pub(super) fn holds_from(&self, source: IpAddr) -> bool {
        self.holds(Axis::Source, &View { source: source.into(), ..view(Names::None) })
    }

    pub(super) fn holds_to(&self, destination: IpAddr) -> bool {
        self.holds(Axis::Destination, &View { destination: destination.into(), ..view(Names::None) })
    }

    pub(super) fn holds_with(&self, server_name: &str) -> bool {
        self.holds(Axis::ServerName, &View { server_name: Some(server_name), ..view(Names::None) })
    }

    pub(super) fn holds_at(&self, port: u16) -> bool {
        let view = View { port, ..view(Names::None) };
        match self {
            Term::Strict { mtls, .. } => mtls.at(port) == Effective::Strict,
            Term::Rule { rule, mtls, blind, .. } => {
                let operation = |entry: &CompiledEntry| {
                    !entry.never && entry.checks.iter().all(|check| check.truth(&view) == Truth::True)
                };
                mtls.is_none_or(|mtls| (mtls.at(port) == Effective::Disable) == *blind)
                    && (rule.to.is_empty() || rule.to.iter().any(operation))
                    && self.holds(Axis::Port, &view)
            }
        }
    }

    /// Every set that is compared with.
    pub(super) fn sets(&self) -> impl Iterator<Item = &Set> {
        let (from, rest) = match self {
            Term::Rule { rule, from, .. } => (*from, Some(*rule)),
            Term::Strict { .. } => (None, None),
        };
        let entries = from.into_iter().chain(rest.into_iter().flat_map(|rule| rule.to.iter().chain(&rule.when)));
        entries.flat_map(|entry| &entry.checks).flat_map(|check| [&check.wanted, &check.unwanted]).flatten()
    }

    /// The ports whose mode it looks at.
    pub(super) fn mode_ports(&self) -> impl Iterator<Item = u16> {
        let mtls = match self {
            Term::Rule { mtls, .. } => *mtls,
            Term::Strict { mtls, .. } => Some(*mtls),
        };
        mtls.into_iter().flat_map(|mtls| mtls.ports.keys().copied())
    }
}
