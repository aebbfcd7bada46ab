//! Everything that can be said about a set of manifests without running it: what cannot be read, what an API server refuses, and
//! what policies mean other than they look.
//!
//! The parser, the translator and the compiler are those that enforce; what holds for all connections is asked of the exact cut
//! (`policy::space`). Nothing here has a second opinion about meaning. Not here: reading files and printing, which are the binary's.

mod clients;
mod diagnostic;
mod http;
mod input;
mod meaning;
mod mend;
mod names;
mod reach;
mod replaced;
mod rules;
mod schema;
mod suppress;
mod traps;
mod trials;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::yaml::{Document, Node, Span};
use api::{Key, Object};
use policy::finding::Finding;
use policy::spec::AuthorizationPolicy;
use policy::{Mesh, PolicyId, Profile, Snapshot, Workload};

pub use diagnostic::{Diagnostic, Edit, Fix, Label, apply, fixed};

use crate::admission::references::{self, World};
use crate::admission::words;
use crate::bundle::{Bundle, Fault, Origin, Translated};
use crate::finding::{Level, Remark};
use crate::mesh_config::MeshConfig;
use crate::translate::{AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS, SECURITY_GROUP};

/// What a run is told besides the manifests.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// In place of the profile that the settings name.
    pub profile: Option<Profile>,
    /// In place of the settings that the set holds.
    pub settings: Option<MeshConfig>,
    /// Numbers of the codes that the run leaves out.
    pub allowed: BTreeSet<&'static str>,
    /// Whether the set is all there is, as of a running mesh: what it lacks does not exist.
    pub whole: bool,
}

/// What there is to say.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// In the order in which they are worth reading.
    pub diagnostics: Vec<Diagnostic>,
    /// How many findings a comment or the run left out.
    pub allowed: usize,
    /// Whether a part of the input could not be read.
    pub bad_input: bool,
    /// How many policies were looked at.
    pub policies: usize,
}

impl Report {
    /// Whether there is more than notes.
    pub fn has_findings(&self) -> bool {
        self.diagnostics.iter().any(|one| one.level < Level::Note)
    }
}

/// Looks at everything.
pub fn analyze(bundle: &Bundle, options: &Options) -> Report {
    let translated = bundle.translate(options.profile, options.settings.as_ref());
    let mut pass = Pass::new(bundle, &translated, options);
    input::problems(&mut pass);
    input::settings(&mut pass);
    names::refused(&mut pass);
    replaced::findings(&mut pass);
    schema::findings(&mut pass);
    policies(&mut pass);
    peer_authentications(&mut pass);
    rules::fates(&mut pass);
    reach::refused_by_default(&mut pass);
    finish(pass, options)
}

fn policies(pass: &mut Pass<'_>) {
    let world = World::new(pass.mesh, pass.bundle.objects(), pass.whole);
    for policy in pass.mesh.policies.clone() {
        let view = View::of(pass, AUTHORIZATION_POLICIES, &policy.id.namespace, &policy.id.name);
        let findings = pass.translated.translator.findings_of(&view.key);
        let refused = findings.iter().any(Finding::refuses);
        meaning::authorization(pass, &view, &policy, findings);
        traps::pruned(pass, &view, findings);
        if refused {
            continue;
        }
        traps::shapes(pass, &view, &policy);
        pass.remarks(&view, &references::authorization_policy(&policy, &world));
        let annotations: Vec<Remark> =
            view.object.map(|object| words::annotations(object).collect()).unwrap_or_default();
        pass.remarks(&view, &annotations);
        clients::identities(pass, &view, &policy);
        clients::blocks(pass, &view, &policy);
        trials::leftovers(pass, &view, &policy);
    }
    unreadable(pass, AUTHORIZATION_POLICIES);
}

fn peer_authentications(pass: &mut Pass<'_>) {
    let world = World::new(pass.mesh, pass.bundle.objects(), pass.whole);
    for policy in pass.mesh.peer_authentications.clone() {
        let view = View::of(pass, PEER_AUTHENTICATIONS, &policy.id.namespace, &policy.id.name);
        let findings = pass.translated.translator.findings_of(&view.key);
        meaning::plain(pass, &view, findings);
        if !findings.iter().any(Finding::refuses) {
            pass.remarks(&view, &references::peer_authentication(&policy, &world));
        }
    }
    unreadable(pass, PEER_AUTHENTICATIONS);
}

