//! What the API server asks, and who answers: admission is `control`'s, exec and logs are the kubelet's.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use api::Status;
use apiserver::Hooks;
use control::admission::Gate;
use local::kubelet::Kubelet;
use tokio::sync::watch;

use super::records::Records;
use super::wire::Wire;
use super::{images, pods};

/// Filled as soon as there is a kubelet; before, no pod has a container to run something in.
pub(super) type KubeletCell = Arc<OnceLock<Kubelet>>;

/// The hooks of the server.
pub(super) fn hooks(
    gate: Gate,
    kubelet: KubeletCell,
    records: Records,
    wire: Wire,
    settled: watch::Receiver<u64>,
) -> Hooks {
    let gate = Mutex::new(gate);
    let (for_logs, for_forward, for_images) = (Arc::clone(&kubelet), Arc::clone(&kubelet), Arc::clone(&kubelet));
    Hooks {
        admit: Arc::new(move |admission| gate.lock().unwrap_or_else(PoisonError::into_inner).admit(admission)),
        settled,
        exec: Arc::new(move |request| {
            let kubelet = Arc::clone(&kubelet);
            Box::pin(async move { pods::exec(kubelet.get().ok_or_else(starting)?, request).await })
        }),
        forward: Arc::new(move |request| {
            let kubelet = Arc::clone(&for_forward);
            Box::pin(async move { pods::forward(kubelet.get().ok_or_else(starting)?, request).await })
        }),
        logs: Arc::new(move |request| {
            let opened =
                for_logs.get().ok_or_else(starting).and_then(|kubelet| pods::logs(kubelet, &records, &request));
            Box::pin(async move { opened })
        }),
        extension: Arc::new(move |request| {
            let (wire, kubelet) = (wire.clone(), Arc::clone(&for_images));
            Box::pin(async move {
                match kubelet.get().filter(|_| request.uri().path() == images::PATH) {
                    Some(kubelet) => Some(images::answer(kubelet, &request).await),
                    None => wire.answer(&request).await,
                }
            })
        }),
    }
}

fn starting() -> Status {
    Status::unavailable("the mesh is starting; ask again when `tidegate up` says Ready")
}
