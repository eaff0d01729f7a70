//! The image of the smallest task: one static program that notes when it was started.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tokio::process::Command;

use crate::process::{Output, run};
use crate::{elf, workspace};

/// Compiles the program and returns where it is.
///
/// # Errors
/// If it does not compile or is not static.
pub(crate) async fn compile() -> Result<PathBuf> {
    let directory = workspace::scratch("noop")?;
    let binary = directory.join("noop");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-name", "noop", "-C", "opt-level=s", "-C", "panic=abort"]);
    rustc.args(["-C", "strip=symbols", "-C", "target-feature=+crt-static", "-o"]).arg(&binary);
    rustc.arg(workspace::root().join("xtask/noop/main.rs")).current_dir(workspace::root());
    let log = workspace::scratch("logs")?.join("noop.log");
    run(rustc, "rustc of the smallest task", Duration::from_secs(120), Output::File(&log)).await?;
    elf::check_static(&binary)?;
    Ok(binary)
}
