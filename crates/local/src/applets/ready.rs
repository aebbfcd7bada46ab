//! How an applet tells its starter that it serves: it closes a descriptor that it was given.

/// Closes the descriptor named by [`super::READY_VARIABLE`], if any.
pub(super) fn tell() {
    let number = std::env::var(super::READY_VARIABLE).ok().and_then(|text| text.parse().ok());
    if let Some(number) = number {
        // Not open, or not ours to take: then nobody waits for it.
        drop(linux::process::adopt(number).map(drop));
    }
}
