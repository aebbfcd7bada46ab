//! Pods that an earlier kubelet started and that live on: taken over as they are, or removed to be made anew.
//!
//! A pod is taken over if the processes of all its parts are there (`runtime::adopt`), its link is whole, and the store
//! still wants what it was started as. Its links are attached before anything else is put into force, so that what it
//! has open is judged again as any connection is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::Object;
use jiff::Timestamp;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::container::{Grace, Shared};
use super::view::PodView;
use super::volumes::{self, Volumes};
use super::{Inner, Kubelet, plan};
use crate::controllers::{self, NODE_NAME};
use crate::node::PodLink;
use crate::runtime::adopt::{PodLeft, RunLeft, RunState};

/// What came of the pods that were there.
#[derive(Debug, Default)]
pub struct Adoption {
    /// Uids of those that live on.
    pub adopted: BTreeSet<String>,
    /// What could not be taken over and is gone: a pod or its uid, and why.
    pub removed: Vec<(String, String)>,
}

/// A pod that lives on, until its task has it.
#[derive(Debug)]
pub(super) struct Adopted {
    link: PodLink,
    left: PodLeft,
    kept: KeptPod,
}

impl Adopted {
    pub(super) fn link(&self) -> &PodLink {
        &self.link
    }
}

/// What a pod was started as.
#[derive(Debug, Serialize, Deserialize)]
struct KeptPod {
    spec: Value,
    /// The containers that are not run.
    stood_in_for: Vec<String>,
    volumes: volumes::Kept,
}

/// What a run of a container was begun with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptRun {
    /// Which image it is of.
    pub(super) image: String,
    /// When, in milliseconds since 1970.
    pub(super) began_ms: i64,
    /// The wait after it, if the container is to be run again.
    pub(super) back_off_ms: u64,
    /// The number of the signal that asks it to end.
    pub(super) stop: i32,
}

/// What is to be recorded of a pod before it starts.
pub(super) fn keep(inner: &Inner, pod: &Object, volumes: &Volumes) -> Result<Value, String> {
    let kept =
        KeptPod { spec: pod.at("/spec").clone(), stood_in_for: stood_in_for(inner, pod), volumes: volumes.kept() };
    serde_json::to_value(kept).map_err(|error| error.to_string())
}

fn stood_in_for(inner: &Inner, pod: &Object) -> Vec<String> {
    let all = pod.items_at("/spec/initContainers").iter().chain(pod.items_at("/spec/containers"));
    let names = all.filter_map(|container| container.get("name")?.as_str());
    names.filter(|name| (inner.hooks.is_virtual)(pod.value(), name)).map(str::to_owned).collect()
}

