//! Schemas of built-in kinds, out of the table of types.

use serde_json::{Map, Value, json};

use super::{Format, Schemas, describe, object_fields, reference};
use crate::kinds::Kind;
use crate::types::rules::{self, Together};
use crate::types::{self, Field, FieldKind, Shape};

const CORE: &str = "io.k8s.api.core.v1";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Values that are schemas of their own: name, the rest of the name, type and format.
const VALUES: &[(&str, &str, &str, &str)] = &[
    ("IntOrString", "io.k8s.apimachinery.pkg.util.intstr", "string", "int-or-string"),
    ("Quantity", "io.k8s.apimachinery.pkg.api.resource", "string", ""),
    ("Time", META, "string", "date-time"),
];

/// Where types that are not of the core group belong, by the beginning of their name.
const PACKAGES: &[(&str, &[&str])] = &[
    (
        META,
        &[
            "ObjectMeta",
            "OwnerReference",
            "ManagedFieldsEntry",
            "LabelSelector",
            "DeleteOptions",
            "Preconditions",
            "Condition",
        ],
    ),
    ("io.k8s.api.apps.v1", &["Deployment", "ReplicaSet", "RollingUpdateDeployment"]),
    ("io.k8s.api.batch.v1", &["Job"]),
    (
        "io.k8s.api.discovery.v1",
        &["EndpointSlice", "SliceEndpoint", "SlicePort", "EndpointConditions", "EndpointHints", "ForZone", "ForNode"],
    ),
    ("io.k8s.api.coordination.v1", &["Lease"]),
    ("io.k8s.api.events.v1", &["EventsEvent", "EventsSeries"]),
    ("io.k8s.api.policy.v1", &["Eviction"]),
    ("io.k8s.api.autoscaling.v1", &["Scale"]),
    ("io.k8s.api.authentication.v1", &["TokenRequest", "SelfSubjectReview", "BoundObjectReference", "UserInfo"]),
    (
        "io.k8s.api.authorization.v1",
        &[
            "SelfSubjectAccess",
            "SelfSubjectRules",
            "SubjectAccess",
            "SubjectRules",
            "ResourceAttributes",
            "NonResource",
            "ResourceRule",
        ],
    ),
];

/// Types whose own name in the table keeps them apart from another one.
const RENAMED: &[(&str, &str)] = &[
    ("EventsEvent", "Event"),
    ("EventsSeries", "EventSeries"),
    ("SliceEndpoint", "Endpoint"),
    ("SlicePort", "EndpointPort"),
];

/// The whole name of a type's schema.
pub(super) fn name_of(of: &str) -> String {
    if let Some((name, package, ..)) = VALUES.iter().find(|(name, ..)| *name == of) {
        return format!("{package}.{name}");
    }
    let package = PACKAGES.iter().find(|(_, starts)| starts.iter().any(|start| of.starts_with(start)));
    let name = RENAMED.iter().find(|(name, _)| *name == of).map_or(of, |(_, real)| *real);
    format!("{}.{name}", package.map_or(CORE, |(package, _)| *package))
}

/// The type of a built-in kind, if the table has it.
pub(super) fn type_of(kind: &Kind, version: &str) -> Option<&'static str> {
    types::table().root(&kind.api_version(version), &kind.kind).filter(|_| kind.builtin)
}

/// The schema of a whole object.
pub(super) fn root(kind: &Kind, version: &str, format: Format, schemas: &mut Schemas) -> Value {
    let Some(of) = type_of(kind, version) else {
        // Nothing is known of what it holds.
        let mut properties: Map<String, Value> = object_fields(&kind.kind, format, schemas).into_iter().collect();
        for name in ["spec", "status"] {
            properties.insert(name.to_owned(), json!({"description": rules::field_words(&kind.kind, name)}));
        }
        return json!({"type": "object", "description": kind.words(), "properties": properties});
    };
    let mut value = schema(of, format, schemas);
    if let Some(properties) = value.get_mut("properties").and_then(Value::as_object_mut) {
        properties.extend(object_fields(of, format, schemas));
    }
    value
}

