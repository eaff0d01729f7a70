//! `orca why`: what keeps a task from running, as dispatch sees it.

use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::why::{Condition, ConditionKind, Why};

use crate::error::{Exit, Failure};
use crate::output::{Output, Style, count, escape};

/// Say why a task is not running, or not over
///
/// The answer in one sentence, then each condition that dispatch decides by, with its facts.
///
/// Examples:
///   orca why TASK
///   orca why TASK -o json | jq '.conditions[] | select(.blocks)'
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct WhyArgs {
    /// The task
    #[arg(value_parser = super::id::<TaskId>)]
    id: TaskId,
}

impl WhyArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let why = client.why(self.id).await.map_err(|error| Failure::about(error, "task", self.id))?;
        if output.is_json() {
            output.json(&why)?;
        } else {
            print(&why, output)?;
        }
        Ok(Exit::Done)
    }
}

fn print(why: &Why, output: Output) -> Result<(), Failure> {
    output.line(&format!("{}: {}", output.state(why.state), escape::line(&why.summary)))?;
    // That it has ended is the sentence itself, and blocks nothing.
    let conditions: Vec<&Condition> =
        why.conditions.iter().filter(|condition| condition.kind != ConditionKind::Ended).collect();
    let widest = conditions.iter().map(|condition| condition.kind.as_str().len()).max().unwrap_or(0);
    if !conditions.is_empty() {
        output.line("")?;
    }
    for condition in conditions {
        let kind = condition.kind.as_str().replace('_', " ");
        let kind = output.paint(Style::Faint, &format!("{kind:<widest$}"));
        output.line(&format!(
            "  {}  {kind}  {}",
            mark(condition, output),
            escape::line(&condition.message)
        ))?;
    }
    if why.ahead.is_none() && why.eligible_nodes.is_empty() {
        return Ok(());
    }
    output.line("")?;
    if let Some(ahead) = why.ahead {
        output.line(&format!(
            "{} {} ahead of it",
            count(ahead),
            if ahead == 1 { "task" } else { "tasks" }
        ))?;
    }
    if !why.eligible_nodes.is_empty() {
        let nodes = why.eligible_nodes.join(", ");
        output.line(&format!("nodes that could take it: {}", escape::line(&nodes)))?;
    }
    Ok(())
}

/// Whether it blocks: a sign on a terminal, a word for everything else.
fn mark(condition: &Condition, output: Output) -> String {
    match (condition.blocks, output.is_terminal()) {
        (true, true) => output.paint(Style::Bad, "✗"),
        (false, true) => output.paint(Style::Good, "✓"),
        (true, false) => "blocks".to_owned(),
        (false, false) => "ok    ".to_owned(),
    }
}
