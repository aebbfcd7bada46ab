//! What a reader of figures has to know: the machine, the binary, the load.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::program::checked;
use crate::rows::{Row, Way};

/// Prints what the figures below hold for.
pub(crate) fn print(tidegate: &Path) -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut command = Command::new(tidegate);
    command.arg("--version");
    let version = checked(command)?;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = read("/proc/meminfo").lines().next().map(|line| line.replace("MemTotal:", "").trim().to_owned());
    let model = read("/proc/cpuinfo");
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned()));
    println!("`bench/run {}`", words.join(" "));
    println!();
    println!(
        "{}, {} bytes; kernel {}, {processors} processors ({}), {} memory, congestion control {}; load average at the begin {}",
        String::from_utf8_lossy(&version.stdout).trim(),
        std::fs::metadata(tidegate)?.len(),
        read("/proc/sys/kernel/osrelease"),
        model.unwrap_or_default(),
        memory.unwrap_or_default(),
        read("/proc/sys/net/ipv4/tcp_congestion_control"),
        read("/proc/loadavg"),
    );
    Ok(())
}

/// Prints the versions of the proxies among the rows.
pub(crate) fn print_proxies(rows: &[Row]) -> Result<()> {
    for row in rows {
        if let Way::Proxy(proxy) = &row.way {
            println!("\n{}: {}", row.name, proxy.version()?);
        }
    }
    Ok(())
}
