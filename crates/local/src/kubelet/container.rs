//! One container from its first start to its last end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::Object;
use jiff::Timestamp;
use linux::netns::NetNs;
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::adopt::{self, KeptRun, LastRun};
use super::probe::Probe;
use super::view::{ContainerView, PodView, Role, State};
use super::{Inner, image, plan, pod};
use crate::images::Image;
use crate::runtime::adopt::{RunLeft, RunState};
use crate::runtime::spec::{ContainerSpec, Exit, Link};
use crate::runtime::{Running, Sandbox};

/// Wait before the first restart; doubled for each one after it (Kubernetes).
const BACK_OFF_FIRST: Duration = Duration::from_secs(10);
/// Longest wait before a restart (Kubernetes).
const BACK_OFF_MAX: Duration = Duration::from_mins(5);
/// A container that ran this long is well again: the next wait is the first one (Kubernetes).
const WELL_AFTER: Duration = Duration::from_mins(10);

/// What a container has that is asked to end when the time of its pod is nearly over (Kubernetes).
const GRACE_LEAST: Duration = Duration::from_secs(2);

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
    /// Cancelled when a sidecar is to end, by its name: the rest of the pod has ended by then.
    pub(super) sidecars: BTreeMap<String, CancellationToken>,
    pub(super) grace: watch::Receiver<Grace>,
    /// Runs of containers from before this kubelet, until their container has them.
    pub(super) left: Mutex<BTreeMap<String, Vec<RunLeft>>>,
}

/// How long a pod is given to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grace {
    pub(super) given: Duration,
    /// Since when, if the pod is to end.
    pub(super) since: Option<Instant>,
}

impl Grace {
    /// What is left of it for a container that was asked to end at this time: of a pod that goes on, all is the
    /// container's.
    fn left(self, asked: Instant) -> Duration {
        let left = self.given.saturating_sub(self.since.unwrap_or(asked).elapsed());
        if self.given.is_zero() { left } else { left.max(GRACE_LEAST.saturating_sub(asked.elapsed())) }
    }
}

impl Shared {
    /// Cancelled when this container is to end.
    pub(super) fn ending(&self, container: &str) -> &CancellationToken {
        self.sidecars.get(container).unwrap_or(&self.ending)
    }

    /// Whether a container was run before this kubelet, and is not in its own hands yet.
    pub(super) fn was_run(&self, name: &str) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    fn last_run(&self, name: &str) -> Option<LastRun> {
        let runs = self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(name)?;
        adopt::last_run(runs)
    }

    fn id(&self, name: &str, attempt: u32) -> String {
        format!("tidegate://{}/{name}/{attempt}", self.pod.uid())
    }

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
    let mut before = shared.last_run(&name);
    let mut back_off = before.as_ref().map_or(BACK_OFF_FIRST, |run| run.back_off);
    let mut told = image::Told::of(before.is_some());
    // Counts runs: what is waited for before one is none.
    let mut attempt = before.as_ref().map_or(0, |run| run.attempt);
    loop {
        // Before the try: what comes during it is not missed.
        let mut new = shared.inner.new.subscribe();
        let Ended { exit, ran, ago } = if let Some(run) = before.take() {
            go_on(&shared, &manifest, &name, run).await
        } else {
            let Some(image) = image::wait(&shared, &manifest, &name, &mut told).await else { return false };
            once(&shared, &manifest, &name, (attempt, back_off), &image).await
        };
        if shared.ending(&name).is_cancelled() {
            return false;
        }
        let well = exit.is_some_and(|exit| exit.code == 0);
        let policy = if role == Role::Sidecar { "Always" } else { shared.pod.str_at("/spec/restartPolicy") };
        let again = match policy {
            "Never" => exit.is_none(),
            "OnFailure" => !well,
            _ => !(well && role == Role::Init),
        };
        if !again {
            return well;
        }
        if ran >= WELL_AFTER {
            back_off = BACK_OFF_FIRST;
        }
        // The first restart after a run comes at once, as Kubernetes has it.
        if attempt > 0 || exit.is_none() {
            wait_before_restart(&shared, &name, (back_off, ago), exit.is_some(), &mut new).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
        if shared.ending(&name).is_cancelled() {
            return false;
        }
        attempt += u32::from(exit.is_some());
    }
}

/// How a run came to its end.
struct Ended {
    /// None if it could not be begun.
    exit: Option<Exit>,
    /// How long it ran.
    ran: Duration,
    /// How long ago it ended, which nobody may have watched.
    ago: Duration,
}

async fn wait_before_restart(
    shared: &Shared,
    name: &str,
    (back_off, over): (Duration, Duration),
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
        () = tokio::time::sleep(back_off.saturating_sub(over)) => {} // timer: the back-off itself
        Ok(()) = new.changed(), if lacks_configuration => {}
        () = shared.ending(name).cancelled() => {}
    }
}

