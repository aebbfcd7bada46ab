//! What is written once per connection, or once for many equal denials: plain data, read by logs, metrics and terminals.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::decide::{Decision, Reason};
use crate::explain::NearestMiss;
use crate::identity::SpiffeId;
use crate::mesh::{PolicyId, WorkloadId};
use crate::requests::Requests;

/// One connection, or several equal denials folded into one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Unique within the mesh's life. Written as it is shown: readers of JSON round large numbers.
    #[serde(with = "shown")]
    pub id: u64,
    /// When it was opened, milliseconds since 1970.
    pub opened_unix_ms: u64,
    /// Who opened it.
    pub source: End,
    /// To whom.
    pub destination: End,
    /// What was decided.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How many connections this record stands for, at least 1.
    pub count: u64,
    /// Payload bytes from source to destination, if they were counted.
    pub bytes_received: Option<u64>,
    /// Payload bytes from destination to source, if they were counted.
    pub bytes_sent: Option<u64>,
    /// How long it was open, in microseconds.
    pub duration_us: Option<u64>,
    /// Why it ended; `None` while it is open.
    pub close: Option<Close>,
}

impl Record {
    /// The id as it is shown and asked for: 16 hexadecimal digits.
    pub fn shown_id(&self) -> String {
        format!("{:016x}", self.id)
    }
}

/// Reads an id as it is shown; `None` for anything but 16 hexadecimal digits.
pub fn parse_id(text: &str) -> Option<u64> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// An id in JSON.
mod shown {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(id: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{id:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        super::parse_id(&text).ok_or_else(|| D::Error::custom("an id has 16 hexadecimal digits"))
    }
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The workload, if the address belongs to one.
    pub workload: Option<WorkloadId>,
    /// Its attested or verified identity.
    pub identity: Option<SpiffeId>,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workload {
            Some(workload) => workload.fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// What was decided, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Was it permitted.
    pub permitted: bool,
    /// Why.
    pub reason: Reason,
    /// The deciding policy.
    pub policy: Option<PolicyId>,
    /// Its deciding rule, counted from 0.
    pub rule: Option<usize>,
    /// Of a denial for want of a match: what came closest.
    pub nearest: Option<NearestMiss>,
    /// Would trials have changed it: whether it would be permitted if they were enforced.
    pub if_enforced: Option<bool>,
    /// What requests on the connection would meet, where its port carries or may carry HTTP and they can meet something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Requests>,
    /// The generation that decided.
    pub generation: u64,
}

impl Outcome {
    /// The decision without its permit.
    pub fn of(decision: &Decision, nearest: Option<NearestMiss>) -> Self {
        Self {
            permitted: decision.is_permitted(),
            reason: decision.reason,
            policy: decision.policy.as_deref().cloned(),
            rule: decision.rule,
            nearest,
            if_enforced: decision.shadow.if_enforced,
            http: None,
            generation: decision.generation,
        }
    }

    /// The reason in words, for instance `no ALLOW policy matches; nearest: foo/a rule 0 wants port 9000`.
    pub fn because(&self) -> String {
        let by = match (&self.policy, self.rule) {
            (Some(policy), Some(rule)) => format!("{policy} rule {rule}"),
            (Some(policy), None) => policy.to_string(),
            (None, _) => String::new(),
        };
        match self.reason {
            Reason::NoAllowPolicies => "no ALLOW policy applies".to_owned(),
            Reason::AllowMatch => format!("{by} allows it"),
            Reason::AllowNoMatch => match &self.nearest {
                Some(nearest) => format!("no ALLOW policy matches; nearest: {nearest}"),
                None => "ALLOW policies apply and have no rule that can match".to_owned(),
            },
            Reason::DenyMatch => format!("{by} denies it"),
            Reason::MtlsRequired if by.is_empty() => "the port wants mutual TLS".to_owned(),
            Reason::MtlsRequired => format!("PeerAuthentication {by} wants mutual TLS"),
            Reason::CustomDenied => format!("the external authorizer of {by} refused it"),
            Reason::CustomBadProvider => {
                format!("the external authorizer of {by} is not known or not the only one")
            }
            Reason::NeedsProxyPath => {
                format!("{by} needs bytes of the connection, which are not seen here")
            }
            Reason::UnknownWorkload => "the destination is not a workload of this mesh".to_owned(),
            Reason::NotReady => "no verdict table is in force for the destination yet".to_owned(),
        }
    }
}

impl Record {
    /// One connection that was just decided: nothing is counted yet, and a denied one is closed already.
    pub fn opened(id: u64, opened_unix_ms: u64, source: End, destination: End, outcome: Outcome) -> Self {
        let close = if outcome.permitted { None } else { Some(Close::Refused) };
        Self {
            id,
            opened_unix_ms,
            source,
            destination,
            outcome,
            count: 1,
            bytes_received: None,
            bytes_sent: None,
            duration_us: None,
            close,
        }
    }

    /// One line for a terminal, for instance `foo/sleep-1 → foo/tcp-echo-1:9002 denied: …`.
    pub fn sentence(&self) -> String {
        let verdict = if self.outcome.permitted { "allowed" } else { "denied" };
        let times = if self.count > 1 { format!(" {} times", self.count) } else { String::new() };
        let http = self.outcome.http.as_ref().map(|requests| format!("; {requests}")).unwrap_or_default();
        format!(
            "{} → {}:{} {verdict}{times}: {}{http}",
            self.source,
            self.destination,
            self.destination.port,
            self.outcome.because()
        )
    }
}

/// Why a connection ended. Log words and metric labels come from it by exhaustive match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Close {
    /// It was refused before it was established.
    Refused,
    /// Both ends finished.
    Finished,
    /// One end reset it.
    Reset,
    /// A change of policy took its permit away.
    Revoked,
    /// Somebody closed it on purpose (`tidegate conns close`).
    Closed,
    /// It was permitted, and no answer or no last ACK came.
    NeverEstablished,
    /// The workload was removed.
    WorkloadRemoved,
    /// Its end was not observed.
    NotObserved,
}

impl Close {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Finished => "finished",
            Self::Reset => "reset",
            Self::Revoked => "revoked",
            Self::Closed => "closed",
            Self::NeverEstablished => "never-established",
            Self::WorkloadRemoved => "workload-removed",
            Self::NotObserved => "not-observed",
        }
    }
}
