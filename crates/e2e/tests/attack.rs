//! What a hostile pod, or a hostile or unlucky user of kubectl, tries; each has been possible once or could be.
#![cfg(test)]

use std::os::unix::fs::PermissionsExt;

use e2e::mesh::{Mesh, kubectls, processes_of, told};

/// A shell with kubectl 1.37 in namespace foo.
fn must(mesh: &Mesh, script: &str) -> String {
    let output = mesh.bash(&kubectls()[1], &format!("eval \"$(tidegate env -n foo)\"\nset -euo pipefail\n{script}"));
    assert!(output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn create(mesh: &Mesh, manifest: &str) {
    std::fs::write(mesh.work_dir().join("manifest.yaml"), manifest).unwrap();
    must(mesh, "kubectl create -f manifest.yaml");
}

fn with_namespace() -> Mesh {
    let mesh = Mesh::up();
    must(&mesh, "kubectl create ns foo; kubectl label ns foo istio-injection=enabled");
    mesh
}

fn mode(path: &str) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_pod_uses_devices_and_cannot_change_the_host_s_files_of_them() {
    let mesh = with_namespace();
    must(&mesh, "kubectl run p --image=busybox --command -- sleep 1000");
    let before = mode("/dev/full");
    let said = must(
        &mesh,
        "kubectl exec p -- sh -c 'echo x >/dev/null; head -c 3 /dev/zero | wc -c; \
         chmod 600 /dev/full 2>/dev/null || echo no; chown 1000 /dev/full 2>/dev/null || echo no; \
         touch -t 200001010000 /dev/full 2>/dev/null || echo no'",
    );
    let after = mode("/dev/full");
    std::fs::set_permissions("/dev/full", std::fs::Permissions::from_mode(before)).unwrap();
    assert_eq!((after, said.as_str()), (before, "3\nno\nno\nno\n"));
}

#[test]
fn a_pod_starts_when_the_config_map_comes_that_it_waits_for() {
    let mesh = with_namespace();
    create(
        &mesh,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\nspec:\n  containers: [{name: c, image: busybox, \
         command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}]\n  volumes: [{name: v, configMap: {name: later}}]\n",
    );
    must(
        &mesh,
        "kubectl wait --for=jsonpath='{.status.initContainerStatuses[0].state.waiting.reason}'=CreatePodError pod/late --timeout=10s
kubectl create cm later --from-literal=a=b
kubectl wait --for=condition=Ready pod/late --timeout=30s",
    );
    assert_eq!(must(&mesh, "kubectl exec late -- cat /v/a"), "b");
}

#[test]
fn an_object_of_any_shape_leaves_the_mesh_serving() {
    let mesh = with_namespace();
    must(&mesh, "kubectl create cm data --from-literal=a=b");
    let outside = mesh.work_dir().join("outside");
    create(
        &mesh,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: climbs}}\nspec:\n  containers: [{{name: c, image: busybox, \
             volumeMounts: [{{name: v, mountPath: /v}}]}}]\n  volumes: [{{name: v, configMap: {{name: data, items: \
             [{{key: a, path: ../../../../../../../..{}}}]}}}}]\n",
            outside.display()
        ),
    );
    must(
        &mesh,
        "kubectl wait --for=jsonpath='{.status.initContainerStatuses[0].state.waiting.reason}'=CreatePodError pod/climbs --timeout=10s",
    );
    assert!(!outside.exists(), "a file outside of the volume was written");
    // Variables that name each other ten times over: a terabyte, if each were expanded as often as it is named.
    let variable = |n: usize| {
        let value = if n == 0 { "0123456789".to_owned() } else { format!("$(V{})", n - 1).repeat(10) };
        format!("{{name: V{n}, value: '{value}'}}")
    };
    let variables: Vec<String> = (0..12).map(variable).collect();
    create(
        &mesh,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: grows}}\nspec:\n  containers: [{{name: c, image: busybox, \
             command: [echo, $(V11)], env: [{}]}}]\n",
            variables.join(", ")
        ),
    );
    must(&mesh, "kubectl run fine --image=busybox --command -- sleep 1000; kubectl exec fine -- true");
    let ports: Vec<String> = (0..60).map(|n| format!("{{name: p{n}, port: {}}}", 1000 + n)).collect();
    let ends: Vec<String> = (0..9000).map(|n| format!("{{addresses: [10.9.{}.{}]}}", n / 250, n % 250)).collect();
    create(
        &mesh,
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: big}}\nspec: {{ports: [{ports}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: big, labels: \
             {{kubernetes.io/service-name: big}}}}\naddressType: IPv4\nports: [{ports}]\nendpoints: [{}]\n",
            ends.join(", "),
            ports = ports.join(", ")
        ),
    );
    must(&mesh, "kubectl delete sa default; kubectl delete node tidegate; kubectl delete endpointslice big");
    must(&mesh, "kubectl run last --image=busybox --command -- sleep 1000; kubectl exec last -- true");
}

#[test]
fn down_ends_a_daemon_whose_directory_was_removed_under_it() {
    let mesh = with_namespace();
    must(&mesh, "kubectl run p --image=busybox --command -- sleep 1000; kubectl exec p -- true");
    std::fs::remove_dir_all(mesh.data_dir()).unwrap();
    let output = mesh.tidegate(&["down"]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(processes_of(&mesh.data_dir()), []);
}
