//! The smallest edit of the manifests that turns an answer: tried on the texts, read again, decided again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::yaml::{documents, print};
use policy::ask::{Asker, Verdict};
use policy::mesh::PolicyId;
use policy::{Mesh, Profile, parse};
use serde_json::{Value, json};

use super::candidates::{self, Change, Look};
use super::{Ends, around, diff, key};
use crate::bundle::{self, Bundle, Text};
use crate::edit;
use crate::mesh_config::{self, MeshConfig};

/// Edits one after the other: as many stages as can each hold a connection up, and some more.
const ROUNDS_MAX: usize = 6;
/// Guesses of one round: a workload with more rules than this gets an edit, if not always the smallest.
const GUESSES_MAX: usize = 256;

/// An edit that has been tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// What it does, in words.
    pub says: String,
    /// Unified diffs of the texts.
    pub diff: String,
}

/// Where the question is asked.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The texts.
    pub bundle: &'a Bundle,
    /// The namespace of objects that name none.
    pub namespace: &'a str,
    /// The profile asked for.
    pub profile: Option<Profile>,
    /// Settings from elsewhere.
    pub config: Option<&'a MeshConfig>,
}

/// Edited texts, and the mesh that they make.
#[derive(Clone)]
struct State {
    texts: BTreeMap<usize, String>,
    /// How long the documents are that were edited, by text and number.
    lengths: BTreeMap<(usize, usize), usize>,
    new: Option<(String, String)>,
    mesh: Mesh,
    says: Vec<String>,
}

/// The smallest edit found after which the answer is `wanted`, which is allow or deny.
pub fn smallest(setting: &Setting<'_>, mesh: &Mesh, ends: &Ends, wanted: &Verdict) -> Option<Proposal> {
    let (texts, lengths) = (BTreeMap::new(), BTreeMap::new());
    let mut state = State { texts, lengths, new: None, mesh: around(mesh, ends), says: Vec::new() };
    let mut reached = false;
    for _ in 0..ROUNDS_MAX {
        let asker = Asker::new(state.mesh.clone());
        let answer = asker.ask(&ends.to, &ends.question);
        reached = answer.verdict == *wanted;
        if reached {
            break;
        }
        let before = deciding(&answer);
        let spec = |id: &PolicyId| state.spec(setting.bundle, id);
        let look = Look { answer: &answer, mesh: &state.mesh, ends, spec: &spec };
        let changes = if *wanted == Verdict::Allow { candidates::allowing(&look) } else { candidates::denying(&look) };
        let mut best: Option<((bool, usize), State)> = None;
        for change in changes.into_iter().take(GUESSES_MAX) {
            let Some((next, size)) = state.with(setting, &change) else { continue };
            let after = Asker::new(next.mesh.clone()).ask(&ends.to, &ends.question);
            let short = after.verdict != *wanted;
            if short && deciding(&after) == before {
                continue;
            }
            let rank = (short, size);
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, next));
            }
        }
        state = best?.1;
    }
    // Nothing is shown that has not gone the whole way: texts, objects, mesh, snapshot, answer.
    (reached && state.again(setting, ends).as_ref() == Some(wanted)).then(|| state.proposal(setting.bundle))
}

type Deciding = (policy::Reason, Option<Arc<PolicyId>>, Option<usize>);

fn deciding(answer: &policy::ask::Answer) -> Deciding {
    let decision = &answer.telling().explanation.decision;
    (decision.reason, decision.policy.clone(), decision.rule)
}

impl State {
    fn text<'a>(&'a self, bundle: &'a Bundle, index: usize) -> Option<&'a str> {
        self.texts.get(&index).map(String::as_str).or_else(|| Some(bundle.texts().get(index)?.text.as_str()))
    }

    /// The `spec` of a policy as it is now.
    fn spec(&self, bundle: &Bundle, id: &PolicyId) -> Option<Value> {
        let origin = bundle.origin(&key(id))?;
        let at = candidates::pointer(&origin.path("spec"));
        let value = match self.texts.get(&origin.text) {
            Some(text) => documents(text).get(origin.document)?.value.clone(),
            None => bundle.document(&key(id))?.value.clone(),
        };
        Some(value.pointer(&at).cloned().unwrap_or(Value::Null))
    }

