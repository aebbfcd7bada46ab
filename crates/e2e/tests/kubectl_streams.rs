//! Verbs that go on while they run, with every kubectl: logs, exec with a terminal, attach, cp, port-forward.
#![cfg(test)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use e2e::mesh::{Kubectl, Mesh, told};
use e2e::running::Running;
use e2e::verbs::{line, play, with_each};

const PREPARE: &str = r#"cat >all.yaml <<'EOF'
apiVersion: v1
kind: Pod
metadata: {name: talk, labels: {app: talk}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox
    # Ends once, so that there is a run before; then goes on.
    command: [sh, -c, 'echo run; for i in 1 2 3; do echo line $i; done; echo odd >&2; test -e /v/ran || { touch /v/ran; exit 3; }; exec sleep infinity']
    volumeMounts: [{name: v, mountPath: /v}]
  - {name: d, image: busybox, command: [sh, -c, 'echo other; exec sleep infinity']}
  volumes: [{name: v, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: istio/tcp-echo-server, args: ["9000", hello]}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{port: 80, targetPort: 9000}]}
EOF
kubectl create -f all.yaml
until [ "$(kubectl get pod talk -o jsonpath='{.status.containerStatuses[0].restartCount}')" = 1 ]; do :; done
kubectl wait --for=condition=Ready pod --all --timeout=30s
mkdir up; echo one >up/a; echo two >up/b; head -c 300000 /dev/urandom >big"#;

#[test]
fn logs_files_and_commands_come_through_with_every_kubectl() {
    let mesh = Mesh::up();
    play(
        &mesh,
        PREPARE,
        &[
            line("kubectl logs talk -c c").has(&["run\nline 1\nline 2\nline 3", "odd"]),
            line("kubectl logs talk -c c --previous").has(&["run\nline 1\nline 2\nline 3", "odd"]),
            line("kubectl logs talk -c d --previous").fails().has(&["previous terminated container \"d\" in pod \"talk\" not found"]),
            line("kubectl logs talk -c d --tail=1").says("other"),
            line("kubectl logs talk -c c --tail=2 | wc -l").says("2"),
            line("kubectl logs talk -c d --timestamps | cut -d' ' -f2").says("other"),
            line("kubectl logs talk -c d --since=1h").says("other"),
            line("kubectl logs talk -c d --since-time=2020-01-01T00:00:00Z").says("other"),
            line("kubectl logs talk -c d --since-time=2220-01-01T00:00:00Z").says(""),
            line("kubectl logs talk -c c --limit-bytes=5").says("run\nl"),
            line("kubectl logs -l app=talk -c d --tail=1").says("other"),
            line("kubectl logs talk --all-containers --prefix").has(&["[pod/talk/c] line 1", "[pod/talk/d] other"]),
            line("timeout 20 grep -m1 other <(kubectl logs -f talk -c d)").says("other"),
            line("timeout 20 grep -m1 other <(kubectl logs -f -l app=talk --all-containers)").says("other"),
            line("kubectl logs talk -c none").fails().has(&["container none is not valid for pod talk"]),
            line("kubectl exec talk -c d -- echo hi").says("hi"),
            line("kubectl exec talk -c d -- sh -c 'exit 7'").fails().says("command terminated with exit code 7"),
            line("echo in | kubectl exec -i talk -c d -- cat").says("in"),
            line("kubectl cp big talk:/tmp/big -c d && kubectl exec talk -c d -- cat /tmp/big | cmp - big").says(""),
            line("kubectl cp up talk:/tmp/ -c d && kubectl exec talk -c d -- cat /tmp/up/a /tmp/up/b").says("one\ntwo"),
            line("kubectl cp talk:/tmp/big down -c d >/dev/null 2>&1 && cmp down big").says(""),
            line("kubectl cp talk:/tmp/up downs -c d >/dev/null 2>&1 && cat downs/a downs/b").says("one\ntwo"),
            line("echo 'echo ha; exit 3' | kubectl run -i --rm att --image=busybox --restart=Never --command -- sh").fails().has(&["ha", "pod \"att\" deleted"]),
            line("kubectl run said --image=busybox --restart=Never -- echo from the image && kubectl wait --for=condition=Initialized pod/said --timeout=20s && timeout 20 grep -m1 from <(kubectl logs -f said)")
                .has(&["from the image"]),
            line("kubectl run versions --image=curlimages/curl --restart=Never -- --version && timeout 20 grep -m1 libcurl <(kubectl logs -f versions)")
                .with_few()
                .has(&["libcurl"]),
            line("kubectl debug talk --image=busybox -- true").fails().has(&["containers are not added to running pods here"]),
            line("kubectl debug talk --copy-to=copied --container=d --profile=legacy -- sleep 1000 && kubectl wait --for=condition=Ready pod/copied --timeout=30s")
                .since(27)
                .has(&["pod/copied condition met"]),
            // Newer ones ask for more rights for the copy than a pod has here.
            line("kubectl debug talk --copy-to=mighty --container=d --profile=general -- sleep 1000 && kubectl wait --for=jsonpath='{.status.reason}'=Refused pod/mighty --timeout=30s")
                .since(37)
                .has(&["pod/mighty condition met"]),
        ],
    );
    let faults = with_each(|kubectl| {
        terminal(&mesh, kubectl, "kubectl exec -it talk -c d");
        terminal(&mesh, kubectl, "kubectl run term -it --rm --image=busybox --restart=Never");
        attach(&mesh, kubectl);
        for what in ["pod/echo 9000", "svc/echo 80"] {
            forward(&mesh, kubectl, what);
        }
        Vec::<()>::new()
    });
    assert_eq!(faults.len(), 0);
}

