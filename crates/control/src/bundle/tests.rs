use api::Key;
use policy::{Profile, WorkloadId};

use super::{Bundle, DEFAULT_NAMESPACE, Fault, Text, read};

fn bundle(texts: &[(&str, &str)]) -> Bundle {
    let text = |(name, text): &(&str, &str)| Text { name: (*name).to_owned(), bytes: text.as_bytes().to_vec() };
    read(texts.iter().map(text).collect(), DEFAULT_NAMESPACE)
}

fn one(text: &str) -> Bundle {
    bundle(&[("a.yaml", text)])
}

fn workloads(bundle: &Bundle) -> Vec<(String, bool)> {
    let mesh = bundle.mesh(None, None);
    mesh.workloads.iter().map(|workload| (workload.id.to_string(), workload.in_mesh)).collect()
}

fn template(kind: &str, version: &str, name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  template:\n    metadata:\n      labels: \
         {{app: {name}}}\n      {more}\n    spec:\n      serviceAccountName: runner\n      containers: [{{name: c, image: i}}]\n"
    )
}

#[test]
fn problems_have_a_kind_and_a_place_and_the_rest_is_read() {
    let good = "apiVersion: v1\nkind: Namespace\nmetadata: {name: good}\n";
    let deep = "[".repeat(400);
    let bomb = format!(
        "a: &a [{}]\nb: &b [{}]\nc: &c [{}]\nd: [{}]\n",
        "1,".repeat(99),
        "*a,".repeat(99),
        "*b,".repeat(99),
        "*c,".repeat(99)
    );
    for (text, fault, line, column, words) in [
        (&b"kind: A\n\xff\xfe"[..], Fault::NotText, 2, 1, "UTF-8"),
        (b"\x7fELF\0\0", Fault::NotText, 1, 5, "binary"),
        (b"a: 1\n\tb: 2\n", Fault::Syntax, 1, 4, "tab"),
        (deep.as_bytes(), Fault::Syntax, 1, 121, ""),
        (bomb.as_bytes(), Fault::Syntax, 3, 32, ""),
        (b"kind: {{ .Values.kind }}: x\nname: [", Fault::Syntax, 1, 8, "helm template"),
        (b"apiVersion: v1\nkind: Pod\nmetadata: {name: a, name: b}\n", Fault::DuplicateKey, 3, 21, "twice"),
        (b"apiVersion: v1\nmetadata: {name: a}\n", Fault::Incomplete, 1, 1, "`kind`"),
        (b"kind: Pod\nmetadata: {name: a}\n", Fault::Incomplete, 1, 1, "`apiVersion`"),
        (b"apiVersion: v1\nkind: Pod\nmetadata: {}\n", Fault::Incomplete, 3, 1, "metadata.name"),
        (
            b"apiVersion: security.istio.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n",
            Fault::Version,
            1,
            1,
            "`security.istio.io/v1`",
        ),
        (b"apiVersion: v1\nkind: Pod\nmetadata: {name: no}\n", Fault::Incomplete, 3, 12, "quotes"),
        (b"replicas: 3\n", Fault::NotAnObject, 1, 1, "left out"),
        (b"- 1\n", Fault::NotAnObject, 1, 1, "left out"),
        (b"apiVersion: v2\nname: a-chart\n", Fault::NotAnObject, 1, 1, ""),
    ] {
        let texts = vec![
            Text { name: "bad.yaml".to_owned(), bytes: text.to_vec() },
            Text { name: "good.yaml".to_owned(), bytes: good.as_bytes().to_vec() },
        ];
        let bundle = read(texts, DEFAULT_NAMESPACE);
        let shown = String::from_utf8_lossy(text);
        let [problem] = bundle.problems() else { panic!("{shown}: {:?}", bundle.problems()) };
        let span = &problem.place.span;
        assert_eq!(
            (problem.fault, problem.place.text, span.line, span.column),
            (fault, 0, line, column),
            "{shown} {problem:?}"
        );
        assert!(problem.message.contains(words), "{shown} {problem:?}");
        assert!(bundle.objects().get(&Key::cluster("", "namespaces", "good")).is_some(), "{shown}");
    }
}