impl Kubelet {
    /// Takes over what lives of these pods, the store's, and removes everything else that is left of any. To be called
    /// before the first event is observed and before anything is put into force.
    pub async fn adopt(&self, pods: &[Arc<Object>]) -> Result<Adoption, crate::Error> {
        let runtime = self.inner.runtime.clone();
        let mut left = blocking(move || runtime.left()).await?;
        let mut links: BTreeMap<String, PodLink> =
            self.inner.node.pod_links().into_iter().map(|link| (link.uid.clone(), link)).collect();
        let mut adoption = Adoption::default();
        for pod in pods.iter().filter(|pod| pod.str_at("/spec/nodeName") == NODE_NAME) {
            let Some(found) = left.remove(pod.uid()) else { continue };
            let taken = match found.and_then(|left| fit(&self.inner, pod, left, links.get(pod.uid()))) {
                // Before the first snapshot: what it has open is judged under that.
                Ok(adopted) => (self.inner.hooks.attach)(Arc::clone(pod), adopted.link.clone()).await.map(|()| adopted),
                Err(why) => Err(why),
            };
            match taken {
                Ok(adopted) => {
                    links.remove(pod.uid());
                    adoption.adopted.insert(pod.uid().to_owned());
                    let mut all = self.inner.adopted.lock().unwrap_or_else(PoisonError::into_inner);
                    all.insert(pod.uid().to_owned(), adopted);
                }
                Err(why) => {
                    adoption.removed.push((format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name()), why));
                }
            }
        }
        let gone = left.into_keys().map(|uid| (uid, "no such pod is in the store".to_owned()));
        adoption.removed.extend(gone);
        self.remove_others(&adoption.adopted, links).await?;
        Ok(adoption)
    }

    /// Ends the processes of all other pods, then takes their links away.
    async fn remove_others(
        &self,
        kept: &BTreeSet<String>,
        links: BTreeMap<String, PodLink>,
    ) -> Result<(), crate::Error> {
        let (runtime, kept) = (self.inner.runtime.clone(), kept.clone());
        blocking(move || runtime.remove_all_but(&kept)).await?;
        for link in links.into_values() {
            if let Err(why) = (self.inner.hooks.sever)(link.clone()).await {
                tracing::warn!(uid = link.uid, why, "connections of a pod that is gone may be left open");
            }
            let node = Arc::clone(&self.inner.node);
            blocking(move || node.pod_unlink(&link.uid).map(drop)).await?;
        }
        Ok(())
    }
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, crate::Error> + Send + 'static,
) -> Result<R, crate::Error> {
    let failed = |error: tokio::task::JoinError| crate::Error::Container {
        doing: "look after what an earlier daemon left".to_owned(),
        why: error.to_string(),
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// Whether what is left of a pod is what the store wants; why not.
fn fit(inner: &Inner, pod: &Object, left: PodLeft, link: Option<&PodLink>) -> Result<Adopted, String> {
    let kept: KeptPod = serde_json::from_value(left.kept.clone()).map_err(|error| error.to_string())?;
    let link = link.ok_or("its link is gone")?;
    if kept.spec != *pod.at("/spec") || kept.stood_in_for != stood_in_for(inner, pod) {
        return Err("the store wants another pod than was started".to_owned());
    }
    let told: Vec<_> = controllers::pod_addresses(pod).collect();
    if ![link.v4.into(), link.v6.into()].iter().all(|own| told.contains(own)) {
        return Err(format!("the store does not know it by its addresses {} and {}", link.v4, link.v6));
    }
    Ok(Adopted { link: link.clone(), left, kept })
}

/// The pod as its containers share it.
pub(super) fn shared(
    inner: &Arc<Inner>,
    pod: &Arc<Object>,
    views: &watch::Sender<PodView>,
    ending: &CancellationToken,
    grace: watch::Receiver<Grace>,
    adopted: Adopted,
) -> Shared {
    let Adopted { link, left, kept } = adopted;
    let ranges = inner.node.ranges();
    Shared {
        inner: Arc::clone(inner),
        pod: Arc::clone(pod),
        sandbox: left.sandbox,
        netns: link.netns.clone(),
        addresses: vec![link.v4.to_string(), link.v6.to_string()],
        host: ranges.node_v4.to_string(),
        name_servers: vec![ranges.dns_v4.to_string(), ranges.dns_v6.to_string()],
        links: plan::alternatives(),
        volumes: Volumes::again(kept.volumes, &inner.hooks),
        views: views.clone(),
        ending: ending.clone(),
        sidecars: views.borrow().sidecars(),
        grace,
        left: Mutex::new(left.runs),
    }
}

/// The last run of a container from before this kubelet.
pub(super) struct LastRun {
    pub(super) attempt: u32,
    pub(super) image: String,
    pub(super) began: Timestamp,
    pub(super) back_off: Duration,
    pub(super) stop: Signal,
    pub(super) log: PathBuf,
    pub(super) log_before: Option<PathBuf>,
    pub(super) state: RunState,
}

/// The last of the runs of a container, if it was ever run.
pub(super) fn last_run(mut runs: Vec<RunLeft>) -> Option<LastRun> {
    let RunLeft { attempt, kept, log, state } = runs.pop()?;
    // One that says nothing of this began, as far as anybody knows, now.
    let kept = serde_json::from_value(kept).unwrap_or_else(|error| {
        tracing::warn!(%error, "a run of a container was taken over of which it is not known when it began");
        let began_ms = Timestamp::now().as_millisecond();
        KeptRun { image: String::new(), began_ms, back_off_ms: 0, stop: Signal::TERM.as_raw() }
    });
    Some(LastRun {
        attempt,
        image: kept.image,
        began: Timestamp::from_millisecond(kept.began_ms).unwrap_or_default(),
        back_off: Duration::from_millis(kept.back_off_ms),
        stop: Signal::from_named_raw(kept.stop).unwrap_or(Signal::TERM),
        log,
        log_before: runs.pop().map(|before| before.log),
        state,
    })
}

impl Adoption {
    /// One sentence, none if there were none.
    pub fn summary(&self) -> Option<String> {
        let (adopted, removed) = (self.adopted.len(), self.removed.len());
        let pods = |count: usize| if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") };
        match (adopted, removed) {
            (0, 0) => None,
            (adopted, 0) => Some(format!("{} of an earlier daemon taken over", pods(adopted))),
            (adopted, removed) => {
                Some(format!("{} of an earlier daemon taken over, {} removed to be made anew", pods(adopted), removed))
            }
        }
    }
}

impl std::fmt::Debug for LastRun {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LastRun").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// How long ago something was, by the clock of the wall; nothing if that was set back meanwhile.
pub(super) fn since(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(time)).unwrap_or_default()
}
