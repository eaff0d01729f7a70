//! `cargo xtask images`: the images of `compose/`, compiled in containers from the committed sources.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::command::test::POSTGRES_IMAGE;
use crate::engine::Engine;
use crate::engine::build::{Build, BuildContext};
use crate::process::capture;
use crate::stage::Stages;
use crate::{interrupt, workspace};

const LIMIT: Duration = Duration::from_secs(5_400);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The network of the build's steps, where the engine's default reaches no registry of crates: such as `host`.
    #[arg(long, default_value = "")]
    network: String,
    /// What to call the image.
    #[arg(long, default_value = concat!("orca:", env!("CARGO_PKG_VERSION")))]
    tag: String,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    interrupt::unless_interrupted(images(&args)).await
}

async fn images(args: &Args) -> Result<()> {
    let mut stages = Stages::new();
    let engine = stages.run("Docker engine", Engine::ensure()).await?;
    stages.run("base image", engine.ensure_debian()).await?;
    stages.run("Rust image", engine.ensure_rust()).await?;
    let logs = workspace::scratch("logs")?;
    let build = |tag, dockerfile, log: PathBuf| Build {
        tag,
        dockerfile,
        target: "",
        network: &args.network,
        limit: LIMIT,
        log,
    };
    let mut postgres = BuildContext::new()?;
    postgres.tree(&workspace::root().join("compose/postgres"), ".")?;
    let order = build(POSTGRES_IMAGE, "Dockerfile", logs.join("image-postgres.log"));
    stages.run(POSTGRES_IMAGE, engine.build(&order, postgres)).await?;
    let order = build(&args.tag, "compose/Dockerfile", logs.join("image-orca.log"));
    stages.run(&args.tag, async { engine.build(&order, sources().await?).await }).await?;
    println!("\n{}", stages.summary());
    Ok(())
}

/// The files of the repository: those that git knows or would take, as they are now.
async fn sources() -> Result<BuildContext> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(workspace::root());
    let names = capture(git, "git ls-files", Duration::from_secs(60)).await?;
    let mut context = BuildContext::new()?;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let path = workspace::root().join(name);
        if path.symlink_metadata().is_ok() {
            context.file(&path, Path::new(name)).context("cannot add a file to the build's context")?;
        }
    }
    Ok(context)
}