#[test]
fn a_broken_document_leaves_the_others_of_its_text() {
    let bundle = one(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n{\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n",
    );
    assert_eq!(bundle.problems().len(), 1);
    let names: Vec<_> = bundle.objects().list("", "namespaces").map(|object| object.name()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn places_are_found_in_lists_and_in_templates() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: ns}\n\
                - apiVersion: security.istio.io/v1\n  kind: AuthorizationPolicy\n  metadata:\n    name: p\n    namespace: ns\n  spec:\n    rules:\n    - to:\n      - operation:\n          ports: [\"1\"]\n";
    let bundle = bundle(&[("list.yaml", list), ("d.yaml", &template("Deployment", "apps/v1", "web", ""))]);
    assert_eq!(bundle.problems(), []);
    let place =
        |key: &Key, path: &str| bundle.place(key, path).map(|place| (place.text, place.span.line, place.span.column));
    let policy = Key::namespaced("security.istio.io", "authorizationpolicies", "ns", "p");
    assert_eq!(place(&policy, "spec.rules[0].to[0].operation.ports"), Some((0, 16, 11)));
    assert_eq!(place(&policy, "spec.rules[7]"), Some((0, 13, 5)), "the deepest part that is there");
    assert_eq!(bundle.value_place(&policy, "spec.rules[7]"), None);
    assert_eq!(place(&policy, ""), Some((0, 7, 3)));
    let value = bundle.value_place(&policy, "spec.rules[0].to[0].operation.ports[0]").unwrap();
    assert_eq!(bundle.texts()[0].text.get(value.span.bytes), Some("\"1\""));
    let pod = Key::namespaced("", "pods", "default", "web");
    assert_eq!(place(&pod, "metadata.labels.app"), Some((1, 8, 16)));
    assert_eq!(place(&Key::cluster("", "namespaces", "gone"), ""), None);
}

#[test]
fn every_kind_with_a_template_stands_for_its_pods() {
    let kinds = [
        ("Deployment", "apps/v1"),
        ("ReplicaSet", "apps/v1"),
        ("StatefulSet", "apps/v1"),
        ("DaemonSet", "apps/v1"),
        ("Job", "batch/v1"),
        ("ReplicationController", "v1"),
    ];
    let mut text: String =
        kinds.iter().map(|(kind, version)| template(kind, version, &kind.to_lowercase(), "")).collect();
    text.push_str(
        "---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: cronjob}\nspec: {jobTemplate: {spec: {template: {metadata: \
         {labels: {app: cronjob}}, spec: {serviceAccountName: runner}}}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: pod, \
         labels: {app: pod}}\nspec: {serviceAccountName: runner}\n",
    );
    let bundle = one(&text);
    assert_eq!(bundle.problems(), []);
    let mesh = bundle.mesh(None, None);
    assert_eq!(mesh.workloads.len(), kinds.len() + 2);
    for workload in &mesh.workloads {
        assert_eq!(workload.labels.get("app"), Some(&workload.id.name));
        assert_eq!((workload.service_account.as_str(), workload.in_mesh), ("runner", true), "{}", workload.id);
        assert!(workload.addresses.is_empty(), "{}", workload.id);
    }
    assert_eq!(mesh.namespaces.into_iter().collect::<Vec<_>>(), ["default"]);
}

#[test]
fn templates_of_one_name_are_two_workloads() {
    let text = template("Deployment", "apps/v1", "db", "") + &template("StatefulSet", "apps/v1", "db", "");
    assert_eq!(workloads(&one(&text)), [("default/db".to_owned(), true), ("default/db-statefulset".to_owned(), true)]);
}

#[test]
fn a_dump_of_a_cluster_has_its_pods_already() {
    let owned = |kind: &str, name: &str| {
        format!("ownerReferences: [{{apiVersion: apps/v1, kind: {kind}, name: {name}, uid: {name}, controller: true}}]")
    };
    let dump = |pod: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: foo, uid: web}}\nspec: {{template: {{spec: {{}}}}}}\n---\n\
             apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: web-1, namespace: foo, uid: web-1, {}}}\nspec: {{template: {{spec: {{}}}}}}\n{pod}",
            owned("Deployment", "web")
        )
    };
    let pod = format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-1-x, namespace: foo, uid: web-1-x, {}}}\nspec: {{}}\nstatus: {{podIP: 10.0.0.1}}\n",
        owned("ReplicaSet", "web-1")
    );
    assert_eq!(
        workloads(&one(&dump(&pod))),
        [("foo/web-1-x".to_owned(), false)],
        "what a cluster stored it would have injected"
    );
    assert_eq!(workloads(&one(&dump(""))), [("foo/web".to_owned(), true)], "the template of one without pods");
}

