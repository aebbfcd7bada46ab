use std::sync::Arc;

use serde_json::{Value, json};

use super::OnRequest;
use crate::compile::compile;
use crate::decide::Connection;
use crate::identity::{Peer, SpiffeId};
use crate::mesh::{Mesh, Profile, ProviderKind, Service, ServicePort, Settings, Workload, WorkloadId};
use crate::parse::authorization_policy;
use crate::port::Carries;
use crate::record::{End, Outcome, Record};
use crate::snapshot::Snapshot;

/// A workload with services on its ports 80 (http) and 5432 (tcp), and these policies on it.
fn mesh(profile: Profile, specs: &[Value]) -> Mesh {
    let settings =
        Settings { profile, providers: [("opa".to_owned(), ProviderKind::Http)].into(), ..Settings::default() };
    let port =
        |name: &str, port: u16| ServicePort { name: Some(name.to_owned()), app_protocol: None, port, target: port };
    let labels: crate::mesh::Labels = [("app".to_owned(), "web".to_owned())].into();
    let service = Service {
        namespace: "foo".to_owned(),
        name: "web".to_owned(),
        selector: labels.clone(),
        ports: vec![port("http", 80), port("tcp", 5432)],
        created: None,
    };
    let workload = Workload {
        id: WorkloadId::new("foo", "web"),
        labels,
        service_account: "web".to_owned(),
        addresses: vec!["10.0.0.9".parse().unwrap()],
        in_mesh: true,
    };
    let policies = specs.iter().enumerate().map(|(index, spec)| {
        let document = json!({"metadata": {"name": format!("p{index}"), "namespace": "foo"}, "spec": spec});
        Arc::new(authorization_policy(&document, &settings).value.unwrap())
    });
    let policies = policies.collect();
    Mesh { settings, workloads: vec![workload], services: vec![service], policies, ..Mesh::default() }
}

fn outcome(snapshot: &Snapshot, port: u16) -> Outcome {
    let peer = Peer::Attested(SpiffeId::new("cluster.local", "foo", "sleep").unwrap());
    let connection = Connection::new("10.0.0.5".parse().unwrap(), peer, "10.0.0.9".parse().unwrap(), port);
    snapshot.outcome_at_syn(&WorkloadId::new("foo", "web"), &connection)
}

/// `allowed` or `denied` as TCP, then what is said of requests.
fn said(profile: Profile, specs: &[Value], port: u16) -> (bool, Option<(Carries, OnRequest, String)>) {
    let told = outcome(&compile(&mesh(profile, specs), 1, None), port);
    (told.permitted, told.http.map(|requests| (requests.carries, requests.verdict, requests.by.join(", "))))
}

// S-84, S-85
#[test]
fn requests_are_told_of_where_they_could_meet_something_else() {
    let allow = |operation: Value| json!({"rules": [{"to": [{"operation": operation}]}]});
    let deny = |rule: Value| json!({"action": "DENY", "rules": [rule]});
    let get = allow(json!({"methods": ["GET"], "paths": ["/a"], "ports": ["80", "8080", "5432"]}));
    let admin = deny(json!({"to": [{"operation": {"paths": ["/admin"]}}]}));
    let elsewhere = deny(json!({"from": [{"source": {"remoteIpBlocks": ["203.0.113.0/24"]}}]}));
    let asked = json!({"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [{}]});
    let everybody = json!({"rules": [{}]});
    let own = json!({"rules": [{"from": [{"source": {"namespaces": ["foo"]}}]}]});
    let name = deny(json!({"when": [{"key": "connection.sni", "values": ["a"]}]}));
    let other =
        deny(json!({"from": [{"source": {"namespaces": ["bar"]}}], "to": [{"operation": {"methods": ["GET"]}}]}));
    let depends = |carries, by: &str| Some((carries, OnRequest::Depends, by.to_owned()));
    let (http, detected) = (Carries::Http, Carries::Detected);
    for (specs, port, permitted, expected) in [
        (vec![], 80, true, None),
        (vec![get.clone()], 80, false, depends(http, "methods, paths")),
        (vec![get.clone()], 8080, false, depends(detected, "methods, paths")),
        // The service says that it carries TCP.
        (vec![get.clone()], 5432, false, None),
        // Another port than the rule's: no request gets further.
        (vec![get.clone()], 81, false, None),
        // Another rule lets every request in.
        (vec![get.clone(), own], 80, true, None),
        (vec![admin.clone()], 80, false, depends(http, "paths")),
        (vec![admin, deny(json!({}))], 80, false, None),
        // Of another peer: neither engine looks further.
        (vec![other], 80, true, None),
        (vec![elsewhere], 80, true, depends(http, "remoteIpBlocks")),
        (vec![asked], 80, true, depends(http, "the external authorizer of foo/p0")),
        // The server name is unknown to both.
        (vec![name.clone(), everybody], 80, false, None),
        (vec![name, get.clone()], 80, false, depends(http, "methods, paths")),
    ] {
        assert_eq!(said(Profile::Sidecar, &specs, port), (permitted, expected), "{port}: {specs:?}");
    }
    // S-86: in the ambient profile everything is TCP.
    assert_eq!(said(Profile::Ambient, &[get], 80), (false, None));
}

#[test]
fn a_service_that_comes_is_looked_at_and_rules_are_read_for_http_once() {
    let get = json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]});
    let mut mesh = mesh(Profile::Sidecar, &[get]);
    let before = compile(&mesh, 1, None);
    assert_eq!(outcome(&before, 9002).http.map(|requests| requests.carries), Some(Carries::Detected));
    let port = ServicePort { name: Some("tcp-x".to_owned()), app_protocol: None, port: 1, target: 9002 };
    mesh.services[0].ports.push(port);
    let after = compile(&mesh, 2, Some(&before));
    assert_eq!(outcome(&after, 9002).http, None);
    let web = WorkloadId::new("foo", "web");
    let rules = |snapshot: &Snapshot| Arc::clone(&snapshot.workload(&web).unwrap().ruleset);
    assert!(Arc::ptr_eq(&rules(&before), &rules(&after)) && rules(&after).http.get().is_some_and(Option::is_some));
    let same = compile(&mesh, 3, Some(&after));
    assert!(Arc::ptr_eq(&same.services, &after.services), "services that did not change are shared");
}

#[test]
fn a_record_says_it_to_people_and_to_machines_and_only_then() {
    let get = json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]});
    let snapshot = compile(&mesh(Profile::Sidecar, &[get]), 1, None);
    let end = |port| End { workload: None, identity: None, address: "10.0.0.5".parse().unwrap(), port };
    let record = |port| Record::opened(1, 2, end(1), end(port), outcome(&snapshot, port));
    let (http, tcp) = (record(80), record(5432));
    assert_eq!(
        http.sentence(),
        "10.0.0.5 → 10.0.0.5:80 denied: no ALLOW policy matches; nearest: foo/p0 rule 0 never matches on TCP because of \
         `methods`; judged as TCP, and the port carries HTTP, where each request depends on methods"
    );
    let (machine, silent) = (serde_json::to_value(&http).unwrap(), serde_json::to_value(&tcp).unwrap());
    assert_eq!(machine["http"], json!({"carries": "http", "verdict": "depends", "by": ["methods"]}));
    assert!(silent.get("http").is_none() && !tcp.sentence().contains("HTTP, where"), "{silent}");
    for record in [http, tcp] {
        let again: Record = serde_json::from_value(serde_json::to_value(&record).unwrap()).unwrap();
        assert_eq!(again, record);
    }
}
