//! The table of kinds: what is served, under which names, and what each can do.
//!
//! Built-in kinds are in [`builtin`]; further ones come from stored `CustomResourceDefinitions` ([`crd`]).

mod builtin;
mod crd;

use std::sync::Arc;

use serde_json::Value;

use crate::object::{Key, Object};
use crate::objects::Objects;
use crate::schema::Schema;
use crate::status::Status;

/// Verbs of a kind that is stored.
pub const VERBS_STORED: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Verbs of a kind of which there is never an object.
pub const VERBS_READ: &[&str] = &["get", "list", "watch"];
/// Verbs of a kind that is only asked, never stored.
pub const VERBS_REVIEW: &[&str] = &["create"];
/// Verbs of subresources that show a part of the object.
pub const VERBS_PART: &[&str] = &["get", "patch", "update"];

/// One kind of objects and everything that tells it from the others.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: String,
    /// Plural resource name, such as `pods`.
    pub plural: String,
    /// Singular resource name, such as `pod`.
    pub singular: String,
    /// Kind, such as `Pod`.
    pub kind: String,
    /// Kind of lists, such as `PodList`.
    pub list_kind: String,
    /// Short names, such as `po`.
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
    /// Versions, the one that is stored first.
    pub versions: Vec<Version>,
    /// Whether it comes with the server, not from a `CustomResourceDefinition`.
    pub builtin: bool,
    /// The group whose objects of the same plural it shows in another shape; none for a kind of its own.
    pub view_of: Option<&'static str>,
}

/// One version of a kind.
#[derive(Clone, Debug)]
pub struct Version {
    /// Name, such as `v1`.
    pub name: String,
    /// Whether requests may name it.
    pub served: bool,
    /// Columns of tables; empty for built-in kinds, whose columns [`crate::table`] knows.
    pub columns: Vec<Column>,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// Shape of the objects.
    pub schema: Option<Arc<Schema>>,
}

/// One subresource of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Name, such as `status`.
    pub name: String,
    /// Group, version and kind of its bodies where they are not those of the object.
    pub body: Option<[&'static str; 3]>,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

/// A column of a table that shows one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// OpenAPI type of the cells: `string`, `integer`, `number`, `boolean` or `date`.
    pub cell_type: String,
    /// OpenAPI format, mostly empty.
    pub format: String,
    /// Text for people.
    pub description: String,
    /// 0 for columns always shown, more for `-o wide`.
    pub priority: i64,
    /// Simple JSON path, such as `.spec.action`.
    pub path: String,
}

/// All kinds that are served.
#[derive(Clone, Debug)]
pub struct Kinds {
    kinds: Vec<Arc<Kind>>,
}

impl Kinds {
    /// The kinds that come with the server.
    pub fn builtin() -> Self {
        Self { kinds: builtin::kinds().into_iter().map(Arc::new).collect() }
    }

    /// The built-in kinds and those of the stored definitions.
    pub fn of(objects: &Objects) -> Self {
        Self::with_crds(objects.list(CRD_GROUP, CRD_PLURAL).map(AsRef::as_ref))
    }

    /// The built-in kinds and those of these definitions.
    ///
    /// A definition that cannot be read, or that claims a resource or kind there is already, adds nothing.
    #[expect(single_use_lifetimes, reason = "an item type of `impl Trait` needs its lifetime named")]
    pub fn with_crds<'a>(definitions: impl IntoIterator<Item = &'a Object>) -> Self {
        let mut all = Self::builtin();
        for definition in definitions {
            if let Ok(kind) = Kind::from_crd(definition) {
                let taken = all.by_resource(&kind.group, &kind.plural).is_some()
                    || all.by_kind(&kind.group, &kind.kind).is_some();
                if !taken {
                    all.kinds.push(Arc::new(kind));
                }
            }
        }
        all
    }

    /// The kind of a resource.
    pub fn by_resource(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|kind| kind.plural == plural && kind.group == group)
    }

    /// The kind of a group and kind name.
    pub fn by_kind(&self, group: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|one| one.kind == kind && one.group == group)
    }

    /// The kind of an object, by its `apiVersion` and `kind`.
    pub fn of_object(&self, object: &Object) -> Option<&Arc<Kind>> {
        self.by_kind(object.group(), object.kind()).filter(|kind| kind.version(object.version()).is_some())
    }

    /// The key of an object; 404 if its kind is not served, 400 if name or namespace are missing or too much.
    pub fn key_of(&self, object: &Object) -> Result<Key, Status> {
        let kind = self.of_object(object).ok_or_else(|| {
            let (kind, version) = (object.kind(), object.api_version());
            Status::failure(404, "NotFound", format!("no matches for kind \"{kind}\" in version \"{version}\""))
        })?;
        kind.key_of(object)
    }

    /// All kinds, built-in ones first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    /// The groups that are served, each once, with their versions in order of preference.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for kind in &self.kinds {
            let at = groups.iter().position(|(group, _)| *group == kind.group).unwrap_or_else(|| {
                groups.push((&kind.group, Vec::new()));
                groups.len() - 1
            });
            if let Some((_, versions)) = groups.get_mut(at) {
                for version in kind.versions.iter().filter(|version| version.served) {
                    if !versions.contains(&version.name.as_str()) {
                        versions.push(&version.name);
                    }
                }
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        }
        groups
    }

    /// The kinds served under one group and version.
    pub fn in_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Kind>> {
        self.kinds.iter().filter(move |kind| kind.group == group && kind.version(version).is_some())
    }
}