fn start(mesh: &Mesh, kubectl: &Kubectl, script: &str) -> Running {
    let script = format!("eval \"$(tidegate env -n v{})\"; {script}", kubectl.minor());
    Running::of(mesh.bash_child(kubectl, &script))
}

/// A command, and a program of a pod of its own, see the size of the terminal that they are started from, and each new one.
fn terminal(mesh: &Mesh, kubectl: &Kubectl, verb: &str) {
    let name = verb.split(' ').nth(1).unwrap_or_default();
    let fifo = mesh.work_dir().join(format!("resize-{name}-{}", kubectl.version));
    let inside = format!("exec {verb} -- sh -c 'while read line; do stty size; done'");
    let script = format!(
        "mkfifo {0}; script -qfec \"stty cols 71 rows 22 -echo; (read x <{0}; stty cols 90 rows 30 </dev/tty) & {inside}\" /dev/null",
        fifo.display()
    );
    let mut shell = start(mesh, kubectl, &script);
    // The first size is on its way while the command starts.
    let mut until = |size: &str| {
        for _ in 0..100 {
            shell.send("size");
            if shell.until(&[" "]).trim() == size {
                return;
            }
        }
        panic!("kubectl {}: {verb}: the size is never {size}: {:?}", kubectl.version, shell.said());
    };
    until("22 71");
    std::fs::write(&fifo, "go\n").unwrap_or_else(|error| panic!("{}: {error}", fifo.display()));
    until("30 90");
}

/// Attached to a program with input: what it says from now on, and what is said to it.
fn attach(mesh: &Mesh, kubectl: &Kubectl) {
    let script = "kubectl create -f - >/dev/null <<'EOF'
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers: [{name: c, image: busybox, stdin: true, command: [sh, -c, 'while read line; do echo got $line; done']}]
EOF
        kubectl wait --for=condition=Ready pod/reader --timeout=20s >/dev/null; exec kubectl attach -i reader";
    let mut one = start(mesh, kubectl, script);
    // One that only listens hears the same.
    let mut other = start(
        mesh,
        kubectl,
        "until kubectl get pod reader -o jsonpath={.status.phase} 2>/dev/null | grep -q Running; do :; done; exec kubectl attach reader",
    );
    for number in 0..100 {
        one.send(&format!("line {number}"));
        one.until(&[&format!("got line {number}")]);
        if other.try_line(&["got line"], Duration::from_millis(200)) {
            return;
        }
    }
    panic!("kubectl {}: the second one hears nothing: {:?}", kubectl.version, other.said());
}

