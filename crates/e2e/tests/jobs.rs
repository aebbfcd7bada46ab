//! Jobs, and how containers end: seen with kubectl.
#![cfg(test)]

use e2e::mesh::{Mesh, kubectls, told};

/// A mesh with namespace foo, whose pods are in the mesh, and what the manifest says in it.
fn with(manifest: &str) -> Mesh {
    let mesh = Mesh::up();
    std::fs::write(mesh.work_dir().join("manifest.yaml"), manifest).unwrap();
    must(&mesh, "kubectl create ns foo; kubectl label ns foo istio-injection=enabled; kubectl create -f manifest.yaml");
    mesh
}

fn must(mesh: &Mesh, script: &str) -> String {
    let output = mesh.bash(&kubectls()[1], &format!("eval \"$(tidegate env -n foo)\"\nset -euo pipefail\n{script}"));
    assert!(output.status.success(), "{script}\n{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn job(name: &str, script: &str, spec: &str, policy: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n  template:\n    spec:\n      \
         restartPolicy: {policy}\n      terminationGracePeriodSeconds: 0\n      containers:\n      - {{name: c, image: busybox, command: [sh, -c, {script:?}]}}\n---\n"
    )
}

#[test]
fn a_job_completes_and_another_fails_and_each_says_so() {
    let manifest = [
        job("three", "echo one more", "completions: 3\n  parallelism: 2", "Never"),
        job("fails", "echo no; exit 3", "backoffLimit: 0", "Never"),
        job("again", "test -e /v/x && echo at last || { touch /v/x; exit 1; }", "backoffLimit: 3", "OnFailure").replace(
            "      containers:\n      - {name: c,",
            "      volumes: [{name: v, emptyDir: {}}]\n      containers:\n      - {name: c, volumeMounts: [{name: v, mountPath: /v}],",
        ),
        job("late", "sleep infinity", "activeDeadlineSeconds: 1", "Never"),
        job("gone", "echo short", "ttlSecondsAfterFinished: 0", "Never"),
    ];
    let mesh = with(&manifest.concat());
    must(&mesh, "kubectl create job plain --image=busybox -- echo typed >/dev/null");
    must(&mesh, "kubectl wait --for=condition=complete job/plain job/three job/again --timeout=40s >/dev/null");
    must(&mesh, "kubectl wait --for=condition=failed job/fails job/late --timeout=40s >/dev/null");
    assert_eq!(must(&mesh, "kubectl logs job/plain"), "typed\n");
    assert_eq!(must(&mesh, "kubectl logs -l job-name=three -c c"), "one more\n".repeat(3));
    assert_eq!(must(&mesh, "kubectl logs job/again -c c"), "at last\n");
    let about = |name: &str| {
        let path = "{.status.succeeded}/{.status.failed} {range .status.conditions[*]}{.type}={.status} {.reason}{end}";
        must(&mesh, &format!("kubectl get job {name} -o jsonpath='{path}'"))
    };
    assert_eq!(about("three"), "3/ Complete=True CompletionsReached");
    assert_eq!(about("fails"), "/1 Failed=True BackoffLimitExceeded");
    assert_eq!(about("late"), "/ Failed=True DeadlineExceeded");
    let pods = |name: &str| {
        must(
            &mesh,
            &format!(
                "kubectl get pods -l batch.kubernetes.io/job-name={name} -o jsonpath='{{.items[*].status.phase}}'"
            ),
        )
    };
    assert_eq!((pods("three").as_str(), pods("fails").as_str()), ("Succeeded Succeeded Succeeded", "Failed"));
    must(
        &mesh,
        "kubectl wait --for=delete pod -l job-name=late --timeout=20s >/dev/null; kubectl wait --for=delete job/gone --timeout=20s >/dev/null",
    );
    must(&mesh, "kubectl wait --for=delete pod -l job-name=gone --timeout=20s >/dev/null");
    // All kubectl builds show it.
    for kubectl in kubectls() {
        let listed =
            mesh.bash(&kubectl, "eval \"$(tidegate env -n foo)\"; kubectl get jobs; kubectl describe job three");
        let said = told(&listed);
        assert!(
            listed.status.success() && said.contains("COMPLETIONS") && said.contains("3/3"),
            "{}: {said}",
            kubectl.version
        );
    }
    // A job takes its pods with it.
    must(
        &mesh,
        "kubectl delete job three fails >/dev/null; kubectl wait --for=delete pod -l job-name=three --timeout=20s >/dev/null",
    );
}

