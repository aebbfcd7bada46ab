//! Manifests in, manifests out, against files in `tests/golden/inject`; `UPDATE_EXPECT=1` writes them anew.
#![cfg(test)]

use std::path::PathBuf;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::proptest;

use control::inject::{Error, Options, inject_manifest, is_injected};
use serde_json::Value;

fn options() -> Options {
    // The version of the image must not change the goldens with every release.
    Options { image: "tidegate/proxy:test".to_owned(), ..Options::default() }
}

fn inject(text: &str) -> String {
    inject_manifest(text, &options()).unwrap().text
}

fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inject").join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; look at it, then UPDATE_EXPECT=1", path.display());
}

fn sample(name: &str) -> &'static str {
    control::samples::FILES.iter().find(|(path, _)| *path == name).unwrap().1
}

fn values(text: &str) -> Vec<Value> {
    let all = api::yaml::documents(text);
    for document in &all {
        assert!(document.fatal().is_none(), "{text}\n{:?}", document.fatal());
    }
    all.into_iter().filter(|document| !document.is_empty()).map(|document| document.value).collect()
}

#[test]
fn the_samples() {
    for name in ["tcp-echo", "sleep"] {
        let text = inject(sample(&format!("{name}/{name}.yaml")));
        golden(&format!("{name}.yaml"), &text);
        assert_eq!(inject(&text), text, "a second time changes nothing");
        for line in sample(&format!("{name}/{name}.yaml")).lines().filter(|line| *line != "---") {
            assert!(text.contains(line), "what was there stays: {line}");
        }
        let deployment = values(&text).pop().unwrap();
        assert!(is_injected(&deployment["spec"]["template"]));
    }
}

#[test]
fn comments_quotes_and_blank_lines_stay() {
    let text = "# front\n\napiVersion: apps/v1   # why\nkind: Deployment\nmetadata: {name: 'a'}\nspec:\n  template:\n    metadata:\n\
                \x20     labels:   # of the pod\n        app: \"a\"   # quoted\n    # before the spec\n    spec:\n      # the first\n\
                \x20     initContainers:\n      # made early\n      - name: early\n        image: x\n      containers:\n      -   image: y\n\
                \x20         name: a\n          args: [one, 'two']   # flow\n# the end\n";
    let out = inject(text);
    golden("comments.yaml", &out);
    for line in text.lines() {
        assert!(out.contains(line), "{line}");
    }
    assert_eq!(inject(&out), out);
}

#[test]
fn what_is_no_workload_comes_out_as_it_went_in() {
    let text = "%YAML 1.2\n---\n# a map\nkind: ConfigMap\napiVersion: v1\ndata: {b: |-\n }\n";
    assert!(inject_manifest(text, &options()).is_err(), "a block in flow is not YAML");
    let text = "# a map\nkind: ConfigMap\napiVersion: v1\ndata:\n  a: |\n    ---x\n    kind: Pod\n\n---\n\n\n---\n# only words\n---\nkind: Deployment\napiVersion: example.org/v1\n";
    let out = inject(text);
    let expected = "# a map\nkind: ConfigMap\napiVersion: v1\ndata:\n  a: |\n    ---x\n    kind: Pod\n\n---\n# only words\nkind: Deployment\napiVersion: example.org/v1\n---\n";
    assert_eq!(out, expected);
    assert_eq!(inject(&out), out);
    assert_eq!(inject(""), "");
    assert_eq!(inject("\n---\n"), "");
}

#[test]
fn every_kind_of_workload_and_lists_of_them() {
    let pod = "{metadata: {labels: {app: a}}, spec: {containers: [{name: a, image: x}]}}";
    for (kind, version, body, path) in [
        ("Pod", "v1", "metadata: {name: a}, spec: {containers: [{name: a, image: x}]}".to_owned(), ""),
        ("ReplicationController", "v1", format!("spec: {{template: {pod}}}"), "/spec/template"),
        ("Deployment", "apps/v1", format!("spec: {{template: {pod}}}"), "/spec/template"),
        ("ReplicaSet", "apps/v1", format!("spec: {{template: {pod}}}"), "/spec/template"),
        ("StatefulSet", "apps/v1", format!("spec: {{template: {pod}}}"), "/spec/template"),
        ("DaemonSet", "apps/v1", format!("spec: {{template: {pod}}}"), "/spec/template"),
        ("Job", "batch/v1", format!("spec: {{template: {pod}}}"), "/spec/template"),
        (
            "CronJob",
            "batch/v1",
            format!("spec: {{jobTemplate: {{spec: {{template: {pod}}}}}}}"),
            "/spec/jobTemplate/spec/template",
        ),
    ] {
        let one = format!("{{kind: {kind}, apiVersion: {version}, {body}}}");
        let out = inject(&one);
        assert!(is_injected(values(&out)[0].pointer(path).unwrap()), "{kind}\n{out}");
        assert_eq!(inject(&out), out, "{kind}");
        let list = format!("kind: List\napiVersion: v1\nitems:\n- {one}\n- kind: Service\n  apiVersion: v1\n");
        let out = inject(&list);
        assert!(is_injected(values(&out)[0]["items"][0].pointer(path).unwrap()), "{kind}\n{out}");
        assert_eq!(values(&out)[0]["items"][1]["kind"], "Service");
        assert_eq!(inject(&out), out, "{kind}");
    }
}

