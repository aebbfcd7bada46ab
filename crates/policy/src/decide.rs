//! One connection against one snapshot: the order of stages (S-31), who ended it and why. There is one evaluator, `judge`;
//! `explain.rs` runs it with a recorder.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::Peer;
use crate::matcher::{Names, View};
use crate::mesh::{PolicyId, Profile, SameNode, Settings, WorkloadId};
use crate::mtls::Effective;
use crate::ruleset::{Custom, Found, Reach, RuleAt, Ruleset, Stage};
use crate::snapshot::{Snapshot, WorkloadState};

/// One connection as its destination receives it (S-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Address of the peer socket.
    pub source: IpAddr,
    /// Who the peer is.
    pub peer: Peer,
    /// The workload's address it was sent to.
    pub destination: IpAddr,
    /// The workload port (S-2).
    pub port: u16,
    /// The server name; `None` if there is none.
    pub sni: Option<String>,
    /// What external authorizers said about it, by provider.
    pub answers: Vec<(String, Answer)>,
}

impl Connection {
    /// A connection without server name and without answers.
    pub fn new(source: IpAddr, peer: Peer, destination: IpAddr, port: u16) -> Self {
        Self { source, peer, destination, port, sni: None, answers: Vec::new() }
    }
}

/// The word of an external authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Go on to the later stages (S-76).
    Allow,
    /// Refuse.
    Deny,
}

/// Why a connection was permitted or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No enforced ALLOW policy applies: permitted.
    NoAllowPolicies,
    /// An ALLOW rule matches: permitted.
    AllowMatch,
    /// ALLOW policies apply and none matches: denied.
    AllowNoMatch,
    /// A DENY rule matches: denied.
    DenyMatch,
    /// The port wants mutual TLS and the peer has none: denied.
    MtlsRequired,
    /// The external authorizer refused: denied.
    CustomDenied,
    /// The external authorizer cannot be asked: denied.
    CustomBadProvider,
    /// The verdict depends on bytes that were not seen: denied.
    NeedsProxyPath,
    /// The destination is not known: denied.
    UnknownWorkload,
    /// There is no snapshot, or no table for the destination: denied.
    NotReady,
}

impl Reason {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoAllowPolicies => "no-allow-policies",
            Self::AllowMatch => "allow-match",
            Self::AllowNoMatch => "allow-no-match",
            Self::DenyMatch => "deny-match",
            Self::MtlsRequired => "mtls-required",
            Self::CustomDenied => "custom-denied",
            Self::CustomBadProvider => "custom-bad-provider",
            Self::NeedsProxyPath => "needs-proxy-path",
            Self::UnknownWorkload => "unknown-workload",
            Self::NotReady => "not-ready",
        }
    }

    /// Does it permit.
    #[inline]
    pub fn permits(self) -> bool {
        match self {
            Self::NoAllowPolicies | Self::AllowMatch => true,
            Self::AllowNoMatch
            | Self::DenyMatch
            | Self::MtlsRequired
            | Self::CustomDenied
            | Self::CustomBadProvider
            | Self::NeedsProxyPath
            | Self::UnknownWorkload
            | Self::NotReady => false,
        }
    }
}

/// The right to move the bytes of one connection. Only a decision makes it, and it cannot be copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    // INVARIANT: made by `Decision::of` alone, from a reason that permits.
    _made_here: (),
}

/// The refusal of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
}

/// The result of evaluating one connection.
#[derive(Debug)]
pub struct Decision {
    /// Permitted or denied.
    pub verdict: Result<Permit, Denial>,
    /// Why.
    pub reason: Reason,
    /// The deciding policy, if one decided.
    pub policy: Option<Arc<PolicyId>>,
    /// Its deciding rule, counted from 0 in the document.
    pub rule: Option<usize>,
    /// The AUDIT policy and rule that matched, if one did.
    pub audit: Option<(Arc<PolicyId>, usize)>,
    /// Was an external authorizer asked.
    pub consulted: bool,
    /// What trials would have done.
    pub shadow: Shadow,
    /// The generation of the snapshot that decided.
    pub generation: u64,
}

/// The verdicts of trials (section 10 of the semantics).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// Of the trial ALLOW policies.
    pub allow: Option<ShadowVerdict>,
    /// Of the trial DENY policies.
    pub deny: Option<ShadowVerdict>,
    /// Whether the connection would be permitted if all trials were enforced together with the rest (S-72); `None` without trials.
    pub if_enforced: Option<bool>,
}

/// The verdict of the trials of one action (S-69).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowVerdict {
    /// Would they let the connection pass.
    pub allowed: bool,
    /// The rule that matches, if one does.
    pub matched: Option<(Arc<PolicyId>, usize)>,
}

impl Decision {
    fn new(reason: Reason, generation: u64) -> Self {
        Self::of(reason, None, So::default(), generation)
    }

