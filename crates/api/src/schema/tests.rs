//! Tests of schemas: pruning, defaults, and the texts of what is wrong.

#![expect(clippy::needless_pass_by_value, reason = "cases are written as `json!` literals")]

use serde_json::{Value, json};

use super::{Elsewhere, FINDINGS_MAX, Schema, Wrong, unknown_fields};
use crate::crds;
use crate::kinds::Kinds;
use crate::status::Status;

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "tcp-policy", "namespace": "foo"}, "spec": spec})
}

fn policy_schema() -> std::sync::Arc<Schema> {
    let all = crds::istio();
    let kinds = Kinds::with_crds(&all);
    let kind = kinds.by_kind("security.istio.io", "AuthorizationPolicy").unwrap();
    kind.version("v1").unwrap().schema.clone().unwrap()
}

fn messages(schema: &Schema, object: &Value) -> Vec<String> {
    schema.validate(object).iter().map(ToString::to_string).collect()
}

fn deployment(pod_spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "foo", "creationTimestamp": null},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "a"}}, "strategy": {},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod_spec}}, "status": {}})
}

// S-5, S-6
#[test]
fn s_5_the_policies_of_the_walkthrough_are_valid() {
    let schema = policy_schema();
    for spec in [
        json!({"selector": {"matchLabels": {"app": "tcp-echo"}}, "action": "ALLOW", "rules": [{"to": [{"operation": {"ports": ["9000", "9001"]}}]}]}),
        json!({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"], "ports": ["9000"]}}]}]}),
        json!({"rules": [{"from": [{"source": {"notPrincipals": ["*"], "serviceAccounts": ["a/b"]}}], "when": [{"key": "source.ip", "notValues": ["1.2.3.4"]}]}]}),
        json!({"targetRefs": [{"kind": "Service", "name": "x"}], "action": "CUSTOM", "provider": {"name": "p"}}),
        json!({}),
    ] {
        let mut object = policy(spec);
        assert_eq!(messages(&schema, &object), Vec::<String>::new(), "{object}");
        let before = object.clone();
        assert_eq!(schema.prune(&mut object), Vec::<String>::new());
        assert_eq!(object, before);
    }
}

#[test]
fn typed_clients_write_null_into_metadata() {
    let schema = policy_schema();
    let mut object = policy(json!({}));
    object["metadata"]["creationTimestamp"] = json!(null);
    object["metadata"]["labels"] = json!(null);
    assert_eq!(messages(&schema, &object), Vec::<String>::new());
    object["metadata"]["labels"] = json!({"a": 1});
    assert_eq!(schema.validate(&object)[0].field, "metadata.labels.a");
}

// S-7
#[test]
fn s_7_unknown_fields_are_named_and_pruned() {
    let schema = policy_schema();
    let mut object = policy(json!({"rulez": [], "rules": [{"to": [{"operation": {"portz": ["9000"]}}]}]}));
    object["metadata"]["lables"] = json!({});
    object["status"] = json!({"anything": {"goes": 1}});
    let paths = schema.prune(&mut object);
    assert_eq!(paths, vec!["metadata.lables", "spec.rules[0].to[0].operation.portz", "spec.rulez"]);
    assert_eq!(object["spec"], json!({"rules": [{"to": [{"operation": {}}]}]}));
    assert_eq!(object["status"], json!({"anything": {"goes": 1}}));
    let status = Status::strict_decoding("AuthorizationPolicy", "v1beta1", &unknown_fields(&paths[1..]));
    assert_eq!(
        status.message(),
        "AuthorizationPolicy in version \"v1beta1\" cannot be handled as a AuthorizationPolicy: strict decoding error: \
         unknown field \"spec.rules[0].to[0].operation.portz\", unknown field \"spec.rulez\""
    );
}

// S-6, S-7
#[test]
fn s_7_wrong_values_have_the_messages_of_the_real_server() {
    let schema = policy_schema();
    for (spec, expected) in [
        (
            json!({"action": "PERMIT"}),
            "spec.action: Unsupported value: \"PERMIT\": supported values: \"ALLOW\", \"DENY\", \"AUDIT\", \"CUSTOM\"",
        ),
        (
            json!({"rules": [{"to": [{"operation": {"ports": [9000]}}]}]}),
            "spec.rules[0].to[0].operation.ports[0]: Invalid value: \"integer\": spec.rules[0].to[0].operation.ports[0] in body must be of type string: \"integer\"",
        ),
        (json!({"rules": [{"when": [{"values": ["x"]}]}]}), "spec.rules[0].when[0].key: Required value"),
        (
            json!({"targetRef": {"kind": "Service", "name": ""}}),
            "spec.targetRef.name: Invalid value: \"\": spec.targetRef.name in body should be at least 1 chars long",
        ),
        (json!({"rules": vec![json!({}); 513]}), "spec.rules: Too many: 513: must have at most 512 items"),
        (
            json!({"selector": {"matchLabels": {"a": "x".repeat(64)}}}),
            "spec.selector.matchLabels.a: Too long: may not be more than 63 bytes",
        ),
        (
            json!({"rules": {}}),
            "spec.rules: Invalid value: \"object\": spec.rules in body must be of type array: \"object\"",
        ),
        (
            json!({"action": null}),
            "spec.action: Invalid value: \"null\": spec.action in body must be of type string: \"null\"",
        ),
        (json!("x"), "spec: Invalid value: \"string\": spec in body must be of type object: \"string\""),
    ] {
        assert_eq!(messages(&schema, &policy(spec)), vec![expected]);
    }
}

#[test]
fn findings_are_bounded() {
    let schema = policy_schema();
    let ports: Vec<u32> = (0..10_000).collect();
    let many = policy(json!({"rules": [{"to": [{"operation": {"ports": ports}}]}]}));
    assert_eq!(schema.validate(&many).len(), FINDINGS_MAX);
    let fields: serde_json::Map<String, Value> = (0..10_000).map(|index| (format!("x{index}"), json!(1))).collect();
    let mut many = policy(Value::Object(fields));
    assert_eq!(schema.prune(&mut many).len(), FINDINGS_MAX);
    assert_eq!(many["spec"], json!({}), "all of them are pruned");
}

#[test]
fn defaults_bounds_conditions_and_list_types() {
    let schema = Schema::parse(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "required": ["name"], "properties": {
            "name": {"type": "string", "default": "x"},
            "size": {"type": "integer", "minimum": 1, "maximum": 5, "default": 2},
            "ratio": {"type": "number", "minimum": 0, "exclusiveMinimum": true},
            "tags": {"type": "array", "minItems": 1, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                "items": {"type": "object", "properties": {"port": {"type": "integer"}}}},
            "limit": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "maybe": {"type": "string", "nullable": true},
            "free": {"type": "object", "additionalProperties": true},
            "a": {"type": "string"}, "b": {"type": "string"}},
            "not": {"required": ["a", "b"]}}}}),
        "schema",
    )
    .unwrap();
    let mut object = json!({"spec": {"size": null, "maybe": null}});
    schema.default(&mut object);
    assert_eq!(object, json!({"spec": {"size": 2, "maybe": null, "name": "x"}}));
    let mut empty = json!({});
    schema.default(&mut empty);
    assert_eq!(empty, json!({"spec": {"name": "x", "size": 2}}));

    let fields = |spec: Value| -> Vec<String> {
        schema.validate(&json!({"spec": spec})).into_iter().map(|cause| cause.field).collect()
    };
    assert_eq!(
        fields(
            json!({"name": "x", "size": 5, "ratio": 0.5, "limit": "5%", "tags": ["a"], "a": "1", "free": {"x": [1]}})
        ),
        Vec::<String>::new()
    );
    assert_eq!(fields(json!({})), vec!["spec.name"]);
    assert_eq!(fields(json!({"name": "x", "size": 6, "ratio": 0})), vec!["spec.size", "spec.ratio"]);
    assert_eq!(fields(json!({"name": "x", "size": 1.5})), vec!["spec.size"]);
    assert_eq!(fields(json!({"name": "x", "size": 1.0, "limit": 3})), Vec::<String>::new());
    assert_eq!(fields(json!({"name": "x", "limit": true})), vec!["spec.limit"]);
    assert_eq!(fields(json!({"name": "x", "tags": ["a", "b", "a"]})), vec!["spec.tags[2]"]);
    assert_eq!(fields(json!({"name": "x", "tags": []})), vec!["spec.tags"]);
    assert_eq!(fields(json!({"name": "x", "ports": [{"port": 1}, {"port": 1}]})), vec!["spec.ports[1]"]);
    assert_eq!(fields(json!({"name": "x", "a": "1", "b": "2"})), vec!["spec"]);
}

