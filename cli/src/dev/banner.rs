//! What `orca dev` says once everything is up: a few aligned lines, and a command to paste.

use std::path::Path;

use serde::Serialize;

use crate::error::Failure;
use crate::output::{Output, Style};

/// What is up. Also the content of the ready file, which other programs wait for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ready {
    /// The coordinator's address.
    pub(super) url: String,
    /// The OpenAPI document.
    pub(super) openapi_url: String,
    /// This process.
    pub(super) pid: u32,
    /// The file that holds an operator's token.
    pub(super) token_file: String,
    /// The data directory.
    pub(super) data: String,
    /// `docker` or `process`.
    pub(super) runtime: &'static str,
    /// The database, without secrets.
    pub(super) database: String,
}

/// What a pasted command needs to reach this `orca dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing: its profile is the current one.
    Plain,
    /// `--profile dev`: another profile or the environment would win otherwise.
    ByProfile,
    /// Address and token, as no profile was saved.
    ByFlags,
}

/// Writes the lines, or one JSON document for programs.
///
/// # Errors
/// A [`Failure`] if standard output cannot be written.
pub(super) fn print(
    output: Output,
    ready: &Ready,
    ephemeral: bool,
    image: &str,
    reach: Reach,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.json_line(ready);
    }
    let field = |name: &str, value: &str| {
        output.line(&format!("  {} {value}", output.paint(Style::Faint, &format!("{name:<9}"))))
    };
    output.line(&output.paint(Style::Strong, "Orca is up."))?;
    output.line("")?;
    field("api", &ready.url)?;
    field("docs", &ready.openapi_url)?;
    field("database", &ready.database)?;
    field("runtime", runtime(ready.runtime))?;
    field("data", &format!("{}{}", ready.data, if ephemeral { " (removed at the end)" } else { "" }))?;
    if ready.runtime == "process" {
        output.line("")?;
        output.line(&output.paint(
            Style::Bad,
            "  WARNING: tasks run as plain child processes of this one, with all its rights. Images are ignored.",
        ))?;
        output.line(&output.paint(
            Style::Bad,
            "  Enqueue nothing that you would not run in this shell. With a Docker engine: --runtime docker.",
        ))?;
    }
    output.line("")?;
    output.line("Try it, in another terminal:")?;
    output.line("")?;
    let command = format!("  {} enqueue --follow {}{image} -- echo hello", program(), flags(ready, reach));
    output.line(&output.paint(Style::Strong, &command))?;
    output.line("")?;
    output.line("Ctrl-C stops it.")
}

fn runtime(name: &str) -> &str {
    if name == "process" { "process (isolates NOTHING)" } else { name }
}

fn flags(ready: &Ready, reach: Reach) -> String {
    match reach {
        Reach::Plain => String::new(),
        Reach::ByProfile => "--profile dev ".to_owned(),
        Reach::ByFlags => format!("--url {} --token-file {} ", ready.url, quoted(&ready.token_file)),
    }
}

/// This command as another terminal can call it: by its name if that is how it was called, else by its path.
fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let by_path = Path::new(&called).components().count() > 1;
    let path = std::env::current_exe().ok().filter(|_| by_path);
    path.map_or_else(|| "orca".to_owned(), |path| quoted(&path.to_string_lossy()))
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