/// Group of `CustomResourceDefinitions`.
pub const CRD_GROUP: &str = "apiextensions.k8s.io";
/// Plural of `CustomResourceDefinitions`.
pub const CRD_PLURAL: &str = "customresourcedefinitions";

impl Kind {
    /// Reads a `CustomResourceDefinition`; 422 with every cause if it cannot be served.
    pub fn from_crd(definition: &Object) -> Result<Self, Status> {
        crd::kind(definition)
    }

    /// A version that is served.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.served && version.name == name)
    }

    /// The version in which objects are stored.
    pub fn storage(&self) -> &str {
        self.versions.first().map_or("", |version| version.name.as_str())
    }

    /// `apiVersion` of objects in a version of this kind.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// Resource with group as messages show it, such as `deployments.apps`.
    pub fn resource(&self) -> String {
        crate::object::resource(&self.group, &self.plural)
    }

    /// The group under which objects are stored.
    pub fn stored_group(&self) -> &str {
        self.view_of.unwrap_or(&self.group)
    }

    /// Whether objects are stored at all.
    pub fn stored(&self) -> bool {
        self.verbs.contains(&"get")
    }

    /// The subresource of a version.
    pub fn subresource(&self, version: &str, name: &str) -> Option<&Subresource> {
        self.version(version)?.subresources.iter().find(|part| part.name == name)
    }

    /// What it is, in words, where no schema says so.
    pub fn words(&self) -> &'static str {
        match self.kind.as_str() {
            "CustomResourceDefinition" => "A kind of objects that the server stores besides those that it knows.",
            _ => "A kind that this mesh does not run: there is none, and none can be made.",
        }
    }

    /// Whether `status` is a subresource of the version, so that plain writes leave it alone.
    pub fn has_status(&self, version: &str) -> bool {
        self.subresource(version, "status").is_some()
    }

    /// A key of this kind; the namespace is ignored for cluster-scoped kinds.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> Key {
        Key {
            group: self.stored_group().to_owned(),
            plural: self.plural.clone(),
            namespace: namespace.filter(|_| self.namespaced).map(str::to_owned),
            name: name.to_owned(),
        }
    }

    /// The key of an object of this kind; 400 if its name, or its namespace where it needs one, is missing.
    pub fn key_of(&self, object: &Object) -> Result<Key, Status> {
        if object.name().is_empty() {
            return Err(Status::bad_request(format!("the {} has no metadata.name; give it one", self.kind)));
        }
        if self.namespaced && object.namespace().is_none() {
            return Err(Status::bad_request(format!(
                "{} `{}` has no metadata.namespace; give it one",
                self.kind,
                object.name()
            )));
        }
        Ok(self.key(object.namespace(), object.name()))
    }

    /// The same object with the `apiVersion` of another version; all versions of a kind have one shape here, but that of
    /// a view is its own.
    #[must_use]
    pub fn convert(&self, object: &Object, version: &str) -> Object {
        let mut object = object.clone();
        if self.view_of.is_some() {
            crate::events::to_newer(&mut object);
        }
        object.set("/apiVersion", Value::from(self.api_version(version)));
        object
    }
}

/// Order of preference among versions: `v2` over `v1` over `v1beta2` over `v1alpha1` over anything else.
fn version_rank(name: &str) -> (u8, u32, u32) {
    let Some(rest) = name.strip_prefix('v') else {
        return (0, 0, 0);
    };
    for (stage, word) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return match (major.parse(), minor.parse()) {
                (Ok(major), Ok(minor)) => (stage, major, minor),
                _ => (0, 0, 0),
            };
        }
    }
    rest.parse().map_or((0, 0, 0), |major| (3, major, 0))
}

#[cfg(test)]
mod tests;
