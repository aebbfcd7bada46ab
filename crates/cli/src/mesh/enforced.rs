//! What the data plane reports, as the status of policies words it.

use std::collections::BTreeMap;

use control::status::{Progress, Report};

/// How far each workload is.
pub(super) fn report(from: &dataplane::Report) -> Report {
    let progress = |enforcement: &dataplane::Enforcement| match &enforcement.trouble {
        None => Progress::Enforces(enforcement.generation),
        Some(trouble) => Progress::Failed(trouble.to_string()),
    };
    let workloads: BTreeMap<_, _> = from.workloads.iter().map(|(id, one)| (id.clone(), progress(one))).collect();
    Report { generation: from.generation, workloads }
}
