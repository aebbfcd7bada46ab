//! One container from its first start to its last end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::Object;
use jiff::Timestamp;
use linux::netns::NetNs;
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::probe::Probe;
use super::view::{ContainerView, PodView, Role, State};
use super::{Inner, image, plan, pod};
use crate::images::Image;
use crate::runtime::spec::{Exit, Link};
use crate::runtime::{Running, Sandbox};

/// Wait before the first restart; doubled for each one after it (Kubernetes).
const BACK_OFF_FIRST: Duration = Duration::from_secs(10);
/// Longest wait before a restart (Kubernetes).
const BACK_OFF_MAX: Duration = Duration::from_mins(5);
/// A container that ran this long is well again: the next wait is the first one (Kubernetes).
const WELL_AFTER: Duration = Duration::from_mins(10);

/// Why a container waits whose configuration is not there.
const CONFIG_ERROR: &str = "CreateContainerConfigError";

/// What the containers of one pod share.
pub(super) struct Shared {
    pub(super) inner: Arc<Inner>,
    pub(super) pod: Arc<Object>,
    pub(super) sandbox: Sandbox,
    pub(super) netns: NetNs,
    pub(super) addresses: Vec<String>,
    pub(super) host: String,
    pub(super) name_servers: Vec<String>,
    pub(super) links: Vec<Link>,
    pub(super) volumes: super::volumes::Volumes,
    pub(super) views: watch::Sender<PodView>,
    /// Cancelled when the pod is to end; the time it is given is in `grace`.
    pub(super) ending: CancellationToken,
    pub(super) grace: watch::Receiver<Duration>,
}

impl Shared {
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut ContainerView)) {
        self.views.send_modify(|view| {
            if let Some(container) = view.containers.iter_mut().find(|container| container.name == name) {
                change(container);
                view.is_published = false;
            }
        });
    }

    pub(super) async fn tell(&self, kind: &str, reason: &str, message: &str) {
        pod::tell(&self.inner, &self.pod, kind, reason, message).await;
    }
}

