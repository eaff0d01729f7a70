//! `cargo xtask test`: everything that must hold before a change goes in, cheapest first, ending at the first failure.

mod binaries;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::binaries::{Tally, TestBinary};
use super::dist::{self, Profile};
use super::verify;
use crate::engine::Engine;
use crate::engine::base_image::DEBIAN;
use crate::engine::build::{Build, BuildContext};
use crate::leftovers::Before;
use crate::postgres::{Durability, Postgres};
use crate::process::{Output, capture, run as run_program};
use crate::stage::Stages;
use crate::{host, interrupt, workspace};

/// The image of the Postgres that end-to-end tests start, and the tag that `compose/` uses.
pub(crate) const POSTGRES_IMAGE: &str = "orca-postgres:15";
/// The crate of the end-to-end tests.
const E2E: &str = "orca-e2e";
const BUILD: Duration = Duration::from_secs(3_600);
const RUN: Duration = Duration::from_secs(1_200);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out the documentation, the images and the end-to-end tests.
    #[arg(long)]
    quick: bool,
    /// Goes to every test binary: a part of the tests' names.
    #[arg(last = true)]
    filter: Vec<String>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut stages = Stages::new();
    let mut database = None;
    let outcome = interrupt::unless_interrupted(Box::pin(all(&args, &mut stages, &mut database))).await;
    let stopped = match database {
        Some(database) => Postgres::stop(database).await,
        None => Ok(()),
    };
    let (tally, before, engine) = outcome?;
    stopped?;
    stages.run("nothing left behind", before.check(Some(&engine))).await?;
    println!("\n{}; {tally}", stages.summary());
    Ok(())
}

async fn all(
    args: &Args,
    stages: &mut Stages,
    database: &mut Option<Postgres>,
) -> Result<(Tally, Before, Engine)> {
    let logs = workspace::scratch("logs")?;
    let log = |name: &str| logs.join(format!("{name}.log"));
    stages
        .run("format", cargo(&["fmt", "--all", "--", "--check", "--color", "never"], &log("format")))
        .await?;
    stages.run("map of the files", super::map::write(true)).await?;
    let engine = stages.run("Docker engine", Engine::ensure()).await?;
    let before = Before::look(Some(&engine)).await?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    stages.run("lints", cargo(&clippy, &log("lints"))).await?;
    if !args.quick {
        stages.run("documentation", documentation(&log("documentation"))).await?;
    }
    let built = log("build");
    let bins = stages.run("build", dist::build(Profile::Dev, true, Output::File(&built))).await?;
    let tests = stages.run("list the tests", binaries::list()).await?;
    if !args.quick {
        stages.run("base image", engine.ensure_debian()).await?;
        stages.run("Postgres image", postgres_image(&engine, &log("image-postgres"))).await?;
        stages.run("docker compose", ensure_compose()).await?;
    }
    let running = stages.run("Postgres", Postgres::start(Durability::None, Some(&engine))).await?;
    let url = database.insert(running).url().to_owned();
    let environment = environment(&bins, &url);
    let mut tally = Tally::default();
    let (e2e, others): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.package == E2E);
    for package in packages(&others) {
        let mine: Vec<_> = others.iter().filter(|test| test.package == package).collect();
        let work = run_all(&mine, &args.filter, &[], &environment, &logs);
        tally += stages.run(&format!("tests of {package}"), work).await?;
    }
    if args.filter.is_empty() {
        let doc = ["test", "--workspace", "--doc", "--quiet"];
        stages.run("examples in the documentation", cargo(&doc, &log("doc-tests"))).await?;
    }
    if !args.quick {
        let mine: Vec<_> = e2e.iter().collect();
        if mine.is_empty() {
            bail!("the crate {E2E} has no tests");
        }
        let work = run_all(&mine, &args.filter, &["--test-threads=2"], &environment, &logs);
        tally += stages.run("end-to-end tests", work).await?;
        if args.filter.is_empty() {
            let history = log("verify");
            stages.run("the queue under faults", verify::short(verify::SECONDS, &history)).await?;
        }
    }
    if tally.passed == 0 {
        bail!("no test has a name with {:?} in it", args.filter.join(" "));
    }
    Ok((tally, before, engine))
}

/// What tests find in their environment.
fn environment(bins: &Path, database: &str) -> Vec<(&'static str, String)> {
    let path = |path: &Path| path.display().to_string();
    vec![
        ("ORCA_TEST_DATABASE_URL", database.to_owned()),
        ("ORCA_BIN_DIR", path(bins)),
        ("ORCA_AGENT_BINARY", path(&bins.join("orca-agent"))),
        ("ORCA_TEST_POSTGRES_IMAGE", POSTGRES_IMAGE.to_owned()),
        ("ORCA_TEST_BASE_IMAGE", DEBIAN.to_owned()),
        ("CI", std::env::var("CI").unwrap_or_else(|_| "true".into())),
    ]
}

fn packages(tests: &[TestBinary]) -> Vec<String> {
    let mut packages: Vec<String> = tests.iter().map(|test| test.package.clone()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

async fn run_all(
    tests: &[&TestBinary],
    filter: &[String],
    arguments: &[&str],
    environment: &[(&'static str, String)],
    logs: &Path,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for test in tests {
        let log: PathBuf = logs.join(format!("test-{}-{}.log", test.package, test.name));
        let mut command = test.command();
        command.args(filter).args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        let what = format!("{} of {}", test.name, test.package);
        run_program(command, &what, RUN, Output::File(&log)).await?;
        tally += Tally::read(&log).with_context(|| format!("{what} says no test result"))?;
    }
    Ok(tally)
}

async fn cargo(arguments: &[&str], log: &Path) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(arguments);
    run_program(command, &format!("cargo {}", arguments.join(" ")), BUILD, Output::File(log)).await
}

async fn documentation(log: &Path) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    run_program(command, "cargo doc", BUILD, Output::File(log)).await
}

/// Builds the image of Postgres from `compose/postgres/`. Unchanged steps come from the engine's cache.
async fn postgres_image(engine: &Engine, log: &Path) -> Result<()> {
    let mut context = BuildContext::new()?;
    context.tree(&workspace::root().join("compose/postgres"), ".")?;
    let build = Build {
        tag: POSTGRES_IMAGE,
        dockerfile: "Dockerfile",
        target: "",
        network: "",
        limit: Duration::from_secs(900),
        log: log.to_owned(),
    };
    engine.build(&build, context).await
}

/// Sees to it that `docker compose` or `docker-compose` is there, for the test of `compose/`.
async fn ensure_compose() -> Result<()> {
    if host::find_program("docker-compose").is_some() {
        return Ok(());
    }
    if let Some(docker) = host::find_program("docker") {
        let mut plugin = tokio::process::Command::new(docker);
        plugin.args(["compose", "version"]);
        if capture(plugin, "docker compose version", Duration::from_secs(20)).await.is_ok() {
            return Ok(());
        }
    }
    host::install(&["docker-compose"], "the test of compose/").await
}
