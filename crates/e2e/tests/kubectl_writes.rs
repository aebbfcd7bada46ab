//! Verbs that change objects, with every kubectl: create, apply in all its forms, patch, edit, label, scale, rollout, delete.
#![cfg(test)]

use e2e::mesh::{Mesh, kubectls, told};
use e2e::verbs::{Line, line, play};

const PREPARE: &str = r#"write() { printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, labels: {set: x}}\ndata: {%s}\n' "$2" "$3" >"$1"; }
write one.yaml map 'a: "1", b: "2"'
write other.yaml map 'a: "9", b: "2"'
write less.yaml map 'a: "1"'
mkdir set; write set/one.yaml first 'a: "1"'; write set/two.yaml second 'a: "1"'
policy() { printf 'apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: only}\nspec: {action: %s, %s: [{to: [{operation: {ports: ["%s"]}}]}]}\n' "$2" "$3" "$4" >"$1"; }
policy p9000.yaml ALLOW rules 9000; policy p9001.yaml ALLOW rules 9001; policy bad.yaml ALLOW rulez 9000"#;

fn creates() -> Vec<Line> {
    vec![
        line("kubectl create configmap cm --from-literal=a=b").says("configmap/cm created"),
        line("kubectl create configmap cm").with_few().fails().has(&["configmaps \"cm\" already exists"]),
        line("kubectl create secret generic key --from-literal=p=x").says("secret/key created"),
        line("kubectl create serviceaccount acc").says("serviceaccount/acc created"),
        line("kubectl create deployment web --image=busybox --replicas=2 -- sleep infinity").says("deployment.apps/web created"),
        line("kubectl create job once --image=busybox -- echo done").says("job.batch/once created"),
        line("kubectl wait --for=condition=complete job/once --timeout=30s").says("job.batch/once condition met"),
        line("kubectl logs job/once").says("done"),
        line("kubectl create service clusterip svc --tcp=80:8080").says("service/svc created"),
        line("kubectl run one --image=busybox --labels=app=one --port=9000 --command -- sleep infinity").says("pod/one created"),
        line("kubectl expose pod one --port=9000").says("service/one exposed"),
        line("kubectl expose deployment web --port=80 --target-port=8080 --dry-run=server -o jsonpath='{.spec.ports[0].targetPort}'")
            .says("8080"),
        // Said clearly, where the mesh has no such thing.
        line("kubectl create token acc").since(24).fails().has(&["tokens of service accounts are not issued here"]),
        line("kubectl create cronjob j --schedule='* * * * *' --image=busybox").since(21).with_few().fails().has(&["cronjobs.batch are not run by this mesh"]),
        line("kubectl create role r --verb=get --resource=pods").with_few().fails().has(&["could not find the requested resource"]),
    ]
}

fn rollouts() -> Vec<Line> {
    vec![
        line("kubectl rollout status deploy/web --timeout=30s").has(&["deployment \"web\" successfully rolled out"]),
        line("kubectl scale deploy/web --replicas=3").says("deployment.apps/web scaled"),
        line("kubectl scale deploy/web --replicas=1 --current-replicas=3").says("deployment.apps/web scaled"),
        line("kubectl scale deploy/web --replicas=1 --current-replicas=3").with_few().fails().has(&["Expected replicas to be 3, was 1"]),
        line("kubectl set image deploy/web busybox=busybox:2").says("deployment.apps/web image updated"),
        line("kubectl set env deploy/web A=1 B=2").says("deployment.apps/web env updated"),
        line("kubectl set env deploy/web --list").has(&["A=1\nB=2"]),
        line("kubectl annotate deploy/web kubernetes.io/change-cause=third").has(&["deployment.apps/web annotate"]),
        line("kubectl rollout history deploy/web")
            .says("deployment.apps/web\nREVISION CHANGE-CAUSE\n1 <none>\n2 <none>\n3 third"),
        line("kubectl rollout history deploy/web --revision=2").has(&["with revision #2", "Image: busybox:2"]),
        line("kubectl rollout undo deploy/web").says("deployment.apps/web rolled back"),
        line("kubectl rollout undo deploy/web --to-revision=1").says("deployment.apps/web rolled back"),
        line("kubectl get deploy web -o jsonpath='{.spec.template.spec.containers[0].image} {.metadata.annotations.deployment\\.kubernetes\\.io/revision}'")
            .says("busybox 5"),
        line("kubectl rollout restart deploy/web").says("deployment.apps/web restarted"),
        line("kubectl rollout status deploy/web --timeout=30s").has(&["deployment \"web\" successfully rolled out"]),
        line("kubectl rollout pause deploy/web").says("deployment.apps/web paused"),
        line("kubectl rollout pause deploy/web").with_few().fails().has(&["deployments.apps \"web\" is already paused"]),
        line("kubectl rollout resume deploy/web").says("deployment.apps/web resumed"),
        line("kubectl rollout status deploy/web --timeout=30s").has(&["deployment \"web\" successfully rolled out"]),
    ]
}

