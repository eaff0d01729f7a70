//! Everything that makes this program an Orca task: its input and dependencies as files, `$ORCA_AGENT` for the rest.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Failure;

/// A task that this one depended on. There is more in the file than is read here.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// Its key in the plan.
    #[serde(default)]
    pub(crate) key: Option<String>,
    /// How it ended.
    pub(crate) state: String,
    /// Its result, when `succeeded`.
    #[serde(default)]
    pub(crate) result: Value,
}

#[derive(Debug, Deserialize)]
struct Dependencies {
    tasks: Vec<Dependency>,
}

/// A variable that Orca sets.
///
/// # Errors
/// When it is not set.
pub(crate) fn variable(name: &str) -> Result<OsString, Failure> {
    std::env::var_os(name)
        .ok_or_else(|| format!("{name} is not set; this program runs inside an Orca task").into())
}

/// The task's input, from `$ORCA_INPUT`. (It is on standard input too.)
///
/// # Errors
/// When there is none, or none of that shape.
pub(crate) fn input<T: DeserializeOwned>() -> Result<T, Failure> {
    read_json("ORCA_INPUT", "the task's input")
}

/// The tasks that this one depended on, from `$ORCA_DEPENDENCIES`; none where that is not set.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn dependencies() -> Result<Vec<Dependency>, Failure> {
    if std::env::var_os("ORCA_DEPENDENCIES").is_none() {
        return Ok(Vec::new());
    }
    read_json::<Dependencies>("ORCA_DEPENDENCIES", "the dependencies").map(|dependencies| dependencies.tasks)
}

/// The directory of the input artifact `name`, under `$ORCA_FILES`.
///
/// # Errors
/// When `$ORCA_FILES` is not set.
pub(crate) fn artifact_dir(name: &str) -> Result<PathBuf, Failure> {
    Ok(PathBuf::from(variable("ORCA_FILES")?).join(name))
}

/// Says how far the task is. That nobody may hear it does not stop the work.
pub(crate) fn progress(percent: u64, message: &str) {
    let percent = percent.to_string();
    if let Err(error) = run(&["progress", &percent, "--message", message], None) {
        eprintln!("survey: {error}");
    }
}

/// Sets the task's result.
///
/// # Errors
/// When the node does not take it.
pub(crate) fn set_result(result: &impl Serialize) -> Result<(), Failure> {
    run(&["result", "-"], Some(&serde_json::to_vec(result)?)).map(drop)
}

/// Sets the goal's plan.
///
/// # Errors
/// When the node finds it invalid.
pub(crate) fn set_plan(plan: &impl Serialize) -> Result<(), Failure> {
    run(&["plan", "-"], Some(&serde_json::to_vec(plan)?)).map(drop)
}

/// Keeps `value` as the artifact `name`; its id.
///
/// # Errors
/// When it cannot be written or stored.
pub(crate) fn keep(name: &str, value: &impl Serialize) -> Result<String, Failure> {
    // Next to the result: that directory is writable and goes away with the attempt.
    let path = PathBuf::from(variable("ORCA_RESULT")?).with_file_name(name);
    let mut file = std::io::BufWriter::new(File::create(&path)?);
    serde_json::to_writer(&mut file, value)?;
    file.flush()?;
    drop(file);
    let path = path.to_str().ok_or("the path of the attempt's directory is not UTF-8")?;
    let artifact: Value = serde_json::from_slice(&run(&["put", path], None)?)?;
    let id = artifact.get("id").and_then(Value::as_str).ok_or("the stored artifact has no id")?;
    Ok(id.to_owned())
}

/// Reads the artifact `name` that the dependency `key` kept.
///
/// # Errors
/// When there is no such artifact, or it is not of that shape.
pub(crate) fn fetch<T: DeserializeOwned>(key: &str, name: &str) -> Result<T, Failure> {
    let what = format!("{key}/{name}");
    let mut child = agent(&["get", &what]).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("there is no pipe")?;
    let value = serde_json::from_reader(BufReader::new(output));
    finish(child, &["get", &what])?;
    value.map_err(|error| format!("cannot read {what}: {error}").into())
}

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("ORCA_AGENT").unwrap_or_else(|| "orca-agent".into()));
    command.args(arguments);
    command
}

fn run(arguments: &[&str], input: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = agent(arguments).stdin(stdin).stdout(Stdio::piped()).spawn()?;
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // If the command gave up early, its exit code says more than the broken pipe.
        let _ = pipe.write_all(input);
    }
    let mut output = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        std::io::Read::read_to_end(&mut pipe, &mut output)?;
    }
    finish(child, arguments)?;
    Ok(output)
}

fn finish(mut child: Child, arguments: &[&str]) -> Result<(), Failure> {
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    // The command has said why on standard error, which is the task's own.
    Err(format!("`orca-agent {}` did not work: {status}", arguments.join(" ")).into())
}

fn read_json<T: DeserializeOwned>(variable_name: &str, what: &str) -> Result<T, Failure> {
    let path = PathBuf::from(variable(variable_name)?);
    let file = File::open(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_reader(BufReader::new(file))
        .map_err(|error| format!("{what} ({}) cannot be used: {error}", path.display()).into())
}
