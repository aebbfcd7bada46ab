//! Questions about connections that need not be known whole: an address that no manifest has, a request that was not made, the
//! answer of an authorizer that was not asked. What is not known is tried in every way that can matter, or stays unknown; what
//! the verdict depends on is named. There is still one evaluator: [`Snapshot::explain`].

mod merge;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::address::{canonical, from_number, number};
use crate::compile::compile;
use crate::decide::{Answer as Said, Connection, Reason, StageName};
use crate::explain::Explanation;
use crate::identity::Peer;
use crate::matcher::Set;
use crate::mesh::{Mesh, WorkloadId};
use crate::port::{Carries, PortClass, as_http, class_of};
use crate::snapshot::Snapshot;
use crate::space::last_address;

/// More combinations of addresses than this are not tried: beyond it the verdict is said to depend on them, never to hold.
const TRIED_MAX: usize = 4096;

/// A connection as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Address of the peer.
    pub source: Option<IpAddr>,
    /// Who the peer is.
    pub peer: Peer,
    /// The address of the workload that it is sent to.
    pub destination: Option<IpAddr>,
    /// The workload port.
    pub port: u16,
    /// The server name; `None` if there is none.
    pub sni: Option<String>,
    /// What external authorizers say, by provider.
    pub answers: Vec<(String, Said)>,
}

impl Question {
    /// One about a peer and a port.
    pub fn new(peer: Peer, port: u16) -> Self {
        Self { source: None, peer, destination: None, port, sni: None, answers: Vec::new() }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Permitted, whatever is not known.
    Allow,
    /// Denied, whatever is not known.
    Deny,
    /// Permitted or denied by these.
    Depends(BTreeSet<Unknown>),
}

impl Verdict {
    /// The stable word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Depends(_) => "depends",
        }
    }

    /// Whether it depends on what is carried: no promise about TCP holds then.
    pub fn depends_on_http(&self) -> bool {
        match self {
            Self::Allow | Self::Deny => false,
            Self::Depends(on) => on.iter().any(|one| matches!(one, Unknown::Request(_) | Unknown::Protocol)),
        }
    }
}

/// What a verdict may depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unknown {
    /// The address of the peer.
    SourceAddress,
    /// The address of the workload.
    DestinationAddress,
    /// An attribute of HTTP requests, as it is written.
    Request(Arc<str>),
    /// Whether the first bytes are HTTP.
    Protocol,
    /// The answer of an external authorizer, by the policy that asks it.
    Authorizer(Arc<str>),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceAddress => f.write_str("the source's address"),
            Self::DestinationAddress => f.write_str("the destination's address"),
            Self::Request(written) => write!(f, "HTTP (`{written}`)"),
            Self::Protocol => f.write_str("whether it is HTTP"),
            Self::Authorizer(policy) => write!(f, "the external authorizer that `{policy}` asks"),
        }
    }
}

/// What one engine answers, with what led to it.
#[derive(Debug)]
pub struct Told {
    /// The verdict.
    pub verdict: Verdict,
    /// One of the decisions behind it; rules and fields that what is not known decides have no `matched`.
    pub explanation: Explanation,
}

/// The whole answer to a question.
#[derive(Debug)]
pub struct Answer {
    /// What holds wherever the policies are enforced.
    pub verdict: Verdict,
    /// What the port carries, and who says so.
    pub class: PortClass,
    /// What Tidegate enforces: every port is TCP to it.
    pub tcp: Told,
    /// What an HTTP engine would say, on ports that carry or may carry HTTP.
    pub http: Option<Told>,
}

impl Answer {
    /// The part that speaks for the verdict: the HTTP engine's where that is what counts.
    pub fn telling(&self) -> &Told {
        match &self.http {
            Some(http) if self.class.carries == Carries::Http || http.verdict != self.tcp.verdict => http,
            _ => &self.tcp,
        }
    }
}

/// A mesh that is asked about.
#[derive(Debug)]
pub struct Asker {
    mesh: Mesh,
    tcp: Snapshot,
    http: Snapshot,
}

