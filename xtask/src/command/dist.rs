//! `cargo xtask dist`: every binary of Orca's side by side, the ones for containers static and small.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::process::{Output, run as run_program};
use crate::{elf, interrupt, workspace};

/// What people and nodes run.
const DYNAMIC: &[&str] = &["orca", "orca-coordinator", "orca-planner", "orca-worker"];
/// What runs inside containers.
const STATIC: &[&str] = &["orca-agent", "survey"];
/// The most that the agent may weigh, in bytes.
const AGENT_SIZE: u64 = 5_000_000;
const LIMIT: Duration = Duration::from_secs(3_600);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to build; the binaries for containers are always small and optimised.
    #[arg(long, value_enum, default_value_t = Profile::Dev)]
    profile: Profile,
}

/// A way to build, and the directory below `dist/` that it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Quick to build.
    Dev,
    /// Quick to run.
    Release,
}

impl Profile {
    /// `dist/<profile>`.
    pub(crate) fn directory(self) -> PathBuf {
        workspace::root().join("dist").join(match self {
            Self::Dev => "dev",
            Self::Release => "release",
        })
    }

    /// What cargo is to build. Tests ask for features that the binaries alone do not; where both are wanted, both have to
    /// be built at once, or most dependencies would be built twice.
    fn selection(self, with_tests: bool) -> &'static [&'static str] {
        match (self, with_tests) {
            (Self::Dev, true) => &["--workspace", "--all-targets"],
            (Self::Dev, false) => &["--workspace", "--bins"],
            (Self::Release, _) => {
                &["--release", "--bins", "-p", "orca", "-p", "orca-coordinator", "-p", "orca-node"]
            }
        }
    }

    fn cargo_directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let directory = interrupt::unless_interrupted(build(args.profile, false, Output::Show)).await?;
    for name in DYNAMIC.iter().chain(STATIC) {
        let size = std::fs::metadata(directory.join(name))?.len();
        println!("{:>9.1} KiB  {}", size as f64 / 1024.0, directory.join(name).display());
    }
    Ok(())
}

/// Builds everything, `with_tests` also the tests, and returns the directory that holds the binaries.
///
/// # Errors
/// If a build fails, a binary for containers is not static, or the agent is too large.
pub(crate) async fn build(profile: Profile, with_tests: bool, output: Output<'_>) -> Result<PathBuf> {
    let mut dynamic = workspace::cargo();
    dynamic.arg("build").args(profile.selection(with_tests));
    run_program(dynamic, "cargo build", LIMIT, output).await?;
    let target = workspace::static_target()?;
    let mut small = workspace::cargo();
    small.args(["build", "--profile", "agent", "--target", target, "-p", "orca-agent", "-p", "survey"]);
    small.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    run_program(small, "cargo build of the static binaries", LIMIT, output).await?;

    let directory = profile.directory();
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for name in DYNAMIC {
        place(&workspace::target().join(profile.cargo_directory()).join(name), &directory.join(name))?;
    }
    for name in STATIC {
        let binary = workspace::target().join(target).join("agent").join(name);
        elf::check_static(&binary)?;
        place(&binary, &directory.join(name))?;
    }
    let agent = std::fs::metadata(directory.join("orca-agent"))?.len();
    if agent > AGENT_SIZE {
        bail!("orca-agent has {agent} bytes; it must stay within {AGENT_SIZE}");
    }
    Ok(directory)
}

/// Puts `source` at `place`, as a hard link where the file system allows it. A program that runs from there is not
/// disturbed: it keeps the file that it was started from.
fn place(source: &Path, place: &Path) -> Result<()> {
    let next = place.with_extension("next");
    let _ = std::fs::remove_file(&next);
    if std::fs::hard_link(source, &next).is_err() {
        std::fs::copy(source, &next).with_context(|| format!("cannot copy {}", source.display()))?;
    }
    // Renaming one link of a file over another of the same does nothing and would leave `next`.
    let _ = std::fs::remove_file(place);
    std::fs::rename(&next, place).with_context(|| format!("cannot write {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placing_twice_leaves_one_file_with_the_newest_content() {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("source"), directory.path().join("target"));
        for content in ["one", "two"] {
            let _ = std::fs::remove_file(&source);
            std::fs::write(&source, content).unwrap();
            place(&source, &target).unwrap();
            place(&source, &target).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
