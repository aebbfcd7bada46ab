//! A policy whose verdict table would be larger than the kernel is given is refused while its author is there to be told.

use std::net::IpAddr;
use std::sync::Arc;

use api::Status;
use api::status::Cause;
use policy::spec::{AuthorizationPolicy, Scope};
use policy::table::table;
use policy::{Labels, Mesh, Workload, WorkloadId};

use super::Request;

/// Addresses for a workload that does not exist yet; from the ranges for documentation, so that none of a pod is meant.
const EXAMPLE_ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// A name that no pod can have.
const EXAMPLE_NAME: &str = "(a pod to come)";

/// The refusal if, with this policy in the mesh, some workload that it selects has too large a table; `mesh` holds it already.
pub(super) fn refusal(request: &Request<'_>, mut mesh: Mesh, policy: &Arc<AuthorizationPolicy>) -> Option<Status> {
    let selector = match &policy.scope {
        // It concerns no workload.
        Scope::Targets => return None,
        Scope::All => Labels::new(),
        Scope::Labels(labels) => labels.clone(),
    };
    // A pod that fits the selector exactly stands in for those that will come later.
    mesh.workloads.push(Workload {
        id: WorkloadId::new(policy.id.namespace.clone(), EXAMPLE_NAME),
        labels: selector.clone(),
        service_account: "default".to_owned(),
        addresses: EXAMPLE_ADDRESSES.to_vec(),
        in_mesh: true,
    });
    let whole_mesh = policy.id.namespace == mesh.settings.root_namespace;
    let selected: Vec<(WorkloadId, Vec<IpAddr>)> = mesh
        .workloads
        .iter()
        .filter(|workload| workload.in_mesh && (whole_mesh || workload.id.namespace == policy.id.namespace))
        .filter(|workload| selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
        .map(|workload| (workload.id.clone(), workload.addresses.clone()))
        .collect();
    let snapshot = policy::compile(&mesh, 0, None);
    selected.iter().find_map(|(id, addresses)| {
        // One address of each family: the tables of two addresses of one family differ in nothing that counts.
        let first = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4);
        [first(true), first(false)].into_iter().flatten().find_map(|address| {
            let too_large = table(&snapshot, id, *address).err()?;
            let concerned = if id.name == EXAMPLE_NAME { String::new() } else { format!(" (workload {id})") };
            let cause =
                Cause::field("FieldValueInvalid", format!("Invalid value: {too_large}{concerned}"), "spec.rules");
            Some(Status::invalid(&request.key.group, "AuthorizationPolicy", &policy.id.name, vec![cause]))
        })
    })
}
