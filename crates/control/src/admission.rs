//! What is looked at before an object is stored: pods are injected, policies are read by the very parser that will enforce them.
//!
//! A refusal is a Kubernetes `Status`; what Istio accepts in silence and an author should know is a warning that kubectl prints.
//! Nothing but the objects, the write and the settings is looked at, and nothing is stored here.

pub(crate) mod nearest;
mod pods;
pub(crate) mod references;
mod size;
pub(crate) mod words;

use std::sync::Arc;

use api::admission::{Admission, Admitted, Operation};
use api::status::Cause;
use api::{Object, Status};
use policy::PolicyId;
use policy::finding::Finding;
use policy::spec::Scope;
use serde_json::Value;

use self::references::World;
use self::size::Sizes;
use crate::finding::{Code, Remark};
use crate::inject;
use crate::mesh_config;
use crate::translate::{AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS, SECURITY_GROUP, Translator};

/// kubectl cuts longer warnings off; what matters comes first anyway.
const WARNING_LENGTH_MAX: usize = 256;
/// More warnings than this are not read; the last one says how many there are.
const WARNINGS_MAX: usize = 16;

/// Looks at writes; keeps what it has parsed between them.
#[derive(Debug, Default)]
pub struct Gate {
    translator: Translator,
    injection: inject::Options,
    sizes: Sizes,
}

impl Gate {
    /// One that has parsed nothing yet.
    pub fn new(translator: Translator, injection: inject::Options) -> Self {
        Self { translator, injection, sizes: Sizes::default() }
    }

    /// Whether the write may be, and what the client should know.
    pub fn admit(&mut self, request: &Admission<'_>) -> Admitted {
        let Some(new) = request.new else { return Admitted::default() };
        if request.operation == Operation::Delete {
            return Admitted::default();
        }
        // Parts such as the status are written by those who report, and no meaning depends on them; but a part of a pod may
        // hold containers.
        if request.subresource.is_some() && !request.key.is("", "pods") {
            return Admitted::default();
        }
        let mut admitted = match (request.key.group.as_str(), request.key.plural.as_str()) {
            ("", "pods") => pods::admit(request, new, &self.injection),
            ("", "configmaps") => settings(request, new),
            ("", "namespaces") => pods::namespace(request, new),
            (SECURITY_GROUP, AUTHORIZATION_POLICIES) => self.authorization_policy(request, new),
            (SECURITY_GROUP, PEER_AUTHENTICATIONS) => self.peer_authentication(request, new),
            (group, _) if group == "istio.io" || group.ends_with(".istio.io") => other_istio_kind(request, new),
            _ => Admitted::default(),
        };
        admitted.warnings = shorten(admitted.warnings);
        admitted
    }

    fn authorization_policy(&mut self, request: &Admission<'_>, new: &Object) -> Admitted {
        let mut mesh = self.translator.mesh(request.objects);
        let parsed = policy::parse::authorization_policy(new.value(), &mesh.settings);
        if let Some(status) = refusal(request, new, &parsed.findings) {
            return Admitted::refused(status);
        }
        if new.annotation(words::TRIAL_OF).is_some() {
            // A trial must never refuse a connection, and this one would.
            let field = format!("metadata.annotations[{}]", words::TRIAL_OF);
            let cause = Cause::forbidden(
                &field,
                "trials of edits are not built yet: try a whole policy with `istio.io/dry-run: \"true\"`",
            );
            return Admitted::refused(Status::invalid(SECURITY_GROUP, new.kind(), new.name(), vec![cause]));
        }
        let mut remarks: Vec<Remark> = parsed.findings.iter().map(Remark::from).collect();
        if let Some(policy) = parsed.value {
            remarks.extend(references::authorization_policy(&policy, &World::new(&mesh, request.objects, true)));
            let selector = match &policy.scope {
                Scope::Labels(labels) => Some(labels.clone()),
                Scope::All | Scope::Targets => None,
            };
            let (id, reaches_pods) = (Arc::clone(&policy.id), policy.scope != Scope::Targets);
            if replace(&mut mesh.policies, policy, |policy| &policy.id)
                && reaches_pods
                && let Some(status) = self.sizes.refusal(new.kind(), &id, selector.as_ref(), mesh)
            {
                return Admitted::refused(status);
            }
        }
        remarks.extend(words::annotations(new));
        self.strictly(request, new, &remarks)
    }

    fn peer_authentication(&mut self, request: &Admission<'_>, new: &Object) -> Admitted {
        let mut mesh = self.translator.mesh(request.objects);
        let parsed = policy::parse::peer_authentication(new.value(), &mesh.settings);
        if let Some(status) = refusal(request, new, &parsed.findings) {
            return Admitted::refused(status);
        }
        let mut remarks: Vec<Remark> = parsed.findings.iter().map(Remark::from).collect();
        if let Some(policy) = parsed.value {
            remarks.extend(references::peer_authentication(&policy, &World::new(&mesh, request.objects, true)));
            let (id, labels) = (Arc::clone(&policy.id), policy.selector.clone());
            if replace(&mut mesh.peer_authentications, policy, |policy| &policy.id)
                && let Some(status) = self.sizes.refusal(new.kind(), &id, Some(&labels), mesh)
            {
                return Admitted::refused(status);
            }
        }
        remarks.extend(words::annotations(new));
        self.strictly(request, new, &remarks)
    }

