//! A policy whose verdict tables would be larger than the kernel is given is refused while its author is there to be told.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::Status;
use api::status::Cause;
use policy::table::{ENTRIES_PER_POD_MAX, Reckoning, table};
use policy::{Labels, Mesh, PolicyId, Snapshot, Workload, WorkloadId, carries};

/// Addresses for a workload that does not exist yet; from the ranges for documentation, so that none of a pod is meant.
const EXAMPLE_ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// A name that no pod can have.
const EXAMPLE_NAME: &str = "(a pod to come)";

/// What is kept from one question to the next.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    reckoning: Reckoning,
    /// What was compiled last.
    before: Option<Snapshot>,
}

impl Sizes {
    /// The refusal if some workload that the policy selects has too large a table; `mesh` holds the policy already.
    pub(super) fn refusal(
        &mut self,
        kind: &str,
        policy: &PolicyId,
        selector: Option<&Labels>,
        mut mesh: Mesh,
    ) -> Option<Status> {
        self.reckoning.update(&mesh);
        // A pod that fits the selector exactly stands in for those that will come later.
        mesh.workloads.push(Workload {
            id: WorkloadId::new(policy.namespace.clone(), EXAMPLE_NAME),
            labels: selector.cloned().unwrap_or_default(),
            service_account: "default".to_owned(),
            addresses: EXAMPLE_ADDRESSES.to_vec(),
            in_mesh: true,
        });
        let whole_mesh = policy.namespace == mesh.settings.root_namespace;
        let mut seen = BTreeSet::new();
        let concerned: Vec<&Workload> = mesh
            .workloads
            .iter()
            .filter(|workload| workload.in_mesh && (whole_mesh || workload.id.namespace == policy.namespace))
            .filter(|workload| selector.is_none_or(|labels| carries(&workload.labels, labels)))
            // Workloads of one namespace with the same labels have the same rules, and tables of the same size.
            .filter(|workload| seen.insert((&workload.id.namespace, &workload.labels)))
            // Nearly all policies are too small to be asked about.
            .filter(|workload| self.reckoning.entries_at_most(&mesh, workload) > ENTRIES_PER_POD_MAX)
            .collect();
        if concerned.is_empty() {
            return None;
        }
        let snapshot = policy::compile(&mesh, 0, self.before.as_ref());
        let too_large = concerned.into_iter().find_map(|workload| one(&snapshot, workload));
        self.before = Some(snapshot);
        let cause = Cause::field("FieldValueInvalid", format!("Invalid value: {}", too_large?), "spec");
        Some(Status::invalid(crate::translate::SECURITY_GROUP, kind, &policy.name, vec![cause]))
    }
}

/// Why a workload cannot have its table, if so.
fn one(snapshot: &Snapshot, workload: &Workload) -> Option<String> {
    // One address of each family: the tables of two addresses of one family differ in nothing that counts.
    let first = |v4: bool| workload.addresses.iter().find(|address| address.is_ipv4() == v4);
    [first(true), first(false)].into_iter().flatten().find_map(|address| {
        let too_large = table(snapshot, &workload.id, *address).err()?;
        let concerned =
            if workload.id.name == EXAMPLE_NAME { String::new() } else { format!(" (workload {})", workload.id) };
        Some(format!("{too_large}{concerned}"))
    })
}