/// Several connections at once, both ways, to their last byte.
fn forward(mesh: &Mesh, kubectl: &Kubectl, what: &str) {
    let (name, port) = what.split_once(' ').unwrap_or((what, ""));
    let mut forward = start(mesh, kubectl, &format!("exec kubectl port-forward {name} :{port}"));
    let local = |line: &str| {
        let port = line
            .split(' ')
            .nth(2)
            .and_then(|address| address.rsplit(':').next())
            .and_then(|port| port.parse::<u16>().ok());
        port.unwrap_or_else(|| panic!("no port: {line}"))
    };
    let good = local(&forward.until(&["Forwarding from 127.0.0.1:", "-> 9000"]));
    let ask = |number: usize| {
        let mut stream = TcpStream::connect(("127.0.0.1", good)).map_err(|error| error.to_string())?;
        let lines =
            |greeting: &str| (0..1000).map(|line| format!("{greeting}{number} {line}\n")).collect::<Vec<_>>().concat();
        let wanted = lines("hello ");
        let mut answer = String::new();
        let asked = stream.write_all(lines("").as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
        asked.and_then(|()| stream.read_to_string(&mut answer)).map_err(|error| error.to_string())?;
        if answer == wanted { Ok(()) } else { Err(format!("{} of {} bytes", answer.len(), wanted.len())) }
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|number| scope.spawn(move || ask(number))).collect();
        for one in asked {
            let outcome = one.join().unwrap_or_else(|_| Err("it failed".to_owned()));
            assert_eq!(outcome, Ok(()), "kubectl {}: {what}", kubectl.version);
        }
    });
    drop(forward);
}

#[test]
fn a_port_that_nobody_listens_on_is_told() {
    let mesh = Mesh::up();
    // In the mesh, and with a policy that lets nobody in: what is forwarded is as if from inside the pod.
    let made = mesh.bash(
        &e2e::mesh::kubectls()[1],
        "set -e; eval \"$(tidegate env -n foo)\"; kubectl create ns foo; kubectl label ns foo istio-injection=enabled
        printf 'apiVersion: security.istio.io/v1\\nkind: AuthorizationPolicy\\nmetadata: {name: closed}\\nspec: {}\\n' | kubectl create -f -
        kubectl run echo --image=istio/tcp-echo-server; kubectl wait --for=condition=Ready pod/echo --timeout=20s",
    );
    assert!(made.status.success(), "{}", told(&made));
    with_each(|kubectl| {
        let mut forward = Running::of(
            mesh.bash_child(kubectl, "eval \"$(tidegate env -n foo)\"; exec kubectl port-forward pod/echo :9000 :7777"),
        );
        let mut local = |to: &str| {
            let line = forward.until(&["Forwarding from 127.0.0.1:", to]);
            line.split([':', ' ']).find_map(|word| word.parse().ok().filter(|port| *port > 1024)).unwrap()
        };
        let ports: [u16; 2] = [local("-> 9000"), local("-> 7777")];
        let [good, bad] = ports.map(|port| move || TcpStream::connect(("127.0.0.1", port)).unwrap());
        let mut answer = String::new();
        let mut good = good();
        good.write_all(b"x\n").and_then(|()| good.shutdown(Shutdown::Write)).unwrap();
        good.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "hello x\n", "kubectl {}", kubectl.version);
        // Closed or reset: nothing comes. Newer kubectls give all their connections up then.
        drop(bad().read_to_string(&mut answer));
        assert_eq!(answer, "hello x\n");
        forward.until(&["port 7777 of pod echo: Connection refused"]);
        Vec::<()>::new()
    });
}
