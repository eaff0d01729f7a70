//! `cargo xtask bench`: figures of a system of separate processes, on this machine's engine.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::dist::{self, Profile};
use crate::bench::figures::{self, Figure};
use crate::bench::fleet::Fleet;
use crate::bench::{memory, noop, queue, runtime, start, storage};
use crate::demo::archive::Tree;
use crate::demo::image;
use crate::engine::Engine;
use crate::interrupt;
use crate::process::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The queue's rates and latencies, side by side with other queues on the same Postgres; see docs/performance.md.
    Queue(queue::Args),
    /// Designs of the queue's storage, in SQL alone: tasks claimed and finished per second.
    Storage,
    #[command(flatten)]
    Containers(Containers),
}

/// What needs a container engine.
#[derive(Debug, clap::Subcommand)]
enum Containers {
    /// From enqueue to the start of a no-op task's process, side by side with the bare Docker API.
    Start {
        /// Where to write the figures: a list of {"measure", "system", "value", "unit"}.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Starts of each that count.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        samples: u16,
    },
    /// Containers: how long a fresh one takes and how many a second, logs, memory, a node that is started again.
    Runtime(runtime::Args),
    /// Memory of the coordinator, the nodes and an agent, after the demo's goal.
    Memory {
        /// Where to write the figures: a list of {"measure", "system", "value", "unit"}.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// The directory to survey. Unless told, this repository without target/, dist/ and .git/.
        #[arg(long, value_name = "DIR")]
        input: Option<PathBuf>,
    },
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let what = match args.what {
        What::Queue(args) => return interrupt::unless_interrupted(queue::run(&args)).await,
        What::Storage => return interrupt::unless_interrupted(storage::run()).await,
        What::Containers(what) => what,
    };
    let bins = interrupt::unless_interrupted(dist::build(Profile::Release, false, Output::Show)).await?;
    let engine = Engine::ensure().await?;
    let (mut fleet, mut images) = (None, Vec::new());
    let work = measure(&what, &bins, &engine, &mut fleet, &mut images);
    let outcome = interrupt::unless_interrupted(work).await;
    let words = fleet.as_ref().map(Fleet::last_words).unwrap_or_default();
    let stopped = match fleet {
        Some(fleet) => fleet.stop().await,
        None => Ok(()),
    };
    for image in images {
        engine.remove_image(&image).await?;
    }
    let figures = outcome.inspect_err(|error| {
        if !error.is::<interrupt::Interrupted>() {
            eprintln!("the last words of the system:\n{words}");
        }
    })?;
    stopped?;
    let file = match &what {
        Containers::Start { json, .. } | Containers::Memory { json, .. } => json.as_deref(),
        Containers::Runtime(args) => args.json(),
    };
    figures::put(&figures, file)
}

async fn measure(
    what: &Containers,
    bins: &Path,
    engine: &Engine,
    fleet: &mut Option<Fleet>,
    images: &mut Vec<String>,
) -> Result<Vec<Figure>> {
    let noop = image::from_scratch(engine, &noop::compile().await?, "noop").await?;
    images.push(noop.clone());
    let settings = if let Containers::Runtime(_) = what { runtime::settings() } else { Vec::new() };
    let fleet = fleet.insert(Fleet::start(bins, engine, settings).await?);
    match what {
        Containers::Start { samples, .. } => {
            start::measure(fleet, engine, &noop, usize::from(*samples)).await
        }
        Containers::Runtime(args) => runtime::measure(args, fleet, engine, &noop).await,
        Containers::Memory { input, .. } => {
            let tree = match input {
                Some(directory) => Tree::whole(directory)?,
                None => Tree::repository(),
            };
            let survey = image::from_scratch(engine, &bins.join("survey"), "survey").await?;
            images.push(survey.clone());
            let mut figures = memory::sizes(bins)?;
            figures.extend(memory::measure(fleet, engine, &survey, &noop, &tree).await?);
            Ok(figures)
        }
    }
}
