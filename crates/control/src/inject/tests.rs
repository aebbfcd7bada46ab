//! What injection adds, whom it leaves alone, and who counts as injected.

use serde_json::{Value, json};

use super::{
    DEFAULT_REVISION, Error, IMAGE_REPOSITORY, Options, Outcome, Owner, STATUS_ANNOTATION, Skip, Wish, inject_pod,
    is_injected, is_virtual, wish,
};

fn plain() -> Value {
    json!({
        "metadata": { "labels": { "app": "tcp-echo", "version": "v1" } },
        "spec": { "containers": [{ "name": "tcp-echo", "image": "x", "ports": [{ "containerPort": 9000 }] }] },
    })
}

fn owner() -> Owner {
    Owner {
        name: "tcp-echo".to_owned(),
        api_version: "apps/v1".to_owned(),
        plural: "deployments".to_owned(),
        namespace: Some("foo".to_owned()),
    }
}

fn inject(pod: &mut Value) -> Result<Outcome, Error> {
    inject_pod(pod, "deployment/tcp-echo", &owner(), &Options::default())
}

fn injected() -> Value {
    let mut pod = plain();
    assert_eq!(inject(&mut pod), Ok(Outcome::Injected(Vec::new())));
    pod
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    super::containers(pod, list).map(|one| super::name_of(one).to_owned()).collect()
}

#[test]
fn labels_annotations_containers_and_volumes_are_those_of_istio() {
    let pod = injected();
    let at = |pointer: &str| pod.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(
        at("/metadata/labels"),
        json!({
            "app": "tcp-echo", "version": "v1", "security.istio.io/tlsMode": "istio",
            "service.istio.io/canonical-name": "tcp-echo", "service.istio.io/canonical-revision": "v1",
        })
    );
    assert_eq!(at("/metadata/annotations/kubectl.kubernetes.io~1default-container"), json!("tcp-echo"));
    assert_eq!(at("/metadata/annotations/kubectl.kubernetes.io~1default-logs-container"), json!("tcp-echo"));
    assert_eq!(at("/metadata/annotations/istio.io~1rev"), json!("default"));
    assert_eq!(at("/metadata/annotations/prometheus.io~1port"), json!("15020"));
    let status: Value =
        serde_json::from_str(at("/metadata/annotations/sidecar.istio.io~1status").as_str().unwrap()).unwrap();
    assert_eq!(status["initContainers"], json!(["istio-init", "istio-proxy"]));
    assert_eq!(status["containers"], json!([]));
    assert_eq!(status["revision"], json!("default"));
    assert_eq!(names(&pod, "initContainers"), ["istio-init", "istio-proxy"]);
    assert_eq!(names(&pod, "containers"), ["tcp-echo"]);
    assert_eq!(
        at("/spec/initContainers/0/args"),
        json!([
            "istio-iptables",
            "-p",
            "15001",
            "-z",
            "15006",
            "-u",
            "1337",
            "-m",
            "REDIRECT",
            "-i",
            "*",
            "-x",
            "",
            "-b",
            "*",
            "-d",
            "15090,15021,15020",
            "--log_output_level=default:info"
        ])
    );
    assert_eq!(at("/spec/initContainers/0/securityContext/capabilities/add"), json!(["NET_ADMIN", "NET_RAW"]));
    assert_eq!(at("/spec/initContainers/1/restartPolicy"), json!("Always"));
    assert_eq!(at("/spec/initContainers/1/securityContext/runAsUser"), json!(1337));
    assert_eq!(at("/spec/initContainers/1/securityContext/readOnlyRootFilesystem"), json!(true));
    assert_eq!(at("/spec/initContainers/1/startupProbe/httpGet"), json!({ "path": "/healthz/ready", "port": 15021 }));
    assert_eq!(at("/spec/initContainers/1/ports/0/containerPort"), json!(15090));
    let volumes: Vec<&str> = pod["spec"]["volumes"].as_array().unwrap().iter().map(super::name_of).collect();
    assert_eq!(json!(volumes), status["volumes"]);
    assert_eq!(at("/spec/volumes/6/projected/sources/0/serviceAccountToken/expirationSeconds"), json!(43200));
}

