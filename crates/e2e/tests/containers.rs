//! Containers as their manifests ask for them, seen with kubectl: probes, configuration, logs of the run before, grace.
#![cfg(test)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e::mesh::{Mesh, kubectls, told};
use e2e::running::Running;

/// A mesh with namespace foo and what the manifest says in it.
fn with(manifest: &str) -> Mesh {
    let mesh = Mesh::up();
    std::fs::write(mesh.work_dir().join("manifest.yaml"), manifest).unwrap();
    if !manifest.contains("kind: Namespace") {
        must(&mesh, "kubectl create ns foo");
    }
    must(&mesh, "kubectl create -f manifest.yaml");
    mesh
}

/// A script with kubectl 1.37 in namespace foo, which must succeed; what it prints.
fn must(mesh: &Mesh, script: &str) -> String {
    let output = mesh.bash(&kubectls()[1], &format!("eval \"$(tidegate env -n foo)\"\nset -euo pipefail\n{script}"));
    assert!(output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: busybox\n{container}---\n"
    )
}

/// The lines that make a container run a script.
fn script(text: &str) -> String {
    format!("    command: [sh, -c, {text:?}]\n")
}

fn is_ready(mesh: &Mesh, pod: &str, ready: bool) {
    must(mesh, &format!("kubectl wait --for=condition=Ready={ready} pod/{pod} --timeout=20s"));
    let line = must(mesh, &format!("kubectl get pod {pod} --no-headers"));
    // In the mesh there is one container more, which is always ready.
    let wanted = if ready { [" 1/1 ", " 2/2 "] } else { [" 0/1 ", " 1/2 "] };
    assert!(wanted.iter().any(|wanted| line.contains(wanted)) && line.contains(" Running "), "{line}");
}

#[test]
fn readiness_follows_http_exec_and_tcp_probes() {
    let every = "periodSeconds: 1\n      failureThreshold: 1\n";
    let server = "echo 200 >/tmp/code; while :; do printf \"HTTP/1.0 $(cat /tmp/code) x\\r\\n\\r\\n\" | nc -l 8080 >/dev/null; done";
    let http = script(server)
        + "    ports: [{name: web, containerPort: 8080}]\n    readinessProbe:\n      httpGet: {path: /x, port: web}\n      "
        + every;
    // It says more than a pipe holds: a probe that is not listened to would stand still.
    let exec = script("sleep infinity")
        + "    readinessProbe:\n      exec: {command: [sh, -c, 'head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; test -e /tmp/ready']}\n      "
        + every;
    let tcp = script("until test -e /tmp/open; do sleep 0.2; done; exec tcp-echo 9000 hello")
        + "    readinessProbe:\n      tcpSocket: {port: 9000}\n      "
        + every;
    // No policy judges a probe: in the mesh, and with a namespace that allows nothing, all goes as it does without.
    let closed = "apiVersion: v1\nkind: Namespace\nmetadata: {name: foo, labels: {istio-injection: enabled}}\n---\n\
                  apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: closed}\nspec: {}\n---\n";
    let mesh = with(&[closed.to_owned(), pod("http", &http), pod("exec", &exec), pod("tcp", &tcp)].concat());
    is_ready(&mesh, "http", true);
    must(&mesh, "kubectl exec http -- sh -c 'echo 503 >/tmp/code'");
    is_ready(&mesh, "http", false);
    must(&mesh, "kubectl exec http -- sh -c 'echo 302 >/tmp/code'");
    is_ready(&mesh, "http", true);
    is_ready(&mesh, "exec", false);
    must(&mesh, "kubectl exec exec -- touch /tmp/ready");
    is_ready(&mesh, "exec", true);
    must(&mesh, "kubectl exec exec -- rm /tmp/ready");
    is_ready(&mesh, "exec", false);
    is_ready(&mesh, "tcp", false);
    must(&mesh, "kubectl exec tcp -- touch /tmp/open");
    is_ready(&mesh, "tcp", true);
    let events = must(&mesh, "kubectl get events -o jsonpath='{range .items[*]}{.message}{\"\\n\"}{end}'");
    for why in ["statuscode: 503", "command exited with 1", ":9000: Connection refused"] {
        assert!(events.contains("Readiness probe failed: ") && events.contains(why), "{why}: {events}");
    }
    assert_eq!(
        must(&mesh, "kubectl get pods -o jsonpath='{.items[*].status.containerStatuses[0].restartCount}'"),
        "0 0 0"
    );
}

