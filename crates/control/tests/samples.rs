//! The samples say what the walkthroughs' texts print, and no more.
#![cfg(test)]

use serde_json::{Value, json};

fn sample(path: &str) -> Vec<Value> {
    let (_, text) = control::samples::FILES.iter().find(|(name, _)| *name == path).unwrap();
    let documents = api::yaml::documents(text);
    assert!(documents.iter().all(|document| document.problems.is_empty()), "{path}");
    documents.into_iter().map(|document| document.value).collect()
}

fn service(name: &str, ports: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "labels": { "app": name, "service": name } },
        "spec": { "ports": ports, "selector": { "app": name } },
    })
}

#[test]
fn tcp_echo() {
    let labels = json!({ "app": "tcp-echo", "version": "v1" });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "tcp-echo" },
        "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels },
            "spec": { "containers": [{
                "name": "tcp-echo", "image": "docker.io/istio/tcp-echo-server:1.2", "imagePullPolicy": "IfNotPresent",
                "args": ["9000,9001,9002", "hello"], "ports": [{ "containerPort": 9000 }, { "containerPort": 9001 }],
            }] },
        } },
    });
    let ports = json!([{ "name": "tcp", "port": 9000 }, { "name": "tcp-other", "port": 9001 }]);
    assert_eq!(sample("tcp-echo/tcp-echo.yaml"), [service("tcp-echo", &ports), deployment]);
}

#[test]
fn sleep() {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "sleep" } });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "sleep" },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "sleep" } }, "template": {
            "metadata": { "labels": { "app": "sleep" } },
            "spec": {
                "terminationGracePeriodSeconds": 0, "serviceAccountName": "sleep",
                "containers": [{
                    "name": "sleep", "image": "curlimages/curl", "command": ["/bin/sleep", "3650d"], "imagePullPolicy": "IfNotPresent",
                    "volumeMounts": [{ "mountPath": "/etc/sleep/tls", "name": "secret-volume" }],
                }],
                "volumes": [{ "name": "secret-volume", "secret": { "secretName": "sleep-secret", "optional": true } }],
            },
        } },
    });
    assert_eq!(
        sample("sleep/sleep.yaml"),
        [account, service("sleep", &json!([{ "port": 80, "name": "http" }])), deployment]
    );
}

#[test]
fn every_sample_on_disk_is_embedded() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    let mut embedded: Vec<&str> = control::samples::FILES.iter().map(|(name, _)| *name).collect();
    embedded.sort_unstable();
    assert_eq!(found, embedded);
}
