//! Default deny that refuses what the cluster itself asks for: probes of the kubelet, scrapes of a collector. Asked of the exact cut,
//! so that "nobody reaches this port" is meant literally.

use std::sync::Arc;

use api::Object;
use policy::WorkloadId;
use policy::space::{self, Among, Proof, Wanted};
use policy::spec::{Attribute, Entry, Match, Rule, Value, Values};
use serde_json::Value as Json;

use super::{Diagnostic, Pass, View};
use crate::finding::{Code, Level};

const SCRAPE: &str = "prometheus.io/scrape";
const SCRAPE_PORT: &str = "prometheus.io/port";
/// Istio serves an application's metrics beside its own, past the policies, unless this says no.
const MERGE: &str = "prometheus.istio.io/merge-metrics";
/// Istio redirects probes past the policies, unless this says no.
const REWRITE: &str = "sidecar.istio.io/rewriteAppHTTPProbers";

pub(super) fn refused_by_default(pass: &mut Pass<'_>) {
    let members: Vec<WorkloadId> =
        pass.mesh.workloads.iter().filter(|workload| workload.in_mesh).map(|workload| workload.id.clone()).collect();
    for id in members {
        let Some(pod) = pass.bundle.objects().find("", "pods", Some(&id.namespace), &id.name).map(Arc::clone) else {
            continue;
        };
        scrape(pass, &id, &pod);
        probes(pass, &id, &pod);
    }
}

fn scrape(pass: &mut Pass<'_>, id: &WorkloadId, pod: &Object) {
    let wanted = pod.annotation(SCRAPE) == Some("true");
    let port = pod.annotation(SCRAPE_PORT).and_then(|port| port.parse::<u16>().ok());
    let Some(port) = port.filter(|_| wanted) else { return };
    if !nobody_reaches(pass, id, port, false) {
        return;
    }
    let merged = !pass.ambient() && pod.annotation(MERGE) != Some("false");
    let view = View::of(pass, "pods", &id.namespace, &id.name);
    let message = format!("`{id}` asks to be scraped at port {port}, and no policy lets anybody reach it");
    let mut told = Diagnostic::new(Code::BlocksScrape.entry(), message);
    told = view.value_at(told, &format!("metadata.annotations[{SCRAPE_PORT}]"), "");
    if merged {
        let note = "Istio's injection moves the scrape to a port of its own, past the policies; where nothing does, it is refused";
        told = told.note(note).level(Level::Note);
    }
    pass.found.push(told.help(format!("allow port {port} for the namespace of the collector")));
}

fn probes(pass: &mut Pass<'_>, id: &WorkloadId, pod: &Object) {
    if pass.ambient() || pod.annotation(REWRITE) != Some("false") {
        return;
    }
    let view = View::of(pass, "pods", &id.namespace, &id.name);
    for (index, container) in pod.items_at("/spec/containers").iter().enumerate() {
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            for kind in ["httpGet", "tcpSocket", "grpc"] {
                let written = container.get(probe).and_then(|probe| probe.get(kind)).and_then(|kind| kind.get("port"));
                let Some(port) = written.and_then(|port| number(container, port)) else { continue };
                if !nobody_reaches(pass, id, port, true) {
                    continue;
                }
                let message =
                    format!("the kubelet's {probe} of `{id}` goes to port {port} without identity, and is refused");
                let told = Diagnostic::new(Code::BlocksProbe.entry(), message);
                let path = format!("spec.containers[{index}].{probe}.{kind}.port");
                let told =
                    view.at(told, &path, "").note(format!("`{REWRITE}: \"false\"` keeps Istio from redirecting it"));
                pass.found.push(told.help(format!("allow port {port}, or remove the annotation")));
            }
        }
    }
}

/// The number of a port that may be written as the name of one of the container's ports.
fn number(container: &Json, port: &Json) -> Option<u16> {
    if let Some(number) = port.as_u64() {
        return u16::try_from(number).ok();
    }
    let name = port.as_str()?;
    let ports = container.get("ports")?.as_array()?;
    let found = ports.iter().find(|port| port.get("name").and_then(Json::as_str) == Some(name))?;
    u16::try_from(found.get("containerPort")?.as_u64()?).ok()
}

/// Whether every connection to a port is refused: of everybody, or of those without identity.
fn nobody_reaches(pass: &Pass<'_>, id: &WorkloadId, port: u16, plaintext: bool) -> bool {
    let field = |attribute, name: &str, wanted, unwanted| Entry {
        matches: vec![Match { attribute, written: Arc::from(name), wanted, unwanted }],
    };
    let ports = Values::new(vec![Value::Port(port, Arc::from(port.to_string()))]);
    let anybody = Values::new(vec![Value::Text(Arc::from("*"))]);
    let mut rule = Rule { to: vec![field(Attribute::Port, "ports", ports, None)], ..Rule::default() };
    if plaintext {
        rule.from.push(field(Attribute::Principal, "notPrincipals", None, anybody));
    }
    let Ok(among) = Among::new(&rule, &id.namespace, pass.snapshot.settings()) else { return false };
    matches!(space::search(&pass.snapshot, id, Wanted::Permitted, &among), Proof::Proved { .. })
}
