//! `cargo xtask sqlx`: the data in `.sqlx/`, against which the build checks queries where there is no database.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::postgres::{Durability, Postgres};
use crate::process::{Output, run as run_program};
use crate::{interrupt, workspace};

const PSQL: Duration = Duration::from_secs(120);
const BUILD: Duration = Duration::from_secs(3_600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say whether the data is up to date.
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    interrupt::unless_interrupted(prepare(&args)).await
}

async fn prepare(args: &Args) -> Result<()> {
    let database = Postgres::start(Durability::None, None).await?;
    migrate(&database).await?;
    let fresh = workspace::scratch("sqlx")?;
    std::fs::remove_dir_all(&fresh)?;
    std::fs::create_dir_all(&fresh)?;
    // Cargo sees no reason to expand the queries again; a changed time of the crate's root is one.
    let root = workspace::root().join("coordinator/src/lib.rs");
    std::fs::File::options().append(true).open(&root)?.set_modified(std::time::SystemTime::now())?;
    let mut check = workspace::cargo();
    check.args(["check", "--package", "orca-coordinator", "--all-targets"]);
    check.env("DATABASE_URL", database.url()).env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", &fresh);
    run_program(check, "cargo check of the queries", BUILD, Output::Show).await?;
    database.stop().await?;

    let committed = workspace::root().join(".sqlx");
    let (old, new) = (files(&committed)?, files(&fresh)?);
    if new.is_empty() {
        bail!("the build left no data of any query in {}", fresh.display());
    }
    let changed = old.iter().filter(|(name, text)| new.get(*name) != Some(text)).count()
        + new.keys().filter(|name| !old.contains_key(*name)).count();
    if changed == 0 {
        println!(".sqlx is up to date: {} queries", new.len());
        return Ok(());
    }
    if args.check {
        bail!("{changed} files of .sqlx are not up to date; run: cargo xtask sqlx");
    }
    std::fs::create_dir_all(&committed)?;
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        std::fs::remove_file(committed.join(name))?;
    }
    for (name, text) in &new {
        std::fs::write(committed.join(name), text)?;
    }
    println!(".sqlx has {} queries now; {changed} files changed", new.len());
    Ok(())
}

/// Applies the coordinator's migrations in their order.
async fn migrate(database: &Postgres) -> Result<()> {
    let psql = database.psql().context("psql is needed to apply the migrations; install Postgres' client")?;
    let directory = workspace::root().join("coordinator/migrations");
    let mut migrations: Vec<_> = std::fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .collect::<std::io::Result<Vec<_>>>()?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .filter(|path| !path.to_string_lossy().ends_with(".down.sql"))
        .collect();
    migrations.sort_unstable();
    let log = workspace::scratch("logs")?.join("migrations.log");
    // As the coordinator does before its migrations.
    let mut schema = Command::new(&psql);
    schema
        .args(["--no-psqlrc", "--quiet", "--command", "CREATE SCHEMA IF NOT EXISTS orca"])
        .arg(database.url());
    run_program(schema, "psql", PSQL, Output::File(&log)).await?;
    for migration in migrations {
        let mut apply = Command::new(&psql);
        apply.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--single-transaction", "--file"]);
        apply.arg(&migration).arg(database.url());
        let what = format!("psql with {}", migration.display());
        run_program(apply, &what, PSQL, Output::File(&log)).await?;
    }
    Ok(())
}

fn files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if !directory.is_dir() {
        return Ok(files);
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("query-") {
            files.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(files)
}
