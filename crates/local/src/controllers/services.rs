//! VIPs: every service that wants one gets an IPv4 and an IPv6 address of the mesh's ranges.
//!
//! The search for a free address begins at a place that follows from the service's name, so a service that is deleted
//! and made again mostly gets the address it had.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::Object;
use serde_json::{Value, json};

use super::plan::{Plan, hash, key};
use crate::node::Ranges;

/// IPv6 VIPs are numbered like IPv4 ones: as many as the smaller range has.
fn usable(ranges: &Ranges) -> u32 {
    ranges.services_v4.usable()
}

pub(super) fn reconcile(plan: &mut Plan<'_>, namespace: &str) {
    let wanting: Vec<_> = plan.objects.in_namespace("", "services", namespace).filter(|s| !s.is_deleting()).collect();
    let mut used: Option<BTreeSet<IpAddr>> = None;
    for service in wanting {
        let Some(wanted) = Wanted::of(service, &plan.cluster().ranges) else { continue };
        let used = used.get_or_insert_with(|| plan.objects.list("", "services").flat_map(|s| vips(s)).collect());
        if let Some(spec) = assign(service, &wanted, &plan.cluster().ranges, used) {
            plan.patch(key("", "services", service), json!({ "spec": spec }));
        }
    }
}

/// Which families a service wants, if it lacks something.
#[derive(Debug)]
struct Wanted {
    headless: bool,
    families: Vec<&'static str>,
    policy: &'static str,
}

impl Wanted {
    fn of(service: &Object, ranges: &Ranges) -> Option<Self> {
        if service.str_at("/spec/type") == "ExternalName" {
            return None;
        }
        let headless = service.str_at("/spec/clusterIP") == "None";
        let single = service.str_at("/spec/ipFamilyPolicy") == "SingleStack";
        let mut families: Vec<&'static str> = match service.items_at("/spec/ipFamilies").first().and_then(Value::as_str)
        {
            Some("IPv6") => vec!["IPv6", "IPv4"],
            _ => vec!["IPv4", "IPv6"],
        };
        if single {
            families.truncate(1);
        }
        let policy = match service.str_at("/spec/ipFamilyPolicy") {
            "SingleStack" => "SingleStack",
            "RequireDualStack" => "RequireDualStack",
            _ => "PreferDualStack",
        };
        let listed = service.items_at("/spec/ipFamilies").iter().filter_map(Value::as_str);
        let all_there = listed.eq(families.iter().copied())
            && if headless {
                service.items_at("/spec/clusterIPs").len() == 1
            } else {
                vips(service).filter(|vip| in_range(*vip, ranges)).count() == families.len()
            };
        (!all_there).then_some(Self { headless, families, policy })
    }
}

/// The VIPs that a service has.
pub(crate) fn vips(service: &Object) -> impl Iterator<Item = IpAddr> {
    let listed = service.items_at("/spec/clusterIPs").iter().filter_map(Value::as_str);
    let first = Some(service.str_at("/spec/clusterIP")).filter(|_| service.items_at("/spec/clusterIPs").is_empty());
    listed.chain(first).filter_map(|text| text.parse().ok())
}

fn in_range(vip: IpAddr, ranges: &Ranges) -> bool {
    match vip {
        IpAddr::V4(vip) => ranges.services_v4.contains(vip),
        IpAddr::V6(vip) => ranges.services_v6.contains(vip),
    }
}

/// The fields of `spec` as they should be; none if no address is free.
fn assign(service: &Object, wanted: &Wanted, ranges: &Ranges, used: &mut BTreeSet<IpAddr>) -> Option<Value> {
    let (families, policy) = (&wanted.families, wanted.policy);
    if wanted.headless {
        return Some(json!({ "clusterIPs": ["None"], "ipFamilies": families, "ipFamilyPolicy": policy }));
    }
    let name = hash(&json!([service.namespace(), service.name()]));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for family in families {
        let v4 = *family == "IPv4";
        let kept = vips(service).find(|vip| vip.is_ipv4() == v4 && in_range(*vip, ranges));
        let vip = kept.or_else(|| free(name, ranges, used, v4))?;
        used.insert(vip);
        addresses.push(vip);
    }
    Some(json!({
        "clusterIP": addresses.first(), "clusterIPs": addresses, "ipFamilies": families, "ipFamilyPolicy": policy,
    }))
}

fn free(name: u64, ranges: &Ranges, used: &BTreeSet<IpAddr>, v4: bool) -> Option<IpAddr> {
    let count = usable(ranges);
    let start = u32::try_from(name % u64::from(count.max(1))).unwrap_or(0);
    let numbers = (start..count).chain(0..start).map(|number| number + 1);
    let address = |number| -> Option<IpAddr> {
        if v4 { Some(ranges.services_v4.nth(number)?.into()) } else { Some(ranges.services_v6.nth(number)?.into()) }
    };
    numbers.filter_map(address).find(|vip| !used.contains(vip))
}
