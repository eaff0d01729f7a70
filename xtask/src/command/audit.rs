//! `cargo xtask audit`: licences, advisories, sources and duplicates, by cargo-deny and `deny.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::process::{Output, capture, run as run_program};
use crate::{interrupt, workspace};

const VERSION: &str = "0.20.2";
const INSTALL: Duration = Duration::from_secs(3_600);
const CHECK: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out the advisories, whose database has to be fetched.
    #[arg(long)]
    offline: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    interrupt::unless_interrupted(audit(&args)).await
}

async fn audit(args: &Args) -> Result<()> {
    let program = tool().await?;
    check(&program, &["licenses", "bans", "sources"])
        .await
        .context("the dependencies hold something that deny.toml does not allow")?;
    if args.offline {
        println!("the advisories were not looked at (--offline)");
        return Ok(());
    }
    check(&program, &["advisories"]).await.context(
        "an advisory speaks of a dependency, or the advisories could not be fetched (--offline leaves them out)",
    )
}

async fn check(program: &Path, what: &[&str]) -> Result<()> {
    let mut check = Command::new(program);
    check.current_dir(workspace::root());
    check.args(["--workspace", "--all-features", "--locked", "check", "--hide-inclusion-graph"]).args(what);
    run_program(check, &format!("cargo deny check {}", what.join(" ")), CHECK, Output::Show).await
}

/// cargo-deny in its pinned version, installed below the target directory where it is missing.
async fn tool() -> Result<PathBuf> {
    let root = workspace::target().join("tools");
    let program = root.join("bin/cargo-deny");
    if program.is_file() {
        let mut version = Command::new(&program);
        version.arg("--version");
        let said = capture(version, "cargo-deny --version", Duration::from_secs(20)).await?;
        if said.trim().ends_with(VERSION) {
            return Ok(program);
        }
    }
    println!("installing cargo-deny {VERSION} into {} (this takes some minutes)", root.display());
    let mut install = workspace::cargo();
    install.args(["install", "--locked", "--force", "--no-track", "--root"]).arg(&root);
    install.args(["--version", VERSION, "cargo-deny"]);
    run_program(install, "cargo install cargo-deny", INSTALL, Output::Show).await?;
    Ok(program)
}
