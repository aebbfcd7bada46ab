//! The one way in for texts: files and the live mesh alike become documents with places, then objects, then a mesh.
//!
//! What cannot be read is a [`Problem`] with its place, and the rest goes on. Templates (Deployments and the like) stand for their
//! pods: each becomes a pod that has its name. Nothing is judged here: a policy that admission would refuse is an object like any.

mod pieces;
mod read;
mod templates;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::yaml::{Document, Node, Span};
use api::{Key, Object, Objects};
use policy::{Mesh, Profile};

use crate::mesh_config::{self, MeshConfig};
use crate::translate::Translator;

pub use pieces::{Piece, PieceRead};

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Length of pieces that are read apart: some milliseconds of work, far more than it takes to hand one over, and short enough that
/// no processor waits long for the last one.
const PIECE_BYTES: usize = 32 * 1024;

/// Bytes to read, and the name they are shown under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// A path, `-`, `rev:path`.
    pub name: String,
    /// What was read.
    pub bytes: Vec<u8>,
}

/// A text that was read.
#[derive(Clone, Debug)]
pub struct Read {
    /// The name it is shown under.
    pub name: String,
    /// The text; where bytes are no UTF-8, with marks in their place.
    pub text: String,
    /// Its documents, of whatever kind.
    pub documents: Vec<Document>,
}

/// A place in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which text, counted from 0.
    pub text: usize,
    /// Where in it.
    pub span: Span,
}

/// What is wrong with a text or with something in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The kind of it.
    pub fault: Fault,
    /// Where.
    pub place: Place,
    /// The other place, where two do not go together.
    pub other: Option<Place>,
    /// What is wrong, and what to do.
    pub message: String,
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The bytes are not text.
    NotText,
    /// The document is not YAML, or more of it than is read.
    Syntax,
    /// A key stands twice in a mapping.
    DuplicateKey,
    /// A value is none that JSON can hold.
    Value,
    /// The document says that it is an object and lacks what every object has.
    Incomplete,
    /// A known kind in a version that nobody serves.
    Version,
    /// Two objects have one name; the last one counts.
    DuplicateObject,
    /// The document is no object at all: settings of another program, perhaps.
    NotAnObject,
}

impl Fault {
    /// Whether something could not be read because of it: bad input. Otherwise it is only told.
    pub fn is_bad(self) -> bool {
        match self {
            Self::NotText | Self::Syntax | Self::Incomplete | Self::Version => true,
            Self::DuplicateKey | Self::Value | Self::DuplicateObject | Self::NotAnObject => false,
        }
    }
}

/// Everything that a set of texts holds.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    texts: Vec<Read>,
    objects: Objects,
    origins: BTreeMap<Key, Origin>,
    replaced: Vec<Replaced>,
    problems: Vec<Problem>,
}

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Which text, counted from 0.
    pub text: usize,
    /// Which document of it.
    pub document: usize,
    /// The path of the object in the document: empty, `items[3]` in a list, `spec.template` for the pod of a template.
    pub prefix: String,
}

/// An object that a later one of its kind, namespace and name took the place of.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The name that both have.
    pub key: Key,
    /// The object as it would be without the later one.
    pub object: Arc<Object>,
    /// Where it stands.
    pub origin: Origin,
}

/// A mesh with what its reading said.
#[derive(Debug)]
pub struct Translated {
    /// The ground state.
    pub mesh: Mesh,
    /// The settings, and what is wrong with them.
    pub config: MeshConfig,
    /// Holds what was found in each policy ([`Translator::findings`]).
    pub translator: Translator,
}

/// Reads texts. Objects of kinds with namespaces that name none are in `namespace`.
pub fn read(texts: Vec<Text>, namespace: &str) -> Bundle {
    cut(texts, namespace, usize::MAX, |pieces| pieces.iter().map(Piece::read).collect())
}

