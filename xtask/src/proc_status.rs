//! What `/proc` says of a process: its memory and its program.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Resident memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Now (`VmRSS`).
    pub(crate) resident: u64,
    /// At its highest (`VmHWM`).
    pub(crate) highest: u64,
}

/// The resident memory of the process `pid`.
///
/// # Errors
/// If there is no such process, or its status cannot be read.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = |name| field(&text, name).with_context(|| format!("{path} has no {name}"));
    Ok(Memory { resident: field("VmRSS")?, highest: field("VmHWM")? })
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The running processes, as id and path of the program. Those of others that may not be looked at are left out.
pub(crate) fn programs() -> Vec<(u32, PathBuf)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, std::fs::read_link(entry.path().join("exe")).ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        assert_eq!(field("Name:\tx\nVmHWM:\t    5120 kB\nVmRSS:\t    4096 kB\n", "VmRSS"), Some(4096));
        assert_eq!(field("VmRSSExtra:\t1 kB\n", "VmRSS"), None);
    }
}
