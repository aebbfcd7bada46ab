//! Selectors and target references (S-8, S-19, S-20).

use serde_json::{Map, Value as Json};

use super::reader::{Path, Reader};
use crate::finding::Code;
use crate::mesh::Labels;
use crate::spec::Scope;

/// S-5: at most this many target references.
const TARGETS_MAX: usize = 16;
/// S-8: the longest value of a selector label, and the longest name of a target.
const LABEL_VALUE_MAX: usize = 63;
const TARGET_NAME_MAX: usize = 253;

/// What a policy selects.
pub(super) fn scope(reader: &mut Reader, spec: &Map<String, Json>, path: &Path<'_>) -> Scope {
    let selector = Reader::member(spec, "selector");
    let target = Reader::member(spec, "targetRef");
    let targets = Reader::member(spec, "targetRefs");
    if [selector, target, targets].into_iter().flatten().count() > 1 {
        reader.find(
            Code::SelectorExclusive,
            path,
            "`selector`, `targetRef` and `targetRefs` exclude one another; keep one",
        ); // S-8
    }
    let labels = selector.map(|value| labels(reader, value, &path.member("selector")));
    if let Some(target) = target {
        target_ref(reader, target, &path.member("targetRef"));
    }
    let mut any_target = target.is_some();
    if let Some(targets) = targets {
        let path = path.member("targetRefs");
        let list = reader.list(targets, &path).unwrap_or_default();
        reader.at_most(list.len(), TARGETS_MAX, &path);
        any_target |= !list.is_empty();
        for (index, item) in list.iter().enumerate() {
            target_ref(reader, item, &path.index(index));
        }
    }
    if any_target {
        return Scope::Targets;
    }
    labels.map_or(Scope::All, Scope::Labels)
}

/// `selector.matchLabels`, with its checks (S-8) and W1 (S-20).
pub(super) fn labels(reader: &mut Reader, selector: &Json, path: &Path<'_>) -> Labels {
    let Some(selector) = reader.object(selector, path) else {
        return Labels::new();
    };
    reader.known_only(selector, &["matchLabels"], path);
    let labels_path = path.member("matchLabels");
    let labels = reader
        .object_member(selector, "matchLabels", path)
        .map(|all| reader.labels(all, &labels_path))
        .unwrap_or_default();
    if labels.is_empty() {
        reader.find(
            Code::SelectorNoLabels,
            path,
            "the selector has no labels; leave it out to select everything, or add labels",
        ); // S-20
    }
    for (key, value) in &labels {
        let path = labels_path.member(key);
        if key.is_empty() {
            reader.find(Code::SelectorEmptyKey, &path, "a label has an empty key");
        }
        if key.contains('*') || value.contains('*') {
            reader.find(Code::SelectorWildcard, &path, format!("`{key}: {value}`: labels have no wildcards"));
        }
        if value.chars().count() > LABEL_VALUE_MAX {
            reader.find(Code::SchemaMaxItems, &path, format!("a label value has at most {LABEL_VALUE_MAX} characters"));
        }
    }
    labels
}

/// S-8, S-19.
fn target_ref(reader: &mut Reader, target: &Json, path: &Path<'_>) {
    let Some(target) = reader.object(target, path) else {
        return;
    };
    reader.known_only(target, &["group", "kind", "name", "namespace"], path);
    let group = reader.text_member(target, "group", path).unwrap_or_default();
    let kind = reader.text_member(target, "kind", path);
    let name = reader.text_member(target, "name", path);
    for (value, field) in [(kind, "kind"), (name, "name")] {
        if value.is_none() && !target.contains_key(field) {
            reader.find(Code::SchemaRequired, &path.member(field), format!("a target needs its `{field}`"));
        }
    }
    if let Some(kind) = kind
        && !matches!(
            (group, kind),
            ("" | "core", "Service")
                | ("networking.istio.io", "ServiceEntry")
                | ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
        )
    {
        reader.find(
            Code::TargetRefKind,
            path,
            format!("`{group}/{kind}` cannot be a target; Service, ServiceEntry, Gateway and GatewayClass can"),
        );
    }
    if let Some(name) = name
        && (name.is_empty() || name.chars().count() > TARGET_NAME_MAX)
    {
        reader.find(
            Code::TargetRefName,
            &path.member("name"),
            format!("the name of a target has 1 to {TARGET_NAME_MAX} characters"),
        );
    }
    if reader.text_member(target, "namespace", path).is_some_and(|namespace| !namespace.is_empty()) {
        reader.find(
            Code::TargetRefNamespace,
            &path.member("namespace"),
            "a target is always in the namespace of the policy; leave `namespace` out",
        );
    }
}
