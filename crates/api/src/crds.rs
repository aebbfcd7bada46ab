//! The `CustomResourceDefinitions` that a mesh starts with.
//!
//! The two kinds that are enforced have schemas of their own in `crds/`; the others are stored as they come, so that
//! manifests written for Istio can be applied. What they do, or do not, is said at admission.

use serde_json::{Value, json};

use crate::object::Object;
use crate::yaml;

/// Group of the policies that are enforced.
pub const SECURITY_GROUP: &str = "security.istio.io";
/// Plural of authorization policies.
pub const AUTHORIZATION_POLICIES: &str = "authorizationpolicies";
/// Plural of peer authentications.
pub const PEER_AUTHENTICATIONS: &str = "peerauthentications";

const FILES: [&str; 2] =
    [include_str!("../crds/authorizationpolicies.yaml"), include_str!("../crds/peerauthentications.yaml")];

/// A kind that is stored as it comes.
struct Stored {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    versions: &'static [&'static str],
    columns: &'static [(&'static str, &'static str)],
}

const NETWORKING: &str = "networking.istio.io";
const ALL: &[&str] = &["v1", "v1beta1", "v1alpha3"];

const STORED: &[Stored] = &[
    stored(SECURITY_GROUP, "RequestAuthentication", "requestauthentications", "ra", &["v1", "v1beta1"], &[]),
    stored(NETWORKING, "DestinationRule", "destinationrules", "dr", ALL, &[("Host", ".spec.host")]),
    stored(NETWORKING, "EnvoyFilter", "envoyfilters", "", &["v1alpha3"], &[]),
    stored(NETWORKING, "Gateway", "gateways", "gw", ALL, &[]),
    stored(NETWORKING, "ProxyConfig", "proxyconfigs", "", &["v1beta1"], &[]),
    stored(
        NETWORKING,
        "ServiceEntry",
        "serviceentries",
        "se",
        ALL,
        &[("Hosts", ".spec.hosts"), ("Location", ".spec.location"), ("Resolution", ".spec.resolution")],
    ),
    stored(NETWORKING, "Sidecar", "sidecars", "", ALL, &[]),
    stored(
        NETWORKING,
        "VirtualService",
        "virtualservices",
        "vs",
        ALL,
        &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")],
    ),
    stored(NETWORKING, "WorkloadEntry", "workloadentries", "we", ALL, &[("Address", ".spec.address")]),
    stored(NETWORKING, "WorkloadGroup", "workloadgroups", "wg", ALL, &[]),
    stored("telemetry.istio.io", "Telemetry", "telemetries", "telemetry", &["v1", "v1alpha1"], &[]),
    stored("extensions.istio.io", "WasmPlugin", "wasmplugins", "", &["v1alpha1"], &[]),
];

const fn stored(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    versions: &'static [&'static str],
    columns: &'static [(&'static str, &'static str)],
) -> Stored {
    Stored { group, kind, plural, short, versions, columns }
}

/// The definitions of Istio's kinds, without status.
pub fn istio() -> Vec<Object> {
    let enforced = FILES.into_iter().flat_map(yaml::documents).map(|document| document.value);
    enforced.chain(STORED.iter().map(definition)).filter_map(|value| Object::new(value).ok()).collect()
}

/// Whether objects of a resource are only stored: nothing in this mesh follows from them.
pub fn is_only_stored(group: &str, plural: &str) -> bool {
    STORED.iter().any(|one| one.group == group && one.plural == plural)
}

fn definition(one: &Stored) -> Value {
    let column = |(name, path): (&str, &str), cell_type| json!({"name": name, "type": cell_type, "jsonPath": path});
    let mut columns: Vec<Value> = one.columns.iter().map(|&shown| column(shown, "string")).collect();
    columns.push(column(("Age", ".metadata.creationTimestamp"), "date"));
    let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": free, "status": free}}});
    let versions: Vec<Value> = one
        .versions
        .iter()
        .enumerate()
        .map(|(index, version)| {
            json!({"name": version, "served": true, "storage": index == 0, "subresources": {"status": {}},
                "additionalPrinterColumns": columns, "schema": schema})
        })
        .collect();
    let short: Vec<&str> = Some(one.short).filter(|short| !short.is_empty()).into_iter().collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", one.plural, one.group)},
        "spec": {
            "group": one.group, "scope": "Namespaced",
            "names": {"kind": one.kind, "listKind": format!("{}List", one.kind), "plural": one.plural,
                "singular": one.kind.to_lowercase(), "shortNames": short,
                "categories": ["istio-io", one.group.replace('.', "-")]},
            "versions": versions,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::{FILES, SECURITY_GROUP, STORED, is_only_stored, istio};
    use crate::kinds::{Kind, Kinds};
    use crate::yaml;

    #[test]
    fn the_files_are_one_clean_document_each() {
        for file in FILES {
            let documents = yaml::documents(file);
            assert_eq!(documents.len(), 1);
            assert_eq!(documents[0].problems, vec![]);
        }
    }

    // S-4
    #[test]
    fn s_4_policies_are_served_in_two_versions_and_stored_in_v1() {
        let all = istio();
        assert_eq!(all.len(), FILES.len() + STORED.len());
        let kinds = Kinds::with_crds(&all);
        for (plural, short, column) in
            [("authorizationpolicies", "ap", "Action"), ("peerauthentications", "pa", "Mode")]
        {
            let kind = kinds.by_resource(SECURITY_GROUP, plural).unwrap();
            assert_eq!(kind.storage(), "v1");
            assert!(kind.version("v1beta1").is_some());
            assert_eq!(kind.short_names, vec![short]);
            for version in &kind.versions {
                let names = |wide: i64| -> Vec<&str> {
                    let shown = version.columns.iter().filter(|column| column.priority == wide);
                    shown.map(|column| column.name.as_str()).collect()
                };
                assert_eq!(names(0), [column, "Age"]);
                assert_eq!(names(1), ["Enforced", "Why"]);
                assert!(kind.has_status(&version.name));
                assert!(version.schema.as_ref().unwrap().unchecked().is_empty());
            }
        }
    }

    #[test]
    fn every_definition_is_valid_and_its_kind_is_new() {
        let all = istio();
        for definition in &all {
            Kind::from_crd(definition).unwrap();
        }
        assert_eq!(Kinds::with_crds(&all).iter().count(), Kinds::builtin().iter().count() + all.len());
        assert!(is_only_stored("networking.istio.io", "virtualservices"));
        assert!(!is_only_stored("security.istio.io", "authorizationpolicies"));
    }
}