#[test]
fn every_mount_of_the_proxy_has_its_volume() {
    let pod = injected();
    for mount in pod["spec"]["initContainers"][1]["volumeMounts"].as_array().unwrap() {
        assert!(super::sidecar::VOLUMES.contains(&super::name_of(mount)), "{mount}");
    }
}

#[test]
fn what_the_pod_says_itself_stays() {
    let mut pod = plain();
    pod["metadata"]["labels"]["service.istio.io/canonical-name"] = json!("own");
    pod["metadata"]["annotations"] =
        json!({ "prometheus.io/port": "9", "kubectl.kubernetes.io/default-container": "side" });
    pod["spec"]["initContainers"] = json!([{ "name": "first", "image": "x" }]);
    pod["spec"]["volumes"] = json!([{ "name": "own", "emptyDir": {} }]);
    assert!(matches!(inject(&mut pod), Ok(Outcome::Injected(_))));
    assert_eq!(pod["metadata"]["labels"]["service.istio.io/canonical-name"], json!("own"));
    assert_eq!(pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], json!("side"));
    assert_eq!(pod["metadata"]["annotations"].get("prometheus.io/scrape"), None, "its own metrics are not covered up");
    assert_eq!(names(&pod, "initContainers"), ["istio-init", "istio-proxy", "first"]);
    assert_eq!(pod["spec"]["volumes"][0]["name"], json!("own"));
}

#[test]
fn the_canonical_name_comes_from_the_first_label_that_is_there() {
    for (labels, name, revision) in [
        (json!({}), "tcp-echo", "latest"),
        (json!({ "app": "a" }), "a", "latest"),
        (
            json!({ "app": "a", "app.kubernetes.io/name": "b", "version": "1", "app.kubernetes.io/version": "2" }),
            "b",
            "2",
        ),
    ] {
        let mut pod = plain();
        pod["metadata"]["labels"] = labels;
        inject(&mut pod).unwrap();
        assert_eq!(pod["metadata"]["labels"]["service.istio.io/canonical-name"], json!(name));
        assert_eq!(pod["metadata"]["labels"]["service.istio.io/canonical-revision"], json!(revision));
    }
}

#[test]
fn annotations_change_arguments_and_sizes_and_say_what_has_no_effect() {
    let mut pod = plain();
    pod["metadata"]["annotations"] = json!({
        "traffic.sidecar.istio.io/excludeInboundPorts": "22",
        "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8,fd00::/8",
        "traffic.sidecar.istio.io/excludeOutboundPorts": "5432",
        "sidecar.istio.io/proxyCPU": "10m",
        "sidecar.istio.io/agentLogLevel": "default:debug",
        "status.sidecar.istio.io/port": "15099",
        "sidecar.istio.io/proxyImage": "other/image",
    });
    let Ok(Outcome::Injected(notes)) = inject(&mut pod) else { panic!() };
    let args = pod["spec"]["initContainers"][0]["args"].to_string();
    assert!(
        args.contains("\"-d\",\"15090,15021,15020,22\"") && args.contains("\"-i\",\"10.0.0.0/8,fd00::/8\""),
        "{args}"
    );
    assert!(args.contains("\"-o\",\"5432\""), "{args}");
    let proxy = &pod["spec"]["initContainers"][1];
    assert_eq!(proxy["resources"]["requests"]["cpu"], json!("10m"));
    assert_eq!(proxy["startupProbe"]["httpGet"]["port"], json!(15099));
    assert_eq!(proxy["image"], json!(Options::default().image), "the proxy is ours whatever the pod says");
    assert_eq!(notes.len(), 4, "{notes:?}");
    assert!(notes[0].contains("excludeInboundPorts") && notes[0].contains("has no effect"), "{notes:?}");
}