#[test]
fn liveness_and_startup_probes_restart_within_the_grace_of_the_pod() {
    let alive = script("echo run; touch /tmp/alive; trap '' TERM; while :; do sleep 0.2; done")
        + "    livenessProbe:\n      exec: {command: [test, -e, /tmp/alive]}\n      periodSeconds: 1\n      failureThreshold: 1\n      initialDelaySeconds: 1\n";
    let slow = script("sleep infinity")
        + "    startupProbe:\n      exec: {command: [test, -e, /tmp/started]}\n      periodSeconds: 1\n      failureThreshold: 1000\n";
    let never = script("sleep infinity")
        + "    startupProbe:\n      exec: {command: ['false']}\n      periodSeconds: 1\n      failureThreshold: 1\n";
    let mesh = with(&[pod("alive", &alive), pod("slow", &slow), pod("never", &never)].concat());
    is_ready(&mesh, "alive", true);
    must(&mesh, "kubectl exec alive -- sh -c 'echo more >/proc/1/fd/1 2>/dev/null; rm /tmp/alive'");
    // Its grace of 1 s, not the 30 s of pods that say none: it does not listen to SIGTERM.
    must(&mesh, "kubectl wait --for=jsonpath='{.status.containerStatuses[0].restartCount}'=1 pod/alive --timeout=15s");
    is_ready(&mesh, "alive", true);
    let last =
        must(&mesh, "kubectl get pod alive -o jsonpath='{.status.containerStatuses[0].lastState.terminated.exitCode}'");
    assert_eq!(last, "137", "it was killed");
    // Not ready, and not started, until its startup probe says so.
    is_ready(&mesh, "slow", false);
    let started = "kubectl get pod slow -o jsonpath='{.status.containerStatuses[0].started}'";
    assert_eq!(must(&mesh, started), "false");
    must(&mesh, "kubectl exec slow -- touch /tmp/started");
    is_ready(&mesh, "slow", true);
    assert_eq!(must(&mesh, started), "true");
    must(&mesh, "kubectl wait --for=jsonpath='{.status.containerStatuses[0].restartCount}'=1 pod/never --timeout=20s");
    let events = must(
        &mesh,
        "kubectl get events -o jsonpath='{range .items[*]}{.involvedObject.name} {.message}{\"\\n\"}{end}'",
    );
    for line in [
        "alive Container c failed liveness probe, will be restarted",
        "never Container c failed startup probe, will be restarted",
    ] {
        assert!(events.contains(line), "{line}: {events}");
    }
}

#[test]
fn a_probe_that_hangs_is_ended_when_its_time_is_over() {
    let hangs = script("sleep infinity")
        + "    readinessProbe:\n      exec: {command: [sleep, '4321']}\n      periodSeconds: 1\n      timeoutSeconds: 1\n";
    let mesh = with(&pod("hangs", &hangs));
    let watch = "eval \"$(tidegate env -n foo)\"; exec kubectl get events -w -o custom-columns=M:.message";
    let mut events = Running::of(mesh.bash_child(&kubectls()[1], watch));
    events.until(&["Readiness probe failed: timed out after 1 s"]);
    // It is asked again and again, each time by another process, of which none is left behind.
    let running = "kubectl exec hangs -- sh -c 'for p in /proc/[0-9]*; do \
                   tr \"\\0\" \" \" <$p/cmdline 2>/dev/null | grep -q \"sleep [4]321\" && echo $p; done; true'";
    let (mut seen, mut before, begun) = (BTreeSet::new(), BTreeSet::new(), Instant::now());
    while seen.len() < 3 {
        let now: BTreeSet<String> = must(&mesh, running).lines().map(str::to_owned).collect();
        // A list takes its time, in which one may end and the next begin. What is in two lists was there between them.
        let together: Vec<_> = now.intersection(&before).collect();
        assert!(together.len() <= 1, "probes pile up: {together:?}");
        seen.extend(now.iter().cloned());
        before = now;
        assert!(begun.elapsed() < Duration::from_mins(1), "it is not asked again: {seen:?}");
    }
}