    #[inline]
    fn of(reason: Reason, at: Option<&RuleAt>, so: So<'_>, generation: u64) -> Self {
        let verdict = if reason.permits() { Ok(Permit { _made_here: () }) } else { Err(Denial { reason }) };
        Self {
            verdict,
            reason,
            policy: at.map(|at| Arc::clone(at.policy.id())),
            rule: at.map(|at| at.index),
            audit: so.audit,
            consulted: so.consulted,
            shadow: so.shadow,
            generation,
        }
    }

    /// Is the connection permitted.
    pub fn is_permitted(&self) -> bool {
        self.verdict.is_ok()
    }
}

/// What of the connection has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// All that a proxy sees: the absence of a server name is a fact.
    Bytes,
    /// Only the first SYN.
    Syn,
}

impl Snapshot {
    /// Decides a connection whose bytes were seen.
    pub fn decide(&self, destination: &WorkloadId, connection: &Connection) -> Decision {
        self.evaluate(destination, connection, Seen::Bytes, &mut Plain)
    }

    /// Decides what the kernel path enforces at the first SYN: what depends on later bytes is denied. Exactly the connections that it
    /// permits are `Accept` in the verdict table.
    pub fn decide_at_syn(&self, destination: &WorkloadId, connection: &Connection) -> Decision {
        self.evaluate(destination, connection, Seen::Syn, &mut Plain)
    }

    #[inline]
    pub(crate) fn evaluate<'a, R: Recorder<'a>>(
        &'a self,
        destination: &WorkloadId,
        connection: &Connection,
        seen: Seen,
        recorder: &mut R,
    ) -> Decision {
        match self.workloads.get(destination) {
            Some(state) => {
                Judge { settings: &self.settings, generation: self.generation, seen, connection }.judge(state, recorder)
            }
            None => Decision::new(Reason::UnknownWorkload, self.generation), // fail closed
        }
    }
}

/// Which list of rules is being looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageName {
    /// CUSTOM policies of one provider.
    Custom,
    /// AUDIT policies.
    Audit,
    /// DENY policies in trial.
    TrialDeny,
    /// DENY policies.
    Deny,
    /// ALLOW policies in trial.
    TrialAllow,
    /// ALLOW policies.
    Allow,
}

/// How the rules of a stage are looked at. Both ways give the same answer; one also remembers.
pub(crate) trait Recorder<'a> {
    fn find(&mut self, name: StageName, stage: &'a Stage, view: &View<'_>) -> Found<'a>;
}

/// Remembers nothing.
pub(crate) struct Plain;

impl<'a> Recorder<'a> for Plain {
    fn find(&mut self, _name: StageName, stage: &'a Stage, view: &View<'_>) -> Found<'a> {
        stage.find(view)
    }
}

pub(crate) struct Judge<'c> {
    pub(crate) settings: &'c Settings,
    pub(crate) generation: u64,
    pub(crate) seen: Seen,
    pub(crate) connection: &'c Connection,
}

/// What the stages have said so far.
#[derive(Default)]
struct So<'a> {
    audit: Option<(Arc<PolicyId>, usize)>,
    consulted: bool,
    shadow: Shadow,
    /// A rule that may yet refuse, or without which nothing permits.
    pending: Option<&'a RuleAt>,
}

impl<'c> Judge<'c> {
    #[inline]
    pub(crate) fn judge<'a, R: Recorder<'a>>(&self, state: &'a WorkloadState, recorder: &mut R) -> Decision {
        let mode = state.mtls.at(self.connection.port);
        if mode == Effective::Strict && !self.has_mutual_tls() {
            let mut decision = Decision::new(Reason::MtlsRequired, self.generation); // S-79
            decision.policy.clone_from(&state.mtls.named);
            return decision;
        }
        let view = self.view(mode);
        let ruleset = &state.ruleset;
        let mut so = So::default();
        let (reason, at) = self.stages(ruleset, &view, &mut so, recorder);
        let (reason, at) = match so.pending {
            Some(pending) if reason.permits() => (Reason::NeedsProxyPath, Some(pending)),
            _ => (reason, at),
        };
        if ruleset.trial_deny.policies + ruleset.trial_allow.policies > 0 {
            so.shadow.if_enforced = Some(if_enforced(ruleset, &view, reason));
        }
        Decision::of(reason, at, so, self.generation)
    }

