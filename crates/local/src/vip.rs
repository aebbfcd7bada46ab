//! VIPs in force: what services and their endpoint slices say, as rules of the node namespace.
//!
//! A connection goes to one of the ready endpoints by chance and stays there. A VIP without ready endpoint is in no
//! rule, so that its connections are reset by the node itself.

mod at_connect;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::{Object, Objects};
use linux::error::with_causes;
use linux::netlink::{Protocol, Socket};
use linux::nft::Transaction;
use serde_json::Value;

use crate::controllers::{pod_addresses, service_vips, slices_of};
use crate::node::{Endpoint, Forwards, InForce, Node, RulesSite, Transport, rules_anew, rules_changes};
use crate::{Error, error};
use at_connect::AtConnect;

/// Most targets of one port of a VIP: as many endpoints as a slice of a real cluster holds, and far more than pods have
/// addresses here. Each is a rule that a new connection may have to walk past.
const TARGETS_MAX: usize = 1000;

/// Most targets of all VIPs: rules that the kernel takes in well under a second, in one transaction. Objects may say any
/// number (endpoint slices times ports); what is beyond is left out, and those connections go to the others or are reset.
const ALL_TARGETS_MAX: usize = 10_000;

/// The VIPs of a node.
#[derive(Debug)]
pub struct Vips {
    node: Arc<Node>,
    /// Leads most connections without translation, where there is such a thing.
    at_connect: Option<AtConnect>,
    socket: Socket,
    site: RulesSite,
    file: PathBuf,
    in_force: Option<InForce>,
}

impl Vips {
    /// For a node and the group of its pods' processes (see [`crate::runtime::Runtime::group`]), without which every
    /// connection is translated; what is in force stays until the first [`Self::sync`].
    pub fn start(node: &Arc<Node>, group: Option<&Path>) -> Result<Self, Error> {
        let opened = node.netns().run(|| Socket::open(Protocol::Netfilter));
        let socket = error::doing("reach the rules of the node namespace", opened.and_then(|opened| opened))?;
        let file = node.vips_file();
        let in_force = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let at_connect = group.and_then(at_connect);
        Ok(Self { node: Arc::clone(node), at_connect, socket, site: node.rules_site(), file, in_force })
    }

    /// Puts what the objects say into force, in one transaction; `false` if it was so already. Blocks for milliseconds.
    pub fn sync(&mut self, objects: &Objects) -> Result<bool, Error> {
        let before = self.in_force.take();
        let wanted = forwards(objects, before.as_ref().map(|before| &before.tracked));
        self.lead(&wanted);
        let delta = before.as_ref().map(|before| rules_changes(before, &wanted));
        if let (Some(before), Some((_, after))) = (&before, &delta)
            && before == after
        {
            self.in_force = before.clone().into();
            return Ok(false);
        }
        // Killed in between, there is no note, and all is made anew.
        self.forget()?;
        let delta = delta.and_then(|(transaction, after)| self.commit(transaction).ok().map(|()| after));
        let after = if let Some(after) = delta {
            after
        } else {
            // No note, or somebody else changed the table.
            let (transaction, after) = rules_anew(&self.site, &wanted);
            self.commit(transaction)?;
            after
        };
        self.note(&after)?;
        self.in_force = Some(after);
        Ok(true)
    }

    /// What cannot be led is translated.
    fn lead(&mut self, wanted: &Forwards) {
        let Some(at_connect) = &mut self.at_connect else { return };
        if let Err(error) = at_connect.sync(wanted, &self.node.pod_links()) {
            let error = with_causes(&error);
            tracing::warn!(error, "connections to virtual addresses are translated from now on, which costs more");
            self.at_connect = None;
        }
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), Error> {
        // Sent as one piece, and the kernel wants room for its bookkeeping beside it.
        let room = transaction.length().saturating_mul(2);
        error::doing("make room for the rules of VIPs", self.socket.reserve_send(room))?;
        error::doing("put the rules of VIPs into force", transaction.commit(&mut self.socket))
    }

    fn forget(&self) -> Result<(), Error> {
        match std::fs::remove_file(&self.file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::File { doing: "remove", path: self.file.clone(), source })
            }
            _ => Ok(()),
        }
    }

    fn note(&self, after: &InForce) -> Result<(), Error> {
        let text = serde_json::to_vec(after).map_err(std::io::Error::from);
        let written = text.and_then(|text| std::fs::write(&self.file, text));
        written.map_err(|source| Error::File { doing: "write", path: self.file.clone(), source })
    }
}

