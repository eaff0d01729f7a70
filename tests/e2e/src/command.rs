//! Programs that a test runs to their end: the `orca` command, Compose.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::settings;
use crate::system::System;

/// Runs `command` with `input` on its standard input, at most for `limit`.
///
/// # Panics
/// If it cannot be started or takes longer.
pub async fn run(mut command: Command, input: &[u8], limit: Duration) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown} does not start: {error}"));
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let feed = async move {
        // A program that ends without reading everything is no failure of the test's.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    match tokio::time::timeout(limit, both).await {
        Ok(output) => output.unwrap_or_else(|error| panic!("{shown}: {error}")),
        Err(_) => panic!("{shown} had not ended after {limit:?}"),
    }
}

/// What a program printed, for messages.
#[must_use]
pub fn printed(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// An `orca` command that knows nothing but the coordinator at `url` and the token in `token_file`.
#[must_use]
pub fn orca(url: &str, token_file: &std::path::Path, home: &std::path::Path) -> Command {
    let mut command = Command::new(settings::binary("orca"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home).env("ORCA_URL", url).env("ORCA_TOKEN_FILE", token_file);
    command
}

impl System {
    /// Runs `orca` with these arguments against this system, as its operator.
    ///
    /// # Panics
    /// If it takes longer than a minute.
    pub async fn orca(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = orca(&self.url(), &self.operator_token_file(), self.dir());
        command.args(arguments);
        run(command, input, Duration::from_secs(60)).await
    }
}
