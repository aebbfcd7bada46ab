//! What writes mean: metadata, optimistic concurrency, admission, namespaces, deletion. Everything here runs in the store's writer.
//! Not here: how a client says what it wants (`crate::route`).

use std::sync::Arc;

use api::admission::{Admission, Admitted, Operation};
use api::managed::{self, Writer};
use api::{Key, Kind, Kinds, Object, Status};
use jiff::Timestamp;

use crate::kindcache::KindCache;
use crate::store::{Stage, Took, Written};

mod apply;
mod create;
mod delete;
mod meta;
mod namespaces;
mod rules;
mod update;

pub(crate) use apply::apply;
pub(crate) use create::create;
pub(crate) use delete::{DeleteOptions, Propagation, delete, delete_selected};
pub(crate) use update::{patch, update};

pub(crate) const NAMESPACES: &str = "namespaces";

/// What is written: a resource in one of its versions, and which object or part of it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Arc<Kind>,
    /// The version that the client speaks.
    pub(crate) version: String,
    /// The name is empty for a create.
    pub(crate) key: Key,
    pub(crate) subresource: Option<String>,
}

/// What to do with fields that the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    Refuse,
    Warn,
    Drop,
}

/// Who is noted for the fields that a write sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody: the mesh itself writes.
    Nobody,
    /// A client, which writes the object or a part of it.
    By { name: String, part: String },
    /// Whoever the object says already.
    Made,
}

/// How a write is made.
#[derive(Clone)]
pub(crate) struct Manner {
    pub(crate) admit: Arc<dyn Fn(&Admission<'_>) -> Admitted + Send + Sync>,
    pub(crate) kinds: Arc<KindCache>,
    pub(crate) dry_run: bool,
    pub(crate) unknown_fields: UnknownFields,
    /// From inside the process: may write status and spec at once, and what only the server writes.
    pub(crate) system: bool,
    pub(crate) claim: Claim,
}

impl std::fmt::Debug for Manner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manner").field("dry_run", &self.dry_run).field("system", &self.system).finish_non_exhaustive()
    }
}

impl Manner {
    pub(crate) fn kinds(&self, stage: &Stage<'_>) -> Arc<Kinds> {
        self.kinds.of(stage.objects())
    }

    /// Who writes, in the version that the client speaks; none if nobody is to be noted.
    fn writer<'a>(&'a self, api_version: &'a str) -> Option<Writer<'a>> {
        match &self.claim {
            Claim::By { name, part } => Some(Writer { name, api_version, part }),
            Claim::Nobody | Claim::Made => None,
        }
    }

    /// Notes who set which field of a new or changed object.
    fn note(&self, target: &Target, api_version: &str, old: Option<&Object>, new: &mut Object) -> Result<(), Status> {
        match (self.writer(api_version), old) {
            (Some(by), _) => managed::note(rules::schema(target).as_deref(), old, new, &by, &now()),
            (None, Some(old)) if self.claim == Claim::Nobody => {
                meta::take_over(new, old, "/metadata/managedFields");
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    /// Lets the hook see the write; gives back the object that it may have changed.
    fn admit(
        &self,
        stage: &Stage<'_>,
        target: &Target,
        operation: Operation,
        old: Option<&Object>,
        new: Object,
        warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        let Some(changed) = self.ask(stage, target, operation, old, Some(&new), warnings)? else {
            return Ok(new);
        };
        let same =
            changed.name() == new.name() && changed.namespace() == new.namespace() && changed.kind() == new.kind();
        if same {
            Ok(changed)
        } else {
            Err(Status::internal("the admission step changed the kind, name or namespace of an object, which is a bug"))
        }
    }

    fn admit_delete(
        &self,
        stage: &Stage<'_>,
        target: &Target,
        old: &Object,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        self.ask(stage, target, Operation::Delete, Some(old), None, warnings).map(|_| ())
    }

    fn ask(
        &self,
        stage: &Stage<'_>,
        target: &Target,
        operation: Operation,
        old: Option<&Object>,
        new: Option<&Object>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Object>, Status> {
        let admitted = (self.admit)(&Admission {
            operation,
            key: &target.key,
            subresource: target.subresource.as_deref(),
            old,
            new,
            objects: stage.objects(),
        });
        warnings.extend(admitted.warnings);
        admitted.refusal.map_or(Ok(admitted.object), Err)
    }
}

/// The time as objects carry it.
fn now() -> String {
    api::time::seconds(Timestamp::now())
}

/// The stored object in the version that the client speaks.
pub(crate) fn shown(target: &Target, object: &Arc<Object>) -> Arc<Object> {
    if target.version == target.kind.storage() && target.kind.view_of.is_none() {
        Arc::clone(object)
    } else {
        Arc::new(target.kind.convert(object, &target.version))
    }
}

fn written(manner: &Manner, stage: &Stage<'_>, object: Arc<Object>, warnings: Vec<String>) -> Written {
    // Nothing follows from a dry run, so nobody need wait for it.
    let revision = if manner.dry_run { 0 } else { stage.revision() };
    Written { object, created: false, removed: false, warnings, revision, took: Took::default() }
}