#[test]
fn json_stays_json() {
    let text =
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"x"}]}}"#;
    let out = inject(text);
    let json = out.strip_suffix("---\n").unwrap();
    assert!(is_injected(&serde_json::from_str(json).unwrap()));
    assert_eq!(inject(&out), out);
}

#[test]
fn a_list_inside_which_text_can_be_added_keeps_its_comments() {
    let text = "kind: List\napiVersion: v1\nitems:\n# first\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: a\n  spec:\n    containers:\n    - name: a   # here\n      image: x\n# second\n- kind: Service\n  apiVersion: v1\n";
    let out = inject(text);
    golden("list.yaml", &out);
    for line in text.lines() {
        assert!(out.contains(line), "{line}");
    }
}

#[test]
fn messages_say_what_was_left_alone_and_why() {
    let pod = |extra: &str| {
        format!(
            "kind: Pod\napiVersion: v1\nmetadata:\n  name: a\n{extra}\nspec:\n  containers: [{{name: a, image: x}}]\n"
        )
    };
    for (text, expected) in [
        (
            pod("  annotations: {sidecar.istio.io/inject: 'false'}"),
            "pod/a: not injected: `sidecar.istio.io/inject` says \"false\"",
        ),
        (pod("  namespace: kube-system"), "pod/a: not injected: its namespace belongs to the system"),
        (
            pod("").replace("spec:", "spec:\n  hostNetwork: true"),
            "pod/a: not injected: it uses the network of the node (`hostNetwork: true`)",
        ),
    ] {
        let out = inject_manifest(&text, &options()).unwrap();
        assert_eq!(out.messages, [expected]);
        assert_eq!(out.text, format!("{text}---\n"), "and not a byte is changed");
    }
    let twice = inject_manifest(&inject(&pod("")), &options()).unwrap();
    assert_eq!(twice.messages, ["pod/a: not injected: it is injected already"]);
}

#[test]
fn errors_say_where() {
    let error = inject_manifest("kind: Pod\nmetadata: {\n", &options()).unwrap_err().to_string();
    assert!(error.starts_with("line ") && error.contains(", column "), "{error}");
    let error = inject_manifest("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: a}\nspec: {}\n", &options())
        .unwrap_err();
    assert_eq!(error, Error::NoPod { object: "deployment/a".to_owned(), path: "spec.template".to_owned() });
    let foreign = "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {containers: [{name: istio-proxy, image: docker.io/istio/proxyv2}]}\n";
    let error = inject_manifest(foreign, &options()).unwrap_err().to_string();
    assert!(error.contains("pod/a") && error.contains("docker.io/istio/proxyv2"), "{error}");
}

/// What a strict API server says about an object, with the defaults of its kind applied.
fn told_by_the_server(mut object: Value) -> Vec<String> {
    let kinds = api::Kinds::builtin();
    let whole = api::Object::new(object.clone()).unwrap();
    let kind = kinds.of_object(&whole).unwrap_or_else(|| panic!("{} is served", whole.kind()));
    let schema = kind.version(whole.version()).unwrap().schema.clone();
    let unknown = schema.as_ref().map(|schema| schema.prune(&mut object)).unwrap_or_default();
    let mut stored = api::Object::new(object).unwrap();
    stored.set("/metadata/namespace", "foo");
    api::defaults::apply(&mut stored);
    let refused = api::validate::validate(kind, &stored, None).err().map(|status| status.to_string());
    unknown.into_iter().chain(refused).collect()
}

#[test]
fn a_strict_api_server_takes_what_comes_out() {
    for name in ["tcp-echo", "sleep"] {
        for object in values(&inject(sample(&format!("{name}/{name}.yaml")))) {
            assert_eq!(told_by_the_server(object), Vec::<String>::new(), "{name}");
        }
    }
    let mut pod = values("{kind: Pod, apiVersion: v1, metadata: {name: a, annotations: {sidecar.istio.io/nativeSidecar: 'false'}}, spec: {containers: [{name: a, image: x}]}}").remove(0);
    pod = values(&inject(&pod.to_string())).remove(0);
    assert!(is_injected(&pod));
    assert_eq!(told_by_the_server(pod.clone()), Vec::<String>::new());
    pod["spec"]["containers"][1]["notAField"] = Value::from(1);
    assert_eq!(told_by_the_server(pod).len(), 1, "the check itself sees what is wrong");
}