/// Policies of which not even the shape can be read have findings and no value.
fn unreadable(pass: &mut Pass<'_>, plural: &'static str) {
    let translator = &pass.translated.translator;
    let known: BTreeSet<(&str, &str)> = if plural == AUTHORIZATION_POLICIES {
        pass.mesh.policies.iter().map(|one| (one.id.namespace.as_str(), one.id.name.as_str())).collect()
    } else {
        pass.mesh.peer_authentications.iter().map(|one| (one.id.namespace.as_str(), one.id.name.as_str())).collect()
    };
    for (key, findings) in translator.findings().filter(|(key, _)| key.is(SECURITY_GROUP, plural)) {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        if !known.contains(&(namespace, key.name.as_str())) {
            let view = View::of(pass, plural, namespace, &key.name);
            meaning::plain(pass, &view, findings);
        }
    }
}

fn finish(pass: Pass<'_>, options: &Options) -> Report {
    let texts: Vec<&str> = pass.bundle.texts().iter().map(|read| read.text.as_str()).collect();
    let mut suppressions = suppress::Suppressions::default();
    for (index, read) in pass.bundle.texts().iter().enumerate() {
        for document in &read.documents {
            suppressions.read(index, &read.text, document);
        }
    }
    let bad_input = pass.bundle.problems().iter().any(|problem| is_bad(problem.fault));
    let policies = pass.translated.translator.findings().count();
    let all = pass.found.len();
    let mut diagnostics: Vec<Diagnostic> = pass
        .found
        .into_iter()
        .filter(|one| !suppressions.hides(one))
        .filter(|one| one.level == Level::Error || !options.allowed.contains(one.entry.number))
        .collect();
    let allowed = all - diagnostics.len();
    let own = suppressions.remarks(&options.allowed, &texts);
    diagnostics.extend(own.into_iter().filter(|one| !options.allowed.contains(one.entry.number)));
    diagnostics.sort_by(Diagnostic::order);
    diagnostics.dedup();
    let diagnostics = diagnostic::folded(diagnostics);
    Report { diagnostics, allowed, bad_input, policies }
}

/// An API server refuses a document with a key that stands twice, and a value that is none is lost.
fn is_bad(fault: Fault) -> bool {
    fault.is_bad() || matches!(fault, Fault::DuplicateKey | Fault::Value)
}

/// One look at a set.
struct Pass<'a> {
    bundle: &'a Bundle,
    translated: &'a Translated,
    mesh: &'a Mesh,
    whole: bool,
    /// Without the policies that an API server refuses: they are not there.
    admitted: Mesh,
    /// What is enforced of it.
    snapshot: Snapshot,
    /// Addresses of nodes and pods that the set knows, and whose they are.
    cluster: Vec<(IpAddr, String)>,
    found: Vec<Diagnostic>,
}

impl<'a> Pass<'a> {
    fn new(bundle: &'a Bundle, translated: &'a Translated, options: &Options) -> Self {
        let refused = |plural: &str, id: &PolicyId| {
            let key = Key::namespaced(SECURITY_GROUP, plural, &id.namespace, &id.name);
            names::wrong(&key).is_some() || translated.translator.findings_of(&key).iter().any(Finding::refuses)
        };
        let mut admitted = translated.mesh.clone();
        admitted.policies.retain(|one| !refused(AUTHORIZATION_POLICIES, &one.id));
        admitted.peer_authentications.retain(|one| !refused(PEER_AUTHENTICATIONS, &one.id));
        let snapshot = policy::compile(&admitted, 1, None);
        let (mesh, whole) = (&translated.mesh, options.whole);
        let cluster = clients::cluster(bundle, mesh);
        Self { bundle, translated, mesh, whole, admitted, snapshot, cluster, found: Vec::new() }
    }

    fn ambient(&self) -> bool {
        self.mesh.settings.profile == Profile::Ambient
    }

