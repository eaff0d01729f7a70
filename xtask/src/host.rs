//! What this machine is and what may be installed on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::process::{Output, run};
use crate::{stage, workspace};

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether packages come by apt.
pub(crate) fn is_debian() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    names_debian(&release) && find_program("apt-get").is_some()
}

fn names_debian(release: &str) -> bool {
    release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .any(|id| matches!(id, "debian" | "ubuntu"))
}

/// Whether systemd runs the services here.
pub(crate) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir() && find_program("systemctl").is_some()
}

/// The path of a program in `PATH` or in the administrator's directories.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Installs packages by apt, saying so.
///
/// # Errors
/// Where that is not possible: then `why` (what they are needed for) and what to install by hand are in the error.
pub(crate) async fn install(packages: &[&str], why: &str) -> Result<()> {
    let names = packages.join(" ");
    if !is_debian() {
        bail!(
            "{why} needs {names}, which can only be installed by itself on Debian or Ubuntu; install it by hand"
        );
    }
    if !is_root() {
        bail!("{why} needs {names}, and only root may install it; run: sudo apt-get install {names}");
    }
    stage::note(&format!("installing {names} by apt-get ({why})"));
    let log = workspace::scratch("logs")?.join("apt.log");
    let mut update = Command::new("apt-get");
    update.args(["update", "-q"]).env("DEBIAN_FRONTEND", "noninteractive");
    run(update, "apt-get update", Duration::from_secs(300), Output::File(&log)).await?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_MODE", "l");
    run(install, "apt-get install", Duration::from_secs(900), Output::File(&log))
        .await
        .with_context(|| format!("cannot install {names} for {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_of_debian_are_known_by_id_like() {
        assert!(names_debian("NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(names_debian("ID=debian\n"));
        assert!(!names_debian("ID=fedora\nNAME=debian\n"));
    }
}