/// One run, with the wait after it.
async fn once(shared: &Arc<Shared>, manifest: &Value, name: &str, run: (u32, Duration), image: &Image) -> Ended {
    let begun = Instant::now();
    let exit = begin(shared, manifest, name, run, image).await;
    Ended { exit, ran: begun.elapsed(), ago: Duration::ZERO }
}

/// A run from its beginning; none if it could not be started.
async fn begin(
    shared: &Arc<Shared>,
    manifest: &Value,
    name: &str,
    (attempt, back_off): (u32, Duration),
    image: &Image,
) -> Option<Exit> {
    let log = log_path(shared, name, attempt);
    let around = plan::Surroundings {
        addresses: &shared.addresses,
        host: &shared.host,
        name_servers: &shared.name_servers,
        links: &shared.links,
        data_dir: shared.inner.runtime.data_dir(),
    };
    let stop = image::stop_signal(image);
    let spec = match plan::container(&shared.pod, manifest, image, &around, &shared.volumes, &log) {
        Ok(spec) => ContainerSpec { kept: kept(image, stop, back_off), ..spec },
        Err(why) => {
            shared.change(name, |view| view.state = State::waiting(CONFIG_ERROR, &why));
            shared.tell("Warning", "Failed", &format!("Error: {why}")).await;
            return None;
        }
    };
    let id = shared.id(name, attempt);
    match shared.inner.runtime.start_container(&shared.sandbox, name, attempt, &spec).await {
        Ok(running) => {
            shared.tell("Normal", "Created", &format!("Created container {name}")).await;
            shared.tell("Normal", "Started", &format!("Started container {name}")).await;
            let since = Timestamp::now();
            let run = Run { attempt, id, image: image.id.clone(), log, stop, running, since };
            Some(live(shared, manifest, name, run).await)
        }
        Err(error) => {
            let why = linux::error::with_causes(&error);
            shared.tell("Warning", "Failed", &format!("Error: {why}")).await;
            Some(never_began(shared, name, (attempt, id), why, Timestamp::now()))
        }
    }
}

/// What is recorded of a run for whoever takes it over.
fn kept(image: &Image, stop: Signal, back_off: Duration) -> Value {
    let back_off_ms = u64::try_from(back_off.as_millis()).unwrap_or(u64::MAX);
    let began_ms = Timestamp::now().as_millisecond();
    let kept = KeptRun { image: image.id.clone(), began_ms, back_off_ms, stop: stop.as_raw() };
    // Four plain fields: nothing of them cannot be written.
    serde_json::to_value(kept).unwrap_or_default()
}

/// A run that could not be started counts as one that failed.
fn never_began(shared: &Shared, name: &str, (attempt, id): (u32, String), why: String, when: Timestamp) -> Exit {
    shared.change(name, |view| {
        view.restarts = attempt;
        let reason = "StartError".to_owned();
        view.state = State::Terminated { code: 128, signal: None, reason, message: why, since: when, until: when, id };
    });
    Exit { code: 128, signal: None, finished_ms: when.as_millisecond(), out_of_memory: false }
}