#[test]
fn a_classic_sidecar_and_one_without_redirection() {
    let mut pod = plain();
    pod["metadata"]["annotations"] =
        json!({ "sidecar.istio.io/nativeSidecar": "false", "sidecar.istio.io/interceptionMode": "NONE" });
    inject(&mut pod).unwrap();
    assert_eq!(names(&pod, "containers"), ["tcp-echo", "istio-proxy"]);
    assert_eq!(pod["spec"].get("initContainers"), None);
    assert_eq!(pod["spec"]["containers"][1].get("restartPolicy"), None);
    assert!(is_injected(&pod));
    assert!(is_virtual(&pod, "istio-proxy") && !is_virtual(&pod, "tcp-echo"));
}

#[test]
fn bad_annotations_are_refused_and_nothing_changes() {
    for (key, value) in [
        ("traffic.sidecar.istio.io/excludeInboundPorts", "http"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "1,70000"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/33"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.1"),
        ("sidecar.istio.io/interceptionMode", "redirect"),
        ("sidecar.istio.io/nativeSidecar", "yes"),
        ("sidecar.istio.io/proxyMemory", "lots"),
        ("status.sidecar.istio.io/port", "0x10"),
    ] {
        let mut pod = plain();
        pod["metadata"]["annotations"] = json!({ key: value });
        let before = pod.clone();
        let error = inject(&mut pod).unwrap_err();
        assert!(matches!(&error, Error::Annotation { annotation, .. } if annotation == key), "{error:?}");
        assert!(error.to_string().contains(value) && error.to_string().contains("deployment/tcp-echo"), "{error}");
        assert_eq!(pod, before);
    }
}