    /// The workloads that a policy of this namespace with this scope reaches, in the mesh or not.
    fn selected(&self, policy: &AuthorizationPolicy) -> impl Iterator<Item = &'a Workload> {
        let root = policy.id.namespace == self.mesh.settings.root_namespace;
        let (namespace, scope) = (policy.id.namespace.clone(), policy.scope.clone());
        self.mesh
            .workloads
            .iter()
            .filter(move |workload| (root || workload.id.namespace == namespace) && scope.selects(&workload.labels))
    }

    /// Remarks that know a path only, with their places.
    fn remarks(&mut self, view: &View<'a>, remarks: &[Remark]) {
        for remark in remarks {
            let mut one = view.at(Diagnostic::new(remark.entry, remark.message.as_str()), &remark.path, "");
            if let Some(instead) = &remark.instead
                && let Some(edit) = view.replaced(&remark.path, instead)
            {
                one = one.fix(format!("write `{instead}`"), vec![edit], false);
            }
            self.found.push(one);
        }
    }
}

/// An object and where it stands.
struct View<'a> {
    key: Key,
    object: Option<&'a Arc<Object>>,
    text: usize,
    written: &'a str,
    document: Option<&'a Document>,
    prefix: &'a str,
}

impl<'a> View<'a> {
    fn of(pass: &Pass<'a>, plural: &str, namespace: &str, name: &str) -> Self {
        let group =
            if plural == AUTHORIZATION_POLICIES || plural == PEER_AUTHENTICATIONS { SECURITY_GROUP } else { "" };
        let key = Key::namespaced(group, plural, namespace, name);
        Self::at_origin(pass.bundle, key.clone(), pass.bundle.objects().get(&key), pass.bundle.origin(&key))
    }

    /// An object that stands there.
    fn at_origin(bundle: &'a Bundle, key: Key, object: Option<&'a Arc<Object>>, origin: Option<&'a Origin>) -> Self {
        let text = origin.map_or(0, |origin| origin.text);
        Self {
            object,
            text,
            written: bundle.texts().get(text).map_or("", |read| read.text.as_str()),
            document: origin.and_then(|origin| bundle.texts().get(text)?.documents.get(origin.document)),
            prefix: origin.map_or("", |origin| origin.prefix.as_str()),
            key,
        }
    }

    fn full(&self, path: &str) -> String {
        match (self.prefix, path) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        }
    }

    /// The place of a field: its key if it has one. The name of the object stands for the whole of it.
    fn span(&self, path: &str) -> Option<&'a Span> {
        let path = if path.is_empty() { "metadata.name" } else { path };
        let (key, node) = self.document?.locate(&self.full(path))?;
        Some(key.unwrap_or(&node.span))
    }

    /// The value at a path, none if it is not there.
    fn node(&self, path: &str) -> Option<&'a Node> {
        self.document?.node(&self.full(path))
    }

    /// Adds the place of a field.
    fn at(&self, diagnostic: Diagnostic, path: &str, says: &str) -> Diagnostic {
        match self.span(path) {
            Some(span) => diagnostic.at(self.text, span, says),
            None => diagnostic,
        }
    }

    /// Adds the place of a field only where it is written.
    fn also(&self, diagnostic: Diagnostic, path: &str, says: &str) -> Diagnostic {
        if self.node(path).is_some() { self.at(diagnostic, path, says) } else { diagnostic }
    }

    /// Adds the place of a value rather than of its key.
    fn value_at(&self, diagnostic: Diagnostic, path: &str, says: &str) -> Diagnostic {
        match self.node(path) {
            Some(node) => diagnostic.at(self.text, &node.span, says),
            None => self.at(diagnostic, path, says),
        }
    }

    /// The edit that puts another scalar in the place of one, quoted as that one is.
    fn replaced(&self, path: &str, instead: &str) -> Option<Edit> {
        let node = self.node(path)?;
        mend::scalar(self.written, node, instead).map(|(bytes, replacement)| Edit {
            text: self.text,
            bytes,
            replacement,
        })
    }

    /// The edit that takes a field out, where that can be done by taking out whole lines.
    fn removed(&self, path: &str) -> Option<Edit> {
        let (parent, name) = path.rsplit_once('.')?;
        let mapping = self.node(parent)?;
        let bytes = mend::without_field(self.written, mapping, name)?;
        Some(Edit { text: self.text, bytes, replacement: String::new() })
    }
}