/// A run that was begun before this kubelet, from where it is.
async fn go_on(shared: &Arc<Shared>, manifest: &Value, name: &str, run: LastRun) -> Ended {
    let LastRun { attempt, image, began, stop, log, log_before, state, .. } = run;
    let id = shared.id(name, attempt);
    shared.change(name, |view| {
        view.log = Some(log.clone());
        view.log_before = log_before;
    });
    let watched = matches!(state, RunState::Live(_));
    let exit = match state {
        RunState::Live(running) => {
            live(shared, manifest, name, Run { attempt, id, image, log, stop, running, since: began }).await
        }
        RunState::Ended(exit) => {
            shared.change(name, |view| {
                (view.ready, view.has_started, view.restarts) = (false, false, attempt);
                view.image_id = image;
                // As it was told, if it was.
                let told = matches!(&view.state, State::Terminated { id: told, .. } if *told == id);
                if !told {
                    view.state = terminated(&exit, began, id, true);
                }
            });
            exit
        }
        RunState::Failed(failed) => {
            let when = Timestamp::from_millisecond(failed.at_ms).unwrap_or_default();
            never_began(shared, name, (attempt, id), failed.why, when)
        }
    };
    let ago = if watched { Duration::ZERO } else { adopt::since(exit.finished(), Timestamp::now()) };
    Ended { exit: Some(exit), ran: adopt::since(began, exit.finished()), ago }
}

fn terminated(exit: &Exit, since: Timestamp, id: String, ended_by_itself: bool) -> State {
    let reason = match exit.code {
        0 => "Completed",
        _ if exit.out_of_memory && ended_by_itself => "OOMKilled",
        _ => "Error",
    };
    State::Terminated {
        code: exit.code,
        signal: exit.signal,
        reason: reason.into(),
        message: String::new(),
        since,
        until: exit.finished(),
        id,
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
    since: Timestamp,
}

/// From the start of a run, or from where it is, to its end.
async fn live(shared: &Arc<Shared>, manifest: &Value, name: &str, mut run: Run) -> Exit {
    let has = |name: &str| Probe::of(manifest, name).is_some();
    let (has_readiness, has_startup) = (has("readinessProbe"), has("startupProbe"));
    shared.change(name, |view| {
        view.run = Some(run.running.directory().to_owned());
        match &view.state {
            // It goes on as it was told: ready or not, started or not.
            State::Running { since: told, id } if *id == run.id => return run.since = *told,
            State::Terminated { .. } => view.last = Some(view.state.clone()),
            State::Running { .. } | State::Waiting { .. } => {}
        }
        view.state = State::Running { since: run.since, id: run.id.clone() };
        view.restarts = run.attempt;
        view.has_started = !has_startup;
        view.ready = !has_readiness && !has_startup;
        view.image_id.clone_from(&run.image);
        if view.log.as_ref() != Some(&run.log) {
            view.log_before = view.log.replace(run.log.clone());
        }
    });
    let (unhealthy, mut killed) = watch::channel(None);
    let probes = AbortOnDropHandle::new(tokio::spawn(watch_over(
        Arc::clone(shared),
        manifest.clone(),
        name.to_owned(),
        run.running.directory().to_owned(),
        unhealthy,
    )));
    let first = tokio::select! {
        exit = run.running.wait() => Some(exit),
        () = shared.ending(name).cancelled() => None,
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
        view.state = terminated(&exit, run.since, run.id.clone(), ended_by_itself);
    });
    exit
}

/// Asks the program to end, and ends it when its time is over.
async fn stop(shared: &Shared, running: &mut Running, signal: Signal) -> Result<Exit, crate::Error> {
    let mut grace = shared.grace.clone();
    if !grace.borrow_and_update().given.is_zero() {
        running.signal(signal)?;
    }
    let asked = Instant::now();
    loop {
        let left = grace.borrow_and_update().left(asked);
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
    let has_started = shared.views.borrow().container(&name).is_some_and(|view| view.has_started);
    if let Some(startup) = Probe::of(&manifest, "startupProbe").filter(|_| !has_started) {
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
