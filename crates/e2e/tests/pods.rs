//! Pods as a user sees them through kubectl: what runs, what is refused, what is reachable, what is told.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use e2e::mesh::{Mesh, kubectls, told};

/// A shell with kubectl 1.37 in namespace foo.
fn shell(mesh: &Mesh, script: &str) -> Output {
    mesh.bash(&kubectls()[1], &format!("eval \"$(tidegate env -n foo)\"\n{script}"))
}

fn must(mesh: &Mesh, script: &str) -> String {
    let output = shell(mesh, &format!("set -euo pipefail\n{script}"));
    assert!(output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fails(mesh: &Mesh, script: &str) -> String {
    let output = shell(mesh, script);
    assert!(!output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn deployed() -> Mesh {
    let mesh = Mesh::up();
    must(
        &mesh,
        "tidegate samples . >/dev/null
kubectl create ns foo
kubectl apply -f <(istioctl kube-inject -f samples/tcp-echo/tcp-echo.yaml)
kubectl apply -f <(istioctl kube-inject -f samples/sleep/sleep.yaml)",
    );
    mesh
}

#[test]
fn an_injected_pod_is_ready_as_istio_shows_it_and_its_proxy_tells_decisions() {
    let mesh = deployed();
    must(&mesh, "kubectl wait --for=condition=Ready pod --all --timeout=20s");
    let (node, kernel) = (must(&mesh, "kubectl get nodes -o wide"), fs::read_to_string("/proc/sys/kernel/osrelease"));
    assert!(node.contains(kernel.unwrap().trim()) && !node.contains("<unknown>"), "{node}");
    let table = must(&mesh, "kubectl get pods");
    assert_eq!(table.matches(" 2/2 ").count(), 2, "{table}");
    assert_eq!(table.matches(" Running ").count(), 2, "{table}");
    must(
        &mesh,
        "kubectl apply -f - <<EOF
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-9000}
spec: {action: ALLOW, rules: [{to: [{operation: {ports: ['9000']}}]}]}
EOF
kubectl wait --for=condition=Enforced authorizationpolicy/only-9000 --timeout=5s",
    );
    fails(&mesh, "kubectl exec deploy/sleep -c sleep -- nc tcp-echo 9001 </dev/null");
    // Followed, since a refusal is told a moment after it happened; kubectl ends with the mesh.
    let log = must(&mesh, "timeout 30 grep -m1 9001 <(kubectl logs -f deploy/tcp-echo -c istio-proxy 2>/dev/null)");
    assert!(log.contains("9001") && log.contains("rbac_access_denied_matched_policy[none]"), "{log}");
    let events = must(&mesh, "kubectl get events -o jsonpath='{.items[*].message}'");
    assert!(events.contains("tcp-echo-server"), "what stands for the image is told: {events}");
}

#[test]
fn an_unknown_image_is_an_image_error_with_the_way_out() {
    let mesh = Mesh::up();
    must(&mesh, "kubectl create ns foo; kubectl run odd --image=example.org/odd:1");
    let said = fails(&mesh, "kubectl exec odd -- true");
    assert!(said.contains("odd"), "{said}");
    let table = must(&mesh, "kubectl get pod odd");
    assert!(table.contains("ErrImagePull") || table.contains("ImagePullBackOff"), "{table}");
    let events =
        must(&mesh, "kubectl get events --field-selector involvedObject.name=odd -o jsonpath='{.items[*].message}'");
    assert!(events.contains("example.org/odd:1"), "{events}");
}

#[test]
fn a_pod_that_asks_for_power_over_the_host_is_refused_with_an_event() {
    let mesh = Mesh::up();
    must(&mesh, "kubectl create ns foo");
    let pods = [
        ("privileged", "containers: [{name: c, image: busybox, securityContext: {privileged: true}}]"),
        ("netadmin", "containers: [{name: c, image: busybox, securityContext: {capabilities: {add: [NET_ADMIN]}}}]"),
        ("hostnet", "hostNetwork: true\n  containers: [{name: c, image: busybox}]"),
        ("hostpid", "hostPID: true\n  containers: [{name: c, image: busybox}]"),
        ("hostpath", "containers: [{name: c, image: busybox}]\n  volumes: [{name: v, hostPath: {path: /etc}}]"),
    ];
    for (name, spec) in pods {
        let manifest = format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  {spec}\n");
        fs::write(mesh.work_dir().join("pod.yaml"), manifest).unwrap();
        must(&mesh, "kubectl apply -f pod.yaml");
        must(&mesh, &format!("kubectl wait --for=jsonpath='{{.status.phase}}'=Failed pod/{name} --timeout=10s"));
        let events = must(
            &mesh,
            &format!(
                "kubectl get events --field-selector involvedObject.name={name} -o jsonpath='{{.items[*].message}}'"
            ),
        );
        assert!(!events.is_empty(), "{name}");
        let address = must(&mesh, &format!("kubectl get pod {name} -o jsonpath={{.status.podIP}}"));
        assert_eq!(address, "", "{name} was given an address");
    }
}

#[test]
fn nothing_of_the_host_can_be_read_in_a_pod_not_even_as_root() {
    let mesh = deployed();
    let mark = format!("canary-{}", std::process::id());
    let mut canaries: Vec<PathBuf> = Vec::new();
    for folder in ["/root", "/home", "/etc", "/var", "/run", "/srv", "/opt", "/tmp"] {
        canaries.push(Path::new(folder).join(&mark));
    }
    canaries.push(mesh.data_dir().join(&mark));
    for canary in &canaries {
        fs::write(canary, "a secret of the host").unwrap();
    }
    let paths: Vec<_> = canaries.iter().map(|path| path.display().to_string()).collect();
    let script = format!(
        "kubectl exec deploy/sleep -c sleep -- sh -c 'id -u; cat {} 2>/dev/null; find / -xdev -name {mark} 2>/dev/null; \
         find /proc/[0-9]*/root/ -maxdepth 2 -name {mark} 2>/dev/null; true'",
        paths.join(" ")
    );
    let output = shell(&mesh, &script);
    for canary in &canaries {
        fs::remove_file(canary).unwrap();
    }
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{}", told(&output));
}

#[test]
fn a_pod_reaches_pods_and_services_by_every_name_and_nothing_else() {
    let mesh = deployed();
    let echo =
        |target: &str| must(&mesh, &format!("kubectl exec deploy/sleep -c sleep -- sh -c 'echo x | nc {target} 9000'"));
    for name in ["tcp-echo", "tcp-echo.foo", "tcp-echo.foo.svc", "tcp-echo.foo.svc.cluster.local"] {
        assert_eq!(echo(name), "hello x\n", "{name}");
    }
    let addresses = must(&mesh, "kubectl get pod -l app=tcp-echo -o jsonpath='{.items[0].status.podIPs[*].ip}'");
    let vips = must(&mesh, "kubectl get service tcp-echo -o jsonpath='{.spec.clusterIPs[*]}'");
    let all: Vec<_> = addresses.split(' ').chain(vips.split(' ')).collect();
    assert_eq!(all.len(), 4, "IPv4 and IPv6 of pod and service: {all:?}");
    for address in all {
        assert_eq!(echo(address), "hello x\n", "{address}");
    }
    let status = mesh.tidegate(&["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let api_port = status["apiServer"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let gateway = must(&mesh, "kubectl exec deploy/sleep -c sleep -- sh -c 'cat /etc/resolv.conf'");
    let dns = gateway.lines().find_map(|line| line.strip_prefix("nameserver ")).unwrap().to_owned();
    for target in
        [format!("127.0.0.1 {api_port}"), format!("{dns} {api_port}"), "192.0.2.1 80".into(), "2001:db8::1 80".into()]
    {
        let begun = Instant::now();
        fails(&mesh, &format!("kubectl exec deploy/sleep -c sleep -- nc -w 5 {target} </dev/null"));
        assert!(begun.elapsed().as_secs() < 4, "{target} must fail at once, not time out");
    }
}

#[test]
fn exit_codes_and_restarts_are_true() {
    let mesh = deployed();
    let output = shell(&mesh, "kubectl exec deploy/sleep -c sleep -- sh -c 'exit 37'");
    assert_eq!(output.status.code(), Some(37), "{}", told(&output));
    must(&mesh, "kubectl run once --image=busybox --restart=Never --command -- sh -c 'echo said; exit 3'");
    must(&mesh, "kubectl wait --for=jsonpath='{.status.phase}'=Failed pod/once --timeout=10s");
    let code =
        must(&mesh, "kubectl get pod once -o jsonpath='{.status.containerStatuses[0].state.terminated.exitCode}'");
    assert_eq!(code, "3");
    assert_eq!(must(&mesh, "kubectl logs once"), "said\n");
    must(&mesh, "kubectl run again --image=busybox --restart=Always --command -- sh -c 'exit 1'");
    must(&mesh, "kubectl wait --for=jsonpath='{.status.containerStatuses[0].restartCount}'=1 pod/again --timeout=30s");
}