impl Asker {
    /// Compiles the mesh for both engines.
    pub fn new(mesh: Mesh) -> Self {
        let tcp = compile(&mesh, 1, None);
        let http = compile(&as_http(&mesh), 1, Some(&tcp));
        Self { mesh, tcp, http }
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// What is enforced.
    pub fn snapshot(&self) -> &Snapshot {
        &self.tcp
    }

    /// What a port of a workload carries; TCP where the workload is not known or not in the mesh, since no proxy looks at it.
    pub fn class_of(&self, destination: &WorkloadId, port: u16) -> PortClass {
        match self.tcp.workload(destination) {
            Some(state) if state.workload().in_mesh => class_of(&self.mesh, state.workload(), port),
            _ => PortClass { carries: Carries::Tcp, service: None, said: None },
        }
    }

    /// Only the verdict of [`Self::ask`], which costs less where it depends on nothing.
    pub fn verdict(&self, destination: &WorkloadId, question: &Question) -> Verdict {
        let simple = || {
            let tcp = quick(&self.tcp, destination, question)?;
            let http = match self.class_of(destination, question.port).carries {
                Carries::Tcp => return Some(tcp),
                Carries::Http => return quick(&self.http, destination, question),
                Carries::Detected => quick(&self.http, destination, question)?,
            };
            (tcp == http).then_some(tcp)
        };
        simple().unwrap_or_else(|| self.ask(destination, question).verdict)
    }

    /// Answers.
    pub fn ask(&self, destination: &WorkloadId, question: &Question) -> Answer {
        let class = self.class_of(destination, question.port);
        let tcp = tell(&self.tcp, destination, question);
        let http = (class.carries != Carries::Tcp).then(|| tell(&self.http, destination, question));
        let verdict = match (&http, class.carries) {
            (None, _) | (_, Carries::Tcp) => tcp.verdict.clone(),
            (Some(http), Carries::Http) => http.verdict.clone(),
            (Some(http), Carries::Detected) => either(&tcp.verdict, &http.verdict),
        };
        Answer { verdict, class, tcp, http }
    }
}

/// The verdict of [`tell`] without its reasons, where every address gives the same and nothing else is unknown.
fn quick(snapshot: &Snapshot, destination: &WorkloadId, question: &Question) -> Option<Verdict> {
    let pairs = combinations(snapshot, destination, question).pairs;
    if pairs.len() > TRIED_MAX {
        return None;
    }
    let mut connection = Connection {
        sni: question.sni.clone(),
        answers: question.answers.clone(),
        ..Connection::new(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            question.peer.clone(),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            question.port,
        )
    };
    let mut all = pairs.into_iter().map(|(from, to)| {
        (connection.source, connection.destination) = (from, to);
        let decision = snapshot.decide(destination, &connection);
        (decision.reason != Reason::NeedsProxyPath).then(|| decision.is_permitted())
    });
    let first = all.next()??;
    let verdict = if first { Verdict::Allow } else { Verdict::Deny };
    all.all(|one| one == Some(first)).then_some(verdict)
}

/// S-85: which engine it will be is not known.
fn either(tcp: &Verdict, http: &Verdict) -> Verdict {
    if tcp == http {
        return tcp.clone();
    }
    let mut on = BTreeSet::from([Unknown::Protocol]);
    for verdict in [tcp, http] {
        if let Verdict::Depends(more) = verdict {
            on.extend(more.iter().cloned());
        }
    }
    Verdict::Depends(on)
}

/// What one engine says.
fn tell(snapshot: &Snapshot, destination: &WorkloadId, question: &Question) -> Told {
    let tried = combinations(snapshot, destination, question);
    let mut told: Option<Told> = None;
    let mut seen: Vec<(IpAddr, IpAddr, Verdict)> = Vec::new();
    for &(from, to) in tried.pairs.iter().take(TRIED_MAX) {
        let connection = Connection {
            source: from,
            peer: question.peer.clone(),
            destination: to,
            port: question.port,
            sni: question.sni.clone(),
            answers: question.answers.clone(),
        };
        let explanation = snapshot.explain(destination, &connection);
        let verdict = verdict(&explanation);
        seen.push((from, to, verdict.clone()));
        told = Some(match told {
            None => Told { verdict, explanation },
            Some(before) => {
                let verdict = either_address(before.verdict, verdict);
                Told { verdict, explanation: merge::merge(before.explanation, explanation) }
            }
        });
    }
    let mut told = told.unwrap_or_else(|| {
        let nowhere = Connection::new(tried.zero, question.peer.clone(), tried.zero, question.port);
        let explanation = snapshot.explain(destination, &nowhere);
        Told { verdict: verdict(&explanation), explanation }
    });
    let on = addresses(&seen, tried.pairs.len() > TRIED_MAX, question);
    if !on.is_empty() {
        told.verdict = match told.verdict {
            Verdict::Depends(more) => Verdict::Depends(more.into_iter().chain(on).collect()),
            Verdict::Allow | Verdict::Deny => Verdict::Depends(on),
        };
    }
    told
}

/// The verdict of one decision.
fn verdict(explanation: &Explanation) -> Verdict {
    let decision = &explanation.decision;
    if decision.reason != Reason::NeedsProxyPath {
        return if decision.is_permitted() { Verdict::Allow } else { Verdict::Deny };
    }
    let allowed = explanation.rules.iter().any(|rule| rule.stage == StageName::Allow && rule.matched == Some(true));
    let mut on = BTreeSet::new();
    for rule in &explanation.rules {
        let counts = match rule.stage {
            StageName::Custom | StageName::Deny => true,
            StageName::Allow => !allowed,
            StageName::Audit | StageName::TrialDeny | StageName::TrialAllow => false,
        };
        if counts && rule.matched.is_none() {
            on.extend(
                rule.fields
                    .iter()
                    .filter(|field| field.matched.is_none() && field.left_out.is_none())
                    .map(|field| Unknown::Request(Arc::clone(&field.written))),
            );
        }
        if rule.stage == StageName::Custom && rule.matched == Some(true) {
            on.insert(Unknown::Authorizer(Arc::from(rule.policy.to_string())));
        }
    }
    Verdict::Depends(on)
}

/// Two verdicts of which either may hold, by an address.
fn either_address(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Depends(mut one), Verdict::Depends(other)) => {
            one.extend(other);
            Verdict::Depends(one)
        }
        (Verdict::Depends(on), _) | (_, Verdict::Depends(on)) => Verdict::Depends(on),
        // That they differ is said by `addresses`.
        (one, _) => one,
    }
}