/// Runs a container until it is over for good: by its own end and the pod's policy, or by the pod's. Whether it ended
/// well.
pub(super) async fn run(shared: Arc<Shared>, manifest: Value, role: Role) -> bool {
    let name = manifest.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut back_off = BACK_OFF_FIRST;
    let mut told = image::Told::default();
    // Counts runs: what is waited for before one is none.
    let mut attempt = 0;
    loop {
        // Before the try: what comes during it is not missed.
        let mut new = shared.inner.new.subscribe();
        let Some(image) = image::wait(&shared, &manifest, &name, &mut told).await else { return false };
        let begun = tokio::time::Instant::now();
        let outcome = once(&shared, &manifest, &name, attempt, &image).await;
        if shared.ending.is_cancelled() {
            return false;
        }
        let well = outcome.is_some_and(|exit| exit.code == 0);
        let policy = if role == Role::Sidecar { "Always" } else { shared.pod.str_at("/spec/restartPolicy") };
        let again = match policy {
            "Never" => outcome.is_none(),
            "OnFailure" => !well,
            _ => !(well && role == Role::Init),
        };
        if !again {
            return well;
        }
        if begun.elapsed() >= WELL_AFTER {
            back_off = BACK_OFF_FIRST;
        }
        // The first restart after a run comes at once, as Kubernetes has it.
        if attempt > 0 || outcome.is_none() {
            wait_before_restart(&shared, &name, back_off, outcome.is_some(), &mut new).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
        if shared.ending.is_cancelled() {
            return false;
        }
        attempt += u32::from(outcome.is_some());
    }
}

async fn wait_before_restart(
    shared: &Shared,
    name: &str,
    back_off: Duration,
    ran: bool,
    new: &mut watch::Receiver<u64>,
) {
    if ran {
        let message =
            format!("back-off {}s restarting failed container={name} pod={}", back_off.as_secs(), shared.pod.name());
        shared.change(name, |view| {
            let before = std::mem::replace(&mut view.state, State::waiting("CrashLoopBackOff", &message));
            view.last = Some(before);
        });
        shared
            .tell(
                "Warning",
                "BackOff",
                &format!("Back-off restarting failed container {name} in pod {}", shared.pod.name()),
            )
            .await;
    }
    let lacks_configuration = shared
        .views
        .borrow()
        .container(name)
        .is_some_and(|view| matches!(&view.state, State::Waiting { reason, .. } if reason == CONFIG_ERROR));
    tokio::select! {
        () = tokio::time::sleep(back_off) => {} // timer: the back-off itself
        Ok(()) = new.changed(), if lacks_configuration => {}
        () = shared.ending.cancelled() => {}
    }
}

/// One run; none if it could not be started.
async fn once(shared: &Arc<Shared>, manifest: &Value, name: &str, attempt: u32, image: &Image) -> Option<Exit> {
    let log = log_path(shared, name, attempt);
    let around = plan::Surroundings {
        addresses: &shared.addresses,
        host: &shared.host,
        name_servers: &shared.name_servers,
        links: &shared.links,
        data_dir: shared.inner.runtime.data_dir(),
    };
    let spec = match plan::container(&shared.pod, manifest, image, &around, &shared.volumes, &log) {
        Ok(spec) => spec,
        Err(why) => {
            shared.change(name, |view| view.state = State::waiting(CONFIG_ERROR, &why));
            shared.tell("Warning", "Failed", &format!("Error: {why}")).await;
            return None;
        }
    };
    let id = format!("tidegate://{}/{name}/{attempt}", shared.pod.uid());
    match shared.inner.runtime.start_container(&shared.sandbox, name, attempt, &spec).await {
        Ok(running) => {
            shared.tell("Normal", "Created", &format!("Created container {name}")).await;
            shared.tell("Normal", "Started", &format!("Started container {name}")).await;
            let stop = image::stop_signal(image);
            Some(live(shared, manifest, name, Run { attempt, id, image: image.id.clone(), log, stop, running }).await)
        }
        Err(error) => {
            let why = linux::error::with_causes(&error);
            shared.tell("Warning", "Failed", &format!("Error: {why}")).await;
            let now = Timestamp::now();
            shared.change(name, |view| {
                view.restarts = attempt;
                view.state = State::Terminated {
                    code: 128,
                    signal: None,
                    reason: "StartError".into(),
                    message: why,
                    since: now,
                    until: now,
                    id,
                };
            });
            Some(Exit { code: 128, signal: None, finished_ms: now.as_millisecond(), out_of_memory: false })
        }
    }
}

struct Run {
    attempt: u32,
    id: String,
    image: String,
    log: PathBuf,
    /// Asks it to end.
    stop: Signal,
    running: Running,
}

/// From the start of a run to its end.
async fn live(shared: &Arc<Shared>, manifest: &Value, name: &str, mut run: Run) -> Exit {
    let since = Timestamp::now();
    let has = |name: &str| Probe::of(manifest, name).is_some();
    let (has_readiness, has_startup) = (has("readinessProbe"), has("startupProbe"));
    shared.change(name, |view| {
        if let State::Terminated { .. } = view.state {
            view.last = Some(view.state.clone());
        }
        view.state = State::Running { since, id: run.id.clone() };
        view.restarts = run.attempt;
        view.has_started = !has_startup;
        view.ready = !has_readiness && !has_startup;
        view.image_id.clone_from(&run.image);
        view.run = Some(run.running.directory().to_owned());
        view.log_before = view.log.replace(run.log.clone());
    });
    let (unhealthy, mut killed) = watch::channel(None);
    let probes = tokio::spawn(watch_over(
        Arc::clone(shared),
        manifest.clone(),
        name.to_owned(),
        run.running.directory().to_owned(),
        unhealthy,
    ));
    let first = tokio::select! {
        exit = run.running.wait() => Some(exit),
        () = shared.ending.cancelled() => None,
        // Without probes, or when they are done, nobody is left to say so.
        Ok(_) = killed.wait_for(Option::is_some) => None,
    };
    let why = killed.borrow().map(|kind| format!("Container {name} failed {kind} probe, will be restarted"));
    let ended_by_itself = first.is_some();
    let outcome = if let Some(exit) = first {
        exit
    } else {
        let why = why.unwrap_or_else(|| format!("Stopping container {name}"));
        shared.tell("Normal", "Killing", &why).await;
        stop(shared, &mut run.running, run.stop).await
    };
    probes.abort();
    // Over before the pod is: what it shares is then held by nobody else.
    drop(probes.await);
    let exit = outcome.unwrap_or_else(|_| Exit {
        code: 137,
        signal: Some(9),
        finished_ms: Timestamp::now().as_millisecond(),
        out_of_memory: false,
    });
    shared.change(name, |view| {
        view.ready = false;
        view.has_started = false;
        view.run = None;
        let reason = match exit.code {
            0 => "Completed",
            _ if exit.out_of_memory && ended_by_itself => "OOMKilled",
            _ => "Error",
        };
        view.state = State::Terminated {
            code: exit.code,
            signal: exit.signal,
            reason: reason.into(),
            message: String::new(),
            since,
            until: exit.finished(),
            id: run.id.clone(),
        };
    });
    exit
}

/// Asks the program to end, and ends it when its time is over.
async fn stop(shared: &Shared, running: &mut Running, signal: Signal) -> Result<Exit, crate::Error> {
    let mut grace = shared.grace.clone();
    if !grace.borrow_and_update().is_zero() {
        running.signal(signal)?;
    }
    let until = tokio::time::Instant::now();
    loop {
        let left = grace.borrow_and_update().saturating_sub(until.elapsed());
        tokio::select! {
            exit = running.wait() => return exit,
            () = tokio::time::sleep(left) => break, // timer: the pod's grace period
            Ok(()) = grace.changed() => {}
        }
    }
    running.signal(Signal::KILL)?;
    running.wait().await
}

/// Probes a running container until it is stopped from outside; which probe asks for a restart is told to `unhealthy`.
async fn watch_over(
    shared: Arc<Shared>,
    manifest: Value,
    name: String,
    run: PathBuf,
    unhealthy: watch::Sender<Option<&'static str>>,
) {
    if let Some(startup) = Probe::of(&manifest, "startupProbe") {
        if !watch_one(&shared, &name, &run, &startup, Kind::Startup).await {
            unhealthy.send_replace(Some("startup"));
            return;
        }
        let is_ready = Probe::of(&manifest, "readinessProbe").is_none();
        shared.change(&name, |view| (view.has_started, view.ready) = (true, is_ready));
    }
    let readiness = async {
        if let Some(probe) = Probe::of(&manifest, "readinessProbe") {
            watch_one(&shared, &name, &run, &probe, Kind::Readiness).await;
        }
    };
    let liveness = async {
        let Some(probe) = Probe::of(&manifest, "livenessProbe") else { return };
        if let Some(why) = probe.is_unknown() {
            // To restart a container for a question that is never asked would help nobody.
            shared.tell("Warning", "NotProbed", &format!("Liveness is not watched: {why}")).await;
        } else if !watch_one(&shared, &name, &run, &probe, Kind::Liveness).await {
            unhealthy.send_replace(Some("liveness"));
        }
    };
    tokio::join!(readiness, liveness);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// `true` when a startup probe has succeeded, `false` when the container is to be restarted; a readiness probe goes on.
async fn watch_one(shared: &Shared, name: &str, run: &std::path::Path, probe: &Probe, kind: Kind) -> bool {
    let Some(address) = shared.addresses.first().and_then(|address| address.parse().ok()) else { return true };
    let (mut good, mut bad) = (0_u32, 0_u32);
    let mut told = None;
    tokio::time::sleep(probe.initial).await; // timer: the probe's initial delay
    let mut ticks = tokio::time::interval(probe.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match probe.ask(&shared.inner.runtime, run, &shared.netns, address).await {
            Ok(()) => {
                (good, bad) = (good.saturating_add(1), 0);
                told = None;
            }
            Err(why) => {
                (good, bad) = (0, bad.saturating_add(1));
                // What goes on as it did is told once: a probe that fails for days must not fill the store.
                if told.as_ref() != Some(&why) {
                    shared.tell("Warning", "Unhealthy", &format!("{kind:?} probe failed: {why}")).await;
                    told = Some(why);
                }
            }
        }
        let (is_good, is_bad) = (good >= probe.successes, bad >= probe.failures);
        match kind {
            Kind::Startup if is_good => return true,
            Kind::Startup | Kind::Liveness if is_bad => return false,
            Kind::Readiness if is_good || is_bad => {
                let before = shared.views.borrow().container(name).map(|view| view.ready);
                if before != Some(is_good) {
                    shared.change(name, |view| view.ready = is_good);
                }
            }
            Kind::Startup | Kind::Liveness | Kind::Readiness => {}
        }
    }
}

fn log_path(shared: &Shared, name: &str, attempt: u32) -> PathBuf {
    pod::log_dir(&shared.inner, &shared.pod).join(name).join(format!("{attempt}.log"))
}
