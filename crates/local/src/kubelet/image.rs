//! The image of a container: found here, or waited for.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::container::Shared;
use super::view::State;
use crate::images::{self, Image, Reference};

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
#[derive(Debug, Default)]
pub(super) struct Told {
    has_image: bool,
}

/// The image of a container, when it is there; none if the pod is to end before that.
pub(super) async fn wait(shared: &Arc<Shared>, manifest: &Value, name: &str, told: &mut Told) -> Option<Image> {
    let written = manifest.get("image").and_then(Value::as_str).unwrap_or_default();
    let (mut back_off, mut last) = (BACK_OFF_FIRST, None);
    loop {
        // Before the look: what comes during it is not missed.
        let mut news = shared.inner.images_new.subscribe();
        let looked = tokio::select! {
            looked = find(shared, written) => looked,
            () = shared.ending.cancelled() => return None,
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
            () = shared.ending.cancelled() => return None,
        }
    }
}

async fn find(shared: &Arc<Shared>, written: &str) -> Result<Image, Lack> {
    let reference = Reference::parse(written).map_err(|why| Lack { reason: "InvalidImageName", why })?;
    if let Some(image) = images::in_catalogue(&reference, written) {
        return Ok(image);
    }
    match here(shared, &reference).await? {
        Some(image) => Ok(Image { told: format!("Container image \"{written}\" already present on machine"), ..image }),
        None => Err(Lack { reason: FAILED, why: images::absent(written) }),
    }
}

/// The image of this name that is here.
async fn here(shared: &Shared, reference: &Reference) -> Result<Option<Image>, Lack> {
    let (store, reference) = (shared.inner.images.clone(), reference.clone());
    let look = move || store.find(&reference).map(|found| found.map(|stored| Image::of(&stored, &store)));
    let failed = |why: String| Lack { reason: FAILED, why };
    let found = tokio::task::spawn_blocking(look).await.map_err(|error| failed(error.to_string()))?;
    found.map_err(|error| failed(linux::error::with_causes(&error)))
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