/// Which of the addresses makes a difference.
fn addresses(seen: &[(IpAddr, IpAddr, Verdict)], cut_short: bool, question: &Question) -> BTreeSet<Unknown> {
    let mut on = BTreeSet::new();
    if cut_short {
        on.extend(question.source.is_none().then_some(Unknown::SourceAddress));
        on.extend(question.destination.is_none().then_some(Unknown::DestinationAddress));
        return on;
    }
    let mut by = seen.to_vec();
    let differs = |pairs: &[(IpAddr, IpAddr, Verdict)], same: fn(&(IpAddr, IpAddr, Verdict)) -> IpAddr| {
        pairs.windows(2).any(|pair| matches!(pair, [a, b] if same(a) == same(b) && a.2 != b.2))
    };
    by.sort_by_key(|(from, to, _)| (*to, *from));
    let mut by_source = differs(&by, |(_, to, _)| *to);
    by.sort_by_key(|(from, to, _)| (*from, *to));
    let by_destination = differs(&by, |(from, ..)| *from);
    // Families: both ends change at once, and it is the source's family that the peer chooses.
    by_source |= !by_destination && by.windows(2).any(|pair| matches!(pair, [a, b] if a.2 != b.2));
    on.extend((by_source && question.source.is_none()).then_some(Unknown::SourceAddress));
    let left = on.is_empty() && by_source;
    on.extend(((by_destination || left) && question.destination.is_none()).then_some(Unknown::DestinationAddress));
    on
}

/// The pairs of addresses that are tried.
struct Combinations {
    pairs: Vec<(IpAddr, IpAddr)>,
    zero: IpAddr,
}

/// One representative of each class of addresses that no rule of the destination can tell apart, at both ends.
fn combinations(snapshot: &Snapshot, destination: &WorkloadId, question: &Question) -> Combinations {
    let zeros = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let known: Vec<IpAddr> = [question.source, question.destination].into_iter().flatten().map(canonical).collect();
    let mut pairs = Vec::new();
    for zero in zeros {
        // Both ends are of one family.
        if !known.is_empty() && !known.iter().any(|address| address.is_ipv4() == zero.is_ipv4()) {
            continue;
        }
        let sources = known_or(question.source, || starts(snapshot, destination, zero, true));
        let destinations = known_or(question.destination, || starts(snapshot, destination, zero, false));
        let wanted = TRIED_MAX.saturating_add(1).saturating_sub(pairs.len());
        let all = sources.iter().flat_map(|from| destinations.iter().map(|to| (*from, *to)));
        pairs.extend(all.take(wanted));
    }
    Combinations { pairs, zero: known.first().copied().unwrap_or(zeros[0]) }
}

fn known_or(known: Option<IpAddr>, otherwise: impl FnOnce() -> Vec<IpAddr>) -> Vec<IpAddr> {
    known.map_or_else(otherwise, |address| vec![canonical(address)])
}

/// The first address of each class of one family.
fn starts(snapshot: &Snapshot, destination: &WorkloadId, like: IpAddr, of_source: bool) -> Vec<IpAddr> {
    let Some(state) = snapshot.workload(destination) else { return vec![like] };
    let last = number(last_address(like));
    let mut starts = BTreeSet::from([0]);
    let rules = state.ruleset.policies.iter().flat_map(|policy| &policy.rules);
    for set in rules.flat_map(crate::compile::rule::CompiledRule::sets) {
        let ((Set::Source(blocks), true) | (Set::Destination(blocks), false)) = (set, of_source) else { continue };
        for range in blocks.intervals(like) {
            starts.insert(*range.start());
            starts.extend(range.end().checked_add(1).filter(|next| *next <= last));
        }
    }
    starts.into_iter().map(|start| from_number(start, like)).collect()
}
