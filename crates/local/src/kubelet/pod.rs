//! One pod from its link to its last process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{Object, Write};
use jiff::Timestamp;
use linux::error::with_causes;
use linux::userns::Ids;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::adopt::{self, Adopted};
use super::container::{Grace, Shared};
use super::view::{PodView, State};
use super::{Inner, order, plan, report, volumes};
use crate::events::{self, Happening, Source};
use crate::ipam;
use crate::node::PodLink;
use crate::runtime::spec::PodSpec;

/// Before a failed step of a pod's start is tried again, unless something new comes before that.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Who tells what happens to pods.
const SOURCE: Source = Source { component: "kubelet", host: crate::controllers::NODE_NAME };

/// How long a pod may take to end if it does not say (Kubernetes).
const GRACE_DEFAULT: u64 = 30;

/// The life of a pod, or what is left of it if it lives on from an earlier kubelet. `objects` ends when the object is
/// gone from the store.
pub(super) async fn run(
    inner: Arc<Inner>,
    mut objects: watch::Receiver<Arc<Object>>,
    views: watch::Sender<PodView>,
    adopted: Option<Adopted>,
) {
    let pod = Arc::clone(&objects.borrow());
    let ending = CancellationToken::new();
    let given = pod.at("/spec/terminationGracePeriodSeconds").as_u64().unwrap_or(GRACE_DEFAULT);
    let (grace, grace_left) = watch::channel(Grace { given: Duration::from_secs(given), since: None });
    let watcher = watch_end(&mut objects, &ending, &grace);
    let publisher = publish(&inner, &pod, &views);
    let life = live(&inner, &pod, &views, &ending, grace_left, adopted);
    tokio::pin!(life);
    let freed = tokio::select! {
        // The life alone ends; the other two go on beside it.
        freed = &mut life => freed,
        () = async { tokio::join!(watcher, publisher); } => None,
    };
    // The object goes last: whoever sees it gone may count on nothing of the pod being left.
    // Another pod may have its name by now.
    let write = Write::End { key: super::key(&pod), uid: pod.uid().to_owned() };
    let ended = (inner.hooks.write)(write).await;
    inner.told.forget(pod.uid());
    if let (Ok(last), Some(link)) = (ended, freed) {
        prove_gone(&inner, last.revision(), link).await;
    }
}

/// Spares the addresses of a pod their rest, if it can be shown that nothing knows them since the object is gone.
async fn prove_gone(inner: &Inner, revision: u64, link: PodLink) {
    let mut settled = inner.hooks.settled.clone();
    // Longer than they rest there is nothing to be won.
    let waited = tokio::time::timeout(ipam::REST, settled.wait_for(|&settled| settled >= revision)).await;
    let is_settled = waited.is_ok_and(|waited| waited.is_ok());
    if is_settled && (inner.hooks.dropped)(link.clone()).await {
        inner.node.proven_gone(&link);
        inner.tell_new();
    }
}

/// Turns a deletion of the object into the end of the pod.
async fn watch_end(
    objects: &mut watch::Receiver<Arc<Object>>,
    ending: &CancellationToken,
    grace: &watch::Sender<Grace>,
) {
    loop {
        {
            let pod = objects.borrow_and_update();
            if pod.is_deleting() {
                let given = |pointer: &str| pod.at(pointer).as_u64();
                let seconds = given("/metadata/deletionGracePeriodSeconds")
                    .or_else(|| given("/spec/terminationGracePeriodSeconds"))
                    .unwrap_or(GRACE_DEFAULT);
                grace.send_modify(|grace| {
                    grace.given = Duration::from_secs(seconds);
                    grace.since.get_or_insert_with(Instant::now);
                });
                ending.cancel();
            }
        }
        if objects.changed().await.is_err() {
            // Taken away by force.
            grace.send_modify(|grace| grace.given = Duration::ZERO);
            ending.cancel();
            return;
        }
    }
}

