//! Objects with anything anywhere: nothing here may fail, and nothing broken may weaken a policy.
#![cfg(test)]

#[path = "golden/fixture.rs"]
mod fixture;

use api::admission::{Admission, Operation};
use control::admission::Gate;
use control::inject::{Options, Owner, inject_manifest, inject_pod, is_injected, wish};
use control::status::{Report, Statuses};
use control::translate::Translator;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::{prop_assert, proptest};
use serde_json::{Value, json};

use fixture::{key, mesh, object, put};

fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!("")),
        Just(json!("*")),
        Just(json!("10.0.0.1")),
        Just(json!("{\"containers\":[\"istio-proxy\"]}")),
        Just(json!("tidegate: {profile: 3}\n- [")),
        "[\\PC\u{0}\n]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec(("[a-zA-Z./]{0,8}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                places(inner, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                places(inner, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

const WHOLE: [&str; 7] = [
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: foo, uid: u, resourceVersion: '1', labels: {}, annotations: {istio.io/dry-run: 'false'}}, \
      spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [{from: [{source: {principals: [a], notNamespaces: [b], ipBlocks: [10.0.0.0/8], serviceAccounts: [x]}}], \
      to: [{operation: {ports: ['80'], methods: [GET]}}], when: [{key: source.ip, values: ['10.0.0.1'], notValues: []}]}]}, status: {conditions: [{type: Accepted, status: 'True'}]}}",
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: foo, creationTimestamp: x}, spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: DISABLE}}}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: q, namespace: foo, labels: {app: a}, annotations: {sidecar.istio.io/status: '{\"initContainers\":[\"istio-proxy\"]}', sidecar.istio.io/proxyCPU: '1'}, \
      ownerReferences: [{kind: ReplicaSet, name: x, controller: true}]}, spec: {hostNetwork: false, serviceAccountName: s, containers: [{name: a, image: x, ports: [{name: http, containerPort: 80}]}], \
      initContainers: [{name: istio-proxy, image: tidegate/proxy}], volumes: [{name: v}]}, status: {phase: Running, podIP: 10.0.0.77, podIPs: [{ip: 10.0.0.77}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: foo, creationTimestamp: x}, spec: {type: ClusterIP, selector: {app: web}, ports: [{port: 80, targetPort: http, protocol: TCP, name: x, appProtocol: y}]}}",
    "{apiVersion: v1, kind: Namespace, metadata: {name: foo, labels: {istio-injection: enabled, istio.io/rev: x}}}",
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'trustDomain: x'}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: foo, annotations: {istio.io/dry-run: 'true'}}, spec: {}}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_fails_whatever_an_object_holds(which in 0..WHOLE.len(), place in any::<proptest::sample::Index>(), with in junk()) {
        let whole = object(WHOLE[which]);
        let mut broken = whole.value().clone();
        let mut all = Vec::new();
        places(&broken, "", &mut all);
        let pointer = &all[place.index(all.len())];
        // What finds the object in the store stays: a store would not have taken it otherwise.
        let fixed = ["", "/apiVersion", "/kind", "/metadata", "/metadata/name", "/metadata/namespace"];
        if !fixed.contains(&pointer.as_str()) {
            *broken.pointer_mut(pointer).unwrap() = with;
        }
        let broken = api::Object::new(broken).unwrap();

        let mut objects = mesh();
        let mut gate = Gate::default();
        for old in [None, Some(&whole)] {
            let operation = if old.is_some() { Operation::Update } else { Operation::Create };
            let admitted = gate.admit(&Admission { operation, key: &key(&broken), subresource: None, old, new: Some(&broken), objects: &objects });
            if let Some(pod) = &admitted.object {
                prop_assert!(is_injected(pod.value()), "what is put in place of a pod is in the mesh");
            }
        }
        put(&mut objects, broken.clone());
        let mut translator = Translator::default();
        let mesh = translator.mesh(&objects);
        Statuses::default().reconcile(&objects, &translator, &mesh, &Report::default(), "2026-01-01T00:00:00Z");
        policy::compile(&mesh, 1, None);

        let mut pod = broken.value().clone();
        let before = pod.clone();
        wish("foo", &Value::Null, &pod);
        match inject_pod(&mut pod, "pod", &Owner::default(), &Options::default()) {
            Ok(control::inject::Outcome::Injected(_)) => prop_assert!(is_injected(&pod)),
            Ok(control::inject::Outcome::Skipped(_)) | Err(_) => prop_assert!(pod == before, "an error leaves it as it was"),
        }
        if let Ok(out) = inject_manifest(&api::yaml::print(broken.value()), &Options::default()) {
            let again = inject_manifest(&out.text, &Options::default()).unwrap();
            prop_assert!(again.text == out.text);
        }
    }

    #[test]
    fn text_that_is_no_manifest_is_an_error_or_stays(text in "[-a-z:{}\\[\\]#'\"&*!|>%\\\\ \t\r\n]{0,60}") {
        if let Ok(out) = inject_manifest(&text, &Options::default()) {
            prop_assert!(inject_manifest(&out.text, &Options::default()).unwrap().text == out.text, "{text:?}");
        }
    }
}
