//! The image of a container: found here, pulled, or waited for.

use std::sync::Arc;
use std::time::Duration;

use api::Key;
use rustix::process::Signal;
use serde_json::Value;

use super::container::Shared;
use super::view::State;
use super::volumes::decoded;
use crate::images::{self, Credentials, Image, Reference};

/// Wait before an image is looked for again; doubled each time (Kubernetes).
const BACK_OFF_FIRST: Duration = Duration::from_secs(10);
/// Longest such wait (Kubernetes).
const BACK_OFF_MAX: Duration = Duration::from_mins(5);

/// What a container's state names as the reason when an image could not be had and might be another time.
const FAILED: &str = "ErrImagePull";

/// Why there is no image.
struct Lack {
    /// What the container's state names at first.
    reason: &'static str,
    why: String,
}

/// What is told of an image once, for all runs of a container.
#[derive(Debug)]
pub(super) struct Told {
    has_image: bool,
}

impl Told {
    /// Of a container that has been run before or not.
    pub(super) fn of(has_run: bool) -> Self {
        Self { has_image: has_run }
    }
}

/// The image of a container, when it is there; none if the pod is to end before that.
pub(super) async fn wait(shared: &Arc<Shared>, manifest: &Value, name: &str, told: &mut Told) -> Option<Image> {
    let written = manifest.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = Policy::of(manifest);
    let (mut back_off, mut last) = (BACK_OFF_FIRST, None);
    loop {
        // Before the look: what comes during it is not missed.
        let mut news = shared.inner.images_new.subscribe();
        let looked = tokio::select! {
            looked = find(shared, written, policy) => looked,
            () = shared.ending(name).cancelled() => return None,
        };
        let lack = match looked {
            Ok(image) => {
                // What was pulled anew is told each time.
                if !std::mem::replace(&mut told.has_image, true) || image.told.starts_with("Successfully") {
                    shared.tell("Normal", "Pulled", &image.told).await;
                }
                return Some(image);
            }
            Err(lack) => lack,
        };
        let is_again = last.is_some() && lack.reason == FAILED;
        let reason = if is_again { "ImagePullBackOff" } else { lack.reason };
        shared.change(name, |view| view.state = State::waiting(reason, &lack.why));
        // The same again is told by the state alone.
        if last.as_ref() == Some(&lack.why) {
            shared.tell("Normal", "BackOff", &format!("Back-off pulling image \"{written}\"")).await;
        } else {
            shared.tell("Warning", "Failed", &lack.why).await;
            last = Some(lack.why);
        }
        tokio::select! {
            () = tokio::time::sleep(back_off) => back_off = (back_off * 2).min(BACK_OFF_MAX), // timer: the back-off itself
            Ok(()) = news.changed() => {}
            () = shared.ending(name).cancelled() => return None,
        }
    }
}

/// When an image is asked for in its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Policy {
    /// The API server has filled it in.
    fn of(manifest: &Value) -> Self {
        match manifest.get("imagePullPolicy").and_then(Value::as_str) {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
    }
}