const CONFIGURED: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {a: "text of a\n", b: bee}
binaryData: {bin: AAEC/w==}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: s3cret}
---
apiVersion: v1
kind: Pod
metadata:
  name: configured
  labels: {app: web, tier: front}
  annotations: {note: 'two "words"'}
spec:
  containers:
  - name: c
    image: busybox
    command: [sleep, infinity]
    envFrom:
    - {prefix: CM_, configMapRef: {name: cm}}
    - secretRef: {name: absent, optional: true}
    env:
    - {name: PLAIN, value: x}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: FROM_CM, valueFrom: {configMapKeyRef: {name: cm, key: b}}}
    - {name: FROM_SECRET, valueFrom: {secretKeyRef: {name: key, key: password}}}
    - {name: ABSENT, valueFrom: {secretKeyRef: {name: key, key: other, optional: true}}}
    - {name: BOTH, value: $(PLAIN)-$(CM_b)-$(NAME)}
    volumeMounts:
    - {name: all, mountPath: /v/all}
    - {name: some, mountPath: /v/some}
    - {name: secret, mountPath: /v/secret}
    - {name: about, mountPath: /v/about}
    - {name: mixed, mountPath: /v/mixed}
    - {name: all, mountPath: /v/one, subPath: b}
    - {name: scratch, mountPath: /v/scratch}
  volumes:
  - {name: all, configMap: {name: cm}}
  - {name: some, configMap: {name: cm, items: [{key: a, path: deep/er/a.txt, mode: 0640}]}}
  - {name: secret, secret: {secretName: key, defaultMode: 0400}}
  - name: about
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: note, fieldRef: {fieldPath: "metadata.annotations['note']"}}
  - name: mixed
    projected:
      sources:
      - configMap: {name: cm, items: [{key: b, path: cm/b}]}
      - secret: {name: key}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
      - secret: {name: absent, optional: true}
  - {name: scratch, emptyDir: {}}
"#;

#[test]
fn configuration_reaches_files_and_variables() {
    let mesh = with(CONFIGURED);
    let run = |script: &str| must(&mesh, &format!("kubectl exec -i configured -- sh <<'EOF'\n{script}\nEOF"));
    let variables = run(
        "printf '%s\\n' \"$CM_a\" $CM_b $PLAIN $NODE $NAME $SPACE $ADDRESS $APP $FROM_CM $FROM_SECRET \"${ABSENT-unset}\" $BOTH",
    );
    // A command waits until its container runs; by then the address is known.
    let address = must(&mesh, "kubectl get pod configured -o jsonpath={.status.podIP}");
    let wanted = format!(
        "text of a\n\nbee\nx\ntidegate\nconfigured\nfoo\n{address}\nweb\nbee\ns3cret\nunset\nx-bee-configured\n"
    );
    assert_eq!(variables, wanted);
    let files = run(
        "cd /v; find . -type f | sort | while read f; do echo \"$f $(stat -c %a $f) $(od -An -tx1 $f | tr -d ' \\n' | head -c 20)\"; done; cat about/labels; echo; cat about/note",
    );
    let hex = |text: &str| text.bytes().take(10).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let wanted = [
        format!("./about/labels 644 {}", hex("app=\"web\"\ntier=\"front\"")),
        format!("./about/note 644 {}", hex("two \"words\"")),
        format!("./all/a 644 {}", hex("text of a\n")),
        format!("./all/b 644 {}", hex("bee")),
        "./all/bin 644 000102ff".to_owned(),
        format!("./mixed/cm/b 644 {}", hex("bee")),
        format!("./mixed/name 644 {}", hex("configured")),
        format!("./mixed/password 644 {}", hex("s3cret")),
        format!("./one 644 {}", hex("bee")),
        format!("./secret/password 400 {}", hex("s3cret")),
        format!("./some/deep/er/a.txt 640 {}", hex("text of a\n")),
        "app=\"web\"\ntier=\"front\"\ntwo \"words\"".to_owned(),
    ];
    assert_eq!(files, wanted.join("\n"));
    assert_eq!(
        run("echo x 2>/dev/null >/v/all/a || echo read-only; echo y >/v/scratch/y; cat /v/scratch/y"),
        "read-only\ny\n"
    );
}

