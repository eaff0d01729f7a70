//! Where things are in the repository, and the cargo that builds it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use tokio::process::Command;

/// The repository's root. Cargo says where it is when it runs this; the place of the build is only the fallback, since two
/// checkouts may share a target directory.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let told =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let here = PathBuf::from(told);
        here.parent().map_or(here.clone(), Path::to_path_buf)
    })
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

/// A directory for what xtask itself keeps, made on demand.
pub(crate) fn scratch(name: &str) -> Result<PathBuf> {
    let path = target().join("xtask").join(name);
    std::fs::create_dir_all(&path)
        .with_context(|| format!("cannot make the directory {}", path.display()))?;
    Ok(path)
}

/// The target triple of this machine's own static binaries.
pub(crate) fn static_target() -> Result<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok("x86_64-unknown-linux-gnu"),
        ("linux", "aarch64") => Ok("aarch64-unknown-linux-gnu"),
        (os, arch) => {
            anyhow::bail!(
                "nodes run on Linux on x86_64 or aarch64; there is no static build for {os} on {arch}"
            )
        }
    }
}

/// `cargo` in the repository's root, without what the cargo that runs this program put into the environment: crates
/// whose build watches those variables would be built again and again.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
            || text.starts_with("ORCA_")
            || text == "DATABASE_URL"
        {
            command.env_remove(&name);
        }
    }
    command
}
