//! The kinds that come with the server.

use super::{Kind, Subresource, VERBS_PART, VERBS_READ, VERBS_REVIEW, VERBS_STORED, Version};
use crate::schema::Schema;

const ALL: &[&str] = &["all"];
const NONE: &[&str] = &[];
const CONNECT: &[&str] = &["create", "get"];

/// One line of the table; the singular is the kind in lower case and every list kind ends in `List`.
struct Row {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    verbs: &'static [&'static str],
    parts: &'static [Part],
}

type Part = (&'static str, Option<[&'static str; 3]>, &'static [&'static str]);

const STATUS: Part = ("status", None, VERBS_PART);
const SCALE: Part = ("scale", Some(["autoscaling", "v1", "Scale"]), VERBS_PART);
const TOKEN: Part = ("token", Some(["authentication.k8s.io", "v1", "TokenRequest"]), &["create"]);
const POD_PARTS: &[Part] = &[
    ("attach", Some(["", "v1", "PodAttachOptions"]), CONNECT),
    ("binding", Some(["", "v1", "Binding"]), &["create"]),
    ("ephemeralcontainers", None, VERBS_PART),
    ("eviction", Some(["policy", "v1", "Eviction"]), &["create"]),
    ("exec", Some(["", "v1", "PodExecOptions"]), CONNECT),
    ("log", None, &["get"]),
    ("portforward", Some(["", "v1", "PodPortForwardOptions"]), CONNECT),
    STATUS,
];

const fn namespaced(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    parts: &'static [Part],
) -> Row {
    Row { group, version: "v1", plural, kind, short, categories, namespaced: true, verbs: VERBS_STORED, parts }
}

const fn cluster(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    parts: &'static [Part],
) -> Row {
    Row { group, version: "v1", plural, kind, short, categories: NONE, namespaced: false, verbs: VERBS_STORED, parts }
}

const fn review(group: &'static str, plural: &'static str, kind: &'static str) -> Row {
    Row {
        group,
        version: "v1",
        plural,
        kind,
        short: NONE,
        categories: NONE,
        namespaced: false,
        verbs: VERBS_REVIEW,
        parts: &[],
    }
}

/// A kind that is never there: it can be asked for, since some verbs of kubectl fail where they cannot ask, and not made.
const fn absent(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
) -> Row {
    Row { group, version: "v1", plural, kind, short, categories, namespaced, verbs: VERBS_READ, parts: &[] }
}

const TABLE: &[Row] = &[
    namespaced("", "configmaps", "ConfigMap", &["cm"], NONE, &[]),
    namespaced("", "endpoints", "Endpoints", &["ep"], NONE, &[]),
    namespaced("", "events", "Event", &["ev"], NONE, &[]),
    cluster("", "namespaces", "Namespace", &["ns"], &[("finalize", None, &["update"]), STATUS]),
    cluster("", "nodes", "Node", &["no"], &[STATUS]),
    namespaced("", "pods", "Pod", &["po"], ALL, POD_PARTS),
    absent("", "persistentvolumeclaims", "PersistentVolumeClaim", &["pvc"], NONE, true),
    absent("", "persistentvolumes", "PersistentVolume", &["pv"], NONE, false),
    absent("", "replicationcontrollers", "ReplicationController", &["rc"], ALL, true),
    namespaced("", "secrets", "Secret", &[], NONE, &[]),
    namespaced("", "serviceaccounts", "ServiceAccount", &["sa"], NONE, &[TOKEN]),
    namespaced("", "services", "Service", &["svc"], ALL, &[STATUS]),
    absent("apps", "daemonsets", "DaemonSet", &["ds"], ALL, true),
    namespaced("apps", "deployments", "Deployment", &["deploy"], ALL, &[SCALE, STATUS]),
    namespaced("apps", "replicasets", "ReplicaSet", &["rs"], ALL, &[SCALE, STATUS]),
    absent("apps", "statefulsets", "StatefulSet", &["sts"], ALL, true),
    absent("batch", "cronjobs", "CronJob", &["cj"], ALL, true),
    namespaced("batch", "jobs", "Job", &[], ALL, &[STATUS]),
    absent("events.k8s.io", "events", "Event", &["ev"], NONE, true),
    review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    review("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    cluster(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        &["crd", "crds"],
        &[STATUS],
    ),
    namespaced("coordination.k8s.io", "leases", "Lease", &[], NONE, &[]),
    absent("networking.k8s.io", "ingresses", "Ingress", &["ing"], NONE, true),
    namespaced("discovery.k8s.io", "endpointslices", "EndpointSlice", &[], NONE, &[]),
];

pub(super) fn kinds() -> Vec<Kind> {
    TABLE.iter().map(kind).collect()
}

fn kind(row: &Row) -> Kind {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let mut categories: Vec<String> = owned(row.categories);
    if row.plural == super::CRD_PLURAL {
        categories.push("api-extensions".to_owned());
    }
    Kind {
        group: row.group.to_owned(),
        plural: row.plural.to_owned(),
        singular: row.kind.to_lowercase(),
        kind: row.kind.to_owned(),
        list_kind: format!("{}List", row.kind),
        short_names: owned(row.short),
        categories,
        namespaced: row.namespaced,
        verbs: row.verbs,
        versions: vec![version(row)],
        builtin: true,
        // One and the same event is asked for in two groups.
        view_of: (row.group == "events.k8s.io").then_some(""),
    }
}

fn version(row: &Row) -> Version {
    let subresources =
        row.parts.iter().map(|&(name, body, verbs)| Subresource { name: name.to_owned(), body, verbs }).collect();
    let api_version =
        if row.group.is_empty() { row.version.to_owned() } else { format!("{}/{}", row.group, row.version) };
    let schema = Schema::builtin(&api_version, row.kind);
    Version { name: row.version.to_owned(), served: true, columns: Vec::new(), subresources, schema }
}