#[test]
fn a_key_that_is_not_there_is_named_until_it_comes() {
    let mesh = with(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {a: b}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: waits}\n\
         spec: {containers: [{name: c, image: busybox, command: [sleep, infinity], volumeMounts: [{name: v, mountPath: /v}]}], \
         volumes: [{name: v, configMap: {name: cm, items: [{key: other, path: o}]}}]}\n",
    );
    let message = "kubectl wait --for=jsonpath='{.status.containerStatuses[0].state.waiting.reason}'=CreatePodError pod/waits --timeout=10s >/dev/null
kubectl get pod waits -o jsonpath='{.status.containerStatuses[0].state.waiting.message}'";
    assert_eq!(must(&mesh, message), "volume v: configmap \"cm\" has no key \"other\"");
    must(
        &mesh,
        "kubectl patch cm cm --type merge -p '{\"data\":{\"other\":\"late\"}}'; kubectl wait --for=condition=Ready pod/waits --timeout=30s",
    );
    assert_eq!(must(&mesh, "kubectl exec waits -- cat /v/o"), "late");
}

#[test]
fn the_log_of_the_run_before_is_that_of_the_run_before() {
    // Each run says which it is, by a directory that outlives it.
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: again}\nspec:\n  containers:\n  - name: c\n    image: busybox\n    \
         command: [sh, -c, 'echo x >>/v/runs; echo run $(wc -l </v/runs); until test -e /v/go$(wc -l </v/runs); do sleep 0.1; done; exit 3']\n    \
         volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, emptyDir: {}}]\n";
    let mesh = with(manifest);
    must(&mesh, "kubectl wait --for=condition=Ready pod/again --timeout=20s");
    let none = mesh.bash(&kubectls()[1], "eval \"$(tidegate env -n foo)\"; kubectl logs again --previous");
    assert!(
        !none.status.success()
            && told(&none).contains("previous terminated container \"c\" in pod \"again\" not found"),
        "{}",
        told(&none)
    );
    let restarted = |count: u32| {
        format!(
            "kubectl wait --for=jsonpath='{{.status.containerStatuses[0].restartCount}}'={count} pod/again --timeout=30s >/dev/null"
        )
    };
    must(&mesh, &format!("kubectl exec again -- touch /v/go1; {}", restarted(1)));
    assert_eq!(must(&mesh, "kubectl logs again --previous"), "run 1\n");
    // While the next run waits for its time, the run before is the last one.
    must(&mesh, "kubectl exec again -- touch /v/go2
kubectl wait --for=jsonpath='{.status.containerStatuses[0].state.waiting.reason}'=CrashLoopBackOff pod/again --timeout=20s");
    assert_eq!(must(&mesh, "kubectl logs again --previous; kubectl logs again"), "run 2\nrun 2\n");
    must(&mesh, &restarted(2));
    assert_eq!(must(&mesh, "kubectl logs again --previous"), "run 2\n");
}

#[test]
fn a_pod_is_asked_to_end_and_killed_when_its_grace_is_over() {
    let manifest = |name: &str, on_term: &str| {
        pod(name, &script(&format!("trap '{on_term}' TERM; touch /tmp/up; while :; do sleep 0.1; done")))
            .replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 3")
    };
    let mesh = with(&[manifest("polite", "exit 0"), manifest("stubborn", ""), manifest("hurried", "")].concat());
    for name in ["polite", "stubborn", "hurried"] {
        must(&mesh, &format!("kubectl exec {name} -- sh -c 'until test -e /tmp/up; do sleep 0.1; done'"));
    }
    let deleting = |arguments: &str| {
        let begun = Instant::now();
        must(&mesh, &format!("kubectl delete pod {arguments} 2>/dev/null"));
        begun.elapsed()
    };
    let (grace, slack) = (Duration::from_secs(3), Duration::from_millis(2500));
    let polite = deleting("polite");
    assert!(polite < grace, "one that ends when asked is not waited for: {polite:?}");
    let stubborn = deleting("stubborn");
    assert!(
        stubborn >= grace && stubborn < grace + slack,
        "killed after 3 s, neither before nor much later: {stubborn:?}"
    );
    let hurried = deleting("hurried --grace-period=0 --force");
    assert!(hurried < grace, "no grace was given: {hurried:?}");
}
