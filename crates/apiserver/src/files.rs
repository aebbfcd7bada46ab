//! Files that only their owner may read, and that are whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Makes an empty file that only its owner may read; it must not exist yet.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Puts a file in place in one step, durable when this returns.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let half = path.with_extension("new");
    remove_if_there(&half)?;
    let mut file = create_private(&half)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&half, path)?;
    File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Removes a file that may be there.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