    /// S-31, with the trials of S-71 before each enforced stage.
    #[inline]
    fn stages<'a, R: Recorder<'a>>(
        &self,
        ruleset: &'a Ruleset,
        view: &View<'_>,
        so: &mut So<'a>,
        recorder: &mut R,
    ) -> (Reason, Option<&'a RuleAt>) {
        if let Some(refused) = self.custom(&ruleset.custom, view, so, recorder) {
            return refused;
        }
        let audit = recorder.find(StageName::Audit, &ruleset.audit, view);
        so.audit = audit.certain.map(name_of);
        if ruleset.trial_deny.policies > 0 {
            let found = recorder.find(StageName::TrialDeny, &ruleset.trial_deny, view);
            so.shadow.deny =
                Some(ShadowVerdict { allowed: found.certain.is_none(), matched: found.certain.map(name_of) });
        }
        let deny = recorder.find(StageName::Deny, &ruleset.deny, view);
        if deny.certain.is_some() {
            return (Reason::DenyMatch, deny.certain);
        }
        so.pending = so.pending.or(deny.possible);
        if ruleset.trial_allow.policies > 0 {
            let found = recorder.find(StageName::TrialAllow, &ruleset.trial_allow, view);
            so.shadow.allow =
                Some(ShadowVerdict { allowed: found.certain.is_some(), matched: found.certain.map(name_of) });
        }
        if ruleset.allow.policies == 0 {
            return (Reason::NoAllowPolicies, None);
        }
        let allow = recorder.find(StageName::Allow, &ruleset.allow, view);
        match (allow.certain, allow.possible) {
            (Some(at), _) => (Reason::AllowMatch, Some(at)),
            (None, Some(at)) => (Reason::NeedsProxyPath, Some(at)),
            (None, None) => (Reason::AllowNoMatch, None), // S-32
        }
    }

    /// S-74 to S-76.
    #[inline]
    fn custom<'a, R: Recorder<'a>>(
        &self,
        custom: &'a [Custom],
        view: &View<'_>,
        so: &mut So<'a>,
        recorder: &mut R,
    ) -> Option<(Reason, Option<&'a RuleAt>)> {
        for one in custom.iter().filter(|one| one.reach != Reach::Ignored) {
            let found = recorder.find(StageName::Custom, &one.stage, view);
            so.pending = so.pending.or_else(|| found.possible.filter(|_| found.certain.is_none()));
            let Some(at) = found.certain else { continue };
            if one.reach == Reach::Bad {
                return Some((Reason::CustomBadProvider, Some(at)));
            }
            so.consulted = true;
            match self.answer(&one.provider) {
                Some(Answer::Allow) => {}
                Some(Answer::Deny) => return Some((Reason::CustomDenied, Some(at))),
                None => so.pending = so.pending.or(Some(at)),
            }
        }
        None
    }

    fn answer(&self, provider: &str) -> Option<Answer> {
        if self.seen == Seen::Syn {
            return None;
        }
        self.connection.answers.iter().find(|(name, _)| name == provider).map(|(_, answer)| *answer)
    }

    #[inline]
    fn has_mutual_tls(&self) -> bool {
        match &self.connection.peer {
            Peer::Anonymous => false,
            Peer::Attested(_) => self.settings.same_node == SameNode::Attested,
            Peer::Verified(names) => match self.settings.profile {
                Profile::Sidecar => !names.is_empty(),
                Profile::Ambient => self.connection.peer.id().is_some(), // S-51: otherwise there is no identity
            },
        }
    }

    /// What the matchers see of the connection at this workload.
    pub(crate) fn view_at(&self, state: &WorkloadState) -> View<'c> {
        self.view(state.mtls.at(self.connection.port))
    }

    #[inline]
    fn view(&self, mode: Effective) -> View<'c> {
        let Connection { source, peer, destination, port, sni, .. } = self.connection;
        let names = match (peer, self.settings.profile) {
            _ if mode == Effective::Disable => Names::None, // S-81
            (Peer::Anonymous, _) => Names::None,
            (Peer::Attested(id), _) => Names::One(id),
            (Peer::Verified(names), Profile::Sidecar) => Names::Many(names),
            (Peer::Verified(_), Profile::Ambient) => peer.id().map_or(Names::None, Names::One),
        };
        let server_name = match self.seen {
            Seen::Bytes => Some(sni.as_deref().unwrap_or_default()),
            Seen::Syn => None,
        };
        View { source: (*source).into(), destination: (*destination).into(), port: *port, names, server_name }
    }
}

fn name_of(at: &RuleAt) -> (Arc<PolicyId>, usize) {
    (Arc::clone(at.policy.id()), at.index)
}

/// S-72: the verdict with trials enforced beside the rest.
fn if_enforced(ruleset: &Ruleset, view: &View<'_>, reason: Reason) -> bool {
    if ruleset.trial_deny.find(view).certain.is_some() {
        return false;
    }
    match reason {
        Reason::AllowMatch => true,
        Reason::NoAllowPolicies => {
            ruleset.trial_allow.policies == 0 || ruleset.trial_allow.find(view).certain.is_some()
        }
        Reason::AllowNoMatch => ruleset.trial_allow.find(view).certain.is_some(),
        Reason::DenyMatch
        | Reason::MtlsRequired
        | Reason::CustomDenied
        | Reason::CustomBadProvider
        | Reason::NeedsProxyPath
        | Reason::UnknownWorkload
        | Reason::NotReady => false,
    }
}
