//! The log of a daemon in the background, which is its standard error. It is bounded: a client that is denied for ever must not
//! fill the disk that the store is on.

use std::io::Write;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};

use crate::settings::Place;

/// Its name in the data directory.
pub(crate) const NAME: &str = "daemon.log";
/// What is put aside when it is full; one is kept.
pub(crate) const ASIDE: &str = "daemon.log.1";
/// As large as the log of a container may be.
const BYTES_MAX: i64 = 10 << 20;

/// Whose log the standard error of this process is; of a daemon in the foreground it is a terminal, or whatever its caller likes.
static BACKGROUND: OnceLock<Mutex<Place>> = OnceLock::new();

/// From here on the standard error of this process is the log of this place.
pub(crate) fn is_of(place: &Place) {
    // A process is the daemon of one place.
    drop(BACKGROUND.set(Mutex::new(place.clone())));
}

/// Writes whole lines.
pub(crate) fn write(text: &[u8]) {
    // It is where failures are told: its own have nowhere to go.
    drop(std::io::stderr().lock().write_all(text));
    let is_full = || rustix::fs::fstat(std::io::stderr()).is_ok_and(|found| found.st_size > BYTES_MAX);
    let Some(place) = BACKGROUND.get() else { return };
    if let Ok(place) = place.lock()
        && is_full()
        && let Err(error) = put_aside(&place)
    {
        drop(writeln!(std::io::stderr(), "{error:#}"));
    }
}

fn put_aside(place: &Place) -> Result<()> {
    let path = place.data_dir.join(NAME);
    let moved = std::fs::rename(&path, place.data_dir.join(ASIDE));
    // Also when it could not be moved because it was: then the new one could not be made the last time.
    let new = linux::files::open_to_write(&path, OFlags::APPEND, Mode::RUSR | Mode::WUSR)?;
    place.give(&path)?;
    rustix::stdio::dup2_stderr(new).context("beginning a new log")?;
    moved.with_context(|| format!("putting aside `{}`", path.display()))
}

/// Where the parts of the daemon write what they warn of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines;

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        write(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
