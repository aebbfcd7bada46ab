//! What `test` and `diff` have in common: the profiles they judge in, which sources they judge, and their words and JSON for
//! connections and decisions.

use clap::ValueEnum;
use control::diff::peer_in_words;
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
        other => Value::from(peer_in_words(other)),
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
