//! What nodes do with containers, side by side with the bare Docker API: `cargo xtask bench runtime`.

mod fresh;
mod held;
mod logs;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::figures::Figure;
use super::fleet::Fleet;
use crate::engine::Engine;

/// The names that `--only` knows.
const MEASURES: [&str; 4] = ["fresh", "logs", "memory", "reattach"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write the figures: a list of {"measure", "system", "value", "unit"}.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these: `fresh`, `logs`, `memory`, `reattach`.
    #[arg(long, value_name = "MEASURE,…", value_delimiter = ',')]
    only: Vec<String>,
}

impl Args {
    /// Where the figures go.
    pub(crate) fn json(&self) -> Option<&Path> {
        self.json.as_deref()
    }

    fn includes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// What the nodes are told: room for all that is measured, whatever the machine has.
pub(crate) fn settings() -> Vec<(&'static str, String)> {
    vec![
        ("ORCA_SLOTS", "64".to_owned()),
        ("ORCA_CPUS", "1000".to_owned()),
        ("ORCA_MEMORY", "1TiB".to_owned()),
    ]
}

/// Measures everything that `args` names.
///
/// # Errors
/// The first failure, and a result that is not slow but wrong.
pub(crate) async fn measure(
    args: &Args,
    fleet: &mut Fleet,
    engine: &Engine,
    image: &str,
) -> Result<Vec<Figure>> {
    if let Some(unknown) = args.only.iter().find(|only| !MEASURES.contains(&only.as_str())) {
        bail!("--only does not know {unknown:?}; it knows {}", MEASURES.join(", "));
    }
    let mut figures = Vec::new();
    if args.includes("fresh") {
        figures.extend(fresh::measure(fleet, engine, image).await?);
    }
    if args.includes("logs") {
        figures.extend(logs::measure(fleet, engine, image).await?);
    }
    if args.includes("memory") {
        figures.extend(held::memory(fleet, engine, image).await?);
    }
    if args.includes("reattach") {
        figures.extend(held::reattach(fleet, image).await?);
    }
    Ok(figures)
}