async fn find(shared: &Arc<Shared>, written: &str, policy: Policy) -> Result<Image, Lack> {
    let reference = Reference::parse(written).map_err(|why| Lack { reason: "InvalidImageName", why })?;
    if let Some(image) = images::in_catalogue(&reference, written) {
        return Ok(image);
    }
    let present =
        |image: Image| Image { told: format!("Container image \"{written}\" already present on machine"), ..image };
    // A digest cannot have become another image's, and a name without a registry is nobody's but this machine's.
    let asks = policy == Policy::Always && reference.names_registry() && reference.digest().is_none();
    if !asks && let Some(image) = here(shared, &reference).await? {
        return Ok(present(image));
    }
    if policy == Policy::Never {
        let why = format!(
            "Container image \"{written}\" is not present with pull policy of Never; import it: tidegate image import FILE"
        );
        return Err(Lack { reason: "ErrImageNeverPull", why });
    }
    if !reference.names_registry() {
        return Err(Lack { reason: FAILED, why: images::absent(written) });
    }
    // One at a time: who waited may find here what the one before has pulled.
    let turn = shared.inner.pulls.take().await;
    if !asks && let Some(image) = here(shared, &reference).await? {
        return Ok(present(image));
    }
    shared.tell("Normal", "Pulling", &format!("Pulling image \"{written}\"")).await;
    let begun = tokio::time::Instant::now();
    let pulled = images::pull(&shared.inner.images, &reference, &credentials(shared)).await;
    drop(turn);
    let stored = match pulled {
        Ok(stored) => stored,
        Err(why) => {
            let is_here = asks && here(shared, &reference).await?.is_some();
            let advice =
                if is_here { "; an image of this name is here: imagePullPolicy IfNotPresent takes it" } else { "" };
            let why = format!("Failed to pull image \"{written}\": {why}{advice}");
            return Err(Lack { reason: FAILED, why });
        }
    };
    let took = begun.elapsed().as_millis();
    let told = format!("Successfully pulled image \"{written}\" in {took}ms. Image size: {} bytes.", stored.bytes);
    Ok(Image { told, ..Image::of(&stored, &shared.inner.images) })
}

/// The image of this name that is here.
async fn here(shared: &Shared, reference: &Reference) -> Result<Option<Image>, Lack> {
    let (store, reference) = (shared.inner.images.clone(), reference.clone());
    let look = move || store.find(&reference).map(|found| found.map(|stored| Image::of(&stored, &store)));
    let failed = |why: String| Lack { reason: FAILED, why };
    let found = tokio::task::spawn_blocking(look).await.map_err(|error| failed(error.to_string()))?;
    found.map_err(|error| failed(linux::error::with_causes(&error)))
}

/// What the pod, or else its service account, has to show to registries.
fn credentials(shared: &Shared) -> Vec<Credentials> {
    let namespace = shared.pod.namespace().unwrap_or("default");
    let find = |plural: &str, name: &str| (shared.inner.hooks.find)(&Key::namespaced("", plural, namespace, name));
    let mut named = shared.pod.items_at("/spec/imagePullSecrets").to_vec();
    if named.is_empty()
        && let Some(account) = find("serviceaccounts", shared.pod.str_at("/spec/serviceAccountName"))
    {
        named = account.items_at("/imagePullSecrets").to_vec();
    }
    let secrets = named.iter().filter_map(|one| find("secrets", one.get("name")?.as_str()?));
    let docker = secrets.filter(|secret| secret.str_at("/type") == "kubernetes.io/dockerconfigjson");
    docker.flat_map(|secret| Credentials::of_docker(&decoded(secret.str_at("/data/.dockerconfigjson")))).collect()
}

/// What asks the programs of an image to end.
pub(super) fn stop_signal(image: &Image) -> Signal {
    let named = image.stop_signal.as_deref().and_then(|text| {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        let known = [
            ("HUP", Signal::HUP),
            ("INT", Signal::INT),
            ("QUIT", Signal::QUIT),
            ("KILL", Signal::KILL),
            ("USR1", Signal::USR1),
            ("USR2", Signal::USR2),
            ("TERM", Signal::TERM),
            ("WINCH", Signal::WINCH),
        ];
        let by_name = known.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
        by_name.or_else(|| Signal::from_named_raw(name.parse().ok()?))
    });
    named.unwrap_or(Signal::TERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_asked_to_end_by_its_own_signal() {
        for (text, wanted) in [
            (None, Signal::TERM),
            (Some("SIGQUIT"), Signal::QUIT),
            (Some("INT"), Signal::INT),
            (Some("3"), Signal::QUIT),
            (Some("nonsense"), Signal::TERM),
            (Some("0"), Signal::TERM),
            (Some("9999"), Signal::TERM),
        ] {
            let reference = Reference::parse("busybox").unwrap();
            let mut image = images::in_catalogue(&reference, "busybox").unwrap();
            image.stop_signal = text.map(str::to_owned);
            assert_eq!(stop_signal(&image), wanted, "{text:?}");
        }
    }
}