#[test]
fn schemas_that_are_not_structural_are_refused_and_unchecked_rules_are_told() {
    let causes = |document: Value| -> Vec<String> {
        Schema::parse(&document, "s").unwrap_err().into_iter().map(|cause| cause.field).collect()
    };
    assert_eq!(causes(json!(null)), vec!["s"]);
    assert_eq!(causes(json!({"type": "string"})), vec!["s.type"]);
    assert_eq!(causes(json!({"type": "object", "properties": {"spec": {}}})), vec!["s.properties[spec].type"]);
    assert_eq!(
        causes(json!({"type": "object", "properties": {"spec": {"type": "text"}}})),
        vec!["s.properties[spec].type"]
    );
    let schema = Schema::parse(
        &json!({"type": "object", "properties": {"spec": {"type": "string", "pattern": "^a$", "x-kubernetes-validations": []}}}),
        "s",
    )
    .unwrap();
    assert_eq!(schema.unchecked(), ["s.properties[spec].pattern", "s.properties[spec].x-kubernetes-validations"]);
}

#[test]
fn builtin_kinds_know_their_fields() {
    let schema = Schema::builtin("apps/v1", "Deployment").unwrap();
    let mut good = deployment(
        json!({"serviceAccountName": "a", "containers": [{"name": "c", "image": "i", "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 9000}], "resources": {"limits": {"cpu": "100m", "memory": 1024}},
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 1},
        "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "secret": {"secretName": "s"}}, {"name": "w", "csi": {"driver": "x", "any": 1}}]}),
    );
    assert_eq!(schema.prune(&mut good), Vec::<String>::new());
    assert_eq!(messages(&schema, &good), Vec::<String>::new());

    let mut odd = deployment(
        json!({"containers": [{"name": "c", "image": "i", "prts": [], "env": [{"name": "a", "vlue": "b"}]}], "nodeNam": "x"}),
    );
    odd["extra"] = json!(1);
    assert_eq!(
        schema.prune(&mut odd),
        vec![
            "extra",
            "spec.template.spec.containers[0].env[0].vlue",
            "spec.template.spec.containers[0].prts",
            "spec.template.spec.nodeNam"
        ]
    );
    let fields = |pod: Value| -> Vec<String> {
        schema.validate(&deployment(pod)).into_iter().map(|cause| cause.field).collect()
    };
    assert_eq!(
        fields(json!({"containers": [{"name": "", "image": "i"}]})),
        vec!["spec.template.spec.containers[0].name"]
    );
    assert_eq!(fields(json!({})), vec!["spec.template.spec.containers"]);
    assert_eq!(
        fields(
            json!({"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Sometimes", "resources": {"limits": {"cpu": "lots"}}}]})
        ),
        vec![
            "spec.template.spec.containers[0].imagePullPolicy",
            "spec.template.spec.containers[0].resources.limits.cpu"
        ]
    );
}

#[test]
fn every_stored_builtin_kind_but_definitions_has_a_schema() {
    for kind in Kinds::builtin().iter() {
        let schema = &kind.versions[0].schema;
        let is_made = kind.verbs.contains(&"create");
        assert!(!is_made || schema.is_some() == (kind.plural != "customresourcedefinitions"), "{}", kind.plural);
    }
}

#[test]
fn faults_have_their_places_and_what_may_have_been_meant() {
    let schema = Schema::builtin("apps/v1", "Deployment").unwrap();
    let container = json!({"name": "c", "image": "i", "imagePullpolicy": "Always", "replicas": 2, "hostNetwork": true,
        "ports": [{"containerPort": "80", "protocol": "tcp"}], "env": [{"name": "A", "value": 1}],
        "resources": {"limits": {"cpu": "a lot", "example.com/gpu": 1}}, "containerPort": 1});
    let mut object = deployment(
        json!({"containers": [container], "nodeSelector": {"a.b/c": true}, "volumes": [{"name": "v", "csi": {"any": 1}}]}),
    );
    object["metadata"]["label"] = json!({});
    object["spec"]["selector"] = Value::Null;
    object["spec"]["strategy"] = json!({"$patch": "replace", "type": ""});
    let found: Vec<String> = schema
        .faults(&object)
        .into_iter()
        .map(|fault| match fault.wrong {
            Wrong::Unknown { field, known, elsewhere } => {
                assert!(!known.contains(&field) && !known.is_empty());
                format!("{}: unknown {field}, {elsewhere:?}", fault.path)
            }
            Wrong::Type { wanted, found } => format!("{}: {wanted}, not {found}", fault.path),
            Wrong::Word { found, known } => format!("{}: {found} of {}", fault.path, known.join(" ")),
        })
        .collect();
    let pod = "spec.template.spec";
    let expected = [
        "metadata.label: unknown label, None".to_owned(),
        "spec.strategy.$patch: unknown $patch, None".to_owned(),
        format!("{pod}.containers[0].imagePullpolicy: unknown imagePullpolicy, None"),
        format!("{pod}.containers[0].replicas: unknown replicas, None"),
        format!("{pod}.containers[0].hostNetwork: unknown hostNetwork, Some(Above)"),
        format!("{pod}.containers[0].ports[0].containerPort: integer, not string"),
        format!("{pod}.containers[0].ports[0].protocol: tcp of SCTP TCP UDP"),
        format!("{pod}.containers[0].env[0].value: string, not integer"),
        format!("{pod}.containers[0].resources.limits.cpu: quantity such as 100m or 64Mi, not string"),
        format!("{pod}.containers[0].containerPort: unknown containerPort, Some(Below(\"ports\"))"),
        format!("{pod}.nodeSelector[a.b/c]: string, not boolean"),
    ];
    let (mut found, mut expected) = (found, expected.to_vec());
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let template = Schema::pod_template();
    assert_eq!(template.faults(&json!({"metadata": {}, "spec": {"containers": []}})), vec![]);
    assert_eq!(template.faults(&json!({"spec": {"container": []}})).len(), 1);
    let Wrong::Unknown { elsewhere, .. } = &template.faults(&json!({"metadata": {"containers": []}}))[0].wrong else {
        panic!()
    };
    assert_eq!(elsewhere, &Some(Elsewhere::Beside("spec".to_owned())));
    let many: serde_json::Map<String, Value> = (0..1000).map(|n| (format!("f{n}"), json!(1))).collect();
    assert_eq!(template.faults(&json!({ "spec": many })).len(), FINDINGS_MAX);
}