#[test]
fn what_of_jobs_is_not_built_is_refused() {
    let mesh = with("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: unused}\n");
    let cron = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x}\nspec: {schedule: '* * * * *', jobTemplate: {spec: {template: {spec: {}}}}}\n";
    for (manifest, why) in [
        (job("x", "true", "completionMode: Indexed", "Never"), "spec.completionMode: Unsupported value: \"Indexed\""),
        (job("x", "true", "podFailurePolicy: {rules: []}", "Never"), "is not built on a local mesh; remove the field"),
        (job("x", "true", "completions: -1", "Never"), "spec.completions"),
        (
            job("x", "true", "completions: 1", "Always"),
            "spec.template.spec.restartPolicy: Unsupported value: \"Always\"",
        ),
        (cron.to_owned(), "cronjobs.batch are not run by this mesh"),
    ] {
        std::fs::write(mesh.work_dir().join("manifest.yaml"), &manifest).unwrap();
        let output = mesh.bash(&kubectls()[1], "eval \"$(tidegate env -n foo)\"; kubectl create -f manifest.yaml");
        assert!(!output.status.success() && told(&output).contains(why), "{why}: {}", told(&output));
    }
}

#[test]
fn what_took_more_memory_than_it_may_is_told_from_what_failed() {
    let pod = |name: &str, script: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - {{name: c, image: busybox, \
             command: [sh, -c, {script:?}], resources: {{limits: {{memory: 40Mi}}}}}}\n---\n"
        )
    };
    let mesh =
        with(&[pod("eater", "exec tail /dev/zero"), pod("fails", "exit 137"), pod("killed", "kill -9 $$")].concat());
    for (name, reason) in [("eater", "OOMKilled"), ("fails", "Error"), ("killed", "Error")] {
        let state = "{.status.containerStatuses[0].state.terminated.reason}";
        let script = format!(
            "kubectl wait --for=jsonpath='{{.status.phase}}'=Failed pod/{name} --timeout=30s >/dev/null; kubectl get pod {name} -o jsonpath='{state}'"
        );
        assert_eq!(must(&mesh, &script), reason, "{name}");
    }
    assert!(must(&mesh, "kubectl get pod eater").contains("OOMKilled"));
}

#[test]
fn init_containers_run_one_after_the_other_and_one_that_fails_holds_the_pod() {
    let pod = |name: &str, policy: &str, second: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  volumes: [{{name: v, emptyDir: {{}}}}]\n  \
             initContainers:\n  - {{name: a, image: busybox, command: [sh, -c, 'echo a >>/v/order'], volumeMounts: [{{name: v, mountPath: /v}}]}}\n  \
             - {{name: b, image: busybox, command: [sh, -c, {second:?}], volumeMounts: [{{name: v, mountPath: /v}}]}}\n  \
             containers:\n  - {{name: c, image: busybox, command: [sh, -c, 'cat /v/order'], volumeMounts: [{{name: v, mountPath: /v}}]}}\n---\n"
        )
    };
    let mesh = with(
        &[
            pod("well", "Never", "echo b >>/v/order"),
            pod("badly", "Never", "exit 4"),
            pod("tries", "OnFailure", "echo b >>/v/order; test $(grep -c b /v/order) = 2"),
        ]
        .concat(),
    );
    let phase = |name: &str, phase: &str| {
        must(
            &mesh,
            &format!("kubectl wait --for=jsonpath='{{.status.phase}}'={phase} pod/{name} --timeout=40s >/dev/null"),
        )
    };
    phase("well", "Succeeded");
    phase("badly", "Failed");
    phase("tries", "Succeeded");
    assert_eq!(must(&mesh, "kubectl logs well -c c; kubectl logs tries -c c"), "a\nb\na\nb\nb\n");
    let state = must(
        &mesh,
        "kubectl get pod badly -o jsonpath='{.status.initContainerStatuses[?(@.name==\"b\")].state.terminated.exitCode} {.status.containerStatuses[0].state.waiting.reason}'",
    );
    assert_eq!(state, "4 PodInitializing");
    let restarts = must(
        &mesh,
        "kubectl get pod tries -o jsonpath='{.status.initContainerStatuses[?(@.name==\"b\")].restartCount}'",
    );
    assert_eq!(restarts, "1");
}
