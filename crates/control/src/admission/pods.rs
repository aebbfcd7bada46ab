//! Pods: joined to the mesh when they are created, and what makes them members stays as it is afterwards.

use api::admission::{Admission, Admitted, Operation};
use api::status::Cause;
use api::{Object, Status};
use serde_json::Value;

use crate::finding::{Code, Remark};
use crate::inject::{self, Options, Outcome, Owner, STATUS_ANNOTATION, Wish};
use crate::translate::service_account;

pub(super) fn admit(request: &Admission<'_>, new: &Object, options: &Options) -> Admitted {
    match (request.operation, request.old) {
        (Operation::Create, _) if request.subresource.is_none() => create(request, new, options),
        (Operation::Update, Some(old)) => update(old, new),
        _ => Admitted::default(),
    }
}

fn create(request: &Admission<'_>, new: &Object, options: &Options) -> Admitted {
    let namespace = request.key.namespace.as_deref().unwrap_or_default();
    let labels = request.objects.find("", "namespaces", None, namespace).map(|found| found.at("/metadata/labels"));
    let Wish::Inject { revision } = inject::wish(namespace, labels.unwrap_or(&Value::Null), new.value()) else {
        return Admitted::default();
    };
    let options = Options { revision, ..options.clone() };
    let mut pod = new.value().clone();
    match inject::inject_pod(&mut pod, &format!("pod/{}", display_name(new)), &owner(new, namespace), &options) {
        Ok(Outcome::Skipped(_)) => Admitted::default(),
        Ok(Outcome::Injected(notes)) => Admitted {
            object: Object::new(pod).ok(),
            warnings: notes.into_iter().map(|note| Remark::new(Code::Injection, "", note).to_string()).collect(),
            refusal: None,
        },
        Err(error) => {
            let cause =
                Cause::forbidden(error_field(&error), &format!("injection into namespace {namespace}: {error}"));
            Admitted::refused(Status::invalid("", "Pod", new.name(), vec![cause]))
        }
    }
}

/// Membership and identity of a pod that runs must not move under its feet.
fn update(old: &Object, new: &Object) -> Admitted {
    let mut causes = Vec::new();
    if inject::is_injected(old.value()) != inject::is_injected(new.value()) {
        let field = format!("metadata.annotations[{STATUS_ANNOTATION}]");
        causes.push(Cause::forbidden(
            &field,
            "a pod cannot join or leave the mesh while it is there: delete it and create it anew",
        ));
    }
    if service_account(old) != service_account(new) {
        causes.push(Cause::forbidden(
            "spec.serviceAccountName",
            "the identity of a pod cannot change: delete it and create it anew",
        ));
    }
    if causes.is_empty() {
        Admitted::default()
    } else {
        Admitted::refused(Status::invalid("", "Pod", new.name(), causes))
    }
}

/// A namespace that begins to inject: its pods that are there already stay as they are.
pub(super) fn namespace(request: &Admission<'_>, new: &Object) -> Admitted {
    let Some(old) = request.old else { return Admitted::default() };
    let injects = |namespace: &Object| {
        matches!(inject::wish(new.name(), namespace.at("/metadata/labels"), &Value::Null), Wish::Inject { .. })
    };
    if injects(old) || !injects(new) {
        return Admitted::default();
    }
    let left_out = request
        .objects
        .in_namespace("", "pods", new.name())
        .filter(|pod| {
            !matches!(pod.str_at("/status/phase"), "Failed" | "Succeeded") && !inject::is_injected(pod.value())
        })
        .count();
    if left_out == 0 {
        return Admitted::default();
    }
    let pods = if left_out == 1 { "1 pod stays".to_owned() } else { format!("{left_out} pods stay") };
    let message =
        format!("{pods} outside the mesh until made anew: `kubectl rollout restart deployment -n {}`", new.name());
    super::warned(&[Remark::new(Code::NotInMesh, "", message)])
}

fn error_field(error: &inject::Error) -> &'static str {
    match error {
        inject::Error::Annotation { .. } => "metadata.annotations",
        inject::Error::NameTaken { .. } | inject::Error::NoPod { .. } | inject::Error::Syntax(_) => "spec",
    }
}

fn display_name(pod: &Object) -> &str {
    if pod.name().is_empty() { pod.str_at("/metadata/generateName") } else { pod.name() }
}

/// The workload that a user wrote: behind a replica set stands a deployment, whose name is the set's without the hash.
fn owner(pod: &Object, namespace: &str) -> Owner {
    let namespace = Some(namespace.to_owned());
    let Some(controller) = pod.controller() else {
        return Owner {
            name: display_name(pod).to_owned(),
            api_version: "v1".to_owned(),
            plural: "pods".to_owned(),
            namespace,
        };
    };
    let hash = pod.label("pod-template-hash").unwrap_or_default();
    let deployment = controller.name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
    let (name, plural) = match (controller.kind, deployment) {
        ("ReplicaSet", Some(name)) if !hash.is_empty() => (name, "deployments".to_owned()),
        _ => (controller.name, format!("{}s", controller.kind.to_ascii_lowercase())),
    };
    Owner { name: name.to_owned(), api_version: controller.api_version.to_owned(), plural, namespace }
}
