//! Holding the answer to a write until its consequences are in force.

use std::time::{Duration, Instant};

use http::Response;
use tokio::time::timeout;

use crate::server::Inner;
use crate::store::Written;
use crate::{Body, reply};

/// How long an answer is held: longer than any healthy consequence takes, shorter than clients lose patience.
const HELD_MAX: Duration = Duration::from_secs(2);

/// Waits until the write is settled, at most [`HELD_MAX`]; says so in a warning if it is not. Says what the write took, too.
pub(super) async fn hold(inner: &Inner, response: &mut Response<Body>, written: &Written) {
    let mut warnings = written.warnings.clone();
    let begun = Instant::now();
    let mut settled = inner.hooks.settled.clone();
    let in_force = timeout(HELD_MAX, settled.wait_for(|settled| *settled >= written.revision)).await;
    if !matches!(in_force, Ok(Ok(_))) {
        let reached = *inner.hooks.settled.borrow();
        warnings.push(format!(
            "stored, but not yet in force: revision {} is stored, revision {reached} is in force; `tidegate status` says what lags",
            written.revision
        ));
    }
    reply::warn(response, &warnings);
    reply::time(
        response,
        &[("store", written.took.store), ("commit", written.took.commit), ("settle", begun.elapsed())],
    );
}
