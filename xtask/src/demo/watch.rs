//! Following a goal to its end: a progress bar on a terminal, plain lines elsewhere; and what went wrong, if it did.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::log::LogQuery;
use orca_proto::task::{State, Task, TaskFilter, TaskSummary};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// A survey that takes longer than this is taken as stuck.
const LIMIT: Duration = Duration::from_secs(4 * 3_600);
/// Looks in vain (no answer at all) before giving up.
const VAIN: u32 = 40;
/// Log lines shown of a failed task.
const LINES: usize = 20;

/// Follows the goal until it has ended. `alive` is asked at every look whether the system still runs.
///
/// # Errors
/// If the goal ends otherwise than `succeeded` (with the reason and the last log lines of what failed), or the system
/// goes away.
pub(crate) async fn follow(
    client: &Client,
    goal: TaskId,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<Task> {
    let shown = Shown::new();
    let deadline = Instant::now() + LIMIT;
    let mut vain = 0;
    loop {
        alive()?;
        match client.task(goal).await {
            Ok(task) if task.summary.state.is_terminal() => {
                shown.finish();
                return match task.summary.state {
                    State::Succeeded => Ok(task),
                    state => bail!("the goal ended as {state}{}", explain(client, &task).await),
                };
            }
            Ok(task) => {
                vain = 0;
                shown.update(&task.summary, &running(client, goal).await);
            }
            Err(error) if error.is_transient() && vain < VAIN => vain += 1,
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            bail!("the goal had not ended after {} s", LIMIT.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The tasks of the goal that run now; none where the answer does not come, for the display only.
async fn running(client: &Client, goal: TaskId) -> Vec<TaskSummary> {
    let filter = TaskFilter {
        parent: Some(goal),
        state: Some("running".into()),
        limit: Some(20),
        ..TaskFilter::default()
    };
    client.tasks(&filter).await.map(|page| page.items).unwrap_or_default()
}

/// Progress on the terminal.
struct Shown {
    bar: ProgressBar,
    plain: bool,
    last: std::cell::RefCell<String>,
}

impl Shown {
    fn new() -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} tasks  {wide_msg}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, plain, last: std::cell::RefCell::default() }
    }

    fn update(&self, goal: &TaskSummary, running: &[TaskSummary]) {
        let all: i64 = goal.children.values().sum();
        let ended: i64 =
            goal.children.iter().filter(|(state, _)| state.is_terminal()).map(|(_, count)| count).sum();
        self.bar.set_length(u64::try_from(all).unwrap_or(0));
        self.bar.set_position(u64::try_from(ended).unwrap_or(0));
        let message = if goal.children.is_empty() {
            format!("the planner is {}", goal.state)
        } else {
            running.iter().map(named).collect::<Vec<_>>().join(", ")
        };
        self.bar.set_message(message.clone());
        if self.plain {
            let line = if all == 0 { message } else { format!("{ended} of {all} tasks have ended") };
            if *self.last.borrow() != line {
                println!("  {line}");
                *self.last.borrow_mut() = line;
            }
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn named(task: &TaskSummary) -> String {
    let name = printable(&task.name);
    match task.progress.as_ref().and_then(|progress| progress.percent) {
        Some(percent) => format!("{name} {percent:.0} %"),
        None => name,
    }
}

/// What a failed goal died of: every task under it that did not succeed by itself, or the goal alone.
async fn explain(client: &Client, goal: &Task) -> String {
    let mut text = match &goal.summary.reason {
        Some(reason) => format!(": {}", printable(reason)),
        None => String::new(),
    };
    let filter = TaskFilter {
        parent: Some(goal.summary.id),
        state: Some("failed,expired".into()),
        limit: Some(3),
        ..TaskFilter::default()
    };
    let failed = client.tasks(&filter).await.map(|page| page.items).unwrap_or_default();
    let culprits = if failed.is_empty() { vec![goal.summary.clone()] } else { failed };
    for task in culprits {
        let reason = task.reason.as_deref().map(printable).unwrap_or_default();
        text.push_str(&format!("\n  task {} ({}): {reason}", printable(&task.name), task.state));
        if let Some(outcome) = &task.outcome
            && let Ok(outcome) = serde_json::to_string(outcome)
        {
            text.push_str(&format!("\n    outcome: {}", printable(&outcome)));
        }
        for line in last_lines(client, task.id).await {
            text.push_str(&format!("\n    | {}", printable(&line)));
        }
    }
    text
}

async fn last_lines(client: &Client, task: TaskId) -> VecDeque<String> {
    let mut lines = VecDeque::new();
    let mut query = LogQuery::default();
    // Bounded, should the log be endless.
    for _ in 0..1_000 {
        let Ok(page) = client.logs(task, &query).await else { break };
        for entry in page.items {
            lines.push_back(entry.text);
            if lines.len() > LINES {
                lines.pop_front();
            }
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    lines
}

/// Text from elsewhere, with everything that could drive a terminal escaped.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let escaped = char.is_control();
            let plain = (!escaped).then_some(char);
            escaped.then(|| char.escape_default()).into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_drive_the_terminal() {
        assert_eq!(printable("größe \x1b[2J\n"), "größe \\u{1b}[2J\\n");
    }
}
