//! Kernel settings below `/proc/sys`.
//!
//! `/proc/sys/net` shows the namespace of the reading thread, so settings of another namespace are read and written
//! inside [`crate::netns::NetNs::run`].

use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

const ROOT: &str = "/proc/sys";

/// Writes a setting, named by its path below `/proc/sys`: `net/ipv4/ip_forward`.
pub fn write(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new(ROOT).join(name);
    std::fs::write(&path, value).map_err(|source| Error::Sysctl { doing: "write", path, source })
}

/// Writes a setting of a facility that the kernel may lack; `false` if it has no such setting.
pub fn write_if_there(name: &str, value: &str) -> Result<bool, Error> {
    match write(name, value) {
        Ok(()) => Ok(true),
        Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads a setting, without its line end.
pub fn read(name: &str) -> Result<String, Error> {
    let path: PathBuf = Path::new(ROOT).join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(Error::Sysctl { doing: "read", path, source }),
    }
}
