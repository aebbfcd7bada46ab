//! Verbs that only look, with every kubectl: `get`, `describe`, `events`, `explain`, and what tells of the server.
#![cfg(test)]

use e2e::mesh::Mesh;
use e2e::verbs::{Line, line, play};

const PREPARE: &str = r#"cat >all.yaml <<'EOF'
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: one}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, command: [sleep, infinity], ports: [{containerPort: 9000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: one}
spec: {selector: {app: one}, ports: [{name: tcp, port: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: busybox, command: [sleep, infinity]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, labels: {app: once}}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox, command: ["true"]}]}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: s3cret}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only}
spec: {selector: {matchLabels: {app: one}}, action: ALLOW, rules: [{to: [{operation: {ports: ["9000"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: modes}
spec: {mtls: {mode: PERMISSIVE}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: stored}
spec: {hosts: [one]}
EOF
kubectl create -f all.yaml
kubectl rollout status deploy/web --timeout=30s
kubectl wait --for=condition=Ready pod -l 'app in (one, web)' --timeout=30s
kubectl wait --for=condition=complete job/once --timeout=30s"#;

fn gets() -> Vec<Line> {
    vec![
        line("kubectl get pods -l app=one").says("NAME READY STATUS RESTARTS AGE\none 1/1 Running 0 AGE"),
        line("kubectl get pods -l app=one -o wide").says(
            "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES\none 1/1 Running 0 AGE IP tidegate <none> <none>",
        ),
        line("kubectl get deploy,rs,svc -o wide").says(
            "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR\n\
             deployment.apps/web 2/2 2 2 AGE c busybox app=web\n\
             NAME DESIRED CURRENT READY AGE CONTAINERS IMAGES SELECTOR\n\
             replicaset.apps/web-HASH 2 2 2 AGE c busybox app=web,pod-template-hash=HASH\n\
             NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR\n\
             service/one ClusterIP IP <none> 9000/TCP AGE app=one",
        ),
        line("kubectl get all").has(&[
            "pod/one 1/1 Running 0 AGE",
            "service/one ClusterIP IP <none> 9000/TCP AGE",
            "deployment.apps/web 2/2 2 2 AGE",
            "replicaset.apps/web-HASH 2 2 2 AGE",
        ]),
        line("kubectl get pod one -o name").says("pod/one"),
        line("kubectl get pods -l app=web --show-labels --field-selector=status.phase=Running --no-headers | head -n1")
            .says("web-HASH-POD 1/1 Running 0 AGE app=web,pod-template-hash=HASH"),
        line("kubectl get pods -l app --sort-by=.metadata.name -o jsonpath='{.items[0].metadata.name} {.items[*].status.phase}'")
            .says("one Running Running Running"),
        line("kubectl get pods -l app -o custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image | sort | head -n2")
            .says("NAME IMAGE\none busybox"),
        line("kubectl get cm settings -o yaml").has(&["kind: ConfigMap", "color: red", "uid: UID"]),
        line("kubectl get cm settings -o yaml").since(21).has_not(&["managedFields"]),
        line("kubectl get cm settings -o yaml --show-managed-fields")
            .since(21)
            .has(&["managedFields:", "f:data:", "f:color: {}", "manager: kubectl-create", "operation: Update"]),
        line("kubectl get svc one -o json").has(&["\"kind\": \"Service\"", "\"targetPort\": 9000"]),
        line("kubectl get ap,pa").says(
            "NAME ACTION AGE\nauthorizationpolicy.security.istio.io/only ALLOW AGE\n\
             NAME MODE AGE\npeerauthentication.security.istio.io/modes PERMISSIVE AGE",
        ),
        line("kubectl get ap only -o wide").says(
            "NAME ACTION AGE ENFORCED WHY\nonly ALLOW AGE False 0/0 proxies: no pod that it selects is in the mesh",
        ),
        line("kubectl get sts,ds,cronjobs,pvc,ing").says("No resources found in NS namespace."),
        line("kubectl get pods none").fails().says("Error from server (NotFound): pods \"none\" not found"),
        line("timeout 20 grep -m1 later <(kubectl get cm -w -o name & kubectl create cm later >&2)")
            .has(&["configmap/later"]),
        line("kubectl wait --for=condition=Ready pod/one --timeout=10s").says("pod/one condition met"),
        line("kubectl wait --for=jsonpath='{.status.phase}'=Running pod/one --timeout=10s")
            .since(23)
            .says("pod/one condition met"),
        line("kubectl get ap only -o jsonpath='{.status.conditions[?(@.type==\"Accepted\")].status}'").says("True"),
    ]
}

fn describes() -> Vec<Line> {
    vec![
        line("kubectl describe ns $NS").has(&["Name: NS", "Status: Active", "kubernetes.io/metadata.name="]),
        line("kubectl describe pod one").has(&[
            "Status: Running",
            "Image: busybox",
            "Ready True",
            "QoS Class: BestEffort",
            "Normal Scheduled AGE kubelet Successfully assigned NS/one to tidegate",
            "Normal Started AGE kubelet Started container c",
        ]),
        line("kubectl describe deploy web").has(&[
            "Replicas: 2 desired | 2 updated | 2 total | 2 available | 0 unavailable",
            "RollingUpdateStrategy: 25% max unavailable, 25% max surge",
            "Available True MinimumReplicasAvailable",
            "NewReplicaSet: web-HASH (2/2 replicas created)",
            "Normal ScalingReplicaSet AGE tidegate Scaled up replica set web-HASH from 0 to 2",
        ]),
        line("kubectl describe rs -l app=web --show-events").has(&[
            "Controlled By: Deployment/web",
            "Pods Status: 2 Running / 0 Waiting / 0 Succeeded / 0 Failed",
            "Normal SuccessfulCreate AGE tidegate Created pod: web-HASH-POD",
        ]),
        line("kubectl describe job once").has(&[
            "Parallelism: 1",
            "Pods Statuses: 0 ",
            "1 Succeeded / 0 Failed",
            "Normal Completed AGE tidegate Job completed",
        ]),
        line("kubectl describe svc one").has(&["Selector: app=one", "Port: tcp 9000/TCP", "Endpoints: ", "IP:9000"]),
        line("kubectl describe sa default").has(&["Name: default", "Image pull secrets: <none>"]),
        line("kubectl describe cm settings").has(&["color:", "red"]),
        line("kubectl describe secret key").has(&["Type: Opaque", "password: 6 bytes"]),
        line("kubectl describe endpoints one").has(&["Addresses: IP", "tcp 9000 TCP"]),
        // Older ones ask for a version that newer servers do not have.
        line("kubectl describe endpointslices -l kubernetes.io/service-name=one").since(21).has(&[
            "AddressType: IPv4",
            "Ready: true",
            "TargetRef: Pod/one",
        ]),
        line("kubectl describe node tidegate")
            .has(&["HolderIdentity: tidegate", "Ready True", "cpu:", "Non-terminated Pods:", "Kubelet Version:"])
            .has_not(&["9223372036854775808", "Failed to get lease"]),
        line("kubectl describe lease tidegate -n kube-node-lease").has(&["Holder Identity: tidegate"]),
        line("kubectl describe ap only").has(&["Action: ALLOW", "Type: Accepted", "Status: True"]),
        line("kubectl describe pa modes").has(&["Mode: PERMISSIVE"]),
        line("kubectl describe vs stored").has(&["Hosts:", "one"]),
        line("kubectl describe crd authorizationpolicies.security.istio.io")
            .has(&["Kind: CustomResourceDefinition", "Group: security.istio.io"]),
        line("kubectl describe events").has(&["Reason: Started", "Involved Object:"]),
    ]
}

fn explains() -> Vec<Line> {
    let mut lines = vec![
        line("kubectl explain pod.spec.containers.image").has(&[
            "VERSION: v1",
            "<string>",
            "The image that the container is made of.",
        ]),
        line("kubectl explain deployments.spec.strategy --recursive").has(&[
            "rollingUpdate",
            "maxSurge",
            "maxUnavailable",
        ]),
        line("kubectl explain service.spec.ports.port")
            .has(&["<integer>", "Number of the port at the address of the service."]),
        line("kubectl explain service.spec.ports").has(&["port <integer> -required-", "targetPort"]),
        line("kubectl explain ap.spec.rules").has(&[
            "security.istio.io",
            "<[]Object>",
            "A connection is matched if any rule matches.",
        ]),
        line("kubectl explain sts").has(&["A kind that this mesh does not run"]),
        line("kubectl explain pod.spec.nothing").fails().has(&["does not exist"]),
    ];
    for kind in [
        "ns",
        "cm",
        "secret",
        "sa",
        "svc",
        "pods",
        "events",
        "endpoints",
        "nodes",
        "deploy",
        "rs",
        "jobs",
        "endpointslices",
        "leases",
        "crd",
        "pa",
        "vs",
    ] {
        lines.push(line(&format!("kubectl explain {kind}")).with_few().has(&["KIND:", "DESCRIPTION:", "metadata"]));
    }
    lines
}

fn tells() -> Vec<Line> {
    vec![
        line("kubectl get events --field-selector involvedObject.name=one,reason=Started")
            .says("LAST SEEN TYPE REASON OBJECT MESSAGE\nAGE Normal Started pod/one Started container c"),
        line("kubectl get events -o wide --field-selector involvedObject.name=one,reason=Started --no-headers")
            .has(&["AGE Normal Started pod/one kubelet, tidegate Started container c AGE 1 one."]),
        line("kubectl get events.events.k8s.io | grep pod/one").has(&["Normal Started pod/one Started container c"]),
        line("kubectl events --for pod/one").since(26).has(&["AGE Normal Started Pod/one Started container c"]),
        line("kubectl api-resources --no-headers --api-group=security.istio.io").has(&[
            "authorizationpolicies ap security.istio.io/v1 true AuthorizationPolicy",
            "peerauthentications pa security.istio.io/v1 true PeerAuthentication",
        ]),
        line("kubectl api-resources --verbs=create --namespaced -o name")
            .has(&["pods", "deployments.apps"])
            .has_not(&["statefulsets"]),
        line("kubectl api-versions").has(&["apps/v1", "security.istio.io/v1beta1", "v1"]),
        line("kubectl version").has(&["Server Version:", "1.32.0+tidegate"]),
        line("kubectl cluster-info").has(&["is running at", "https://127.0.0.1:"]),
        line("kubectl cluster-info dump --output-directory=dump --namespaces=$NS && ls dump/$NS | sort | head -n2")
            .has(&["Cluster info dumped to dump", "daemonsets.json", "deployments.json"]),
        line("kubectl top pods").fails().says("error: Metrics API not available"),
        line("kubectl auth can-i create pods").says("yes"),
        line("kubectl auth can-i --list").has(&["*.* [] [] [*]"]),
        line("kubectl auth whoami")
            .since(28)
            .has(&["Username tidegate-admin", "Groups [system:masters system:authenticated]"]),
        line("kubectl get --raw /healthz").says("ok"),
        line("kubectl get --raw /apis/apps/v1").has(&["\"deployments/scale\""]),
        line("kubectl get --raw /nowhere").fails().has(&["NotFound"]),
        line("kubectl config view --minify -o jsonpath='{.contexts[0].context.namespace}'").says("NS"),
    ]
}

#[test]
fn what_only_looks_says_the_same_with_every_kubectl() {
    let mesh = Mesh::up();
    play(&mesh, PREPARE, &[gets(), describes(), explains(), tells()].concat());
}
