//! `orca signal`: a word to one task.

use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::signal::Signal;
use orca_proto::task::Task;
use serde_json::Value;

use super::json_argument;
use crate::error::{Exit, Failure};
use crate::output::{Output, escape};

/// Send a task a signal that it waits for, or will
///
/// The first signal of a name stands until the task ends; sending the same again is harmless.
///
/// Examples:
///   orca signal TASK go
///   orca signal TASK payment '{"order": 17}'
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct SignalArgs {
    /// The task
    #[arg(value_parser = super::id::<TaskId>)]
    id: TaskId,
    /// The signal's name
    name: String,
    /// What goes with it: JSON, @FILE that holds JSON, or - for JSON from standard input; at most 64 KiB
    #[arg(value_name = "JSON")]
    payload: Option<String>,
}

/// What the task waits for all the same: a name that was mistyped is one that it does not wait for.
fn still_waits(task: &Task, name: &str) -> Option<String> {
    let waits_for = &task.summary.waits_for;
    if task.summary.state.is_terminal() || waits_for.is_empty() {
        return None;
    }
    let waits = waits_for.join(", ");
    let awaited = task.spec.wait_for.iter().any(|wait| wait.signal == name);
    Some(if awaited {
        format!("it still waits for {waits}")
    } else {
        format!("it waits for {waits}, not for {name}")
    })
}

impl SignalArgs {
    /// Does it. What was given is checked before anything is sent.
    pub(crate) async fn run(
        self,
        client: impl FnOnce() -> Result<Client, Failure>,
        output: Output,
    ) -> Result<Exit, Failure> {
        let payload = match &self.payload {
            Some(text) => json_argument::read(text, "the payload", limits::SIGNAL)?,
            None => Value::Null,
        };
        let signal = Signal { name: self.name, payload };
        let mut errors = Vec::new();
        signal.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Failure::invalid("the signal is not valid").fields(errors));
        }
        let client = client()?;
        let sent = client.signal(self.id, &signal).await;
        sent.map_err(|error| Failure::about(error, "task", self.id))?;
        if output.is_json() {
            output.json(&serde_json::json!({}))?;
        } else {
            // The signal is there; what cannot be had now is no failure.
            let still = client.task(self.id).await.ok().and_then(|task| still_waits(&task, &signal.name));
            let still = still.map_or_else(String::new, |still| format!("; {}", escape::line(&still)));
            output.remark(&format!("{} has signal {}{still}", self.id, signal.name));
        }
        Ok(Exit::Done)
    }
}