    /// The state after a change, and how large the change is.
    fn with(&self, setting: &Setting<'_>, change: &Change) -> Option<(Self, usize)> {
        let mut next = self.clone();
        next.says.push(change.says.clone());
        let mut object = json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": change.policy.name, "namespace": change.policy.namespace},
        });
        let size = if change.new {
            if self.new.is_some() {
                return None;
            }
            object.as_object_mut()?.insert("spec".to_owned(), change.spec.clone());
            let text = print(&object);
            let size = diff::size("", &text);
            next.new = Some((format!("{}.yaml", change.policy.name), text));
            size
        } else {
            let origin = setting.bundle.origin(&key(&change.policy))?;
            let text = self.text(setting.bundle, origin.text)?;
            let read;
            let document = if self.texts.contains_key(&origin.text) {
                read = documents(text);
                read.get(origin.document)?
            } else {
                setting.bundle.document(&key(&change.policy))?
            };
            let mut value = document.value.clone();
            let parent = value.pointer_mut(&candidates::pointer(&origin.prefix))?.as_object_mut()?;
            parent.insert("spec".to_owned(), change.spec.clone());
            let edited = edit::rewrite(text, document, &value)?;
            let size = diff::size(text, &edited);
            let length = (document.range.len() + edited.len()).checked_sub(text.len())?;
            next.lengths.insert((origin.text, origin.document), length);
            next.texts.insert(origin.text, edited);
            object = setting.bundle.objects().get(&key(&change.policy))?.value().clone();
            object.as_object_mut()?.insert("spec".to_owned(), change.spec.clone());
            size
        };
        let policy = parse::authorization_policy(&object, &self.mesh.settings).admitted()?;
        next.mesh.policies.retain(|one| one.id != policy.id);
        next.mesh.policies.push(Arc::new(policy));
        Some((next, size))
    }

    /// What the edited texts answer, read from their bytes.
    fn again(&self, setting: &Setting<'_>, ends: &Ends) -> Option<Verdict> {
        let mut texts = self.near(setting.bundle, ends)?;
        texts.extend(self.new.clone().map(|(name, text)| Text { name, bytes: text.into_bytes() }));
        let bundle = bundle::read(texts, setting.namespace);
        let mesh = bundle.mesh(setting.profile, setting.config);
        Some(Asker::new(around(&mesh, ends)).ask(&ends.to, &ends.question).verdict)
    }

    /// The documents that the answer can depend on: those of the destination's namespace, of the root's and the settings', and
    /// what is in no namespace. Each is a text of its own, so that none can run into the next one. An edit leaves the bytes of
    /// all other documents as they are.
    fn near(&self, bundle: &Bundle, ends: &Ends) -> Option<Vec<Text>> {
        let near = [&ends.to.namespace, &self.mesh.settings.root_namespace, mesh_config::NAMESPACE];
        let wanted: BTreeSet<(usize, usize)> = bundle
            .objects()
            .all()
            .filter(|(key, _)| key.namespace.as_deref().is_none_or(|namespace| near.contains(&namespace)))
            .filter_map(|(key, _)| bundle.origin(&key).map(|origin| (origin.text, origin.document)))
            .collect();
        let mut texts = Vec::new();
        for (index, read) in bundle.texts().iter().enumerate() {
            let text = self.texts.get(&index).unwrap_or(&read.text);
            let mut start = 0;
            for (number, document) in read.documents.iter().enumerate() {
                let at = (index, number);
                let end = start + self.lengths.get(&at).copied().unwrap_or_else(|| document.range.len());
                if wanted.contains(&at) {
                    let bytes = text.get(start..end)?.as_bytes().to_vec();
                    texts.push(Text { name: read.name.clone(), bytes });
                }
                start = end;
            }
        }
        Some(texts)
    }

    fn proposal(&self, bundle: &Bundle) -> Proposal {
        let mut diffs: Vec<String> = self
            .texts
            .iter()
            .filter_map(|(index, text)| {
                let read = bundle.texts().get(*index)?;
                Some(diff::unified(&read.name, Some(&read.text), text))
            })
            .collect();
        diffs.extend(self.new.iter().map(|(name, text)| diff::unified(name, None, text)));
        Proposal { says: self.says.join("; then "), diff: diffs.concat() }
    }
}