fn at_connect(group: &Path) -> Option<AtConnect> {
    let started = AtConnect::start(group).inspect_err(|error| {
        let error = with_causes(error);
        tracing::info!(error, "connections to virtual addresses are translated, which costs more");
    });
    started.ok()
}

/// What the objects say. Endpoints that a VIP led to `before` stay tracked while their pod lives: connections to them
/// may still be open.
pub fn forwards(objects: &Objects, before: Option<&BTreeSet<Endpoint>>) -> Forwards {
    let mut all = Forwards::default();
    for service in objects.list("", "services") {
        let vips: Vec<IpAddr> = service_vips(service).collect();
        if vips.is_empty() {
            continue;
        }
        let slices: Vec<&Arc<Object>> =
            slices_of(objects, service.namespace().unwrap_or_default(), service.name()).collect();
        for vip in vips {
            for port in service.items_at("/spec/ports") {
                forward(&mut all, vip, port, &slices);
            }
        }
    }
    let mut left = ALL_TARGETS_MAX;
    for targets in all.forwards.values_mut() {
        targets.truncate(left.min(TARGETS_MAX));
        left = left.saturating_sub(targets.len());
    }
    all.forwards.retain(|_, targets| !targets.is_empty());
    let living: BTreeSet<IpAddr> = objects.list("", "pods").flat_map(|pod| pod_addresses(pod)).collect();
    let former = before.into_iter().flatten().filter(|end| living.contains(&end.address));
    all.tracked.extend(former.copied());
    if all.tracked.len() > ALL_TARGETS_MAX {
        let led_to: BTreeSet<(IpAddr, u16)> = all.forwards.values().flatten().copied().collect();
        all.tracked.retain(|end| led_to.contains(&(end.address, end.port)));
    }
    all
}

fn forward(all: &mut Forwards, vip: IpAddr, port: &Value, slices: &[&Arc<Object>]) {
    let Some(transport) = transport(port) else { return };
    let Some(number) = number(port) else { return };
    let mut targets = Vec::new();
    for (address, port, ready) in slices.iter().flat_map(|slice| ends(slice, vip, port)) {
        all.tracked.insert(Endpoint { address, transport, port });
        if ready {
            targets.push((address, port));
        }
    }
    if !targets.is_empty() {
        targets.sort_unstable();
        targets.dedup();
        all.forwards.insert(Endpoint { address: vip, transport, port: number }, targets);
    }
}

/// Where a slice leads for one port of its service, for the family of `vip`: address, port, ready.
fn ends(slice: &Object, vip: IpAddr, wanted: &Value) -> Vec<(IpAddr, u16, bool)> {
    let text = |port: &Value, field: &str| port.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let same = |port: &&Value| text(port, "name") == text(wanted, "name") && transport(port) == transport(wanted);
    let Some(port) = slice.items_at("/ports").iter().find(same).and_then(number) else { return Vec::new() };
    let addresses = slice.items_at("/endpoints").iter().filter_map(|endpoint| {
        let ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
        let address: IpAddr = endpoint.get("addresses")?.as_array()?.first()?.as_str()?.parse().ok()?;
        Some((address, port, ready))
    });
    addresses.filter(|(address, ..)| address.is_ipv4() == vip.is_ipv4()).collect()
}

fn transport(port: &Value) -> Option<Transport> {
    match port.get("protocol").and_then(Value::as_str).unwrap_or("TCP") {
        "TCP" => Some(Transport::Tcp),
        "UDP" => Some(Transport::Udp),
        _ => None,
    }
}

