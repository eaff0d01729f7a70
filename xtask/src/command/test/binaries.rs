//! The test binaries of the workspace: built all at once, so that every crate is built with one set of features only,
//! then run one by one with the environment that their subjects need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::process::Command;

use crate::process::capture;
use crate::workspace;

const BUILD: Duration = Duration::from_secs(3_600);

/// One test binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TestBinary {
    /// Its crate.
    pub(super) package: String,
    /// Its target: the crate's own name for unit tests, else that of the file under `tests/`.
    pub(super) name: String,
    executable: PathBuf,
    /// Its crate's directory.
    directory: PathBuf,
}

impl TestBinary {
    /// Runs it as `cargo test` would.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory);
        command.env("RUST_BACKTRACE", "1");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ORCA_") || text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command
    }
}

/// What cargo says of something that it built; of its many messages only this one matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    package_id: Option<String>,
    target: Option<Target>,
    executable: Option<PathBuf>,
    profile: Option<BuildProfile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct BuildProfile {
    test: bool,
}

/// The tests of the workspace, built where they are not.
///
/// # Errors
/// If the build fails.
pub(super) async fn list() -> Result<Vec<TestBinary>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--no-run", "--quiet", "--message-format=json"]);
    let text = capture(cargo, "cargo test --no-run", BUILD).await?;
    let binaries = parse(&text)?;
    if binaries.is_empty() {
        bail!("cargo names no test binaries");
    }
    Ok(binaries)
}

fn parse(messages: &str) -> Result<Vec<TestBinary>> {
    let mut binaries = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("cannot read what cargo says")?;
        let (Some(executable), Some(manifest), Some(target), Some(profile), Some(id)) =
            (message.executable, message.manifest_path, message.target, message.profile, message.package_id)
        else {
            continue;
        };
        if message.reason == "compiler-artifact" && profile.test {
            let directory = manifest.parent().context("a manifest without a directory")?.to_owned();
            let package = package_name(&id, &directory);
            binaries.push(TestBinary { package, name: target.name, executable, directory });
        }
    }
    binaries.sort_by(|one, other| (&one.package, &one.name).cmp(&(&other.package, &other.name)));
    Ok(binaries)
}

/// The name in a package id such as `path+file:///repository/agent#orca-agent@0.1.0`, where a crate whose directory has
/// its name goes as `…/survey#0.1.0`.
fn package_name(id: &str, directory: &Path) -> String {
    let tail = id.rsplit_once('#').map_or(id, |(_, tail)| tail);
    match tail.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => directory.file_name().map_or_else(|| tail.to_owned(), |name| name.to_string_lossy().into()),
    }
}

/// How many tests were run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u32,
    pub(super) ignored: u32,
}

impl Tally {
    /// Adds up the `test result:` lines of a log.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn read(log: &Path) -> Result<Self> {
        let bytes = std::fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
        Self::parse(&String::from_utf8_lossy(&bytes)).context("no line begins with `test result:`")
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().rev().find_map(|line| line.strip_prefix("test result: ok. "))?;
        let count = |what: &str| {
            line.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u32>().ok())
        };
        Some(Self { passed: count("passed")?, ignored: count("ignored")? })
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.ignored += other.ignored;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tests passed, {} ignored", self.passed, self.ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_told_apart_from_what_else_was_built() {
        let messages = concat!(
            r#"{"reason":"build-script-executed","package_id":"x"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///r/cli#orca@0.1.0","manifest_path":"/r/cli/Cargo.toml","target":{"name":"orca"},"profile":{"test":false},"executable":"/t/orca"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///r/examples/survey#0.1.0","manifest_path":"/r/examples/survey/Cargo.toml","target":{"name":"survey"},"profile":{"test":true},"executable":"/t/survey-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let binaries = parse(messages).unwrap();
        assert_eq!(binaries.len(), 1);
        assert_eq!((binaries[0].package.as_str(), binaries[0].name.as_str()), ("survey", "survey"));
        assert_eq!(package_name("path+file:///r/cli#orca@0.1.0", Path::new("/r/cli")), "orca");
    }

    #[test]
    fn the_result_line_is_read() {
        let line = "running 9 tests\ntest result: ok. 7 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out; finished\n";
        assert_eq!(Tally::parse(line), Some(Tally { passed: 7, ignored: 2 }));
        assert_eq!(Tally::parse("test result: FAILED. 1 passed; 1 failed; 0 ignored\n"), None);
    }
}
