//! `cargo xtask demo`: the whole system on one real job, from nothing but a Rust toolchain.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use orca_proto::ids::TaskId;
use orca_proto::task::Cancellation;

use super::dist::{self, Profile};
use crate::demo::archive::Tree;
use crate::demo::report::Report;
use crate::demo::system::System;
use crate::demo::{goal, image, watch};
use crate::engine::Engine;
use crate::interrupt;
use crate::process::Output;

/// Under the process runtime the image is only a name.
const NO_IMAGE: &str = "orca-survey:none";
/// How long calling the goal off may take.
const CANCEL: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory to survey, with everything in it. Unless told, this repository without target/, dist/ and .git/.
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Where to write the whole result: {"files", "bytes", "lines", "words": [[word, n], …], "hashes": {path: sha256}}.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What runs the containers. `auto`: Docker if an engine answers, else plain processes, which isolate nothing.
    #[arg(long, value_enum, default_value_t = Runtime::Auto)]
    runtime: Runtime,
    /// How to build Orca: `dev` is quicker to build, `release` quicker to run.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Keep the image that was built for the survey.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Runtime {
    Auto,
    Docker,
    Process,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let tree = match &args.input {
        Some(directory) => Tree::whole(directory)?,
        None => Tree::repository(),
    };
    if let Some(path) = &args.json {
        // Better now than after all the work.
        if path.is_dir() {
            bail!("cannot write {}: it is a directory", path.display());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::metadata(parent).with_context(|| format!("cannot write to {}", parent.display()))?;
    }
    println!("building Orca (the first time takes some minutes)");
    let bins = interrupt::unless_interrupted(dist::build(args.profile, false, Output::Show)).await?;
    let engine = engine(args.runtime).await?;
    let mut made = Made::default();
    let work = survey(&args, &tree, &bins, engine.as_ref(), &mut made);
    let outcome = interrupt::unless_interrupted(work).await;
    if outcome.is_err() {
        println!("stopping what was started, and cleaning up");
        made.cancel().await;
    }
    let cleaned = made.remove(args.keep, engine.as_ref()).await;
    outcome?;
    cleaned
}

/// What has to be taken away at the end, however that comes.
#[derive(Default)]
struct Made {
    system: Option<System>,
    image: Option<String>,
    goal: Option<TaskId>,
}

impl Made {
    /// Calls the goal off: what would run again is not worth the wait for it to drain.
    async fn cancel(&self) {
        if let (Some(system), Some(goal)) = (&self.system, self.goal) {
            let why = Cancellation { reason: Some("the demo was given up".to_owned()) };
            // It may have ended, or nothing may answer: then there is nothing to call off.
            let _ = tokio::time::timeout(CANCEL, system.client.cancel(goal, &why)).await;
        }
    }

    async fn remove(self, keep: bool, engine: Option<&Engine>) -> Result<()> {
        let stopped = match self.system {
            Some(system) => system.stop().await,
            None => Ok(()),
        };
        if let (Some(engine), Some(image), false) = (engine, &self.image, keep) {
            engine.remove_image(image).await?;
        }
        stopped
    }
}

/// The engine to use, or `None` for the process runtime.
async fn engine(runtime: Runtime) -> Result<Option<Engine>> {
    match runtime {
        Runtime::Docker => Engine::ensure().await.map(Some),
        Runtime::Process => {
            warn("the process runtime was asked for");
            Ok(None)
        }
        Runtime::Auto => match Engine::find().await {
            Ok(engine) => Ok(Some(engine)),
            Err(error) => {
                warn(&format!("{error:#}"));
                Ok(None)
            }
        },
    }
}

fn warn(why: &str) {
    println!(
        "\n  !! NO CONTAINERS: {why}\n  !! The tasks run as plain processes of this user: NOTHING IS ISOLATED. Good for trying out, for nothing else.\n"
    );
}

async fn survey(
    args: &Args,
    tree: &Tree,
    bins: &Path,
    engine: Option<&Engine>,
    made: &mut Made,
) -> Result<()> {
    let (image, program, runtime, version) = match engine {
        Some(engine) => {
            let tag = image::from_scratch(engine, &bins.join("survey"), "survey").await?;
            made.image = Some(tag.clone());
            (tag, "/survey".to_owned(), "docker", engine.version.clone())
        }
        None => {
            let program =
                bins.join("survey").to_str().context("the repository's path is not UTF-8")?.to_owned();
            (NO_IMAGE.to_owned(), program, "process", "process (isolates nothing)".to_owned())
        }
    };
    let system = made.system.insert(System::start(&bins.join("orca"), runtime).await?);
    let client = system.client.clone();
    println!("serving at {}", client.base());
    println!("surveying  {}", tree.describe());
    let begun = Instant::now();
    let (artifact, size) = goal::upload(&client, tree).await?;
    println!("uploaded   {:.1} MiB in {:.1} s", size as f64 / 1_048_576.0, begun.elapsed().as_secs_f64());
    let id = goal::enqueue(&client, &image, &program, artifact).await?;
    made.goal = Some(id);
    println!("goal       {id}");
    let followed = watch::follow(&client, id, || system.check()).await;
    let task = followed.with_context(|| {
        format!("the survey did not succeed; the last words of orca dev:\n{}", system.last_words())
    })?;
    let took: Duration = begun.elapsed();
    let report = Report::fetch(&client, &task).await?;
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    let tasks: i64 = task.summary.children.values().sum::<i64>() + 1;
    println!("\n{}", report.table(took, tasks, &version));
    Ok(())
}