fn number(port: &Value) -> Option<u16> {
    port.get("port").and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use api::{Change, Event, Kinds};
    use serde_json::json;

    use super::*;

    fn objects(all: &[Value]) -> Objects {
        let (kinds, mut objects) = (Kinds::builtin(), Objects::new());
        for (revision, value) in (1..).zip(all) {
            let new = Object::new(value.clone()).unwrap();
            let key = kinds.key_of(&new).unwrap();
            objects.apply(&Event { revision, key, change: Change::Put { old: None, new: Arc::new(new) } });
        }
        objects
    }

    fn service(vips: &[&str]) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": "foo"},
            "spec": {"clusterIPs": vips, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 53, "protocol": "UDP"},
                {"name": "c", "port": 5, "protocol": "SCTP"}]}})
    }

    fn slice(name: &str, family: &str, ends: &[(&str, bool)]) -> Value {
        let ends: Vec<Value> =
            ends.iter().map(|(end, ready)| json!({"addresses": [end], "conditions": {"ready": ready}})).collect();
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "foo", "labels": {"kubernetes.io/service-name": "echo"}},
            "addressType": family, "endpoints": ends,
            "ports": [{"name": "a", "port": 9000, "protocol": "TCP"}, {"name": "b", "port": 9053, "protocol": "UDP"}]})
    }

    fn shown(forwards: &Forwards) -> Vec<String> {
        let one = |(vip, targets): (&Endpoint, &Vec<(IpAddr, u16)>)| {
            let ends: Vec<String> =
                targets.iter().map(|(a, p)| std::net::SocketAddr::new(*a, *p).to_string()).collect();
            let shown = std::net::SocketAddr::new(vip.address, vip.port);
            format!("{:?} {shown} -> {}", vip.transport, ends.join(" "))
        };
        forwards.forwards.iter().map(one).collect()
    }

    #[test]
    fn each_vip_and_port_leads_to_the_ready_endpoints_of_its_family() {
        let found = forwards(
            &objects(&[
                service(&["10.1.128.1", "fd00::1"]),
                slice("s4", "IPv4", &[("10.1.0.2", true), ("10.1.0.1", true), ("10.1.0.3", false)]),
                slice("s6", "IPv6", &[("fd00:1::1", true)]),
            ]),
            None,
        );
        assert_eq!(
            shown(&found),
            [
                "Tcp 10.1.128.1:80 -> 10.1.0.1:9000 10.1.0.2:9000",
                "Udp 10.1.128.1:53 -> 10.1.0.1:9053 10.1.0.2:9053",
                "Tcp [fd00::1]:80 -> [fd00:1::1]:9000",
                "Udp [fd00::1]:53 -> [fd00:1::1]:9053",
            ]
        );
        assert_eq!(found.tracked.len(), 8, "those that are not ready too");
    }

    #[test]
    fn what_objects_say_beyond_the_bounds_is_left_out() {
        let ports: Vec<Value> = (0..40).map(|n| json!({"name": format!("p{n}"), "port": 1000 + n})).collect();
        let ends: Vec<Value> =
            (0..8000).map(|n| json!({"addresses": [format!("10.9.{}.{}", n / 250, n % 250)]})).collect();
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "big", "namespace": "foo"},
            "spec": {"clusterIPs": ["10.1.128.1"], "ports": ports}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "big", "namespace": "foo", "labels": {"kubernetes.io/service-name": "big"}},
            "addressType": "IPv4", "endpoints": ends, "ports": ports});
        let found = forwards(&objects(&[service, slice]), None);
        assert!(found.forwards.values().all(|targets| targets.len() == TARGETS_MAX));
        assert_eq!(found.forwards.len(), ALL_TARGETS_MAX / TARGETS_MAX);
        assert_eq!(found.tracked.len(), ALL_TARGETS_MAX);
    }

    #[test]
    fn without_ready_endpoint_there_is_no_forward_and_headless_services_have_none() {
        let none = forwards(&objects(&[service(&["10.1.128.1"]), slice("s", "IPv4", &[("10.1.0.1", false)])]), None);
        assert_eq!(shown(&none), Vec::<String>::new());
        let headless = forwards(&objects(&[service(&["None"]), slice("s", "IPv4", &[("10.1.0.1", true)])]), None);
        assert_eq!(headless, Forwards::default());
    }

    #[test]
    fn an_endpoint_stays_tracked_while_its_pod_lives() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "foo"},
            "status": {"podIP": "10.1.0.1"}});
        let with = [service(&["10.1.128.1"]), slice("s", "IPv4", &[("10.1.0.1", true)]), pod.clone()];
        let before = forwards(&objects(&with), None);
        let after = forwards(&objects(&[pod]), Some(&before.tracked));
        assert_eq!((after.forwards.len(), after.tracked.len()), (0, 2));
        assert_eq!(forwards(&objects(&[]), Some(&after.tracked)), Forwards::default());
    }
}