fn changes() -> Vec<Line> {
    vec![
        line("kubectl label pod one x=y").says("pod/one labeled"),
        line("kubectl label pod one x=z").with_few().fails().says("error: 'x' already has a value (y), and --overwrite is false"),
        line("kubectl label pod one x=z --overwrite").says("pod/one labeled"),
        line("kubectl label pod one x- && kubectl get pod one -o jsonpath='{.metadata.labels}'").has(&["{\"app\":\"one\"}"]),
        line("kubectl annotate pod one note='a b' && kubectl get pod one -o jsonpath='{.metadata.annotations.note}'")
            .has(&["pod/one annotate", "a b"]),
        line("kubectl patch deploy web -p '{\"spec\":{\"replicas\":2}}'").says("deployment.apps/web patched"),
        line("kubectl patch deploy web --type=merge -p '{\"spec\":{\"replicas\":1}}'").says("deployment.apps/web patched"),
        line("kubectl patch deploy web --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":1},{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":2}]'")
            .says("deployment.apps/web patched"),
        line("kubectl patch deploy web --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":1}]'").fails().has(&["The request is invalid"]),
        line("kubectl patch deploy web --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":1}}'").since(24).has(&["web patched"]),
        line("kubectl patch deploy web -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"more\",\"image\":\"busybox\"}]}}}}' && kubectl get deploy web -o jsonpath='{.spec.template.spec.containers[*].name}'")
            .says("deployment.apps/web patched\nmore busybox"),
        line("KUBE_EDITOR=\"sed -i 's/  a: b/  a: c/'\" kubectl edit cm cm && kubectl get cm cm -o jsonpath={.data.a}")
            .says("configmap/cm edited\nc"),
        line("KUBE_EDITOR=true kubectl edit cm cm").says("Edit cancelled, no changes made."),
        line("kubectl get cm cm -o yaml | sed 's/a: c/a: d/' | kubectl replace -f - && kubectl get cm cm -o jsonpath={.data.a}")
            .says("configmap/cm replaced\nd"),
        line("kubectl get cm cm -o yaml | kubectl replace --force -f -").has(&["configmap \"cm\" deleted", "configmap/cm replaced"]),
    ]
}

fn applies() -> Vec<Line> {
    let conflict = "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.rules";
    vec![
        line("kubectl apply -f p9000.yaml").says("authorizationpolicy.security.istio.io/only created"),
        line("kubectl apply -f p9000.yaml").says("authorizationpolicy.security.istio.io/only unchanged"),
        line("kubectl diff -f p9000.yaml").says(""),
        line("kubectl diff -f p9001.yaml").fails().has(&["- - \"9000\"", "+ - \"9001\""]),
        line("kubectl apply -f p9001.yaml --dry-run=server").says("authorizationpolicy.security.istio.io/only configured (server dry run)"),
        line("kubectl apply -f p9001.yaml --dry-run=client").says("authorizationpolicy.security.istio.io/only configured (dry run)"),
        line("kubectl apply -f bad.yaml").fails().has(&["unknown field", "rulez"]),
        line("kubectl patch ap only -p '{}'").with_few().fails().has(&["application/merge-patch+json"]),
        line("kubectl patch ap only --type=merge -p '{\"spec\":{\"action\":\"DENY\"}}'").says("authorizationpolicy.security.istio.io/only patched"),
        line("KUBE_EDITOR='sed -i s/DENY/ALLOW/' kubectl edit ap only").says("authorizationpolicy.security.istio.io/only edited"),
        line("KUBE_EDITOR='sed -i s/ALLOW/NOPE/' kubectl edit ap only").fails().has(&["is invalid"]),
        line("kubectl apply view-last-applied ap only -o json").has(&["\"9000\""]),
        // From client-side to server-side apply, without a conflict with itself.
        line("kubectl apply --server-side -f p9000.yaml").says("authorizationpolicy.security.istio.io/only serverside-applied"),
        line("kubectl apply --server-side --field-manager=other -f p9001.yaml")
            .fails()
            .has(&["Apply failed with", ".spec.rules", "--force-conflicts"]),
        // Older ones do not give up what client-side apply owns.
        line("kubectl apply --server-side --field-manager=other -f p9001.yaml").since(27).fails().has(&[conflict]),
        line("kubectl apply --server-side --field-manager=other --force-conflicts -f p9001.yaml --dry-run=server")
            .says("authorizationpolicy.security.istio.io/only serverside-applied (server dry run)"),
        line("kubectl apply --server-side --field-manager=other --force-conflicts -f p9001.yaml")
            .says("authorizationpolicy.security.istio.io/only serverside-applied"),
        line("kubectl get ap only -o jsonpath='{.spec.rules[0].to[0].operation.ports} {.metadata.managedFields[*].manager}'")
            .has(&["[\"9001\"]", "kubectl", "other"]),
        line("kubectl apply --server-side -f bad.yaml").fails().has(&["rulez"]),
        line("kubectl diff --server-side --force-conflicts -f p9000.yaml").fails().has(&["- - \"9001\"", "+ - \"9000\""]),
        line("kubectl apply --server-side --field-manager=one -f one.yaml").says("configmap/map serverside-applied"),
        line("kubectl apply --server-side --field-manager=two -f one.yaml").says("configmap/map serverside-applied"),
        line("kubectl apply --server-side --field-manager=two -f other.yaml").fails().has(&["conflict with \"one\": .data.a"]),
        line("kubectl apply --server-side --field-manager=one -f less.yaml && kubectl get cm map -o jsonpath={.data}")
            .says("configmap/map serverside-applied\n{\"a\":\"1\",\"b\":\"2\"}"),
        line("kubectl apply --server-side --field-manager=two -f less.yaml && kubectl get cm map -o jsonpath={.data}")
            .says("configmap/map serverside-applied\n{\"a\":\"1\"}"),
        line("kubectl apply set-last-applied -f p9001.yaml --create-annotation").has(&["authorizationpolicy.security.istio.io/only"]),
        line("kubectl apply -f set -l set=x && rm set/two.yaml").says("configmap/first created\nconfigmap/second created"),
    ]
}