/// A pod as YAML lines at column 0, in many ways of writing.
fn pod() -> impl Strategy<Value = String> {
    let metadata = prop_oneof![
        Just(""),
        Just("metadata:\n  labels:\n    app: a   # what\n"),
        Just("metadata: {labels: {app: 'a', version: \"v 1\"}}\n"),
        Just("metadata:\n    annotations:\n        sidecar.istio.io/inject: \"false\"\n"),
        Just(
            "metadata:\n  annotations:\n    prometheus.io/scrape: \"false\"\n    note: |\n      two\n\n      lines\n\n"
        ),
        Just("metadata:\n  annotations: null\n  labels:\n"),
        Just("metadata:\n  annotations:\n    sidecar.istio.io/nativeSidecar: \"false\"\n"),
    ];
    let early = prop_oneof![
        Just(""),
        Just("  initContainers:\n  # first\n  - name: e\n    image: x\n"),
        Just("  initContainers:\n    -   name: e\n        image: x\n"),
        Just("  initContainers: [{name: e, image: x}]\n"),
        Just("  initContainers: []\n"),
    ];
    let containers = prop_oneof![
        Just("  containers:\n  - name: a\n    image: x\n    args: [\"1\", two]\n"),
        Just("  containers: [{name: a, image: x}]\n"),
        Just("  containers:\n    - image: &i x\n      name: a\n    - {name: b, image: *i}\n"),
        Just("  containers:\n  -\n    name: a\n    command:\n    - sh\n    - -c\n    - >-\n      echo\n      one\n"),
    ];
    let rest = prop_oneof![
        Just(""),
        Just("  volumes:\n  - name: v\n    emptyDir: {}\n"),
        Just("  volumes:   # none\n"),
        Just("  hostNetwork: true\n"),
        Just("  # the end\n"),
        Just("  volumes:\n  - name: istio-token\n    emptyDir: {}\n"),
    ];
    (metadata, early, containers, rest, any::<bool>()).prop_map(|(metadata, early, containers, rest, late)| {
        let spec = if late { format!("{containers}{early}") } else { format!("{early}{containers}") };
        format!("{metadata}spec:\n{spec}{rest}")
    })
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{:by$}{line}\n", "") }).collect()
}

fn document() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => pod().prop_map(|pod| format!("apiVersion: v1\nkind: Pod\n{pod}")),
        4 => pod().prop_map(|pod| format!("kind: Deployment\napiVersion: apps/v1\nspec:\n  template:\n{}", indented(&pod, 4))),
        2 => pod().prop_map(|pod| format!("kind: List\napiVersion: v1\nitems:\n- kind: Pod\n  apiVersion: v1\n{}", indented(&pod, 2))),
        1 => Just("kind: Service\napiVersion: v1\n# bare\n".to_owned()),
        1 => Just("# words only\n".to_owned()),
        1 => Just(String::new()),
        1 => Just("{\"kind\": \"Pod\", \"apiVersion\": \"v1\", \"spec\": {\"containers\": []}}\n".to_owned()),
        1 => Just("kind: ConfigMap\napiVersion: v1\ndata:\n  a: |+\n    keep\n\n\n".to_owned()),
    ]
}

fn stream() -> impl Strategy<Value = String> {
    let separator =
        prop_oneof![3 => Just("---\n"), 1 => Just("--- # next\n"), 1 => Just("...\n---\n"), 1 => Just("\n---\n\n")];
    let part = (separator, document());
    (document(), proptest::collection::vec(part, 0..4), any::<bool>(), any::<bool>()).prop_map(
        |(first, more, marked, cut)| {
            let mut text = if marked { format!("---\n{first}") } else { first };
            for (separator, document) in more {
                text.push_str(separator);
                text.push_str(&document);
            }
            if cut { text.trim_end().to_owned() } else { text }
        },
    )
}

/// The pod of an object, wherever it is, and those of a list.
fn pods(value: &Value) -> Vec<&Value> {
    match value["kind"].as_str() {
        Some("Pod") => vec![value],
        Some("Deployment") => vec![&value["spec"]["template"]],
        Some("List") => value["items"].as_array().unwrap().iter().flat_map(pods).collect(),
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn injecting_twice_is_injecting_once(text in stream()) {
        let once = inject(&text);
        assert!(inject(&once) == once, "from\n{text}");
    }

    #[test]
    fn nothing_is_lost_and_every_willing_pod_is_in_the_mesh(text in stream()) {
        let (before, after) = (values(&text), values(&inject(&text)));
        assert_eq!(before.len(), after.len(), "{text}");
        for (before, after) in before.iter().zip(&after) {
            for (before, after) in pods(before).into_iter().zip(pods(after)) {
                let annotation = before.pointer("/metadata/annotations/sidecar.istio.io~1inject");
                let willing = annotation.is_none() && before["spec"].get("hostNetwork").is_none();
                assert_eq!(is_injected(after), willing, "{after}");
                assert!(willing || before == after);
                for list in ["containers", "initContainers"] {
                    for container in before["spec"][list].as_array().into_iter().flatten() {
                        assert!(after["spec"][list].as_array().unwrap().contains(container), "{container} of {text}");
                    }
                }
            }
            if pods(before).is_empty() {
                assert_eq!(before, after);
            }
        }
    }
}
