//! The names of a cluster: services, and the pods of headless ones.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::{Object, Objects};
use serde_json::Value;

use crate::controllers::{service_vips, slices_of};

/// The domain below which all names are.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// All names and what they stand for, as of one state of the objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    names: HashMap<String, Entry>,
    pointers: HashMap<IpAddr, String>,
}

/// What a name stands for; one without anything only has names below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// IPv4 addresses.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 addresses.
    pub v6: Vec<Ipv6Addr>,
    /// Another name that it stands for.
    pub alias: Option<String>,
}

impl Zone {
    /// The names that the objects make.
    pub fn of(objects: &Objects) -> Self {
        let mut zone = Self::default();
        for above in [CLUSTER_DOMAIN.to_owned(), format!("svc.{CLUSTER_DOMAIN}")] {
            zone.names.entry(above).or_default();
        }
        for namespace in objects.list("", "namespaces") {
            zone.names.entry(format!("{}.svc.{CLUSTER_DOMAIN}", namespace.name())).or_default();
        }
        for service in objects.list("", "services") {
            zone.add_service(objects, service);
        }
        zone
    }

    /// What a name stands for; in lower case, without the final dot.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.names.get(name)
    }

    /// The name of an address.
    pub fn name_of(&self, address: IpAddr) -> Option<&str> {
        self.pointers.get(&address).map(String::as_str)
    }

    /// Whether a name would be one of the cluster's.
    pub fn covers(name: &str) -> bool {
        name.strip_suffix(CLUSTER_DOMAIN).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    fn add_service(&mut self, objects: &Objects, service: &Object) {
        let namespace = service.namespace().unwrap_or_default();
        let name = format!("{}.{namespace}.svc.{CLUSTER_DOMAIN}", service.name());
        if service.str_at("/spec/type") == "ExternalName" {
            let alias = service.str_at("/spec/externalName").trim_end_matches('.').to_ascii_lowercase();
            self.names.insert(name, Entry { alias: Some(alias), ..Entry::default() });
            return;
        }
        self.names.entry(name.clone()).or_default();
        if service.str_at("/spec/clusterIP") != "None" {
            for vip in service_vips(service) {
                self.add(&name, vip);
                self.pointers.insert(vip, name.clone());
            }
            return;
        }
        for endpoint in slices_of(objects, namespace, service.name()).flat_map(|slice| slice.items_at("/endpoints")) {
            let ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
            let addresses = endpoint.get("addresses").and_then(Value::as_array).into_iter().flatten();
            for address in addresses.filter_map(Value::as_str).filter_map(|text| text.parse().ok()) {
                if ready {
                    self.add(&name, address);
                }
                if let Some(host) = endpoint.get("hostname").and_then(Value::as_str) {
                    let own = format!("{host}.{name}");
                    self.add(&own, address);
                    self.pointers.insert(address, own);
                }
            }
        }
    }

    fn add(&mut self, name: &str, address: IpAddr) {
        let entry = self.names.entry(name.to_owned()).or_default();
        match address {
            IpAddr::V4(address) if !entry.v4.contains(&address) => entry.v4.push(address),
            IpAddr::V6(address) if !entry.v6.contains(&address) => entry.v6.push(address),
            _ => {}
        }
    }
}