#[test]
fn manifests_are_in_the_mesh_unless_something_written_keeps_them_out() {
    let pod = |namespace: &str, metadata: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {namespace}, {metadata}}}\nspec: {{{spec}}}\n"
        )
    };
    let namespace = |name: &str, label: &str| {
        format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{label}}}}}\n")
    };
    let labelled = |label: &str| format!("labels: {{{label}}}");
    for (text, expected) in [
        (pod("ns", "", ""), true),
        (namespace("ns", "") + &pod("ns", "", ""), true),
        (namespace("ns", "istio-injection: enabled") + &pod("ns", "", ""), true),
        (namespace("ns", "istio-injection: disabled") + &pod("ns", "", ""), false),
        (namespace("m", "istio-injection: disabled") + &pod("ns", "", ""), true),
        (pod("ns", &labelled("sidecar.istio.io/inject: \"false\""), ""), false),
        (pod("ns", "annotations: {sidecar.istio.io/inject: \"false\"}", ""), false),
        (pod("ns", &labelled("sidecar.istio.io/inject: \"true\""), ""), true),
        (pod("ns", &labelled("istio.io/dataplane-mode: none"), ""), false),
        (namespace("ns", "istio.io/dataplane-mode: none") + &pod("ns", "", ""), false),
        (
            namespace("ns", "istio.io/dataplane-mode: none")
                + &pod("ns", &labelled("istio.io/dataplane-mode: ambient"), ""),
            true,
        ),
        (pod("ns", "", "hostNetwork: true"), false),
        (pod("kube-system", "", ""), false),
    ] {
        let bundle = one(&text);
        assert_eq!(bundle.problems(), [], "{text}");
        assert_eq!(workloads(&bundle).first().map(|workload| workload.1), Some(expected), "{text}");
    }
}

#[test]
fn the_last_of_two_objects_of_one_name_counts() {
    let policy = |action: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {{action: {action}, rules: [{{}}]}}\n"
        )
    };
    let apart = bundle(&[("a.yaml", &policy("ALLOW")), ("b.yaml", &policy("DENY"))]);
    let together = one(&format!("{}---\n{}", policy("ALLOW"), policy("DENY")));
    for (bundle, other, line) in [(apart, 0, 3), (together, 0, 3)] {
        let [problem] = bundle.problems() else { panic!("{:?}", bundle.problems()) };
        assert_eq!(problem.fault, Fault::DuplicateObject);
        let first = problem.other.as_ref().unwrap();
        assert_eq!((first.text, first.span.line), (other, line));
        let mesh = bundle.mesh(None, None);
        assert_eq!(mesh.policies.iter().map(|policy| policy.action.word()).collect::<Vec<_>>(), ["DENY"]);
    }
}

#[test]
fn settings_come_from_the_config_map_and_may_be_given_instead() {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |-\n    trustDomain: a.example\n    tidegate: {profile: ambient}\n";
    let bundle = one(map);
    let shown = |profile, config: Option<&str>| {
        let config = config.map(crate::mesh_config::of_text);
        let settings = bundle.mesh(profile, config.as_ref()).settings;
        (settings.profile, settings.trust_domain)
    };
    assert_eq!(shown(None, None), (Profile::Ambient, "a.example".to_owned()));
    assert_eq!(shown(Some(Profile::Sidecar), None), (Profile::Sidecar, "a.example".to_owned()));
    assert_eq!(shown(None, Some("trustDomain: b.example")), (Profile::Sidecar, "b.example".to_owned()));
}

#[test]
fn a_workload_without_an_address_is_decided_at_both_ends() {
    let text = template("Deployment", "apps/v1", "web", "")
        + "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{from: [{source: {principals: [\"*/sa/runner\"]}}]}]}\n";
    let mesh = one(&text).mesh(None, None);
    let snapshot = policy::compile(&mesh, 1, None);
    let id = WorkloadId::new("default", "web");
    let peer = snapshot.workload(&id).and_then(|state| state.identity().cloned()).map(policy::Peer::Attested).unwrap();
    let zero: std::net::IpAddr = "0.0.0.0".parse().unwrap();
    let decide = |peer| snapshot.decide(&id, &policy::Connection::new(zero, peer, zero, 1)).reason;
    assert_eq!(decide(peer), policy::Reason::AllowMatch);
    assert_eq!(decide(policy::Peer::Anonymous), policy::Reason::AllowNoMatch);
}