#[test]
fn injection_is_idempotent_and_leaves_some_pods_alone() {
    let mut again = injected();
    assert_eq!(inject(&mut again), Ok(Outcome::Skipped(Skip::AlreadyInjected)));
    assert_eq!(again, injected());

    let mut host = plain();
    host["spec"]["hostNetwork"] = json!(true);
    assert_eq!(inject(&mut host), Ok(Outcome::Skipped(Skip::HostNetwork)));
    let mut refused = plain();
    refused["metadata"]["annotations"] = json!({ "sidecar.istio.io/inject": "false" });
    assert_eq!(inject(&mut refused), Ok(Outcome::Skipped(Skip::Refused)));
    refused["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("true");
    assert!(matches!(inject(&mut refused), Ok(Outcome::Injected(_))), "the label beats the annotation");
}

#[test]
fn a_container_of_the_users_with_our_name_is_refused() {
    for (list, name, image) in [
        ("containers", "istio-proxy", "docker.io/istio/proxyv2:1.20"),
        ("initContainers", "istio-init", "busybox"),
        ("containers", "istio-proxy", "tidegate/proxyish"),
        ("containers", "istio-proxy", "evil/tidegate/proxy"),
        // Ours, but the annotation was taken out: nobody can tell what else was.
        ("containers", "istio-proxy", "tidegate/proxy"),
    ] {
        let mut pod = plain();
        let one = json!({ "name": name, "image": image });
        match pod["spec"].get_mut(list) {
            Some(Value::Array(all)) => all.push(one),
            _ => pod["spec"][list] = json!([one]),
        }
        assert!(!is_injected(&pod));
        assert!(!is_virtual(&pod, name));
        let error = inject(&mut pod).unwrap_err();
        assert!(error.to_string().contains(image) && error.to_string().contains(name), "{error}");
    }
}

type Breakage = (&'static str, fn(&mut Value));

#[test]
fn imitations_that_are_not_complete_are_not_in_the_mesh() {
    let good = injected();
    assert!(is_injected(&good));
    let breakages: [Breakage; 9] = [
        ("no annotation", |pod| {
            drop(pod["metadata"]["annotations"].as_object_mut().unwrap().remove(STATUS_ANNOTATION));
        }),
        ("not JSON", |pod| pod["metadata"]["annotations"][STATUS_ANNOTATION] = json!("injected")),
        ("a number", |pod| pod["metadata"]["annotations"][STATUS_ANNOTATION] = json!("1")),
        ("not a string", |pod| pod["metadata"]["annotations"][STATUS_ANNOTATION] = json!({})),
        ("names nothing", |pod| pod["metadata"]["annotations"][STATUS_ANNOTATION] = json!("{}")),
        ("names the wrong one", |pod| {
            pod["metadata"]["annotations"][STATUS_ANNOTATION] = json!("{\"containers\":[\"istio-proxy\"]}");
        }),
        ("lists are not lists", |pod| {
            pod["metadata"]["annotations"][STATUS_ANNOTATION] = json!("{\"initContainers\":\"istio-proxy\"}");
        }),
        ("another image", |pod| pod["spec"]["initContainers"][1]["image"] = json!("x")),
        ("a container gone", |pod| pod["spec"]["initContainers"] = json!([])),
    ];
    for (what, breakage) in breakages {
        let mut pod = good.clone();
        breakage(&mut pod);
        assert!(!is_injected(&pod), "{what}");
        assert!(!is_virtual(&pod, "istio-proxy"), "{what}");
    }
}

#[test]
fn a_second_container_with_our_name_and_another_image_undoes_membership() {
    let mut pod = injected();
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({ "name": "istio-proxy", "image": "x" }));
    assert!(!is_injected(&pod));
}

#[test]
fn whoever_writes_all_of_it_by_hand_has_joined() {
    let pod = json!({
        "metadata": { "annotations": { STATUS_ANNOTATION: "{\"containers\":[\"istio-proxy\"],\"initContainers\":null}" } },
        "spec": { "containers": [{ "name": "istio-proxy", "image": format!("{IMAGE_REPOSITORY}@sha256:00") }] },
    });
    assert!(is_injected(&pod));
}

#[test]
fn which_pods_are_injected_at_creation() {
    let yes = || Wish::Inject { revision: DEFAULT_REVISION.to_owned() };
    let canary = || Wish::Inject { revision: "canary".to_owned() };
    let no = |skip| Wish::Leave(skip);
    let none = json!({});
    let label = |value: &str| json!({ "labels": { "sidecar.istio.io/inject": value } });
    let annotation = |value: &str| json!({ "annotations": { "sidecar.istio.io/inject": value } });
    let rev = json!({ "labels": { "istio.io/rev": "canary" } });
    let enabled = json!({ "istio-injection": "enabled" });
    let revision = json!({ "istio.io/rev": "canary" });
    let disabled = json!({ "istio-injection": "disabled", "istio.io/rev": "canary" });
    for (labels, metadata, expected) in [
        (&enabled, &none, yes()),
        (&enabled, &label("false"), no(Skip::Refused)),
        (&enabled, &annotation("false"), no(Skip::Refused)),
        (&enabled, &label("no"), yes()),
        (
            &enabled,
            &json!({ "labels": { "sidecar.istio.io/inject": "true" }, "annotations": { "sidecar.istio.io/inject": "false" } }),
            yes(),
        ),
        (&revision, &none, canary()),
        (&revision, &label("false"), no(Skip::Refused)),
        (&json!({ "istio-injection": "enabled", "istio.io/rev": "canary" }), &none, yes()),
        (&disabled, &label("true"), no(Skip::NotAsked)),
        (&json!({ "istio-injection": "on" }), &label("true"), no(Skip::NotAsked)),
        (&none, &none, no(Skip::NotAsked)),
        (&none, &label("true"), yes()),
        (&none, &label("True"), no(Skip::NotAsked)),
        (&none, &annotation("true"), no(Skip::NotAsked)),
        (&none, &rev, canary()),
    ] {
        assert_eq!(wish("foo", labels, &json!({ "metadata": metadata })), expected, "{labels} {metadata}");
    }
    assert_eq!(wish("kube-system", &enabled, &json!({})), no(Skip::SystemNamespace));
}
