//! The life of namespaces, as far as the server itself has to know it.

use api::{Key, Object, Status};

use super::NAMESPACES;
use crate::store::Stage;

/// Whether the key is that of a namespace.
pub(super) fn is_namespace(key: &Key) -> bool {
    key.is("", NAMESPACES)
}

/// New objects need a namespace that is there and stays.
pub(super) fn check_open(stage: &Stage<'_>, key: &Key) -> Result<(), Status> {
    let Some(name) = &key.namespace else {
        return Ok(());
    };
    let namespace = Key::cluster("", NAMESPACES, name);
    match stage.get(&namespace) {
        None => Err(Status::not_found(&namespace)),
        Some(namespace) if namespace.is_deleting() => Err(Status::namespace_terminating(key)),
        Some(_) => Ok(()),
    }
}

/// The label that tells the name cannot be changed or lost.
pub(super) fn keep_label(namespace: &mut Object) {
    let name = namespace.name().to_owned();
    namespace.set("/metadata/labels/kubernetes.io~1metadata.name", name);
}

/// Objects that are still in the namespace.
pub(super) fn contents(stage: &Stage<'_>, name: &str) -> usize {
    stage.objects().all().filter(|(key, _)| key.namespace.as_deref() == Some(name)).count()
}
