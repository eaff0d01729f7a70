//! The verbs with which a task's program talks to its node. They need no agent process: only the directory's socket and
//! token, so they work from any process of the container, and for any user that may read them.

mod get;
mod plan;
mod progress;
mod put;
mod result;
mod secret;
mod show;
mod signal;
mod source;
mod spawn;

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use clap::Subcommand;
use hyper::Method;
use orca_proto::agent::files;
use orca_proto::problem::Problem;
use tokio::time::{Instant, sleep};

use crate::attempt_dir::AttemptDir;
use crate::node_client::{CallError, NodeClient};

/// How long to go on when the node does not answer: it may be starting again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one call may take; a plan is relayed to the coordinator before it is answered.
const CALL: Duration = Duration::from_secs(120);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a program may ask of its node.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Say how far the task is
    Progress(progress::Progress),
    /// Set the task's result; the last one counts
    Result(result::SetResult),
    /// Set the plan of a planner's task; the last one counts
    Plan(plan::SetPlan),
    /// Enqueue tasks under this one; prints their ids
    Spawn(spawn::Spawn),
    /// Wait for a signal to this task; prints what came with it as JSON
    Signal(signal::Signal),
    /// Keep a file as an artifact; prints it as JSON
    Put(put::Put),
    /// Fetch an artifact of this task's inputs or dependencies
    Get(get::Get),
    /// Print one of the task's secrets
    Secret(secret::Secret),
    /// Print the dependencies and their results as JSON
    Dependencies,
    /// Print the task's input as JSON
    Input,
}

/// Why a verb was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerbError {
    /// The node or the coordinator said no.
    #[error("{}", told(.0))]
    Refused(Box<Problem>),
    /// What was given makes no sense, or cannot be read.
    #[error("{0}")]
    Usage(String),
    /// No node.
    #[error("{0}; is this inside a task?")]
    NoNode(String),
    /// What was waited for did not come.
    #[error("{0}")]
    TimedOut(String),
}

impl VerbError {
    /// As `main` documents them.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::NoNode(_) | Self::TimedOut(_) => 3,
        }
    }
}

impl From<CallError> for VerbError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(problem) => Self::Refused(problem),
            other => Self::NoNode(other.to_string()),
        }
    }
}

/// The detail, and every field that the detail does not already name.
fn told(problem: &Problem) -> String {
    let mut text = problem.to_string();
    if problem.errors.len() > 1 {
        for error in &problem.errors {
            text.push_str(&format!("\n  {} {}", error.pointer, error.detail));
        }
    }
    text
}

impl Verb {
    /// Does it.
    ///
    /// # Errors
    /// [`VerbError`].
    pub(crate) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        match self {
            Self::Progress(verb) => verb.run(dir).await,
            Self::Result(verb) => verb.run(dir).await,
            Self::Plan(verb) => verb.run(dir).await,
            Self::Spawn(verb) => verb.run(dir).await,
            Self::Signal(verb) => verb.run(dir).await,
            Self::Put(verb) => verb.run(dir).await,
            Self::Get(verb) => verb.run(dir).await,
            Self::Secret(verb) => verb.run(dir).await,
            Self::Dependencies => show::dependencies(dir),
            Self::Input => show::input(dir),
        }
    }
}

fn node(dir: &AttemptDir) -> Result<NodeClient, VerbError> {
    let token = dir.token().map_err(|error| {
        VerbError::NoNode(format!("cannot read {}: {error}", dir.path(files::TOKEN).display()))
    })?;
    Ok(NodeClient::new(dir, token))
}

/// Sends `body` until the node has answered, for at most [`PATIENCE`] of silence. Only for calls that may be repeated.
async fn call(dir: &AttemptDir, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, VerbError> {
    let node = node(dir)?;
    let body = Bytes::from(body);
    let end = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        match node.call(method.clone(), path, body.clone(), CALL).await {
            Err(error) if may_pass(&error) && Instant::now() + pause < end => sleep(pause).await,
            answer => return Ok(answer?),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A program is better told of a missing route or a wrong token at once.
fn may_pass(error: &CallError) -> bool {
    match error {
        CallError::Refused(problem) => matches!(problem.status, 429 | 502 | 503 | 504),
        other => other.is_passing(),
    }
}

fn print(bytes: &[u8]) -> Result<(), VerbError> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| match bytes.last() {
        Some(b'\n') => Ok(()),
        _ => out.write_all(b"\n"),
    });
    written
        .and_then(|()| out.flush())
        .map_err(|error| VerbError::Usage(format!("cannot write the answer: {error}")))
}