/// Writes the status whenever the view has changed.
async fn publish(inner: &Inner, pod: &Object, views: &watch::Sender<PodView>) {
    let mut changes = views.subscribe();
    let host = inner.node.ranges().node_v4.to_string();
    let mut written = Value::Null;
    loop {
        let view = changes.borrow_and_update().clone();
        if !view.is_published && view.started.is_some() {
            let status = report::status(pod, &view, &host, Timestamp::now());
            let same = without_times(&status) == without_times(&written);
            let revision = if same { Some(view.published) } else { patch(inner, pod, &status).await };
            if let Some(revision) = revision {
                written = status;
                // Only if nothing has changed meanwhile is this view what the store has.
                let now = changes.has_changed().unwrap_or(false);
                views.send_if_modified(|view| {
                    view.published = view.published.max(revision);
                    view.is_published = !now;
                    true
                });
            }
            continue;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Writing the same status again with another time would have no end.
fn without_times(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastTransitionTime");
        }
    }
    status
}

/// Writes a status; the revision that holds it, 0 if the object is gone or is another.
async fn patch(inner: &Inner, pod: &Object, status: &Value) -> Option<u64> {
    // With the uid: another pod that has the name by now must not be given this one's addresses.
    let patch = json!({ "metadata": { "uid": pod.uid() }, "status": status });
    let write = Write::PatchStatus { key: super::key(pod), patch };
    match (inner.hooks.write)(write).await {
        Ok(stored) => Some(stored.revision()),
        Err(status) if matches!(status.code(), 404 | 409) => Some(0),
        Err(status) => {
            tracing::warn!(pod = pod.name(), why = status.message(), "a pod's status cannot be written");
            Some(0)
        }
    }
}

/// From nothing to nothing; the link that it had, if any.
async fn live(
    inner: &Arc<Inner>,
    pod: &Arc<Object>,
    views: &watch::Sender<PodView>,
    ending: &CancellationToken,
    grace: watch::Receiver<Grace>,
    adopted: Option<Adopted>,
) -> Option<PodLink> {
    // Guarded once: what fails after that (a config map that is not there yet) is tried again on the same link.
    let mut guarded = None;
    if let Some(adopted) = adopted {
        guarded = Some(adopted.link().clone());
        let shared = adopt::shared(inner, pod, views, ending, grace.clone(), adopted);
        if let Err(why) = to_the_end(shared).await {
            fail_start(inner, pod, views, &why).await;
        }
    } else if views.borrow().over {
        ending.cancelled().await;
    } else if let Err(why) = admit(inner, pod).await {
        change(views, |view| {
            view.started = Some(Timestamp::now());
            view.failed = Some(("Refused".to_owned(), why));
        });
        ending.cancelled().await;
        return None;
    }
    let mut told = None;
    while !ending.is_cancelled() {
        // Before the try: what comes during it is not missed.
        let mut new = inner.new.subscribe();
        let linked_to = match guarded.take() {
            Some(link) => Ok(link),
            None => link(inner, pod).await,
        };
        let tried = match linked_to {
            Ok(link) => linked(inner, pod, views, ending, grace.clone(), guarded.insert(link)).await,
            Err(why) => Err(why),
        };
        if let Err(why) = tried {
            // The same again is not worth an event: any new configuration leads here.
            if told.as_ref() != Some(&why) {
                fail_start(inner, pod, views, &why).await;
                told = Some(why);
            }
            wait_to_try(ending, &mut new).await;
        }
    }
    let freed = unlink(inner, pod).await;
    // Volumes and logs go with the pod.
    for directory in [volume_dir(inner, pod), log_dir(inner, pod)] {
        drop(tokio::fs::remove_dir_all(directory).await);
    }
    freed
}

/// Says that the pod is to run here, or why it is refused.
async fn admit(inner: &Inner, pod: &Object) -> Result<(), String> {
    let is_virtual = |name: &str| (inner.hooks.is_virtual)(pod.value(), name);
    if let Some(why) = plan::refusal(pod, &Ids::here(), is_virtual) {
        tell(inner, pod, "Warning", "Refused", &why).await;
        return Err(why);
    }
    let assigned = format!(
        "Successfully assigned {}/{} to {}",
        pod.namespace().unwrap_or("default"),
        pod.name(),
        crate::controllers::NODE_NAME
    );
    tell(inner, pod, "Normal", "Scheduled", &assigned).await;
    Ok(())
}

async fn wait_to_try(ending: &CancellationToken, new: &mut watch::Receiver<u64>) {
    tokio::select! {
        () = tokio::time::sleep(TRY_AGAIN) => {} // timer: the wait before another try
        Ok(()) = new.changed() => {}
        () = ending.cancelled() => {}
    }
}

async fn fail_start(inner: &Inner, pod: &Object, views: &watch::Sender<PodView>, why: &str) {
    tell(inner, pod, "Warning", "FailedCreatePodSandBox", why).await;
    change(views, |view| {
        view.started.get_or_insert_with(Timestamp::now);
        for container in &mut view.containers {
            container.state = State::waiting("CreatePodError", why);
        }
    });
}

/// The pod's link, guarded.
async fn link(inner: &Arc<Inner>, pod: &Arc<Object>) -> Result<PodLink, String> {
    let (node, uid) = (Arc::clone(&inner.node), pod.uid().to_owned());
    let made = tokio::task::spawn_blocking(move || node.pod_link(&uid)).await;
    let link = made.map_err(|error| error.to_string())?.map_err(|error| with_causes(&error))?;
    (inner.hooks.attach)(Arc::clone(pod), link.clone()).await?;
    Ok(link)
}

/// Takes the pod's link away; which it was, if it had one.
async fn unlink(inner: &Arc<Inner>, pod: &Arc<Object>) -> Option<PodLink> {
    let link = inner.node.pod_links().into_iter().find(|link| link.uid == pod.uid())?;
    if let Err(why) = (inner.hooks.detach)(Arc::clone(pod), link.clone()).await {
        tracing::warn!(pod = pod.name(), why, "a pod's link is not let go of");
    }
    let (node, uid) = (Arc::clone(&inner.node), pod.uid().to_owned());
    match tokio::task::spawn_blocking(move || node.pod_unlink(&uid)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(pod = pod.name(), why = with_causes(&error), "a pod's link is not removed"),
        Err(error) => tracing::warn!(pod = pod.name(), why = %error, "a pod's link is not removed"),
    }
    Some(link)
}

/// From the link to the last process.
async fn linked(
    inner: &Arc<Inner>,
    pod: &Arc<Object>,
    views: &watch::Sender<PodView>,
    ending: &CancellationToken,
    grace: watch::Receiver<Grace>,
    link: &PodLink,
) -> Result<(), String> {
    let addresses = vec![link.v4.to_string(), link.v6.to_string()];
    change(views, |view| {
        view.addresses.clone_from(&addresses);
        view.started.get_or_insert_with(Timestamp::now);
    });
    // Written, then in every table: only then may the first process run.
    let mut published = views.subscribe();
    let revision = published
        .wait_for(|view| view.published > 0)
        .await
        .map(|view| view.published)
        .map_err(|error| error.to_string())?;
    let mut settled = inner.hooks.settled.clone();
    tokio::select! {
        _ = settled.wait_for(|&settled| settled >= revision) => {}
        () = ending.cancelled() => return Ok(()),
    }
    let ranges = inner.node.ranges();
    let name_servers = vec![ranges.dns_v4.to_string(), ranges.dns_v6.to_string()];
    let host = ranges.node_v4.to_string();
    let around = plan::Surroundings {
        addresses: &addresses,
        host: &host,
        name_servers: &name_servers,
        links: &[],
        data_dir: inner.runtime.data_dir(),
    };
    let volumes = volumes::make(pod, &volume_dir(inner, pod), &around, &inner.hooks)?;
    let bounds = plan::bounds(pod, |name| (inner.hooks.is_virtual)(pod.value(), name));
    let kept = adopt::keep(inner, pod, &volumes)?;
    let spec = PodSpec { bounds, memory: volumes.memory.clone(), kept };
    let sandbox = inner
        .runtime
        .start_sandbox(pod.uid(), &link.path, &plan::host_name(pod), &spec)
        .await
        .map_err(|error| with_causes(&error))?;
    if !sandbox.lacks().is_empty() {
        let why = format!("This machine does not bound {}; see: tidegate check", sandbox.lacks().join("; "));
        tell(inner, pod, "Warning", "NotBounded", &why).await;
    }
    let shared = Shared {
        inner: Arc::clone(inner),
        pod: Arc::clone(pod),
        sandbox,
        netns: link.netns.clone(),
        addresses,
        host,
        name_servers,
        links: plan::alternatives(),
        volumes,
        views: views.clone(),
        ending: ending.clone(),
        sidecars: views.borrow().sidecars(),
        grace,
        left: Mutex::default(),
    };
    to_the_end(shared).await
}

/// From the first container, or what is left of it, to the last process.
async fn to_the_end(shared: Shared) -> Result<(), String> {
    let shared = Arc::new(shared);
    order::run(&shared).await;
    // Nothing is left of the containers; the last holder of the sandbox ends it.
    let Some(shared) = Arc::into_inner(shared) else { return Err("containers of the pod live on".to_owned()) };
    shared.sandbox.stop().await.map_err(|error| with_causes(&error))
}

pub(super) fn change(views: &watch::Sender<PodView>, change: impl FnOnce(&mut PodView)) {
    views.send_modify(|view| {
        change(view);
        view.is_published = false;
    });
}

/// Tells an event of a pod; one that cannot be stored is logged.
pub(super) async fn tell(inner: &Inner, pod: &Object, kind: &str, reason: &str, message: &str) {
    let what = Happening { kind, reason, message };
    let telling = |before: Option<&Object>| events::telling(pod, what, SOURCE, Timestamp::now(), before);
    let before = inner.told.last(pod, what);
    let Some(write) = telling(before.as_deref()) else { return };
    let mut told = (inner.hooks.write)(write).await;
    if before.is_some()
        && told.as_ref().is_err_and(|status| status.code() == 404)
        && let Some(write) = telling(None)
    {
        // It was forgotten since: this one is the first again.
        told = (inner.hooks.write)(write).await;
    }
    match told {
        Ok(event) => inner.told.note(pod, what, event),
        // The namespace is being deleted: nobody is left to read it.
        Err(status) if status.reason() == "Forbidden" => {}
        Err(status) => tracing::warn!(pod = pod.name(), reason, why = status.message(), "an event cannot be stored"),
    }
}

fn volume_dir(inner: &Inner, pod: &Object) -> PathBuf {
    inner.runtime.data_dir().join("volumes").join(pod.uid())
}

pub(super) fn log_dir(inner: &Inner, pod: &Object) -> PathBuf {
    inner.runtime.data_dir().join("logs").join(pod.uid())
}
