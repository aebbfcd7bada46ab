//! What `test` and `diff` have in common: the profiles they judge in, which sources they judge, and their words and JSON for
//! connections and decisions.

use std::fmt::Write;

use clap::ValueEnum;
use policy::record::Outcome as Decided;
use policy::{Answer, Connection, Peer, Profile};
use serde_json::{Map, Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::print;
use crate::sources::Sources;

/// Profiles as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileArgument {
    /// As a sidecar proxy decides
    Sidecar,
    /// As the ambient node proxy decides
    Ambient,
    /// One after the other
    Both,
}

impl ProfileArgument {
    /// Each of them.
    pub(crate) fn profiles(self) -> Vec<Option<Profile>> {
        match self {
            Self::Sidecar => vec![Some(Profile::Sidecar)],
            Self::Ambient => vec![Some(Profile::Ambient)],
            Self::Both => vec![Some(Profile::Sidecar), Some(Profile::Ambient)],
        }
    }
}

/// Tells whatever keeps these sources from being what a cluster would have after they were applied. A verdict about a part of
/// them would be a verdict about something else.
pub(crate) fn must_be_whole(sources: &Sources) -> Outcome {
    sources.tell_bad();
    let translated = sources.bundle.translate(None, sources.config.as_ref());
    let mut refused = false;
    for (key, findings) in translated.translator.findings() {
        for finding in findings.iter().filter(|finding| finding.refuses()) {
            refused = true;
            let place = sources.bundle.place(key, &finding.path.to_string()).map(|place| {
                let name = sources.bundle.texts().get(place.text).map_or("", |text| text.name.as_str());
                format!("{name}:{}:{}: ", place.span.line, place.span.column)
            });
            let at = place.unwrap_or_default();
            print::err(format_args!("error: {at}no API server takes this: {}: {}", finding.path, finding.message));
        }
    }
    if refused || sources.is_bad() { Err(Failure::silent(Exit::BadInput)) } else { Ok(()) }
}

/// `cluster.local/ns/foo/sa/sleep at 10.0.0.1 to 10.0.0.2:9000`.
pub(crate) fn connection(connection: &Connection) -> String {
    let Connection { source, destination, port, .. } = connection;
    let to = std::net::SocketAddr::new(*destination, *port);
    let mut words = format!("{} at {source} to {to}", peer(&connection.peer));
    if let Some(name) = &connection.sni {
        let _infallible = write!(words, " with server name {name}");
    }
    for (provider, answer) in &connection.answers {
        let _infallible = write!(words, ", {provider} says {}", answer_word(*answer));
    }
    words
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Anonymous => "a client without identity".to_owned(),
        Peer::Attested(id) => id.principal().to_owned(),
        Peer::Verified(names) => names.iter().map(policy::PeerName::raw).collect::<Vec<_>>().join(", "),
    }
}

fn answer_word(answer: Answer) -> &'static str {
    match answer {
        Answer::Allow => "allow",
        Answer::Deny => "deny",
    }
}

/// A connection as JSON; the identity is null where there is none.
pub(crate) fn connection_value(connection: &Connection) -> Value {
    let identity = match &connection.peer {
        Peer::Anonymous => Value::Null,
        other => Value::from(peer(other)),
    };
    let answers: Map<String, Value> =
        connection.answers.iter().map(|(name, answer)| (name.clone(), answer_word(*answer).into())).collect();
    json!({"source": connection.source, "identity": identity, "destination": connection.destination,
           "port": connection.port, "serverName": connection.sni, "authorizers": answers})
}

/// What was decided, as JSON.
pub(crate) fn decided_value(decided: &Decided) -> Value {
    json!({"verdict": if decided.permitted { "allow" } else { "deny" }, "reason": decided.reason.word(),
           "policy": decided.policy.as_ref().map(ToString::to_string), "rule": decided.rule, "because": decided.because()})
}
