//! What writers were told, and what may be true after a kill: what was answered, and anything that was on its way.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use e2e::client::{Answer, Client, Unanswered};
use e2e::dice::Dice;
use e2e::trio::{CONFIG_MAPS, PODS, POLICIES, revision, serving};
use serde_json::{Value, json};

/// One state of an object: its word, and the revision it was answered with, if it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) word: String,
    revision: Option<u64>,
}

/// What an object may be: one state if all was answered, more if something is on its way. `None`: it is not there.
pub(crate) type May = Vec<Option<State>>;

/// What one writer knows.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) objects: BTreeMap<String, May>,
    /// The highest revision that was shown to it.
    pub(crate) highest: u64,
    /// Writes that were answered.
    pub(crate) answered: usize,
    /// What the objects were under each revision that was shown.
    pub(crate) seen: HashMap<u64, u64>,
}

/// A fingerprint of an object as it is stored.
fn print(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Items of a list do not say their kind.
    let fields = object.as_object().into_iter().flatten().filter(|(name, _)| *name != "kind" && *name != "apiVersion");
    fields.for_each(|(name, value)| (name, value.to_string()).hash(&mut hasher));
    hasher.finish()
}

/// The whole of what a config map holds for one word: so long that it takes several pages.
fn payload(word: &str) -> String {
    let number: usize = word.trim_start_matches('w').parse().unwrap_or_default();
    word.repeat(1 + number * 37 % 4000)
}

fn config_map(name: &str, word: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "foo", "labels": {"word": word}},
        "data": {"payload": payload(word)}})
}

fn pod(name: &str, word: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "foo", "labels": {"word": word}},
        "spec": {"serviceAccountName": "server", "terminationGracePeriodSeconds": 0,
            "containers": [serving("9000,9001")]}})
}

fn policy(name: &str, word: &str, deny: bool) -> Value {
    let ports = if deny { "9002" } else { "9999" };
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "foo", "labels": {"word": word, "denies": deny.to_string()}},
        "spec": {"selector": {"matchLabels": {"app": "server"}}, "action": "DENY",
            "rules": [{"from": [{"source": {"serviceAccounts": ["alice"]}}], "to": [{"operation": {"ports": [ports]}}]}]}})
}

/// A kind of object that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ConfigMap,
    Pod,
    Policy,
}

impl Kind {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::ConfigMap => CONFIG_MAPS,
            Self::Pod => PODS,
            Self::Policy => POLICIES,
        }
    }

    fn object(self, name: &str, word: &str, dice: &mut Dice) -> Value {
        match self {
            Self::ConfigMap => config_map(name, word),
            Self::Pod => pod(name, word),
            Self::Policy => policy(name, word, dice.coin()),
        }
    }

    /// Whether an object that is there is whole.
    pub(crate) fn is_whole(self, object: &Value) -> bool {
        let word = object.pointer("/metadata/labels/word").and_then(Value::as_str).unwrap_or_default();
        match self {
            Self::ConfigMap => object.pointer("/data/payload").and_then(Value::as_str) == Some(&payload(word)),
            Self::Pod => object.pointer("/spec/containers/0/args/1").and_then(Value::as_str) == Some("hello"),
            Self::Policy => {
                let denies = object.pointer("/metadata/labels/denies").and_then(Value::as_str) == Some("true");
                let spec = policy("", word, denies);
                object.get("spec") == spec.get("spec")
            }
        }
    }
}

impl Ledger {
    /// Notes an object that was shown: one revision is one object for ever.
    pub(crate) fn note(&mut self, object: &Value) -> Result<(), String> {
        let (revision, print) = (revision(object), print(object));
        self.highest = self.highest.max(revision);
        match self.seen.insert(revision, print) {
            Some(before) if before != print => Err(format!("revision {revision} was another object before: {object}")),
            _ => Ok(()),
        }
    }

    /// One random write to one of a few objects. `Err` is a broken promise, `Ok(false)` a write without an answer.
    pub(crate) fn write(
        &mut self,
        client: &mut Client,
        kind: Kind,
        word: &str,
        dice: &mut Dice,
    ) -> Result<bool, String> {
        let name = format!("{}-{}", ["config", "pod", "policy"][kind as usize], dice.roll(4));
        let may = self.objects.entry(name.clone()).or_insert_with(|| vec![None]);
        let place = format!("{}/{name}", kind.path());
        // One that is on its way out is only looked at.
        let [before] = may.as_slice() else { return Ok(client.ask("GET", &place, None).is_ok()) };
        let before = before.clone();
        let object = kind.object(&name, word, dice);
        let new = Some(State { word: word.to_owned(), revision: None });
        let remove = before.is_some() && (kind == Kind::Pod || dice.roll(4) == 0);
        let (answer, after) = match &before {
            None => (client.ask("POST", kind.path(), Some(&object)), new),
            Some(_) if remove => (client.ask("DELETE", &place, None), None),
            Some(_) => (client.ask("PATCH", &place, Some(&object)), new),
        };
        match answer {
            Ok(Answer { code: 200..=299, body, .. }) => {
                self.answered += 1;
                // A pod that is being deleted is there until its processes are not.
                let is_pod_deletion = kind == Kind::Pod && remove;
                let state = after.map(|state| State { revision: Some(revision(&body)), ..state });
                *may = if is_pod_deletion { vec![None, before] } else { vec![state] };
                if is_pod_deletion {
                    self.highest = self.highest.max(revision(&body));
                    return Ok(true);
                }
                if remove { Ok(()) } else { self.note(&body) }.map(|()| true)
            }
            Ok(answer) => Err(format!("{place}: {} {}", answer.code, answer.body)),
            Err(Unanswered(_)) => {
                may.push(after);
                Ok(false)
            }
        }
    }

    /// Compares what is there with what may be; from here on only that is.
    pub(crate) fn settle(&mut self, kind: Kind, found: &[Value]) -> Result<(), String> {
        for (name, may) in &mut self.objects {
            let is_it = |object: &&Value| object.pointer("/metadata/name").and_then(Value::as_str) == Some(name);
            let object = found.iter().find(is_it);
            let is_now = object.map(|object| {
                let word = object.pointer("/metadata/labels/word").and_then(Value::as_str).unwrap_or_default();
                (word.to_owned(), revision(object))
            });
            let fits = |state: &Option<State>| match (state, &is_now) {
                (None, None) => true,
                // Status is written beside, under later revisions; of a config map nothing is.
                (Some(State { word, revision }), Some(now)) => {
                    let same = revision.is_none_or(|told| told == now.1 || (kind != Kind::ConfigMap && told < now.1));
                    *word == now.0 && same
                }
                _ => false,
            };
            if !may.iter().any(fits) {
                return Err(format!("{name} is {is_now:?}, and may be {may:?}"));
            }
            if let Some(object) = object.filter(|object| !kind.is_whole(object)) {
                return Err(format!("{name} is not whole: {object}"));
            }
            *may = vec![is_now.map(|(word, revision)| State { word, revision: Some(revision) })];
        }
        Ok(())
    }
}