/// Older ones ask for kinds that no server of this decade has, unless they are told which to prune.
fn prunes() -> Vec<Line> {
    let list =
        "$(kubectl apply --help | grep -q -- --prune-allowlist && echo --prune-allowlist || echo --prune-whitelist)";
    vec![
        line(&format!("kubectl apply -f set -l set=x --prune {list}=core/v1/ConfigMap --dry-run=server"))
            .has(&["configmap/first unchanged (server dry run)", "configmap/second pruned (server dry run)"]),
        line("kubectl apply -f set -l set=x --prune")
            .since(27)
            .has(&["configmap/first unchanged", "configmap/second pruned"]),
        line(&format!("kubectl apply -f set -l set=x --prune {list}=core/v1/ConfigMap"))
            .has(&["configmap/first unchanged"]),
        line("kubectl get cm -l set=x -o name").has(&["configmap/first"]).has_not(&["configmap/second"]),
    ]
}

fn deletes() -> Vec<Line> {
    vec![
        line("kubectl delete cm cm --dry-run=server").has(&["configmap \"cm\" deleted", "(server dry run)"]),
        line("kubectl delete cm cm").has(&["configmap \"cm\" deleted"]),
        line("kubectl delete cm cm").with_few().fails().has(&["configmaps \"cm\" not found"]),
        line("kubectl delete job once").has(&["job.batch \"once\" deleted"]),
        line("kubectl delete cm cm --ignore-not-found").says(""),
        line("kubectl delete cm -l set=x").has(&["configmap \"first\" deleted"]),
        line("kubectl delete pod one --grace-period=1").has(&["pod \"one\" deleted"]),
        line("kubectl run two --image=busybox --command -- sleep infinity && kubectl delete pod two --now").has(&["pod \"two\" deleted"]),
        line("kubectl run two --image=busybox --command -- sleep infinity && kubectl delete pod two --force --grace-period=0").has(&["pod \"two\" force deleted"]),
        line("kubectl delete deploy web --cascade=orphan && kubectl get rs -o name | wc -l").has(&["deployment.apps \"web\" deleted"]).has_not(&["\n0"]),
        line("kubectl delete rs,pods --all --grace-period=0 --force").has(&["replicaset.apps \"web-HASH\""]),
        line("kubectl delete svc --all").has(&["service \"one\" deleted", "service \"svc\" deleted"]),
        line("kubectl delete -f p9000.yaml --wait=false").has(&["authorizationpolicy.security.istio.io \"only\" deleted"]),
        line("kubectl delete ns $NS && ! kubectl get ns $NS").has(&["namespace \"NS\" deleted", "namespaces \"NS\" not found"]),
    ]
}

#[test]
fn what_changes_objects_does_and_says_the_same_with_every_kubectl() {
    let mesh = Mesh::up();
    play(&mesh, PREPARE, &[creates(), rollouts(), changes(), applies(), prunes(), deletes()].concat());
}

#[test]
fn an_event_whose_hour_is_over_goes() {
    let mesh = Mesh::up();
    let made = mesh.bash(
        &kubectls()[1],
        "set -e; eval \"$(tidegate env -n foo)\"; kubectl create ns foo
        event() { printf 'apiVersion: v1\\nkind: Event\\nmetadata: {name: %s}\\ninvolvedObject: {kind: Pod, name: p, namespace: foo}\\nreason: R\\nmessage: m\\ntype: Normal\\nlastTimestamp: %s\\n---\\n' \"$1\" \"$2\"; }
        { event old 2020-01-01T00:00:00Z; event now $(date -u +%Y-%m-%dT%H:%M:%SZ); } | kubectl create -f -
        while kubectl get event old >gone 2>&1; do :; done
        cat gone; kubectl get events -o name",
    );
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{}", told(&made));
    assert!(said.contains("events \"old\" not found") && said.ends_with("event/now\n"), "{}", told(&made));
}