/// Reads texts in pieces that do not depend on one another: `all` reads each of them, in whatever order and on however many
/// processors, and gives back what was read in the order of the pieces. The outcome is that of [`read`].
pub fn read_with(texts: Vec<Text>, namespace: &str, all: impl FnOnce(&[Piece<'_>]) -> Vec<PieceRead>) -> Bundle {
    cut(texts, namespace, PIECE_BYTES, all)
}

/// Reads texts in pieces of about this many bytes.
fn cut(texts: Vec<Text>, namespace: &str, bytes: usize, all: impl FnOnce(&[Piece<'_>]) -> Vec<PieceRead>) -> Bundle {
    let mut bundle = Bundle::default();
    let decoded: Vec<_> = texts.into_iter().map(pieces::Decoded::new).collect();
    let cut = pieces::cut(&decoded, namespace, bytes);
    let mut done = all(&cut).into_iter().peekable();
    for (index, text) in decoded.into_iter().enumerate() {
        let own = std::iter::from_fn(|| done.next_if(|piece| piece.text == index)).collect();
        pieces::join(text, own, namespace, &mut bundle);
    }
    templates::expand(&mut bundle);
    bundle
}

impl Bundle {
    /// The texts in their order.
    pub fn texts(&self) -> &[Read] {
        &self.texts
    }

    /// The objects of known kinds, with a pod for each template that has none.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What is wrong, in the order of the texts.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Objects of which only the last one of their name is among [`Bundle::objects`], in the order of the texts.
    pub fn replaced(&self) -> &[Replaced] {
        &self.replaced
    }

    /// Where an object stands.
    pub fn origin(&self, key: &Key) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// The document in which an object stands.
    pub fn document(&self, key: &Key) -> Option<&Document> {
        let origin = self.origin(key)?;
        self.texts.get(origin.text)?.documents.get(origin.document)
    }

    /// The place of a field of an object, such as `spec.rules[0].to`; of the key where the field has one. If the field is not
    /// there, the place of the deepest part of the path that is.
    pub fn place(&self, key: &Key, path: &str) -> Option<Place> {
        let (text, name, node) = self.locate(key, path)?;
        Some(Place { text, span: name.unwrap_or(&node.span).clone() })
    }

    /// The place of a value of an object, none if it is not there.
    pub fn value_place(&self, key: &Key, path: &str) -> Option<Place> {
        let origin = self.origin(key)?;
        let node = self.document(key)?.node(&origin.path(path))?;
        Some(Place { text: origin.text, span: node.span.clone() })
    }

    /// Which text, and key and value at the deepest part of a path that exists.
    pub fn locate(&self, key: &Key, path: &str) -> Option<(usize, Option<&Span>, &Node)> {
        let origin = self.origin(key)?;
        let (name, node) = self.document(key)?.locate(&origin.path(path))?;
        Some((origin.text, name, node))
    }

    /// The mesh of these objects. A profile, and settings from elsewhere, take the place of what ConfigMap `istio` says.
    pub fn translate(&self, profile: Option<Profile>, settings: Option<&MeshConfig>) -> Translated {
        let mut config = settings.cloned().unwrap_or_else(|| mesh_config::of(&self.objects));
        config.settings.profile = profile.unwrap_or(config.settings.profile);
        let mut translator = Translator::of_manifests();
        let mut mesh = translator.mesh_with(config.clone(), &self.objects);
        // A manifest that goes to a namespace presupposes it.
        mesh.namespaces.extend(self.objects.all().filter_map(|(key, _)| key.namespace));
        Translated { mesh, config, translator }
    }

    /// Only the mesh.
    pub fn mesh(&self, profile: Option<Profile>, settings: Option<&MeshConfig>) -> Mesh {
        self.translate(profile, settings).mesh
    }

    /// Keeps what is about to be replaced: what is wrong with it is told all the same.
    fn keep_replaced(&mut self, key: &Key) {
        if let (Some(object), Some(origin)) = (self.objects.get(key), self.origins.get(key)) {
            let (object, origin) = (Arc::clone(object), origin.clone());
            self.replaced.push(Replaced { key: key.clone(), object, origin });
        }
    }

    fn put(&mut self, key: Key, object: Object, origin: Origin) {
        let revision = self.objects.revision();
        let change = api::events::Change::Put { old: None, new: Arc::new(object) };
        let event = api::Event { revision, key, change };
        self.objects.apply(&event);
        self.origins.insert(event.key, origin);
    }
}

impl Origin {
    /// The path in the document of a path in the object.
    pub fn path(&self, path: &str) -> String {
        join(&self.prefix, path)
    }
}

/// One path and then another.
fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) if path.starts_with('[') => format!("{prefix}{path}"),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}
