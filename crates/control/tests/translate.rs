//! Objects become the ground state: who is a workload, who is in the mesh, which ports are behind which services.
#![cfg(test)]

#[path = "golden/fixture.rs"]
mod fixture;

use std::net::IpAddr;
use std::sync::Arc;

use control::translate::{Translator, service_account};
use policy::{ServicePort, WorkloadId};

use fixture::{mesh, object, put};

fn policy(revision: u32, ports: &str) -> api::Object {
    object(&format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
          metadata: {{name: p, namespace: foo, uid: u, resourceVersion: '{revision}'}}, \
          spec: {{rules: [{{to: [{{operation: {{ports: {ports}}}}}]}}]}}}}"
    ))
}

#[test]
fn pods_with_an_address_that_have_not_ended_are_workloads() {
    let mesh = Translator::default().mesh(&mesh());
    let shown: Vec<_> = mesh
        .workloads
        .iter()
        .map(|workload| (workload.id.to_string(), workload.service_account.as_str(), workload.in_mesh))
        .collect();
    let expected = [
        ("bar/plain-1", "default", false),
        ("foo/sleep-1", "sleep", true),
        ("foo/tcp-echo-1", "default", true),
        ("foo/web-1", "default", true),
    ];
    assert_eq!(shown, expected.map(|(id, account, member)| (id.to_owned(), account, member)));
    let echo = mesh.workloads.iter().find(|workload| workload.id == WorkloadId::new("foo", "tcp-echo-1")).unwrap();
    assert_eq!(echo.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    assert_eq!(echo.labels.get("app").map(String::as_str), Some("tcp-echo"));
    assert_eq!(mesh.namespaces.iter().map(String::as_str).collect::<Vec<_>>(), ["bar", "foo", "istio-system"]);
}

#[test]
fn services_show_the_ports_of_their_pods() {
    let mut objects = mesh();
    put(
        &mut objects,
        object(
            "{apiVersion: v1, kind: Service, metadata: {name: odd, namespace: foo}, spec: {selector: {app: web}, ports: \
             [{port: 1, targetPort: nobody}, {port: 2, targetPort: '3'}, {port: 4, targetPort: 5, appProtocol: http}, {port: 6, targetPort: 0}]}}",
        ),
    );
    put(
        &mut objects,
        object("{apiVersion: v1, kind: Service, metadata: {name: bare, namespace: foo}, spec: {ports: [{port: 1}]}}"),
    );
    let mesh = Translator::default().mesh(&objects);
    let ports = |name: &str| {
        let service = mesh.services.iter().find(|service| service.name == name)?;
        Some(service.ports.iter().map(|port| (port.port, port.target)).collect::<Vec<_>>())
    };
    assert_eq!(ports("tcp-echo"), Some(vec![(9000, 9000), (9001, 9001)]));
    assert_eq!(ports("web"), Some(vec![(80, 8080)]), "the name is looked up among the pods, and UDP is left out");
    assert_eq!(ports("odd"), Some(vec![(2, 3), (4, 5), (6, 6)]));
    assert_eq!(ports("bare"), None, "without a selector it has no workloads");
    let odd = mesh.services.iter().find(|service| service.name == "odd").unwrap();
    let expected = ServicePort { name: None, app_protocol: Some("http".to_owned()), port: 4, target: 5 };
    assert_eq!(odd.ports[1], expected);
}

#[test]
fn a_policy_stays_the_same_while_it_means_the_same() {
    let mut objects = mesh();
    let mut translator = Translator::default();
    put(&mut objects, policy(5, "['9000']"));
    let first = translator.mesh(&objects).policies;
    let again = translator.mesh(&objects).policies;
    assert!(Arc::ptr_eq(&first[0], &again[0]));
    put(&mut objects, policy(6, "['9000']"));
    let touched = translator.mesh(&objects).policies;
    assert!(Arc::ptr_eq(&first[0], &touched[0]), "its status was written, its meaning is the same");
    put(&mut objects, policy(7, "['9001']"));
    let changed = translator.mesh(&objects).policies;
    assert!(!Arc::ptr_eq(&first[0], &changed[0]));
    assert_ne!(first[0], changed[0]);
    // The same name made anew is another policy, whatever its version.
    let mut anew = policy(7, "['9002']");
    anew.set("/metadata/uid", "v");
    put(&mut objects, anew);
    assert_ne!(translator.mesh(&objects).policies[0], changed[0]);
}

#[test]
fn deleted_policies_are_gone() {
    let mut objects = mesh();
    let mut translator = Translator::default();
    let one = policy(5, "['9000']");
    put(&mut objects, one.clone());
    assert_eq!(translator.mesh(&objects).policies.len(), 1);
    let key = fixture::key(&one);
    let gone = api::Event { revision: 99, key: key.clone(), change: api::Change::Deleted { old: Arc::new(one) } };
    objects.apply(&gone);
    assert_eq!(translator.mesh(&objects).policies.len(), 0);
    assert_eq!(translator.findings_of(&key), []);
}

#[test]
fn settings_come_from_the_config_map() {
    let mut objects = mesh();
    let mut translator = Translator::default();
    put(&mut objects, policy(5, "['9000']"));
    let before = translator.mesh(&objects);
    assert_eq!(before.settings.trust_domain, "cluster.local");
    put(
        &mut objects,
        object(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
             data: {mesh: \"trustDomain: example.org\\ntidegate: {sameNode: mtls}\\n\"}}",
        ),
    );
    let after = translator.mesh(&objects);
    assert_eq!(after.settings.trust_domain, "example.org");
    assert_eq!(after.settings.same_node, policy::SameNode::Mtls);
    assert_eq!(after.policies.len(), 1);
}

#[test]
fn an_address_that_two_pods_claim_belongs_to_neither() {
    let mut objects = mesh();
    let thief = "{apiVersion: v1, kind: Pod, metadata: {name: thief, namespace: bar}, spec: {containers: []}, status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::7'}]}}";
    put(&mut objects, object(thief));
    let mut translator = Translator::default();
    let mesh = translator.mesh(&objects);
    let address: IpAddr = "10.0.0.2".parse().unwrap();
    assert!(mesh.workloads.iter().all(|workload| !workload.addresses.contains(&address)));
    assert_eq!(translator.shared_addresses().iter().collect::<Vec<_>>(), [&address]);
    let thief = mesh.workloads.iter().find(|workload| workload.id.name == "thief").unwrap();
    assert_eq!(thief.addresses, ["fd00::7".parse::<IpAddr>().unwrap()], "what is its own it keeps");
}

#[test]
fn further_addresses_carry_the_same_identity() {
    let alias = |address: IpAddr| match address {
        IpAddr::V4(v4) => vec![IpAddr::from([100, 64, v4.octets()[2], v4.octets()[3]])],
        IpAddr::V6(_) => Vec::new(),
    };
    let mesh = Translator::new(Arc::new(alias)).mesh(&mesh());
    let echo = mesh.workloads.iter().find(|workload| workload.id.name == "tcp-echo-1").unwrap();
    let shown: Vec<String> = echo.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.1", "fd00::1", "100.64.0.1"]);
}

#[test]
fn mapped_addresses_and_nonsense() {
    let odd = "{apiVersion: v1, kind: Pod, metadata: {name: odd, namespace: bar}, spec: {serviceAccount: old}, status: {podIP: '::ffff:10.0.0.66', podIPs: [{ip: x}, {}, {ip: 10.0.0.66}]}}";
    let mut objects = mesh();
    put(&mut objects, object(odd));
    let mesh = Translator::default().mesh(&objects);
    let workload = mesh.workloads.iter().find(|workload| workload.id.name == "odd").unwrap();
    assert_eq!(workload.addresses, ["10.0.0.66".parse::<IpAddr>().unwrap()]);
    assert_eq!(service_account(&object(odd)), "old");
    assert_eq!(workload.service_account, "old");
}