    /// With `strict: true` in the mesh settings, Tidegate's own warnings about mistakes refuse the write.
    fn strictly(&self, request: &Admission<'_>, new: &Object, remarks: &[Remark]) -> Admitted {
        let mistakes: Vec<&Remark> = remarks.iter().filter(|remark| remark.mistake).collect();
        if !self.translator.config().strict || mistakes.is_empty() {
            return warned(remarks);
        }
        let causes = mistakes
            .into_iter()
            .map(|remark| {
                Cause::forbidden(&remark.path, &format!("{}: {} (`strict` is on)", remark.entry.word, remark.message))
            })
            .collect();
        Admitted::refused(Status::invalid(&request.key.group, new.kind(), new.name(), causes))
    }
}

/// Puts a policy in the place of its earlier self; `false` if that said the same, and so has its tables already. They are in the
/// order of their names, as the translator gives them.
fn replace<T: PartialEq>(all: &mut Vec<Arc<T>>, policy: T, id: impl Fn(&T) -> &Arc<PolicyId>) -> bool {
    let place = all.partition_point(|other| id(other) < id(&policy));
    let earlier = all.get_mut(place).filter(|other| id(other) == id(&policy));
    let is_news = earlier.as_ref().is_none_or(|other| ***other != policy);
    match earlier {
        Some(earlier) => *earlier = Arc::new(policy),
        None => all.insert(place, Arc::new(policy)),
    }
    is_news
}

/// The refusal that findings amount to: 422 with a cause for each, the check's word in brackets.
fn refusal(request: &Admission<'_>, new: &Object, findings: &[Finding]) -> Option<Status> {
    let causes: Vec<Cause> =
        findings.iter().filter(|finding| finding.refuses()).map(|finding| cause(finding, new.value())).collect();
    (!causes.is_empty()).then(|| Status::invalid(&request.key.group, new.kind(), new.name(), causes))
}

fn cause(finding: &Finding, document: &Value) -> Cause {
    let path = finding.path.to_string();
    let detail = format!("{} ({})", finding.message, finding.code.word());
    match document.pointer(&finding.path.pointer()) {
        None if finding.code == policy::Code::SchemaRequired => Cause::required(&path, &detail),
        Some(value) if !value.is_object() && !value.is_array() => Cause::invalid(&path, value, &detail),
        // Whole lists and mappings say nothing in a message that names the field anyway.
        _ => Cause::field("FieldValueInvalid", format!("Invalid value: {detail}"), &path),
    }
}

/// The ConfigMap with the settings of the mesh: a value that cannot be read is refused, a key without effect is told.
fn settings(request: &Admission<'_>, new: &Object) -> Admitted {
    if request.key.namespace.as_deref() != Some(mesh_config::NAMESPACE) || request.key.name != mesh_config::NAME {
        return Admitted::default();
    }
    let config = mesh_config::of_config_map(new.value());
    let bad: Vec<Cause> = config
        .findings
        .iter()
        .filter(|finding| finding.bad)
        .map(|finding| {
            Cause::field(
                "FieldValueInvalid",
                format!("Invalid value: {}: {}", finding.path, finding.message),
                "data.mesh",
            )
        })
        .collect();
    if !bad.is_empty() {
        return Admitted::refused(Status::invalid("", new.kind(), new.name(), bad));
    }
    let remark = |finding: &mesh_config::ConfigFinding| {
        Remark::new(Code::SettingIgnored, &finding.path, finding.message.clone())
    };
    warned(&config.findings.iter().map(remark).collect::<Vec<_>>())
}

/// Kinds of Istio that are stored so that manifests apply, and do nothing here.
fn other_istio_kind(request: &Admission<'_>, new: &Object) -> Admitted {
    if let Some(finding) = policy::parse::dry_run_on_other_kind(new.value()) {
        // S-18: the annotation is refused on every kind but AuthorizationPolicy.
        return Admitted::refused(Status::invalid(
            &request.key.group,
            new.kind(),
            new.name(),
            vec![cause(&finding, new.value())],
        ));
    }
    warned(&[Remark::new(Code::KindWithoutEffect, "", words::without_effect(new.kind()))])
}

fn warned(remarks: &[Remark]) -> Admitted {
    Admitted { warnings: remarks.iter().map(ToString::to_string).collect(), ..Admitted::default() }
}

fn shorten(mut warnings: Vec<String>) -> Vec<String> {
    let all = warnings.len();
    if all > WARNINGS_MAX {
        warnings.truncate(WARNINGS_MAX - 1);
        warnings.push(format!("and {} more", all - warnings.len()));
    }
    for warning in &mut warnings {
        if warning.len() > WARNING_LENGTH_MAX {
            let cut = warning.floor_char_boundary(WARNING_LENGTH_MAX - "...".len());
            warning.truncate(cut);
            warning.push_str("...");
        }
        if warning.contains(['\n', '\r']) {
            *warning = warning.replace(['\n', '\r'], " ");
        }
    }
    warnings
}