/// The schema of a type.
pub(super) fn schema(of: &'static str, format: Format, schemas: &mut Schemas) -> Value {
    if let Some((name, _, value_type, value_format)) = VALUES.iter().find(|(name, ..)| *name == of) {
        let mut value = json!({"type": value_type, "description": rules::words(name)});
        if *name == "IntOrString" && format == Format::Three {
            value = json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "description": rules::words(name)});
        }
        if let Some(fields) = value.as_object_mut().filter(|_| !value_format.is_empty()) {
            fields.insert("format".to_owned(), Value::from(*value_format));
        }
        return value;
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    collect(of, of, format, schemas, &mut properties, &mut required);
    let mut value = json!({"type": "object", "properties": properties});
    describe(&mut value, rules::words(of));
    if let Some(fields) = value.as_object_mut() {
        if !required.is_empty() {
            fields.insert("required".to_owned(), json!(required));
        }
        if rules::of_type(of).together == Together::Atomic {
            fields.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
    }
    value
}

/// The fields of a type, those of inlined types among them. `told` is the type as the words know it.
fn collect(
    of: &'static str,
    told: &str,
    format: Format,
    schemas: &mut Schemas,
    properties: &mut Map<String, Value>,
    required: &mut Vec<&'static str>,
) {
    for field in types::table().fields(of) {
        if let ("@", FieldKind::Type(inlined)) = (field.name, &field.kind) {
            collect(inlined, inlined, format, schemas, properties, required);
            continue;
        }
        if field.required {
            required.push(field.name);
        }
        properties.insert(field.name.to_owned(), property(told, field, format, schemas));
    }
}

fn property(of: &str, field: &Field, format: Format, schemas: &mut Schemas) -> Value {
    let words = rules::field_words(of, field.name);
    let of_one = |words: &str, schemas: &mut Schemas| element(&field.kind, words, format, schemas);
    let mut value = match field.shape {
        Shape::One => of_one(words, schemas),
        Shape::List => json!({"type": "array", "items": of_one("", schemas), "description": words}),
        Shape::Mapping => json!({"type": "object", "additionalProperties": of_one("", schemas), "description": words}),
    };
    let rule = rules::of_field(of, field.name);
    let mut put = |name: &str, extension: Value| {
        if let Some(fields) = value.as_object_mut() {
            fields.insert(name.to_owned(), extension);
        }
    };
    match &rule.together {
        Together::Keys(keys) => {
            put("x-kubernetes-list-type", json!("map"));
            put("x-kubernetes-list-map-keys", json!(keys));
        }
        Together::Set => put("x-kubernetes-list-type", json!("set")),
        Together::Default | Together::Atomic if field.shape == Shape::List => {
            put("x-kubernetes-list-type", json!("atomic"));
        }
        Together::Atomic => put("x-kubernetes-map-type", json!("atomic")),
        Together::Default => {}
    }
    if !rule.strategy.is_empty() {
        put("x-kubernetes-patch-strategy", json!(rule.strategy));
    }
    if !rule.merge_key.is_empty() {
        put("x-kubernetes-patch-merge-key", json!(rule.merge_key));
    }
    value
}

fn element(kind: &FieldKind, words: &str, format: Format, schemas: &mut Schemas) -> Value {
    let mut refer = |of: &'static str| {
        schemas.wanted.insert(of);
        reference(&name_of(of), words, format)
    };
    let mut value = match kind {
        FieldKind::Text => json!({"type": "string"}),
        FieldKind::OneOf(words) => json!({"type": "string", "enum": words}),
        FieldKind::Integer => json!({"type": "integer"}),
        FieldKind::Boolean => json!({"type": "boolean"}),
        FieldKind::Bytes => json!({"type": "string", "format": "byte"}),
        FieldKind::Quantity => return refer("Quantity"),
        FieldKind::Time => return refer("Time"),
        FieldKind::IntOrString => return refer("IntOrString"),
        FieldKind::Type(of) => return refer(of),
        FieldKind::Anything | FieldKind::Json => json!({}),
    };
    describe(&mut value, words);
    value
}
